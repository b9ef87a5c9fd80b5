"""What encoders and decoders share: layers built by a factory, and what the whole stack can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from paperworks.nn.block import BlockOptions, MixerLayer
from paperworks.nn.contract import combine
from paperworks.nn.sharing import save_shared_once

LayerFactory = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Hybrid:
    """A layer factory that takes `second` where `layout` is True, and `first` elsewhere."""

    first: LayerFactory
    second: LayerFactory
    layout: tuple[bool, ...]

    def __call__(self, layer: int) -> nn.Module:
        return self.second(layer) if self.layout[layer] else self.first(layer)


def hybrid(first: LayerFactory, second: LayerFactory, layout: Sequence[bool]) -> Hybrid:
    """A layer factory for stacks of two kinds of mixer: `second` where `layout` is True, `first` elsewhere.

    The encoder's depth must be the length of `layout`; `paperworks.sequence.hybrid_layout` makes the paper's layouts.
    """
    return Hybrid(first, second, tuple(bool(here) for here in layout))


def build_layers(mixer: LayerFactory, depth: int) -> list[nn.Module]:
    """One mixer per layer.

    Raises:
        ValueError: `mixer` is not a factory, a layout has another depth, or a layer is not a module.
    """
    if isinstance(mixer, nn.Module):
        raise ValueError(
            f"mixer: expected a factory layer_index -> module, got the module {type(mixer).__name__}; "
            "write lambda layer: module to share one module, or build one per layer"
        )
    if depth < 1:
        raise ValueError(f"depth: must be at least 1, got {depth}")
    if isinstance(mixer, Hybrid) and len(mixer.layout) != depth:
        raise ValueError(f"layout: has {len(mixer.layout)} layers, the encoder has depth {depth}")
    layers = [mixer(layer) for layer in range(depth)]
    for index, layer in enumerate(layers):
        if not isinstance(layer, nn.Module):
            raise ValueError(f"mixer: expected an nn.Module for layer {index}, got {type(layer).__name__}")
    return layers


class StreamState(NamedTuple):
    """Where a stream stands: tokens read so far, and the state of each layer."""

    position: int
    layers: tuple[Any, ...]


class MixerStack(nn.Module):
    """Blocks one after another, a final norm, and the traits of all."""

    layers: Any  # an nn.ModuleList of MixerLayer, which type checkers take for bare modules

    def __init__(self, layers: Sequence[MixerLayer], *, dim: int, block: BlockOptions) -> None:
        super().__init__()
        self.dim = dim
        self.depth = len(layers)
        self.layers = nn.ModuleList(layers)
        self.final_norm = block.make_final_norm(dim)
        self.traits = combine(layer.traits for layer in layers)
        save_shared_once(self)

    @property
    def causal(self) -> bool:
        return self.traits.causal

    @property
    def supports_mask(self) -> bool:
        return self.traits.supports_mask

    @property
    def min_length(self) -> int | None:
        return self.traits.min_length

    @property
    def max_length(self) -> int | None:
        return self.traits.max_length

    @property
    def context_names(self) -> tuple[str, ...]:
        return self.traits.context_names

    @property
    def streams(self) -> bool:
        """Whether all layers can run token by token."""
        return all(layer.streams for layer in self.layers)

    def check_token(self, x: Tensor, position: int) -> None:
        """Refuse a next token (B, D) of another shape, or beyond `max_length`."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x: expected (batch, {self.dim}), got shape {tuple(x.shape)}")
        if self.max_length is not None and position >= self.max_length:
            raise ValueError(f"x: token {position + 1} exceeds the {self.max_length} that the mixers were built for")
