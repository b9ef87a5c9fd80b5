"""A quick reader for the commonest large file: a csv or tsv of one name per row and cells 0, 1 or nothing.

It reads a table of a hundred million cells in a byte a cell, where a general reader makes an object of each. Anything
out of the ordinary makes it step back: the general reader then reads, or names what is wrong.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DELIMITERS = {".csv": b",", ".tsv": b"\t", ".tab": b"\t"}
MISSING = 2


@dataclass(frozen=True)
class PlainTable:
    """Header, the first cell of each row, and the other cells (rows, columns - 1): 0, 1, or 2 where empty."""

    header: tuple[str, ...]
    names: tuple[str, ...]
    cells: np.ndarray


def read_plain(file: str | os.PathLike[str]) -> PlainTable | None:
    """The table, or None where the file is not of this plain form, or not there."""
    path = Path(file)
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is None or str(file) == "-" or not path.is_file():
        return None
    content = path.read_bytes()
    if b'"' in content or b"\0" in content:
        return None
    lines = [line for line in content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n") if line]
    if len(lines) < 2:
        return None
    try:
        header = tuple(cell.strip() for cell in lines[0].decode().split(delimiter.decode()))
        starts = [line.find(delimiter) for line in lines[1:]]
        names = tuple(line[:start].decode().strip() for line, start in zip(lines[1:], starts, strict=True))
    except UnicodeDecodeError:
        return None
    if min(starts) < 0 or not _distinct(header) or not _distinct(names) or all(map(_is_number, names)):
        return None
    cells = np.full((len(names), len(header) - 1), MISSING, dtype=np.uint8)
    for row, (line, start) in enumerate(zip(lines[1:], starts, strict=True)):
        if not _fill(cells[row], np.frombuffer(line, dtype=np.uint8)[start:], ord(delimiter)):
            return None
    return PlainTable(header, names, cells)


def _fill(row: np.ndarray, text: np.ndarray, delimiter: int) -> bool:
    """Put the digits of `,0,1,,0` into the row; False where there is anything else."""
    if len(text) == 2 * len(row) and (text[::2] == delimiter).all():
        row[:] = text[1::2] - ord("0")
        return bool((row <= 1).all())
    at = text == delimiter
    if at.sum() != len(row):
        return False
    place = (np.cumsum(at) - 1)[~at]
    if (np.diff(place) == 0).any():
        return False
    digits = text[~at] - ord("0")
    row[place] = digits
    return bool((digits <= 1).all())


def _distinct(names: tuple[str, ...]) -> bool:
    return len(set(names)) == len(names) and "" not in names[1:]


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
