"""A left-to-right language model over any causal encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.nn.contract import check_mask
from paperworks.nn.embedding import TextEmbedding, check_ids
from paperworks.nn.heads import Ids, TextModel, _check_table
from paperworks.nn.initial import normal_init
from paperworks.nn.modes import evaluating


class Generated(NamedTuple):
    """Prompts with their continuations, (B, length), and which of the ids count, (B, length) bool (a prefix)."""

    ids: Tensor
    mask: Tensor


class CausalLM(TextModel):
    """`p(id_{n+1} | id_0..n) = softmax(E P x_n + c)`, E the embedding's own table, P a dense layer where widths differ.

    Shapes: ids (B, N) -> logits (B, N, vocabulary); position n predicts id n + 1.

    Raises:
        ValueError: an encoder that is not causal, an embedding that is no `TextEmbedding`.
    """

    def __init__(self, embedding: TextEmbedding, encoder: nn.Module) -> None:
        super().__init__(embedding, encoder)
        if not getattr(encoder, "causal", False):
            raise ValueError(
                "encoder: is not causal, so it sees the words it should predict; build its mixers causal=True"
            )
        _check_table(embedding)
        same = embedding.embed_dim == self.dim
        self.projection = nn.Identity() if same else nn.Linear(self.dim, embedding.embed_dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(embedding.vocab_size))
        normal_init(self.projection)

    def forward(self, ids: Ids, **options: Any) -> Tensor:
        """Logits (B, N, vocabulary); options `mask`, `types`, `context` as in `encode`."""
        return self._logits(self.encode_tokens(ids, **options).states)

    @torch.no_grad()
    def generate(
        self,
        ids: Tensor,
        *,
        max_new_tokens: int,
        mask: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        eos_id: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Generated:
        """Continue prompts, token by token; where all layers stream, each token costs one step.

        Args:
            ids: (B, N) prompts, each with at least one token.
            mask: (B, N) bool, True on a prefix: prompts of different lengths. None: all of length N.
            temperature: divides the logits; 0 takes the most probable id.
            top_k: draw among the k most probable ids only.
            eos_id: ends a row; it counts as part of the row.
            generator: for the draws.

        Runs in evaluation mode and restores the mode. Ids after a row's end are `eos_id` (0 where there is none) and
        masked out.

        Raises:
            ValueError: an empty prompt, a mask that is no prefix, an option out of range, or more tokens than embedding
                or encoder can take.
        """
        lengths = _prompt_lengths(ids, mask)
        _check_options(max_new_tokens, temperature, top_k)
        total = int(lengths.max()) + max_new_tokens
        # The last id is only drawn, never read.
        self._check_room(total - 1)
        row_end = lengths + max_new_tokens
        out = F.pad(ids, (0, max(0, total - ids.shape[1])))[:, :total].clone()
        ended = torch.zeros_like(lengths, dtype=torch.bool)
        ends = row_end.clone()
        with evaluating(self):
            read = self._reader(out, start=int(lengths.min()) - 1)
            for position in range(1, total):
                logits = read(position - 1)
                in_prompt = position < lengths
                if logits is None or bool(in_prompt.all()):
                    continue
                drawn = _draw(logits, temperature, top_k, generator)
                free = ~in_prompt & ~ended & (position < row_end)
                filler = torch.full_like(drawn, 0 if eos_id is None else eos_id)
                out[:, position] = torch.where(in_prompt, out[:, position], torch.where(free, drawn, filler))
                if eos_id is not None:
                    stopped = free & (drawn == eos_id)
                    ends = torch.where(stopped, position + 1, ends)
                    ended = ended | stopped
                if bool((ended | (position + 1 >= row_end)).all()):
                    break
        length = int(ends.max())
        return Generated(out[:, :length], torch.arange(length, device=ids.device) < ends[:, None])

    def _logits(self, states: Tensor) -> Tensor:
        return F.linear(self.projection(states), self.embedding.word.weight, self.bias)  # pyright: ignore

    def _reader(self, ids: Tensor, *, start: int) -> Callable[[int], Tensor | None]:
        """A function that reads the id at a position and returns the logits after it; positions come in order.

        Without streams the whole prefix is read again, from `start` on, where the first prompt ends.
        """
        if not getattr(self.encoder, "streams", False):
            return lambda position: self(ids[:, : position + 1])[:, -1] if position >= start else None
        state: Any = self.encoder.init_state(ids.shape[0])  # pyright: ignore[reportCallIssue]

        def read(position: int) -> Tensor:
            nonlocal state
            x = self.embedding(ids[:, position : position + 1], start=position)[:, 0]
            y, state = self.encoder.step(x, state)  # pyright: ignore[reportCallIssue]
            return self._logits(y)

        return read

    def _check_room(self, length: int) -> None:
        for name in ("embedding", "encoder"):
            limit = getattr(getattr(self, name), "max_length", None)
            if limit is not None and length > limit:
                raise ValueError(
                    f"max_new_tokens: prompt and continuation need {length} positions, the {name} has {limit}"
                )


def _prompt_lengths(ids: Tensor, mask: Tensor | None) -> Tensor:
    check_ids(ids)
    check_mask(mask, ids.shape)
    if mask is None:
        mask = torch.ones_like(ids, dtype=torch.bool)
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError("mask: expected True on a prefix of each row; move the prompts to the left")
    if not ids.numel() or not bool(mask[:, 0].all()):
        raise ValueError("ids: every prompt needs at least one token")
    return mask.sum(1)


def _check_options(max_new_tokens: int, temperature: float, top_k: int | None) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: must be at least 1, got {max_new_tokens}")
    if temperature < 0:
        raise ValueError(f"temperature: must not be negative, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: must be at least 1, got {top_k}")


def _draw(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        # By index, so that ties do not let more than k through.
        kept = logits.topk(top_k, -1)
        logits = torch.full_like(logits, float("-inf")).scatter(-1, kept.indices, kept.values)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
