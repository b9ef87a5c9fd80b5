"""The Poolingformer encoder, built of `paperworks.nn` blocks, and its heads.

    x = drop(LN(word[id] + position[n] (+ type[0])))
    L times:  x = LN(x + drop(mix(x)));  x = LN(x + drop(W2 gelu(W1 x + b1) + b2))

mix is the two-level attention where `second_level_layers` says so and the sliding window alone elsewhere. Defaults are
those of RoBERTa-base around it, since the paper starts from RoBERTa, XLM-R and BART.

Reference: Zhang et al., Poolingformer (2021, arXiv 2105.04371), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from paperworks.nn import (
    BlockOptions,
    Encoded,
    MixerEncoder,
    SequenceClassifier,
    TextEmbedding,
    TokenTagger,
    normal_init,
)
from paperworks.nn.heads import Pooling, TextModel
from paperworks.sequence.poolingformer.attention import PoolingformerAttention, PoolName

ANSWER_TYPES = 5


@dataclass(frozen=True, kw_only=True)
class PoolingformerConfig:
    """The sizes of a Poolingformer.

    Args:
        vocab_size: ids.
        dim, depth, heads, ffn_dim: width, blocks, heads, width of the feed-forward networks.
        max_length: learned positions; no limit where `positions` is "none".
        window, pooled_window, pool_size, stride, pool: see `PoolingformerAttention`.
        second_level_layers: layers with both levels, counted from 0; None: all. The paper has some of the upper ones.
        positions: "learned", or "none" with `rotary`.
        rotary: rotary positions in both levels.
        causal: each token sees itself and those before it.
        types: token types; RoBERTa has one.
        dropout: of embeddings, sublayers and attention weights.
        norm_eps: of every LayerNorm.
    """

    vocab_size: int
    dim: int = 768
    depth: int = 12
    heads: int = 12
    ffn_dim: int = 3072
    max_length: int = 4096
    window: int = 128
    pooled_window: int = 512
    pool_size: int = 5
    stride: int = 4
    pool: PoolName = "ldconv"
    second_level_layers: tuple[int, ...] | range | None = None
    positions: Literal["learned", "none"] = "learned"
    rotary: bool = False
    causal: bool = False
    types: int = 0
    dropout: float = 0.1
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for layer in self.second_level_layers or ():
            if not 0 <= layer < self.depth:
                raise ValueError(f"second_level_layers: expected numbers in 0..{self.depth - 1}, got {layer}")

    def has_second_level(self, layer: int) -> bool:
        """Whether a layer attends to pooled tokens too."""
        return self.second_level_layers is None or layer in self.second_level_layers

    def mixer(self, layer: int) -> PoolingformerAttention:
        """The mixer of a layer, for `MixerEncoder`."""
        return PoolingformerAttention(
            self.dim,
            self.heads,
            window=self.window,
            pooled_window=self.pooled_window if self.has_second_level(layer) else None,
            pool_size=self.pool_size,
            stride=self.stride,
            pool=self.pool,
            rotary=self.rotary,
            causal=self.causal,
            dropout=self.dropout,
        )


class Answers(NamedTuple):
    """Logits of where an answer starts and ends (B, N), -inf at masked tokens, and of its type (B, 5)."""

    start: Tensor
    end: Tensor
    answer_type: Tensor


class Poolingformer(TextModel):
    """The encoder: ids (B, N) to states (B, N, dim).

    Args:
        config: the sizes.

    `embedding` and `encoder` are ordinary `paperworks.nn` blocks; the `for_` methods build models around them, sharing
    and not copying the weights.

    Raises:
        ValueError: sizes that do not fit; in `forward` ids or a mask of another shape or range, too long an input.

    >>> import torch
    >>> model = Poolingformer(PoolingformerConfig(vocab_size=100, dim=16, depth=2, heads=2, ffn_dim=32))
    >>> model(torch.zeros(3, 700, dtype=torch.long)).states.shape
    torch.Size([3, 700, 16])
    """

    def __init__(self, config: PoolingformerConfig) -> None:
        super().__init__(_embedding(config), _encoder(config))
        self.config = config

    def forward(
        self, ids: Tensor | Mapping[str, Any], *, mask: Tensor | None = None, global_mask: Tensor | None = None
    ) -> Encoded:
        """Encode ids (B, N), or a `transformers.BatchEncoding` as it comes; `global_mask` (B, N) as in the mixer."""
        context = None if global_mask is None else {"global_mask": global_mask}
        return self.encode(ids, mask=mask, context=context)

    def for_token_classification(self, num_classes: int) -> TokenTagger:
        """One label per token."""
        return TokenTagger(self.embedding, self.encoder, num_classes=num_classes)

    def for_sequence_classification(self, num_classes: int, *, pooling: Pooling = "cls") -> SequenceClassifier:
        """One label per text."""
        return SequenceClassifier(self.embedding, self.encoder, num_classes=num_classes, pooling=pooling)

    def for_question_answering(self) -> QuestionAnswering:
        """Start, end and type of an answer."""
        return QuestionAnswering(self.embedding, self.encoder)


class QuestionAnswering(TextModel):
    """The joint head of Natural Questions: start, end, and one of five answer types from the first token.

    Shapes: ids (B, N) -> `Answers`. Give the question's tokens as `context={"global_mask": ..}` for them to see and be
    seen by the whole document.

    Reference: Alberti et al., A BERT Baseline for the Natural Questions (2019, arXiv 1901.08634).
    """

    def __init__(self, embedding: nn.Module, encoder: nn.Module) -> None:
        super().__init__(embedding, encoder)
        self.span = nn.Linear(self.dim, 2)
        self.answer_type = nn.Linear(self.dim, ANSWER_TYPES)
        normal_init(self.span)
        normal_init(self.answer_type)

    def forward(self, ids: Tensor | Mapping[str, Any], **options: Any) -> Answers:
        """Logits; options `mask`, `types`, `context` as in `encode`."""
        states, mask = self.encode_tokens(ids, **options)
        spans = self.span(states)
        if mask is not None:
            spans = spans.masked_fill(~mask[..., None], float("-inf"))
        return Answers(spans[..., 0], spans[..., 1], self.answer_type(states[:, 0]))


def _embedding(config: PoolingformerConfig) -> TextEmbedding:
    return TextEmbedding(
        config.vocab_size,
        config.dim,
        max_length=config.max_length,
        types=config.types,
        positions=config.positions,
        norm_eps=config.norm_eps,
        dropout=config.dropout,
    )


def _encoder(config: PoolingformerConfig) -> MixerEncoder:
    block = BlockOptions(
        ffn_dim=config.ffn_dim,
        norm_eps=config.norm_eps,
        activation="gelu",
        dropout=config.dropout,
        mixer_dropout=config.dropout,
    )
    return MixerEncoder(config.mixer, dim=config.dim, depth=config.depth, block=block)
