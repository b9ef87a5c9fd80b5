"""Attention in a band: every block of queries sees one short run of keys, and nothing of size queries x keys exists.

    y_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j,   j in the run of the block of i, where the band's pattern allows

Notes:

1. Forward and backward go through the same tiles, some blocks of some heads at a time, small enough for a core's cache;
   the backward pass computes the weights again, so that a call keeps its inputs alone.
2. The pattern is the same for all blocks. Which keys exist is one number per key, added only to the tiles where some
   do not: with no mask, those at the two ends.
3. A query that sees no key gets 0, and so does its gradient. Hidden keys, and queries that are hidden by `query_mask`,
   are zeroed while they are copied into a tile, so that not even NaN there reaches anything.

The recomputation of tiles follows Dao et al., FlashAttention (2022, arXiv 2205.14135).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Added to the logits of pairs that are not allowed: exp() of it is 0, and a sum of two is finite.
HIDDEN = -1e30
# Scores of one tile; half a megabyte in single precision, which stays in a core's second-level cache.
TILE = 2**17


@dataclass(frozen=True)
class Band:
    """Which keys each query may see.

    Query a of block i (i = 0, 1, ..) may see key `i step - front + b` where `pattern[a, b]`, if there is such a key.

    Args:
        pattern: (block, span) bool: queries of a block, keys of its run.
        step: keys from one block's run to the next.
        front: keys of the first block's run that lie before the first key.
    """

    pattern: Tensor
    step: int
    front: int

    @property
    def block(self) -> int:
        return self.pattern.shape[0]

    @property
    def span(self) -> int:
        return self.pattern.shape[1]

    def blocks(self, queries: int) -> int:
        """Blocks that hold this many queries."""
        return -(-queries // self.block)

    def pairs(self, queries: int) -> int:
        """Scores that are computed, the ones of pairs that are not allowed among them."""
        return self.blocks(queries) * self.block * self.span

    def allowed(self, queries: int, keys: int) -> Tensor:
        """The same as one table (queries, keys), for short sequences and for tests."""
        count = self.blocks(queries)
        wide = torch.zeros(count, self.block, self.front + keys + count * self.step + self.span, dtype=torch.bool)
        for block in range(count):
            wide[block, :, block * self.step : block * self.step + self.span] = self.pattern
        return wide.flatten(0, 1)[:queries, self.front : self.front + keys].to(self.pattern.device)


def band_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    band: Band,
    key_mask: Tensor | None = None,
    query_mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of each query to the keys that the band allows: (B, H, n, d) in the type of `q`.

    Half precision is computed in single. Differentiable once.

    Args:
        q: (B, H, n, d).
        k, v: (B, H, m, d).
        band: which pairs; its pattern lies on the device of `q`.
        key_mask: (B, m) bool, True = may be seen.
        query_mask: (B, n) bool; others give 0.
        dropout: of the weights, in [0, 1); pass 0 in evaluation.
    """
    return _attend(q, k, v, band, key_mask, query_mask, dropout, total=False)[0]


