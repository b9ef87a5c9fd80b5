"""Replay of whole transitions: what is stored together is drawn together, and nothing crosses a reset."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class Transitions:
    """A ring of transitions for each seed.

    All fields live in one float32 table, so a batch is one gather. Flags such as `terminal` are stored as 0 and 1.

    Args:
        capacity: transitions kept for each seed; the oldest give way.
        fields: name -> shape of one transition's entry, e.g. `{"obs": (4,), "terminal": ()}`.
        seeds: S.

    Raises:
        ValueError: no capacity, no field, no seed.
    """

    def __init__(self, capacity: int, fields: Mapping[str, tuple[int, ...]], *, seeds: int = 1) -> None:
        if capacity < 1 or seeds < 1 or not fields:
            raise ValueError(
                f"capacity, seeds, fields: expected at least one each, got {capacity}, {seeds}, {len(fields)}"
            )
        self.capacity, self.seeds, self.fields = capacity, seeds, dict(fields)
        self._widths = [math.prod(shape) for shape in self.fields.values()]
        self._table = torch.zeros(seeds * capacity, sum(self._widths))
        self._offset = (torch.arange(seeds) * capacity)[:, None]
        self._next, self._size = 0, 0

    def __len__(self) -> int:
        """Transitions held for each seed."""
        return self._size

    def add(self, **arrays: Tensor) -> None:
        """Store n transitions a seed, each field (seeds, n, *shape).

        Raises:
            ValueError: missing or unknown fields, unequal n, other shapes, more than fit at once.
        """
        if set(arrays) != set(self.fields):
            raise ValueError(f"fields: expected {sorted(self.fields)}, got {sorted(arrays)}")
        count = next(iter(arrays.values())).shape[1:2].numel()
        columns = []
        for (name, shape), width in zip(self.fields.items(), self._widths, strict=True):
            if arrays[name].shape != (self.seeds, count, *shape):
                raise ValueError(f"{name}: expected {(self.seeds, count, *shape)}, got {tuple(arrays[name].shape)}")
            columns.append(arrays[name].reshape(self.seeds, count, width).to(self._table.dtype))
        if not 0 < count <= self.capacity:
            raise ValueError(f"n: expected 1 to {self.capacity} transitions at once, got {count}")
        places = (self._next + torch.arange(count)) % self.capacity
        self._table[(places + self._offset).flatten()] = torch.cat(columns, -1).flatten(0, 1)
        self._next = (self._next + count) % self.capacity
        self._size = min(self._size + count, self.capacity)

    def sample(
        self, batch: int, *, last: int | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Draw `batch` transitions a seed, uniformly and with replacement, for each seed its own.

        Args:
            batch: B.
            last: only from the newest so many; None: from all.
            generator: of the draw.

        Returns:
            name -> (seeds, B, *shape).

        Raises:
            ValueError: nothing stored yet.
        """
        if self._size == 0:
            raise ValueError("transitions: nothing to sample from yet")
        reach = self._size if last is None else min(last, self._size)
        back = torch.randint(1, reach + 1, (self.seeds, batch), generator=generator)
        return self._at((self._next - back) % self.capacity)

    def newest(self, count: int) -> dict[str, Tensor]:
        """The newest transitions, oldest of them first: name -> (seeds, min(count, held), *shape)."""
        count = min(count, self._size)
        places = (self._next - count + torch.arange(count)) % self.capacity
        return self._at(places.expand(self.seeds, -1))

    def _at(self, places: Tensor) -> dict[str, Tensor]:
        seeds, count = places.shape
        rows = self._table.index_select(0, (places + self._offset).flatten()).view(seeds, count, -1)
        parts = rows.split(self._widths, -1)
        return {
            name: part.reshape(seeds, count, *shape)
            for (name, shape), part in zip(self.fields.items(), parts, strict=True)
        }
