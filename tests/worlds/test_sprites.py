"""Shapes against their areas and against counting in a fine grid; pictures against the order of their layers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.worlds import Layer, boxes_of, composite, cut_out, shape_mask
from paperworks.worlds.sprites import SHAPES

SIZE = (40, 50)
AREAS = {
    "disc": np.pi / 4,
    "ring": np.pi / 4 * 0.75,
    "square": 1.0,
    "triangle": 3**0.5 / 4,
    "bar": 0.25,
    "cross": 2 * 0.3 - 0.3**2,
}
places = st.floats(18, 22)


@pytest.mark.parametrize("kind", SHAPES)
@given(x=places, y=places, angle=st.floats(-7, 7))
def test_a_shape_covers_its_area_wherever_it_lies(kind, x, y, angle):
    mask = shape_mask(kind, (x, y), 24.0, angle, SIZE)
    assert mask.dtype == np.float32
    assert 0 <= mask.min() <= mask.max() <= 1
    assert mask.sum() == pytest.approx(AREAS[kind] * 24**2, rel=0.02)


@pytest.mark.parametrize("kind", SHAPES)
def test_edges_are_what_a_fine_grid_counts(kind):
    fine = 16
    mask = shape_mask(kind, (24.3, 19.6), 21.0, 0.4, SIZE)
    sharp = shape_mask(kind, (24.3 * fine, 19.6 * fine), 21.0 * fine, 0.4, (SIZE[0] * fine, SIZE[1] * fine))
    counted = sharp.reshape(SIZE[0], fine, SIZE[1], fine).mean((1, 3))
    assert np.abs(mask - counted).max() < 0.2
    assert np.abs(mask - counted).mean() < 0.002


def test_an_upright_square_between_pixels_is_exact():
    mask = shape_mask("square", (10.25, 5.0), 4.0, 0.0, (10, 20))
    assert mask[5].tolist()[7:14] == [0, 0.75, 1, 1, 1, 0.25, 0]
    assert mask[2, 10] == 0
    assert mask[3, 10] == 1


def test_angles_turn_clockwise_on_the_screen():
    right = shape_mask([(0, -0.1), (1, -0.1), (1, 0.1), (0, 0.1)], (20, 20), 15, 0.0, SIZE)
    down = shape_mask([(0, -0.1), (1, -0.1), (1, 0.1), (0, 0.1)], (20, 20), 15, np.pi / 2, SIZE)
    assert right[20, 30] == 1
    assert right[30, 20] == 0
    assert down[30, 20] == 1
    assert down[20, 30] == 0


def test_later_layers_hide_earlier_ones():
    background = np.full((3, *SIZE), 0.5)
    red, green = np.eye(3, dtype=np.float32)[:2]
    far = Layer(shape_mask("square", (20, 20), 10, 0, SIZE), red)
    near = Layer(shape_mask("square", (25, 20), 10, 0, SIZE), green)
    found = composite(background, [far, near])
    assert found.image.dtype == np.float32
    assert found.image[:, 20, 22].tolist() == [0, 1, 0]
    assert found.image[:, 20, 16].tolist() == [1, 0, 0]
    assert found.image[:, 5, 5].tolist() == [0.5, 0.5, 0.5]
    assert found.boxes.tolist() == [[15, 15, 20, 25], [20, 15, 30, 25]]
    assert found.visible[0, 20, 22] == 0
    hidden = composite(background, [far, Layer(np.ones(SIZE, np.float32), green)])
    assert hidden.boxes[0].tolist() == [0, 0, 0, 0]
    # The background given is left alone.
    assert (background == 0.5).all()


@given(seed=st.integers(0, 10**6))
def test_shares_of_layers_mix_the_colours(seed):
    rng = np.random.default_rng(seed)
    background = rng.random((2, 6, 7)).astype(np.float32)
    layers = [Layer(rng.random((6, 7)).astype(np.float32), rng.random((2, 6, 7)).astype(np.float32)) for _ in range(3)]
    found = composite(background, layers)
    rest = 1 - found.visible.sum(0)
    mixed = rest * background + sum(share * layer.colour for share, layer in zip(found.visible, layers, strict=True))
    np.testing.assert_allclose(found.image, mixed, atol=1e-6)


def test_a_piece_of_a_picture_keeps_its_pixels_where_it_is_not_resized():
    picture, mask = np.random.default_rng(0).random((3, 6, 8)), np.zeros((6, 8))
    mask[1:5, 2:7] = 1
    layer = cut_out(picture, mask, (14, 13), 8, 0.0, (20, 30))
    np.testing.assert_allclose(layer.colour[:, 10:16, 10:18], picture, atol=1e-6)
    np.testing.assert_allclose(layer.mask[10:16, 10:18], mask, atol=1e-6)
    assert layer.mask.sum() == pytest.approx(mask.sum(), abs=1e-4)
    turned = cut_out(picture, mask, (14, 13), 8, np.pi / 2, (20, 30))
    # A quarter clockwise: what was on the left is on top.
    np.testing.assert_allclose(turned.mask[9:17, 11:17], np.rot90(mask, -1), atol=1e-6)
    np.testing.assert_allclose(turned.colour[0, 9:17, 11:17], np.rot90(picture[0], -1), atol=1e-6)


def test_boxes_of_nothing_are_zeros():
    assert boxes_of(np.zeros((2, 3, 4), bool)).tolist() == [[0, 0, 0, 0]] * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shape_mask("star", (1, 1), 2, 0, (4, 4)), "kind: expected one of disc, ring, square"),
        (lambda: shape_mask([(0, 0), (1, 1)], (1, 1), 2, 0, (4, 4)), "kind: expected at least three corners"),
        (lambda: shape_mask("disc", (1, 1), 0, 0, (4, 4)), "centre, side, angle: expected finite"),
        (lambda: shape_mask("disc", (1, np.nan), 1, 0, (4, 4)), "centre, side, angle: expected finite"),
        (lambda: composite(np.zeros((4, 4)), []), r"background: expected \(C, H, W\)"),
        (
            lambda: composite(np.zeros((3, 4, 4)), [Layer(np.zeros((4, 5), np.float32), np.zeros(3, np.float32))]),
            r"layers\[0\]: expected a mask \(4, 4\)",
        ),
        (lambda: cut_out(np.zeros((3, 4, 4)), np.zeros((4, 5)), (1, 1), 2, 0, (4, 4)), "picture, mask: expected"),
        (lambda: cut_out(np.zeros((3, 4, 4)), np.zeros((4, 4)), (1, 1), 0, 0, (4, 4)), "side: expected a positive"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
