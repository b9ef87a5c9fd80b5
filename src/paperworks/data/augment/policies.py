"""Strong augmentations: which operations at which levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from paperworks.data.augment import pixels
from paperworks.data.augment.images import uniform
from paperworks.data.augment.operations import OPERATIONS
from paperworks.data.augment.pipeline import apply_operations

# Cubuk et al. 2020, arXiv 1909.13719, table 1 (their names in brackets differ only in spelling).
RANDAUGMENT = (
    "identity",
    "autocontrast",
    "equalize",
    "rotate",
    "solarize",
    "color",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)


class StrongAugment(Protocol):
    """A strong augmentation for `WeakStrong`."""

    def __call__(
        self,
        images: Tensor,
        *,
        fill: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Images (B, C, H, W) in [0, 1], augmented."""
        ...


class RandAugment:
    """`depth` operations on each image, drawn uniformly with replacement (Cubuk et al. 2020, arXiv 1909.13719).

    Args:
        operations: names in `OPERATIONS`; default: the paper's 14.
        depth: how many on each image (the paper's N).
        magnitude: in [0, 1], the paper's M / M_max, with a random sign where the operation has two sides; None: each
            level is uniform in [0, 1], as semi-supervised methods have it (FixMatch, arXiv 2001.07685).
        final_cutout: end with a cutout of half the side, as FixMatch does.

    Raises:
        ValueError: unknown names, a depth below 1, a magnitude out of range.
    """

    def __init__(
        self,
        operations: Sequence[str] = RANDAUGMENT,
        *,
        depth: int = 2,
        magnitude: float | None = None,
        final_cutout: bool = False,
    ):
        unknown = [name for name in operations if name not in OPERATIONS]
        if unknown or not operations:
            raise ValueError(f"operations: expected names from {', '.join(OPERATIONS)}, got {unknown or 'none'}")
        if depth < 1:
            raise ValueError(f"depth: expected at least 1, got {depth}")
        if magnitude is not None and not 0 <= magnitude <= 1:
            raise ValueError(f"magnitude: expected a number in [0, 1] or None, got {magnitude}")
        self.operations = tuple(OPERATIONS[name] for name in operations)
        self.depth, self.magnitude, self.final_cutout = depth, magnitude, final_cutout

    def sample(self, images: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(B, depth) indices into `operations` and (B, depth, 2) levels for these images."""
        shape = (len(images), self.depth)
        chosen = uniform(shape, 0, len(self.operations), like=images.float(), generator=generator).long()
        chosen = chosen.clamp(max=len(self.operations) - 1)
        levels = uniform((*shape, 2), 0, 1, like=images.float(), generator=generator)
        if self.magnitude is not None:
            levels[..., 0] = self._levels(chosen, levels[..., 0] < 0.5)
        return chosen, levels

    def _levels(self, chosen: Tensor, negative: Tensor) -> Tensor:
        magnitude = torch.full(chosen.shape, float(self.magnitude or 0), device=chosen.device)
        falling, two_sided = (
            torch.tensor([operation.strength == kind for operation in self.operations], device=chosen.device)[chosen]
            for kind in ("falling", "two-sided")
        )
        sided = 0.5 + torch.where(negative, -0.5, 0.5) * magnitude
        return torch.where(two_sided, sided, torch.where(falling, 1 - magnitude, magnitude))

    def __call__(
        self,
        images: Tensor,
        *,
        fill: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Augmented images, floats."""
        chosen, levels = self.sample(images, generator=generator)
        result = apply_operations(images, chosen, levels, operations=self.operations, fill=fill, generator=generator)
        if not self.final_cutout:
            return result
        centre = uniform((len(images), 2), 0, 1, like=result, generator=generator)
        return pixels.cutout(result, torch.ones_like(centre[:, 0]), centre, fill=fill)
