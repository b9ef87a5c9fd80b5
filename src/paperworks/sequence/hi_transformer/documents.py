"""Texts, or units of one's own such as dialogue turns, to packed sentences of token ids.

Chosen, since the paper does not say: a unit longer than the limit is divided into pieces of equal length, each a
sentence of its own; what is cut is counted; `truncate` says which part of a document is kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from paperworks.data.sentences import SPLITTER_VERSION, Language, split_sentences
from paperworks.data.tokenization import CLS, PAD, Tokenizer
from paperworks.sequence.hi_transformer.packing import MAX_TOKENS, Packing, Place, pack

Truncate: TypeAlias = Literal["head", "middle", "tail"]


@dataclass(frozen=True)
class Cuts:
    """What became of a batch of texts on the way to sentences, for reports.

    Attributes:
        sentences, tokens: left out by `truncate`.
        divided_units: units longer than a sentence may be, which became several.
        splitter: version of the rules that found the sentences; None: the units were given.
    """

    sentences: int = 0
    tokens: int = 0
    divided_units: int = 0
    splitter: int | None = None

    def __add__(self, other: Cuts) -> Cuts:
        parts = (self.sentences + other.sentences, self.tokens + other.tokens, self.divided_units + other.divided_units)
        return Cuts(*parts, splitter=self.splitter)


@dataclass(frozen=True, eq=False)
class PackedDocuments:
    """The sentences of a batch of documents, in buckets of like length.

    Attributes:
        packing: the layout; `packing.doc_index` and `packing.sentence_index` (S,) say whose sentence is which.
        input_ids: for each bucket (n, K) int64, the sentence token in its place.
        unit_index: which unit of its document each sentence (the first part of it) comes from, (S,), reading order.
        cuts: what was left out.
    """

    packing: Packing
    input_ids: tuple[Tensor, ...]
    unit_index: Tensor
    cuts: Cuts = Cuts()

    def __len__(self) -> int:
        return self.packing.batch

    def to(self, device: torch.device | str) -> PackedDocuments:
        """The same on another device."""
        ids = tuple(part.to(device) for part in self.input_ids)
        return replace(self, packing=self.packing.to(device), input_ids=ids, unit_index=self.unit_index.to(device))


class Part(NamedTuple):
    """Tokens start..stop of a unit."""

    unit: int
    start: int
    stop: int


Row: TypeAlias = tuple[Part, ...]


class Word(NamedTuple):
    """A word of a sentence and the tokens of the sentence that spell it."""

    text: str
    tokens: list[int]


class DocumentTokenizer:
    """Documents to `PackedDocuments`.

    Args:
        tokenizer: a `paperworks.data.Tokenizer`, or a fast tokenizer of `transformers` with [CLS] and padding.
        max_sentence_length: longest sentence in tokens, the sentence token among them.
        max_sentences: most sentences of a document.
        merge_short: join neighbouring sentences as long as they fit into one; off, a sentence stays a sentence.
        truncate: which sentences of a longer document are kept: the first, the middle or the last; None: it is refused.
        cls: "end" puts the sentence token [CLS] after the words (the paper), "start" before them (BERT, HAT).
        language: of `split_sentences`.
        widths: fixed bucket widths, see `pack`.

    Raises:
        ValueError: limits too small, an unknown option, a tokenizer of another kind; when called: a document without a
            word, or with too many sentences.

    >>> from paperworks.data import train_tokenizer
    >>> texts = ["A good film. I liked it.", "No. It is too long, and so is this sentence."]
    >>> tokenizer = DocumentTokenizer(train_tokenizer(texts, vocab_size=300), max_sentence_length=64, max_sentences=8)
    >>> tokenizer(texts).packing.sentence_index.tolist()
    [0, 1, 0, 1]
    """

    def __init__(
        self,
        tokenizer: Tokenizer | Any,
        *,
        max_sentence_length: int,
        max_sentences: int,
        merge_short: bool = False,
        truncate: Truncate | None = None,
        cls: Place = "end",
        language: Language = "en",
        widths: Sequence[int] | None = None,
    ) -> None:
        if max_sentence_length < 2:
            raise ValueError(f"max_sentence_length: expected at least 2 (a word and [CLS]), got {max_sentence_length}")
        if max_sentences < 1:
            raise ValueError(f"max_sentences: must be at least 1, got {max_sentences}")
        if truncate is not None and truncate not in get_args(Truncate):
            raise ValueError(f"truncate: expected one of {', '.join(get_args(Truncate))} or None, got {truncate!r}")
        if cls not in get_args(Place):
            raise ValueError(f"cls: expected one of {', '.join(get_args(Place))}, got {cls!r}")
        self._backend, self.cls_id, self.pad_id = _backend(tokenizer)
        self.max_sentence_length, self.max_sentences = max_sentence_length, max_sentences
        self.merge_short, self.truncate, self.widths = merge_short, truncate, widths
        self.cls: Place = cls
        self.language: Language = language

    def __call__(
        self,
        texts: Sequence[str] | None = None,
        *,
        units: Sequence[Sequence[str]] | None = None,
        max_tokens: int = MAX_TOKENS,
    ) -> PackedDocuments:
        """Pack texts, split into sentences, or documents given as `units`: sentences, turns, paragraphs.

        An empty unit becomes a sentence of its sentence token alone, so that units and sentences correspond.
        """
        documents, splitter = self._units(texts, units)
        flat = [unit for document in documents for unit in document]
        ids = [encoding.ids for encoding in self._backend.encode_batch_fast(flat, add_special_tokens=False)]
        rows: list[Row] = []
        counts, cuts, start = [], Cuts(splitter=splitter), 0
        for number, document in enumerate(documents):
            here, lost = self.divide([len(part) for part in ids[start : start + len(document)]], number)
            rows += [tuple(Part(unit + start, *span) for unit, *span in row) for row in here]
            counts.append(len(here))
            cuts, start = cuts + lost, start + len(document)
        return self._pack(ids, rows, np.array(counts), [len(document) for document in documents], cuts, max_tokens)

    def divide(self, lengths: Sequence[int], document: int = 0) -> tuple[list[Row], Cuts]:
        """The sentences that units of these lengths (in tokens) become, and what is cut.

        Raises:
            ValueError: naming `document`, where it has no word or too many sentences.
        """
        if not any(lengths):
            raise ValueError(f"documents: document {document} has no word; leave out empty documents")
        room = self.max_sentence_length - 1
        rows: list[Row] = [(part,) for unit, length in enumerate(lengths) for part in _pieces(unit, length, room)]
        if self.merge_short:
            rows = _merged(rows, room)
        kept = self._kept(rows, document)
        divided = sum(length > room for length in lengths)
        return kept, Cuts(len(rows) - len(kept), _tokens(rows) - _tokens(kept), divided)

    def words(self, text: str) -> list[tuple[str, list[Word]]]:
        """The sentences of one text as they are packed, each with its words.

        Token numbers count from 0 at the first token of the sentence, which under `cls="start"` is the sentence token.
        """
        (units,), _ = self._units([text], None)
        encodings = self._backend.encode_batch(list(units), add_special_tokens=False)
        rows, _ = self.divide([len(encoding.ids) for encoding in encodings])
        shift = 1 if self.cls == "start" else 0
        return [_read(row, units, encodings, shift) for row in rows]

    def _units(
        self, texts: Sequence[str] | None, units: Sequence[Sequence[str]] | None
    ) -> tuple[list[Sequence[str]], int | None]:
        if (texts is None) == (units is None):
            raise ValueError("texts: give either texts or units, and not both")
        if units is not None:
            if any(isinstance(document, str) for document in units):
                raise ValueError("units: expected a list of units per document, got a string as document; pass texts")
            return list(units), None
        if isinstance(texts, str):
            raise ValueError(f"texts: expected a list of texts, got one text: {texts[:40]!r}")
        documents: list[Sequence[str]] = [split_sentences(text, language=self.language) for text in texts or ()]
        return documents, SPLITTER_VERSION

    def _kept(self, rows: list[Row], document: int) -> list[Row]:
        excess = len(rows) - self.max_sentences
        if excess <= 0:
            return rows
        if self.truncate is None:
            raise ValueError(
                f"max_sentences: document {document} has {len(rows)} sentences, {self.max_sentences} are allowed "
                '(use truncate="head"|"middle"|"tail")'
            )
        first = {"head": 0, "middle": excess // 2, "tail": excess}[self.truncate]
        return rows[first : first + self.max_sentences]

    def _pack(
        self, ids: list[list[int]], rows: list[Row], counts: Any, units: list[int], cuts: Cuts, max_tokens: int
    ) -> PackedDocuments:
        if not rows:
            raise ValueError("documents: expected at least one document, got none")
        tokens = [[token for unit, start, stop in row for token in ids[unit][start:stop]] for row in rows]
        words = np.array([len(row) for row in tokens])
        padded = np.full((len(rows), words.max() + 1), self.pad_id, dtype=np.int64)
        shift = 1 if self.cls == "start" else 0
        inside = np.arange(words.max()) < words[:, None]
        padded[:, shift : words.max() + shift][inside] = [token for row in tokens for token in row]
        padded[np.arange(len(rows)), 0 if shift else words] = self.cls_id
        first_unit = np.repeat(np.cumsum(units) - units, counts)
        return pack_rows(
            padded,
            np.arange(words.max() + 1) <= words[:, None],
            doc_index=np.repeat(np.arange(len(counts)), counts),
            sentence_index=np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts),
            unit_index=np.array([row[0].unit for row in rows]) - first_unit,
            batch=len(counts),
            cls=self.cls,
            cuts=cuts,
            widths=self.widths,
            max_tokens=max_tokens,
        )


def pack_rows(
    ids: np.ndarray,
    mask: np.ndarray,
    *,
    doc_index: np.ndarray,
    sentence_index: np.ndarray,
    unit_index: np.ndarray,
    batch: int,
    cls: Place,
    cuts: Cuts = Cuts(),
    widths: Sequence[int] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> PackedDocuments:
    """Pack sentences given as padded rows (S, K) in reading order; see `pack`."""
    layout = pack(mask, doc_index, sentence_index, batch=batch, cls=cls, widths=widths, max_tokens=max_tokens)
    flat = torch.from_numpy(ids)
    input_ids = []
    for bucket in layout.sentences:
        here = flat.index_select(0, bucket.rows)[:, : bucket.width]
        missing = bucket.width - here.shape[1]
        # Any id will do at padding, as long as the table has it.
        input_ids.append(torch.nn.functional.pad(here, (0, missing)) if missing else here.contiguous())
    return PackedDocuments(layout, tuple(input_ids), torch.from_numpy(unit_index), cuts)


def _backend(tokenizer: Any) -> tuple[Any, int, int]:
    """A `tokenizers.Tokenizer` that neither cuts nor pads, and the ids of the sentence token and of padding."""
    import tokenizers

    if isinstance(tokenizer, Tokenizer):
        return tokenizer.backend, CLS, PAD
    backend = getattr(tokenizer, "backend_tokenizer", None)
    cls_id, pad_id = getattr(tokenizer, "cls_token_id", None), getattr(tokenizer, "pad_token_id", None)
    if not isinstance(backend, tokenizers.Tokenizer) or cls_id is None or pad_id is None:
        raise ValueError(
            "tokenizer: expected a paperworks Tokenizer or a fast tokenizer of transformers with cls_token and "
            f"pad_token, got {type(tokenizer).__name__}"
        )
    # A copy: theirs remembers the padding and cutting of its last call.
    backend = tokenizers.Tokenizer.from_str(backend.to_str())
    backend.no_padding()
    backend.no_truncation()
    return backend, int(cls_id), int(pad_id)


def _pieces(unit: int, length: int, room: int) -> list[Part]:
    count = max(1, math.ceil(length / room))
    edges = [length * number // count for number in range(count + 1)]
    return [Part(unit, start, stop) for start, stop in itertools.pairwise(edges)]


def _merged(rows: list[Row], room: int) -> list[Row]:
    merged: list[Row] = []
    for row in rows:
        if merged and _tokens([merged[-1], row]) <= room:
            merged[-1] += row
        else:
            merged.append(row)
    return merged


def _tokens(rows: Sequence[Row]) -> int:
    return sum(part.stop - part.start for row in rows for part in row)


def _read(row: Row, units: Sequence[str], encodings: Sequence[Any], token: int) -> tuple[str, list[Word]]:
    """The text of a sentence and its words; `token` is the number of its first token."""
    texts, words = [], []
    for unit, start, stop in row:
        spans, numbers = encodings[unit].offsets[start:stop], encodings[unit].word_ids[start:stop]
        texts.append(units[unit][spans[0][0] : spans[-1][1]].strip() if spans else "")
        edges = [at for at in range(len(spans)) if at == 0 or numbers[at] != numbers[at - 1]] + [len(spans)]
        for first, end in itertools.pairwise(edges):
            # Pieces of one character have equal spans, so that the text of a word is not the sum of its pieces'.
            text = units[unit][spans[first][0] : spans[end - 1][1]].strip()
            words.append(Word(text, list(range(token + first, token + end))))
        token += len(spans)
    return " ".join(texts), words
