"""Tables from ordinary files: csv, tsv, jsonl, parquet, or standard input.

One strict reader instead of a lenient one: a row with a cell too many or too few, an unclosed quote or a byte that is
not UTF-8 is an error that names the line, where most readers fill, cut or guess. What is read means what the file
says: only the empty cell is missing (so the label `NA` survives), and `007` stays text.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paperworks.data.errors import DataError, DataMissing

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_table(
    source: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    required: Sequence[str] = (),
    text: Sequence[str] = (),
    missing: Sequence[str] = ("",),
) -> pd.DataFrame:
    """Read a table from a csv, tsv, jsonl or parquet file, or from standard input (`-`, the format is recognised).

    Args:
        source: the file; its ending gives the format.
        columns: new name -> name in the file; the other columns keep their names, and a column of the file that is
            called like a new name gives way.
        required: columns (new names) that must be there.
        text: columns (new names) taken as they are written. In the other columns of a csv or tsv, cells become
            numbers where every cell of the column is one (and none begins with a superfluous zero).
        missing: cells of a csv or tsv that mean "no value".

    Returns:
        A frame whose index, named `line`, is the line of the file on which each row begins (parquet: named `row`,
        from 1), so that later checks can say where the offending row is: see `row_name`.

    Raises:
        DataMissing: there is no such file.
        DataError: unknown ending, wrong encoding, unequal rows, broken quotes or JSON, doubled or missing columns,
            an empty file; the message names file, line and column, and what to do.
    """
    renamed = {old: new for new, old in (columns or {}).items()}
    if len(renamed) < len(columns or {}):
        raise ValueError(f"columns: one column of the file cannot take two names, got {dict(columns or {})}")
    name, content = _read_bytes(source)
    if not content.strip():
        raise DataError(_empty(name))
    kind = _sniff(content) if str(source) == "-" else FORMATS[Path(source).suffix.lower()]
    if kind == "parquet":
        frame = _parquet(name, content)
    elif kind == "jsonl":
        frame = _jsonl(name, _decode(name, content))
    else:
        verbatim = {(columns or {}).get(new, new) for new in text}
        frame = _separated(name, _decode(name, content), kind, verbatim, frozenset(missing))
    if len(frame) == 0:
        raise DataError(f"{name}: has columns but no rows")
    frame = _rename(name, frame, renamed)
    for column in required:
        if column not in frame.columns:
            raise DataError(_no_column(name, column, frame.columns, f"with --columns {column}=<your column>"))
    for column in text:
        if column in frame.columns:
            frame[column] = _as_text(name, frame, column)
    return frame


def parse_columns(text: str) -> dict[str, str]:
    """The mapping in a `--columns` argument: `"text=review,label=stars"` -> `{"text": "review", "label": "stars"}`.

    Raises:
        ValueError: a part is not `ours=yours`, or a name appears twice.
    """
    mapping: dict[str, str] = {}
    for part in text.split(","):
        ours, equals, yours = (piece.strip() for piece in part.partition("="))
        if not (ours and equals and yours):
            raise ValueError(f"columns: expected name=column,name=column such as text=review,label=stars, got {text!r}")
        if ours in mapping or yours in mapping.values():
            raise ValueError(f"columns: {part.strip()!r} repeats a name, in {text!r}")
        mapping[ours] = yours
    return mapping


def row_name(frame: pd.DataFrame, position: int) -> str:
    """Where the row at this position stood in its file: `"line 17"` or, in a parquet file, `"row 16"`."""
    return f"{frame.index.name or 'row'} {frame.index[position]}"


def _read_bytes(source: str | os.PathLike[str]) -> tuple[str, bytes]:
    if str(source) == "-":
        return "standard input", sys.stdin.buffer.read()
    path = Path(source)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; expected a file ending in {', '.join(FORMATS)}")
    if path.suffix.lower() not in FORMATS:
        raise DataError(f"{path}: cannot tell the format from {path.suffix!r}; expected {', '.join(FORMATS)}")
    try:
        return str(path), path.read_bytes()
    except FileNotFoundError:
        raise DataMissing(f"{path}: no such file; check the path (the current folder is {Path.cwd()})") from None


def _empty(name: str) -> str:
    return f"{name}: the file is empty; expected a header and at least one row"


def _sniff(content: bytes) -> str:
    if content.startswith(b"PAR1"):
        return "parquet"
    head = content.lstrip(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"{"):
        return "jsonl"
    header = head.splitlines()[0]
    return "tsv" if header.count(b"\t") > header.count(b",") else "csv"


def _decode(name: str, content: bytes) -> str:
    encoding = next((code for mark, code in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise DataError(
            f"{name}: line {line}, byte {column}: {content[error.start : error.start + 1]!r} is not {encoding}; "
            f"save the file as UTF-8, for instance: iconv -f cp1252 -t utf-8 FILE > NEW"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"{name}: line {line}: holds a zero byte, so this is no text file (or UTF-16); save it as UTF-8"
        )
    return text


def _separated(name: str, text: str, kind: str, verbatim: set[str], missing: frozenset[str]) -> pd.DataFrame:
    import pandas as pd

    try:
        header, cells, lines = _records(name, text, "\t" if kind == "tsv" else ",", quoted=True)
    except DataError:
        # Many tsv files are written without quoting: there a quote is a letter, if all rows then have one width.
        if kind == "csv" or '"' not in text:
            raise
        header, cells, lines = _records(name, text, "\t", quoted=False)
    data = {key: _column(values, key in verbatim, missing) for key, values in zip(header, cells, strict=True)}
    return pd.DataFrame(data).set_axis(pd.Index(lines, name="line"))


def _records(name: str, text: str, delimiter: str, *, quoted: bool) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, the cells of each column, and the lines the rows begin on; blank lines are skipped."""
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=quoted)
    # A cell may be a whole book; the module's limit of 128 KiB is global, hence put back.
    limit = csv.field_size_limit(sys.maxsize)
    begin = 1
    try:
        header = [cell.strip() for cell in next((row for row in reader if row), [])]
        if not header:
            raise DataError(_empty(name))
        _no_duplicates(name, header)
        width, lines, pending = len(header), [], []
        cells: list[list[str]] = [[] for _ in header]
        begin = reader.line_num + 1
        for row in reader:
            if len(row) == width:
                pending.append(row)
                lines.append(begin)
            elif row:
                raise DataError(
                    f"{name}: line {begin}: {len(row)} cells, the header has {width}; "
                    f"a cell that contains a {_spoken(delimiter)} or a line break must stand in double quotes"
                )
            begin = reader.line_num + 1
            # Turned into columns piecewise: a million small lists at once cost more than reading the file.
            if len(pending) == 4096:
                _extend(cells, pending)
        _extend(cells, pending)
    except csv.Error as error:
        what = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
        raise DataError(f"{name}: line {begin}: {what}; inside a quoted cell, double every quote") from None
    finally:
        csv.field_size_limit(limit)
    return header, cells, lines


