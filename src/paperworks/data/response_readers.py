"""Response tables from files: wide (one row or one column per responder) and long (one row per answer).

A wide table in csv, tsv, parquet or jsonl has one name per row and otherwise only cells 0, 1, true, false or empty:

    model,q1,q2,q3                item,bert,gpt2
    bert,1,0,1           or       q1,1,0
    gpt2,0,,1                     q2,0,

Groups (test sets) come from the file's name, from a column, or from the items' names less their running number: never
from the part before the first underscore, which would make one set of `arc_easy_7` and `arc_challenge_7`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from paperworks.data.errors import DataError
from paperworks.data.plain_tables import MISSING, read_plain
from paperworks.data.response_cells import binary, frame_numbers, gaps, numbers_of_words
from paperworks.data.responses import GroupRule, Orientation, Paths, Responses
from paperworks.data.tables import read_table, row_name

if TYPE_CHECKING:
    import pandas as pd

# The last is how a DataFrame's index without a name is called in a parquet file.
RESPONDER_COLUMNS = ("userid", "responder", "model", "id", "__index_level_0__")
ITEM_COLUMNS = ("item", "question", "item_id", "question_id", "itemid", "questionid")
_RUNNING_NUMBER = re.compile(r"[\W_]*\d+$")


def read_wide(
    paths: Paths,
    *,
    responder: str | None = None,
    group: GroupRule | None = "auto",
    group_column: str | None = None,
    family_column: str | None = None,
    orientation: Orientation = "auto",
    binarize: float | None = None,
) -> Responses:
    """Read one or more wide tables and join them by the responders' names.

    Args:
        paths: a file or several; `-` is standard input.
        responder: the column that names the responder; default: one called userid, responder, model or id, else the
            first.
        group: "stem": each file is a test set of its own, called like the file; "prefix": the item's name without its
            running number (`arc_easy_17` -> `arc_easy`); None: no groups; "auto": "stem" for several files that share
            responders, else none.
        group_column: the column with the test set of each item, where items are rows.
        family_column: the column with the family of each responder, where responders are rows.
        orientation: "auto" takes rows as responders unless the first header cell says item or question.
        binarize: scores of at least this count as right.

    Raises:
        DataError: a file that cannot be read as such a table (names file, line and column); a responder twice.
        ValueError: options that contradict each other; files of which one shares no responder with the others.
    """
    for argument, value, allowed in (
        ("group", group, (*get_args(GroupRule), None)),
        ("orientation", orientation, get_args(Orientation)),
    ):
        if value not in allowed:
            raise ValueError(f"{argument}: expected one of {', '.join(map(str, allowed))}, got {value!r}")
    files = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not files:
        raise ValueError("paths: expected at least one file, got none")
    options = {"responder": responder, "group_column": group_column, "family_column": family_column}
    tables = [_read_one(file, orientation=orientation, binarize=binarize, **options) for file in files]
    if group_column is not None:
        return tables[0].join(*tables[1:])
    if group == "auto":
        names = [set(table.responders) for table in tables]
        group = "stem" if any(names[0] & others for others in names[1:]) else None
    if group == "stem":
        tables = _by_file(files, tables)
    elif group == "prefix":
        tables = [_regrouped(table, [_prefix(item) for item in table.items]) for table in tables]
    return tables[0].join(*tables[1:]) if len(tables) > 1 else tables[0]


def read_long(
    table: Any,
    *,
    responder: str = "responder",
    item: str = "item",
    correct: str = "correct",
    group: str | None = None,
    family: str | None = None,
    binarize: float | None = None,
) -> Responses:
    """Read a table with one row per answer.

    Args:
        table: a DataFrame, or a path (csv, tsv, parquet, jsonl, `-`).
        responder, item, correct, group, family: names of the columns; items of several groups that have the same name
            are told apart as `group/item`.
        binarize: scores of at least this count as right.

    Raises:
        DataError: a column is missing; an answer appears twice; a cell is empty that must not be.
        ValueError: cells other than 0, 1, true, false and empty.
    """
    columns = {"responder": responder, "item": item, "correct": correct, "group": group, "family": family}
    used = {role: column for role, column in columns.items() if column is not None}
    if isinstance(table, (str, os.PathLike)):
        name, frame = str(table), read_table(table, required=list(used.values()))
    else:
        name, frame = "table", table
        missing = [column for column in used.values() if column not in frame.columns]
        if missing:
            raise DataError(f"{name}: no column {missing[0]!r} (columns: {', '.join(map(str, frame.columns))})")
    labels = {role: _labels(name, frame, column) for role, column in used.items() if role != "correct"}
    numbers = numbers_of_words(frame[correct].tolist(), correct, where=name)
    places = [row_name(frame, row) for row in range(len(frame))] if frame.index.name else None
    return assemble(name, **labels, numbers=numbers, column=correct, binarize=binarize, places=places)


def assemble(
    name: str,
    *,
    responder: Sequence[str],
    item: Sequence[str],
    numbers: np.ndarray,
    group: Sequence[str] | None = None,
    family: Sequence[str] | None = None,
    column: str = "correct",
    binarize: float | None = None,
    places: Sequence[str] | None = None,
) -> Responses:
    """A table from answers in any order: parallel sequences, one entry per answer. `places` says where each stood.

    Raises:
        DataError: the same responder answers the same item twice, or has two families.
        ValueError: as `Responses`.
    """
    import pandas as pd

    if len(numbers) == 0:
        raise DataError(f"{name}: no answers")
    values, observed = binary(np.asarray(numbers, dtype=np.float64)[:, None], [column], binarize=binarize, where=name)
    keys, groups = _item_keys(item, group)
    row, names = pd.factorize(np.asarray(responder, dtype=object))
    responders = tuple(map(str, names))
    cell, items = pd.factorize(keys)
    flat = row.astype(np.int64) * len(items) + cell
    order = np.argsort(flat, kind="stable")
    twice = np.flatnonzero(np.diff(flat[order]) == 0)
    if len(twice):
        first, second = sorted((int(order[twice[0]]), int(order[twice[0] + 1])))
        where = f"{places[first]} and {places[second]}" if places else f"rows {first + 1} and {second + 1}"
        raise DataError(
            f"{name}: responder {responder[first]!r} answers item {keys[first]!r} twice, in {where}; keep one of them, "
            f"or name the column that tells them apart as the group"
        )
    table = np.zeros((len(responders), len(items)), dtype=np.uint8)
    seen = np.zeros(table.shape, dtype=bool)
    table[row, cell] = values[:, 0]
    seen[row, cell] = True if observed is None else observed[:, 0]
    return Responses(
        table,
        None if seen.all() else seen,
        responders,
        tuple(map(str, items)),
        None if groups is None else _first_of_each(cell, groups),
        None if family is None else _families(name, row, responders, family),
    )


def _item_keys(item: Sequence[str], group: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray | None]:
    """One name per question, and its group: `group/item` for all where two groups use the same name."""
    names = np.asarray(item, dtype=object)
    if group is None:
        return names, None
    groups = np.asarray(group, dtype=object)
    pairs = set(zip(groups.tolist(), names.tolist(), strict=True))
    if len({name for _, name in pairs}) < len(pairs):
        names = groups + "/" + names
    return names, groups


def _first_of_each(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    _, first = np.unique(codes, return_index=True)
    return labels[first].astype(np.str_)


def _families(name: str, row: np.ndarray, responders: Sequence[str], family: Sequence[str]) -> np.ndarray:
    labels = np.asarray(family, dtype=object)
    each = _first_of_each(row, labels)
    other = np.flatnonzero(each[row] != labels.astype(np.str_))
    if len(other):
        at = int(other[0])
        both = f"{str(each[row[at]])!r} and {str(labels[at])!r}"
        raise DataError(f"{name}: responder {responders[row[at]]!r} has two families, {both}")
    return each


def _labels(name: str, frame: pd.DataFrame, column: str) -> list[str]:
    """A column of names as text; an empty one is an error."""
    values = frame[column]
    empty = np.flatnonzero(values.isna().to_numpy())
    if len(empty):
        raise DataError(
            f"{name}: {row_name(frame, int(empty[0]))}: column {column!r} is empty; every row needs its name there"
        )
    return [_as_name(value) for value in values.tolist()]


def _as_name(value: Any) -> str:
    # Whole numbers that a parquet file or a DataFrame holds as floats keep the name they had.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _read_one(
    file: str | os.PathLike[str],
    *,
    responder: str | None,
    group_column: str | None,
    family_column: str | None,
    orientation: Orientation,
    binarize: float | None,
) -> Responses:
    required = [column for column in (responder, group_column, family_column) if column is not None]
    quick = None if required or binarize is not None else _read_quickly(file, orientation)
    if quick is not None:
        return quick
    frame = read_table(file, required=required)
    name = "standard input" if str(file) == "-" else str(file)
    columns = [column for column in frame.columns if column not in (group_column, family_column)]
    if len(columns) < 2:
        raise DataError(f"{name}: expected a column of names and at least one of answers, got {len(columns)} column(s)")
    by_item = _items_in_rows(columns, orientation, responder)
    if by_item and (responder is not None or family_column is not None):
        argument = "responder" if responder is not None else "family_column"
        raise ValueError(
            f"{argument}: {name} has items in rows and a column for each responder, so no column can name or describe "
            f"responders; leave it out, or set orientation='responder_rows'"
        )
    if not by_item and group_column is not None:
        raise ValueError(
            f"group_column: {name} has responders in rows, so no column can give the group of an item; use a file with "
            f"items in rows (orientation='item_rows'), a long table, or one file per group"
        )
    naming = responder or _naming_column(columns, ITEM_COLUMNS if by_item else RESPONDER_COLUMNS)
    names = _labels(name, frame, naming)
    _no_doubles(name, frame, names, "item" if by_item else "responder")
    others = [column for column in columns if column != naming]
    numbers = frame_numbers(frame.loc[:, others], where=name)
    values, observed = binary(numbers, [str(column) for column in others], binarize=binarize, where=name)
    if by_item:
        groups = None if group_column is None else np.array(_labels(name, frame, group_column), dtype=np.str_)
        values, observed = (
            np.ascontiguousarray(values.T),
            None if observed is None else np.ascontiguousarray(observed.T),
        )
        return Responses(values, observed, tuple(map(str, others)), tuple(names), groups)
    families = None if family_column is None else np.array(_labels(name, frame, family_column), dtype=np.str_)
    return Responses(values, observed, tuple(names), tuple(map(str, others)), None, families)


def _read_quickly(file: str | os.PathLike[str], orientation: Orientation) -> Responses | None:
    """The table of a plain file whose first column has the names; None leaves it to the general reader."""
    table = read_plain(file)
    if table is None or len(table.header) < 2 or "" in table.names:
        return None
    by_item = _items_in_rows(table.header, orientation, None)
    if _naming_column(table.header, ITEM_COLUMNS if by_item else RESPONDER_COLUMNS) != table.header[0]:
        return None
    cells = np.ascontiguousarray(table.cells.T) if by_item else table.cells
    responders, items = (table.header[1:], table.names) if by_item else (table.names, table.header[1:])
    observed = cells != MISSING
    return Responses(cells * observed, gaps(observed), responders, items)


def _items_in_rows(columns: Sequence[Any], orientation: Orientation, responder: str | None) -> bool:
    first = str(columns[0]).strip().lower()
    return orientation == "item_rows" or (orientation == "auto" and responder is None and first in ITEM_COLUMNS)


def _naming_column(columns: Sequence[Any], known: Sequence[str]) -> Any:
    named = [column for column in columns if str(column).strip().lower() in known]
    return named[0] if named else columns[0]


def _no_doubles(name: str, frame: pd.DataFrame, names: Sequence[str], what: str) -> None:
    place: dict[str, int] = {}
    for row, label in enumerate(names):
        if label in place:
            first, second = row_name(frame, place[label]), row_name(frame, row)
            raise DataError(
                f"{name}: {what} {label!r} appears twice, in {first} and {second}; each must have its own name"
            )
        place[label] = row


def _by_file(files: Sequence[str | os.PathLike[str]], tables: Sequence[Responses]) -> list[Responses]:
    """Each file as a group; items that several files call alike become `file/item`, in all files."""
    stems = ["stdin" if str(file) == "-" else Path(file).stem for file in files]
    doubled = {stem for stem in stems if stems.count(stem) > 1}
    if doubled:
        raise ValueError(f"group: two files are called {sorted(doubled)[0]!r}; rename one, since the name is the group")
    items = [item for table in tables for item in table.items]
    if len(set(items)) < len(items):
        pairs = zip(stems, tables, strict=True)
        tables = [table.renamed([f"{stem}/{item}" for item in table.items]) for stem, table in pairs]
    return [_regrouped(table, [stem] * len(table.items)) for stem, table in zip(stems, tables, strict=True)]


def _regrouped(table: Responses, groups: Sequence[str]) -> Responses:
    return Responses(
        table.values, table.observed, table.responders, table.items, np.array(groups, dtype=np.str_), table.families
    )


def _prefix(item: str) -> str:
    prefix = _RUNNING_NUMBER.sub("", item)
    if prefix in ("", item):
        raise ValueError(
            f"group: 'prefix' needs items called <set><running number>, such as arc_easy_17; got {item!r}; "
            f"use a group column or one file per set"
        )
    return prefix
