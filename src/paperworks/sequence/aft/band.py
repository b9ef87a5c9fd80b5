"""Weighted means over a sequence of blocks: own weights for the blocks around a query, weight 0 for all others.

Layout: keys k (H, n, P, B, C') and values v (H, n, P, B, C), n blocks of P positions. A query of block i sees blocks
i - before .. i + after, its window, through weights, and everything left and (unless causal) right of it with w = 0.
The paper's formula, a sum over all keys plus one weighted by exp(w) - 1, cancels in floating point where w is far
below 0 and overflows where it is far above; this is the equal sum of positive terms.

What lies outside the window is a scan over block means, what lies inside a dense tile, so time and memory are linear in
the number of blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from paperworks.sequence.aft.tile import Mean, Slopes, merge, single_precision, tile_mean, tile_slopes

# Numbers of a chunk of windows.
CHUNK = 2**21


class Window(NamedTuple):
    """Blocks before and after a query's own that its weights reach, and whether anything comes after at all."""

    before: int
    after: int
    causal: bool

    @property
    def blocks(self) -> int:
        return self.before + 1 + self.after


def band_mean(w: Tensor, k: Tensor, v: Tensor, window: Window) -> Tensor:
    """y (H, n, P, B, C).

    Args:
        w: (n, P, W), own weights of every block, with H = 1; or (H, P, W), the same for all blocks. W = P times the
            blocks of the window; pairs that do not exist are -inf.
        k, v: as above, k = -inf where there is no key.
        window: how far w reaches.
    """
    return _Band.apply(w, k, v, window)  # pyright: ignore[reportReturnType]


class _Band(torch.autograd.Function):
    @staticmethod
    @single_precision
    def forward(ctx: Any, w: Tensor, k: Tensor, v: Tensor, window: Window) -> Tensor:
        mean = _windows_mean(w, k, v, window)
        mean = merge(mean, _spread(_left(k, v, window.before + 1)))
        if not window.causal:
            right = _left(k.flip(1), v.flip(1), window.after + 1)
            mean = merge(mean, _spread(Mean(right.y.flip(1), right.l.flip(1))))
        ctx.save_for_backward(w, k, v, *mean)
        ctx.window = window
        return mean.y

    @staticmethod
    @single_precision
    def backward(ctx: Any, *grads: Tensor) -> Any:
        w, k, v, y, l = ctx.saved_tensors  # noqa: E741
        window, mean = ctx.window, Mean(y, l)
        slopes = _windows_slopes(w, k, v, grads[0], mean, window, of_w=ctx.needs_input_grad[0])
        left = _left_slopes(k, v, grads[0], mean, window.before + 1)
        slopes.k.add_(left.k)
        slopes.v.add_(left.v)
        if not window.causal:
            right = _left_slopes(k.flip(1), v.flip(1), grads[0].flip(1), Mean(y.flip(1), l.flip(1)), window.after + 1)
            slopes.k.add_(right.k.flip(1))
            slopes.v.add_(right.v.flip(1))
        return slopes.w, slopes.k, slopes.v, None


def _spread(mean: Mean) -> Mean:
    """A block's mean for each of its positions."""
    return Mean(mean.y[:, :, None], mean.l[:, :, None])


# Inside the window ---------------------------------------------------------------------------------------------------


def _padded(x: Tensor, window: Window, fill: float) -> Tensor:
    """With empty blocks at either end, so that every block has a whole window."""
    ends = [x.new_full((x.shape[0], count, *x.shape[2:]), fill) for count in (window.before, window.after)]
    return torch.cat([ends[0], x, ends[1]], 1)


