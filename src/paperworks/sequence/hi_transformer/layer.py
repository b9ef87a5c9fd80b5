"""The hierarchical interactive layer: sentences, then the document, then the sentences again.

    s_i = S1([h_i1 .. h_iK, c_i])_c          each sentence on its own, c its sentence token
    r   = D(p + s)                           over the sentence states of a document, p their positions
    h', s'_i = S2([h_i1 .. h_iK, r_i])       r_i in the place of the sentence token

Details that are easily wrong:

1. r_i is an *input token* of the second pass, a key and value for the words; it is not added to them.
2. Sentences of padding alone enter neither the document blocks nor the pooling, so no softmax is over nothing.
3. The document blocks see sentence states only, and gradients flow through r_i to all sentences.

Chosen, since the paper does not say: blocks are BERT's (`norm="post"`, GELU) unless `block` says otherwise; the
document pass has no residual beyond those of its own blocks.

Reference: Wu, Wu, Qi, Huang, Hi-Transformer (ACL 2021, arXiv 2106.01040), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.nn import AttentionMixing, BlockOptions, MixerLayer
from paperworks.nn.contract import zero_masked
from paperworks.nn.stack import LayerFactory
from paperworks.sequence.hi_transformer.layout import BlockKind, blocks_of, entering
from paperworks.sequence.hi_transformer.packing import Packing, Place, pack


class LevelStates(NamedTuple):
    """What a stack computes; S sentences, reading order.

    Attributes:
        tokens: for each sentence bucket (n, K, D). The sentence token's place holds what the last S block left there.
        sentences: (S, D), the states of the sentence tokens after the last block.
        document_aware: (S, D), r of the last D block; None where there is none.
    """

    tokens: list[Tensor]
    sentences: Tensor
    document_aware: Tensor | None


class HiLayerOutput(NamedTuple):
    """tokens (B, M, K, D) with zeros at padding, sentences s' and document_aware r (B, M, D).

    For packed input: tokens a list of (n, K, D), one for each bucket; sentences and document_aware (S, D) in reading
    order. The sentence token's place in `tokens` holds what the last sentence block left there.
    """

    tokens: Any
    sentences: Tensor
    document_aware: Tensor


class HiStack(nn.Module):
    """Sentence and document blocks in any order, over packed states.

    Args:
        layout: letters S and D, see `parse_layout`.
        dim: width of the tokens.
        block: everything around the mixers.
        sentence_mixer, document_mixer: `index -> nn.Module` for S and for D blocks.

    Raises:
        ValueError: a wrong layout, or a mixer that does not honour masks.
    """

    blocks: Any  # an nn.ModuleList of MixerLayer, which type checkers take for bare modules

    def __init__(
        self,
        layout: str,
        *,
        dim: int,
        block: BlockOptions,
        sentence_mixer: LayerFactory,
        document_mixer: LayerFactory,
    ) -> None:
        super().__init__()
        self.kinds, self.enters = blocks_of(layout), entering(layout)
        factories = {"S": sentence_mixer, "D": document_mixer}
        self.blocks = nn.ModuleList(
            MixerLayer(factories[kind](index), dim=dim, block=block) for index, kind in enumerate(self.kinds)
        )
        self.final_norm = block.make_final_norm(dim)
        for kind, layer in zip(self.kinds, self.blocks, strict=True):
            _check_mixer(kind, layer)

    def forward(
        self, tokens: Sequence[Tensor], packing: Packing, positions: Sequence[Tensor | None] | None = None
    ) -> LevelStates:
        """Run the blocks over the tokens (n, K, D) of each sentence bucket.

        Args:
            positions: for each document Transformer the vectors (S, D) added to the sentence states that enter it;
                None: none are.
        """
        tokens = [zero_masked(x, here.mask) for x, here in zip(tokens, packing.sentences, strict=True)]
        added = iter(positions or [None] * self.entrances)
        document_aware, pending = None, None
        for kind, enters, layer in zip(self.kinds, self.enters, self.blocks, strict=True):
            if kind == "D":
                sentences = self._states(tokens, packing) if pending is None else pending
                position = next(added) if enters else None
                pending = document_aware = run_documents(layer, sentences, packing, position)
            else:
                tokens, pending = run_sentences(layer, tokens, packing, pending), None
        sentences = self._states(tokens, packing) if pending is None else pending
        return LevelStates([self.final_norm(x) for x in tokens], self.final_norm(sentences), document_aware)

    @property
    def entrances(self) -> int:
        """How many document Transformers there are, each of one or more D blocks."""
        return sum(self.enters)

    @staticmethod
    def _states(tokens: Sequence[Tensor], packing: Packing) -> Tensor:
        return packing.read_sentences([here.states(x) for x, here in zip(tokens, packing.sentences, strict=True)])


def run_sentences(
    layer: MixerLayer, tokens: Sequence[Tensor], packing: Packing, states: Tensor | None = None
) -> list[Tensor]:
    """One S block over every bucket; `states` (S, D) first take the place of the sentence tokens."""
    results = []
    for x, here in zip(tokens, packing.sentences, strict=True):
        entered = x if states is None else here.put(x, states.index_select(0, here.rows))
        results.append(layer.run(entered, here.mask, {}))
    return results


def run_documents(layer: MixerLayer, sentences: Tensor, packing: Packing, positions: Tensor | None) -> Tensor:
    """One D block: sentence states (S, D) in reading order -> (S, D)."""
    entered = sentences if positions is None else sentences + positions.to(sentences.dtype)
    return packing.read_documents([layer.run(here.gather(entered), here.mask, {}) for here in packing.documents])


class HiLayer(nn.Module):
    """One hierarchical interactive layer.

    Args:
        dim: width of the tokens.
        heads: of the attention in all blocks.
        ffn_dim: width of the feed-forward networks.
        sentence_depth: blocks in each of the two sentence Transformers, whose weights differ.
        document_depth: blocks in the document Transformer.
        interactive: whether there is a second sentence pass. Without it words never see other sentences: the
            purely hierarchical Transformer.
        cls: whether the sentence token is the last kept token of a sentence (the paper) or the first (HAT).
        dropout: after attention and feed-forward networks, and on the attention weights.

    Shapes: tokens (B, M, K, D) with mask (B, M, K) bool -> see `HiLayerOutput`; the sentence token is among the K. Or
    packed: a list of (n, K, D), one for each bucket of `packing`.

    Raises:
        ValueError: in `forward`, a wrong shape or mask, or a document without a word.

    The layer adds no positions of its own: pass `positions` (M, D), the same for all documents.

    >>> layer = HiLayer(16, heads=2, ffn_dim=32)
    >>> mask = torch.ones(2, 3, 5, dtype=torch.bool)
    >>> layer(torch.randn(2, 3, 5, 16), mask=mask).document_aware.shape
    torch.Size([2, 3, 16])
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        ffn_dim: int,
        sentence_depth: int = 1,
        document_depth: int = 1,
        interactive: bool = True,
        cls: Place = "end",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        for name, depth in (("sentence_depth", sentence_depth), ("document_depth", document_depth)):
            if depth < 1:
                raise ValueError(f"{name}: must be at least 1, got {depth}")

        def attention(index: int) -> nn.Module:
            return AttentionMixing(dim, heads, dropout=dropout)

        first = "S" * sentence_depth
        self.dim = dim
        self.cls: Place = cls
        self.stack = HiStack(
            first + "D" * document_depth + (first if interactive else ""),
            dim=dim,
            block=BlockOptions(ffn_dim=ffn_dim, activation="gelu", dropout=dropout, mixer_dropout=dropout),
            sentence_mixer=attention,
            document_mixer=attention,
        )

    def forward(
        self,
        tokens: Tensor | Sequence[Tensor],
        *,
        mask: Tensor | None = None,
        sentence_mask: Tensor | None = None,
        packing: Packing | None = None,
        positions: Tensor | None = None,
    ) -> HiLayerOutput:
        """Run the layer.

        Args:
            mask: kept tokens, (B, M, K) bool; None: all.
            sentence_mask: kept sentences, (B, M) bool; None: those that keep a token.
            packing: given with packed tokens, in place of the masks.
            positions: (M, D), added to the sentence states before the document blocks.
        """
        if isinstance(tokens, Tensor):
            if packing is not None:
                raise ValueError("packing: given beside padded tokens; pass a list of tensors, one for each bucket")
            return self._padded(tokens, mask, sentence_mask, positions)
        if packing is None or mask is not None or sentence_mask is not None:
            raise ValueError("packing: packed tokens need a packing, and no masks beside it")
        return self._packed(tokens, packing, positions)

    def _packed(self, tokens: Sequence[Tensor], packing: Packing, positions: Tensor | None) -> HiLayerOutput:
        check_packed(tokens, packing, self.dim)
        added = None
        if positions is not None:
            check_positions(positions, packing, self.dim)
            added = [positions.index_select(0, packing.sentence_index)]
        states = self.stack(tokens, packing, added)
        return HiLayerOutput(states.tokens, states.sentences, states.document_aware)

    def _padded(
        self, tokens: Tensor, mask: Tensor | None, sentence_mask: Tensor | None, positions: Tensor | None
    ) -> HiLayerOutput:
        if tokens.ndim != 4 or tokens.shape[3] != self.dim:
            raise ValueError(f"tokens: expected (batch, sentences, words, {self.dim}), got {tuple(tokens.shape)}")
        padded = PaddedLayout(mask, sentence_mask, tokens.shape[:3], cls=self.cls, device=tokens.device)
        out = self._packed(padded.enter(tokens), padded.packing, positions)
        aware = padded.leave_sentences(out.document_aware)
        return HiLayerOutput(padded.leave_tokens(out.tokens), padded.leave_sentences(out.sentences), aware)


