"""Sentences of several documents as one ragged list, in buckets of like length, with the way back.

Padding every document to (sentences, words) makes most of a batch padding: sentences of 20 words beside one of 100,
documents of 10 sentences beside one of 100. Here all sentences of the batch are sorted by length into few buckets, each
as wide as its longest sentence; the widths are those with the least padding, found exactly. Documents, as rows of
sentence states, are bucketed alike. Levels are linked by index tensors, so that gather and scatter are one
`index_select` each. *Reading order* is document by document, sentence by sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Place: TypeAlias = Literal["end", "start"]
Ints: TypeAlias = NDArray[np.int64]
T = TypeVar("T")

SENTENCE_BUCKETS, DOCUMENT_BUCKETS = 8, 4
# Tokens of one bucket; a larger one is run in pieces, which bounds the memory of long documents.
MAX_TOKENS = 16_384


@dataclass(frozen=True, eq=False)
class SentenceBucket:
    """Sentences of like length.

    Attributes:
        rows: their places in reading order, (n,).
        mask: kept tokens, (n, K) bool; None: all.
        words: kept tokens except the sentence token, (n, K) bool.
        place: where the sentence token stands, (n,).
        width: K.
    """

    rows: Tensor
    mask: Tensor | None
    words: Tensor
    place: Tensor
    width: int

    def states(self, tokens: Tensor) -> Tensor:
        """The states of the sentence tokens: (n, K, D) -> (n, D)."""
        flat = torch.arange(len(self.place), device=self.place.device) * self.width + self.place
        return tokens.flatten(0, 1).index_select(0, flat)

    def put(self, tokens: Tensor, states: Tensor) -> Tensor:
        """`tokens` (n, K, D) with `states` (n, D) in the place of the sentence tokens."""
        index = self.place[:, None, None].expand(-1, 1, tokens.shape[2])
        return tokens.scatter(1, index, states[:, None].to(tokens.dtype))


@dataclass(frozen=True, eq=False)
class DocumentBucket:
    """Documents of like length.

    Attributes:
        rows: which documents, (n,).
        slots: their sentences' places in reading order, (n, M); 0 at padding.
        mask: which slots are sentences, (n, M) bool; None: all.
        kept: the flat places of the sentences among the slots, in the order of the documents here.
    """

    rows: Tensor
    slots: Tensor
    mask: Tensor | None
    kept: Tensor

    def gather(self, sentences: Tensor) -> Tensor:
        """Sentences (S, ..) in reading order as rows of documents (n, M, ..)."""
        return sentences.index_select(0, self.slots.flatten()).unflatten(0, self.slots.shape)


@dataclass(frozen=True, eq=False)
class Packing:
    """How the sentences of a batch are laid out; S sentences, T kept tokens, B documents.

    Attributes:
        sentences, documents: the buckets.
        doc_index, sentence_index: document of each sentence and its number there, (S,), in reading order.
        lengths: kept tokens of each sentence, sentence tokens counted, (S,).
        batch: B.
        sentence_order, document_order: (S,), from the buckets' order to reading order, for sentences and for the
            sentences in the document buckets.
        token_order: (T,), from the flat padded buckets to kept tokens in reading order.
    """

    sentences: tuple[SentenceBucket, ...]
    documents: tuple[DocumentBucket, ...]
    doc_index: Tensor
    sentence_index: Tensor
    lengths: Tensor
    batch: int
    sentence_order: Tensor
    document_order: Tensor
    token_order: Tensor

    @property
    def tokens(self) -> int:
        """Kept tokens, T."""
        return len(self.token_order)

    @property
    def padded_tokens(self) -> int:
        """Tokens that are computed on: kept ones and the padding in the buckets."""
        return sum(len(bucket.rows) * bucket.width for bucket in self.sentences)

    @property
    def waste(self) -> float:
        """Share of the tokens computed on that is padding."""
        return 1 - self.tokens / self.padded_tokens

    def to(self, device: torch.device | str) -> Packing:
        """The same on another device."""
        return _moved(self, device)

    def read_sentences(self, buckets: Sequence[Tensor]) -> Tensor:
        """Values (n, ..) of each sentence bucket -> (S, ..) in reading order."""
        return torch.cat(list(buckets)).index_select(0, self.sentence_order)

    def read_documents(self, buckets: Sequence[Tensor]) -> Tensor:
        """Values (n, M, ..) of each document bucket -> (S, ..) in reading order."""
        kept = [x.flatten(0, 1).index_select(0, here.kept) for x, here in zip(buckets, self.documents, strict=True)]
        return torch.cat(kept).index_select(0, self.document_order)

    def read_tokens(self, buckets: Sequence[Tensor]) -> Tensor:
        """Values (n, K, ..) of each sentence bucket -> (T, ..), kept tokens in reading order."""
        return torch.cat([x.flatten(0, 1) for x in buckets]).index_select(0, self.token_order)


def pack(
    mask: NDArray[np.bool_],
    doc_index: Ints,
    sentence_index: Ints,
    *,
    batch: int,
    cls: Place = "end",
    widths: Sequence[int] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Packing:
    """Lay out sentences, given in reading order.

    Args:
        mask: kept tokens of each sentence, (S, K); every sentence keeps at least one.
        doc_index, sentence_index: (S,); doc_index does not decrease and has every document 0..batch-1.
        batch: number of documents.
        cls: whether the last or the first kept token is the sentence token.
        widths: bucket widths to use in place of the best eight, for `torch.compile` with few shapes; sentences longer
            than the largest are refused.
        max_tokens: a bucket of more is run in pieces.

    Raises:
        ValueError: unknown `cls`, a document without a word, a sentence longer than `widths` allow.
    """
    if cls not in get_args(Place):
        raise ValueError(f"cls: expected one of {', '.join(get_args(Place))}, got {cls!r}")
    if max_tokens < 1:
        raise ValueError(f"max_tokens: must be at least 1, got {max_tokens}")
    _check_words(mask, doc_index, batch)
    buckets, kept_at = _sentence_buckets(mask, cls, widths, max_tokens)
    documents, document_order = _document_buckets(doc_index, batch)
    return Packing(
        sentences=buckets,
        documents=documents,
        doc_index=torch.from_numpy(doc_index),
        sentence_index=torch.from_numpy(sentence_index),
        lengths=torch.from_numpy(mask.sum(1)),
        batch=batch,
        sentence_order=torch.cat([bucket.rows for bucket in buckets]).argsort(),
        document_order=document_order,
        token_order=torch.from_numpy(kept_at),
    )


def best_widths(lengths: Ints, groups: int) -> list[int]:
    """At most `groups` widths that hold rows of these lengths, each in the narrowest, with the least padding.

    Exact, by dynamic programming over the distinct lengths: with u_1 < u_2 < .. and n_j rows of length u_j,
    `cost_g(j) = min_i cost_{g-1}(i) + u_j (n_{i+1} + .. + n_j)`.
    """
    sizes, counts = np.unique(lengths, return_counts=True)
    before = np.concatenate([[0], counts.cumsum()])
    # step[i, j]: padded tokens of one group that holds the sizes i..j.
    step = np.where(np.tri(len(sizes), dtype=bool).T, sizes * (before[1:] - before[:-1, None]), np.inf)
    cost, cuts = step[0], []
    for _ in range(min(groups, len(sizes)) - 1):
        total = np.concatenate([[np.inf], cost[:-1]])[:, None] + step
        cuts.append(np.where(total.min(0) < cost, total.argmin(0), 0))
        cost = np.minimum(cost, total.min(0))
    ends, end = [], len(sizes) - 1
    for cut in reversed(cuts):
        if cut[end] > 0:
            ends.append(end)
            end = int(cut[end]) - 1
    return [int(sizes[end]) for end in sorted([*ends, end])]


def _sentence_buckets(
    mask: NDArray[np.bool_], cls: Place, widths: Sequence[int] | None, max_tokens: int
) -> tuple[tuple[SentenceBucket, ...], Ints]:
    """The buckets, and for each kept token in reading order its flat place among them."""
    extent = mask.shape[1] - mask[:, ::-1].argmax(1)
    place = extent - 1 if cls == "end" else mask.argmax(1)
    flat = np.zeros(mask.shape, dtype=np.int64)
    buckets, start = [], 0
    for rows, width in _grouped(extent, _widths(extent, widths), max_tokens):
        kept, at = _narrowed(mask[rows], width), place[rows]
        words = kept.copy()
        words[np.arange(len(rows)), at] = False
        flat[rows, : kept.shape[1]] = (start + np.arange(kept.size).reshape(kept.shape))[:, : mask.shape[1]]
        start += kept.size
        buckets.append(
            SentenceBucket(
                rows=torch.from_numpy(rows),
                mask=None if kept.all() else torch.from_numpy(kept),
                words=torch.from_numpy(words),
                place=torch.from_numpy(at),
                width=width,
            )
        )
    return tuple(buckets), flat[mask]


def _document_buckets(doc_index: Ints, batch: int) -> tuple[tuple[DocumentBucket, ...], Tensor]:
    counts = np.bincount(doc_index, minlength=batch)
    first = counts.cumsum() - counts
    buckets = []
    for rows, width in _grouped(counts, best_widths(counts, DOCUMENT_BUCKETS), MAX_TOKENS):
        kept = np.arange(width) < counts[rows, None]
        slots = np.where(kept, first[rows, None] + np.arange(width), 0)
        buckets.append(
            DocumentBucket(
                rows=torch.from_numpy(rows),
                slots=torch.from_numpy(slots),
                mask=None if kept.all() else torch.from_numpy(kept),
                kept=torch.from_numpy(kept.ravel().nonzero()[0]),
            )
        )
    order = torch.cat([bucket.slots.flatten().index_select(0, bucket.kept) for bucket in buckets]).argsort()
    return tuple(buckets), order


def _grouped(lengths: Ints, widths: Sequence[int], max_tokens: int) -> list[tuple[Ints, int]]:
    """The rows of each width, in pieces of at most `max_tokens` tokens (or one row)."""
    group = np.searchsorted(widths, lengths)
    groups = []
    for number, width in enumerate(widths):
        rows = (group == number).nonzero()[0]
        size = max(1, max_tokens // width)
        groups += [(rows[at : at + size], int(width)) for at in range(0, len(rows), size)]
    return groups


def _widths(extent: Ints, widths: Sequence[int] | None) -> list[int]:
    if widths is None:
        return best_widths(extent, SENTENCE_BUCKETS)
    allowed = sorted(widths)
    if not allowed or extent.max() > allowed[-1]:
        raise ValueError(f"widths: the longest sentence has {extent.max()} tokens, the widths are {list(widths)}")
    return allowed


def _narrowed(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The mask with as many columns as `width`, cut or padded."""
    return np.pad(mask[:, :width], ((0, 0), (0, max(0, width - mask.shape[1]))))


def _check_words(mask: NDArray[np.bool_], doc_index: Ints, batch: int) -> None:
    # A sentence token alone is no word.
    words = np.bincount(doc_index[mask.sum(1) > 1], minlength=batch)
    if not batch or (words == 0).any():
        empty = int(words.argmin()) if batch else 0
        raise ValueError(f"mask: document {empty} has no word; leave out empty documents")


def _moved(value: T, device: torch.device | str) -> T:
    """A dataclass, tuple or tensor on another device; other values as they are."""
    if isinstance(value, Tensor):
        return value.to(device)  # pyright: ignore[reportReturnType]
    if isinstance(value, tuple):
        return tuple(_moved(part, device) for part in value)  # pyright: ignore[reportReturnType]
    if isinstance(value, Packing | SentenceBucket | DocumentBucket):
        changes: dict[str, Any] = {field.name: _moved(getattr(value, field.name), device) for field in fields(value)}
        return replace(value, **changes)
    return value
