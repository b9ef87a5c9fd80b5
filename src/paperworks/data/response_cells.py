"""Cells of a response table: from what people write (numbers, booleans, words, nothing) to 0, 1 and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_WORDS = {"1": 1.0, "0": 0.0, "true": 1.0, "false": 0.0, "": np.nan, "nan": np.nan, "na": np.nan}


def binary(
    numbers: np.ndarray, columns: Sequence[str], *, binarize: float | None = None, where: str = ""
) -> tuple[np.ndarray, np.ndarray | None]:
    """Numbers (R, M) with NaN as `values` uint8 and `observed` bool (None where complete).

    `where` tells in the message where the table comes from.

    Raises:
        ValueError: a value other than 0 and 1 without `binarize`, or an infinite one; names the first such column.
    """
    observed = ~np.isnan(numbers)
    wrong = np.isinf(numbers) if binarize is not None else observed & (numbers != 0) & (numbers != 1)
    if wrong.any():
        column = int(np.argmax(wrong.any(0)))
        raise ValueError(unexpected(numbers[wrong[:, column], column].tolist(), columns[column], where=where))
    with np.errstate(invalid="ignore"):
        right = numbers == 1 if binarize is None else numbers >= binarize
    return right.astype(np.uint8), gaps(observed)


def unexpected(values: Sequence[Any], column: str, *, where: str = "") -> str:
    """The message for cells that are neither 0 nor 1 nor missing."""
    some = list(dict.fromkeys(values))
    shown = ", ".join(f"{value:g}" if isinstance(value, float) else f"{value!r:.40}" for value in some[:3])
    more = ", ..." if len(some) > 3 else ""
    scores = all(isinstance(value, float) and np.isfinite(value) for value in some)
    remedy = "scores need binarize=threshold" if scores else "cells must be 0, 1, true, false or empty"
    place = f" ({where})" if where else ""
    return f"responses: expected values in {{0, 1, NaN}}, got {{{shown}{more}}} in column {column!r}{place}; {remedy}"


def numbers_of_words(cells: Sequence[Any], column: str, *, where: str = "") -> np.ndarray:
    """Cells of a column as float64: numbers, booleans, None, and the words true, false, nan, na and nothing.

    Raises:
        ValueError: any other word.
    """
    known: dict[Any, float] = {}
    numbers, wrong = np.empty(len(cells)), []
    for row, cell in enumerate(cells):
        if cell not in known:
            known[cell] = _number(cell)
        numbers[row] = known[cell]
        if numbers[row] == -np.inf:
            wrong.append(cell)
    if wrong:
        raise ValueError(unexpected(wrong, column, where=where))
    return numbers


def _number(cell: Any) -> float:
    """The number that a cell means; minus infinity where it means none."""
    if cell is None or cell is np.ma.masked:
        return np.nan
    try:
        word = cell.strip().lower() if isinstance(cell, str) else cell
        return _WORDS[word] if isinstance(word, str) and word in _WORDS else float(word)
    except (TypeError, ValueError):
        return np.nan if str(cell) == "<NA>" else -np.inf


def frame_numbers(frame: pd.DataFrame, *, where: str = "") -> np.ndarray:
    """The cells of a DataFrame as float64 with NaN, (rows, columns).

    Raises:
        ValueError: a word that means no number.
    """
    numbers = np.empty(frame.shape)
    plain = np.array([getattr(dtype, "kind", "O") in "biuf" for dtype in frame.dtypes.tolist()], dtype=bool)
    if plain.any():
        numbers[:, plain] = frame.loc[:, plain].to_numpy(dtype=np.float64, na_value=np.nan)
    for position in np.flatnonzero(~plain).tolist():
        column = frame.iloc[:, position]
        numbers[:, position] = numbers_of_words(column.tolist(), str(frame.columns[position]), where=where)
    return numbers


def array_numbers(y: Any) -> np.ndarray:
    # A torch tensor, on whatever device, has these two; importing torch to ask would cost a second.
    if hasattr(y, "detach") and hasattr(y, "cpu"):
        y = y.detach().cpu().numpy()
    try:
        return np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"responses: expected numbers 0, 1 and NaN, got {type(y).__name__} of something else"
        ) from None


def masked(numbers: np.ndarray, mask: Any) -> np.ndarray:
    if mask is None:
        return numbers
    keep = np.asarray(mask.detach().cpu().numpy() if hasattr(mask, "detach") else mask)
    if keep.dtype != bool or keep.shape != numbers.shape:
        raise ValueError(
            f"mask: expected bool of shape {numbers.shape} (True: observed), got {keep.dtype} of shape {keep.shape}"
        )
    return np.where(keep, numbers, np.nan)


def gaps(observed: np.ndarray | None) -> np.ndarray | None:
    """None where nothing is missing."""
    return None if observed is None or observed.all() else np.ascontiguousarray(observed)