class PaddedLayout:
    """Between (B, M, K, ..) and a packing, both ways.

    Raises:
        ValueError: a mask of another shape or type, a kept sentence without a token, a document without a word.
    """

    def __init__(
        self,
        mask: Tensor | None,
        sentence_mask: Tensor | None,
        shape: torch.Size | tuple[int, ...],
        *,
        cls: Place,
        device: torch.device,
    ) -> None:
        mask = torch.ones(*shape, dtype=torch.bool, device=device) if mask is None else mask
        _check(mask, tuple(shape), name="mask", axes="(batch, sentences, words)")
        kept = mask.any(-1)
        if sentence_mask is not None:
            _check(sentence_mask, tuple(shape[:2]), name="sentence_mask", axes="(batch, sentences)")
            if bool((sentence_mask & ~kept).any()):
                document, sentence = (sentence_mask & ~kept).nonzero()[0].tolist()
                raise ValueError(f"sentence_mask: keeps sentence {sentence} of document {document}, which has no word")
            kept = kept & sentence_mask
        self.shape = tuple(shape)
        rows = kept.flatten().nonzero()[:, 0]
        doc_index, sentence_index = kept.nonzero().cpu().numpy().T
        self.packing = pack(
            mask.flatten(0, 1).index_select(0, rows).cpu().numpy(),
            np.ascontiguousarray(doc_index),
            np.ascontiguousarray(sentence_index),
            batch=shape[0],
            cls=cls,
        ).to(device)
        self.rows = rows

    def enter(self, tokens: Tensor) -> list[Tensor]:
        """(B, M, K, ..) -> the tokens of each bucket."""
        flat = tokens.flatten(0, 1)
        buckets = self.packing.sentences
        return [flat.index_select(0, self.rows[here.rows])[:, : here.width] for here in buckets]

    def leave_tokens(self, tokens: Sequence[Tensor]) -> Tensor:
        """The tokens of each bucket -> (B, M, K, ..), zeros at padding."""
        out = tokens[0].new_zeros(self.shape[0] * self.shape[1], self.shape[2], *tokens[0].shape[2:])
        for x, here in zip(tokens, self.packing.sentences, strict=True):
            if here.mask is not None:
                x = x.masked_fill(~here.mask.view(*here.mask.shape, *[1] * (x.ndim - 2)), 0)
            out[self.rows[here.rows], : here.width] = x
        return out.unflatten(0, self.shape[:2])

    def leave_sentences(self, values: Tensor) -> Tensor:
        """(S, ..) in reading order -> (B, M, ..), zeros at padding."""
        out = values.new_zeros(self.shape[0] * self.shape[1], *values.shape[1:])
        return out.index_copy(0, self.rows, values).unflatten(0, self.shape[:2])


