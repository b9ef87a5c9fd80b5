"""Changes of images that no matrix expresses: histograms, thresholds, neighbourhoods, holes. As PIL's, on floats."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this side one product with a band matrix is faster than a convolution with an own kernel for each image.
_DENSE_SIDE = 64
_NEGLIGIBLE = -40.0


def equalized(images: Tensor) -> Tensor:
    """Histogram equalisation of each channel over 256 levels, as `PIL.ImageOps.equalize`."""
    batch, channels = images.shape[:2]
    levels = (images * 255).round().long().clamp(0, 255).view(batch * channels, -1)
    counts = torch.zeros(len(levels), 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels))
    highest = counts.gather(1, levels.amax(1, keepdim=True))
    step = (levels.shape[1] - highest) // 255
    below = counts.cumsum(1) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return (table.gather(1, levels).to(images) / 255).view(images.shape)


def posterized(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper `bits` (B,) of 8; values between the 256 levels are rounded to one."""
    step = torch.pow(2.0, 8 - bits).to(images)[:, None, None, None]
    return ((images * 255).round() / step).floor() * step / 255


def solarized(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert what is not below `threshold` (B,)."""
    return torch.where(images < threshold.to(images)[:, None, None, None], images, 1 - images)


def smoothed(images: Tensor) -> Tensor:
    """`PIL.ImageFilter.SMOOTH`: 3 x 3, (1 1 1; 1 5 1; 1 1 1) / 13; the outermost pixels stay as they are."""
    if min(images.shape[2:]) < 3:
        return images.clone()
    inner = (_box(images, 3) + 4 * images[..., 1:-1, 1:-1]) / 13
    return _framed(images, inner, 1)


def blurred(images: Tensor) -> Tensor:
    """`PIL.ImageFilter.BLUR`: the mean of a ring 5 pixels wide; two rows and columns at each side stay as they are."""
    if min(images.shape[2:]) < 5:
        return images.clone()
    inner = (_box(images, 5) - _box(images[..., 1:-1, 1:-1], 3)) / 16
    return _framed(images, inner, 2)


def _box(images: Tensor, side: int) -> Tensor:
    """Sums over side x side pixels; slices add faster than pooling does on a CPU."""
    for axis in (3, 2):
        length = images.shape[axis] - side + 1
        total = images.narrow(axis, 0, length) + images.narrow(axis, 1, length)
        for offset in range(2, side):
            total += images.narrow(axis, offset, length)
        images = total
    return images


def _framed(images: Tensor, inner: Tensor, width: int) -> Tensor:
    result = images.clone()
    result[..., width:-width, width:-width] = inner
    return result


def cutout(images: Tensor, level: Tensor, centre: Tensor, *, fill: float = 0.5) -> Tensor:
    """Fill a square around `centre` (B, 2), x and y as parts of the sides in [0, 1), clipped at the border.

    Its side is 2 floor(s / 2) with s = 1 + floor(0.499 level min(H, W)): half the image at level 1.
    """
    height, width = images.shape[2:]
    half = (1 + (level * min(height, width) * 0.499).floor()).div(2, rounding_mode="floor")[:, None]
    columns, rows = torch.arange(width, device=images.device), torch.arange(height, device=images.device)
    x, y = (centre[:, :1] * width).floor(), (centre[:, 1:] * height).floor()
    across = (columns >= x - half) & (columns < x + half)
    down = (rows >= y - half) & (rows < y + half)
    return images.masked_fill((down[:, :, None] & across[:, None, :])[:, None], fill)


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
