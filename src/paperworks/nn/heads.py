"""Models for text: an embedding, any encoder, and a head. All return logits.

An encoder is `forward(x, *, mask=None, context=None) -> Encoded(states, mask)` with an attribute `dim`. Everywhere
`ids` may be a `transformers.BatchEncoding` as the tokenizer gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.nn.contract import Encoded
from paperworks.nn.embedding import TextEmbedding
from paperworks.nn.initial import normal_init
from paperworks.nn.inputs import read_inputs
from paperworks.nn.pooling import AttentivePooling, FirstPooling, MeanPooling
from paperworks.nn.sharing import save_shared_once

Pooling = Literal["cls", "mean", "attentive"]
Ids = Tensor | Mapping[str, Any]

_POOLINGS: dict[str, Callable[[int], nn.Module]] = {
    "cls": FirstPooling,
    "mean": lambda dim: MeanPooling(),
    "attentive": AttentivePooling,
}


class TextModel(nn.Module):
    """An embedding and an encoder; the base of all heads.

    Args:
        embedding: `TextEmbedding`, or any module `ids (B, N) -> (B, N, D)`.
        encoder: see the module.
    """

    def __init__(self, embedding: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        width = getattr(embedding, "dim", None)
        if width is not None and width != encoder.dim:
            raise ValueError(f"embedding: has width {width}, the encoder has {encoder.dim}; they must be equal")
        self.embedding = embedding
        self.encoder = encoder
        save_shared_once(self)

    @property
    def dim(self) -> int:
        return int(self.encoder.dim)  # pyright: ignore[reportArgumentType]

    def encode(
        self,
        ids: Ids,
        *,
        mask: Tensor | None = None,
        types: Tensor | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Encoded:
        """The encoder's states for ids (B, N).

        Raises:
            ValueError: whatever the embedding or the encoder refuses.
        """
        inputs = read_inputs(ids, mask, types, type_count=getattr(self.embedding, "types", 0))
        x = self.embedding(inputs.ids) if inputs.types is None else self.embedding(inputs.ids, types=inputs.types)
        return self.encoder(x, mask=inputs.mask, context=context)

    def encode_tokens(self, ids: Ids, **options: Any) -> Encoded:
        """`encode`, where one state per token is needed."""
        states, mask = self.encode(ids, **options)
        length = (ids["input_ids"] if isinstance(ids, Mapping) else ids).shape[1]
        if states.shape[1] != length:
            raise ValueError(
                f"encoder: gave {states.shape[1]} states for {length} tokens; this head needs one per token"
            )
        return Encoded(states, mask)


class SequenceClassifier(TextModel):
    """One label per text: `W pool(states) + b`.

    Args:
        num_classes: number of labels.
        pooling: "cls": tanh of a dense layer on the first state (BERT, FNet); "mean": of the kept states; "attentive":
            `AttentivePooling`. Encoders with fewer states than tokens pool over those.

    Shapes: ids (B, N), mask (B, N) bool -> logits (B, num_classes). For weights to explain a decision:
    `states, mask = model.encode(ids, mask=mask)`, then `model.pooling(states, mask=mask)`.

    Raises:
        ValueError: unknown `pooling`, `num_classes` below 1, and what embedding and encoder refuse.
    """

    def __init__(self, embedding: nn.Module, encoder: nn.Module, *, num_classes: int, pooling: Pooling = "cls") -> None:
        super().__init__(embedding, encoder)
        if pooling not in _POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(_POOLINGS)}, got {pooling!r}")
        self.pooling = _POOLINGS[pooling](self.dim)
        self.output = _output(self.dim, num_classes)

    def forward(self, ids: Ids, **options: Any) -> Tensor:
        """Logits (B, num_classes); options `mask`, `types`, `context` as in `encode`."""
        states, mask = self.encode(ids, **options)
        pooled, _ = self.pooling(states, mask=mask)
        return self.output(pooled)


class TokenTagger(TextModel):
    """One label per token: ids (B, N) -> logits (B, N, num_classes).

    Raises:
        ValueError: `num_classes` below 1, an encoder that returns fewer states than tokens.
    """

    def __init__(self, embedding: nn.Module, encoder: nn.Module, *, num_classes: int) -> None:
        super().__init__(embedding, encoder)
        self.output = _output(self.dim, num_classes)

    def forward(self, ids: Ids, **options: Any) -> Tensor:
        """Logits (B, N, num_classes); options `mask`, `types`, `context` as in `encode`."""
        return self.output(self.encode_tokens(ids, **options).states)


class MaskedLM(TextModel):
    """Guess masked words: `E LN(gelu(W x + b)) + c`, E the embedding's own table.

    Shapes: ids (B, N) -> logits (B, N, vocabulary), or (B, P, vocabulary) at `positions` (B, P), which saves most of
    the work where few are asked for.

    Raises:
        ValueError: an embedding that is no `TextEmbedding`, `positions` of another shape.

    Reference: Devlin et al., BERT (2019, arXiv 1810.04805), and FNet's code: tanh-GELU, eps 1e-12.
    """

    def __init__(self, embedding: TextEmbedding, encoder: nn.Module) -> None:
        super().__init__(embedding, encoder)
        _check_table(embedding)
        self.dense = nn.Linear(self.dim, embedding.embed_dim)
        self.norm = nn.LayerNorm(embedding.embed_dim, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(embedding.vocab_size))
        normal_init(self.dense)

    def forward(self, ids: Ids, *, positions: Tensor | None = None, **options: Any) -> Tensor:
        """Logits for all tokens or at `positions`; options `mask`, `types`, `context` as in `encode`."""
        states = self.encode_tokens(ids, **options).states
        if positions is not None:
            if positions.ndim != 2 or positions.shape[0] != states.shape[0]:
                expected = f"({states.shape[0]}, positions)"
                raise ValueError(f"positions: expected (batch, positions) = {expected}, got {tuple(positions.shape)}")
            states = states.gather(1, positions[..., None].expand(-1, -1, states.shape[2]))
        hidden = self.norm(F.gelu(self.dense(states), approximate="tanh"))
        return F.linear(hidden, self.embedding.word.weight, self.bias)  # pyright: ignore


def _output(dim: int, num_classes: int) -> nn.Linear:
    if num_classes < 1:
        raise ValueError(f"num_classes: must be at least 1, got {num_classes}")
    layer = nn.Linear(dim, num_classes)
    normal_init(layer)
    return layer


def _check_table(embedding: nn.Module) -> None:
    if not isinstance(embedding, TextEmbedding):
        raise ValueError(
            f"embedding: expected a TextEmbedding, whose table is the output, got {type(embedding).__name__}"
        )
