"""A response table as the fits read it: items in rows, one byte a cell, equal rows and columns merged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from paperworks.evaluation.irt import fused

TILE_CELLS = 1 << 19  # a tile of float32 cells fits a core's second-level cache


@dataclass(frozen=True)
class Table:
    """Answers (M, R) uint8 with the weight of each item and the multiplicity of each responder.

    `item_of` (all items,) and `responder_of` (all responders,) say which row and column stands for each original.
    """

    right: Tensor
    observed: Tensor | None
    weight: Tensor
    copies: Tensor
    item_of: np.ndarray
    responder_of: np.ndarray

    @classmethod
    def of(
        cls,
        values: np.ndarray,
        observed: np.ndarray | None,
        weights: np.ndarray | None,
        *,
        device: torch.device | str = "cpu",
        merge: bool = True,
    ) -> Table:
        """From responders x items; with `merge`, items (and responders) with the same answers share one row (column).

        Items that everybody answers alike have the same parameters, whatever their weights: the weight cancels in the
        M-step and adds up in the E-step.
        """
        responders, items = values.shape
        weights = np.ones(items) if weights is None else np.asarray(weights, dtype=np.float64)
        right = np.ascontiguousarray(values.T, dtype=np.uint8)
        seen = None if observed is None or observed.all() else np.ascontiguousarray(observed.T, dtype=np.uint8)
        if seen is not None:
            right = right * seen
        first, item_of = distinct(right, seen) if merge else (np.arange(items), np.arange(items))
        if len(first) < items:
            right, seen = right[first], None if seen is None else seen[first]
        keep, responder_of = np.arange(responders), np.arange(responders)
        # Equal responders are common only where there are few items.
        if merge and items <= 256:
            keep, responder_of = distinct(right.T, None if seen is None else seen.T)
            right, seen = right[:, keep], None if seen is None else seen[:, keep]
        return cls(
            torch.from_numpy(np.ascontiguousarray(right)).to(device),
            None if seen is None else torch.from_numpy(np.ascontiguousarray(seen)).to(device),
            torch.from_numpy(np.bincount(item_of, weights=weights, minlength=len(first))).to(device),
            torch.from_numpy(np.bincount(responder_of, minlength=len(keep)).astype(np.float64)).to(device),
            item_of,
            responder_of,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Items, responders (distinct ones)."""
        return self.right.shape[0], self.right.shape[1]

    @cached_property
    def wrong_byte(self) -> Tensor:
        """255 where the answer is not right, 0 where it is, (M, R) uint8."""
        return self.right - 1

    @cached_property
    def coded(self) -> np.ndarray:
        """Cells as the compiled passes read them (see `fused.py`)."""
        return fused.coded(self.right, self.observed)

    @cached_property
    def totals(self) -> tuple[Tensor, Tensor]:
        """Right answers and answers of each item, counting each distinct responder once, (M,) float64."""
        right = self.right.sum(1, dtype=torch.float64)
        if self.observed is None:
            return right, torch.full_like(right, self.shape[1])
        return right, self.observed.sum(1, dtype=torch.float64)

    def tiles(self, width: int) -> Iterator[slice]:
        """Slices of items such that a tile of `width` columns stays in cache."""
        items, responders = self.shape
        size = max(64, TILE_CELLS // max(width, min(responders, 4096)))
        for start in range(0, items, size):
            yield slice(start, min(start + size, items))

    def times(self, cells: Tensor, tile: slice, right_side: Tensor) -> Tensor:
        """cells[tile] @ right_side, (T, R) x (R, Q), where cells is `right` or `observed`: never more than a block."""
        block = max(1, (1 << 22) // (tile.stop - tile.start))
        parts = zip(cells[tile].split(block, dim=1), right_side.split(block), strict=True)
        return sum((part.to(right_side.dtype) @ side for part, side in parts), start=right_side.new_zeros(()))

    def add_transposed(self, cells: Tensor, tile: slice, right_side: Tensor, total: Tensor) -> None:
        """total += cells[tile]^T @ right_side, (R, T) x (T, Q), summed in the precision of `total`."""
        block = max(1, (1 << 22) // (tile.stop - tile.start))
        for part, target in zip(cells[tile].split(block, dim=1), total.split(block), strict=True):
            target += part.to(right_side.dtype).T @ right_side


def distinct(right: np.ndarray, seen: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """First occurrence of each distinct row, in order of appearance, and which of them each row equals."""
    bits = np.packbits(right, axis=1)
    if seen is not None:
        bits = np.concatenate([bits, np.packbits(seen, axis=1)], axis=1)
    bits = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8)))
    words = np.ascontiguousarray(bits).view(np.uint64)
    factors = np.random.default_rng(0).integers(1, 1 << 63, size=words.shape[1], dtype=np.uint64) | np.uint64(1)
    mixed = (words ^ (words >> np.uint64(31))) * factors
    keys = (mixed ^ (mixed >> np.uint64(29))).sum(axis=1, dtype=np.uint64)
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    first, rank = first[order], np.argsort(order, kind="stable")
    which = rank[which.reshape(-1)]
    if (words[first[which]] != words).any():  # two different rows with one key: merge nothing rather than wrongly
        return np.arange(len(right)), np.arange(len(right))
    return first, which
