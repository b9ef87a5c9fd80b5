"""Pairs of token lists in batches of similar length, within a budget of tokens, and each source only once a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paperworks.language.nmt_hallucinations.models import Tokens

BATCH_TOKENS = 8192
# A batch of some size ends where its longest row is so much longer than its shortest: padding is work too.
SPREAD, ENOUGH = 1.25, 8


@dataclass(frozen=True)
class Batch:
    """Some pairs, padded to the right.

    `rows` (B,): their places among all pairs. `source` (U, S) and its mask: the distinct sources; `which` (B,): the
    source of each pair. `target` (B, T) with its mask, and `own` (B, T): tokens that count (no language tokens).
    """

    rows: np.ndarray
    source: Tensor
    source_mask: Tensor
    source_own: Tensor
    which: Tensor
    target: Tensor
    target_mask: Tensor
    own: Tensor

    def whole_sources(self) -> tuple[Tensor, Tensor]:
        """One source a pair: ids (B, S) and mask."""
        return self.source[self.which], self.source_mask[self.which]


def batches(
    sources: Sequence[Tokens], targets: Sequence[Tokens], *, tokens: int = BATCH_TOKENS, pad: int, device: torch.device
) -> Iterator[Batch]:
    """All pairs, in batches of at most `tokens` target (and source) tokens, padding included.

    Pairs of one source stand together, so that it is encoded once; a batch is never wider than the budget allows unless
    one pair alone is.

    Raises:
        ValueError: `tokens` is below 1.
    """
    if tokens < 1:
        raise ValueError(f"batch_tokens: must be at least 1, got {tokens}")
    keys = [tuple(source.ids) for source in sources]
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    order = sorted(range(len(keys)), key=lambda row: (len(keys[row]), number[keys[row]], len(targets[row].ids)))
    chosen: list[int] = []
    width = shortest = 0
    for row in order:
        length = max(len(keys[row]), len(targets[row].ids))
        wider = max(width, length)
        full = wider * (len(chosen) + 1) > tokens
        uneven = len(chosen) >= ENOUGH and wider > SPREAD * shortest and keys[row] != keys[chosen[-1]]
        if chosen and (full or uneven):
            yield _batch(chosen, sources, targets, number, pad, device)
            chosen, wider = [], length
        shortest = length if not chosen else min(shortest, length)
        chosen.append(row)
        width = wider
    if chosen:
        yield _batch(chosen, sources, targets, number, pad, device)


def source_batches(
    sources: Sequence[Tokens], *, tokens: int, pad: int, device: torch.device, copies: int = 1
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Rows, ids and masks of sources alone, in batches of similar length; `copies` of each row count in the budget."""
    order = np.argsort([len(source.ids) for source in sources], kind="stable")
    first = 0
    while first < len(order):
        end = first + 1
        while end < len(order) and (end + 1 - first) * len(sources[order[end]].ids) * copies <= tokens:
            end += 1
        rows = order[first:end]
        ids, mask = pad_rows([sources[row].ids for row in rows], pad, device)
        yield rows, ids, mask
        first = end


def pad_rows(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lists of ids as (B, longest) with their mask, padded to the right."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(max(1, int(lengths.max()))) < lengths[:, None]
    ids = torch.full(mask.shape, pad, dtype=torch.long)
    ids[mask] = torch.tensor([token for row in rows for token in row], dtype=torch.long)
    return ids.to(device), mask.to(device)


@contextmanager
def seeded(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Draws of the block follow `generator`, and torch's global generators are left as they were; None: as they are."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _batch(
    chosen: list[int],
    sources: Sequence[Tokens],
    targets: Sequence[Tokens],
    number: dict[tuple[int, ...], int],
    pad: int,
    device: torch.device,
) -> Batch:
    keys = [number[tuple(sources[row].ids)] for row in chosen]
    place = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    which = [place[key] for key in keys]
    distinct = [chosen[which.index(index)] for index in range(len(place))]
    source, source_mask = pad_rows([sources[row].ids for row in distinct], pad, device)
    source_own, _ = pad_rows([[int(own) for own in sources[row].own] for row in distinct], 0, device)
    target, target_mask = pad_rows([targets[row].ids for row in chosen], pad, device)
    own, _ = pad_rows([[int(own) for own in targets[row].own] for row in chosen], 0, device)
    return Batch(
        np.array(chosen), source, source_mask, source_own.bool(), torch.tensor(which, device=device), target,
        target_mask, own.bool(),
    )  # fmt: skip
