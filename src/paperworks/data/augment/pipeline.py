"""Several operations on each image, other ones on each: grouped by operation, moves merged into one interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paperworks.data.augment import geometry, kernels, pixels
from paperworks.data.augment.colour import recolour
from paperworks.data.augment.images import as_float, check_shape, uniform
from paperworks.data.augment.operations import OPERATIONS, Operation, rescale_filter

Rows: TypeAlias = NDArray[np.int64]
_BILINEAR = geometry.FILTERS.index("bilinear")


def apply_operations(
    images: Tensor,
    chosen: Tensor,
    levels: Tensor,
    *,
    operations: Sequence[Operation] = tuple(OPERATIONS.values()),
    fill: float = 0.5,
    surround: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Apply to image i the operations `chosen[i, 0]`, `chosen[i, 1]`, ... at their levels.

    Moves wait until something that is no move follows, and are interpolated together.

    Args:
        images: (B, C, H, W), uint8 or floats in [0, 1], which is not checked here.
        chosen: (B, depth) indices into `operations`.
        levels: (B, depth) in [0, 1], or (B, depth, 2), the second level for `rescale`'s filter.
        fill: grey value of cutouts.
        surround: grey value of what moves bring in; None: that of cutouts.
        generator: places the cutouts.

    Raises:
        ValueError: shapes that do not fit, an index that is no operation, levels out of range.
    """
    check_shape(images)
    # A copy either way: rows are written as they are done.
    images = as_float(images) if images.dtype == torch.uint8 else images.clone()
    images = images.contiguous()
    levels = _check(images, chosen, levels, operations)
    if not len(images):
        return images
    picked = chosen.cpu().numpy()
    levels = levels.to(images)
    moves = _Moves(images, picked, levels, operations, fill if surround is None else surround)
    changes = np.array([operation.kind != "geometry" and operation.name != "identity" for operation in operations])
    for slot in range(picked.shape[1]):
        centre = uniform((len(images), 2), 0, 1, like=images, generator=generator)
        acting = np.flatnonzero(changes[picked[:, slot]])
        moves.settle(acting, slot)
        _change(images, acting, picked[:, slot], levels[:, slot, 0], centre, operations, fill)
    moves.settle(np.arange(len(images)), picked.shape[1])
    return images


def _change(
    images: Tensor,
    rows: Rows,
    picked: Rows,
    level: Tensor,
    centre: Tensor,
    known: Sequence[Operation],
    fill: float,
) -> None:
    """Colours and pixels of some images, in place. All colour matrices go over the pixels together."""
    colours = np.array([operation.kind == "colour" for operation in known])[picked[rows]]
    for index, members in _groups(picked, rows[~colours]):
        operation, at = known[index], _on(members, images)
        part, strength = images.index_select(0, at), level.index_select(0, at)
        if operation.name == "cutout":
            images[at] = pixels.cutout_(part, strength, centre.index_select(0, at), fill=fill)
        else:
            images[at] = operation.function(part, strength)
    groups = _groups(picked, rows[colours])
    if groups:
        together = np.concatenate([members for _, members in groups])
        at = _on(together, images)
        sizes = [len(members) for _, members in groups]
        part, strengths = images.index_select(0, at), level.index_select(0, at).split(sizes)
        matrices = [
            known[index].function(some, strength)
            for (index, _), some, strength in zip(groups, part.split(sizes), strengths, strict=True)
        ]
        if kernels.compiled_for(images):
            kernels.recolour_rows(images, together, torch.cat(matrices))
        else:
            images[at] = recolour(part, torch.cat(matrices))


def _groups(picked: Rows, rows: Rows) -> list[tuple[int, Rows]]:
    """Each number that occurs among `picked[rows]`, and the rows where it does."""
    if not len(rows):
        return []
    order = rows[np.argsort(picked[rows], kind="stable")]
    numbers, starts = np.unique(picked[order], return_index=True)
    return list(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))


class _Moves:
    """The matrices of all moves, and which of them each image has not yet made."""

    def __init__(self, images: Tensor, picked: Rows, levels: Tensor, operations: Sequence[Operation], fill: float):
        self.images, self.fill = images, fill
        count, depth = picked.shape
        is_move = np.array([operation.kind == "geometry" for operation in operations])
        self.due = is_move[picked]
        # The last one, which stands still, fills up rows.
        self.matrices = geometry.affine([[1, 0, 0], [0, 1, 0]], images.new_empty(count * depth + 1))
        self.filters = np.full(count * depth + 1, -1)
        flat, level = picked.reshape(-1), levels.reshape(-1, 2)
        for index, members in _groups(flat, np.flatnonzero(self.due)):
            # Of the images, a move's matrix depends on their size alone.
            strengths = level.index_select(0, _on(members, images))
            matrices = operations[index].function(images, strengths[:, 0])
            self.matrices.index_copy_(0, _on(members, images), matrices)
            if operations[index].name == "rescale":
                self.filters[members] = rescale_filter(strengths[:, 1]).cpu().numpy()

    def settle(self, rows: Rows, before: int) -> None:
        """Make all moves of these images that come before a slot and are still due."""
        due = self.due[rows, :before]
        counts = due.sum(1)
        rows, due, counts = rows[counts > 0], due[counts > 0], counts[counts > 0]
        if not len(rows):
            return
        cells = np.where(due, rows[:, None] * self.due.shape[1] + np.arange(before), len(self.filters) - 1)
        cells = np.take_along_axis(cells, np.argsort(~due, axis=1, kind="stable"), 1)
        filters = np.full(len(rows), -1)
        for chosen in self.filters[cells].T:
            filters = np.where(chosen >= 0, chosen, filters)
        other = (filters >= 0) & (filters != _BILINEAR)
        if kernels.compiled_for(self.images):
            plain = ~other
            if plain.any():
                moves = self.matrices[_on(cells[plain, : counts.max()], self.images)]
                kernels.warp_rows(self.images, rows[plain], moves, self.fill)
            counts[plain] = 0
        for count in range(1, counts.max() + 1):
            self._make(rows, cells[:, :count], ~other & (counts == count), None)
        self._make(rows, cells[:, : counts.max()], other, filters)
        self.due[rows, :before] = False

    def _make(self, rows: Rows, cells: Rows, which: NDArray[np.bool_], filters: Rows | None) -> None:
        """One interpolation for `rows[which]`, of moves one after the other, by filters other than the usual."""
        if which.any():
            at, moves = _on(rows[which], self.images), self.matrices[_on(cells[which], self.images)]
            chosen = None if filters is None else torch.from_numpy(filters[which])
            moved = geometry.warp(self.images.index_select(0, at), moves.unbind(1), fill=self.fill, filters=chosen)
            self.images[at] = moved


def _on(rows: Any, images: Tensor) -> Tensor:
    return torch.from_numpy(rows).to(images.device)


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
