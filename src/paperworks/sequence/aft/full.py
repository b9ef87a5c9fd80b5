"""The mean over all pairs with a learned weight each, block of keys by block of keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paperworks.sequence.aft.tile import Mean, merge, single_precision, tile_mean, tile_slopes

# Keys of one tile. The certificate of a tile bounds what may underflow by 1e-38 a key, so it must not grow much beyond.
BLOCK = 1024


def full_mean(row: Tensor, column: Tensor | None, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """y (T, B, C).

    Args:
        row: the weights (T, T), or (T, r) with `column` (T, r): w = row column^T, of which only a block exists at once.
        k, v: (T, B, C); k = -inf where there is no key.
    """
    return _Full.apply(row, column, k, v, causal)  # pyright: ignore[reportReturnType]


class _Full(torch.autograd.Function):
    @staticmethod
    @single_precision
    def forward(ctx: Any, row: Tensor, column: Tensor | None, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        mean = Mean(torch.zeros_like(v), torch.full_like(k, -torch.inf))
        for keys in _blocks(len(k)):
            first = keys.start if causal else 0
            tile = tile_mean(_weights(row, column, keys, causal), k[None, keys], v[None, keys])
            both = merge(Mean(mean.y[first:], mean.l[first:]), Mean(tile.y[0], tile.l[0]))
            mean.y[first:], mean.l[first:] = both
        ctx.save_for_backward(row, column, k, v, *mean)
        ctx.causal = causal
        return mean.y

    @staticmethod
    @single_precision
    def backward(ctx: Any, *grads: Tensor) -> Any:
        row, column, k, v, y, l = ctx.saved_tensors  # noqa: E741
        g, causal = grads[0], ctx.causal
        of_w = any(ctx.needs_input_grad[:2])
        dk, dv = torch.empty_like(k), torch.empty_like(v)
        drow = torch.zeros_like(row) if of_w else None
        dcolumn = torch.zeros_like(column) if of_w and column is not None else None
        for keys in _blocks(len(k)):
            first = keys.start if causal else 0
            weights = _weights(row, column, keys, causal)
            mean = Mean(y[None, first:], l[None, first:])
            slopes = tile_slopes(weights, k[None, keys], v[None, keys], g[None, first:], mean, of_w=of_w)
            dk[keys], dv[keys] = slopes.k[0], slopes.v[0]
            if drow is None or slopes.w is None:
                continue
            if column is None or dcolumn is None:
                drow[first:, keys] = slopes.w[0]
            else:
                drow[first:].addmm_(slopes.w[0], column[keys])
                dcolumn[keys] = slopes.w[0].T @ row[first:]
        return drow, dcolumn, dk, dv, None


def _blocks(length: int) -> list[slice]:
    return [slice(first, min(first + BLOCK, length)) for first in range(0, length, BLOCK)]


def _weights(row: Tensor, column: Tensor | None, keys: slice, causal: bool) -> Tensor:
    """(1, T, S) of a block of keys; causal: only of queries from its first on, later keys -inf."""
    first = keys.start if causal else 0
    w = row[first:, keys] if column is None else row[first:] @ column[keys].T
    if causal:
        size = w.shape[1]
        later = torch.ones(size, size, dtype=torch.bool, device=w.device).triu(1)
        w = torch.cat([w[:size].masked_fill(later, -torch.inf), w[size:]])
    return w[None]