def _chunks(k: Tensor, v: Tensor, window: Window) -> list[tuple[int, int]]:
    """Ranges of blocks whose windows fit into a chunk."""
    heads, count, size, batch, channels = v.shape
    each = heads * window.blocks * size * batch * (channels + k.shape[4])
    step = max(1, CHUNK // each)
    return [(first, min(first + step, count)) for first in range(0, count, step)]


def _as_tile(x: Tensor, first: int, last: int, window: Window, shared: bool) -> Tensor:
    """The windows of some blocks: (n, W, B, C), or with shared weights (H, W, n B, C)."""
    if window.blocks == 1:
        part = x[:, first:last]
    else:
        part = x[:, first : last + window.blocks - 1].unfold(1, window.blocks, 1).movedim(-1, 2).flatten(2, 3)
    return part.movedim(1, 2).flatten(2, 3) if shared else part[0]


def _queries_as_tile(x: Tensor, first: int, last: int, shared: bool) -> Tensor:
    return x[:, first:last].movedim(1, 2).flatten(2, 3) if shared else x[0, first:last]


def _as_blocks(x: Tensor, count: int, batch: int, shared: bool) -> Tensor:
    """A tile's rows (G, T, M, C) as (H, n, T, B, C)."""
    return x.unflatten(2, (count, batch)).movedim(2, 1) if shared else x[None]


def _shared(w: Tensor, v: Tensor) -> bool:
    heads, count, size = v.shape[:3]
    own = w.shape[:2] == (count, size) and heads == 1
    if not own and w.shape[:2] != (heads, size):
        raise ValueError(f"w: expected ({count}, {size}, W) or ({heads}, {size}, W), got {tuple(w.shape)}")
    return not own or count == 1


def _windows_mean(w: Tensor, k: Tensor, v: Tensor, window: Window) -> Mean:
    shared, batch = _shared(w, v), v.shape[3]
    keys, values = _padded(k, window, -torch.inf), _padded(v, window, 0.0)
    found = Mean(torch.empty_like(v), torch.empty_like(k))
    for first, last in _chunks(k, v, window):
        some_keys, some_values = (_as_tile(x, first, last, window, shared) for x in (keys, values))
        mean = tile_mean(w if shared else w[first:last], some_keys, some_values)
        found.y[:, first:last] = _as_blocks(mean.y, last - first, batch, shared)
        found.l[:, first:last] = _as_blocks(mean.l, last - first, batch, shared)
    return found


def _windows_slopes(w: Tensor, k: Tensor, v: Tensor, g: Tensor, mean: Mean, window: Window, *, of_w: bool) -> Slopes:
    shared, batch, size = _shared(w, v), v.shape[3], v.shape[2]
    keys, values = _padded(k, window, -torch.inf), _padded(v, window, 0.0)
    dw, dk, dv = torch.zeros_like(w) if of_w else None, torch.zeros_like(keys), torch.zeros_like(values)
    for first, last in _chunks(k, v, window):
        some_keys, some_values = (_as_tile(x, first, last, window, shared) for x in (keys, values))
        rate, y, l = (_queries_as_tile(x, first, last, shared) for x in (g, mean.y, mean.l))  # noqa: E741
        rows = w if shared else w[first:last]
        slopes = tile_slopes(rows, some_keys, some_values, rate, Mean(y, l), of_w=of_w)
        if dw is not None and slopes.w is not None:
            (dw if shared else dw[first:last]).add_(slopes.w)
        for total, part in ((dk, slopes.k), (dv, slopes.v)):
            blocks = _as_blocks(part, last - first, batch, shared)
            for offset in range(window.blocks):
                total[:, first + offset : last + offset] += blocks[:, :, offset * size : (offset + 1) * size]
    inner = slice(window.before, window.before + k.shape[1])
    return Slopes(dw, dk[:, inner], dv[:, inner])


# Outside of it -------------------------------------------------------------------------------------------------------


def _left(k: Tensor, v: Tensor, skip: int) -> Mean:
    """The mean with w = 0 over all blocks at least `skip` before each: y (H, n, B, C), l (H, n, B, C')."""
    top = k.amax(2, keepdim=True)
    top = top.masked_fill(top == -torch.inf, 0)
    ek = torch.exp(k - top)
    below = ek.sum(2)
    blocks = Mean((ek * v).sum(2) / below.clamp(min=torch.finfo(below.dtype).tiny), below.log() + top[:, :, 0])
    size = 1
    while size < k.shape[1]:
        earlier = Mean(_shift(blocks.y, size, 0.0), _shift(blocks.l, size, -torch.inf))
        blocks, size = merge(earlier, blocks), 2 * size
    return Mean(_shift(blocks.y, skip, 0.0), _shift(blocks.l, skip, -torch.inf))


def _shift(x: Tensor, count: int, fill: float) -> Tensor:
    """Moved `count` blocks to the right."""
    count = min(count, x.shape[1])
    return torch.cat([x.new_full((x.shape[0], count, *x.shape[2:]), fill), x[:, : x.shape[1] - count]], 1)


def _left_slopes(k: Tensor, v: Tensor, g: Tensor, mean: Mean, skip: int) -> Slopes:
    """Gradients through `_left`: of each key the sum over all queries at least `skip` blocks after it.

    exp(k - l) of a pair is at most one, so sums of g exp(-l) are kept relative to the largest exp(-l) among them.
    """
    top = (-mean.l).masked_fill(mean.l == -torch.inf, -torch.inf).amax(2)
    base = top.masked_fill(top == -torch.inf, 0)[:, :, None]
    scale = torch.exp(-mean.l - base).masked_fill(mean.l == -torch.inf, 0)
    scaled = g * scale
    pulled = scaled * mean.y
    if k.shape[4] < v.shape[4]:
        pulled = pulled.sum(4, keepdim=True)
    sums = (scaled.sum(2), pulled.sum(2))
    size = 1
    while size < k.shape[1]:
        later = _unshift(top, size, -torch.inf)
        most = torch.maximum(top, later)
        base = most.masked_fill(most == -torch.inf, 0)
        old, new = torch.exp(top - base), torch.exp(later - base)
        sums = tuple(part * old + _unshift(part, size, 0.0) * new for part in sums)
        top, size = most, 2 * size
    scaled, pulled = (_unshift(part, skip, 0.0)[:, :, None] for part in sums)
    share = torch.exp(k + _unshift(top, skip, -torch.inf)[:, :, None])
    moved = v * scaled
    if k.shape[4] < v.shape[4]:
        moved = moved.sum(4, keepdim=True)
    return Slopes(None, share * (moved - pulled), share * scaled)


def _unshift(x: Tensor, count: int, fill: float) -> Tensor:
    """Moved `count` blocks to the left."""
    count = min(count, x.shape[1])
    return torch.cat([x[:, count:], x.new_full((x.shape[0], count, *x.shape[2:]), fill)], 1)
