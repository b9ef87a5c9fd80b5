"""The embedded characters: drawn as a slow twin draws them, the same for everyone, and as hard as they should be."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from paperworks.data.glyphs import _LEVELS, PIECES, _class, _instances, _polylines, glyphs


def slow(path: np.ndarray, half_width: float, side: int) -> np.ndarray:
    """Ink of one glyph in float64: the distance of each pixel's centre to every straight piece."""
    pixel = 2 / side
    image = np.zeros((side, side))
    for i in range(side):
        for j in range(side):
            at = np.array([(j + 0.5) * pixel - 1, (i + 0.5) * pixel - 1])
            nearest = np.inf
            for stroke in path:
                for start, end in pairwise(stroke):
                    along = end - start
                    t = np.clip((at - start) @ along / max(along @ along, 1e-12), 0, 1)
                    nearest = min(nearest, float(np.linalg.norm(at - start - t * along)))
            image[i, j] = np.clip((half_width - nearest) / pixel + 0.5, 0, 1)
    return image * 255


def test_drawn_as_the_slow_twin_draws():
    images, _ = glyphs(range(3, 6), 2, image_size=16, seed=5)
    for index, number in enumerate(range(3, 6)):
        points, widths = _instances(_class(5, number), 2, _LEVELS["plain"], (5, number, 0))
        for instance in range(2):
            expected = slow(_polylines(points)[instance], widths[instance], 16)
            assert np.abs(images[2 * index + instance, 0].numpy() - expected).max() < 0.51


def test_strokes_are_quadratic_bezier_curves():
    points = np.random.default_rng(0).normal(size=(1, 2, 3, 2))
    path = _polylines(points)
    assert path.shape == (1, 2, PIECES + 1, 2)
    np.testing.assert_allclose(path[..., 0, :], points[..., 0, :])
    np.testing.assert_allclose(path[..., -1, :], points[..., 2, :])
    # By de Casteljau at t = 4 / 11.
    t, (a, b, c) = 4 / 11, points[0, 0]
    ab, bc = a + t * (b - a), b + t * (c - b)
    np.testing.assert_allclose(path[0, 0, 4], ab + t * (bc - ab))


def test_classes_are_as_described():
    counts, touching, later = np.zeros(5), 0, 0
    for number in range(2000):
        strokes = _class(0, number)
        assert np.abs(strokes).max() <= 0.8
        counts[len(strokes)] += 1
        for before, after in pairwise(strokes):
            later += 1
            touching += (before == after[0]).all(1).any()
    np.testing.assert_allclose(counts[2:] / 2000, 1 / 3, atol=0.04)
    assert counts[:2].sum() == 0
    assert touching / later == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize(("level", "rotation", "shift"), [("plain", 0.6, 0.25), ("wide", 0.8, 0.35)])
def test_instances_spread_as_described(level, rotation, shift):
    """Without noise the map of an instance can be solved for: rotation, then scales, then shear, then shift."""
    dots = np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    points, widths = _instances(dots, 20_000, _LEVELS[level], (0, 0, 0))
    noise = 0.10 * np.random.default_rng((0, 0, 0, 2)).standard_normal((20_000, 1, 3, 2))
    given = np.concatenate([dots + noise, np.ones((20_000, 1, 3, 1))], -1)[:, 0]
    solved = np.linalg.solve(given, points[:, 0])  # (n, 3, 2): two rows of the matrix, then the shift
    matrix, shifts = solved[:, :2].transpose(0, 2, 1), solved[:, 2]
    # matrix = shear diag(scales) turn
    y_scale = np.hypot(matrix[:, 1, 0], matrix[:, 1, 1])
    angle = np.arctan2(matrix[:, 1, 0], matrix[:, 1, 1])
    x_scale = np.linalg.det(matrix) / y_scale
    for values, low, high in (
        (angle, -rotation, rotation),
        (x_scale, 0.65, 1.0),
        (y_scale, 0.65, 1.0),
        (shifts, -shift, shift),
        (widths, 0.05, 0.10),
    ):
        assert values.min() == pytest.approx(low, abs=2e-3)
        assert values.max() == pytest.approx(high, abs=2e-3)
        assert values.mean() == pytest.approx((low + high) / 2, abs=8e-3)


def test_sets_agree_where_they_overlap():
    few, labels = glyphs(4, 3)
    many, more_labels = glyphs(6, 5)
    assert torch.equal(few, many.view(6, 5, 1, 24, 24)[:4, :3].flatten(0, 1))
    assert labels.tolist() == [number for number in range(4) for _ in range(3)]
    assert len(more_labels) == 30
    later, later_labels = glyphs(range(4, 6), 5)
    assert torch.equal(later, many[20:])
    assert later_labels.unique().tolist() == [4, 5]


def test_splits_seeds_and_levels_differ():
    base = glyphs(3, 4)[0]
    assert torch.equal(base, glyphs(3, 4)[0])
    for other in (glyphs(3, 4, split="test"), glyphs(3, 4, seed=1), glyphs(3, 4, level="wide")):
        different = (other[0] != base).flatten(1).any(1)
        assert different.all()
    assert base.dtype == torch.uint8
    assert base.shape == (12, 1, 24, 24)
    assert base.amax((1, 2, 3)).float().mean() > 250


@pytest.mark.parametrize(("level", "low", "high"), [("plain", 0.32, 0.39), ("wide", 0.19, 0.26)])
def test_nearest_neighbours_of_pixels_know_little(level, low, high):
    """100 classes, 40 examples of each, 24 pixels: 35 and 23 %, so that there is room above and chance is far below."""
    train, labels = glyphs(level=level)
    test, truth = glyphs(per_class=20, split="test", level=level)
    nearest = torch.cdist(test.flatten(1).float(), train.flatten(1).float()).argmin(1)
    assert low < (labels[nearest] == truth).float().mean() < high


@pytest.mark.parametrize(("options", "match"), [
    ({"classes": 0}, "classes"),
    ({"classes": [1, 1]}, "twice"),
    ({"classes": [-1]}, "from 0 on"),
    ({"per_class": 0}, "per_class"),
    ({"image_size": 4}, "image_size"),
    ({"split": "dev"}, "train or test"),
    ({"level": "hard"}, "plain or wide"),
])  # fmt: skip
def test_bad_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        glyphs(**options)
