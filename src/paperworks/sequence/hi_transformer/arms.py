"""What the Hi-Transformer is compared with: classifiers of equal width, blocks and input, packed documents.

`hi_transformer` spends six blocks as S D S, S D S. `hierarchical` has the same six without a second sentence pass: four
S, then two D, and pools the document-aware sentence states. `alone` has six S and never looks beyond a sentence.
`flat_truncated` has six blocks over the first tokens of the document as one sequence. Embeddings, heads and dropout are
equal, so that parameters differ by positions and one pooling layer only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.nn import AttentionMixing, BlockOptions, MixerEncoder, SequenceClassifier, TextEmbedding
from paperworks.sequence.hi_transformer.documents import PackedDocuments
from paperworks.sequence.hi_transformer.model import HiTransformer, HiTransformerConfig

# Layouts with as many blocks as two layers of S D S, and what the document vector is pooled from.
_HIERARCHIES: dict[str, dict[str, Any]] = {
    "hi_transformer": {},
    "hierarchical": {"layers": 1, "layout": "SSSSDD", "pooled": "sentences"},
    "alone": {"layers": 1, "layout": "SSSSSS"},
}
ARMS = (*_HIERARCHIES, "flat_truncated")
FLAT_LENGTH = 256


class FlatTruncated(nn.Module):
    """A plain Transformer over the first words of each document: packed documents -> logits (B, num_classes).

    Args:
        config: of the Hi-Transformer that it stands beside: sizes and the number of blocks are taken from there.
        num_classes: number of labels.
        length: words that are read, with absolute positions; sentence tokens are left out.
        init: word vectors to start from.
    """

    def __init__(
        self, config: HiTransformerConfig, *, num_classes: int, length: int = FLAT_LENGTH, init: Any = None
    ) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"length: must be at least 1, got {length}")
        self.length = length
        embedding = TextEmbedding(config.vocab_size, config.dim, max_length=length, init=init, dropout=config.dropout)
        block = BlockOptions(
            ffn_dim=config.ffn_dim,
            norm=config.norm,
            norm_eps=config.norm_eps,
            activation=config.activation,
            dropout=config.dropout,
            mixer_dropout=config.dropout,
        )

        def attention(index: int) -> nn.Module:
            return AttentionMixing(config.dim, config.heads, dropout=config.dropout)

        depth = len(config.whole_layout.replace("|", ""))
        encoder = MixerEncoder(attention, dim=config.dim, depth=depth, block=block)
        self.classifier = SequenceClassifier(embedding, encoder, num_classes=num_classes, pooling="attentive")

    def forward(self, documents: PackedDocuments) -> Tensor:
        ids, mask = first_words(documents, self.length)
        return self.classifier(ids, mask=mask)


def first_words(documents: PackedDocuments, length: int) -> tuple[Tensor, Tensor]:
    """The first words of each document as one sequence, sentence tokens left out: ids (B, length) and mask."""
    packing = documents.packing
    is_word = packing.read_tokens([here.words for here in packing.sentences])
    words = packing.read_tokens(documents.input_ids)[is_word]
    document = packing.doc_index.repeat_interleave(packing.lengths - 1)
    counts = document.bincount(minlength=packing.batch)
    place = torch.arange(len(words), device=words.device) - (counts.cumsum(0) - counts)[document]
    kept = place < length
    ids = words.new_zeros(packing.batch, length)
    ids[document[kept], place[kept]] = words[kept]
    return ids, torch.arange(length, device=words.device) < counts[:, None]


def build_arm(arm: str, config: HiTransformerConfig, *, num_classes: int, init: Any = None) -> nn.Module:
    """A document classifier: packed documents -> logits (B, num_classes).

    Args:
        arm: one of `ARMS`.
        config: of the Hi-Transformer, two layers of "SDS"; the other arms take all but the layout from it.
        init: word vectors that every arm starts from.

    Raises:
        ValueError: no such arm, or another layout in `config`.
    """
    if arm == "flat_truncated":
        _check_layout(config)
        return FlatTruncated(config, num_classes=num_classes, init=init)
    return HiTransformer(arm_config(arm, config), init=init).for_document_classification(num_classes)


def arm_config(arm: str, config: HiTransformerConfig) -> HiTransformerConfig:
    """The configuration of a hierarchical arm, for heads of sentences and tokens too.

    Raises:
        ValueError: as `build_arm`; `flat_truncated` is no hierarchical arm.
    """
    _check_layout(config)
    if arm not in _HIERARCHIES:
        raise ValueError(f"arm: expected one of {', '.join(_HIERARCHIES)}, got {arm!r}")
    return replace(config, **_HIERARCHIES[arm])


def _check_layout(config: HiTransformerConfig) -> None:
    if config.whole_layout != "SDS|SDS":
        raise ValueError(f"config: arms have the blocks of two layers SDS, got {config.whole_layout!r}")
