"""A sequence-to-sequence model over any encoder and decoder, with teacher forcing, greedy and beam search.

    p(y_t | y_<t, x) = softmax(W dec(bos y_1 .. y_{t-1}, enc(x))_t + b)

`forward` predicts all target positions at once; `generate` runs token by token, with keys and values kept. Neither
changes the modes of the parts: call `model.eval()` first, or draw within `paperworks.train.mc_dropout`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from paperworks.nn.attention import AttentionMixing
from paperworks.nn.block import BlockOptions
from paperworks.nn.contract import Encoded, check_mask
from paperworks.nn.cross_attention import CrossAttentionMixing
from paperworks.nn.decoder import DecoderState, MixerDecoder
from paperworks.nn.embedding import TextEmbedding, check_ids
from paperworks.nn.encoder import MixerEncoder
from paperworks.nn.initial import normal_init


class Beams(NamedTuple):
    """Generated sequences, the best first.

    Shapes: `ids` (B, R, L) without the begin token and with the end token, padded; `mask` (B, R, L) bool, which of them
    count; `log_prob` (B, R), the natural log-probability of each whole sequence.
    """

    ids: Tensor
    mask: Tensor
    log_prob: Tensor


class EncoderDecoder(nn.Module):
    """An encoder, and a decoder that attends to its states.

    Args:
        source, target: embeddings of the two vocabularies (one module for both: shared).
        encoder: such as `MixerEncoder`.
        decoder: a `MixerDecoder` whose mixers are causal.
        bos_id, eos_id, pad_id: of the target.

    Shapes: `source_ids` (B, S), `target_ids` (B, T) with the end and without the begin token -> logits (B, T, V), where
    position t predicts `target_ids[:, t]`.

    Raises:
        ValueError: a decoder that is not causal or parts of different widths.
    """

    def __init__(
        self,
        source: TextEmbedding,
        encoder: nn.Module,
        target: TextEmbedding,
        decoder: MixerDecoder,
        *,
        bos_id: int,
        eos_id: int,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        if not decoder.causal:
            raise ValueError("decoder: is not causal, so it sees the words it should predict; build it causal=True")
        if target.dim != decoder.dim:
            raise ValueError(f"target: embeds in {target.dim} dimensions, the decoder has {decoder.dim}")
        self.source, self.encoder, self.target, self.decoder = source, encoder, target, decoder
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id
        self.head = nn.Linear(decoder.dim, target.vocab_size)
        normal_init(self.head)

    @classmethod
    def small(
        cls,
        source_size: int,
        target_size: int,
        *,
        bos_id: int,
        eos_id: int,
        pad_id: int = 0,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        ffn_dim: int = 256,
        max_length: int = 64,
        dropout: float = 0.1,
    ) -> Self:
        """A pre-norm transformer with learned absolute positions; dropout is everywhere, attention weights included.

        Dense layers start by Xavier's rule and embeddings from normal(0, 1): at this size normal(0, 0.02) learns to
        attend three times as slowly.
        """
        block = BlockOptions(
            ffn_dim=ffn_dim, norm="pre", norm_eps=1e-5, activation="relu", dropout=dropout, mixer_dropout=dropout
        )

        def embed(size: int) -> TextEmbedding:
            return TextEmbedding(size, dim, max_length=max_length, norm=False, dropout=dropout)

        encoder = MixerEncoder(
            lambda layer: AttentionMixing(dim, heads, dropout=dropout), dim=dim, depth=depth, block=block
        )
        decoder = MixerDecoder(
            lambda layer: AttentionMixing(dim, heads, causal=True, dropout=dropout),
            lambda layer: CrossAttentionMixing(dim, heads, dropout=dropout),
            dim=dim,
            depth=depth,
            block=block,
        )
        source, target = embed(source_size), embed(target_size)
        model = cls(source, encoder, target, decoder, bos_id=bos_id, eos_id=eos_id, pad_id=pad_id)
        for part in model.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
            elif isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight)
        return model

    def forward(
        self,
        source_ids: Tensor,
        target_ids: Tensor,
        *,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the target given itself (teacher forcing)."""
        memory = self.encode(source_ids, mask=source_mask)
        return self.head(self.decode(memory, target_ids, mask=target_mask))

    def encode(self, source_ids: Tensor, *, mask: Tensor | None = None) -> Encoded:
        """States (B, S, D) of the source."""
        check_ids(source_ids)
        check_mask(mask, source_ids.shape, name="source_mask")
        return self.encoder(self.source(source_ids), mask=mask)

    def decode(self, memory: Encoded, target_ids: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """States (B, T, D) from which `head` predicts the target: each has read what comes before it."""
        check_ids(target_ids)
        check_mask(mask, target_ids.shape, name="target_mask")
        begin = target_ids.new_full((len(target_ids), 1), self.bos_id)
        read = torch.cat([begin, target_ids[:, :-1]], 1)
        # The begin token is read wherever there is a target at all.
        seen = None if mask is None else torch.cat([mask[:, :1], mask[:, :-1]], 1)
        return self.decoder(self.target(read), memory.states, mask=seen, memory_mask=memory.mask).states

    @torch.no_grad()
    def generate(
        self,
        source_ids: Tensor,
        *,
        source_mask: Tensor | None = None,
        max_new_tokens: int,
        num_beams: int = 1,
        num_return: int = 1,
        length_penalty: float = 1.0,
    ) -> Beams:
        """The most probable targets found by beam search (greedy search for one beam).

        The search of a source ends when `num_beams` sequences are finished. They compete by
        `log p / length ** length_penalty`, the length with the end token; where the search ends at `max_new_tokens`,
        unfinished sequences compete as they are. The result does not depend on the composition of the batch. Where the
        decoder cannot stream, the whole prefix is read again for each token.

        Raises:
            ValueError: an option out of range, or more tokens than the target has positions.
        """
        self._check_options(max_new_tokens, num_beams, num_return)
        check_ids(source_ids)
        memory = self.encode(source_ids, mask=source_mask)
        search = _Search(len(source_ids), num_beams, max_new_tokens, length_penalty, self, source_ids.device)
        reader = _Reader(self, memory, num_beams)
        for _ in range(max_new_tokens):
            parents = search.advance(self.head(reader.read(search.last)))
            if search.done:
                break
            reader.follow(parents)
        return search.result(num_return)

    def _check_options(self, max_new_tokens: int, num_beams: int, num_return: int) -> None:
        if max_new_tokens < 1 or num_beams < 1:
            raise ValueError(f"max_new_tokens, num_beams: must be at least 1, got {max_new_tokens}, {num_beams}")
        if not 1 <= num_return <= num_beams:
            raise ValueError(f"num_return: expected 1 to num_beams = {num_beams}, got {num_return}")
        limit = self.target.max_length
        if limit is not None and max_new_tokens > limit:
            raise ValueError(f"max_new_tokens: {max_new_tokens} exceed the {limit} positions of the target")


class _Reader:
    """Reads the beams' newest tokens; rows are (batch, beam) flattened."""

    def __init__(self, model: EncoderDecoder, memory: Encoded, beams: int) -> None:
        self.model, self.position = model, 0
        states = memory.states.repeat_interleave(beams, 0)
        mask = None if memory.mask is None else memory.mask.repeat_interleave(beams, 0)
        self.memory = Encoded(states, mask)
        self.state = model.decoder.init_state(states, memory_mask=mask) if model.decoder.streams else None
        self.prefix: Tensor | None = None

    def read(self, last: Tensor) -> Tensor:
        """States (rows, D) after the tokens (rows,)."""
        model = self.model
        if self.state is not None:
            x = model.target(last[:, None], start=self.position)[:, 0]
            y, self.state = model.decoder.step(x, self.state)
            self.position += 1
            return y
        self.prefix = last[:, None] if self.prefix is None else torch.cat([self.prefix, last[:, None]], 1)
        read = model.decoder(model.target(self.prefix), self.memory.states, memory_mask=self.memory.mask)
        return read.states[:, -1]

    def follow(self, parents: Tensor) -> None:
        """Continue from these rows; the beams of a source share its memory, which stays where it is."""
        if self.state is not None:
            self.state = DecoderState(self.state.position, _rows(self.state.layers, parents), self.state.caches)
        if self.prefix is not None:
            self.prefix = self.prefix[parents]


class _Search:
    """Beams under way and the finished sequences of each source."""

    def __init__(
        self, batch: int, beams: int, limit: int, penalty: float, model: EncoderDecoder, device: torch.device
    ) -> None:
        self.batch, self.beams, self.limit, self.penalty, self.model = batch, beams, limit, penalty, model
        # All beams begin alike: only the first may be continued.
        self.scores = torch.full((batch, beams), float("-inf"), device=device)
        self.scores[:, 0] = 0.0
        self.ids = torch.full((batch, beams, limit), model.pad_id, device=device)
        self.length = 0
        self.best_ids = self.ids.clone()
        self.best_score = torch.full_like(self.scores, float("-inf"))
        self.best_log_prob = torch.full_like(self.scores, float("-inf"))
        self.best_length = torch.zeros(batch, beams, dtype=torch.long, device=device)

    @property
    def last(self) -> Tensor:
        if not self.length:
            return self.ids.new_full((self.batch * self.beams,), self.model.bos_id)
        return self.ids[:, :, self.length - 1].flatten()

    def advance(self, logits: Tensor) -> Tensor:
        """Take the best continuations; returns the rows that they continue."""
        size = logits.shape[1]
        log_prob = logits.float().log_softmax(-1).view(self.batch, self.beams, size)
        totals = (self.scores[..., None] + log_prob).flatten(1)
        # Twice as many as beams: even if each beam ends, as many that go on are among them.
        found = totals.topk(min(2 * self.beams, totals.shape[1]), 1)
        parents, tokens = found.indices // size, found.indices % size
        ends = tokens == self.model.eos_id
        ids = self.ids.gather(1, parents[..., None].expand(-1, -1, self.limit)).clone()
        ids[:, :, self.length] = tokens
        self.length += 1
        # As in beam search at large: an end is taken only from among the first `beams` continuations.
        among = torch.arange(ends.shape[1], device=ends.device) < self.beams
        self._finish(ids, found.values.masked_fill(~(ends & among), float("-inf")))
        going = found.values.masked_fill(ends, float("-inf")).topk(self.beams, 1)
        self.scores = going.values
        self.ids = ids.gather(1, going.indices[..., None].expand(-1, -1, self.limit))
        rows = torch.arange(self.batch, device=ids.device)[:, None] * self.beams
        return (rows + parents.gather(1, going.indices)).flatten()

    def _finish(self, ids: Tensor, log_prob: Tensor) -> None:
        """Keep the best `beams` of the finished sequences so far and these, where the search has not ended."""
        log_prob = log_prob.masked_fill(self.ended[:, None], float("-inf"))
        score = torch.cat([self.best_score, log_prob / self.length**self.penalty], 1)
        kept = score.topk(self.beams, 1)
        lengths = torch.full_like(log_prob, self.length, dtype=torch.long)
        self.best_score = kept.values
        self.best_ids = torch.cat([self.best_ids, ids], 1).gather(1, kept.indices[..., None].expand(-1, -1, self.limit))
        self.best_log_prob = torch.cat([self.best_log_prob, log_prob], 1).gather(1, kept.indices)
        self.best_length = torch.cat([self.best_length, lengths], 1).gather(1, kept.indices)

    @property
    def ended(self) -> Tensor:
        """(B,) sources with as many finished sequences as beams."""
        return self.best_score[:, -1] > float("-inf")

    @property
    def done(self) -> bool:
        return bool(self.ended.all())

    def result(self, count: int) -> Beams:
        if self.length == self.limit:
            self._finish(self.ids, self.scores)
        length = int(self.best_length[:, :count].max())
        positions = torch.arange(length, device=self.ids.device)
        mask = positions < self.best_length[:, :count, None]
        ids = self.best_ids[:, :count, :length].masked_fill(~mask, self.model.pad_id)
        return Beams(ids, mask, self.best_log_prob[:, :count])


def _rows(state: Any, index: Tensor) -> Any:
    """Some rows of every tensor in a nested tuple."""
    if isinstance(state, Tensor):
        return state[index]
    if isinstance(state, tuple):
        parts = [_rows(part, index) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state
