"""Matrices, one interpolation for several moves, and what holds for every image whatever its neighbours."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from paperworks.data.augment import OPERATIONS, apply_operations, as_float, compose, warp
from paperworks.data.augment.geometry import affine, mirror, rotation, scaling, shift_pixels, translation

NAMES = list(OPERATIONS)
GEOMETRIC = [name for name, operation in OPERATIONS.items() if operation.kind == "geometry"]
UNIT = st.floats(0, 1)


def smooth(count: int = 4, channels: int = 3, height: int = 24, width: int = 32) -> Tensor:
    """Images without detail, on which interpolating twice or once is nearly the same."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    phase = torch.arange(count * channels).view(count, channels, 1, 1)
    return 0.5 + 0.4 * torch.sin(x + 0.7 * phase) * torch.cos(y - 0.3 * phase)


def full(value: float, count: int = 4) -> Tensor:
    return torch.full((count,), value)


def test_identity_is_exact_for_every_padding():
    images = torch.rand(3, 3, 7, 10)
    still = affine([[1, 0, 0], [0, 1, 0]], images[:, 0, 0, 0])
    for padding in ("fill", "edge", "reflect"):
        torch.testing.assert_close(warp(images, still, padding=padding), images, rtol=0, atol=1e-5)


def test_mirror_is_a_flip_and_twice_nothing():
    images = torch.rand(4, 3, 9, 12)
    flags = torch.tensor([True, False, True, True])
    matrix = mirror(flags, images[:, 0, 0, 0])
    expected = torch.where(flags[:, None, None, None], images.flip(3), images)
    torch.testing.assert_close(warp(images, matrix), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(compose(matrix, matrix), affine([[1, 0, 0], [0, 1, 0]], full(0.0)))


def test_whole_pixel_shifts_reflect_without_repeating_the_edge():
    """As TensorFlow's and NumPy's reflect padding, to both sides and both axes."""
    images = torch.rand(1, 1, 6, 8)
    padded = torch.nn.functional.pad(images, (3, 3, 2, 2), mode="reflect")
    for right in range(-3, 4):
        for down in range(-2, 3):
            move = translation(full(float(right), 1), full(float(down), 1))
            expected = padded[:, :, 2 - down : 8 - down, 3 - right : 11 - right]
            torch.testing.assert_close(warp(images, move, padding="reflect"), expected, rtol=0, atol=1e-5)


def test_shifted_pixels_are_the_warp_without_interpolation():
    images = torch.randint(256, (4, 3, 6, 9), dtype=torch.uint8)
    right, down, flags = (torch.tensor(values) for values in ([-3, 0, 2, 4], [1, -2, 0, 3], [True, False, True, True]))
    moves = compose(translation(right.float(), down.float()), mirror(flags, full(0.0)))
    expected = warp(images.float(), moves, padding="reflect")
    moved = shift_pixels(images, right, down, flags)
    assert moved.dtype == torch.uint8
    torch.testing.assert_close(moved.float(), expected, rtol=0, atol=2e-3)
    thin = torch.rand(4, 1, 1, 2)
    torch.testing.assert_close(shift_pixels(thin, torch.zeros(4), down), thin)


def test_quarter_turn_is_counter_clockwise_about_the_centre():
    images = torch.rand(2, 3, 10, 10)
    turned = warp(images, rotation(full(math.pi / 2, 2)))
    torch.testing.assert_close(turned, torch.rot90(images, 1, (2, 3)), rtol=0, atol=1e-4)


def test_enlarging_is_pil_resizing_of_the_middle():
    image = torch.randint(256, (1, 1, 20, 20), dtype=torch.uint8)
    ours = warp(image / 255, scaling(full(2.0, 1), full(1.25, 1)))
    middle = Image.fromarray(image[0, 0].numpy()).resize((20, 20), Image.Resampling.BILINEAR, box=(5, 2, 15, 18))
    expected = torch.from_numpy(np.array(middle))
    inner = (slice(2, -2), slice(2, -2))  # PIL looks at nothing outside the box, we do
    assert (ours[0, 0] * 255 - expected)[inner].abs().max() < 1.6  # it rounds twice


def test_result_has_the_size_asked_for():
    images = smooth()
    shrunk = warp(images, affine([[2, 0, 0], [0, 2, 0]], full(0.0)), size=(12, 16))
    expected = torch.nn.functional.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)
    torch.testing.assert_close(shrunk, expected, rtol=0, atol=1e-5)


@given(
    st.lists(st.sampled_from(GEOMETRIC), min_size=2, max_size=3),
    st.lists(UNIT, min_size=3, max_size=3),
    st.floats(0, 1),
)
def test_composed_is_sequential_but_for_interpolation(names, levels, fill):
    """Frames and fill included: what one move pushes out does not return with the next."""
    images = smooth()
    sequential, matrices = images, []
    for name, level in zip(names, levels, strict=False):
        matrices.append(OPERATIONS[name](images, full(level)))
        sequential = warp(sequential, matrices[-1], fill=fill)
    together = warp(images, matrices, fill=fill)
    # At the frame's edge a pixel may fall to either side; elsewhere the difference is that of interpolating again.
    different = (together - sequential).abs().amax(1) > 0.03
    assert different.float().mean() < 0.12


