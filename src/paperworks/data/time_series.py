"""Labelled time series from files: `.ts` (the UEA archive's text format), `.npz`, or a long csv.

Series may have unequal lengths and times of their own: they are padded, and a mask says what was observed. A value is
missing where a `.ts` file has `?` or a table has an empty cell; a step of which only some channels are there is an
error,
since a mask over steps could not say so.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paperworks.data.benchmarks import benchmark_content
from paperworks.data.errors import DataCorrupt, DataError, DataMissing
from paperworks.data.tables import read_table, row_name

FORMATS = ".ts, .ts.gz, .npz, .csv, .tsv, .jsonl, .parquet"
UEA = "uea_time_series"
UEA_SETS = ("JapaneseVowels", "BasicMotions")


@dataclass(frozen=True)
class TimeSeries:
    """Labelled series.

    Attributes:
        name: where they come from.
        x: (n, length, channels) float32; 0 where not observed.
        mask: (n, length), True = observed.
        labels: (n,) index into `classes`.
        classes: names of the labels.
        times: (length,) common to all, (n, length), or None: 0, 1, 2, ...
        split: (n,) "train" or "test".
    """

    name: str
    x: NDArray[np.float32]
    mask: NDArray[np.bool_]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    times: NDArray[np.float64] | None = None
    split: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        count, length, channels = self.x.shape
        return f"{count} series of up to {length} steps, {channels} channels, {len(self.classes)} classes"

    @property
    def fingerprint(self) -> str:
        """A hash of all that was read."""
        digest = hashlib.sha256("\x1f".join(self.classes).encode())
        for part in (self.x, self.mask, self.labels, self.times, self.split):
            digest.update(b"none" if part is None else np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def part(self, name: str) -> TimeSeries:
        """The series of one split.

        Raises:
            ValueError: there is no split, or none of that name.
        """
        if self.split is None or not np.any(self.split == name):
            known = "no split" if self.split is None else ", ".join(sorted(set(self.split.tolist())))
            raise ValueError(f"split: {self.name} has {known}, got {name!r}")
        return self.select(np.flatnonzero(self.split == name))

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> TimeSeries:
        """Some of the series, in the order given."""
        index = np.asarray(rows)
        own = self.times[index] if self.times is not None and self.times.ndim == 2 else self.times
        split = None if self.split is None else self.split[index]
        return replace(self, x=self.x[index], mask=self.mask[index], labels=self.labels[index], times=own, split=split)

    def with_split(self, *, test: float, seed: int) -> TimeSeries:
        """A split drawn class by class.

        Raises:
            DataError: a class has fewer than 4 series.
        """
        rng = np.random.default_rng(seed)
        split = np.full(len(self), "train")
        for label, name in enumerate(self.classes):
            rows = np.flatnonzero(self.labels == label)
            if len(rows) < 4:
                raise DataError(f"{self.name}: class {name!r} has {len(rows)} series; at least 4 are needed to test")
            split[rng.permutation(rows)[: max(1, round(test * len(rows)))]] = "test"
        return replace(self, split=split)

    def standardised(self) -> TimeSeries:
        """Every channel with mean 0 and spread 1 over the observed train steps (all, without a split)."""
        train = np.ones(len(self), dtype=bool) if self.split is None else self.split == "train"
        seen = self.x[train][self.mask[train]]
        spread = seen.std(axis=0)
        x = (self.x - seen.mean(axis=0)) / np.where(spread > 0, spread, 1)
        return replace(self, x=np.where(self.mask[..., None], x, 0).astype(np.float32))


def read_time_series(source: str | os.PathLike[str], *, columns: Mapping[str, str] | None = None) -> TimeSeries:
    """Read labelled series from a file.

    Args:
        source: `.ts` or `.ts.gz`; `.npz` with `x (n, length, channels)`, `y (n,)` and maybe `mask (n, length)` and
            `times (length,)` or `(n, length)`; or a table in long form, one row a step, with the columns `id`, `time`,
            `label` and one per channel.
        columns: names in the table by role, e.g. `{"id": "patient", "label": "outcome"}`.

    Raises:
        DataMissing: no such file.
        DataError: another ending, or content that does not fit; the message names file and row.
    """
    path = Path(source)
    ending = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    if ending.lower() in (".ts", ".ts.gz", ".npz"):
        if columns:
            raise ValueError(f"columns: {ending} files have no columns to rename, got {dict(columns)}")
        if not path.is_file():
            raise DataMissing(f"{path}: no such file; check the path (the current folder is {Path.cwd()})")
        return _read_npz(path) if ending.lower() == ".npz" else _parse_ts(str(path), _text(path))
    if ending.lower() not in FORMATS.split(", "):
        raise DataError(f"{path}: cannot read time series from {ending!r}; expected one of {FORMATS}")
    return _read_long(path, columns)


def uea_series(name: str) -> TimeSeries:
    """A set of the UEA archive with its own split: JapaneseVowels (270 train, 370 test) or BasicMotions (40, 40).

    Raises:
        ValueError: another name.
        DataMissing, DataCorrupt: as `benchmark_file`.
    """
    if name not in UEA_SETS:
        raise ValueError(f"name: expected one of {', '.join(UEA_SETS)}, got {name!r}")
    files = [f"{name}_{part}.ts" for part in ("TRAIN", "TEST")]
    return _join(name, *(_parse_ts(file, benchmark_content(UEA, file).decode("utf-8")) for file in files))


def _text(path: Path) -> str:
    content = _unpacked(path) if path.suffix == ".gz" else path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line}: not UTF-8; save the file as UTF-8") from None


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise DataCorrupt(f"{path}: not a whole gzip file ({error}); copy it again") from None


def _join(name: str, train: TimeSeries, test: TimeSeries) -> TimeSeries:
    if train.classes != test.classes or train.x.shape[2] != test.x.shape[2]:
        raise DataError(f"{name}: train and test differ in classes or channels")
    length = max(train.x.shape[1], test.x.shape[1])
    grown = [_grow(part, length) for part in (train, test)]
    return TimeSeries(
        name,
        np.concatenate([part.x for part in grown]),
        np.concatenate([part.mask for part in grown]),
        np.concatenate([part.labels for part in grown]),
        train.classes,
        split=np.repeat(["train", "test"], [len(train), len(test)]),
    )


def _grow(series: TimeSeries, length: int) -> TimeSeries:
    more = length - series.x.shape[1]
    return replace(
        series, x=np.pad(series.x, ((0, 0), (0, more), (0, 0))), mask=np.pad(series.mask, ((0, 0), (0, more)))
    )


# .ts -----------------------------------------------------------------------------------------------------------------


def _parse_ts(name: str, text: str) -> TimeSeries:
    """Headers begin with @, comments with #; a data line is `channel:channel:...:label`, values between commas."""
    classes: tuple[str, ...] | None = None
    in_data = False
    series, labels = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{name}: line {number}"
        if line.startswith("@"):
            in_data = in_data or line.lower() == "@data"
            classes = _ts_header(where, line) or classes
            continue
        if not in_data:
            raise DataError(f"{where}: a data line before @data; expected headers that begin with @")
        if classes is None:
            raise DataError(f"{where}: data without class labels; expected '@classLabel true <names>' in the header")
        *channels, label = line.split(":")
        if label.strip() not in classes:
            raise DataError(f"{where}: label {label.strip()!r} is none of {', '.join(classes)}")
        series.append(_ts_series(where, channels))
        labels.append(classes.index(label.strip()))
    if not series or classes is None:
        raise DataError(f"{name}: no data lines; expected '@data' and then one line per series")
    widths = [values.shape[1] for values in series]
    if len(set(widths)) > 1:
        odd = next(index for index, width in enumerate(widths) if width != widths[0])
        raise DataError(f"{name}: series {odd + 1} has {widths[odd]} channels, the first one {widths[0]}")
    x, mask = _pad(name, series)
    return TimeSeries(name, x, mask, np.array(labels), classes)


