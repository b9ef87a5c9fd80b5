"""Two-level attention: a sliding window, then pooling attention over what it gives.

    y = concat_h(local_attention(q, k, v; w1)),      q, k, v = x W1 + b1
    z = concat_h(pooling_attention(q', k', v'; w2)), q', k', v' = y W2 + b2
    mix(x) = (y + z) W_o + b_o

The second level has projections of its own and reads y, not x. What the paper leaves open and this project decided, as
guesses: LDConv has one weight for keys and one for values, zero at first (which is mean pooling); with rotary positions
a pooled key stands at its cell's centre, rotated after pooling, so that a cell does not depend on where it is; global
tokens belong to the first level alone, and to the second what they are to it, tokens like others. `pooling` lists the
decisions on the grid of cells.

Reference: Zhang et al., Poolingformer (2021, arXiv 2105.04371), section 3; rotary positions are not in it.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from paperworks.nn.attention import apply_rotary, check_heads, join_heads, split_heads
from paperworks.nn.block import check_probability
from paperworks.nn.contract import Traits, check_mask, check_tokens, zero_masked
from paperworks.nn.initial import normal_init
from paperworks.nn.local_attention import check_rotary, check_window, local_attention, window_keys
from paperworks.sequence.poolingformer.pooling import attend_to_cells, check_stride, pooled_cells

PoolName = Literal["mean", "max", "ldconv"]


class WindowLevel(nn.Module):
    """One level of sliding-window attention, its own projections included, the output's not.

    Shapes: (B, N, D) -> (B, N, D), 0 at masked positions.
    """

    def __init__(
        self, dim: int, heads: int, *, window: int, causal: bool = False, rotary: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        check_window(window, "window")
        check_rotary(dim, heads, rotary)
        check_probability(dropout, "dropout")
        self.dim, self.heads, self.window = dim, heads, window
        self.causal, self.rotary, self.dropout = causal, rotary, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        normal_init(self.qkv)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, global_mask: Tensor | None = None) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        if self.rotary:
            positions = torch.arange(x.shape[1], device=x.device)
            q, k = apply_rotary(q, positions), apply_rotary(k, positions)
        y = local_attention(
            q, k, v, window=self.window, mask=mask, causal=self.causal, global_mask=global_mask,
            dropout=self.dropout if self.training else 0.0,
        )  # fmt: skip
        return join_heads(y)

    def flops(self, length: int) -> int:
        """Three projections, logits and weighted sums of a whole window per token."""
        return 6 * length * self.dim**2 + 4 * length * window_keys(self.window, causal=self.causal) * self.dim

    def extra_repr(self) -> str:
        return f"window={self.window}, causal={self.causal}, rotary={self.rotary}"


class PooledLevel(nn.Module):
    """One level of pooling attention, its own projections included, the output's not.

    Shapes: (B, N, D) -> (B, N, D), 0 at masked positions and where no cell is seen.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: int,
        pool_size: int = 5,
        stride: int = 4,
        pool: PoolName = "ldconv",
        causal: bool = False,
        rotary: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        check_window(window, "pooled_window")
        check_stride(pool_size, stride)
        check_rotary(dim, heads, rotary)
        check_probability(dropout, "dropout")
        if pool not in get_args(PoolName):
            raise ValueError(f"pool: expected one of {', '.join(get_args(PoolName))}, got {pool!r}")
        self.dim, self.heads, self.window = dim, heads, window
        self.pool_size, self.stride, self.pool = pool_size, stride, pool
        self.causal, self.rotary, self.dropout = causal, rotary, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.pool_weight = nn.Parameter(torch.zeros(2, heads, pool_size, dim // heads)) if pool == "ldconv" else None
        normal_init(self.qkv)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        of_keys, of_values = (self.pool, self.pool) if self.pool_weight is None else self.pool_weight
        grid: dict[str, Any] = {"pool_size": self.pool_size, "stride": self.stride, "mask": mask}
        keys = pooled_cells(k, pool=of_keys, **grid)  # pyright: ignore[reportArgumentType]
        values = pooled_cells(v, pool=of_values, **grid)  # pyright: ignore[reportArgumentType]
        if self.rotary:
            q = apply_rotary(q, torch.arange(x.shape[1], device=x.device))
            keys = keys._replace(cells=apply_rotary(keys.cells, keys.centres))
        z = attend_to_cells(
            q, keys, values.cells, window=self.window, causal=self.causal,  # pyright: ignore[reportCallIssue]
            dropout=self.dropout if self.training else 0.0, **grid,
        )  # fmt: skip
        return join_heads(z)

    def flops(self, length: int) -> int:
        """Three projections, pooling of keys and values, logits and weighted sums of a whole window per token."""
        pooling = (8 if self.pool == "ldconv" else 4) * length * self.pool_size * self.dim // self.stride
        pairs = length * window_keys(self.window, causal=self.causal) // self.stride
        return 6 * length * self.dim**2 + pooling + 4 * pairs * self.dim

    def extra_repr(self) -> str:
        return f"window={self.window}, pool_size={self.pool_size}, stride={self.stride}, pool={self.pool!r}"


class PoolingformerAttention(nn.Module):
    """The paper's attention sublayer as a token mixer.

    Args:
        dim: width of the tokens.
        heads: must divide `dim`.
        window: w1, tokens to either side at the first level.
        pooled_window: w2 >= w1, largest distance from a token to a cell's centre at the second level; None: one level.
        pool_size, stride: positions of a cell, and from one cell to the next, 1 <= stride <= pool_size.
        pool: "mean", "max", "ldconv" (the paper's best).
        causal: each token sees itself and those before it, and cells that lie wholly there.
        rotary: rotary positions on queries and keys of both levels.
        dropout: on the attention weights of both levels.

    Shapes: (B, N, D) -> (B, N, D); context `global_mask` (B, N) bool, tokens that see all and are seen by all at the
    first level. Any length.

    Raises:
        ValueError: naming the argument, what came and what was expected.

    Defaults are the paper's (recalled, not checked against it). Dense layers: normal(0.02), biases zero.

    Reference: section 3 of the paper, two-level pooling attention.
    """

    supports_mask = True
    context_names = ("global_mask",)

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: int = 128,
        pooled_window: int | None = 512,
        pool_size: int = 5,
        stride: int = 4,
        pool: PoolName = "ldconv",
        causal: bool = False,
        rotary: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_window(window, "window")
        if pooled_window is not None and pooled_window < window:
            raise ValueError(f"pooled_window: must be >= window, got {pooled_window} < {window}")
        self.dim, self.causal = dim, causal
        both: dict[str, Any] = {"causal": causal, "rotary": rotary, "dropout": dropout}
        self.level1 = WindowLevel(dim, heads, window=window, **both)
        self.level2 = (
            None
            if pooled_window is None
            else PooledLevel(dim, heads, window=pooled_window, pool_size=pool_size, stride=stride, pool=pool, **both)
        )
        self.output = nn.Linear(dim, dim)
        normal_init(self.output)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, global_mask: Tensor | None = None) -> Tensor:
        check_tokens(x, dim=self.dim, traits=Traits(), name=type(self).__name__)
        check_mask(mask, x.shape[:2])
        y = self.level1(zero_masked(x, mask), mask=mask, global_mask=global_mask)
        return self.output(y if self.level2 is None else y + self.level2(y, mask=mask))

    def flops(self, length: int) -> int:
        """Both levels and the output's projection; softmax and global tokens are not counted."""
        levels = self.level1.flops(length) + (0 if self.level2 is None else self.level2.flops(length))
        return levels + 2 * length * self.dim**2
