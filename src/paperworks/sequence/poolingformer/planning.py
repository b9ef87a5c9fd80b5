"""What a Poolingformer costs and how far it sees, in numbers, before anything is built."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from paperworks.nn.local_attention import check_window
from paperworks.sequence.poolingformer.model import PoolingformerConfig
from paperworks.sequence.poolingformer.pooling import cell_count, check_stride


class Footprint(TypedDict):
    """Scores: pairs that attend, both levels, one head. flops: of scores and weighted sums, all heads. bytes: of all
    scores in float32, which a plain implementation holds at once and this one in small tiles."""

    scores: int
    flops: int
    bytes: int


class Reach(NamedTuple):
    """Tokens to the left and to the right that a layer's output can depend on."""

    left: int
    right: int


def attention_footprint(
    length: int,
    *,
    window: int,
    pooled_window: int | None,
    stride: int,
    pool_size: int = 5,
    heads: int = 1,
    dim: int = 64,
) -> Footprint:
    """The cost of one attention sublayer on one sequence, projections and pooling aside.

    Args:
        length: tokens; the ends are counted exactly.
        window, pooled_window: w1, w2; None: no second level. `window >= length - 1` alone is full attention.
        stride, pool_size: of the cells.
        heads, dim: heads, and the width of all of them together.

    Raises:
        ValueError: a length below 1, or windows and strides that the mixer refuses.

    >>> attention_footprint(4096, window=128, pooled_window=512, stride=4)["scores"] / 4096**2 < 0.13
    True
    """
    if length < 1:
        raise ValueError(f"length: must be at least 1, got {length}")
    check_window(window, "window")
    check_stride(pool_size, stride)
    scores = _pairs(length, window)
    if pooled_window is not None:
        if pooled_window < window:
            raise ValueError(f"pooled_window: must be >= window, got {pooled_window} < {window}")
        scores += _cell_pairs(length, pooled_window, pool_size=pool_size, stride=stride)
    return {"scores": scores, "flops": 4 * scores * dim, "bytes": 4 * scores * heads}


def receptive_field(config: PoolingformerConfig) -> list[Reach]:
    """How far each layer's output depends on the input, layer by layer.

    A token reads y of whole cells whose centres are within w2, and each y reads x within w1: a layer with both levels
    adds at most w1 + w2 + k//2 on the left and w1 + w2 + k - 1 - k//2 on the right. Exact for the token that sees
    farthest (tokens differ by how they stand to the grid of cells); the ends and global tokens are not counted.
    """
    tokens = range(config.stride)
    reaches = []
    for depth in range(1, config.depth + 1):
        left = max(token - _farthest(token, depth, config, side=-1) for token in tokens)
        right = max(_farthest(token, depth, config, side=1) - token for token in tokens)
        reaches.append(Reach(left, 0 if config.causal else right))
    return reaches


def _farthest(token: int, depth: int, config: PoolingformerConfig, *, side: int) -> int:
    """The first (side -1) or last (side 1) input that a token depends on after `depth` layers."""
    before, stride = config.pool_size // 2, config.stride
    for layer in reversed(range(depth)):
        end = token
        if config.has_second_level(layer):
            bound = token + side * config.pooled_window
            centre = bound // stride * stride if side > 0 else -(-bound // stride) * stride
            run = centre + config.pool_size - 1 - before if side > 0 else centre - before
            end = max(end, run) if side > 0 else min(end, run)
        token = end + side * config.window
    return token


def _pairs(length: int, window: int) -> int:
    reach = min(window, length - 1)
    return length + 2 * reach * length - reach * (reach + 1)


def _cell_pairs(length: int, window: int, *, pool_size: int, stride: int) -> int:
    centres = range(0, cell_count(length, pool_size=pool_size, stride=stride) * stride, stride)
    return sum(min(length - 1, centre + window) - max(0, centre - window) + 1 for centre in centres
               if centre - window < length)  # fmt: skip
