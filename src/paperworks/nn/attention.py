"""Multi-head attention as a token mixer, over PyTorch's fused kernel.

    mix(x) = concat_h( softmax(q_h k_h^T / sqrt(d_h) + bias_h) v_h ) W_o + b_o
    q, k, v = x W_q + b_q, x W_k + b_k, x W_v + b_v

Notes:

1. Masked tokens are set to zero before the projections: a weight of zero alone would not stop a NaN (0 * NaN).
2. A query that may see no key would give 0/0. A row without tokens therefore attends to its (zeroed) padding, and under
   `causal` every position sees at least itself; neither changes a kept output.
3. `softmax` cannot tell a shifted bias, so a key bias changes nothing; it is kept for loading public weights.

Reference: Vaswani et al., Attention Is All You Need (2017, arXiv 1706.03762); rotary positions: Su et al., RoFormer
(2021, arXiv 2104.09864), with the two halves of a head as real and imaginary parts and base 10,000.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.nn.block import check_probability
from paperworks.nn.contract import Traits, check_mask, check_tokens, zero_masked
from paperworks.nn.initial import normal_init

ROTARY_BASE = 10_000.0


def apply_rotary(x: Tensor, positions: Tensor) -> Tensor:
    """Rotate pairs of features by an angle that grows with the position, so that q . k depends on distance alone.

    `(a, b) -> (a cos t - b sin t, a sin t + b cos t)`, a, b = x[..., j], x[..., j + d/2], t = position 10000^(-2j/d)

    Args:
        x: (..., length, d), d even.
        positions: (length,).
    """
    half = x.shape[-1] // 2
    rates = ROTARY_BASE ** -(torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = positions.to(torch.float32)[:, None] * rates
    cosine, sine = angle.cos(), angle.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], -1).to(x.dtype)


class KeyValueCache(NamedTuple):
    """Keys and values of the tokens read so far, each (B, heads, tokens, head_dim)."""

    keys: Tensor
    values: Tensor


class AttentionMixing(nn.Module):
    """Multi-head self-attention.

    Args:
        dim: width of the tokens.
        heads: must divide `dim`.
        causal: each token sees itself and those before it.
        dropout: on the attention weights.
        rotary: rotary positions on queries and keys; without them (and without `bias`) order is invisible.
        bias: a module `(query_positions (n,), key_positions (m,)) -> (heads, n, m)`, added to the logits. Layers may
            share it: close over it in the encoder's factory.

    Shapes: (B, N, D) -> (B, N, D).

    Raises:
        ValueError: `heads` does not divide `dim`, an odd head width with `rotary`, a wrong input or mask.

    Streams: `init_state`, `step` keep keys and values of all tokens. Dense layers: normal(0.02), biases zero.
    """

    supports_mask = True

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        dropout: float = 0.1,
        rotary: bool = False,
        bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        check_probability(dropout, "dropout")
        if rotary and dim // heads % 2:
            raise ValueError(f"rotary: needs an even width per head, got {dim} / {heads} = {dim // heads}")
        self.dim, self.heads, self.causal, self.dropout, self.rotary = dim, heads, causal, dropout, rotary
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.bias = bias
        self.reset_parameters()

    def reset_parameters(self) -> None:
        normal_init(self.qkv)
        normal_init(self.output)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        self._check(x, mask)
        query, key, value = self._project(zero_masked(x, mask))
        allowed = self._allowed(mask, x.shape[1])
        positions = torch.arange(x.shape[1], device=x.device)
        added = self._added(allowed, positions, positions, query.dtype)
        plain_causal = self.causal and added is None
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=added, dropout_p=self._dropout(), is_causal=plain_causal
        )
        return self.output(join_heads(mixed))

    def attention_weights(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The weights (B, heads, N, N) that `forward` gives to values (rows: queries), without dropout."""
        self._check(x, mask)
        query, key, _ = self._project(zero_masked(x, mask))
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        positions = torch.arange(x.shape[1], device=x.device)
        if self.bias is not None:
            logits = logits + self.bias(positions, positions)
        allowed = self._allowed(mask, x.shape[1])
        if allowed is None and self.causal:
            allowed = positions[:, None] >= positions
        if allowed is not None:
            logits = logits.masked_fill(~allowed, float("-inf"))
        return logits.softmax(-1)

    def init_state(self, batch: int) -> KeyValueCache:
        """An empty cache."""
        empty = self.qkv.weight.new_empty(batch, self.heads, 0, self.dim // self.heads)
        return KeyValueCache(empty, empty)

    def step(self, x: Tensor, state: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        """The next token (B, D), and the cache with its key and value added; the old cache is left as it was."""
        position = torch.full((1,), state.keys.shape[2], device=x.device)
        query, key, value = self._project(x[:, None], position)
        state = KeyValueCache(
            torch.cat([state.keys.to(key.dtype), key], 2), torch.cat([state.values.to(value.dtype), value], 2)
        )
        positions = torch.arange(state.keys.shape[2], device=x.device)
        added = self._added(None, position, positions, query.dtype)
        mixed = F.scaled_dot_product_attention(
            query, state.keys, state.values, attn_mask=added, dropout_p=self._dropout()
        )
        return self.output(join_heads(mixed))[:, 0], state

    def flops(self, length: int) -> int:
        """Four projections, and logits and weighted sums (half of them when causal); softmax and bias not counted."""
        pairs = length * (length + 1) // 2 if self.causal else length**2
        return 8 * length * self.dim**2 + 4 * pairs * self.dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}, heads={self.heads}, causal={self.causal}, dropout={self.dropout}, rotary={self.rotary}"

    def _check(self, x: Tensor, mask: Tensor | None) -> None:
        check_tokens(x, dim=self.dim, traits=Traits(), name=type(self).__name__)
        check_mask(mask, x.shape[:2])

    def _project(self, x: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        if self.rotary:
            positions = torch.arange(x.shape[1], device=x.device) if positions is None else positions
            query, key = apply_rotary(query, positions), apply_rotary(key, positions)
        return query, key, value

    def _allowed(self, mask: Tensor | None, length: int) -> Tensor | None:
        """Which query may see which key, broadcast over (B, heads, N, N); None: the kernel's own rule will do."""
        if mask is None:
            return None
        if not self.causal:
            return keep_some(mask)[:, None, None, :]
        positions = torch.arange(length, device=mask.device)
        earlier, itself = positions[:, None] >= positions, positions[:, None] == positions
        return (earlier & mask[:, None, None, :]) | itself

    def _added(self, allowed: Tensor | None, queries: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor | None:
        """What the kernel is to add to the logits (or, as bool, to allow): mask and bias together."""
        if self.bias is None:
            return allowed
        if allowed is None and self.causal:
            allowed = queries[:, None] >= keys
        bias = self.bias(queries, keys).to(dtype)[None]
        return bias if allowed is None else bias.masked_fill(~allowed, float("-inf"))

    def _dropout(self) -> float:
        return self.dropout if self.training else 0.0


def keep_some(mask: Tensor) -> Tensor:
    """The mask, with rows that keep nothing turned to all True: a softmax needs something to be over."""
    return mask | ~mask.any(-1, keepdim=True)


def check_heads(dim: int, heads: int) -> None:
    if heads < 1 or dim % heads:
        raise ValueError(f"heads: must divide dim {dim}, got {heads}")


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, heads, N, D / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads * d)."""
    return x.transpose(1, 2).flatten(2)