def band_attention_and_total(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    band: Band,
    key_mask: Tensor | None = None,
    query_mask: Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`band_attention` and the log-sum-exp (B, H, n) of each query's logits, with its gradient.

    With it the result can be merged with attention to further keys. Where a query sees nothing it is below -1e29.
    """
    return _attend(q, k, v, band, key_mask, query_mask, dropout, total=True)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    band: Band,
    key_mask: Tensor | None,
    query_mask: Tensor | None,
    dropout: float,
    *,
    total: bool,
) -> tuple[Tensor, Tensor]:
    seed = int(torch.randint(2**62, ())) if dropout else 0
    seen = _seen(band, q, k, key_mask, query_mask)
    job = _Job(band, seen, key_mask, query_mask, dropout, seed, total)
    return _BandAttention.apply(q, k, v, job)  # pyright: ignore[reportReturnType]


class _Job(NamedTuple):
    """What forward and backward share; `seen` (B, n) are the queries that see a key, None: all."""

    band: Band
    seen: Tensor | None
    key_mask: Tensor | None
    query_mask: Tensor | None
    dropout: float
    seed: int
    total: bool


class _BandAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, job: _Job) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(q, k, v)
        ctx.job = job
        ctx.set_materialize_grads(False)
        with torch.autocast(q.device.type, enabled=False):
            return _forward(q, k, v, job)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            return *_backward(q, k, v, grads[0], grads[1], ctx.job), None


def _forward(q: Tensor, k: Tensor, v: Tensor, job: _Job) -> tuple[Tensor, Tensor | None]:
    y = _like_projections(q)
    total = q.new_empty(q.shape[:3], dtype=_precision(q)) if job.total else None
    for some in _groups(q, k, v, job):
        out = torch.empty_like(some.q)
        sums = out.new_empty(out.shape[:3])
        for tile in _tiles(some, job):
            scores = tile.scores()
            if total is not None:
                sums[:, tile.blocks] = scores.logsumexp(-1).view_as(sums[:, tile.blocks])
            weights = torch.softmax(scores, -1)
            if job.dropout:
                weights.mul_(_kept(weights, job, tile))
            out[:, tile.blocks] = torch.bmm(weights, tile.v).view_as(out[:, tile.blocks])
        _put(y[some.place], out.flatten(1, 2))
        if total is not None:
            _put(total[some.place][..., None], sums.flatten(1, 2)[..., None])
    if job.seen is not None:
        y.masked_fill_(~job.seen[:, None, :, None], 0)
    return y, total


def _backward(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor | None, grad_total: Tensor | None, job: _Job
) -> tuple[Tensor, Tensor, Tensor]:
    band, seen = job.band, job.seen
    grad = torch.zeros_like(q) if grad is None else grad
    dq, dk, dv = (_like_projections(x) for x in (q, k, v))
    for some in _groups(q, k, v, job):
        slope = _in_blocks(grad[some.place], band, _of(seen, some.place))
        slope_total = None
        if grad_total is not None:
            slope_total = _in_blocks(grad_total[some.place][..., None], band, _of(seen, some.place))
        part_q, part_k, part_v = torch.empty_like(some.q), torch.zeros_like(some.k), torch.zeros_like(some.v)
        for tile in _tiles(some, job):
            weights = torch.softmax(tile.scores(), -1)
            g = slope[:, tile.blocks].flatten(0, 1)
            pulled = torch.bmm(g, tile.v.transpose(1, 2))
            used = weights
            if job.dropout:
                kept = _kept(weights, job, tile)
                used = weights * kept
                pulled.mul_(kept)
            _spread(part_v, torch.bmm(used.transpose(1, 2), g), tile.blocks, band)
            ds = torch._softmax_backward_data(pulled, weights, -1, weights.dtype)  # pyright: ignore[reportPrivateImportUsage]
            if slope_total is not None:
                ds.addcmul_(weights, slope_total[:, tile.blocks].flatten(0, 1))
            part_q[:, tile.blocks] = torch.bmm(ds, tile.k).view_as(part_q[:, tile.blocks])
            _spread(part_k, torch.bmm(ds.transpose(1, 2), tile.q), tile.blocks, band)
        _put(dq[some.place], part_q.mul_(q.shape[-1] ** -0.5).flatten(1, 2))
        _put(dk[some.place], part_k[:, band.front :])
        _put(dv[some.place], part_v[:, band.front :])
    if job.query_mask is not None:
        dq.masked_fill_(~job.query_mask[:, None, :, None], 0)
    if job.key_mask is not None:
        for slope in (dk, dv):
            slope.masked_fill_(~job.key_mask[:, None, :, None], 0)
    return dq, dk, dv


# Heads and tiles -----------------------------------------------------------------------------------------------------


class _Heads(NamedTuple):
    """Some heads of some examples, g in all, filled up: scaled queries (g, blocks, block, d), keys and values
    (g, length, d), what is added to the logits of each key (g, length). `place` is where they stand in (B, H), `first`
    the number of the first among all B H."""

    first: int
    place: tuple[slice, slice]
    q: Tensor
    k: Tensor
    v: Tensor
    hidden: Tensor


class _Tile(NamedTuple):
    """Some blocks of some heads as one batch of matrices; `number` is the tile's own among all of a call."""

    number: int
    blocks: slice
    q: Tensor
    k: Tensor
    v: Tensor
    added: Tensor

    def scores(self) -> Tensor:
        return torch.bmm(self.q, self.k.transpose(1, 2)).add_(self.added)


def _groups(q: Tensor, k: Tensor, v: Tensor, job: _Job) -> Iterator[_Heads]:
    """The heads of all examples, as many at a time as fill a tile."""
    band, (batch, heads, length, width) = job.band, q.shape
    fits = max(1, TILE // band.pairs(length))
    examples = max(1, fits // heads)
    some = max(count for count in range(1, heads + 1) if heads % count == 0 and count <= fits)
    for first in range(0, batch, examples):
        for head in range(0, heads, some):
            place = slice(first, min(first + examples, batch)), slice(head, head + some)
            queries = _in_blocks(q[place], band, _of(job.query_mask, place)).mul_(width**-0.5)
            keys, values = (_in_line(x[place], band, length, _of(job.key_mask, place)) for x in (k, v))
            hidden = _hidden(keys, k[place], band, _of(job.key_mask, place))
            yield _Heads(first * heads + head, place, queries, keys, values, hidden)


def _tiles(some: _Heads, job: _Job) -> Iterator[_Tile]:
    band, (heads, count) = job.band, some.q.shape[:2]
    pattern = some.q.new_zeros(band.pattern.shape).masked_fill_(~band.pattern, HIDDEN)
    keys, values, hidden = (_runs(x, band) for x in (some.k, some.v, some.hidden[..., None]))
    missing = hidden.amin((0, 2, 3)).lt(0).tolist()
    step = max(1, TILE // (heads * band.block * band.span))
    for first in range(0, count, step):
        blocks = slice(first, min(first + step, count))
        added = pattern
        if any(missing[blocks]):
            added = pattern + hidden[:, blocks].flatten(0, 1).transpose(1, 2)
        q, k, v = (x[:, blocks].flatten(0, 1) for x in (some.q, keys, values))
        yield _Tile(some.first * count + first, blocks, q, k, v, added)


def _of(mask: Tensor | None, place: tuple[slice, slice]) -> Tensor | None:
    """The rows of a mask (B, n) that belong to a group, (examples, 1, n, 1)."""
    return None if mask is None else mask[place[0], None, :, None]


def _in_blocks(x: Tensor, band: Band, mask: Tensor | None) -> Tensor:
    """(examples, heads, n, d) as (g, blocks, block, d), zero at the end and where the mask is False."""
    length, count = x.shape[2], band.blocks(x.shape[2])
    found = x.new_empty(*x.shape[:2], count * band.block, x.shape[3], dtype=_precision(x))
    found[:, :, :length] = x
    found[:, :, length:] = 0
    if mask is not None:
        found[:, :, :length].masked_fill_(~mask, 0)
    return found.flatten(0, 1).unflatten(1, (count, band.block))


def _in_line(x: Tensor, band: Band, queries: int, mask: Tensor | None) -> Tensor:
    """(examples, heads, m, d) as (g, length, d): `front` zeros, then keys as far as the last block's run reaches."""
    length = (band.blocks(queries) - 1) * band.step + band.span
    taken = min(x.shape[2], length - band.front)
    found = x.new_empty(*x.shape[:2], length, x.shape[3], dtype=_precision(x))
    part = found[:, :, band.front : band.front + taken]
    part.copy_(x[:, :, :taken])
    found[:, :, : band.front] = 0
    found[:, :, band.front + taken :] = 0
    if mask is not None:
        part.masked_fill_(~mask[:, :, :taken], 0)
    return found.flatten(0, 1)


def _hidden(keys: Tensor, x: Tensor, band: Band, mask: Tensor | None) -> Tensor:
    """What is added to the logits of each key of `_in_line`: 0, or `HIDDEN` where there is none."""
    found = keys.new_full((*x.shape[:2], keys.shape[1]), HIDDEN)
    part = found[:, :, band.front : band.front + x.shape[2]]
    if mask is None:
        part.zero_()
    else:
        part.masked_fill_(mask[:, :, : part.shape[2], 0], 0)
    return found.flatten(0, 1)


def _runs(x: Tensor, band: Band) -> Tensor:
    """The run of each block, (g, blocks, span, d), as a view of (g, length, d)."""
    return x.unfold(1, band.span, band.step).transpose(2, 3)


def _spread(total: Tensor, runs: Tensor, blocks: slice, band: Band) -> None:
    """Add gradients (g blocks, span, d) of runs, which overlap, to those of the keys (g, length, d)."""
    runs = runs.view(total.shape[0], -1, *runs.shape[1:])
    first, count = blocks.start * band.step, runs.shape[1]
    for offset in range(0, band.span, band.step):
        part = runs[:, :, offset : offset + band.step]
        reached = total[:, first + offset :].unfold(1, part.shape[2], band.step)[:, :count].transpose(2, 3)
        reached.add_(part)


def _put(result: Tensor, part: Tensor) -> None:
    """Write heads (g, length, d) into (examples, heads, n, d), which may be shorter or longer."""
    taken = min(result.shape[2], part.shape[1])
    result[:, :, :taken] = part[:, :taken].view(*result.shape[:2], taken, part.shape[2])
    result[:, :, taken:] = 0


def _like_projections(x: Tensor) -> Tensor:
    """(B, H, n, d) in the memory order of projections (B, n, H, d): splitting and joining heads then copies nothing."""
    batch, heads, length, width = x.shape
    return x.new_empty(batch, length, heads, width).transpose(1, 2)


def _precision(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _kept(weights: Tensor, job: _Job, tile: _Tile) -> Tensor:
    """What dropout multiplies the weights with: the same whenever it is asked for, another for every tile."""
    generator = torch.Generator(weights.device).manual_seed((job.seed + tile.number) % 2**62)
    kept = torch.empty_like(weights).bernoulli_(1 - job.dropout, generator=generator)
    return kept.div_(1 - job.dropout)


def _seen(band: Band, q: Tensor, k: Tensor, key_mask: Tensor | None, query_mask: Tensor | None) -> Tensor | None:
    """Queries (B, n) that are kept and see a key; None where all are."""
    keys = k.new_ones(1, k.shape[2], dtype=torch.bool) if key_mask is None else key_mask
    lined = _in_line(keys[:, None, :, None].float(), band, q.shape[2], None)
    counts = _runs(lined, band)[..., 0] @ band.pattern.to(lined.dtype).T
    seen = counts.flatten(1)[:, : q.shape[2]] > 0
    if query_mask is not None:
        seen = seen & query_mask
    return None if bool(seen.all()) else seen.expand(q.shape[0], -1)
