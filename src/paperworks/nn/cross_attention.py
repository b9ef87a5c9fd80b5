"""Attention from one sequence to another."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.nn.attention import check_heads, join_heads, keep_some, split_heads
from paperworks.nn.block import check_probability
from paperworks.nn.contract import check_mask, zero_masked
from paperworks.nn.initial import normal_init


class MemoryCache(NamedTuple):
    """Keys and values of a memory, each (B, heads, M, head_dim), and which of them may be seen (B, 1, 1, M) or None."""

    keys: Tensor
    values: Tensor
    allowed: Tensor | None


class CrossAttentionMixing(nn.Module):
    """Multi-head attention of tokens x to the states of a memory: queries from x, keys and values from the memory.

    Args:
        dim: width of the tokens.
        heads: must divide `dim`.
        memory_dim: width of the memory; None: `dim`.
        dropout: on the attention weights.

    Shapes: x (B, N, D), memory (B, M, memory_dim), memory_mask (B, M) bool -> (B, N, D). Masked memory has no
    influence; a memory without any token counts as one of zeros.

    Raises:
        ValueError: `heads` does not divide `dim`; a memory or mask of another shape.

    For streams: `read(memory, memory_mask=..)` once, then `attend(x, cache)` per token.
    """

    def __init__(self, dim: int, heads: int, *, memory_dim: int | None = None, dropout: float = 0.1) -> None:
        super().__init__()
        check_heads(dim, heads)
        check_probability(dropout, "dropout")
        self.dim, self.heads, self.dropout = dim, heads, dropout
        self.memory_dim = dim if memory_dim is None else memory_dim
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(self.memory_dim, 2 * dim)
        self.output = nn.Linear(dim, dim)
        normal_init(self)

    def forward(self, x: Tensor, memory: Tensor, *, memory_mask: Tensor | None = None) -> Tensor:
        return self.attend(x, self.read(memory, memory_mask=memory_mask))

    def read(self, memory: Tensor, *, memory_mask: Tensor | None = None) -> MemoryCache:
        """Keys and values of a memory."""
        if memory.ndim != 3 or memory.shape[2] != self.memory_dim or not memory.shape[1]:
            raise ValueError(f"memory: expected (batch, states, {self.memory_dim}), got shape {tuple(memory.shape)}")
        check_mask(memory_mask, memory.shape[:2], name="memory_mask")
        keys, values = self.key_value(zero_masked(memory, memory_mask)).chunk(2, -1)
        allowed = None if memory_mask is None else keep_some(memory_mask)[:, None, None, :]
        return MemoryCache(split_heads(keys, self.heads), split_heads(values, self.heads), allowed)

    def attend(self, x: Tensor, cache: MemoryCache) -> Tensor:
        """What the tokens (B, N, D) find in a memory that was read."""
        if x.ndim != 3 or x.shape[2] != self.dim or x.shape[0] != cache.keys.shape[0]:
            raise ValueError(f"x: expected ({cache.keys.shape[0]}, length, {self.dim}), got shape {tuple(x.shape)}")
        found = F.scaled_dot_product_attention(
            split_heads(self.query(x), self.heads),
            cache.keys,
            cache.values,
            attn_mask=cache.allowed,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(join_heads(found))

    def flops(self, length: int, memory_length: int) -> int:
        """Projections of tokens and memory, logits and weighted sums."""
        projections = 4 * length * self.dim**2 + 4 * memory_length * self.memory_dim * self.dim
        return projections + 4 * length * memory_length * self.dim
