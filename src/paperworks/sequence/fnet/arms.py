"""The mixers by name, as factories `(dim, *, heads, length) -> (layer_index -> module)`.

This is the signature of every `[[mixer]]` of a card, and of a baseline of one's own (`--baseline mine.py:build`).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from paperworks.nn import AttentionMixing, hybrid
from paperworks.sequence.fnet.layouts import hybrid_layout
from paperworks.sequence.fnet.mixers import FourierMixing, IdentityMixing, LinearMixing, RandomMixing

LayerFactory = Callable[[int], nn.Module]


def make_attention_mixer(dim: int, *, heads: int, length: int) -> LayerFactory:
    """Multi-head self-attention with dropout 0.1 on its weights, as BERT has it."""
    return lambda layer: AttentionMixing(dim, heads, dropout=0.1)


def make_fourier_mixer(dim: int, *, heads: int, length: int) -> LayerFactory:
    """Fourier mixing in every layer; padding is mixed in, as in the official code."""
    return lambda layer: FourierMixing(dim)


def make_hybrid_mixer(dim: int, *, heads: int, length: int) -> LayerFactory:
    """Attention in the top one of two layers, Fourier below (FNet-Hybrid, layout "top")."""
    attention = make_attention_mixer(dim, heads=heads, length=length)
    fourier = make_fourier_mixer(dim, heads=heads, length=length)
    return hybrid(fourier, attention, hybrid_layout(2, 1, "top"))


def make_linear_mixer(dim: int, *, heads: int, length: int) -> LayerFactory:
    """Learned dense mixing over positions and channels; the length is exact."""
    return lambda layer: LinearMixing(dim, length=length)


def make_random_mixer(dim: int, *, heads: int, length: int) -> LayerFactory:
    """The same with fixed random matrices, another draw per layer."""
    return lambda layer: RandomMixing(dim, length=length, seed=layer)


def make_identity_mixer(dim: int, *, heads: int, length: int) -> LayerFactory:
    """No mixing at all: the feed-forward-only control."""
    return lambda layer: IdentityMixing(dim)
