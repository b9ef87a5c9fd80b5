"""Mixers by name, as factories `(dim, *, heads, length) -> (layer_index -> module)`, which is what cards name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from paperworks.nn import LocalAttentionMixing
from paperworks.sequence.poolingformer.attention import PoolingformerAttention, PoolName

LayerFactory = Callable[[int], nn.Module]


def make_poolingformer_mixer(
    dim: int,
    *,
    heads: int,
    length: int,
    window: int = 128,
    pooled_window: int = 512,
    pool_size: int = 5,
    stride: int = 4,
    pool: PoolName = "ldconv",
    rotary: bool = False,
    causal: bool = False,
) -> LayerFactory:
    """Both levels in every layer."""
    return lambda layer: PoolingformerAttention(
        dim, heads, window=window, pooled_window=pooled_window, pool_size=pool_size, stride=stride, pool=pool,
        rotary=rotary, causal=causal,
    )  # fmt: skip


def make_local_attention_mixer(
    dim: int, *, heads: int, length: int, window: int = 128, rotary: bool = False, causal: bool = False
) -> LayerFactory:
    """The sliding window alone, as in Longformer without global tokens."""
    return lambda layer: LocalAttentionMixing(dim, heads, window=window, rotary=rotary, causal=causal)
