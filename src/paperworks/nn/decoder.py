"""Decoders: a token mixer, attention to a memory, and a feed-forward network in each block.

norm = "pre":   x = x + drop(mix(LN(x)));   x = x + drop(cross(LN(x), memory));   x = x + drop(ffn(LN(x)))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from paperworks.nn.block import BlockOptions, MixerLayer, Residual
from paperworks.nn.contract import Encoded, check_context, check_mask, check_tokens, zero_masked
from paperworks.nn.stack import LayerFactory, MixerStack, build_layers


class DecoderLayer(MixerLayer):
    """A `MixerLayer` with cross-attention between mixer and feed-forward network; its dropout is `mixer_dropout`."""

    def __init__(self, mixer: nn.Module, cross: nn.Module, *, dim: int, block: BlockOptions) -> None:
        super().__init__(mixer, dim=dim, block=block)
        self.cross = cross
        self.cross_residual = Residual(dim, block=block, dropout=block.mixer_dropout)

    def decode(
        self, x: Tensor, memory: Tensor, mask: Tensor | None, memory_mask: Tensor | None, context: Mapping[str, Any]
    ) -> Tensor:
        """(B, N, D) and a memory (B, M, E) -> (B, N, D), without checks."""
        x = self.mix(x, mask, context)
        found = self.cross(self.cross_residual.enter(x), memory, memory_mask=memory_mask)
        return self.feed(self.cross_residual.leave(x, found))

    def decode_step(self, x: Tensor, state: Any, cache: Any) -> tuple[Tensor, Any]:
        """One token (B, D), with the mixer's state and what `cross.read` gave for the memory."""
        x, state = self.mix_step(x, state)
        found = self.cross.attend(self.cross_residual.enter(x)[:, None], cache)[:, 0]  # pyright: ignore
        return self.feed(self.cross_residual.leave(x, found)), state


class DecoderState(NamedTuple):
    """Where a stream stands: tokens read so far, each layer's state, and what each layer has read of the memory."""

    position: int
    layers: tuple[Any, ...]
    caches: tuple[Any, ...]


class MixerDecoder(MixerStack):
    """A stack of `depth` blocks that also attend to a memory, such as an encoder's states.

    Args:
        mixer: `layer_index -> nn.Module`, the token mixers (causal ones, for a decoder that generates).
        cross: `layer_index -> nn.Module` with `forward(x, memory, *, memory_mask=None)`, e.g. `CrossAttentionMixing`;
            for streams also with `read(memory, *, memory_mask) -> cache` and `attend(x, cache)`.
        dim, depth, block: as in `MixerEncoder`.

    Raises:
        ValueError: as `MixerEncoder`; a memory of another shape.
    """

    def __init__(self, mixer: LayerFactory, cross: LayerFactory, *, dim: int, depth: int, block: BlockOptions) -> None:
        pairs = zip(build_layers(mixer, depth), build_layers(cross, depth), strict=True)
        super().__init__(
            [DecoderLayer(mixing, crossing, dim=dim, block=block) for mixing, crossing in pairs], dim=dim, block=block
        )

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Encoded:
        """Tokens (B, N, D), memory (B, M, E), their masks (B, N), (B, M) bool -> states (B, N, D) and `mask`."""
        check_tokens(x, dim=self.dim, traits=self.traits, name="x")
        check_mask(mask, x.shape[:2])
        check_context(context, self.traits.context_names)
        if memory.ndim != 3 or memory.shape[0] != x.shape[0]:
            raise ValueError(f"memory: expected ({x.shape[0]}, states, dim), got shape {tuple(memory.shape)}")
        check_mask(memory_mask, memory.shape[:2], name="memory_mask")
        if self.traits.supports_mask:
            x = zero_masked(x, mask)
        for layer in self.layers:
            x = layer.decode(x, memory, mask, memory_mask, context or {})
        return Encoded(self.final_norm(x), mask)

    @property
    def streams(self) -> bool:
        """Whether all layers, and their cross-attention, can run token by token."""
        return super().streams and all(hasattr(layer.cross, "read") for layer in self.layers)

    def init_state(self, memory: Tensor, *, memory_mask: Tensor | None = None) -> DecoderState:
        """Read the memory, once for all tokens; the state before the first.

        Raises:
            ValueError: a layer cannot stream.
        """
        for layer in self.layers:
            if not hasattr(layer.cross, "read"):
                raise ValueError(f"cross: {type(layer.cross).__name__} cannot stream, it has no read and attend")
        states = tuple(layer.init_state(memory.shape[0]) for layer in self.layers)
        return DecoderState(
            0, states, tuple(layer.cross.read(memory, memory_mask=memory_mask) for layer in self.layers)
        )

    def step(self, x: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Decode the next token, (B, D) -> (B, D); over a sequence the results equal `forward`'s.

        Raises:
            ValueError: wrong shape, or more tokens than `max_length`.
        """
        self.check_token(x, state.position)
        states = []
        for layer, before, cache in zip(self.layers, state.layers, state.caches, strict=True):
            x, after = layer.decode_step(x, before, cache)
            states.append(after)
        return self.final_norm(x), DecoderState(state.position + 1, tuple(states), state.caches)

    def flops(self, length: int, memory_length: int) -> int:
        """Operations for one sequence and its memory.

        Raises:
            ValueError: a mixer or a cross-attention does not count its own.
        """
        for layer in self.layers:
            if not hasattr(layer.cross, "flops"):
                raise ValueError(f"cross: {type(layer.cross).__name__} has no flops(length, memory_length)")
        return sum(layer.flops(length) + layer.cross.flops(length, memory_length) for layer in self.layers)
