"""Changes of images that no matrix expresses: histograms, thresholds, neighbourhoods, holes. As PIL's, on floats."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from paperworks.data.augment import kernels
from paperworks.data.augment.images import filled_

# Up to this side one product with a band matrix is faster than a convolution with an own kernel for each image.
_DENSE_SIDE = 64
_NEGLIGIBLE = -40.0


def equalized(images: Tensor) -> Tensor:
    """Histogram equalisation of each channel over 256 levels, as `PIL.ImageOps.equalize`."""
    if kernels.compiled_for(images):
        return kernels.equalized(images)
    batch, channels = images.shape[:2]
    levels = (images * 255).round_().clamp_(0, 255).to(torch.int32).view(batch * channels, -1)
    # Row r counts from 256 r on.
    levels += torch.arange(0, 256 * len(levels), 256, dtype=torch.int32, device=images.device)[:, None]
    counts = torch.bincount(levels.view(-1), minlength=256 * len(levels))
    highest = counts[levels.amax(1, keepdim=True)]
    step = (levels.shape[1] - highest) // 255
    counts = counts.view(-1, 256)
    below = counts.cumsum(1) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device)).to(images) / 255
    return table.view(-1).index_select(0, levels.view(-1)).view(images.shape)


def posterized(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper `bits` (B,) of 8; values between the 256 levels are rounded to one."""
    step = torch.pow(2.0, 8 - bits).to(images)[:, None, None, None]
    return (images * 255).round_().div_(step).floor_().mul_(step).div_(255)


