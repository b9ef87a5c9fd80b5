"""The 19 operations against PIL at the centres of their bins, and the colour matrices against torchvision."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from paperworks.data.augment import OPERATIONS, cutout, gaussian_blur, recolour
from paperworks.data.augment import colour as colours
from paperworks.data.augment.geometry import FILTERS
from paperworks.data.augment.operations import translate_x
from paperworks.data.augment.pipeline import apply_operations

ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}
BLENDS = {
    "autocontrast": ImageOps.autocontrast,
    "blur": lambda image: image.filter(ImageFilter.BLUR),
    "equalize": ImageOps.equalize,
    "invert": ImageOps.invert,
    "smooth": lambda image: image.filter(ImageFilter.SMOOTH),
}


@cache
def photos() -> torch.Tensor:
    """Eight parts of two photographs, 32 x 32, uint8."""
    # Read as files: importing scikit-learn for two pictures takes longer than all the tests here.
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    parts = []
    for name in ("china.jpg", "flower.jpg"):
        image = Image.open(Path(spec.origin).parent / "datasets" / "images" / name)
        for left, top in ((0, 0), (200, 100), (300, 150), (60, 200)):
            part = image.crop((left, top, left + 192, top + 192)).resize((32, 32), Image.Resampling.BOX)
            parts.append(np.asarray(part))
    return torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).contiguous()


def as_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def by_pil(name: str, image: Image.Image, level: float, resample: Image.Resampling) -> Image.Image:
    """What the published code computes, except for the angles' rounding and the unit of the translation."""
    signed = 2 * level - 1
    size = image.size
    if name in ENHANCERS:
        return ENHANCERS[name](image).enhance(0.1 + 1.9 * level)
    if name in BLENDS:
        return Image.blend(image, BLENDS[name](image), level)
    match name:
        case "identity":
            return image
        case "posterize":
            return ImageOps.posterize(image, 1 + int(level * 7.999))
        case "solarize":
            return ImageOps.solarize(image, int(level * 255.999))
        case "rotate":
            return image.rotate(signed * 45, resample, fillcolor=(128, 128, 128))
    matrix = {
        "shear_x": (1, 0.3 * signed, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.3 * signed, 1, 0),
        "translate_x": (1, 0, 0.3 * signed * size[0], 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, 0.3 * signed * size[1]),
    }[name]
    return image.transform(size, Image.Transform.AFFINE, matrix, resample, fillcolor=(128, 128, 128))


def differences(ours: torch.Tensor, theirs: list[Image.Image]) -> torch.Tensor:
    """Mean absolute difference of each image, in units of 1 / 255."""
    expected = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in theirs])
    return (ours * 255 - expected).abs().mean((1, 2, 3))


def centres(bins: int) -> list[float]:
    return [(index + 0.5) / bins for index in range(bins)]


def at(level: float) -> torch.Tensor:
    return torch.full((len(photos()),), level)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"cutout", "rescale"}))
def test_operation_equals_pil_at_bin_centres(name):
    operation = OPERATIONS[name]
    for level in centres(operation.bins[0] if operation.bins else 1):
        ours = operation.apply(photos() / 255, at(level), fill=128 / 255)
        smooth, sharp = (
            differences(ours, [by_pil(name, as_pil(image), level, resample) for image in photos()])
            for resample in (Image.Resampling.BILINEAR, Image.Resampling.NEAREST)
        )
        assert smooth.max() < (1.0 if operation.kind == "geometry" else 2.0), level
        # PIL's default, the nearest pixel, is up to half a pixel off; that is what the published code uses.
        assert sharp.mean() < (6.0 if operation.kind == "geometry" else 2.0), level


@pytest.mark.parametrize("method", FILTERS)
def test_rescale_equals_pil_with_every_filter(method):
    index, count = FILTERS.index(method), len(photos())
    chosen = torch.full((count, 1), list(OPERATIONS).index("rescale"))
    for level in centres(17):
        levels = torch.tensor([level, (index + 0.5) / 6]).expand(count, 1, 2)
        ours = apply_operations(photos() / 255, chosen, levels)
        cut = 0.25 * level * 32
        box = (cut, cut, 32 - cut, 32 - cut)
        resample = Image.Resampling[method.upper()]
        theirs = [as_pil(image).resize((32, 32), resample, box=box) for image in photos()]
        # Lanczos is stood in for by the cubic filter.
        assert differences(ours, theirs).max() < {"lanczos": 3.0, "bicubic": 2.0}.get(method, 1.0), level


