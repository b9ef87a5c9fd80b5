"""Several operations on each image, other ones on each: grouped by operation, moves merged into one interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from paperworks.data.augment import geometry, pixels
from paperworks.data.augment.colour import recolour
from paperworks.data.augment.images import as_float, uniform
from paperworks.data.augment.operations import OPERATIONS, Operation, rescale_filter

_BILINEAR = geometry.FILTERS.index("bilinear")

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


def apply_operations(
    images: Tensor,
    chosen: Tensor,
    levels: Tensor,
    *,
    operations: Sequence[Operation] = tuple(OPERATIONS.values()),
    fill: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Apply to image i the operations `chosen[i, 0]`, `chosen[i, 1]`, ... at their levels.

    Moves wait until something that is no move follows, and are interpolated together.

    Args:
        images: (B, C, H, W), uint8 or floats in [0, 1], which is not checked here.
        chosen: (B, depth) indices into `operations`.
        levels: (B, depth) in [0, 1], or (B, depth, 2), the second level for `rescale`'s filter.
        fill: grey value of what moves bring in and of cutouts.
        generator: places the cutouts.

    Raises:
        ValueError: shapes that do not fit, an index that is no operation, levels out of range.
    """
    images = as_float(images) if images.dtype == torch.uint8 else images
    levels = _check(images, chosen, levels, operations)
    waiting = _Moves(images, chosen.shape[1], fill)
    moves = torch.tensor([operation.kind == "geometry" for operation in operations], device=images.device)
    nothing = torch.tensor([operation.name == "identity" for operation in operations], device=images.device)
    for slot in range(chosen.shape[1]):
        picked, level = chosen[:, slot], levels[:, slot].to(images)
        centre = uniform((len(images), 2), 0, 1, like=images, generator=generator)
        waiting.settle(~moves[picked] & ~nothing[picked])
        for index, rows in _groups(picked):
            operation, part, strength = operations[index], waiting.images, level[rows, 0]
            if operation.kind == "geometry":
                waiting.add(operation, rows, level[rows])
            elif operation.name == "cutout":
                part[rows] = pixels.cutout(part[rows], strength, centre[rows], fill=fill)
            elif operation.kind == "colour" and operation.name != "identity":
                part[rows] = recolour(part[rows], operation(part[rows], strength))
            elif operation.kind == "pixels":
                part[rows] = operation(part[rows], strength)
    return waiting.finish()


def _groups(picked: Tensor) -> list[tuple[int, Tensor]]:
    """Each number that occurs, and where."""
    order = picked.argsort(stable=True)
    numbers, counts = picked.unique(return_counts=True)
    return list(zip(numbers.tolist(), order.split(counts.tolist()), strict=True))


class _Moves:
    """Images, and for each the moves that it has not yet made."""

    def __init__(self, images: Tensor, depth: int, fill: float):
        # A copy: rows are written as they are done.
        self.images, self.fill, self.depth = images.clone(), fill, depth
        count = len(images)
        self.moves = images.new_zeros(count, depth, 2, 3)
        self.due = torch.zeros(count, dtype=torch.long, device=images.device)
        self.filters = torch.full((count,), _BILINEAR, device=images.device)

    def add(self, operation: Operation, rows: Tensor, level: Tensor) -> None:
        self.moves[rows, self.due[rows]] = operation(self.images[rows], level[:, 0])
        self.due[rows] += 1
        if operation.name == "rescale":
            self.filters[rows] = rescale_filter(level[:, 1])

    def settle(self, which: Tensor) -> None:
        """Make all moves that are due for these images, (B,) booleans."""
        for count in range(1, self.depth + 1):
            rows = (which & (self.due == count)).nonzero()[:, 0]
            if len(rows):
                moves = self.moves[rows, :count].unbind(1)
                filters = self.filters[rows]
                plain = bool((filters == _BILINEAR).all())
                self.images[rows] = geometry.warp(
                    self.images[rows], moves, fill=self.fill, filters=None if plain else filters
                )
        self.due[which], self.filters[which] = 0, _BILINEAR

    def finish(self) -> Tensor:
        self.settle(torch.ones_like(self.due, dtype=torch.bool))
        return self.images


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


def _check(images: Tensor, chosen: Tensor, levels: Tensor, operations: Sequence[Operation]) -> Tensor:
    if chosen.ndim != 2 or len(chosen) != len(images) or chosen.is_floating_point():
        raise ValueError(f"chosen: expected ({len(images)}, depth) indices, got {tuple(chosen.shape)} {chosen.dtype}")
    if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(operations):
        raise ValueError(
            f"chosen: expected indices of {len(operations)} operations, got {int(chosen.min())} to {int(chosen.max())}"
        )
    if levels.ndim == 2:
        levels = torch.stack([levels, torch.full_like(levels, (_BILINEAR + 0.5) / len(geometry.FILTERS))], -1)
    if tuple(levels.shape) != (*chosen.shape, 2):
        raise ValueError(f"levels: expected {tuple(chosen.shape)} or {(*chosen.shape, 2)}, got {tuple(levels.shape)}")
    if levels.numel() and not bool(((levels >= 0) & (levels <= 1)).all()):
        raise ValueError("levels: expected values in [0, 1]")
    return levels
