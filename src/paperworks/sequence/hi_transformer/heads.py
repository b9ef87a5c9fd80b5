"""Three heads, each a linear layer with logits for `cross_entropy`; they share the network they are made of."""

from __future__ import annotations

from torch import Tensor, nn

from paperworks.nn import normal_init
from paperworks.sequence.hi_transformer.documents import PackedDocuments
from paperworks.sequence.hi_transformer.model import HiTransformer


class _Head(nn.Module):
    def __init__(self, model: HiTransformer, *, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes: must be at least 1, got {num_classes}")
        self.model = model
        self.output = nn.Linear(model.dim, num_classes)
        normal_init(self.output)


class DocumentClassifier(_Head):
    """`W d + b` on the document vector: ids (B, M, K) or packed documents -> logits (B, num_classes).

    Raises:
        ValueError: `num_classes` below 1, and what the model refuses.

    Reference: Hi-Transformer, section 2 (the softmax is left to the loss).
    """

    def forward(self, input_ids: Tensor | PackedDocuments, **masks: Tensor | None) -> Tensor:
        return self.output(self.model(input_ids, **masks).document)


class SentenceClassifier(_Head):
    """`W s'_i + b` on the sentence tokens: ids (B, M, K) -> logits (B, M, num_classes); packed -> (S, num_classes).

    Logits at sentences of padding are `b` and mean nothing.

    Raises:
        ValueError: `num_classes` below 1, and what the model refuses.
    """

    def forward(self, input_ids: Tensor | PackedDocuments, **masks: Tensor | None) -> Tensor:
        return self.output(self.model(input_ids, **masks).sentences)


class TokenClassifier(_Head):
    """`W h_ij + b` on the tokens: ids (B, M, K) -> logits (B, M, K, num_classes); packed -> (T, num_classes).

    Sentence tokens have logits too; leave them out of the loss. Logits at padding are `b` and mean nothing.

    Raises:
        ValueError: `num_classes` below 1, and what the model refuses.
    """

    def forward(self, input_ids: Tensor | PackedDocuments, **masks: Tensor | None) -> Tensor:
        return self.output(self.model(input_ids, **masks).tokens)
