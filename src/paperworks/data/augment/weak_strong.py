"""A weak and a strong view of each image, as semi-supervised methods compare them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from paperworks.data.augment import geometry, pixels
from paperworks.data.augment.images import as_float, both_sides, chance, check_shape, uniform
from paperworks.data.augment.policies import StrongAugment


class WeakStrong:
    """`views(images, generator=g) -> (weak, strong)`, both float in [0, 1] and of the images' shape.

    Weak: a shift by whole pixels, up to an eighth of the side each way, on a mirrored surrounding, and a mirroring of
    half the images; nothing is interpolated. Strong: a shift and mirroring of its own, then `strong`.

    Args:
        image_size: height and width, or one number for both.
        weak: "shift" alone for digits, text and whatever else has a handedness.
        strong: a `StrongAugment` such as `RandAugment()`, or "cutout": a grey square of half the side.
        fill: grey value of cutouts and of what moves bring in.

    Raises:
        ValueError: an option out of range; when called, images of another form or size.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        *,
        weak: Literal["shift_mirror", "shift"] = "shift_mirror",
        strong: StrongAugment | Literal["cutout"] = "cutout",
        fill: float = 0.5,
    ):
        if weak not in ("shift_mirror", "shift"):
            raise ValueError(f"weak: expected shift_mirror or shift, got {weak!r}")
        if strong != "cutout" and not callable(strong):
            raise ValueError(f"strong: expected a strong augmentation or 'cutout', got {strong!r}")
        if not 0 <= fill <= 1:
            raise ValueError(f"fill: expected a grey value in [0, 1], got {fill}")
        self.size = both_sides(image_size)
        self.weak, self.strong, self.fill = weak, strong, fill

    def __call__(self, images: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Two views of uint8 or float images (B, C, H, W)."""
        check_shape(images, self.size)
        if images.dtype != torch.uint8:
            images = as_float(images)
        weak, strong = (as_float(self._shift(images, generator)) for _ in range(2))
        if callable(self.strong):
            return weak, self.strong(strong, fill=self.fill, generator=generator)
        centre = uniform((len(images), 2), 0, 1, like=strong, generator=generator)
        return weak, pixels.cutout(strong, torch.ones_like(centre[:, 0]), centre, fill=self.fill)

    def _shift(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """A weak view; of bytes while they are bytes, which is a quarter of the memory to move."""
        like = torch.empty(0, device=images.device)
        right, down = (
            uniform((len(images),), -(side // 8), side // 8 + 1, like=like, generator=generator).floor()
            for side in (images.shape[3], images.shape[2])
        )
        flags = chance(len(images), 0.5, like=like, generator=generator) if self.weak == "shift_mirror" else None
        return geometry.shift_pixels(images, right, down, flags)
