"""Pairs of views: their distributions, their parts against torchvision, and that a generator decides them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from paperworks.data.augment import OPERATIONS, RECIPES, RandAugment, TwoViews, ViewRecipe, WeakStrong
from paperworks.data.augment.colour import recolour
from paperworks.data.augment.two_views import (
    crop_matrix,
    draw_jitter,
    jitter_in_steps,
    jitter_matrix,
)


def raw(count: int = 16, channels: int = 3, side: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def every_pair(channels: int):
    yield from (TwoViews(20, recipe=name) for name in RECIPES)  # pyright: ignore
    yield TwoViews(20, recipe="byol", hue="hsv")
    yield WeakStrong(20)
    yield WeakStrong(20, strong=RandAugment(tuple(OPERATIONS), final_cutout=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_generators_decide_and_bytes_equal_floats(channels):
    images = raw(channels=channels)
    for views in every_pair(channels):
        first, second = views(images, generator=seeded())
        again = views(images / 255, generator=seeded())
        other = views(images, generator=seeded(1))
        assert first.shape == second.shape == images.shape
        assert first.dtype == torch.float32
        assert torch.equal(first, again[0])
        assert torch.equal(second, again[1])
        assert not torch.equal(first, other[0])
        assert not torch.equal(first, second)
        assert first.min() >= 0
        assert second.max() <= 1


def test_global_generator_is_left_alone():
    state = torch.get_rng_state()
    for views in every_pair(3):
        views(raw(), generator=seeded())
    assert torch.equal(state, torch.get_rng_state())


def test_given_images_are_not_changed():
    images = raw() / 255
    before = images.clone()
    for views in every_pair(3):
        views(images, generator=seeded())
    assert torch.equal(images, before)


def test_crops_are_distributed_as_torchvisions():
    """Areas, aspects and places of a wide image, where many draws do not fit, by Kolmogorov and Smirnov."""
    v1 = pytest.importorskip("torchvision.transforms")
    from scipy.stats import ks_2samp

    recipe = ViewRecipe(flip=0.0)
    image = torch.zeros(1, 400, 700)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.tensor([
            v1.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)
        ]).double()  # fmt: skip
    move = crop_matrix(image.expand(3000, 1, 400, 700), (10, 20), recipe, generator=seeded()).double()
    wide, tall, x, y = move[:, 0, 0] * 20, move[:, 1, 1] * 10, move[:, 0, 2], move[:, 1, 2]
    top, left, height, width = theirs.unbind(1)
    for ours, expected in (
        (wide * tall, width * height),
        (wide / tall, width / height),
        (x + 350 - wide / 2, left),
        (y + 200 - tall / 2, top),
    ):
        assert ks_2samp(ours.numpy(), expected.numpy()).pvalue > 0.01


def test_impossible_crops_fall_back_to_the_middle():
    recipe = ViewRecipe(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)
    move = crop_matrix(torch.zeros(2, 1, 10, 30), (5, 5), recipe, generator=seeded())
    torch.testing.assert_close(move, torch.tensor([[2.0, 0, 0], [0, 2.0, 0]]).expand(2, 2, 3))


def test_crop_equals_torchvision_interpolation():
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    images = raw(side=24) / 255
    whole = ViewRecipe(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)
    ours = TwoViews(15, recipe=(whole, whole))(images, generator=seeded())[0]
    expected = functional.resize(images, [15, 15], antialias=False)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-2)


def test_flips_and_solarisation_happen_as_often_as_they_should():
    ramp = torch.linspace(0, 1, 16).expand(4000, 1, 4, 16)
    still = ViewRecipe(area=(1.0, 1.0), aspect=(4.0, 4.0), flip=0.5)
    first, second = TwoViews((4, 16), recipe=(still, replace(still, flip=0.0, solarize=0.2)))(ramp, generator=seeded())
    assert (first[:, 0, 0, 0] > 0.5).float().mean() == pytest.approx(0.5, abs=0.03)
    solarised = second[:, 0, 0, -1] < 0.5
    assert solarised.float().mean() == pytest.approx(0.2, abs=0.03)
    expected = torch.where(ramp[0, 0, 0] < 0.5, ramp[0, 0, 0], 1 - ramp[0, 0, 0])
    torch.testing.assert_close(second[solarised][0, 0, 0], expected, rtol=0, atol=1e-5)


def test_byol_views_differ_as_published():
    """The first is always blurred, the second rarely, and only the second is solarised."""
    first, second = RECIPES["byol"]
    assert (first.blur_chance, second.blur_chance) == (1.0, 0.1)
    assert (first.solarize, second.solarize) == (0.0, 0.2)
    assert first.jitter == second.jitter == (0.4, 0.4, 0.2, 0.1)
    images = raw(512, 1, 16)
    crops = replace(first, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, jitter=(0, 0, 0, 0), grey=0.0)
    sharp, soft = TwoViews(16, recipe=(replace(crops, blur_chance=0.1), crops))(images, generator=seeded())
    unchanged = (sharp - images / 255).abs().amax((1, 2, 3)) < 1e-5
    assert unchanged.float().mean() == pytest.approx(0.9, abs=0.04)
    assert soft.std() < 0.7 * sharp.std()


@pytest.mark.parametrize("hue", ["matrix", "steps"])
def test_jitter_is_torchvisions_in_the_same_order(hue):
    """Where nothing clamps. Without hue the merged matrix is the same function; with it the steps are."""
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    images = raw(24) / 255 * 0.3 + 0.3
    recipe = ViewRecipe(jitter=(0.2, 0.2, 0.2, 0.1 if hue == "steps" else 0.0), jitter_chance=1.0)
    amounts, order = draw_jitter(images, recipe, generator=seeded())
    ours = jitter_in_steps(images, amounts, order) if hue == "steps" else recolour(
        images, jitter_matrix(images, amounts, order)
    )  # fmt: skip
    change = [functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation,
              functional.adjust_hue]  # fmt: skip
    assert len({tuple(row) for row in order.tolist()}) > 4
    for image, amount, slots, result in zip(images, amounts, order.tolist(), ours, strict=True):
        for part in slots:
            image = change[part](image, float(amount[part]))
        torch.testing.assert_close(result, image, rtol=0, atol=2e-3)


def test_jitter_is_spread_and_skipped_as_it_should():
    recipe = ViewRecipe(jitter=(0.4, 0.4, 0.2, 0.1), jitter_chance=0.8)
    amounts, order = draw_jitter(torch.zeros(5000, 3, 1, 1), recipe, generator=seeded())
    touched = (amounts != torch.tensor([1.0, 1.0, 1.0, 0.0])).all(1)
    assert touched.float().mean() == pytest.approx(0.8, abs=0.02)
    torch.testing.assert_close(amounts.amin(0), torch.tensor([0.6, 0.6, 0.8, -0.1]), rtol=0, atol=3e-3)
    torch.testing.assert_close(amounts.amax(0), torch.tensor([1.4, 1.4, 1.2, 0.1]), rtol=0, atol=3e-3)
    assert (order == 3).float().mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_grey_images_stay_on_their_one_channel_and_colour_drops_do_nothing():
    recipe = ViewRecipe(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, jitter=(0, 0, 0.4, 0.1), grey=1.0)
    images = raw(channels=1)
    view, _ = TwoViews(20, recipe=(recipe, recipe))(images, generator=seeded())
    torch.testing.assert_close(view, images / 255, rtol=0, atol=1e-5)
    colour, _ = TwoViews(20, recipe=(recipe, recipe))(raw(), generator=seeded())
    torch.testing.assert_close(colour[:, 0], colour[:, 2], rtol=0, atol=1e-5)


def test_glyph_views_do_not_mirror_and_bring_in_paper():
    assert all(recipe.flip == 0 and recipe.fill == 0 for recipe in RECIPES["glyph"])
    ink = torch.ones(64, 1, 20, 20)
    turned = ViewRecipe(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, rotation=0.35, fill=0.0)
    view, _ = TwoViews(20, recipe=(turned, turned))(ink, generator=seeded())
    assert ((view == 0) | ((view - 1).abs() < 1e-5)).all()
    assert 0.5 < view.mean() < 0.98


# Weak and strong


def test_weak_views_are_shifts_of_up_to_an_eighth():
    images = raw(400, 1, 16)
    weak, _ = WeakStrong(16, weak="shift")(images, generator=seeded())
    padded = torch.nn.functional.pad(images / 255, (2, 2, 2, 2), mode="reflect")
    seen = torch.zeros(5, 5)
    for image, view in zip(padded, weak, strict=True):
        found = [
            (y, x) for y in range(5) for x in range(5)
            if torch.allclose(image[:, y : y + 16, x : x + 16], view, atol=1e-4)
        ]  # fmt: skip
        assert len(found) == 1
        seen[found[0]] += 1
    assert seen.min() >= 4  # of 16 expected at each place


def test_half_of_the_weak_views_are_mirrored_unless_forbidden():
    ramp = torch.linspace(0.2, 0.8, 16).expand(2000, 1, 16, 16)
    for weak, share in (("shift_mirror", 0.5), ("shift", 0.0)):
        for view in WeakStrong(16, weak=weak, strong=RandAugment(("identity",)))(ramp, generator=seeded()):  # pyright: ignore
            mirrored = view[:, 0, 8, 4] > view[:, 0, 8, 11]
            assert mirrored.float().mean() == pytest.approx(share, abs=0.04)


def test_the_views_shifts_are_independent():
    images = raw(500, 1, 16)
    weak, strong = WeakStrong(16, strong=RandAugment(("identity",)))(images, generator=seeded())
    same = (weak - strong).abs().amax((1, 2, 3)) < 1e-4
    assert same.float().mean() == pytest.approx(1 / 50, abs=0.02)


def test_cutout_strong_view_has_one_grey_square_of_half_the_side():
    images = torch.zeros(300, 3, 16, 16)
    _, strong = WeakStrong(16, fill=0.25)(images, generator=seeded())
    holes = (strong == 0.25).all(1).sum((1, 2))
    assert holes.max() == 64
    assert holes.min() >= 16


def test_rand_augment_magnitude_sets_levels():
    images = torch.rand(600, 3, 8, 8)
    augment = RandAugment(("rotate", "posterize", "color"), depth=2, magnitude=0.6)
    chosen, levels = augment.sample(images, generator=seeded())
    assert levels[..., 0][chosen == 0].unique().tolist() == pytest.approx([0.2, 0.8])
    assert levels[..., 0][chosen == 1].unique().tolist() == pytest.approx([0.4])
    assert levels[..., 0][chosen == 2].unique().tolist() == pytest.approx([0.6])
    assert chosen.flatten().bincount().tolist() == pytest.approx([400] * 3, abs=60)
    free = RandAugment(("rotate",)).sample(images, generator=seeded())[1][..., 0]
    assert free.mean() == pytest.approx(0.5, abs=0.03)
    assert free.var() == pytest.approx(1 / 12, abs=0.01)


@pytest.mark.parametrize(("make", "match"), [
    (lambda: TwoViews(20, recipe="simclr"), "recipe: expected byol"),  # pyright: ignore
    (lambda: TwoViews(0), "image_size"),
    (lambda: TwoViews(20, hue="lab"), "hue"),  # pyright: ignore
    (lambda: ViewRecipe(area=(0.0, 1.0)), "area"),
    (lambda: ViewRecipe(flip=1.5), "flip"),
    (lambda: ViewRecipe(jitter=(0.4, 0.4, 0.4, 0.7)), "jitter"),
    (lambda: WeakStrong(20, weak="flip"), "weak"),  # pyright: ignore
    (lambda: WeakStrong(20, strong="hard"), "strong"),  # pyright: ignore
    (lambda: WeakStrong(20, fill=127), "fill"),
    (lambda: WeakStrong(16)(raw()), r"expected \(batch, channels, 16, 16\)"),
    (lambda: RandAugment(("spin",)), "spin"),
    (lambda: RandAugment(depth=0), "depth"),
    (lambda: RandAugment(magnitude=9), "magnitude"),
])  # fmt: skip
def test_bad_options_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()
