"""Source sentences with their translations: the form that every study of translation takes, and its doors.

A table (csv, tsv, jsonl, parquet) has columns `source`, `output` and optionally `reference` and `id`; every other
column whose cells are all 0 or 1 is a label, and columns named `risk_<name>` are scores that someone else computed. Two
or three line-aligned text files do as well. Nothing is dropped: a row that is wrong is named.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paperworks.data.errors import DataError, DataMissing
from paperworks.data.tables import read_table, row_name

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("source", "output", "reference", "id")
RISK = "risk_"
# Cells that mean yes and no in a column of labels, as a csv, a JSON boolean or a float has them.
_YES_NO: dict[Any, bool] = {"1": True, "0": False, "1.0": True, "0.0": False, "true": True, "false": False}


class Translations:
    """Pairs of source and output, row by row.

    Args:
        source, output: equally many texts. An output may be empty (a system that said nothing), a source may not.
        reference: the right translations, where they are known.
        labels: a frame with one column of 0/1 per category of error, a row per pair.
        risks: a frame of scores by others, larger = riskier, a row per pair.
        ids: a name for each row; default: 1, 2, ...
        name: for messages and reports.

    Raises:
        DataError: lengths differ, a source is empty, an id is used twice, a label is neither 0 nor 1, a score is
            missing; the message names the row.
    """

    def __init__(
        self,
        source: Sequence[str],
        output: Sequence[str],
        *,
        reference: Sequence[str] | None = None,
        labels: pd.DataFrame | None = None,
        risks: pd.DataFrame | None = None,
        ids: Sequence[str] | None = None,
        name: str = "translations",
    ) -> None:
        for what, value in (("source", source), ("output", output), ("reference", reference)):
            if isinstance(value, str):
                raise DataError(f"{what}: expected a list of texts, got one text")
        self.name = name
        self.source, self.output = tuple(source), tuple(output)
        self.reference = None if reference is None else tuple(reference)
        self.ids = tuple(str(row) for row in range(1, len(self.source) + 1)) if ids is None else tuple(map(str, ids))
        self.labels = None if labels is None else _booleans(name, labels)
        self.risks = None if risks is None else _numbers(name, risks)
        self._check()

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        columns: Mapping[str, str] | None = None,
        categories: Sequence[str] | None = None,
    ) -> Translations:
        """From a csv, tsv, jsonl or parquet file, or standard input (`-`).

        Args:
            path: the file.
            columns: our names -> the file's, for `source`, `output`, `reference`, `id`.
            categories: columns with labels; None: every further column whose cells are all 0 or 1.

        Raises:
            DataMissing: no such file.
            DataError: see `read_table`; a missing column; and what the class refuses.
        """
        if unknown := sorted(set(columns or {}) - set(TEXTS)):
            raise ValueError(f"columns: expected some of {', '.join(TEXTS)}, got {unknown[0]!r}")
        name = "standard input" if str(path) == "-" else str(path)
        frame = read_table(path, columns=columns, required=("source", "output"), text=TEXTS)
        return _from_frame(name, frame, categories)

    @classmethod
    def read_lines(
        cls,
        source: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        reference: str | os.PathLike[str] | None = None,
    ) -> Translations:
        """From text files whose lines correspond.

        Raises:
            DataMissing: no such file.
            DataError: not UTF-8, unequal numbers of lines, an empty source line.
        """
        sources, outputs = _lines(source), _lines(output)
        _same_length(str(source), len(sources), str(output), len(outputs))
        references = None
        if reference is not None:
            references = _lines(reference)
            _same_length(str(source), len(sources), str(reference), len(references))
        empty = next((row for row, text in enumerate(sources, 1) if not text.strip()), None)
        if empty is not None:
            raise DataError(f"{source}: line {empty}: the source is empty; take the line out of all files, or fill it")
        return cls(sources, outputs, reference=references, name=f"{source} and {output}")

    def __len__(self) -> int:
        return len(self.source)

    def __repr__(self) -> str:
        parts = [f"{len(self):,} pairs"]
        if self.reference is not None:
            parts.append("references")
        for what, frame in (("labels", self.labels), ("risks", self.risks)):
            if frame is not None:
                parts.append(f"{what} {', '.join(map(str, frame.columns))}")
        return f"Translations({'; '.join(parts)})"

    @property
    def categories(self) -> tuple[str, ...]:
        return () if self.labels is None else tuple(map(str, self.labels.columns))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that is here."""
        digest = hashlib.sha256()
        for texts in (self.ids, self.source, self.output, self.reference or ()):
            _digest(digest, [str(len(texts)), *texts])
        for frame in (self.labels, self.risks):
            if frame is not None:
                _digest(digest, list(map(str, frame.columns)))
                digest.update(np.ascontiguousarray(frame.to_numpy(dtype=np.float64)).tobytes())
        return digest.hexdigest()

    def any_of(self, categories: Sequence[str]) -> np.ndarray:
        """(rows,) bool: which rows have at least one of the labels.

        Raises:
            DataError: there is no such label.
        """
        if missing := [category for category in categories if category not in self.categories]:
            known = ", ".join(self.categories) or "no labels"
            raise DataError(f"{self.name}: no label {missing[0]!r}; it has {known}")
        assert self.labels is not None
        return self.labels[list(categories)].to_numpy(dtype=bool).any(axis=1)

    def select(self, rows: Sequence[int] | np.ndarray) -> Translations:
        """Some of the rows, in the order given; a mask of all rows will do too."""
        chosen = np.arange(len(self))[np.asarray(rows)]

        def take(values: Sequence[str]) -> list[str]:
            return [values[int(row)] for row in chosen]

        return Translations(
            take(self.source),
            take(self.output),
            reference=None if self.reference is None else take(self.reference),
            labels=None if self.labels is None else self.labels.iloc[chosen].reset_index(drop=True),
            risks=None if self.risks is None else self.risks.iloc[chosen].reset_index(drop=True),
            ids=take(self.ids),
            name=self.name,
        )

    def _check(self) -> None:
        rows = len(self.source)
        if not rows:
            raise DataError(f"{self.name}: no pairs")
        for what in ("output", "reference", "labels", "risks", "ids"):
            values = getattr(self, what)
            if values is not None and len(values) != rows:
                raise DataError(f"{self.name}: {rows} sources, {len(values)} in {what}; give one per source")
        for what in ("source", "output", "reference"):
            for row, text in enumerate(getattr(self, what) or ()):
                if not isinstance(text, str):
                    raise DataError(f"{self.name}: row {row + 1}: {what} is {text!r:.40}, expected text")
                if what == "source" and not text.strip():
                    raise DataError(f"{self.name}: row {row + 1}: the source is empty; fill or drop the row")
        if len(set(self.ids)) < rows:
            seen: set[str] = set()
            twice = next(key for key in self.ids if key in seen or seen.add(key))
            raise DataError(f"{self.name}: the id {twice!r} stands for two rows; make ids unique or leave them out")


