"""The mixers by name, as factories `(dim, *, heads, length) -> (layer_index -> module)`; causal ones end in `_causal`.

This is the signature of every `[[mixer]]` of a card. Windows are the paper's for text: 32 positions to either side.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from paperworks.sequence.aft.mixers import AFTConv1d, AFTFull, AFTLocal, AFTSimple

LayerFactory = Callable[[int], nn.Module]
WINDOW = 32


def make_aft_full_mixer(dim: int, *, heads: int, length: int, causal: bool = False) -> LayerFactory:
    """AFT-full, weights of rank 128 (of the length, where that is less)."""
    return lambda layer: AFTFull(dim, length=length, rank=min(128, length), causal=causal)


def make_aft_local_mixer(
    dim: int, *, heads: int, length: int, window: int = WINDOW, causal: bool = False
) -> LayerFactory:
    """AFT-local, weights of rank 128 (of the length, where that is less)."""
    return lambda layer: AFTLocal(dim, length=length, window=window, rank=min(128, length), causal=causal)


def make_aft_simple_mixer(dim: int, *, heads: int, length: int, causal: bool = False) -> LayerFactory:
    """AFT-simple."""
    return lambda layer: AFTSimple(dim, causal=causal)


def make_aft_conv_mixer(
    dim: int, *, heads: int, length: int, window: int = WINDOW, causal: bool = False
) -> LayerFactory:
    """AFT-conv with a head for every four channels; an odd filter of about twice the window unless causal."""
    taps = window if causal else 2 * window - 1
    return lambda layer: AFTConv1d(dim, heads=max(1, dim // 4), window=taps, causal=causal)
