"""Who answered what right: a table of responders (models, people) by items (questions), with gaps where not asked.

`Responses` is what item response theory is fitted to. Arrays come in through `Responses.from_array`, files through
`read_csv`, `from_long`, `from_lm_eval` and `from_helm`; tables of the same responders are put side by side by `join`,
by name and never by position.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from paperworks.data.response_cells import array_numbers, binary, frame_numbers, gaps, masked

if TYPE_CHECKING:
    import pandas as pd

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Orientation = Literal["auto", "responder_rows", "item_rows"]
GroupRule = Literal["auto", "stem", "prefix"]


@dataclass(frozen=True, eq=False)
class Responses:
    """A table of right (1) and wrong (0) answers, with names.

    Args:
        values: (R, M) uint8 of 0 and 1, 0 where not observed.
        observed: (R, M) bool, False where the item was not administered; None where nothing is missing.
        responders: R names, each once.
        items: M names, each once.
        groups: (M,) str, the test set of each item; None where there is only one.
        families: (R,) str, responders that are not independent of each other (checkpoints of one model) share one;
            None where not known.

    Raises:
        ValueError: shapes, types or values that are not these; a name twice or empty; no responder or no item.
    """

    values: np.ndarray
    observed: np.ndarray | None
    responders: tuple[str, ...]
    items: tuple[str, ...]
    groups: np.ndarray | None = None
    families: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = (len(self.responders), len(self.items))
        _check_cells(self.values, self.observed, shape)
        _check_names("responders", self.responders)
        _check_names("items", self.items)
        _check_labels("groups", self.groups, shape[1])
        _check_labels("families", self.families, shape[0])

    def __len__(self) -> int:
        return len(self.responders)

    def __repr__(self) -> str:
        groups = "" if self.groups is None else f", {len(self.group_names)} groups"
        gaps = "" if self.observed is None else f", {self.missing_share:.1%} missing"
        return f"Responses({len(self.responders)} responders, {len(self.items)} items{groups}{gaps})"

    @property
    def shape(self) -> tuple[int, int]:
        """Responders, items."""
        return len(self.responders), len(self.items)

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups, in the order in which they first appear; empty where there are none."""
        return () if self.groups is None else tuple(dict.fromkeys(self.groups.tolist()))

    @property
    def missing_share(self) -> float:
        """Share of the cells that were not administered."""
        return 0.0 if self.observed is None else float(1 - self.observed.mean())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole table: cells, gaps, names, groups and families."""
        digest = hashlib.sha256(repr(self.shape).encode())
        for cells in (self.values, self.observed):
            digest.update(b"-" if cells is None else np.packbits(cells).tobytes())
        for names in (self.responders, self.items, self.groups, self.families):
            digest.update(b"-" if names is None else "\0".join(map(str, names)).encode() + b"\1")
        return digest.hexdigest()

    def accuracy(self) -> np.ndarray:
        """Share of right answers of each responder among the items it was given, (R,); NaN where none."""
        return _share(self.values.sum(1, dtype=np.int64), self.shape[1], self.observed, axis=1)

    def p_correct(self) -> np.ndarray:
        """Share of right answers to each item among those who were given it, (M,); NaN where nobody was."""
        return _share(self.values.sum(0, dtype=np.int64), self.shape[0], self.observed, axis=0)

    def to_array(self) -> np.ndarray:
        """(R, M) float64 of 0, 1 and NaN."""
        values = self.values.astype(np.float64)
        return values if self.observed is None else np.where(self.observed, values, np.nan)

    def to_frame(self) -> pd.DataFrame:
        """A DataFrame of 0, 1 and NaN, responders by items."""
        import pandas as pd

        return pd.DataFrame(self.to_array(), index=list(self.responders), columns=list(self.items))

    def select(self, *, items: Any = None, responders: Any = None) -> Responses:
        """The part of the table with these items and responders, in the order given.

        Either may be names, integer positions, or a boolean mask.

        Raises:
            ValueError: a name or position that is not there, or a mask of the wrong length.
        """
        rows = _positions("responders", responders, self.responders)
        columns = _positions("items", items, self.items)
        cells = np.ix_(rows, columns)
        return Responses(
            np.ascontiguousarray(self.values[cells]),
            gaps(None if self.observed is None else self.observed[cells]),
            tuple(self.responders[row] for row in rows),
            tuple(self.items[column] for column in columns),
            None if self.groups is None else self.groups[columns],
            None if self.families is None else self.families[rows],
        )

    def join(self, *others: Responses) -> Responses:
        """One table of all responders and items, aligned by name; cells that no table has are missing.

        Raises:
            ValueError: a table shares neither a responder nor an item with those before it; two tables disagree about
                an answer, or about the group of an item or the family of a responder; only some have groups.
        """
        tables = (self, *others)
        responders = tuple(dict.fromkeys(name for table in tables for name in table.responders))
        items = tuple(dict.fromkeys(name for table in tables for name in table.items))
        row_of = {name: row for row, name in enumerate(responders)}
        column_of = {name: column for column, name in enumerate(items)}
        values = np.zeros((len(responders), len(items)), dtype=np.uint8)
        observed = np.zeros(values.shape, dtype=bool)
        for number, table in enumerate(tables):
            rows = np.array([row_of[name] for name in table.responders])
            columns = np.array([column_of[name] for name in table.items])
            if number and not (observed[rows].any() or observed[:, columns].any()):
                raise ValueError(_nothing_shared(number, tables))
            cells = np.ix_(rows, columns)
            seen = np.ones(table.shape, dtype=bool) if table.observed is None else table.observed
            conflict = seen & observed[cells] & (values[cells] != table.values)
            if conflict.any():
                row, column = np.argwhere(conflict)[0]
                raise ValueError(
                    f"join: two tables disagree about responder {table.responders[row]!r} on item "
                    f"{table.items[column]!r}; rename one of the items if they are different questions"
                )
            values[cells] |= table.values
            observed[cells] |= seen
        groups = _joined_labels("groups", [(table.items, table.groups) for table in tables], items)
        families = _joined_labels("families", [(table.responders, table.families) for table in tables], responders)
        return Responses(values, gaps(observed), responders, items, groups, families)

    def renamed(self, items: Sequence[str]) -> Responses:
        """The same table with other names of the items."""
        return replace(self, items=tuple(items))

    @classmethod
    def from_array(
        cls,
        y: Any,
        *,
        responders: Sequence[str] | None = None,
        items: Sequence[str] | None = None,
        groups: Sequence[str] | np.ndarray | None = None,
        families: Sequence[str] | np.ndarray | None = None,
        mask: Any = None,
        binarize: float | None = None,
    ) -> Responses:
        """From a NumPy array, a torch tensor or a DataFrame, responders in rows and items in columns.

        Args:
            y: (R, M) of 0, 1 and NaN (not administered); booleans and, in a DataFrame, the words true and false too.
            responders, items: names; default: the DataFrame's index and columns, else `responder_0`, `item_0`, ...
            groups: (M,) test set of each item. `families`: (R,) family of each responder.
            mask: (R, M) bool, True where observed.
            binarize: scores of at least this count as right; without it any other value than 0 and 1 is refused.

        Raises:
            ValueError: other values (names them and the column), a wrong shape, a name twice.
        """
        import pandas as pd

        frame = isinstance(y, pd.DataFrame)
        numbers = frame_numbers(y) if frame else array_numbers(y)
        if numbers.ndim != 2:
            raise ValueError(f"responses: expected a table (responders, items), got shape {numbers.shape}")
        if items is None:
            items = [str(name) for name in y.columns] if frame else [f"item_{k}" for k in range(numbers.shape[1])]
        if responders is None:
            named = frame and not isinstance(y.index, pd.RangeIndex)
            responders = [str(name) for name in y.index] if named else _numbered("responder", len(numbers))
        numbers = masked(numbers, mask)
        values, observed = binary(numbers, [str(name) for name in items], binarize=binarize)
        return cls(
            values,
            observed,
            tuple(str(name) for name in responders),
            tuple(str(name) for name in items),
            None if groups is None else np.array([str(name) for name in groups], dtype=np.str_),
            None if families is None else np.array([str(name) for name in families], dtype=np.str_),
        )

    @classmethod
    def read_csv(
        cls,
        paths: Paths,
        *,
        responder: str | None = None,
        group: GroupRule | None = "auto",
        group_column: str | None = None,
        family_column: str | None = None,
        orientation: Orientation = "auto",
        binarize: float | None = None,
    ) -> Responses:
        """From one or more wide tables (csv, tsv, parquet, jsonl, `-`); see `paperworks.data.response_readers`."""
        from paperworks.data.response_readers import read_wide

        return read_wide(
            paths,
            responder=responder,
            group=group,
            group_column=group_column,
            family_column=family_column,
            orientation=orientation,
            binarize=binarize,
        )

    @classmethod
    def from_long(
        cls,
        table: Any,
        *,
        responder: str = "responder",
        item: str = "item",
        correct: str = "correct",
        group: str | None = None,
        family: str | None = None,
        binarize: float | None = None,
    ) -> Responses:
        """From a table with one row per answer (a DataFrame or a path); see `paperworks.data.response_readers`."""
        from paperworks.data.response_readers import read_long

        return read_long(
            table, responder=responder, item=item, correct=correct, group=group, family=family, binarize=binarize
        )

    @classmethod
    def from_lm_eval(
        cls,
        folder: str | os.PathLike[str],
        *,
        metric: str | Mapping[str, str] | None = None,
        filter: str | Mapping[str, str] | None = None,
        binarize: float | None = None,
    ) -> Responses:
        """From the per-sample logs of lm-evaluation-harness; see `paperworks.data.harness_responses`."""
        from paperworks.data.harness_responses import read_lm_eval

        return read_lm_eval(folder, metric=metric, filter=filter, binarize=binarize)

    @classmethod
    def from_helm(
        cls,
        folder: str | os.PathLike[str],
        *,
        metric: str | Mapping[str, str] | None = None,
        trial: int = 0,
        binarize: float | None = None,
    ) -> Responses:
        """From the per-instance statistics of HELM runs; see `paperworks.data.harness_responses`."""
        from paperworks.data.harness_responses import read_helm

        return read_helm(folder, metric=metric, trial=trial, binarize=binarize)


def _numbered(word: str, count: int) -> list[str]:
    return [f"{word}_{number}" for number in range(count)]


def _share(right: np.ndarray, total: int, observed: np.ndarray | None, *, axis: int) -> np.ndarray:
    count = np.full(len(right), total) if observed is None else observed.sum(axis)
    with np.errstate(invalid="ignore"):
        return right / count


def _check_cells(values: np.ndarray, observed: np.ndarray | None, shape: tuple[int, int]) -> None:
    if 0 in shape:
        raise ValueError(f"responses: expected at least one responder and one item, got {shape[0]} and {shape[1]}")
    if values.shape != shape or values.dtype != np.uint8:
        raise ValueError(f"values: expected uint8 of shape {shape}, got {values.dtype} of shape {values.shape}")
    if values.max() > 1:
        raise ValueError(f"values: expected 0 and 1, got {values.max()}; Responses.from_array(..., binarize=) may help")
    if observed is None:
        return
    if observed.shape != shape or observed.dtype != bool:
        raise ValueError(f"observed: expected bool of shape {shape}, got {observed.dtype} of shape {observed.shape}")
    if (values[~observed] != 0).any():
        raise ValueError("values: expected 0 where not observed; Responses.from_array(y, mask=...) puts them there")


def _check_names(argument: str, names: tuple[str, ...]) -> None:
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{argument}: expected names, got an empty or other one among {names[:5]}...")
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise ValueError(
            f"{argument}: {doubled[0]!r} appears {names.count(doubled[0])} times; each must have its own name"
        )


def _check_labels(argument: str, labels: np.ndarray | None, count: int) -> None:
    if labels is not None and (
        not isinstance(labels, np.ndarray) or labels.shape != (count,) or labels.dtype.kind != "U"
    ):
        got = f"{labels.dtype} of shape {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise ValueError(f"{argument}: expected an array of {count} words, got {got}")


def _positions(argument: str, chosen: Any, names: tuple[str, ...]) -> np.ndarray:
    if chosen is None:
        return np.arange(len(names))
    wanted = np.asarray(chosen)
    if wanted.dtype == bool:
        if wanted.shape != (len(names),):
            raise ValueError(f"{argument}: expected a mask of length {len(names)}, got shape {wanted.shape}")
        return np.flatnonzero(wanted)
    if wanted.size == 0:
        raise ValueError(f"{argument}: expected at least one, got none")
    if wanted.dtype.kind in "iu":
        if wanted.ndim != 1 or wanted.min() < 0 or wanted.max() >= len(names):
            raise ValueError(f"{argument}: expected positions from 0 to {len(names) - 1}, got {wanted.tolist()[:5]}...")
        return wanted.astype(np.int64)
    place = {name: position for position, name in enumerate(names)}
    unknown = [name for name in wanted.tolist() if name not in place]
    if unknown:
        raise ValueError(f"{argument}: {unknown[0]!r} is not in the table ({len(names)} names, such as {names[0]!r})")
    return np.array([place[name] for name in wanted.tolist()], dtype=np.int64)


def _nothing_shared(number: int, tables: Sequence[Responses]) -> str:
    before, table = tables[0].responders[0], tables[number].responders[0]
    return (
        f"join: table {number + 1} shares no responder and no item with those before it, so nothing links them; "
        f"responders are called {table!r}, ... there and {before!r}, ... before: write their names alike"
    )


def _joined_labels(
    argument: str, parts: Sequence[tuple[tuple[str, ...], np.ndarray | None]], names: tuple[str, ...]
) -> np.ndarray | None:
    label_of: dict[str, str] = {}
    for owners, labels in parts:
        for owner, label in zip(owners, () if labels is None else labels.tolist(), strict=labels is not None):
            if label_of.setdefault(owner, label) != label:
                raise ValueError(
                    f"join: {argument}: {owner!r} is {label_of[owner]!r} in one table and {label!r} in another"
                )
    if not label_of:
        return None
    without = [name for name in names if name not in label_of]
    if without:
        raise ValueError(f"join: {argument}: some tables have them and others do not ({without[0]!r} has none)")
    return np.array([label_of[name] for name in names], dtype=np.str_)
