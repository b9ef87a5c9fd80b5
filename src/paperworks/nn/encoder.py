"""Encoders with pluggable token mixers.

>>> import torch
>>> from paperworks.nn import AttentionMixing, BlockOptions, MixerEncoder
>>> encoder = MixerEncoder(lambda layer: AttentionMixing(64, 4), dim=64, depth=2, block=BlockOptions(ffn_dim=256))
>>> states, mask = encoder(torch.randn(8, 128, 64))
>>> states.shape
torch.Size([8, 128, 64])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from paperworks.nn.block import BlockOptions, MixerLayer
from paperworks.nn.contract import Encoded, check_context, check_mask, check_tokens, zero_masked
from paperworks.nn.stack import LayerFactory, MixerStack, StreamState, build_layers


class MixerEncoder(MixerStack):
    """A stack of `depth` blocks, each with the mixer that the factory gives for its index.

    Args:
        mixer: `layer_index -> nn.Module`. A module that several layers share is closed over by the factory; it is
            trained as one and saved once.
        dim: width of the tokens.
        depth: number of blocks.
        block: everything around the mixers.

    `causal`, `supports_mask`, `min_length`, `max_length`, `context_names` and `streams` follow from the layers. Where
    all mixers honour masks, masked inputs are set to zero on entry, so not even NaN there can spread.

    Raises:
        ValueError: at construction for what is no factory, or for mixers that no length suits; in `forward`, before
            any work, for a wrong shape, mask or length, or a context name that no mixer takes.
    """

    def __init__(self, mixer: LayerFactory, *, dim: int, depth: int, block: BlockOptions) -> None:
        layers = [MixerLayer(mixing, dim=dim, block=block) for mixing in build_layers(mixer, depth)]
        super().__init__(layers, dim=dim, block=block)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, context: Mapping[str, Any] | None = None) -> Encoded:
        """Encode (B, N, D) to states (B, N, D); `mask` (B, N) bool, True = keep, is handed on with them.

        `context` is a dictionary of tensors; each mixer gets the names it declares.
        """
        check_tokens(x, dim=self.dim, traits=self.traits, name="x")
        check_mask(mask, x.shape[:2])
        check_context(context, self.traits.context_names)
        if self.traits.supports_mask:
            x = zero_masked(x, mask)
        for layer in self.layers:
            x = layer.run(x, mask, context or {})
        return Encoded(self.final_norm(x), mask)

    def init_state(self, batch: int) -> StreamState:
        """State before the first token.

        Raises:
            ValueError: a layer cannot stream.
        """
        return StreamState(0, tuple(layer.init_state(batch) for layer in self.layers))

    def step(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Encode the next token, (B, D) -> (B, D); over a sequence the results equal `forward`'s.

        Raises:
            ValueError: wrong shape, or more tokens than `max_length`.
        """
        self.check_token(x, state.position)
        states = []
        for layer, before in zip(self.layers, state.layers, strict=True):
            x, after = layer.step(x, before)
            states.append(after)
        return self.final_norm(x), StreamState(state.position + 1, tuple(states))

    def flops(self, length: int) -> int:
        """Operations for one sequence of this length: mixers and feed-forward networks (a multiply-add counts two).

        Raises:
            ValueError: a mixer does not count its own.
        """
        return sum(layer.flops(length) for layer in self.layers)
