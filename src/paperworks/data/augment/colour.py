"""Changes of colour that are affine in RGB, as matrices, and one pass over the pixels for any number of them.

A matrix (B, 3, 4) maps a pixel to A rgb + b. Brightness, saturation, contrast, hue, grey and inversion all are of this
form (contrast mixes in the image's mean, which is itself mapped by what came before), so a whole jitter is one product,
with one clamp to [0, 1] at the end where one operation after the other would clamp each time.

Grey images (one channel) take the first row: every matrix here maps grey to grey.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

# ITU-R 601, as in PIL, torchvision and JPEG.
GREY = (0.299, 0.587, 0.114)
# The NTSC axes I and Q; with Y from GREY the transform of colour television.
_YIQ = (GREY, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def recolour(images: Tensor, matrix: Tensor) -> Tensor:
    """A rgb + b for each pixel, clamped to [0, 1]; `images` (B, C, H, W), `matrix` (B, 3, 4).

    Raises:
        ValueError: `matrix` has another shape.
    """
    if tuple(matrix.shape) != (len(images), 3, 4):
        raise ValueError(f"matrix: expected ({len(images)}, 3, 4), one for each image, got {tuple(matrix.shape)}")
    if images.shape[1] == 1:
        gain, offset = matrix[:, :1, :3].sum(-1), matrix[:, :1, 3]
        return torch.addcmul(offset[..., None, None], images, gain[..., None, None]).clamp_(0, 1)
    mixed = torch.baddbmm(matrix[:, :, 3:], matrix[:, :, :3], images.flatten(2))
    return mixed.clamp_(0, 1).view(images.shape)


def compose_colour(first: Tensor, *then: Tensor) -> Tensor:
    """The matrix of `first`, then of each of the others, in this order, without clamping in between."""
    total = first
    for matrix in then:
        moved = matrix[:, :, :3] @ total
        total = torch.cat([moved[:, :, :3], moved[:, :, 3:] + matrix[:, :, 3:]], dim=-1)
    return total


def mean_colour(images: Tensor) -> Tensor:
    """(B, 3) mean RGB; that of a grey image is its mean, three times."""
    return images.mean((2, 3)).expand(-1, 3)


def unchanged(like: Tensor) -> Tensor:
    """(B, 3, 4) identities for `like` (B, ...)."""
    return torch.eye(3, 4, dtype=like.dtype, device=like.device).expand(len(like), 3, 4)


def blend(target: Tensor, factor: Tensor) -> Tensor:
    """factor x + (1 - factor) target(x) for a matrix `target` (B, 3, 4) and (B,) factors; outside [0, 1] as well."""
    weight = factor[:, None, None]
    return weight * unchanged(factor) + (1 - weight) * target


def brightness(factor: Tensor) -> Tensor:
    """Towards black (below 1) or away from it."""
    return factor[:, None, None] * unchanged(factor)


def saturation(factor: Tensor) -> Tensor:
    """Towards grey or away from it."""
    return blend(grey(factor), factor)


def contrast(factor: Tensor, mean: Tensor) -> Tensor:
    """Towards the grey value of the mean colour `mean` (B, 3), or away from it."""
    level = mean @ mean.new_tensor(GREY)
    return blend(torch.cat([mean.new_zeros(len(mean), 3, 3), level[:, None, None].expand(-1, 3, 1)], -1), factor)


def hue(turn: Tensor) -> Tensor:
    """Rotate the IQ plane by `turn` (B,) of a full circle: luma is kept, unlike by the shift of HSV's hue."""
    to_yiq, back = _yiq()
    cos, sin = (2 * math.pi * turn).cos(), (2 * math.pi * turn).sin()
    one, zero = torch.ones_like(turn), torch.zeros_like(turn)
    turned = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], -1).view(-1, 3, 3)
    matrix = back.to(turn) @ turned @ to_yiq.to(turn)
    return torch.cat([matrix, matrix.new_zeros(len(turn), 3, 1)], -1)


@cache
def _yiq() -> tuple[Tensor, Tensor]:
    """RGB to YIQ and back."""
    there = torch.tensor(_YIQ, dtype=torch.float64)
    there[1:] -= there[1:].mean(1, keepdim=True)  # the published digits leave grey a trace of colour
    return there, torch.linalg.inv(there)


def grey(like: Tensor) -> Tensor:
    """Every channel becomes the luma; (B, 3, 4) for `like` (B,)."""
    return like.new_tensor([*GREY, 0.0]).expand(len(like), 3, 4)


def hsv_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Shift the hue of HSV by `turn` (B,) of a full circle, as torchvision does; grey images stay as they are."""
    if images.shape[1] == 1:
        return images
    value, brightest = images.max(1)
    chroma = value - images.amin(1)
    red, green, blue = images.unbind(1)
    safe = torch.where(chroma > 0, chroma, 1)
    sector = torch.stack([(green - blue) / safe, (blue - red) / safe + 2, (red - green) / safe + 4], 1)
    angle = sector.gather(1, brightest[:, None])[:, 0] + 6 * turn[:, None, None]
    # Channel n of the colour with this hue: v - c clamp(min(k, 4 - k), 0, 1) with k = (n + hue) mod 6, n = 5, 3, 1.
    phase = (images.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1) + angle[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(phase, 4 - phase).clamp(0, 1)
