"""Hi-Transformer: embeddings, hierarchical interactive layers, hierarchical pooling.

    x_ij = E[w_ij] + P[j]                      j restarts in every sentence
    layers of `HiLayer`'s kind, with p_i added to the sentence states on entry to a document Transformer
    d_i = sum_j a_ij h_ij,  d = sum_i b_i d_i  attentive pooling of words, then of sentences

What the paper leaves open, or is recalled without a source to check it against (no code was published):

1. Recalled: two layers, 8 heads of 32, dropout 0.2, learning rate 1e-4 with Adam, 3 epochs, batches of 64.
2. Chosen: post-norm blocks with GELU and a feed-forward width of 4 x dim; LayerNorm on the embeddings, as in BERT.
3. Chosen: one table of learned sentence positions for all layers (`sentence_positions="layer"`: one each, as HAT).
4. Chosen: words are pooled without the sentence token; sentences of a sentence token alone are left out of the pooling.
5. Chosen: the sentence token follows the last word directly, and has the word position after it.

Reference: Wu, Wu, Qi, Huang, Hi-Transformer (ACL 2021, arXiv 2106.01040), sections 2 and 3.1.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn

from paperworks.data.tokenization import CLS
from paperworks.nn import AttentionMixing, AttentivePooling, BlockOptions, TextEmbedding, normal_init
from paperworks.nn.block import Activation, Norm
from paperworks.nn.modes import evaluating
from paperworks.nn.pooling import MeanPooling
from paperworks.nn.stack import LayerFactory
from paperworks.sequence.hi_transformer.documents import DocumentTokenizer, PackedDocuments
from paperworks.sequence.hi_transformer.layer import HiStack, LevelStates, PaddedLayout, check_packed
from paperworks.sequence.hi_transformer.layout import parse_layout
from paperworks.sequence.hi_transformer.packing import Packing, Place

if TYPE_CHECKING:
    from paperworks.sequence.hi_transformer.heads import (
        DocumentClassifier,
        SentenceClassifier,
        TokenClassifier,
    )

Pooling: TypeAlias = Literal["attentive", "mean"]
Pooled: TypeAlias = Literal["words", "sentences"]
Positions: TypeAlias = Literal["model", "layer"]


@dataclass(frozen=True, kw_only=True)
class HiTransformerConfig:
    """The sizes of a Hi-Transformer; the defaults are the paper's as far as they are known (see the module).

    Args:
        vocab_size: token ids.
        dim, heads, ffn_dim: of all blocks.
        layers: how often `layout` is repeated.
        layout: S and D blocks of one layer, see `parse_layout`. HAT's: `layers=1, layout="S|S|SD|S|S|SD"`.
        cls: whether the sentence token is the last token of a sentence (the paper) or the first (HAT).
        cls_id: the id that stands there.
        max_sentence_length: tokens of a sentence, the sentence token among them.
        max_sentences: learned sentence positions.
        types: token types; all tokens have type 0. For weights of BERT and HAT.
        norm, activation, norm_eps: of the blocks.
        dropout: after embeddings and sublayers, and on attention weights.
        sentence_positions: one table in the model, or one for each document Transformer.
        pooling: attentive, or the mean.
        pooled: what the document vector is pooled from: the words of each sentence first (the paper), or the sentence
            tokens' states directly.
        sentence_mixer: `index -> nn.Module` for the S blocks; None: attention.
    """

    vocab_size: int
    dim: int = 256
    heads: int = 8
    ffn_dim: int = 1024
    layers: int = 2
    layout: str = "SDS"
    cls: Place = "end"
    cls_id: int = CLS
    max_sentence_length: int = 128
    max_sentences: int = 128
    types: int = 0
    norm: Norm = "post"
    activation: Activation = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.2
    sentence_positions: Positions = "model"
    pooling: Pooling = "attentive"
    pooled: Pooled = "words"
    sentence_mixer: LayerFactory | None = None

    def __post_init__(self) -> None:
        parse_layout(self.layout)
        for name in ("vocab_size", "layers", "max_sentences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.max_sentence_length < 2:
            raise ValueError(f"max_sentence_length: expected at least 2, got {self.max_sentence_length}")
        for name, allowed in (
            ("cls", Place),
            ("sentence_positions", Positions),
            ("pooling", Pooling),
            ("pooled", Pooled),
        ):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name}: expected one of {', '.join(get_args(allowed))}, got {getattr(self, name)!r}")

    @property
    def whole_layout(self) -> str:
        """The layout of all layers."""
        return "|".join([self.layout] * self.layers)


class HiOutput(NamedTuple):
    """B documents, M sentences, K tokens, D wide; padded input gives padded output, with zeros at padding.

    For packed input sentences (S) and kept tokens (T) stand in reading order, document by document.

    Attributes:
        document: (B, D).
        sentences: (B, M, D) or (S, D), the final states of the sentence tokens.
        tokens: (B, M, K, D) or (T, D). The place of a sentence token holds what the last S block left there.
        sentence_weights: (B, M) or (S,), the weights of the pooling, which sum to 1 over a document.
        word_weights: (B, M, K) or (T,), which sum to 1 over a sentence; None where words are not pooled.
    """

    document: Tensor
    sentences: Tensor
    tokens: Tensor
    sentence_weights: Tensor
    word_weights: Tensor | None


class PooledLevels(NamedTuple):
    """document (B, D), weights of the sentences (S,), weights of the words for each bucket (n, K) or None."""

    document: Tensor
    sentence_weights: Tensor
    word_weights: list[Tensor] | None


class HiTransformer(nn.Module):
    """Documents to a document vector, sentence states and token states.

    Args:
        config: sizes.
        init: word vectors (vocab_size, dim) to start from; None: normal(0.02).

    Raises:
        ValueError: sizes that do not fit; in `forward`, ids or masks of another shape or range, a document without a
            word, too many sentences, or a sentence without its sentence token.

    >>> model = HiTransformer(HiTransformerConfig(vocab_size=100, dim=16, heads=2, ffn_dim=32))
    >>> ids = torch.tensor([[[7, 8, 2], [9, 2, 0]]])
    >>> model(ids, mask=ids != 0).document.shape
    torch.Size([1, 16])
    """

    def __init__(self, config: HiTransformerConfig, *, init: Any = None) -> None:
        super().__init__()
        self.config, self.dim = config, config.dim
        self.embedding = TextEmbedding(
            config.vocab_size,
            config.dim,
            max_length=config.max_sentence_length,
            types=config.types,
            init=init,
            norm_eps=config.norm_eps,
            dropout=config.dropout,
        )
        self.stack = _stack(config)
        tables = self.stack.entrances if config.sentence_positions == "layer" else min(1, self.stack.entrances)
        self.sentence_position = nn.ModuleList(nn.Embedding(config.max_sentences, config.dim) for _ in range(tables))
        for table in self.sentence_position:
            normal_init(table)
        attentive = config.pooling == "attentive"
        words = AttentivePooling(config.dim) if attentive else MeanPooling()
        self.word_pooling = words if config.pooled == "words" else None
        self.sentence_pooling = AttentivePooling(config.dim) if attentive else MeanPooling()

    def forward(
        self, input_ids: Tensor | PackedDocuments, *, mask: Tensor | None = None, sentence_mask: Tensor | None = None
    ) -> HiOutput:
        """Encode documents.

        Args:
            input_ids: (B, M, K) int64, each kept sentence with its sentence token; or `PackedDocuments`.
            mask: kept tokens, (B, M, K) bool; None: all.
            sentence_mask: kept sentences, (B, M) bool; None: those that keep a token.
        """
        if isinstance(input_ids, PackedDocuments):
            _no_masks(mask, sentence_mask)
            packing = input_ids.packing
            states = self.encode(input_ids.input_ids, packing)
            pooled = self.pool(states, packing)
            words = None if pooled.word_weights is None else packing.read_tokens(pooled.word_weights)
            tokens = packing.read_tokens(states.tokens)
            return HiOutput(pooled.document, states.sentences, tokens, pooled.sentence_weights, words)
        padded = self._padded(input_ids, mask, sentence_mask)
        states = self.encode(padded.enter(input_ids), padded.packing)
        pooled = self.pool(states, padded.packing)
        return HiOutput(
            pooled.document,
            padded.leave_sentences(states.sentences),
            padded.leave_tokens(states.tokens),
            padded.leave_sentences(pooled.sentence_weights),
            None if pooled.word_weights is None else padded.leave_tokens(pooled.word_weights),
        )

    def _padded(self, input_ids: Tensor, mask: Tensor | None, sentence_mask: Tensor | None) -> PaddedLayout:
        """The layout of padded ids."""
        if not isinstance(input_ids, Tensor) or input_ids.ndim != 3:
            got = tuple(input_ids.shape) if isinstance(input_ids, Tensor) else type(input_ids).__name__
            raise ValueError(f"input_ids: expected (batch, sentences, words) or PackedDocuments, got {got}")
        return PaddedLayout(mask, sentence_mask, input_ids.shape, cls=self.config.cls, device=input_ids.device)

    def encode(self, input_ids: tuple[Tensor, ...] | list[Tensor], packing: Packing) -> LevelStates:
        """States of tokens and sentences for the ids (n, K) of each bucket."""
        self._check(input_ids, packing)
        embedded = [self.embedding(ids) for ids in input_ids]
        tables = list(self.sentence_position)
        if len(tables) < self.stack.entrances:
            tables *= self.stack.entrances
        return self.stack(embedded, packing, [table(packing.sentence_index) for table in tables])

    def pool(self, states: LevelStates, packing: Packing) -> PooledLevels:
        """Words to sentence vectors, sentence vectors to document vectors."""
        vectors, word_weights = states.sentences, None
        if self.word_pooling is not None:
            each = [
                self.word_pooling(x, mask=here.words) for x, here in zip(states.tokens, packing.sentences, strict=True)
            ]
            vectors = packing.read_sentences([vector for vector, _ in each])
            word_weights = [weights for _, weights in each]
        documents, weights = [], []
        has_words = packing.lengths > 1
        for here in packing.documents:
            mask = here.gather(has_words) if here.mask is None else here.gather(has_words) & here.mask
            document, weight = self.sentence_pooling(here.gather(vectors), mask=mask)
            documents.append(document)
            weights.append(weight)
        order = torch.cat([here.rows for here in packing.documents]).argsort()
        document = torch.cat(documents).index_select(0, order)
        return PooledLevels(document, packing.read_documents(weights), word_weights)

    def for_document_classification(self, num_classes: int) -> DocumentClassifier:
        """A linear layer on the document vector; this network is shared, not copied."""
        from paperworks.sequence.hi_transformer.heads import DocumentClassifier

        return DocumentClassifier(self, num_classes=num_classes)

    def for_sentence_classification(self, num_classes: int) -> SentenceClassifier:
        """A linear layer on the final state of each sentence token; this network is shared, not copied."""
        from paperworks.sequence.hi_transformer.heads import SentenceClassifier

        return SentenceClassifier(self, num_classes=num_classes)

    def for_token_classification(self, num_classes: int) -> TokenClassifier:
        """A linear layer on the final state of each token; this network is shared, not copied."""
        from paperworks.sequence.hi_transformer.heads import TokenClassifier

        return TokenClassifier(self, num_classes=num_classes)

    def explain(self, text: str, *, tokenizer: DocumentTokenizer) -> list[tuple[str, float, list[tuple[str, float]]]]:
        """Where the pooling of a text looks: (sentence, its weight, its words with their weights within it).

        Sentence weights sum to 1 over the text, word weights over each sentence; a word's is the sum of its pieces'.
        Weights say what was summed, not what decided. Run in evaluation mode.

        Raises:
            ValueError: `pooled="sentences"`, where there are no word weights, or what the tokenizer refuses.
        """
        if self.word_pooling is None:
            raise ValueError('explain: a model with pooled="sentences" has no weights of words')
        device = self.embedding.word.weight.device
        with evaluating(self), torch.no_grad():
            packed = tokenizer([text]).to(device)
            output = self(packed)
        each = torch.split(output.word_weights, packed.packing.lengths.tolist())
        return [
            (sentence, float(weight), [(word.text, float(part[word.tokens].sum())) for word in words])
            for (sentence, words), weight, part in zip(
                tokenizer.words(text), output.sentence_weights.tolist(), each, strict=True
            )
        ]

    @classmethod
    def from_encoder(cls, name_or_path: str | os.PathLike[str], **options: Any) -> HiTransformer:
        """Start from public weights; see `paperworks.sequence.hi_transformer.checkpoint.from_encoder`."""
        from paperworks.sequence.hi_transformer.checkpoint import from_encoder

        return from_encoder(name_or_path, **options)

    def _check(self, input_ids: tuple[Tensor, ...] | list[Tensor], packing: Packing) -> None:
        check_packed(input_ids, packing)
        if torch.compiler.is_compiling() or not packing.sentence_index.is_cpu:
            return
        sentences = int(packing.sentence_index.max()) + 1
        if sentences > self.config.max_sentences and self.stack.entrances:
            raise ValueError(
                f"max_sentences: document has {sentences} sentences, model allows {self.config.max_sentences} "
                '(use truncate="head"|"middle"|"tail" in the DocumentTokenizer)'
            )
        for ids, here in zip(input_ids, packing.sentences, strict=True):
            found = ids.gather(1, here.place[:, None])[:, 0]
            if bool((wrong := found != self.config.cls_id).any()):
                row = here.rows[wrong][0]
                place = f"sentence {packing.sentence_index[row]} of document {packing.doc_index[row]}"
                raise ValueError(
                    f"input_ids: {place} has id {found[wrong][0]} at its {self.config.cls}, expected the sentence "
                    f"token {self.config.cls_id}"
                )


def _stack(config: HiTransformerConfig) -> HiStack:
    def attention(index: int) -> nn.Module:
        return AttentionMixing(config.dim, config.heads, dropout=config.dropout)

    block = BlockOptions(
        ffn_dim=config.ffn_dim,
        norm=config.norm,
        norm_eps=config.norm_eps,
        activation=config.activation,
        dropout=config.dropout,
        mixer_dropout=config.dropout,
    )
    return HiStack(
        config.whole_layout,
        dim=config.dim,
        block=block,
        sentence_mixer=config.sentence_mixer or attention,
        document_mixer=attention,
    )


def _no_masks(mask: Tensor | None, sentence_mask: Tensor | None) -> None:
    if mask is not None or sentence_mask is not None:
        raise ValueError("mask: given beside PackedDocuments, which have their own")