def _extend(cells: list[list[str]], rows: list[list[str]]) -> None:
    for column, values in enumerate(cells):
        values.extend([row[column] for row in rows])
    rows.clear()


def _spoken(delimiter: str) -> str:
    return "tab" if delimiter == "\t" else "comma"


def _column(values: Iterable[str], verbatim: bool, missing: frozenset[str]) -> pd.Series:
    """Numbers where every cell is one, else text."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = pa.array([None if value in missing else value for value in values], type=pa.large_string())
    superfluous_zero = pc.any(pc.match_substring_regex(cells, r"^\s*[+-]?0\d")).as_py()  # pyright: ignore
    if not verbatim and not superfluous_zero and cells.null_count < len(cells):
        for number in (pa.int64(), pa.float64()):
            try:
                return pd.Series(cells.cast(number).to_numpy(zero_copy_only=False))
            except pa.ArrowInvalid:
                continue
    return pd.Series(cells.to_pandas())


def _jsonl(name: str, text: str) -> pd.DataFrame:
    import pandas as pd

    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{name}: line {line}, character {error.colno}: {error.msg}; expected one JSON object a line"
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"{name}: line {line}: expected a JSON object such as {{...}}, got {type(row).__name__}")
        rows.append(row)
        lines.append(line)
    names = dict.fromkeys(key for row in rows for key in row)
    data = {key: pd.Series([row.get(key) for row in rows]) for key in names}
    return pd.DataFrame(data).set_axis(pd.Index(lines, name="line"))


def _parquet(name: str, content: bytes) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{name}: not a whole parquet file ({error}); copy or write it again") from None
    _no_duplicates(name, table.column_names)
    # An index that pandas saved under a name is a column like the others; its unnamed ones count rows.
    unnamed = [column for column in table.column_names if re.fullmatch(r"__index_level_\d+__", column)]
    frame = table.drop_columns(unnamed).to_pandas(ignore_metadata=True)
    return frame.set_axis(pd.RangeIndex(1, len(frame) + 1, name="row"))


def _no_duplicates(name: str, header: Sequence[str]) -> None:
    doubled = sorted(column for column, count in Counter(header).items() if count > 1)
    if doubled:
        raise DataError(f"{name}: the header has {', '.join(map(repr, doubled))} more than once; rename one of them")


def _rename(name: str, frame: pd.DataFrame, renamed: Mapping[str, str]) -> pd.DataFrame:
    for old, new in renamed.items():
        if old not in frame.columns:
            raise DataError(_no_column(name, old, frame.columns, f"in --columns {new}=<your column>"))
    shadowed = [new for new in renamed.values() if new in frame.columns and new not in renamed]
    return frame.drop(columns=shadowed).rename(columns=dict(renamed))


def _no_column(name: str, column: str, columns: Iterable[str], where: str) -> str:
    shown = [str(other) for other in columns]
    close = difflib.get_close_matches(column, shown, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(map(repr, shown[:12])) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
    return f"{name}: no column {column!r}{hint} (columns: {listed}); name it {where}"


def _as_text(name: str, frame: pd.DataFrame, column: str) -> pd.Series:
    """The column with its scalars as text; missing values stay missing."""
    import pandas as pd

    values = frame[column]
    nested = [isinstance(value, (list, dict, tuple)) for value in values]
    if any(nested):
        at = nested.index(True)
        raise DataError(f"{name}: {row_name(frame, at)}: column {column!r}: expected text, got {values.iloc[at]!r:.80}")
    return pd.Series(values.map(str, na_action="ignore"))
