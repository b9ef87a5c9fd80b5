"""Token, position and type embeddings."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from paperworks.nn.block import check_probability
from paperworks.nn.initial import lecun_normal_, normal_init

Positions = Literal["learned", "none"]


class TextEmbedding(nn.Module):
    """`drop(W LN(word[id] + position[n] + type[t]) + b)`.

    Args:
        vocab_size, dim: number of ids, and width of the result.
        embed_dim: width of the tables. Where it is given a dense layer leads to `dim`, even if both are equal (FNet has
            one); None: the tables have width `dim` and no dense layer follows.
        max_length: number of learned positions.
        types: number of token types; 0: none.
        positions: "learned", or "none" for encoders whose mixers know positions themselves.
        init: word vectors (vocab_size, embed_dim or dim) to start from; rows of the table in the order of ids.
        norm: LayerNorm after the sum.
        norm_eps: added to its variance; BERT's and FNet's 1e-12, RoBERTa's 1e-5.

    Shapes: ids (B, N) integers -> (B, N, dim). Tables are drawn from normal(0.02), the dense layer is lecun normal.

    Raises:
        ValueError: at construction for an unknown option or `init` of another shape; in `forward` for ids of another
            shape or type, too long an input, ids outside the vocabulary (on a CPU; not under `torch.compile`).
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        embed_dim: int | None = None,
        max_length: int = 512,
        types: int = 0,
        positions: Positions = "learned",
        init: Any = None,
        norm: bool = True,
        norm_eps: float = 1e-12,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if positions not in get_args(Positions):
            raise ValueError(f"positions: expected one of {', '.join(get_args(Positions))}, got {positions!r}")
        check_probability(dropout, "dropout")
        width = dim if embed_dim is None else embed_dim
        self.vocab_size, self.dim, self.embed_dim, self.types = vocab_size, dim, width, types
        self.max_length = max_length if positions == "learned" else None
        self.word = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(max_length, width) if positions == "learned" else None
        self.token_type = nn.Embedding(types, width) if types else None
        self.norm = nn.LayerNorm(width, eps=norm_eps) if norm else nn.Identity()
        self.projection = nn.Identity() if embed_dim is None else nn.Linear(width, dim)
        self.dropout = nn.Dropout(dropout)
        normal_init(self)
        if isinstance(self.projection, nn.Linear):
            lecun_normal_(self.projection.weight)
        if init is not None:
            self._start_from(torch.as_tensor(init))

    @torch.no_grad()
    def _start_from(self, vectors: Tensor) -> None:
        if vectors.shape != self.word.weight.shape:
            raise ValueError(
                f"init: expected word vectors of shape {tuple(self.word.weight.shape)}, got {tuple(vectors.shape)}"
            )
        self.word.weight.copy_(vectors)

    def forward(self, ids: Tensor, *, types: Tensor | None = None, start: int = 0) -> Tensor:
        """Embed ids (B, N); `types` (B, N), None: all 0; `start`: the position of the first id, for streams."""
        self._check(ids, types, start)
        x = self.word(ids)
        if self.position is not None:
            x = x + self.position.weight[start : start + ids.shape[1]]
        if self.token_type is not None:
            x = x + (self.token_type.weight[0] if types is None else self.token_type(types))
        return self.dropout(self.projection(self.norm(x)))

    def _check(self, ids: Tensor, types: Tensor | None, start: int) -> None:
        check_ids(ids)
        end = start + ids.shape[1]
        if self.max_length is not None and end > self.max_length:
            raise ValueError(f"ids: length {end} exceeds the {self.max_length} learned positions; cut the input")
        _check_range(ids, self.vocab_size, name="ids")
        if types is None:
            return
        if self.token_type is None:
            raise ValueError("types: this embedding has none; build it with types=2 or leave them out")
        if types.shape != ids.shape:
            raise ValueError(f"types: expected {tuple(ids.shape)} like ids, got {tuple(types.shape)}")
        _check_range(types, self.types, name="types")


def check_ids(ids: Tensor) -> None:
    """Refuse ids that are not a (batch, length) tensor of integers."""
    if not isinstance(ids, Tensor):
        raise ValueError(f'ids: expected a tensor, got {type(ids).__name__}; tokenize with return_tensors="pt"')
    if ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
        kind = str(ids.dtype).removeprefix("torch.")
        raise ValueError(f"ids: expected (batch, length) int64, got {tuple(ids.shape)} {kind}")


def _check_range(ids: Tensor, size: int, *, name: str) -> None:
    # On an accelerator this would wait for the device; the lookup itself fails there.
    if torch.compiler.is_compiling() or not ids.is_cpu or not ids.numel():
        return
    low, high = (int(end) for end in torch.aminmax(ids))
    if low < 0 or high >= size:
        raise ValueError(f"{name}: expected 0..{size - 1}, got {low if low < 0 else high}")