def check_packed(tokens: Sequence[Tensor], packing: Packing, *tail: int) -> None:
    """Refuse buckets of other shapes than the packing's.

    Raises:
        ValueError: naming the first that differs.
    """
    expected = [(len(here.rows), here.width, *tail) for here in packing.sentences]
    got = [tuple(x.shape) for x in tokens]
    if got != expected:
        raise ValueError(f"tokens: the packing's buckets have shapes {expected}, got {got}")


def check_positions(positions: Tensor, packing: Packing, dim: int) -> None:
    """Refuse sentence positions that are no (sentences, dim) or too few."""
    needed = int(packing.sentence_index.max()) + 1
    if positions.ndim != 2 or positions.shape[1] != dim or len(positions) < needed:
        raise ValueError(f"positions: expected (at least {needed}, {dim}), got {tuple(positions.shape)}")


def _check(mask: Tensor, shape: tuple[int, ...], *, name: str, axes: str) -> None:
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        kind = str(mask.dtype).removeprefix("torch.")
        raise ValueError(f"{name}: expected {axes} bool = {shape}, got {tuple(mask.shape)} {kind}")


def _check_mixer(kind: BlockKind, layer: MixerLayer) -> None:
    if not layer.traits.supports_mask:
        name = {"S": "sentence_mixer", "D": "document_mixer"}[kind]
        raise ValueError(f"{name}: {type(layer.mixer).__name__} does not honour masks, and buckets hold padding")
