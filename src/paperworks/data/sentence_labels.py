"""Documents whose sentences each have a label: a benchmark, files of one's own, and a generated text.

The unit is the document: parts divide documents, never the sentences of one. In a file of one's own every line is a
JSON object with `sentences`, a list of texts, and `labels`, a list of as many labels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from paperworks.data.benchmarks import benchmark_content
from paperworks.data.errors import DataCorrupt, DataError, DataMissing

Part = Literal["train", "held", "dev", "test"]
PARTS: tuple[Part, ...] = ("train", "held", "dev", "test")
FIELDS = ("sentences", "labels")
LEAST = 20


class Document(NamedTuple):
    """Sentences and their labels, equally many."""

    sentences: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class SentenceLabels:
    """Labelled documents in four parts; `held` is kept from training to choose options on.

    Attributes:
        name: where they come from.
        parts: part -> documents.
        classes: all labels, sorted.
        notes: what a reader should know.
    """

    name: str
    parts: Mapping[Part, tuple[Document, ...]]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """A hash of all parts."""
        content = [[part, [list(document) for document in self.parts[part]]] for part in PARTS]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()

    def sentences(self, part: Part) -> int:
        """Sentences of a part."""
        return sum(len(document.sentences) for document in self.parts[part])

    def __repr__(self) -> str:
        counts = " / ".join(f"{len(self.parts[part]):,}" for part in PARTS)
        return f"SentenceLabels({self.name!r}, {counts} documents, {len(self.classes)} labels)"


def csabstruct() -> SentenceLabels:
    """CSAbstruct: abstracts with the roles background, objective, method, result, other; the distributed parts.

    A tenth of the train part, by hash of its text, is held out of training.

    Raises:
        DataMissing, DataCorrupt: see `benchmark_content`.
    """
    given = {}
    for part, expected in (("train", 1_668), ("dev", 295), ("test", 226)):
        name = f"{part}.jsonl"
        given[part] = _parse(name, benchmark_content("csabstruct", name).decode("utf-8"), {})
        if len(given[part]) != expected:
            raise DataCorrupt(f"{name}: {len(given[part]):,} documents, expected {expected:,}")
    held = [_place(document) < 0.1 for document in given["train"]]
    parts: dict[Part, tuple[Document, ...]] = {
        "train": tuple(one for one, out in zip(given["train"], held, strict=True) if not out),
        "held": tuple(one for one, out in zip(given["train"], held, strict=True) if out),
        "dev": given["dev"],
        "test": given["test"],
    }
    return _build("CSAbstruct", parts, ("the distributed parts; a tenth of train is held out",))


def read_sentence_labels(source: str | os.PathLike[str], *, columns: Mapping[str, str] | None = None) -> SentenceLabels:
    """A jsonl file of one's own: `{"sentences": [..], "labels": [..]}` a line; other fields are ignored.

    Equal documents count once. Parts by hash of the text: 70 % train, 10 % each held, dev and test.

    Args:
        source: the file, UTF-8.
        columns: our names -> the file's, for `sentences`, `labels`.

    Raises:
        ValueError: other names in `columns`.
        DataMissing: no such file.
        DataError: a line that is not such an object, naming file, line and field; fewer than 20 documents, or fewer
            than two labels.
    """
    if unknown := sorted(set(columns or {}) - set(FIELDS)):
        raise ValueError(f"columns: expected some of {', '.join(FIELDS)}, got {unknown[0]!r}")
    path = Path(source)
    if not path.is_file():
        raise DataMissing(f"{path}: no such file; check the path (the current folder is {Path.cwd()})")
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    documents = _parse(str(path), content, dict(columns or {}))
    unique = tuple(dict.fromkeys(documents))
    if len(unique) < LEAST:
        raise DataError(f"{path}: has {len(unique)} different documents, too few to divide; give at least {LEAST}")
    notes = (f"{len(documents) - len(unique):,} repeated documents left out; parts 70/10/10/10 by hash of the text",)
    return _build(str(path), _divide(unique), notes)


def switching_text(documents: int = 200, *, sentences: int = 8, words: int = 7, seed: int = 0) -> SentenceLabels:
    """Generated documents in which a label needs what came before.

    Two sentences in five hold a signal word, which gives their label; every other one has the label of the sentence
    before it and says nothing. The first always has a signal.

    Raises:
        ValueError: fewer than 20 documents, or sentences of fewer than two words.
    """
    if documents < LEAST or words < 2 or sentences < 1:
        raise ValueError(
            f"documents, sentences, words: expected at least {LEAST}, 1 and 2, got {documents}, {sentences}, {words}"
        )
    rng = np.random.default_rng(seed)
    signals = {"north": "ice", "south": "sand", "west": "rain"}
    names, fill = sorted(signals), [first + second for first in "bdgkmprst" for second in ("a", "e", "i", "o")]
    made = []
    for _ in range(documents):
        texts, labels = [], []
        for place in range(sentences):
            chosen = list(rng.choice(fill, size=words))
            if place == 0 or rng.random() < 0.4:
                labels.append(names[rng.integers(len(names))])
                chosen[rng.integers(words)] = signals[labels[-1]]
            else:
                labels.append(labels[-1])
            texts.append(" ".join(chosen))
        made.append(Document(tuple(texts), tuple(labels)))
    notes = (f"{documents} documents of {sentences} sentences of invented words, seed {seed}",)
    return _build("switching text", _divide(tuple(made)), notes)


def _build(name: str, parts: Mapping[Part, tuple[Document, ...]], notes: Sequence[str]) -> SentenceLabels:
    classes = sorted({label for part in PARTS for document in parts[part] for label in document.labels})
    if len(classes) < 2:
        raise DataError(f"{name}: has {len(classes)} label; at least two are needed to tell apart")
    if empty := next((part for part in PARTS if not parts[part]), None):
        raise DataError(f"{name}: no document fell into the part {empty}; give more of them")
    return SentenceLabels(name, parts, tuple(classes), tuple(notes))


def _place(document: Document) -> float:
    """A number in [0, 1) that depends on the text alone."""
    digest = hashlib.sha256("\n".join(document.sentences).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _divide(documents: Sequence[Document]) -> dict[Part, tuple[Document, ...]]:
    """70/10/10/10 in the order of the hashes, so that each part has its share exactly."""
    ordered = sorted(documents, key=_place)
    ends = [round(len(ordered) * share) for share in (0.0, 0.7, 0.8, 0.9, 1.0)]
    return {part: tuple(ordered[ends[at] : ends[at + 1]]) for at, part in enumerate(PARTS)}


def _parse(name: str, content: str, columns: Mapping[str, str]) -> tuple[Document, ...]:
    found = []
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            found.append(_document(f"{name}: line {number}", line, columns))
    if not found:
        raise DataError(f"{name}: has no documents")
    return tuple(found)


def _document(where: str, line: str, columns: Mapping[str, str]) -> Document:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg}); expected one object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object with sentences and labels, got {type(row).__name__}")
    sentences, labels = (_texts(where, row, columns.get(field, field), field) for field in FIELDS)
    if len(sentences) != len(labels):
        raise DataError(f"{where}: {len(sentences)} sentences but {len(labels)} labels; each sentence needs one")
    return Document(sentences, labels)


def _texts(where: str, row: Mapping[str, Any], column: str, field: str) -> tuple[str, ...]:
    if column not in row:
        has = ", ".join(map(repr, row)) or "nothing"
        raise DataError(f"{where}: no field {column!r}, it has {has}; name yours with --columns {field}=<your field>")
    values = row[column]
    if not isinstance(values, list) or not values:
        raise DataError(f"{where}: {column}: expected a list of texts, got {values!r:.60}")
    for place, value in enumerate(values, 1):
        plain = isinstance(value, str) or (field == "labels" and isinstance(value, int) and not isinstance(value, bool))
        if not plain or not str(value).strip():
            raise DataError(f"{where}: {column}: entry {place}: expected a text that is not empty, got {value!r:.60}")
    return tuple(str(value) for value in values)