@given(
    st.lists(st.sampled_from(GEOMETRIC), min_size=2, max_size=3),
    st.lists(st.floats(0.3, 0.7), min_size=3, max_size=3),
)
def test_one_matrix_and_several_agree_inside(names, levels):
    images = smooth().double()
    matrices = [OPERATIONS[name](images, full(level).double()) for name, level in zip(names, levels, strict=False)]
    one, several = warp(images, compose(*matrices)), warp(images, matrices)
    inner = (..., slice(10, -10), slice(13, -13))
    torch.testing.assert_close(one[inner], several[inner], rtol=0, atol=1e-9)


def test_a_list_forgets_nothing_that_left_the_frame():
    images = torch.rand(1, 1, 8, 8) * 0.5
    right, left = translation(full(3.0, 1), full(0.0, 1)), translation(full(-3.0, 1), full(0.0, 1))
    there_and_back = warp(images, [right, left], fill=1.0)
    torch.testing.assert_close(there_and_back[..., :5], images[..., :5], rtol=0, atol=1e-5)
    assert (there_and_back[..., 5:] == 1).all()
    torch.testing.assert_close(warp(images, compose(right, left)), images, rtol=0, atol=1e-5)


def test_order_of_composition():
    """Move right, then turn: the picture of a point goes where both lead."""
    images = torch.zeros(1, 1, 11, 11)
    images[0, 0, 5, 5] = 1
    first, then = translation(full(3.0, 1), full(0.0, 1)), rotation(full(math.pi / 2, 1))
    for moved in (warp(images, [first, then], fill=0.0), warp(images, compose(first, then), fill=0.0)):
        assert moved[0, 0, 2, 5] == pytest.approx(1, abs=1e-4)  # three up


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), min_size=2, max_size=5), st.integers(0, 999))
def test_an_image_does_not_depend_on_its_neighbours(pairs, seed):
    generator = torch.Generator().manual_seed(seed)
    # Places of cutouts are drawn; without them nothing is.
    chosen = torch.tensor([[NAMES.index(name if name != "cutout" else "blur") for name in pair] for pair in pairs])
    images = torch.rand(len(pairs), 3, 12, 12, generator=generator)
    levels = torch.rand(len(pairs), 2, 2, generator=generator)
    together = apply_operations(images, chosen, levels)
    for row in range(len(pairs)):
        part = slice(row, row + 1)
        alone = apply_operations(images[part], chosen[part], levels[part])
        torch.testing.assert_close(together[part], alone, rtol=0, atol=1e-5)


@given(st.sampled_from(NAMES), st.sampled_from(NAMES), UNIT, UNIT)
def test_policy_is_one_operation_after_the_other(first, second, level1, level2):
    """Interpolations that merge are compared on images without detail."""
    chosen = torch.tensor([[NAMES.index(first), NAMES.index(second)]] * 4)
    images = smooth()
    generator = torch.Generator().manual_seed(0)
    levels = torch.tensor([[level1, level2]] * 4)
    together = apply_operations(images, chosen, levels, generator=generator)
    expected = images
    generator = torch.Generator().manual_seed(0)
    for slot in range(2):
        expected = apply_operations(expected, chosen[:, slot : slot + 1], levels[:, slot : slot + 1],
                                    generator=generator)  # fmt: skip
    merged = {first, second} <= set(GEOMETRIC)
    different = (together - expected).abs().amax(1) > (0.03 if merged else 1e-5)
    assert different.float().mean() <= (0.12 if merged else 0.0)


def test_given_images_are_not_changed():
    images = torch.rand(6, 3, 8, 8)
    before = images.clone()
    apply_operations(images, torch.arange(6)[:, None], torch.rand(6, 1))
    assert torch.equal(images, before)


def test_as_float_divides_bytes_and_keeps_floats():
    raw = torch.randint(256, (2, 1, 3, 3), dtype=torch.uint8)
    assert torch.equal(as_float(raw), raw / 255)
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    assert as_float(images) is images


@pytest.mark.parametrize(("images", "match"), [
    (torch.rand(3, 8, 8), "batch, 1 or 3 channels"),
    (torch.rand(2, 2, 8, 8), "batch, 1 or 3 channels"),
    (torch.rand(2, 3, 8, 8) * 255, "divide by 255"),
    (torch.rand(2, 3, 8, 8) - 0.5, "undo the normalisation"),
    (torch.ones(2, 3, 8, 8, dtype=torch.int64), "uint8 or floats"),
])  # fmt: skip
def test_images_of_another_form_are_refused(images, match):
    with pytest.raises(ValueError, match=match):
        as_float(images)


def test_bad_moves_are_named():
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"matrix: expected \(batch, 2, 3\)"):
        warp(images, torch.zeros(3, 2, 3))
    with pytest.raises(ValueError, match="padding"):
        warp(images, torch.zeros(2, 2, 3), padding="wrap")  # pyright: ignore
    with pytest.raises(ValueError, match="at least one"):
        warp(images, [])
    with pytest.raises(ValueError, match="chosen: expected indices of 19"):
        apply_operations(images, torch.full((2, 1), 19), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="levels: expected"):
        apply_operations(images, torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"levels: expected values in \[0, 1\]"):
        apply_operations(images, torch.zeros(2, 1, dtype=torch.long), torch.full((2, 1), 1.5))
