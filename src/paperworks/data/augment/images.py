"""What comes in at the doors of the augmentation: batches of images, levels, and random numbers for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Interpolation and colour arithmetic may leave [0, 1] by rounding; a picture in another unit leaves it by far more.
_SLACK = 1e-3


def as_float(images: Tensor) -> Tensor:
    """Images (B, C, H, W) as floats in [0, 1]: uint8 is divided by 255, floats stay what they are.

    Raises:
        ValueError: another shape or dtype, neither 1 nor 3 channels, or floats outside [0, 1].
    """
    check_shape(images)
    if images.dtype == torch.uint8:
        # Division of bytes by a number, as one operation, is forty times slower.
        return images.to(torch.get_default_dtype()).div_(255)
    if not images.is_floating_point():
        raise ValueError(f"images: expected uint8 or floats in [0, 1], got {images.dtype}")
    if images.numel():
        low, high = (float(value) for value in images.aminmax())
        if not (low >= -_SLACK and high <= 1 + _SLACK):
            raise ValueError(
                f"images: floats must lie in [0, 1], got {low:g} to {high:g}; divide by 255 or undo the normalisation, "
                "and normalise after augmenting"
            )
    return images


def check_shape(images: Tensor, size: tuple[int, int] | None = None) -> None:
    """Refuse what is no batch of grey or colour images (of `size` (height, width), where given).

    Raises:
        ValueError: naming the images.
    """
    shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ValueError(f"images: expected (batch, 1 or 3 channels, height, width), got {shape}")
    if size is not None and tuple(images.shape[2:]) != size:
        raise ValueError(f"images: expected (batch, channels, {size[0]}, {size[1]}), got {shape}; resize them first")


def check_level(images: Tensor, level: Tensor) -> Tensor:
    """One level in [0, 1] per image, in the images' dtype.

    Raises:
        ValueError: another shape, or levels out of range.
    """
    if not isinstance(level, Tensor) or level.shape != images.shape[:1]:
        got = tuple(level.shape) if isinstance(level, Tensor) else type(level).__name__
        raise ValueError(f"level: expected ({len(images)},), one for each image, got {got}")
    if level.numel() and not bool(((level >= 0) & (level <= 1)).all()):
        raise ValueError(f"level: expected values in [0, 1], got {float(level.min()):g} to {float(level.max()):g}")
    return level.to(images)


def uniform(
    shape: Sequence[int], low: float, high: float, *, like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Uniform numbers in [low, high) on the device of `like`; drawn where the generator lives."""
    device = like.device if generator is None else generator.device
    return low + (high - low) * torch.rand(tuple(shape), generator=generator, device=device).to(like)


def chance(count: int, probability: float, *, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """(count,) booleans, each true with `probability`."""
    return uniform((count,), 0, 1, like=like, generator=generator) < probability


def both_sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width), each positive.

    Raises:
        ValueError: they are not.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise ValueError(f"image_size: expected positive sides, got {image_size}")
    return height, width


def filled_(images: Tensor, kept: Tensor, fill: float) -> Tensor:
    """Put `fill` where `kept` (B, H, W), zeros and ones, is 0; in place. A mask of booleans takes far longer."""
    kept = kept[:, None]
    images *= kept
    return images.add_((1 - kept).mul_(fill)) if fill else images
