"""Losses on cases with known values."""

import math

import pytest
import torch

from paperworks.vision.wavelet_depth.losses import (
    coefficient_loss,
    multiscale_depth_loss,
    photometric_error,
    photometric_loss,
    smoothness_loss,
    warp_stereo,
)


def test_depth_loss_is_the_mean_log_ratio_over_valid_pixels_and_scales():
    depth = torch.full((2, 1, 4, 4), 2.0)
    depth[0, 0, 0, 0] = 0
    maps = [torch.full((2, 1, 4, 4), 4.0), torch.full((2, 1, 2, 2), 1.0)]
    assert float(multiscale_depth_loss(maps, depth)) == pytest.approx(math.log(2))
    assert float(multiscale_depth_loss(maps, depth, log=False)) == pytest.approx((2 + 1) / 2)
    assert float(multiscale_depth_loss(maps, depth, to_depth=lambda m: 2 * m)) == pytest.approx((math.log(4) + 0) / 2)


def test_holes_have_no_gradient():
    depth = torch.rand(1, 1, 4, 4) + 1
    depth[0, 0, 1, 2] = 0
    own = torch.full((1, 1, 4, 4), 0.5, requires_grad=True)
    multiscale_depth_loss([own], depth).backward()
    assert own.grad[0, 0, 1, 2] == 0
    assert (own.grad != 0).sum() == 15
    with pytest.raises(ValueError, match=r"depth: expected \(B, 1, H, W\)"):
        multiscale_depth_loss([own], depth[0])


def test_coefficient_loss():
    assert float(coefficient_loss([torch.ones(2), torch.zeros(4)], [torch.zeros(2), torch.full((4,), 3.0)])) == 2.0


def test_photometric_error_is_zero_for_equals_and_weighs_its_two_parts():
    a = torch.rand(1, 3, 8, 9)
    torch.testing.assert_close(photometric_error(a, a), torch.zeros(1, 1, 8, 9), atol=1e-6, rtol=0)
    # Constant images: SSIM = (2 a b + c1) / (a^2 + b^2 + c1).
    one, two = torch.full((1, 3, 5, 5), 0.2), torch.full((1, 3, 5, 5), 0.6)
    ssim = (2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4)
    expected = 0.85 * (1 - ssim) / 2 + 0.15 * 0.4
    torch.testing.assert_close(photometric_error(one, two), torch.full((1, 1, 5, 5), expected), atol=1e-4, rtol=0)


def test_ssim_is_its_formula_in_a_window():
    from paperworks.vision.wavelet_depth.losses import _ssim

    a, b = torch.rand(1, 1, 6, 7, dtype=torch.float64), torch.rand(1, 1, 6, 7, dtype=torch.float64)
    got = _ssim(a, b)[0, 0, 2, 3]
    x, y = a[0, 0, 1:4, 2:5], b[0, 0, 1:4, 2:5]
    cov = ((x - x.mean()) * (y - y.mean())).mean()
    top = (2 * x.mean() * y.mean() + 1e-4) * (2 * cov + 9e-4)
    bottom = (x.mean() ** 2 + y.mean() ** 2 + 1e-4) * (x.var(correction=0) + y.var(correction=0) + 9e-4)
    torch.testing.assert_close(got, top / bottom)


def test_least_error_over_frames_counts():
    image = torch.rand(1, 3, 6, 6)
    assert float(photometric_loss(image, [torch.rand(1, 3, 6, 6), image])) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="warped: expected"):
        photometric_loss(image, [])


def test_smoothness_is_weighted_by_edges_of_the_picture():
    disp = torch.tensor([[[[1.0, 1.0, 3.0, 3.0]] * 3]])
    flat = torch.zeros(1, 3, 3, 4)
    # Mean disparity 2: one step of 1 among three differences.
    assert float(smoothness_loss(disp, flat)) == pytest.approx(1 / 3, rel=1e-5)
    edge = flat.clone()
    edge[..., 2:] = 1.0
    assert float(smoothness_loss(disp, edge)) == pytest.approx(math.exp(-1) / 3, rel=1e-5)


def test_warping_moves_by_the_disparity():
    right = torch.rand(1, 3, 4, 10)
    left = warp_stereo(right, torch.full((1, 1, 4, 10), 2.0))
    torch.testing.assert_close(left[..., 2:], right[..., :-2], atol=1e-5, rtol=0)
    torch.testing.assert_close(left[..., 0], right[..., 0], atol=1e-5, rtol=0)
    half = warp_stereo(right, torch.full((1, 1, 4, 10), 0.5))
    torch.testing.assert_close(half[..., 3], (right[..., 3] + right[..., 2]) / 2, atol=1e-5, rtol=0)
