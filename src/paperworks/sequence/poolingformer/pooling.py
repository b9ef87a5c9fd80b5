"""Pooling attention: keys and values compressed over short runs of tokens, and attention to the compressed ones.

    cell c = Pool(x_j, j in S_c),  S_c = {c s - k//2, .., c s - k//2 + k - 1},  centre p_c = c s,  c = 0, 1, ..
    z_i = sum_c softmax_c(q_i . K_c / sqrt(d)) V_c   over  |p_c - i| <= w

with pool size k, stride s and window w (the paper's kappa, xi and w2). Pool is the mean, the largest number of every
channel, or LDConv: weights softmax(W x_mid) over the k positions, x_mid the cell's middle token.

The paper is silent on the following; these are this project's decisions, guesses as to what its authors did:

1. The grid of cells is the same for all tokens, so a sequence is pooled once. (A grid centred at each token costs
   2 w k / s numbers a token.)
2. There are cells as long as their run S_c meets the sequence; the last centre may lie beyond its end. Otherwise the
   last tokens are in no cell, and padding would change kept outputs.
3. A cell pools those of its tokens that exist and are kept; weights are renormalised over them. A cell with none is
   invisible. LDConv's middle token counts as zero where it does not exist or is masked: the weights are then uniform.
4. The middle of an even run is its token k//2.
5. Causal attention sees the cells whose whole run, as it would be without the sequence's ends, is not after the token.
6. A token that sees no cell gets 0, and so does a masked one.

Reference: Zhang et al., Poolingformer (2021, arXiv 2105.04371), section 3.2; LDConv: Wu et al., Pay Less Attention with
Lightweight and Dynamic Convolutions (2019, arXiv 1901.10430).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from paperworks.nn.band_attention import Band, band_attention
from paperworks.nn.contract import check_mask
from paperworks.nn.local_attention import check_heads_of, check_window

Pool = Literal["mean", "max"]
Pools = Pool | Tensor | tuple[Tensor, Tensor]
BLOCK = 64


class Cells(NamedTuple):
    """Pooled vectors (B, H, C, d), which of them are over at least one token (B, C), and their centres (C,)."""

    cells: Tensor
    visible: Tensor
    centres: Tensor


def pooled_cells(
    x: Tensor, *, pool_size: int, stride: int, pool: Pool | Tensor = "mean", mask: Tensor | None = None
) -> Cells:
    """Pool vectors over runs of `pool_size` positions, every `stride` positions.

    Args:
        x: (B, H, n, d).
        pool_size, stride: k and s, 1 <= s <= k.
        pool: "mean", "max", or LDConv's weight W (H, k, d).
        mask: (B, n) bool, True = keep.

    Returns:
        `Cells`; C = (n - 1 + k//2) // s + 1. An invisible cell is 0.

    Raises:
        ValueError: naming the argument, what came and what was expected.

    Reference: section 3.2 of the paper; see the module for what it leaves open.
    """
    if x.ndim != 4 or not x.numel():
        raise ValueError(f"x: expected (batch, heads, length, head_dim), got {tuple(x.shape)}")
    check_stride(pool_size, stride)
    check_pool(pool, x, pool_size)
    check_mask(mask, (x.shape[0], x.shape[2]))
    count = cell_count(x.shape[2], pool_size=pool_size, stride=stride)
    before = pool_size // 2
    after = (count - 1) * stride + pool_size - before - x.shape[2]
    kept = x.new_ones(1, x.shape[2], dtype=torch.bool) if mask is None else mask
    kept = F.pad(kept, (before, after)).unfold(1, pool_size, stride)
    if mask is not None:
        x = x.masked_fill(~mask[:, None, :, None], 0)
    padded = F.pad(x, (0, 0, before, after))
    visible = kept.any(-1)
    centres = torch.arange(count, device=x.device) * stride
    if isinstance(pool, str) and pool == "max":
        cells = _largest(padded, kept, visible, stride)
    else:
        weights = _uniform(kept, x) if isinstance(pool, str) else _dynamic(padded, pool, kept, stride)
        cells = _WeightedSum.apply(padded, weights, stride)
    return Cells(cells, visible.expand(x.shape[0], -1), centres)  # pyright: ignore[reportArgumentType]


def cell_count(length: int, *, pool_size: int, stride: int) -> int:
    """Cells whose run meets 0 .. length - 1."""
    return (length - 1 + pool_size // 2) // stride + 1


def _uniform(kept: Tensor, x: Tensor) -> Tensor:
    """(B or 1, 1, C, k)."""
    weights = kept.to(x.dtype)
    return (weights / weights.sum(-1, keepdim=True).clamp(min=1))[:, None]


def _dynamic(padded: Tensor, weight: Tensor, kept: Tensor, stride: int) -> Tensor:
    """LDConv's weights (B, H, C, k)."""
    middle = padded[:, :, weight.shape[1] // 2 :: stride][:, :, : kept.shape[1]]
    logits = middle @ weight.to(middle.dtype).transpose(1, 2)
    # Where nothing is kept all is allowed, so that no softmax is over nothing; the vectors there are zero.
    allowed = kept | ~kept.any(-1, keepdim=True)
    return logits.masked_fill(~allowed[:, None], -torch.inf).softmax(-1)


def _largest(padded: Tensor, kept: Tensor, visible: Tensor, stride: int) -> Tensor:
    runs = padded.unfold(2, kept.shape[2], stride)
    cells = runs.masked_fill(~kept[:, None, :, None], -torch.inf).amax(-1)
    return cells.masked_fill(~visible[:, None, :, None], 0)


class _WeightedSum(torch.autograd.Function):
    """sum_r w[.., c, r] x[.., c s + r, :]: x (B, H, L, d), w (B or 1, H or 1, C, k) -> (B, H, C, d).

    As a sum over views, whose products are not kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.stride = stride
        weights = weights.to(x.dtype)
        total = _every(x, 0, weights, stride) * weights[..., :1]
        for place in range(1, weights.shape[3]):
            total.addcmul_(_every(x, place, weights, stride), weights[..., place, None])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weights = ctx.saved_tensors
        slope, dx = grads[0], torch.zeros_like(x)
        dw = x.new_empty(*x.shape[:2], *weights.shape[2:]) if ctx.needs_input_grad[1] else None
        for place in range(weights.shape[3]):
            _every(dx, place, weights, ctx.stride).addcmul_(slope, weights[..., place, None].to(x.dtype))
            if dw is not None:
                dw[..., place] = (_every(x, place, weights, ctx.stride) * slope).sum(-1)
        return dx, None if dw is None else dw.to(weights.dtype), None


def _every(x: Tensor, place: int, weights: Tensor, stride: int) -> Tensor:
    """The token at one place of every cell's run, a view (B, H, C, d)."""
    return x[:, :, place::stride][:, :, : weights.shape[2]]


# Attention -----------------------------------------------------------------------------------------------------------


def pooling_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int,
    pool_size: int,
    stride: int,
    pool: Pools = "mean",
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of each token to the pooled keys and values around it.

    Args:
        q, k, v: (B, H, n, d).
        window: largest distance from a token to the centre of a cell.
        pool_size, stride: positions of a cell, and from one cell to the next, 1 <= stride <= pool_size.
        pool: "mean", "max", or LDConv's weight (H, pool_size, d); of a pair the first is for keys, the second for
            values, and one tensor is for both.
        mask: (B, n) bool, True = keep.
        causal: only cells that lie wholly at or before the token.
        dropout: of the weights, in [0, 1); pass 0 in evaluation.

    Returns:
        (B, H, n, d); 0 where a token is masked or sees no cell.

    Raises:
        ValueError: naming the argument, what came and what was expected.

    Reference: section 3.2 of the paper, equations for the second level; its decisions are listed in the module.
    """
    check_heads_of(q, k, v)
    check_window(window, "window")
    of_keys, of_values = pool if isinstance(pool, tuple) else (pool, pool)
    keys = pooled_cells(k, pool_size=pool_size, stride=stride, pool=of_keys, mask=mask)
    values = pooled_cells(v, pool_size=pool_size, stride=stride, pool=of_values, mask=mask)
    return attend_to_cells(
        q, keys, values.cells, window=window, pool_size=pool_size, stride=stride, mask=mask, causal=causal,  # pyright: ignore[reportCallIssue]
        dropout=dropout,
    )  # fmt: skip


@torch.compiler.disable
def attend_to_cells(
    q: Tensor,
    keys: Cells,
    values: Tensor,
    *,
    window: int,
    pool_size: int,
    stride: int,
    mask: Tensor | None,
    causal: bool,
    dropout: float = 0.0,
) -> Tensor:
    """The second half of `pooling_attention`: cells of keys, and the vectors (B, H, C, d) of the same cells' values."""
    length, count = q.shape[2], keys.cells.shape[2]
    window = min(window, length - 1 + pool_size)
    band = cell_band(window, pool_size, stride, causal, q.device)
    visible = None if mask is None else keys.visible
    if band.span < count:
        return band_attention(q, keys.cells, values, band=band, key_mask=visible, query_mask=mask, dropout=dropout)
    allowed = _allowed(torch.arange(length, device=q.device)[:, None], keys.centres, window, pool_size, causal)[None]
    if mask is not None:
        allowed = allowed & keys.visible[:, None, :] & mask[:, :, None]
    seen = allowed.any(-1, keepdim=True)
    y = F.scaled_dot_product_attention(q, keys.cells, values, attn_mask=(allowed | ~seen)[:, None], dropout_p=dropout)
    return y.masked_fill(~seen[:, None], 0)


def _allowed(token: Tensor, centre: Tensor, window: int, pool_size: int, causal: bool) -> Tensor:
    near = (centre - token).abs() <= window
    last = centre + pool_size - 1 - pool_size // 2
    return near & (last <= token) if causal else near


@lru_cache(maxsize=64)
def cell_band(window: int, pool_size: int, stride: int, causal: bool, device: torch.device) -> Band:
    """Which cells a block of tokens sees; blocks are whole strides long, so that all look alike."""
    step = max(1, BLOCK // stride)
    block, front = step * stride, window // stride
    last = block - 1 + (0 if causal else window)
    centre = torch.arange(-front, last // stride + 1, device=device) * stride
    token = torch.arange(block, device=device)[:, None]
    return Band(_allowed(token, centre, window, pool_size, causal), step=step, front=front)


# Doors ---------------------------------------------------------------------------------------------------------------


def check_stride(pool_size: int, stride: int) -> None:
    """Refuse runs that leave tokens out."""
    if pool_size < 1:
        raise ValueError(f"pool_size: must be >= 1, got {pool_size}")
    if not 1 <= stride <= pool_size:
        why = f" > {pool_size} (gaps lose tokens)" if stride > pool_size else ""
        raise ValueError(f"stride: must be in 1..pool_size, got {stride}{why}")


def check_pool(pool: Pool | Tensor, x: Tensor, pool_size: int) -> None:
    """Refuse an unknown operator, or a weight of another shape."""
    if isinstance(pool, Tensor):
        expected = (x.shape[1], pool_size, x.shape[3])
        if tuple(pool.shape) != expected:
            raise ValueError(f"pool: expected (heads, pool_size, head_dim) = {expected}, got {tuple(pool.shape)}")
    elif pool not in ("mean", "max"):
        raise ValueError(f"pool: expected mean, max or LDConv's weight, a tensor, got {pool!r}")