def test_cutout_is_the_published_square():
    """At the same centre: `size // 2` to each side, clipped."""
    image = torch.zeros(1, 3, 32, 32)
    for level in centres(17):
        for column, row in ((0, 0), (3, 30), (16, 16), (31, 31)):
            size = 1 + int(level * 32 * 0.499)
            expected = np.zeros((32, 32), bool)
            for i in range(max(0, column - size // 2), min(32, column + size // 2)):
                for j in range(max(0, row - size // 2), min(32, row + size // 2)):
                    expected[j, i] = True
            centre = torch.tensor([[(column + 0.5) / 32, (row + 0.5) / 32]])
            ours = cutout(image, torch.tensor([level]), centre, fill=0.25)
            assert np.array_equal(ours[0, 1].numpy() == 0.25, expected)


def test_cutout_falls_everywhere():
    generator = torch.Generator().manual_seed(0)
    holes = OPERATIONS["cutout"].function(torch.zeros(4000, 1, 8, 8), torch.ones(4000), generator=generator) == 0.5
    share = holes.float().mean((0, 1))
    # A pixel is covered when the centre lies within two pixels of it: 4 x 4 of 64 places, fewer at the border.
    assert share[4, 4] == pytest.approx(16 / 64, abs=0.03)
    assert share[0, 0] == pytest.approx(9 / 64, abs=0.03)
    assert share[7, 7] == pytest.approx(4 / 64, abs=0.02)


def test_strong_levels_change_and_neutral_levels_do_not():
    images = photos() / 255
    for operation in OPERATIONS.values():
        strongest = {"falling": 0.0, "none": 0.5}.get(operation.strength, 1.0)
        neutral = {"two-sided": 0.5, "falling": 1.0, "rising": 0.0}.get(operation.strength, 0.5)
        if operation.name in ENHANCERS:
            neutral = 0.9 / 1.9
        changed = (operation.apply(images, at(strongest)) - images).abs().mean()
        kept = (operation.apply(images, at(neutral)) - images).abs().mean()
        assert (changed > 0.01) == (operation.name != "identity"), operation.name
        assert kept < 1e-5, operation.name


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"cutout"}))
def test_grey_images_are_treated_as_colour_images_without_colour(name):
    grey = (photos()[:, :1] / 255).contiguous()
    for level in (0.1, 0.5, 0.8):
        narrow = OPERATIONS[name].apply(grey, at(level))
        wide = OPERATIONS[name].apply(grey.expand(-1, 3, -1, -1).contiguous(), at(level))
        torch.testing.assert_close(narrow.expand_as(wide), wide, rtol=0, atol=2e-6)


def test_published_translation_moves_by_less_than_a_pixel():
    matrix = translate_x(photos() / 255, at(1.0), unit="pixel")
    assert matrix[0, 0, 2] == pytest.approx(0.3)
    assert OPERATIONS["translate_x"](photos() / 255, at(1.0))[0, 0, 2] == pytest.approx(0.3 * 32)


@pytest.mark.parametrize(("ours", "theirs"), [
    (colours.brightness, "adjust_brightness"),
    (colours.saturation, "adjust_saturation"),
    (None, "adjust_contrast"),
])  # fmt: skip
def test_colour_matrices_equal_torchvision(ours, theirs):
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    images = photos() / 255 * 0.5 + 0.1
    for factor in (0.6, 0.9, 1.4):
        factors = torch.full((len(images),), factor)
        matrix = colours.contrast(factors, colours.mean_colour(images)) if ours is None else ours(factors)
        expected = getattr(functional, theirs)(images, factor)
        torch.testing.assert_close(recolour(images, matrix), expected, rtol=0, atol=2e-3)


def test_hsv_hue_equals_torchvision():
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    images = photos() / 255
    for turn in (-0.5, -0.13, 0.07, 0.31):
        ours = colours.hsv_hue(images, torch.full((len(images),), turn))
        torch.testing.assert_close(ours, functional.adjust_hue(images, turn), rtol=0, atol=2e-3)


def test_yiq_hue_keeps_luma_and_grey_and_composes_by_angles():
    turns = torch.tensor([0.1, -0.2, 0.35], dtype=torch.float64)
    matrix = colours.hue(turns)
    luma = torch.tensor(colours.GREY, dtype=torch.float64)
    torch.testing.assert_close(luma @ matrix[:, :, :3], luma.expand(3, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(3, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    twice = colours.compose_colour(matrix, matrix)
    torch.testing.assert_close(twice, colours.hue(2 * turns), rtol=0, atol=1e-12)
    assert (matrix - colours.unchanged(turns)).abs().amax((1, 2)).min() > 0.1


@pytest.mark.parametrize("side", [20, 72])
def test_gaussian_blur_equals_scipy(side):
    """Both ways to compute it: by a band matrix up to 64 pixels, by taps above."""
    from scipy.ndimage import gaussian_filter

    images = torch.rand(3, 2 + 1, side, side + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = torch.tensor([0.4, 1.0, 1.9], dtype=torch.float64)
    ours = gaussian_blur(images, sigma)
    for image, blurred, width in zip(images.numpy(), ours.numpy(), sigma.tolist(), strict=True):
        for channel in range(3):
            # scipy's "mirror" does not repeat the edge either; its radius is cut to ours.
            expected = gaussian_filter(image[channel], width, mode="mirror", radius=6)
            np.testing.assert_allclose(blurred[channel], expected, atol=1e-12 if width > 0.5 else 1e-9)


def test_gaussian_blur_of_zero_width_changes_nothing():
    images = photos() / 255
    sigma = torch.linspace(0, 1, len(images))
    torch.testing.assert_close(gaussian_blur(images, sigma)[0], images[0])
    assert not torch.allclose(gaussian_blur(images, sigma)[1:], images[1:], atol=1e-3)


@pytest.mark.parametrize(("images", "level", "match"), [
    (torch.rand(2, 4, 8, 8), torch.rand(2), "1 or 3 channels"),
    (torch.rand(2, 3, 8, 8), torch.rand(3), "one for each image"),
    (torch.rand(2, 3, 8, 8), torch.tensor([0.0, 1.5]), r"values in \[0, 1\]"),
])  # fmt: skip
def test_bad_input_is_named(images, level, match):
    with pytest.raises(ValueError, match=match):
        OPERATIONS["rotate"](images, level)


def test_recolour_and_blur_refuse_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"expected \(8, 3, 4\)"):
        recolour(photos() / 255, torch.zeros(1, 3, 4))
    with pytest.raises(ValueError, match="sigma"):
        gaussian_blur(photos() / 255, torch.ones(2))