def _ts_header(where: str, line: str) -> tuple[str, ...] | None:
    """The class names, where the line has them."""
    key, *rest = line.split()
    if key.lower() == "@timestamps" and rest and rest[0].lower() == "true":
        raise DataError(
            f"{where}: time stamps inside of .ts files are not read; use a table with id,time,label,channels"
        )
    if key.lower() != "@classlabel" or not rest or rest[0].lower() != "true":
        return None
    return tuple(rest[1:])


def _ts_series(where: str, channels: list[str]) -> NDArray[np.float64]:
    """(length, channels); NaN where the file has `?`."""
    columns = []
    for number, channel in enumerate(channels, start=1):
        cells = [cell.strip() for cell in channel.split(",")]
        try:
            columns.append([np.nan if cell == "?" else float(cell) for cell in cells])
        except ValueError:
            bad = next(cell for cell in cells if cell != "?" and not _is_number(cell))
            raise DataError(f"{where}: channel {number}: {bad!r} is no number") from None
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        raise DataError(
            f"{where}: its channels have {', '.join(map(str, sorted(lengths)))} values; expected one length"
        )
    return np.array(columns).T


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _pad(name: str, series: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Padded values, 0 where not observed, and the mask."""
    length = max(len(values) for values in series)
    x = np.full((len(series), length, series[0].shape[1]), np.nan)
    for row, values in enumerate(series):
        x[row, : len(values)] = values
    seen: Any = np.isfinite(x).any(axis=2)
    return _observed(name, x, seen)


def _observed(
    name: str, x: NDArray[np.float64], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Check that observed steps are whole and that every series has one."""
    broken = mask & ~np.isfinite(x).all(axis=2)
    if broken.any():
        row, step = np.argwhere(broken)[0].tolist()
        channel = int(np.flatnonzero(~np.isfinite(x[row, step]))[0]) + 1
        raise DataError(
            f"{name}: series {row + 1}, step {step + 1}: channel {channel} is {x[row, step, channel - 1]} while others "
            "are there; fill it in, or leave out the step"
        )
    if not mask.any(axis=1).all():
        raise DataError(f"{name}: series {int(np.argmin(mask.any(axis=1))) + 1} is observed nowhere; leave it out")
    return np.where(mask[..., None], x, 0).astype(np.float32), mask


# .npz ----------------------------------------------------------------------------------------------------------------


def _read_npz(path: Path) -> TimeSeries:
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays: dict[str, Any] = {key: content[key] for key in content.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a NumPy archive of plain arrays ({error}); write it with np.savez") from None
    for key in ("x", "y"):
        if key not in arrays:
            raise DataError(
                f"{path}: no array {key!r} (has {', '.join(arrays) or 'none'}); expected x (n, length, c), y (n,)"
            )
    x, y = arrays["x"], arrays["y"]
    if x.ndim != 3 or not np.issubdtype(x.dtype, np.number) or min(x.shape) < 1:
        raise DataError(f"{path}: x: expected numbers (n, length, channels), got {x.dtype} {x.shape}")
    if y.shape != (len(x),):
        raise DataError(f"{path}: y: expected ({len(x)},), one label per series of x, got {y.shape}")
    mask: Any = arrays.get("mask", np.isfinite(x).any(axis=2))
    if mask.shape != x.shape[:2] or mask.dtype != bool:
        raise DataError(f"{path}: mask: expected bool {x.shape[:2]}, True = observed, got {mask.dtype} {mask.shape}")
    x, mask = _observed(str(path), x.astype(np.float64), mask)
    classes, labels = np.unique(y.astype(str), return_inverse=True)
    times = arrays.get("times")
    if times is not None:
        times = _check_times(str(path), times.astype(np.float64), mask)
    return TimeSeries(str(path), x, mask, labels.astype(np.int64), tuple(classes.tolist()), times)


def _check_times(name: str, times: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    if times.shape not in (mask.shape, mask.shape[1:]):
        raise DataError(f"{name}: times: expected {mask.shape[1:]} or {mask.shape}, got {times.shape}")
    for row, seen in enumerate(mask):
        own = times if times.ndim == 1 else times[row][seen]
        if not (np.isfinite(own).all() and (np.diff(own) > 0).all()):
            raise DataError(f"{name}: times: those of series {row + 1} do not increase; sort its steps by time")
    return times


# Long tables ---------------------------------------------------------------------------------------------------------


def _read_long(path: Path, columns: Mapping[str, str] | None) -> TimeSeries:
    roles = ("id", "time", "label")
    if unknown := set(columns or ()) - set(roles):
        raise ValueError(f"columns: expected some of {', '.join(roles)}, got {sorted(unknown)[0]!r}")
    frame = read_table(path, columns=columns, required=roles, text=("id", "label"))
    channels = [name for name in frame.columns if name not in roles]
    if not channels:
        raise DataError(f"{path}: no channel beside id, time and label; expected at least one column of numbers")
    for name in ("time", *channels):
        _check_numbers(path, frame, name)
    for name in ("id", "label"):
        if frame[name].isna().any():
            at = int(frame[name].isna().to_numpy().argmax())
            raise DataError(f"{path}: {row_name(frame, at)}: no {name}")
    values, clock = frame[channels].to_numpy(float), frame["time"].to_numpy(float)
    series, times, labels = [], [], []
    for key, places in frame.reset_index(drop=True).groupby("id", sort=False).indices.items():
        _check_one_series(path, frame, str(key), places, clock)
        series.append(values[places])
        times.append(clock[places])
        labels.append(frame["label"].iloc[places[0]])
    classes, index = np.unique(np.array(labels, dtype=str), return_inverse=True)
    x, mask = _pad(str(path), series)
    return TimeSeries(str(path), x, mask, index.astype(np.int64), tuple(classes.tolist()), _common(times, mask.shape))


def _check_numbers(path: Path, frame: Any, name: str) -> None:
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(frame[name]):
        cells = frame[name]
        at = next(index for index, cell in enumerate(cells) if pd.notna(cell) and not _is_number(str(cell)))
        raise DataError(f"{path}: {row_name(frame, at)}: column {name!r}: {cells.iloc[at]!r} is no number")
    if name == "time" and frame[name].isna().any():
        raise DataError(f"{path}: {row_name(frame, int(frame[name].isna().to_numpy().argmax()))}: no time")


def _check_one_series(path: Path, frame: Any, key: str, places: NDArray[np.int64], clock: NDArray[np.float64]) -> None:
    labels = frame["label"].to_numpy()[places]
    if (labels != labels[0]).any():
        at = int(places[int(np.argmax(labels != labels[0]))])
        raise DataError(
            f"{path}: {row_name(frame, at)}: series {key!r} is labelled {labels[0]!r} before; it has one label"
        )
    back = np.flatnonzero(np.diff(clock[places]) <= 0)
    if len(back):
        at = int(places[back[0] + 1])
        raise DataError(
            f"{path}: {row_name(frame, at)}: the times of series {key!r} do not increase; sort its rows by time"
        )


def _common(times: Sequence[NDArray[np.float64]], shape: tuple[int, ...]) -> NDArray[np.float64]:
    if all(len(own) == shape[1] and np.array_equal(own, times[0]) for own in times):
        return times[0]
    padded = np.zeros(shape)
    for row, own in enumerate(times):
        # Increasing beyond the end as well; the mask says that nothing was observed there.
        padded[row] = np.concatenate([own, own[-1] + np.arange(1, shape[1] - len(own) + 1)])
    return padded
