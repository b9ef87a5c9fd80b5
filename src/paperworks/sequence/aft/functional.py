"""The four attention free operators as functions of queries, keys and values.

    Y_t = sigmoid(Q_t) * sum_t' exp(K_t' + w_tt') V_t' / sum_t' exp(K_t' + w_tt')        (elementwise over channels)

    full    w is learned for every pair
    local   w is learned for |t - t'| < s and 0 elsewhere: every pair still interacts
    simple  w = 0
    conv    w depends on the offset and on the head; one key channel a head

Notes:
    - finite for any finite input, in both directions, see `tile.py`; the paper's `exp(K)` overflows at K = 88;
    - sums are kept in float32 whatever the inputs are (float64 stays);
    - a query that sees no key, because all are masked or later, has output 0;
    - only q, k, v, the mean and its logarithm are kept for the backward pass.

Reference: Zhai et al. (2021, arXiv 2105.14103), equations 2-6.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paperworks.nn.contract import check_mask
from paperworks.sequence.aft.band import Window, band_mean
from paperworks.sequence.aft.full import full_mean
from paperworks.sequence.aft.tile import single_precision

Pair = tuple[Tensor, Tensor]
SIMPLE_BLOCK = 64


@single_precision
def aft_full(
    q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | Pair, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """A learned weight for every pair of positions: O(T^2 D) time, O(T D) memory beside the weights.

    Args:
        q, k, v: (B, T, D).
        bias: (T, T), query by key, -inf where a pair is absent; or `(row, column)`, both (T, r), for row column^T,
            which is never multiplied out beyond a block.
        mask: (B, T) bool, True = keep.
        causal: a query sees keys up to its own position.

    Returns:
        (B, T, D).

    Raises:
        ValueError: shapes that do not fit.
    """
    length = _check(q, k, v, mask)
    row, column = bias if isinstance(bias, tuple) else (bias, None)
    if column is None and row.shape != (length, length):
        raise ValueError(f"bias: expected {(length, length)}, got {tuple(row.shape)}")
    if column is not None:
        _check_pair("bias", row, column, length)
    keys, values, row, column = _prepared(k, v, mask, row, column)
    mean = full_mean(row, column, keys.transpose(0, 1), values.transpose(0, 1), causal=causal)
    return _gated(q, mean.transpose(0, 1))


def aft_simple(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """No weights: one mean of all values, gated by each query; O(T D). Arguments and errors as in `aft_full`."""
    _check(q, k, v, mask)
    keys, values, _, _ = _prepared(k, v, mask)
    if not causal:
        top = keys.amax(1, keepdim=True).detach()
        share = torch.exp(keys - top.masked_fill(top == -torch.inf, 0))
        below = share.sum(1, keepdim=True)
        return _gated(q, (share * values).sum(1, keepdim=True) / below.clamp(min=torch.finfo(below.dtype).tiny))
    size = min(SIMPLE_BLOCK, q.shape[1])
    w = keys.new_zeros(1, size, size).masked_fill(
        torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1), -torch.inf
    )
    return _gated(q, _over_blocks(w, keys, values, Window(0, 0, True), size, heads=1))


@single_precision
def aft_local(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    band: Tensor | Pair,
    window: int,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Learned weights for |t - t'| < window and 0 elsewhere: O(T window D) time, O(T D) memory.

    Args:
        q, k, v, mask, causal: as in `aft_full`.
        band: (T, 2 window - 1), the weights of offsets t' - t = -(window - 1) .. window - 1 (causal: (T, window), up to
            0); or `(row, column)`, both (T, r).
        window: 1 keeps only the diagonal.

    Raises:
        ValueError: shapes that do not fit, or a window below 1.
    """
    length = _check(q, k, v, mask)
    if window < 1:
        raise ValueError(f"window: must be >= 1, got {window}")
    row, column = band if isinstance(band, tuple) else (band, None)
    taps = window if causal else 2 * window - 1
    if column is None and row.shape != (length, taps):
        raise ValueError(f"band: expected {(length, taps)}, got {tuple(row.shape)}")
    if column is not None:
        _check_pair("band", row, column, length)
    keys, values, row, column = _prepared(k, v, mask, row, column)
    size, reach = _blocks_of(length, window)
    offsets = _offsets(size, reach, causal, q.device)
    rows = _in_blocks(row, size)
    if column is None:
        index = (offsets + window - 1).clamp(0, taps - 1)
        w = rows.gather(2, index.expand(len(rows), -1, -1))
    else:
        w = rows @ _column_windows(column, size, reach, causal).transpose(1, 2)
    w = w.masked_fill(offsets.abs() >= window, 0)
    if causal:
        w = w.masked_fill(offsets > 0, -torch.inf)
    return _gated(
        q, _over_blocks(w, keys, values, reach if not causal else Window(reach.before, 0, True), size, heads=1)
    )