def _from_frame(name: str, frame: pd.DataFrame, categories: Sequence[str] | None) -> Translations:
    rest = [str(column) for column in frame.columns if column not in TEXTS]
    risks = [column for column in rest if column.startswith(RISK)]
    if categories is None:
        categories = [column for column in rest if column not in risks and _all_yes_no(frame[column])]
    for column in categories:
        if column not in rest:
            raise DataError(f"{name}: no column {column!r} for a category; it has {', '.join(rest) or 'no others'}")
    texts = {column: _filled(name, frame, column) for column in TEXTS if column in frame.columns}
    empty = next((row for row, text in enumerate(texts["source"]) if not text.strip()), None)
    if empty is not None:
        raise DataError(f"{name}: {row_name(frame, empty)}: 'source' is empty; fill or drop the row")
    scores = frame[risks].rename(columns=lambda column: str(column).removeprefix(RISK)) if risks else None
    return Translations(
        texts["source"],
        texts["output"],
        reference=texts.get("reference"),
        labels=_booleans(name, frame[list(categories)]) if categories else None,
        risks=None if scores is None else _numbers(name, scores),
        ids=texts.get("id"),
        name=name,
    )


def _filled(name: str, frame: pd.DataFrame, column: str) -> list[str]:
    """The column as texts; an empty cell is an empty text, but not for an id."""
    values = frame[column]
    if column == "id" and values.isna().any():
        where = row_name(frame, int(np.flatnonzero(values.isna())[0]))
        raise DataError(f"{name}: {where}: 'id' is empty; fill the column or leave it out")
    return values.astype(object).where(values.notna(), "").tolist()


def _all_yes_no(values: pd.Series) -> bool:
    return all(str(value).strip().lower() in _YES_NO for value in values)


def _booleans(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    def read(column: str) -> list[bool]:
        cells = [str(value).strip().lower() for value in frame[column]]
        wrong = next((row for row, cell in enumerate(cells) if cell not in _YES_NO), None)
        if wrong is not None:
            raise DataError(
                f"{name}: {_where(frame, wrong)}: {column!r} is {frame[column].iloc[wrong]!s:.40}, expected 0 or 1"
            )
        return [_YES_NO[cell] for cell in cells]

    import pandas as pd

    return pd.DataFrame({str(column): read(column) for column in frame.columns})


def _numbers(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    found = {}
    for column in frame.columns:
        values: Any = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
        if np.isnan(values).any():
            row = int(np.flatnonzero(np.isnan(values))[0])
            got = frame[column].iloc[row]
            raise DataError(f"{name}: {_where(frame, row)}: the score {column!r} is {got!r:.40}, expected a number")
        found[str(column)] = values
    return pd.DataFrame(found)


def _where(frame: pd.DataFrame, row: int) -> str:
    return row_name(frame, row) if frame.index.name else f"row {row + 1}"


def _lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a text file; only the line feed ends a line, as `wc -l` and translation toolkits have it."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataMissing(f"{path}: no such file; check the path (the current folder is {Path.cwd()})") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _same_length(one: str, first: int, other: str, second: int) -> None:
    if first != second:
        raise DataError(
            f"{one} has {first} lines, {other} has {second}; line n of one must translate line n of the other"
        )


def _digest(digest: Any, texts: Sequence[str]) -> None:
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        # The length keeps apart what the joints of texts would run together.
        digest.update(len(content).to_bytes(8, "little") + content)
