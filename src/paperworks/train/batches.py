"""Batches as a function of their position in an endless stream, so that a fit can continue anywhere in it.

Position p, counted from 0, decides everything: which epoch, in which order, which examples. There is no state to save,
and W processes share one stream by taking every W-th position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

Data: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


class Batches(Protocol):
    """Any function of a position; the same position must give the same batch."""

    def __call__(self, position: int, /) -> Any: ...


class _Epochs(ABC):
    """Epoch after epoch of batches of rows of tensors; subclasses plan an epoch as a list of index arrays."""

    def __init__(self, data: Data, seed: int):
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed: expected a whole number that is not negative, got {seed!r}")
        self.data, self.seed = data, seed
        self.examples = _examples(data)
        self._ends: list[int] = []
        self._epoch, self._plan = -1, []

    @abstractmethod
    def _plan_epoch(self, epoch: int) -> list[np.ndarray]: ...

    def __len__(self) -> int:
        """Batches in the first epoch."""
        return self.count(1)

    def count(self, epochs: int) -> int:
        """Batches in the first `epochs` epochs together: a fit's `steps` for that many, without accumulation.

        Raises:
            ValueError: `epochs` is below 1.
        """
        if epochs < 1:
            raise ValueError(f"epochs: expected at least 1, got {epochs}")
        while len(self._ends) < epochs:
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self._planned(len(self._ends))))
        return self._ends[epochs - 1]

    def __call__(self, position: int) -> Any:
        """The batch at `position`: a tensor, tuple or dict like the data.

        Raises:
            ValueError: a negative position.
        """
        epoch, first = self._locate(position)
        return self._rows(self._planned(epoch)[position - first])

    def indices(self, position: int) -> np.ndarray:
        """Which examples are in the batch at `position`."""
        epoch, first = self._locate(position)
        return self._planned(epoch)[position - first]

    def _locate(self, position: int) -> tuple[int, int]:
        if position < 0:
            raise ValueError(f"position: expected 0 or more, got {position}")
        while not self._ends or self._ends[-1] <= position:
            self.count(len(self._ends) + 1)
        epoch = bisect_right(self._ends, position)
        return epoch, self._ends[epoch - 1] if epoch else 0

    def _planned(self, epoch: int) -> list[np.ndarray]:
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, self._plan_epoch(epoch)
        return self._plan

    def _order(self, epoch: int, shuffle: bool = True) -> np.ndarray:
        if not shuffle:
            return np.arange(self.examples)
        return np.random.default_rng((self.seed, epoch)).permutation(self.examples)

    def _rows(self, rows: np.ndarray) -> Any:
        index = torch.from_numpy(rows)
        if isinstance(self.data, Tensor):
            return _take(self.data, index)
        if isinstance(self.data, Mapping):
            return {name: _take(tensor, index) for name, tensor in self.data.items()}
        return tuple(_take(tensor, index) for tensor in self.data)


class EpochBatches(_Epochs):
    """Batches of `size` rows, each epoch in a new order that depends on `seed` and the epoch alone.

    Args:
        data: tensors with one row per example: one, several, or named; each batch has the same form.
        size: rows per batch.
        seed: of the order.
        shuffle: whether to change the order at all.
        drop_last: leave out the last batch of an epoch where it would be smaller.

    Raises:
        ValueError: tensors of different or no rows, something else than tensors, a size below 1 or, with `drop_last`,
            above the number of rows.
    """

    def __init__(self, data: Data, *, size: int, seed: int, shuffle: bool = True, drop_last: bool = False):
        super().__init__(data, seed)
        if size < 1 or (drop_last and size > self.examples):
            raise ValueError(f"size: expected 1 to {self.examples} rows per batch, got {size}")
        self.size, self.shuffle, self.drop_last = size, shuffle, drop_last

    def _plan_epoch(self, epoch: int) -> list[np.ndarray]:
        order = self._order(epoch, self.shuffle)
        stop = self.examples - self.examples % self.size if self.drop_last else self.examples
        return [order[first : first + self.size] for first in range(0, stop, self.size)]

    @property
    def identity(self) -> str:
        """What decides the stream, for checkpoints."""
        kind = "shuffled" if self.shuffle else "in order"
        last = ", last dropped" if self.drop_last else ""
        return f"{self.examples} rows by {self.size}, {kind}{last}, seed {self.seed}"


class TokenBatches(_Epochs):
    """Batches of examples of similar length, each of at most `tokens` tokens, padding included.

    Each epoch is shuffled, cut into pools of `pool` examples, sorted by length within a pool, and cut into batches,
    whose order is shuffled: little padding, and yet other neighbours for an example in every epoch.

    Args:
        data: tensors with one row per example, as for `EpochBatches`, padded to any common length.
        lengths: tokens per example, (rows,) integers.
        tokens: the most that rows x longest length of a batch may be.
        seed: of the order.
        trim: names (or positions) of the tensors to cut to the longest length of the batch, along their second axis.
        pool: examples sorted together.

    Raises:
        ValueError: an example longer than `tokens`, lengths that do not fit the rows, unknown names in `trim`, tensors
            of different or no rows.
    """

    def __init__(
        self,
        data: Data,
        lengths: Tensor | np.ndarray,
        *,
        tokens: int,
        seed: int,
        trim: Sequence[str | int] = (),
        pool: int = 4096,
    ):
        super().__init__(data, seed)
        self.lengths = _check_lengths(lengths, self.examples)
        if self.lengths.max() > tokens:
            worst = int(self.lengths.argmax())
            raise ValueError(f"tokens: example {worst} alone has {self.lengths[worst]} tokens, more than {tokens}")
        if pool < 1:
            raise ValueError(f"pool: expected at least 1 example, got {pool}")
        self.tokens, self.pool, self.trim = tokens, pool, frozenset(trim)
        _check_trim(data, self.trim, int(self.lengths.max()))

    def _plan_epoch(self, epoch: int) -> list[np.ndarray]:
        order = self._order(epoch)
        batches = []
        for first in range(0, self.examples, self.pool):
            members = order[first : first + self.pool]
            batches += self._cut(members[np.argsort(self.lengths[members], kind="stable")])
        shuffled = np.random.default_rng((self.seed, epoch, 1)).permutation(len(batches))
        return [batches[index] for index in shuffled]

    def _cut(self, members: np.ndarray) -> list[np.ndarray]:
        """Cut examples of rising length wherever one more would exceed the tokens."""
        first, batches = 0, []
        for end, length in enumerate(self.lengths[members].tolist()):
            if (end - first + 1) * length > self.tokens:
                batches.append(members[first:end])
                first = end
        return [*batches, members[first:]]

    def _rows(self, rows: np.ndarray) -> Any:
        batch, longest = super()._rows(rows), max(1, int(self.lengths[rows].max()))
        if isinstance(batch, Tensor):
            return batch[:, :longest] if 0 in self.trim else batch
        if isinstance(batch, Mapping):
            return {name: tensor[:, :longest] if name in self.trim else tensor for name, tensor in batch.items()}
        return tuple(tensor[:, :longest] if index in self.trim else tensor for index, tensor in enumerate(batch))

    @property
    def identity(self) -> str:
        """What decides the stream, for checkpoints."""
        total = self.lengths.sum()
        return f"{self.examples} rows by {self.tokens} of {total} tokens, pool {self.pool}, seed {self.seed}"


def as_stream(batches: Batches | Iterable[Any], *, exact: bool) -> Callable[[int], Any]:
    """A function of the position from whatever `fit` was given.

    `exact`: the order must be the same when gone through again (after a resume, or in another process).

    Raises:
        ValueError: neither function nor iterable, or an order that cannot be repeated where `exact`.
    """
    if callable(batches):
        return batches
    if not isinstance(batches, Iterable):
        raise ValueError(
            f"batches: expected a function of the position or an iterable of batches, got {type(batches).__name__}"
        )
    if exact and isinstance(batches, DataLoader) and not isinstance(batches.sampler, SequentialSampler):
        raise ValueError(
            "batches: the order of a shuffling DataLoader cannot be repeated, which a checkpoint and several processes "
            "need; use EpochBatches, a DataLoader that does not shuffle, or a function position -> batch"
        )
    return _Replay(batches)


class _Replay:
    """An iterable, gone through again and again, as a function of rising positions."""

    def __init__(self, source: Iterable[Any]):
        self.source = source
        self._iterator: Iterator[Any] | None = None
        self._next, self._in_epoch = 0, 0

    def __call__(self, position: int) -> Any:
        if position < self._next:
            self._iterator, self._next, self._in_epoch = None, 0, 0
        while True:
            batch = self._advance()
            if self._next > position:
                return batch

    def _advance(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self.source)
        for batch in self._iterator:
            self._next, self._in_epoch = self._next + 1, self._in_epoch + 1
            return batch
        if self._in_epoch == 0 or self._iterator is self.source:
            raise ValueError(
                f"batches: ended after {self._next} batches; pass something that can be gone through again, "
                "EpochBatches, or a function position -> batch"
            )
        self._iterator, self._in_epoch = None, 0
        return self._advance()


def _take(tensor: Tensor, index: Tensor) -> Tensor:
    return tensor.index_select(0, index.to(tensor.device))


def _examples(data: Data) -> int:
    tensors = [data] if isinstance(data, Tensor) else list(data.values() if isinstance(data, Mapping) else data)
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.ndim == 0:
            raise ValueError(f"data: expected tensors with one row per example, got {type(tensor).__name__}")
    rows = {len(tensor) for tensor in tensors}
    if len(rows) != 1 or 0 in rows:
        raise ValueError(f"data: expected tensors with equally many rows, at least one, got {sorted(rows)}")
    return rows.pop()


def _check_lengths(lengths: Tensor | np.ndarray, examples: int) -> np.ndarray:
    array = lengths.cpu().numpy() if isinstance(lengths, Tensor) else np.asarray(lengths)
    if array.shape != (examples,) or not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
        raise ValueError(f"lengths: expected ({examples},) whole numbers, got {array.shape} {array.dtype}")
    return array.astype(np.int64)


def _check_trim(data: Data, trim: frozenset[str | int], longest: int) -> None:
    parts = [data] if isinstance(data, Tensor) else data
    named: dict[Any, Tensor] = dict(parts) if isinstance(parts, Mapping) else dict(enumerate(parts))
    for name in trim:
        if name not in named:
            raise ValueError(f"trim: {name!r} is no part of the data; known: {list(named)}")
        if named[name].ndim < 2 or named[name].shape[1] < longest:
            raise ValueError(
                f"trim: {name!r} has shape {tuple(named[name].shape)}, too short for the longest example, {longest}"
            )
