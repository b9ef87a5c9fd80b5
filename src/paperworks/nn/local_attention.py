"""Sliding-window attention of linear cost, as a function and as a token mixer.

    y_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j  over  |i - j| <= w,  and j <= i where causal

Notes:

1. `window` is one-sided: a query sees 2 w + 1 keys. Longformer counts the total: its `attention_window` 256 is w = 128.
2. Any length will do; nothing is padded to a multiple of the window, and nothing of size n x n is made.
3. Global tokens, as in Longformer, see all tokens and are seen by all, here through the same projections as the others
   (Longformer has a second set). Their cost is n times the largest number of them in an example.
4. A masked token is no key, and its own output is 0.
5. PyTorch's FlexAttention has no backward pass on a CPU, so training there goes through `band_attention`.

Reference: Beltagy et al., Longformer (2020, arXiv 2004.05150), section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.nn.attention import apply_rotary, check_heads, join_heads, split_heads
from paperworks.nn.band_attention import HIDDEN, Band, band_attention, band_attention_and_total
from paperworks.nn.block import check_probability
from paperworks.nn.contract import Traits, check_mask, check_tokens, zero_masked
from paperworks.nn.initial import normal_init

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Backend = Literal["auto", "band", "flex", "dense"]
FLEX_BLOCK = 128


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int,
    mask: Tensor | None = None,
    causal: bool = False,
    global_mask: Tensor | None = None,
    dropout: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """Attention of each token to those at most `window` positions away.

    Args:
        q, k, v: (B, H, n, d).
        window: keys to either side, 0 or more; from n - 1 on this is full attention.
        mask: (B, n) bool, True = keep.
        causal: a token sees itself and those before it, global ones included.
        global_mask: (B, n) bool: tokens that see all and are seen by all.
        dropout: of the weights, in [0, 1); pass 0 in evaluation.
        backend: "band": tiles, forward and backward on any device; "flex": FlexAttention, compiled for CUDA, without
            dropout, global tokens, or training on a CPU; "dense": one fused call with an n x n mask, the plain twin;
            "auto": dense where the sequence is no longer than a tile's run of keys, else flex on CUDA where it can,
            else band.

    Returns:
        (B, H, n, d) in the type of `q`; 0 where `mask` is False.

    Raises:
        ValueError: a negative window, shapes or masks that do not fit, an unknown backend, or one that cannot do what
            is asked.

    Reference: Beltagy et al. (2020, arXiv 2004.05150), section 3.1.
    """
    check_heads_of(q, k, v)
    check_window(window, "window")
    check_probability(dropout, "dropout")
    check_mask(mask, (q.shape[0], q.shape[2]))
    check_mask(global_mask, (q.shape[0], q.shape[2]), name="global_mask")
    if backend not in get_args(Backend):
        raise ValueError(f"backend: expected one of {', '.join(get_args(Backend))}, got {backend!r}")
    if mask is not None and global_mask is not None:
        global_mask = global_mask & mask
    if backend == "auto":
        backend = _choose(q, window, plain=global_mask is None and not dropout)
    if backend == "flex":
        _check_flex(q, k, v, global_mask, dropout)
        return _flex(q, k, v, window, mask, causal)
    if backend == "dense":
        return _dense(q, k, v, window, mask, causal, global_mask, dropout)
    return _banded(q, k, v, window, mask, causal, global_mask, dropout)  # pyright: ignore[reportCallIssue]


# Compilers leave the tiles alone: they are matrix products already, and tracing their loop takes minutes.
@torch.compiler.disable
def _banded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    mask: Tensor | None,
    causal: bool,
    global_mask: Tensor | None,
    dropout: float,
) -> Tensor:
    band = window_band(min(window, q.shape[2] - 1), causal, q.device)
    if global_mask is None:
        return band_attention(q, k, v, band=band, key_mask=mask, query_mask=mask, dropout=dropout)
    return _with_global_tokens(q, k, v, band, window, mask, causal, global_mask, dropout)


def window_block(window: int) -> int:
    """Queries of one block: measured on a CPU in single precision, forward and backward, for 16 to 128 a head."""
    return 64 if window >= 64 else 32


@lru_cache(maxsize=64)
def window_band(window: int, causal: bool, device: torch.device) -> Band:
    """The band of a sliding window."""
    block = window_block(window)
    after = 0 if causal else window
    query = torch.arange(block, device=device)[:, None]
    key = torch.arange(-window, block + after, device=device)
    pattern = (key >= query - window) & (key <= query + after)
    return Band(pattern, step=block, front=window)


def _choose(q: Tensor, window: int, *, plain: bool) -> Backend:
    if q.shape[2] <= window_block(window) + 2 * window:
        return "dense"
    return "flex" if q.is_cuda and plain else "band"


# Dense ---------------------------------------------------------------------------------------------------------------


def _dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    mask: Tensor | None,
    causal: bool,
    global_mask: Tensor | None,
    dropout: float,
) -> Tensor:
    position = torch.arange(q.shape[2], device=q.device)
    allowed = ((position[:, None] - position).abs() <= window)[None]
    if global_mask is not None:
        allowed = allowed | global_mask[:, :, None] | global_mask[:, None, :]
    if causal:
        allowed = allowed & (position[:, None] >= position)
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None], dropout_p=dropout)
    # A masked query still sees itself, so that no softmax is over nothing; its output is dropped.
    itself = position[:, None] == position
    allowed = (allowed & mask[:, None, :]) | itself
    q, k, v = (_zeroed(x, mask) for x in (q, k, v))
    return _zeroed(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None], dropout_p=dropout), mask)


def _zeroed(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(~mask[:, None, :, None], 0)


# Global tokens -------------------------------------------------------------------------------------------------------


def _with_global_tokens(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    band: Band,
    window: int,
    mask: Tensor | None,
    causal: bool,
    global_mask: Tensor,
    dropout: float,
) -> Tensor:
    """The band, merged with the columns of the global tokens outside of it; then their own rows in place of it."""
    count = int(global_mask.sum(1).max())
    if not count:
        return band_attention(q, k, v, band=band, key_mask=mask, query_mask=mask, dropout=dropout)
    if mask is not None:
        q, k, v = (_zeroed(x, mask) for x in (q, k, v))
    # The global tokens of each example come first; where it has fewer than `count`, other ones fill up.
    at = global_mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
    real = global_mask.gather(1, at)
    near, near_total = band_attention_and_total(q, k, v, band=band, key_mask=mask, query_mask=mask, dropout=dropout)
    offset = torch.arange(q.shape[2], device=q.device)[:, None] - at[:, None, :]  # (B, n, count)
    outside = real[:, None, :] & (offset.abs() > window) & ((offset > 0) | (not causal))
    far, far_total = _attend_few(q, _take(k, at), _take(v, at), outside, dropout)
    share = torch.sigmoid(near_total - far_total)[..., None].to(near.dtype)
    y = far + share * (near - far)
    seen = (offset <= 0).transpose(1, 2) if causal else torch.ones_like(offset, dtype=torch.bool).transpose(1, 2)
    if mask is not None:
        seen = seen & mask[:, None, :]
    seen = (seen | ~real[:, :, None])[:, None]
    rows = F.scaled_dot_product_attention(_take(q, at), k, v, attn_mask=seen, dropout_p=dropout)
    rows = torch.where(real[:, None, :, None], rows, _take(y, at))
    y = y.scatter(2, at[:, None, :, None].expand_as(rows), rows)
    return y if mask is None else _zeroed(y, mask)


def _attend_few(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
    """Attention to a few keys, and the log-sum-exp of the logits, far below zero where none is allowed."""
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    scores = scores.to(torch.promote_types(q.dtype, torch.float32)).masked_fill(~allowed[:, None], HIDDEN)
    weights = F.dropout(scores.softmax(-1), dropout)
    return weights.to(v.dtype) @ v, scores.logsumexp(-1)


def _take(x: Tensor, at: Tensor) -> Tensor:
    """Positions (B, g) of (B, H, n, d), as (B, H, g, d)."""
    return x.gather(2, at[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


# FlexAttention -------------------------------------------------------------------------------------------------------


def _flex(q: Tensor, k: Tensor, v: Tensor, window: int, mask: Tensor | None, causal: bool) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    if mask is not None:
        q, k, v = (_zeroed(x, mask) for x in (q, k, v))
    # Uncompiled it would make an n x n table, which on a CPU only tests ask for.
    attend = _compiled_flex() if q.is_cuda else flex_attention
    y = attend(q, k, v, block_mask=flex_blocks(q.shape[0], q.shape[2], window, mask, causal, q.device))
    return y if mask is None else _zeroed(y, mask)  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def flex_blocks(
    batch: int, length: int, window: int, mask: Tensor | None, causal: bool, device: torch.device
) -> BlockMask:
    """FlexAttention's list of key blocks for each query block, written down rather than found in an n x n table."""
    from torch.nn.attention.flex_attention import BlockMask

    count = -(-length // FLEX_BLOCK)
    block = torch.arange(count, device=device)
    first = ((block * FLEX_BLOCK - window).clamp(min=0)) // FLEX_BLOCK
    last = block if causal else ((block * FLEX_BLOCK + FLEX_BLOCK - 1 + window) // FLEX_BLOCK).clamp(max=count - 1)
    number = last - first + 1
    listed = (first[:, None] + torch.arange(count, device=device)) % count
    kept = torch.ones(batch, length, dtype=torch.bool, device=device) if mask is None else mask

    def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = (query - key <= window) & (key - query <= (0 if causal else window))
        return near & (kept[row, key] | (query == key))

    return BlockMask.from_kv_blocks(
        number.to(torch.int32).expand(1, 1, -1),
        listed.to(torch.int32).expand(1, 1, -1, -1),
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=allowed,
        seq_lengths=(length, length),
    )


# Doors ---------------------------------------------------------------------------------------------------------------


def check_window(window: int | None, name: str) -> None:
    """Refuse a negative window."""
    if window is None or window < 0:
        raise ValueError(f"{name}: must be >= 0, got {window}")


def check_heads_of(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse queries, keys and values that are not (batch, heads, length, head_dim), all of one shape."""
    if q.ndim != 4 or not q.numel():
        raise ValueError(f"q: expected (batch, heads, length, head_dim), got {tuple(q.shape)}")
    for name, x in (("k", k), ("v", v)):
        if x.shape != q.shape:
            raise ValueError(f"{name}: expected {tuple(q.shape)} as q, got {tuple(x.shape)}")


def _check_flex(q: Tensor, k: Tensor, v: Tensor, global_mask: Tensor | None, dropout: float) -> None:
    if global_mask is not None or dropout:
        raise ValueError('backend: "flex" has neither global tokens nor dropout; use "band" or "auto"')
    if not q.is_cuda and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise ValueError('backend: "flex" has no backward pass on a CPU; use "band" or "auto"')


# Mixer ---------------------------------------------------------------------------------------------------------------


class LocalAttentionMixing(nn.Module):
    """Multi-head attention in a sliding window.

    `mix(x) = concat_h(local_attention(q_h, k_h, v_h)) W_o + b_o`,  q, k, v = x W + b

    Args:
        dim: width of the tokens.
        heads: must divide `dim`.
        window: tokens to either side.
        causal: each token sees itself and those before it.
        rotary: rotary positions on queries and keys; without them order is visible only in what the window cuts off.
        dropout: on the attention weights.

    Shapes: (B, N, D) -> (B, N, D); context `global_mask` (B, N) bool.

    Raises:
        ValueError: `heads` does not divide `dim`, a negative window, an odd head width with `rotary`, a wrong input.

    Dense layers: normal(0.02), biases zero.
    """

    supports_mask = True
    context_names = ("global_mask",)

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: int,
        causal: bool = False,
        rotary: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        check_window(window, "window")
        check_probability(dropout, "dropout")
        check_rotary(dim, heads, rotary)
        self.dim, self.heads, self.window = dim, heads, window
        self.causal, self.rotary, self.dropout = causal, rotary, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        normal_init(self.qkv)
        normal_init(self.output)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, global_mask: Tensor | None = None) -> Tensor:
        check_tokens(x, dim=self.dim, traits=Traits(), name=type(self).__name__)
        check_mask(mask, x.shape[:2])
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(zero_masked(x, mask)).chunk(3, -1))
        if self.rotary:
            positions = torch.arange(x.shape[1], device=x.device)
            q, k = apply_rotary(q, positions), apply_rotary(k, positions)
        mixed = local_attention(
            q, k, v, window=self.window, mask=mask, causal=self.causal, global_mask=global_mask,
            dropout=self.dropout if self.training else 0.0,
        )  # fmt: skip
        return self.output(join_heads(mixed))

    def flops(self, length: int) -> int:
        """Four projections, and logits and weighted sums of a whole window per token; global tokens are not counted."""
        return 8 * length * self.dim**2 + 4 * length * window_keys(self.window, causal=self.causal) * self.dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}, heads={self.heads}, window={self.window}, causal={self.causal}, rotary={self.rotary}"


def window_keys(window: int, *, causal: bool = False) -> int:
    """Keys in the window of a token that is not near an end."""
    return window + 1 if causal else 2 * window + 1


def check_rotary(dim: int, heads: int, rotary: bool) -> None:
    """Refuse rotary positions on heads of odd width."""
    if rotary and dim // heads % 2:
        raise ValueError(f"rotary: needs an even width per head, got {dim} / {heads} = {dim // heads}")