def solarized(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert what is not below `threshold` (B,)."""
    inverted = images.clone().ge_(threshold.to(images)[:, None, None, None])
    return torch.lerp(images, 1 - images, inverted)


def smoothed(images: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """`PIL.ImageFilter.SMOOTH`: 3 x 3, (1 1 1; 1 5 1; 1 1 1) / 13; the outermost pixels stay as they are.

    `weight` (B,), or a number: how much of the result to mix in, 0 for the images as they are.
    """
    if min(images.shape[2:]) < 3:
        return images.clone()
    if kernels.compiled_for(images):
        return kernels.smoothed(images, weight)
    return _mixed(images, _box(images, 3).add_(images, alpha=4).div_(13), 1, weight)


def blurred(images: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """`PIL.ImageFilter.BLUR`: the mean of a ring 5 pixels wide; two rows and columns at each side stay as they are.

    `weight` as for `smoothed`.
    """
    if min(images.shape[2:]) < 5:
        return images.clone()
    if kernels.compiled_for(images):
        return kernels.blurred(images, weight)
    return _mixed(images, _box(images, 5).sub_(_box(images, 3)).div_(16), 2, weight)


def _box(images: Tensor, side: int) -> Tensor:
    """Sums over side x side pixels, right where they lie in the image.

    All images are one line of numbers here, whose slices add faster than pooling does on a CPU. Where a sum reaches
    over a border it is of strangers' pixels, and not to be used.
    """
    width, total = images.shape[3], images.reshape(-1)
    for step in (1, width):
        length = len(total) - (side - 1) * step
        total = sum((total[offset * step :][:length] for offset in range(1, side)), total[:length])
    first = (side // 2) * (width + 1)
    return F.pad(total, (first, first)).view(images.shape)


def _mixed(images: Tensor, changed: Tensor, border: int, weight: Tensor | float) -> Tensor:
    """The images with some of `changed` mixed in, but for a border."""
    result, inner = images.clone(), (..., slice(border, -border), slice(border, -border))
    share = weight[:, None, None, None] if isinstance(weight, Tensor) else weight
    result[inner] += (changed[inner] - images[inner]) * share
    return result


def cutout(images: Tensor, level: Tensor, centre: Tensor, *, fill: float = 0.5) -> Tensor:
    """Fill a square around `centre` (B, 2), x and y as parts of the sides in [0, 1), clipped at the border.

    Its side is 2 floor(s / 2) with s = 1 + floor(0.499 level min(H, W)): half the image at level 1, nothing at 0.
    """
    return cutout_(images.clone(), level, centre, fill=fill)


def cutout_(images: Tensor, level: Tensor, centre: Tensor, *, fill: float = 0.5) -> Tensor:
    """`cutout` in place."""
    height, width = images.shape[2:]
    half = (1 + (level * min(height, width) * 0.499).floor()).div(2, rounding_mode="floor")[:, None]
    columns, rows = torch.arange(width, device=images.device), torch.arange(height, device=images.device)
    x, y = (centre[:, :1] * width).floor(), (centre[:, 1:] * height).floor()
    across = ((columns >= x - half) & (columns < x + half)).to(images)
    down = ((rows >= y - half) & (rows < y + half)).to(images)
    return filled_(images, 1 - down[:, :, None] * across[:, None, :], fill)


def gaussian_blur(images: Tensor, sigma: Tensor, *, largest: float | None = None) -> Tensor:
    """Convolve each image with a Gaussian of its own `sigma` (B,) pixels; 0 leaves it as it is.

    The kernel reaches 3 times `largest` (default: the largest sigma) far, and mirrors the image about its edge pixels.

    Raises:
        ValueError: `sigma` of another shape.
    """
    if sigma.shape != images.shape[:1]:
        raise ValueError(f"sigma: expected ({len(images)},), one for each image, got {tuple(sigma.shape)}")
    if largest is None:
        largest = float(sigma.max()) if sigma.numel() else 0.0
    for axis in (3, 2):
        side = images.shape[axis]
        reach = min(math.ceil(3 * largest), side - 1)
        if reach > 0:
            kernel = _gaussian(sigma.to(images), reach)
            images = _blur_dense(images, kernel, axis) if side <= _DENSE_SIDE else _blur_by_taps(images, kernel, axis)
    return images


def _gaussian(sigma: Tensor, reach: int) -> Tensor:
    """(B, 2 reach + 1) weights that sum to one; no blur where sigma is 0."""
    offsets = torch.arange(-reach, reach + 1, device=sigma.device).to(sigma)
    exponents = -(offsets**2) / (2 * sigma.clamp(min=1e-3)[:, None] ** 2)
    # Weights too small to matter become zero: as denormal numbers they would slow every product.
    return torch.softmax(exponents.masked_fill(exponents < _NEGLIGIBLE, -math.inf), dim=1)


def _mirrored(side: int, reach: int, device: torch.device) -> Tensor:
    """(side, 2 reach + 1): which pixel lies at each offset from each pixel."""
    at = torch.arange(side, device=device)[:, None] + torch.arange(-reach, reach + 1, device=device)
    return side - 1 - (side - 1 - at.abs()).abs()


def _blur_dense(images: Tensor, kernel: Tensor, axis: int) -> Tensor:
    batch, channels, height, width = images.shape
    side = images.shape[axis]
    at = _mirrored(side, kernel.shape[1] // 2, images.device)
    band = images.new_zeros(batch, side, side)
    band.scatter_add_(2, at.expand(batch, -1, -1), kernel[:, None, :].expand(-1, side, -1))
    if axis == 3:
        return (images.reshape(batch, channels * height, width) @ band.transpose(1, 2)).view(images.shape)
    return (band[:, None] @ images).view(images.shape)


def _blur_by_taps(images: Tensor, kernel: Tensor, axis: int) -> Tensor:
    reach, side = kernel.shape[1] // 2, images.shape[axis]
    padded = F.pad(images, (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach), mode="reflect")
    weights = kernel.T[:, :, None, None, None]
    total = weights[reach] * images
    for tap in range(reach):
        pair = padded.narrow(axis, tap, side) + padded.narrow(axis, 2 * reach - tap, side)
        total.addcmul_(pair, weights[tap])
    return total
