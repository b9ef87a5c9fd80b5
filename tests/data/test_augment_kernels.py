"""Compiled loops against the tensor operations that they stand in for."""

import pytest
import torch

from paperworks.data.augment import OPERATIONS, apply_operations, kernels, pixels

pytest.importorskip("numba")


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def plainly(monkeypatch):
    """A function's result without the loops."""

    def call(function, *arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "compiled_for", lambda images: False)
            return function(*arguments, **options)

    return call


@pytest.mark.parametrize("shape", [(40, 3, 12, 9), (33, 1, 16, 16), (5, 3, 4, 70)])
def test_policies_are_the_same_with_and_without_loops(shape, plainly):
    images = random(*shape)
    # Steps of a table turn a rounding into a level: those operations are compared by themselves.
    names = [name for name in OPERATIONS if name not in ("equalize", "posterize", "solarize")]
    operations = [OPERATIONS[name] for name in names]
    chosen = torch.randint(len(names), (len(images), 3), generator=torch.Generator().manual_seed(1))
    levels = random(len(images), 3, 2, seed=2)
    options = {"operations": operations, "surround": 0.25}
    found, expected = (
        call(apply_operations, images, chosen, levels, generator=torch.Generator().manual_seed(3), **options)
        for call in (lambda function, *arguments, **named: function(*arguments, **named), plainly)
    )
    different = (found - expected).abs() > 2e-5
    # A place on the frame's edge may round to either side.
    assert different.float().mean() < 2e-4


@pytest.mark.parametrize("side", [5, 17])
def test_neighbourhoods_and_histograms_are_the_same(side, plainly):
    images = random(6, 3, side, side + 2)
    weight = random(6, seed=1)
    for function in (pixels.smoothed, pixels.blurred):
        torch.testing.assert_close(function(images, weight), plainly(function, images, weight), rtol=0, atol=1e-6)
        torch.testing.assert_close(function(images), plainly(function, images), rtol=0, atol=1e-6)
    # 256 levels exactly, many and few of them, and an image of one.
    for coarse in (255, 3, 1):
        levels = (images * coarse).round() / coarse
        levels[0] = 0.5
        torch.testing.assert_close(pixels.equalized(levels), plainly(pixels.equalized, levels), rtol=0, atol=1e-6)


def test_threads_share_the_images(monkeypatch, plainly):
    images, chosen = random(64, 1, 8, 8), torch.full((64, 1), list(OPERATIONS).index("rotate"))
    levels = random(64, 1, seed=1)
    monkeypatch.setattr(kernels, "_PER_THREAD", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found, expected = apply_operations(images, chosen, levels), plainly(apply_operations, images, chosen, levels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_what_the_loops_do_not_take():
    assert kernels.compiled_for(random(1, 1, 3, 3))
    assert not kernels.compiled_for(random(1, 1, 3, 3).double())
    assert not kernels.compiled_for(random(0, 1, 3, 3))
    images = random(2, 1, 8, 8).requires_grad_()
    assert not kernels.compiled_for(images)
    for function in (pixels.smoothed, pixels.blurred):
        (gradient,) = torch.autograd.grad(function(images).sum(), images)
        assert gradient.sum() == pytest.approx(128, rel=1e-5)
