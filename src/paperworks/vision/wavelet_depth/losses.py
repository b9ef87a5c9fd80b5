"""What the decoders are trained on: depth at every scale, or pictures of the same scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def multiscale_depth_loss(
    maps: Sequence[Tensor],
    depth: Tensor,
    *,
    to_depth: Callable[[Tensor], Tensor] = lambda maps: maps,
    log: bool = True,
) -> Tensor:
    """Mean over scales of |ln d - ln g| (or |d - g|), every map first brought to full size.

    Args:
        maps: (B, 1, h, w) of each scale.
        depth: (B, 1, H, W) metres, 0 where there is none.
        to_depth: from a map to metres.

    Raises:
        ValueError: depth of another shape, or without any valid pixel.
    """
    if depth.ndim != 4 or depth.shape[1] != 1:
        raise ValueError(f"depth: expected (B, 1, H, W), got {tuple(depth.shape)}")
    valid = depth > 0
    count = valid.sum()
    # Holes stay in the arithmetic, so that a compiled graph has no shapes that depend on data.
    truth = torch.where(valid, depth, 1.0)
    truth = truth.log() if log else truth
    total = depth.new_zeros(())
    for scale in maps:
        full = F.interpolate(scale.float(), size=depth.shape[2:], mode="bilinear", align_corners=False)
        guess = to_depth(full)
        guess = guess.log() if log else guess
        total = total + torch.where(valid, (guess - truth).abs(), 0.0).sum() / count.clamp(min=1)
    return total / len(maps)


def coefficient_loss(details: Sequence[Tensor], truths: Sequence[Tensor]) -> Tensor:
    """Mean over levels of |H - H*|: direct supervision of coefficients, which the method does without."""
    return torch.stack([(own - true).abs().mean() for own, true in zip(details, truths, strict=True)]).mean()


def photometric_error(a: Tensor, b: Tensor) -> Tensor:
    """0.85 (1 - SSIM) / 2 + 0.15 |a - b|, mean over channels: (B, 3, H, W) twice -> (B, 1, H, W).

    SSIM over 3x3 windows with mirrored borders, constants 0.01^2 and 0.03^2.
    """
    dissimilarity = ((1 - _ssim(a, b)) / 2).clamp(0, 1)
    return (0.85 * dissimilarity + 0.15 * (a - b).abs()).mean(1, keepdim=True)


def photometric_loss(image: Tensor, warped: Sequence[Tensor]) -> Tensor:
    """Mean over pixels of the least photometric error over the frames warped into `image`."""
    if not warped:
        raise ValueError("warped: expected at least one frame")
    return torch.cat([photometric_error(image, other) for other in warped], 1).amin(1).mean()


def smoothness_loss(disp: Tensor, image: Tensor) -> Tensor:
    """Mean of |grad d| exp(-|grad image|), d = disparity (B, 1, H, W) over its own mean."""
    d = disp / (disp.mean((2, 3), keepdim=True) + 1e-7)
    total = disp.new_zeros(())
    for dim in (2, 3):
        weight = image.diff(dim=dim).abs().mean(1, keepdim=True).neg().exp()
        total = total + (d.diff(dim=dim).abs() * weight).mean()
    return total


def warp_stereo(other: Tensor, disparity: Tensor) -> Tensor:
    """The left view from the right one: out(x, y) = other(x - disparity(x, y), y), bilinear, edges repeated.

    `other`: (B, 3, H, W); `disparity`: (B, 1, H, W) in pixels, focal length times baseline over depth.
    """
    _, _, height, width = other.shape
    y, x = torch.meshgrid(
        torch.arange(height, device=other.device, dtype=other.dtype),
        torch.arange(width, device=other.device, dtype=other.dtype),
        indexing="ij",
    )
    across = 2 * (x - disparity[:, 0]) / max(width - 1, 1) - 1
    along = (2 * y / max(height - 1, 1) - 1).expand_as(across)
    grid = torch.stack((across, along), -1)
    return F.grid_sample(other, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    a, b = (F.pad(x, (1, 1, 1, 1), mode="reflect") for x in (a, b))

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
