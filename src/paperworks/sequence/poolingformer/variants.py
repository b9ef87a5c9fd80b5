"""The study's arms: two levels with projections of their own in each, which differ in what a level sees.

Parameters are equal by construction: LDConv has 2 k d weights a layer, and arms without it have k more units in every
feed-forward network, whose dense layers have no biases (2 d weights a unit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from paperworks.nn import BlockOptions, MixerEncoder, TextEmbedding, TokenTagger, normal_init, zero_masked
from paperworks.sequence.poolingformer.attention import PooledLevel, PoolName, WindowLevel


@dataclass(frozen=True)
class Sizes:
    """The model of every arm. `wide` is the window at which two windowed levels have the pooled model's scores."""

    dim: int
    depth: int
    heads: int
    ffn_dim: int
    window: int
    pooled_window: int
    pool_size: int
    stride: int
    wide: int
    length: int
    dropout: float


class TwoLevels(nn.Module):
    """`mix(x) = (y + z) W + b`, y = level1(x), z = level2(y): the paper's sublayer around any two levels.

    Args:
        dim: width of the tokens.
        first, second: `WindowLevel` or `PooledLevel`.
        reads: what the second level reads, "y" (the paper's) or "x".
        residual: False leaves y out of the sum.

    Shapes: (B, N, D) -> (B, N, D).
    """

    supports_mask = True

    def __init__(
        self,
        dim: int,
        first: nn.Module,
        second: nn.Module,
        *,
        reads: Literal["x", "y"] = "y",
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.level1, self.level2, self.reads, self.residual = first, second, reads, residual
        self.output = nn.Linear(dim, dim)
        normal_init(self.output)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        x = zero_masked(x, mask)
        y = self.level1(x, mask=mask)
        z = self.level2(y if self.reads == "y" else x, mask=mask)
        return self.output(y + z if self.residual else z)

    def flops(self, length: int) -> int:
        """Both levels and the output's projection."""
        levels = self.level1.flops(length) + self.level2.flops(length)  # pyright: ignore[reportCallIssue]
        return levels + 2 * length * self.output.in_features**2


def _windows(sizes: Sizes, *, window: int) -> TwoLevels:
    levels = (WindowLevel(sizes.dim, sizes.heads, window=window, rotary=True) for _ in range(2))
    return TwoLevels(sizes.dim, *levels)


def _pooled(
    sizes: Sizes,
    *,
    pool: PoolName = "ldconv",
    stride: int | None = None,
    reads: Literal["x", "y"] = "y",
    residual: bool = True,
) -> TwoLevels:
    first = WindowLevel(sizes.dim, sizes.heads, window=sizes.window, rotary=True)
    second = PooledLevel(
        sizes.dim, sizes.heads, window=sizes.pooled_window, pool_size=sizes.pool_size,
        stride=stride or sizes.stride, pool=pool, rotary=True,
    )  # fmt: skip
    return TwoLevels(sizes.dim, first, second, reads=reads, residual=residual)


ARMS: dict[str, Callable[[Sizes], TwoLevels]] = {
    "window": lambda sizes: _windows(sizes, window=sizes.window),
    "window_wide": lambda sizes: _windows(sizes, window=sizes.wide),
    "poolingformer": _pooled,
    "full": lambda sizes: _windows(sizes, window=sizes.length),
    "mean": partial(_pooled, pool="mean"),
    "max": partial(_pooled, pool="max"),
    "stride_2": partial(_pooled, stride=2),
    "from_x": partial(_pooled, reads="x"),
    "no_residual": partial(_pooled, residual=False),
}
MAIN = ("window", "window_wide", "poolingformer", "full")
ABLATIONS = tuple(arm for arm in ARMS if arm not in MAIN)


def build_tagger(arm: str, sizes: Sizes, *, vocabulary: int, classes: int) -> TokenTagger:
    """An arm's model: no positions but the rotary ones, a label per token.

    Raises:
        ValueError: no such arm.
    """
    if arm not in ARMS:
        raise ValueError(f"arms: expected some of {', '.join(ARMS)}, got {arm!r}")
    mixers = [ARMS[arm](sizes) for _ in range(sizes.depth)]
    dynamic = any(isinstance(mixer.level2, PooledLevel) and mixer.level2.pool == "ldconv" for mixer in mixers)
    block = BlockOptions(
        ffn_dim=sizes.ffn_dim if dynamic else sizes.ffn_dim + sizes.pool_size,
        norm="pre",
        bias=False,
        dropout=sizes.dropout,
        mixer_dropout=sizes.dropout,
    )
    encoder = MixerEncoder(lambda layer: mixers[layer], dim=sizes.dim, depth=sizes.depth, block=block)
    embedding = TextEmbedding(vocabulary, sizes.dim, positions="none", dropout=sizes.dropout)
    return TokenTagger(embedding, encoder, num_classes=classes)
