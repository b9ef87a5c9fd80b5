"""Texts with one label each: the form every text-classification study takes, and the doors by which own data enter.

Files are read strictly (`tables`), equal texts are kept once, and rows are divided into train, dev and test by a hash
of the text, so that the division depends neither on the order of the rows nor on a seed.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paperworks.data.errors import DataError
from paperworks.data.tables import read_table, row_name
from paperworks.data.text_sources import PART_NAMES, PARTS, Part, read_folder, read_hub

if TYPE_CHECKING:
    import pandas as pd

TEST_SHARE, DEV_SHARE = 0.2, 0.1
MIN_ROWS = 20
PAIR_SEPARATOR = " [SEP] "


@dataclass(frozen=True, eq=False)
class TextClassification:
    """Texts, their labels and their parts.

    Fields: `texts` (N); `labels` int64 (N), an index into `classes`; `split` (N) of "train", "dev", "test";
    `fingerprint`, a SHA-256 over all of these; `notes`, what was done to the data, in sentences for the report.

    Raises:
        ValueError: lengths differ, a label is no index of a class, a part is unknown, or train or test is empty.
    """

    name: str
    texts: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    split: np.ndarray
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows = len(self.texts)
        if not rows == len(self.labels) == len(self.split):
            raise ValueError(f"{self.name}: {rows} texts, {len(self.labels)} labels, {len(self.split)} parts")
        if self.labels.dtype != np.int64 or not set(np.unique(self.labels)) <= set(range(len(self.classes))):
            raise ValueError(f"labels: expected int64 from 0 to {len(self.classes) - 1}, got {np.unique(self.labels)}")
        parts = Counter(self.split.tolist())
        if unknown := set(parts) - set(PARTS):
            raise ValueError(f"split: expected train, dev or test, got {', '.join(map(repr, sorted(unknown)))}")
        if not (parts["train"] and parts["test"]):
            raise ValueError(f"split: expected rows in train and in test, got {dict(parts)}")

    @classmethod
    def build(
        cls, name: str, texts: Sequence[str], labels: Sequence[str], split: Sequence[str], notes: Sequence[str] = ()
    ) -> TextClassification:
        """From label names; classes are sorted (by value where all are whole numbers), the fingerprint is computed."""
        classes = tuple(sorted(set(labels), key=_label_order(labels)))
        index = {label: position for position, label in enumerate(classes)}
        return cls(
            name=name,
            texts=tuple(texts),
            labels=np.array([index[label] for label in labels], dtype=np.int64),
            classes=classes,
            split=np.array(split, dtype="<U5"),
            fingerprint=_fingerprint(texts, labels, split),
            notes=tuple(notes),
        )

    def part(self, part: Part) -> tuple[list[str], np.ndarray]:
        """Texts and labels of one part.

        Raises:
            ValueError: `part` is not train, dev or test.
        """
        if part not in PARTS:
            raise ValueError(f"part: expected train, dev or test, got {part!r}")
        chosen = np.flatnonzero(self.split == part)
        return [self.texts[row] for row in chosen], self.labels[chosen]


def read_text_classification(
    source: str | os.PathLike[str], *, columns: Mapping[str, str] | None = None
) -> TextClassification:
    """Own texts from a csv, tsv, jsonl or parquet file, standard input (`-`), a folder, or the hub (`hf:name`).

    A table has columns `text, label` or `text_a, text_b, label` (joined by `[SEP]`) and may have `split`; `columns`
    maps these names to the file's. A folder has one folder of .txt files per label, beside each other or under
    `train/`, `dev/` and `test/`. `hf:name` or `hf:name:configuration` needs the `datasets` library.

    Equal texts count once; a text with two labels is left out; a text of two parts stays in the part furthest from
    training. Without given parts, each label's texts are ordered by SHA-256 and cut 20 % test, 10 % dev, 70 % train;
    with given parts, a missing dev is an eighth of train, and dev serves as test where test is missing.

    Raises:
        DataMissing: no such file or folder.
        DataError: the file is not sound (see `read_table`), a text or label is missing, there are fewer than 2 labels
            or fewer than 20 rows of one; the message has the counts.
    """
    name = "standard input" if str(source) == "-" else str(source)
    if name.startswith("hf:"):
        frame = read_hub(name, columns)
    elif Path(name).is_dir():
        frame = read_folder(Path(name))
    else:
        frame = read_table(source, columns=columns, text=("text", "text_a", "text_b", "label", "split"))
    return _from_frame(name, frame)


def hash_split(
    texts: Sequence[str], labels: Sequence[str], *, test: float = TEST_SHARE, dev: float = DEV_SHARE
) -> list[Part]:
    """Parts of the given shares within every label, in order of the SHA-256 of the text."""
    parts: list[Part] = ["train"] * len(texts)
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    for members in rows.values():
        members.sort(key=lambda row: hashlib.sha256(texts[row].encode("utf-8", "surrogatepass")).digest())
        first, second = round(test * len(members)), round(test * len(members)) + round(dev * len(members))
        for row in members[:first]:
            parts[row] = "test"
        for row in members[first:second]:
            parts[row] = "dev"
    return parts


def _from_frame(name: str, frame: pd.DataFrame) -> TextClassification:
    texts = _texts(name, frame)
    labels = _filled(name, frame, "label")
    given = _parts(name, frame) if "split" in frame.columns else None
    kept, notes = _deduplicate(texts, labels, given)
    texts, labels = [texts[row] for row in kept], [labels[row] for row in kept]
    _enough(name, labels)
    if given is None:
        split = hash_split(texts, labels)
        notes.append("split 70/10/20 within each label by hash of the text")
    else:
        split, more = _complete(name, texts, labels, [given[row] for row in kept])
        notes += more
    counts = Counter(split)
    notes.append(", ".join(f"{counts[part]:,} {part}" for part in PARTS))
    return TextClassification.build(name, texts, labels, split, notes)


def _texts(name: str, frame: pd.DataFrame) -> list[str]:
    if "text" not in frame.columns and {"text_a", "text_b"} <= set(frame.columns):
        pairs = zip(_filled(name, frame, "text_a"), _filled(name, frame, "text_b"), strict=True)
        return [first + PAIR_SEPARATOR + second for first, second in pairs]
    return _filled(name, frame, "text")


def _filled(name: str, frame: pd.DataFrame, column: str) -> list[str]:
    """The column as stripped strings, none of them empty."""
    if column not in frame.columns:
        listed = ", ".join(repr(str(other)) for other in frame.columns)
        raise DataError(f"{name}: no column {column!r} (columns: {listed}); name it with --columns {column}=<yours>")
    values = frame[column].astype(object).where(frame[column].notna(), "").map(str).str.strip().tolist()
    empty = [row for row, value in enumerate(values) if not value]
    if empty:
        where = row_name(frame, empty[0])
        raise DataError(
            f"{name}: {where}: {column!r} is empty, in {len(empty)} of {len(values)} rows; fill or drop them"
        )
    return values


def _parts(name: str, frame: pd.DataFrame) -> list[Part]:
    given = _filled(name, frame, "split")
    for row, value in enumerate(given):
        if value.lower() not in PART_NAMES:
            where = row_name(frame, row)
            raise DataError(f"{name}: {where}: 'split' is {value!r}, expected one of {', '.join(PART_NAMES)}")
    return [PART_NAMES[value.lower()] for value in given]


def _deduplicate(texts: list[str], labels: list[str], parts: list[Part] | None) -> tuple[list[int], list[str]]:
    """Rows to keep, in order, and what to say about the others."""
    groups: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        groups.setdefault(text, []).append(row)
    agreeing = [rows for rows in groups.values() if len({labels[row] for row in rows}) == 1]
    # Of equal texts the first row of the part furthest from training stays (max returns the first of equals).
    rank = [PARTS.index(part) for part in parts] if parts else [0] * len(texts)
    kept = sorted(max(rows, key=lambda row: rank[row]) for rows in agreeing)
    disagreeing = len(groups) - len(agreeing)
    equal = sum(len(rows) - 1 for rows in agreeing)
    notes = [f"{len(texts):,} rows, {equal:,} exact duplicates removed"]
    if disagreeing:
        lost = len(texts) - equal - len(kept)
        notes.append(f"{disagreeing:,} texts with more than one label left out ({lost:,} rows)")
    return kept, notes


def _enough(name: str, labels: list[str]) -> None:
    counts = Counter(labels)
    if len(counts) >= 2 and min(counts.values()) >= MIN_ROWS:
        return
    rarest = sorted(counts.items(), key=lambda item: (item[1], item[0]))
    shown = ", ".join(f"{label!r:.40} {count}" for label, count in rarest[:10])
    more = f" and {len(counts) - 10} more labels" if len(counts) > 10 else ""
    raise DataError(
        f"{name}: need at least 2 labels and {MIN_ROWS} different texts of each, got {len(counts)} labels: "
        f"{shown}{more}; merge or drop rare labels, or name the right column with --columns label=<yours>"
    )


def _complete(name: str, texts: list[str], labels: list[str], parts: list[Part]) -> tuple[list[Part], list[str]]:
    """Given parts with what is missing among them, and notes."""
    notes = ["train, dev and test as given"]
    if "test" not in parts and "dev" in parts:
        parts = ["test" if part == "dev" else part for part in parts]
        notes = ["no test part given: dev serves as test"]
    if "train" not in parts or "test" not in parts:
        raise DataError(
            f"{name}: 'split' has {dict(Counter(parts))}; expected rows in train and in test (or no 'split')"
        )
    if "dev" not in parts:
        train = [row for row, part in enumerate(parts) if part == "train"]
        share = DEV_SHARE / (1 - TEST_SHARE)
        carved = hash_split([texts[row] for row in train], [labels[row] for row in train], test=0.0, dev=share)
        for row, part in zip(train, carved, strict=True):
            parts[row] = part
        notes.append("no dev part given: an eighth of train, by hash of the text")
    trained = {label for label, part in zip(labels, parts, strict=True) if part == "train"}
    if unseen := sorted(set(labels) - trained):
        raise DataError(f"{name}: no training rows with label {', '.join(map(repr, unseen[:10]))}; check 'split'")
    return parts, notes


def _label_order(labels: Sequence[str]) -> Any:
    whole = all(label.removeprefix("-").isdecimal() for label in set(labels))
    return (lambda label: (int(label), label)) if whole else None


def _fingerprint(texts: Sequence[str], labels: Sequence[str], split: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for row in zip(texts, labels, split, strict=True):
        for field in row:
            content = str(field).encode("utf-8", "surrogatepass")
            # The length keeps apart what the joints of fields would run together.
            digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