@single_precision
def aft_conv1d(
    q: Tensor, k: Tensor, v: Tensor, *, weight: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Weights by offset and head, 0 beyond the filter.

    Args:
        q, v, mask, causal: as in `aft_full`; heads are consecutive channels.
        k: (B, T, H), one key a head, or (B, T, D).
        weight: (H, s). s is odd and tap j is for offset t' - t = j - s // 2; causal: any s, offsets -(s - 1) .. 0.

    Raises:
        ValueError: shapes that do not fit, channels that H does not divide, or an even filter.
    """
    heads, taps = _check_filter(weight, q.shape[-1], dims=1, causal=causal)
    length = _check(q, k, v, mask, heads=heads)
    keys, values, weight, _ = _prepared(k, v, mask, weight)
    size, reach = _blocks_of(length, taps if causal else taps // 2 + 1)
    offsets = _offsets(size, reach, causal, q.device)
    tap = offsets + (taps - 1 if causal else taps // 2)
    w = weight[:, tap.clamp(0, taps - 1)].masked_fill((tap < 0) | (tap >= taps), 0)
    if causal:
        w = w.masked_fill(offsets > 0, -torch.inf)
    return _gated(
        q, _over_blocks(w, keys, values, reach if not causal else Window(reach.before, 0, True), size, heads=heads)
    )


@single_precision
def aft_conv2d(q: Tensor, k: Tensor, v: Tensor, *, weight: Tensor) -> Tensor:
    """Weights by offset in rows and columns, and head, on maps.

    Args:
        q, v: (B, D, height, width).
        k: (B, H, height, width), or (B, D, height, width).
        weight: (H, s, s), s odd, zero offset in the middle.

    Returns:
        (B, D, height, width).

    Raises:
        ValueError: shapes that do not fit, channels that H does not divide, or an even filter.
    """
    heads, taps = _check_filter(weight, q.shape[1] if q.ndim == 4 else 0, dims=2, causal=False)
    if q.ndim != 4 or v.shape != q.shape or k.shape not in (q.shape, (len(q), heads, *q.shape[2:])):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(
            f"q, k, v: expected (batch, channels, height, width) alike, k also of {heads} channels, got {shapes}"
        )
    height, width = q.shape[2:]
    reach = min(taps // 2, height - 1)
    along = torch.arange(width, device=q.device) - torch.arange(width, device=q.device)[:, None] + taps // 2
    inside = (along >= 0) & (along < taps)
    lines = weight[:, taps // 2 - reach : taps // 2 + reach + 1]  # (H, rows, s)
    w = _floating(lines)[:, :, along.clamp(0, taps - 1)].masked_fill(~inside, 0)  # (H, rows, width, width)
    w = w.transpose(1, 2).flatten(2)
    keys, values = (_floating(x).flatten(2).transpose(1, 2) for x in (k, v))
    mean = _over_blocks(w, keys, values, Window(reach, reach, False), width, heads=heads)
    return _gated(q, mean.transpose(1, 2).unflatten(2, (height, width)))


# What they share -----------------------------------------------------------------------------------------------------


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, heads: int | None = None) -> int:
    """The length, if shapes fit."""
    if q.ndim != 3:
        raise ValueError(f"q: expected (batch, length, dim), got {tuple(q.shape)}")
    if v.shape != q.shape:
        raise ValueError(f"v: expected (batch, length, dim) = {tuple(q.shape)}, got {tuple(v.shape)}")
    if k.shape != q.shape and k.shape != (*q.shape[:2], heads):
        narrow = "" if heads is None else f" or {(*q.shape[:2], heads)}"
        raise ValueError(f"k: expected (batch, length, dim) = {tuple(q.shape)}{narrow}, got {tuple(k.shape)}")
    if q.shape[1] == 0:
        raise ValueError("q: expected at least one position, got length 0")
    check_mask(mask, q.shape[:2])
    return q.shape[1]


def _check_pair(name: str, row: Tensor, column: Tensor, length: int) -> None:
    if row.ndim != 2 or row.shape != column.shape or len(row) != length:
        raise ValueError(f"{name}: expected two of ({length}, rank), got {tuple(row.shape)} and {tuple(column.shape)}")


def _check_filter(weight: Tensor, dim: int, *, dims: int, causal: bool) -> tuple[int, int]:
    if weight.ndim != 1 + dims or (dims == 2 and weight.shape[1] != weight.shape[2]):
        raise ValueError(f"weight: expected (heads{', s' * dims}), got {tuple(weight.shape)}")
    heads, taps = weight.shape[:2]
    if not causal and taps % 2 == 0:
        raise ValueError(f"window: must be odd for causal=False, got {taps}")
    if dim % heads:
        raise ValueError(f"weight: {heads} heads do not divide {dim} channels")
    return heads, taps


def _floating(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _prepared(
    k: Tensor, v: Tensor, mask: Tensor | None, *weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """In at least single precision, of one type; masked keys are -inf, and values there 0, whatever they were."""
    keys, values = _floating(k), _floating(v)
    if mask is not None:
        keys, values = keys.masked_fill(~mask[..., None], -torch.inf), values.masked_fill(~mask[..., None], 0)
    found = [None if w is None else w.to(keys.dtype) for w in weights]
    return keys, values, *(found + [None, None])[:2]  # pyright: ignore[reportReturnType]


def _gated(q: Tensor, mean: Tensor) -> Tensor:
    return torch.sigmoid(q) * mean.to(q.dtype)


def _blocks_of(length: int, reach: int) -> tuple[int, Window]:
    """Positions of a block, and the blocks that offsets below `reach` touch."""
    size = min(length, 32 if reach <= 32 else 64 if reach <= 64 else 128)
    count = min(-(-(reach - 1) // size), -(-length // size) - 1)
    return size, Window(count, count, False)


def _offsets(size: int, window: Window, causal: bool, device: torch.device) -> Tensor:
    """(P, W): position of a window's key minus position of its query."""
    last = 1 if causal else window.after + 1
    keys = torch.arange(-window.before * size, last * size, device=device)
    return keys - torch.arange(size, device=device)[:, None]


def _in_blocks(x: Tensor, size: int) -> Tensor:
    """(T, r) as (n, P, r), zeros at the end."""
    missing = -len(x) % size
    return torch.nn.functional.pad(x, (0, 0, 0, missing)).unflatten(0, (-1, size))


def _column_windows(column: Tensor, size: int, window: Window, causal: bool) -> Tensor:
    """(T, r) as the windows (n, W, r)."""
    after = 0 if causal else window.after
    blocks = torch.nn.functional.pad(_in_blocks(column, size), (0, 0, 0, 0, window.before, after))
    return blocks.unfold(0, window.before + 1 + after, 1).movedim(-1, 1).flatten(1, 2)


def _over_blocks(w: Tensor, k: Tensor, v: Tensor, window: Window, size: int, *, heads: int) -> Tensor:
    """(B, T, D) from keys (B, T, H or D) and values (B, T, D), through blocks of `size` positions."""
    length = v.shape[1]

    def split(x: Tensor, fill: float) -> Tensor:
        missing = -length % size
        padded = torch.nn.functional.pad(x, (0, 0, 0, missing), value=fill) if missing else x
        return padded.unflatten(1, (-1, size)).unflatten(3, (heads, -1)).permute(3, 1, 2, 0, 4).contiguous()

    mean = band_mean(w, split(k, -torch.inf), split(v, 0.0), window)
    return mean.permute(3, 1, 2, 0, 4).flatten(3).flatten(1, 2)[:, :length]
