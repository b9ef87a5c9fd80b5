"""Recorded trajectories: sequences of observations, one an episode, from whatever file they are kept in.

Readers: npz in the layout of the `imitation` package (`obs`, `terminal`, `indices`), npz or npy with one array an
episode, hdf5 in the layout of D4RL, a local Minari folder, and tables with an `episode` column and one column a
dimension. Actions and rewards are never read, even where they are present. Episodes are checked at the door, so that a
transition never crosses from one to the next.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paperworks.data.errors import DataError
from paperworks.data.hdf5 import open_hdf5


@dataclass(frozen=True)
class Trajectories:
    """Episodes of observations.

    Attributes:
        observations: one float32 array (steps + 1, d) an episode.
        terminal: (episodes,), whether an episode ended by itself; False: it was cut off, by a time limit for instance.
        columns: names of the d dimensions.
        labels: names of the episodes.
    """

    observations: tuple[NDArray[np.float32], ...]
    terminal: NDArray[np.bool_]
    columns: tuple[str, ...]
    labels: tuple[str, ...]

    @classmethod
    def from_arrays(
        cls,
        observations: Iterable[ArrayLike],
        *,
        terminal: ArrayLike | None = None,
        columns: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
        name: str = "trajectories",
    ) -> Self:
        """From one array (steps + 1, d) an episode.

        Raises:
            DataError: no episode, fewer than two observations in one, unequal dimensions, values that are not finite;
                the message names episode, step and dimension.
        """
        arrays = [np.asarray(episode) for episode in observations]
        if not arrays:
            raise DataError(f"{name}: holds no episode")
        names = tuple(labels) if labels is not None else tuple(map(str, range(len(arrays))))
        dim = _dimension(name, arrays, names)
        titles = tuple(columns) if columns is not None else tuple(f"x{index}" for index in range(dim))
        if len(titles) != dim or len(names) != len(arrays):
            raise DataError(
                f"{name}: expected {dim} columns and {len(arrays)} labels, got {len(titles)} and {len(names)}"
            )
        checked = tuple(_finite(name, episode, label, titles) for episode, label in zip(arrays, names, strict=True))
        ended = np.zeros(len(arrays), bool) if terminal is None else np.asarray(terminal).astype(bool)
        if ended.shape != (len(arrays),):
            raise DataError(f"{name}: terminal needs one value for each of {len(arrays)} episodes, got {ended.shape}")
        return cls(checked, ended, titles, names)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> Self:
        """From a file or folder; its ending says what it is.

        Raises:
            DataError: nothing readable, or not of the form asked for.
        """
        source = Path(path)
        if not source.exists():
            raise DataError(f"{source}: no such file or folder")
        suffix = source.suffix.lower()
        if source.is_dir():
            return cls.from_arrays(**_minari(source))
        if suffix == ".npz":
            return cls.from_arrays(**_npz(source))
        if suffix == ".npy":
            return cls.from_arrays(_rectangular(source, _load(source)), name=str(source))
        if suffix in (".hdf5", ".h5"):
            return cls.from_arrays(**_d4rl(source))
        if suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
            return cls.from_arrays(**_table(source))
        raise DataError(f"{source}: expected .npz, .npy, .hdf5, .csv, .tsv, .jsonl, .parquet or a Minari folder")

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def dim(self) -> int:
        return self.observations[0].shape[1]

    @property
    def steps(self) -> int:
        """Transitions in all episodes together."""
        return sum(len(episode) - 1 for episode in self.observations)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for episode in self.observations:
            digest.update(str(episode.shape).encode() + np.ascontiguousarray(episode).tobytes())
        return digest.hexdigest()

    def expect_dim(self, dim: int, *, name: str = "demonstrations", who: str = "environment") -> None:
        """Raise `DataError` unless observations have dimension `dim`, the one `who` expects."""
        for label, episode in zip(self.labels, self.observations, strict=True):
            if episode.shape[1] != dim:
                raise DataError(
                    f"{name}: episode {label} has observation dimension {episode.shape[1]}, {who} expects {dim}"
                )

    def transitions(self, frames: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """All transitions, none across episodes.

        Args:
            frames: observations stacked in the first array, newest last; an episode's first is repeated before it.

        Returns:
            previous (N, frames * d), next (N, d), and the episode's position (N,).
        """
        previous, following, number = [], [], []
        for index, episode in enumerate(self.observations):
            padded = np.concatenate([np.repeat(episode[:1], frames - 1, axis=0), episode])
            count = len(episode) - 1
            previous.append(np.concatenate([padded[shift : shift + count] for shift in range(frames)], axis=1))
            following.append(episode[1:])
            number.append(np.full(count, index))
        return np.concatenate(previous), np.concatenate(following), np.concatenate(number)

    def select(self, positions: Iterable[int]) -> Self:
        """The episodes at these positions."""
        chosen = list(positions)
        return type(self)(
            tuple(self.observations[index] for index in chosen),
            self.terminal[chosen],
            self.columns,
            tuple(self.labels[index] for index in chosen),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write npz in the layout of `imitation` (without actions), readable by `from_path`."""
        from paperworks._files import atomic_file

        lengths = [len(episode) - 1 for episode in self.observations]
        with atomic_file(path) as stream:
            np.savez_compressed(
                stream,
                obs=np.concatenate(self.observations),
                terminal=self.terminal,
                indices=np.cumsum(lengths[:-1]).astype(np.int64),
                columns=np.array(self.columns),
                labels=np.array(self.labels),
            )


def _dimension(name: str, arrays: Sequence[NDArray[Any]], labels: Sequence[str]) -> int:
    for label, episode in zip(labels, arrays, strict=True):
        if episode.ndim != 2 or episode.shape[1] == 0:
            raise DataError(f"{name}: episode {label} has shape {episode.shape}, expected (steps + 1, dimension)")
        if len(episode) < 2:
            raise DataError(f"{name}: episode {label} has {len(episode)} observations, expected at least 2")
        if episode.shape[1] != arrays[0].shape[1]:
            raise DataError(
                f"{name}: episode {label} has observation dimension {episode.shape[1]}, episode {labels[0]} has "
                f"{arrays[0].shape[1]}"
            )
        if not (np.issubdtype(episode.dtype, np.number) or episode.dtype == np.bool_) or np.iscomplexobj(episode):
            raise DataError(f"{name}: episode {label} holds {episode.dtype}, expected real numbers")
    return arrays[0].shape[1]


def _finite(name: str, episode: NDArray[Any], label: str, columns: Sequence[str]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(episode, dtype=np.float32)
    bad = ~np.isfinite(values)
    if bad.any():
        step, dim = np.argwhere(bad)[0].tolist()
        raise DataError(f"{name}: episode {label}, step {step}, dimension {columns[dim]} is {episode[step, dim]}")
    return values


def _load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}); pickled arrays are not accepted") from error


def _npz(path: Path) -> dict[str, Any]:
    content = _load(path)
    try:
        keys = list(content.files)
        if "obs" in keys:
            return _imitation(path, content) | {"name": str(path)}
        if "observations" in keys and ("terminals" in keys or "timeouts" in keys):
            return _flat(str(path), {key: content[key] for key in keys})
        if len(keys) == 1 and content[keys[0]].ndim == 3:
            return {"observations": list(content[keys[0]]), "name": str(path)}
        return {"observations": [content[key] for key in keys], "labels": keys, "name": str(path)}
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read ({error}); pickled arrays are not accepted") from error


def _imitation(path: Path, content: Any) -> dict[str, Any]:
    obs = content["obs"]
    if "indices" not in content.files:
        raise DataError(f"{path}: has obs but no indices, so episodes cannot be told apart")
    # indices count actions; every episode has one observation more than actions.
    indices = np.asarray(content["indices"], dtype=np.int64)
    cuts = indices + np.arange(1, len(indices) + 1)
    if len(cuts) and (np.any(np.diff(np.r_[0, cuts, len(obs)]) < 1)):
        raise DataError(f"{path}: indices {indices.tolist()} do not fit {len(obs)} observations")
    result: dict[str, Any] = {"observations": np.split(obs, cuts)}
    result |= {key: content[key] for key in ("terminal",) if key in content.files}
    return result | {key: [str(v) for v in content[key]] for key in ("columns", "labels") if key in content.files}


def _rectangular(path: Path, array: NDArray[Any]) -> list[NDArray[Any]]:
    if array.ndim != 3:
        raise DataError(f"{path}: expected an array (episodes, steps + 1, dimension), got {array.shape}")
    return list(array)


def _flat(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """D4RL's layout: all steps in a row, an episode ends where `terminals` or `timeouts` is set."""
    obs = np.asarray(content["observations"])
    none = np.zeros(len(obs), bool)
    terminals = np.asarray(content.get("terminals", none)).astype(bool).reshape(-1)
    ends = terminals | np.asarray(content.get("timeouts", none)).astype(bool).reshape(-1)
    if ends.shape != (len(obs),):
        raise DataError(f"{name}: {len(obs)} observations but {len(ends)} terminals or timeouts")
    last = np.flatnonzero(ends).tolist()
    if not last or last[-1] != len(obs) - 1:
        last.append(len(obs) - 1)
    following = content.get("next_observations")
    episodes, terminal, start = [], [], 0
    for end in last:
        episode = obs[start : end + 1]
        if following is not None:
            episode = np.concatenate([episode, np.asarray(following)[end : end + 1]])
        episodes.append(episode)
        terminal.append(bool(terminals[end]))
        start = end + 1
    return {"observations": episodes, "terminal": terminal, "name": name}


def _d4rl(path: Path) -> dict[str, Any]:
    with open_hdf5(path) as file:
        if "observations" not in file:
            raise DataError(f"{path}: has no observations; found {', '.join(sorted(file))}")
        wanted = ("observations", "terminals", "timeouts", "next_observations")
        return _flat(str(path), {key: np.asarray(file[key]) for key in wanted if key in file})


def _minari(folder: Path) -> dict[str, Any]:
    path = folder / "data" / "main_data.hdf5"
    path = path if path.exists() else folder / "main_data.hdf5"
    if not path.exists():
        raise DataError(f"{folder}: is a folder without main_data.hdf5 (a local Minari data set has one)")
    with open_hdf5(path) as file:
        names = sorted(file, key=lambda name: int(name.rsplit("_", 1)[-1]))
        if names and not hasattr(file[names[0]]["observations"], "shape"):
            raise DataError(f"{path}: observations are dictionaries; flatten them before recording")
        episodes = [np.asarray(file[name]["observations"]) for name in names]
        terminal = [bool(np.asarray(file[name]["terminations"])[-1]) for name in names]
    return {"observations": episodes, "terminal": terminal, "labels": names, "name": str(path)}


def _table(path: Path) -> dict[str, Any]:
    from paperworks.data.tables import read_table, row_name

    frame = read_table(path, required=("episode",))
    skipped = {"episode", "step", "time", "reward", "rewards", "terminal", "truncated", "timeout"}
    columns = [name for name in map(str, frame.columns) if name not in skipped and not name.startswith("action")]
    if not columns:
        raise DataError(f"{path}: no column beside {', '.join(map(str, frame.columns))} holds an observation")
    for column in columns:
        if frame[column].dtype.kind not in "fiub":
            raise DataError(f"{path}: column {column!r} holds words, expected numbers ({row_name(frame, 0)})")
    groups = list(frame.groupby("episode", sort=False))
    terminal = [bool(rows["terminal"].iloc[-1]) if "terminal" in rows else False for _, rows in groups]
    return {
        "observations": [rows[columns].to_numpy() for _, rows in groups],
        "terminal": terminal,
        "columns": columns,
        "labels": [str(label) for label, _ in groups],
        "name": str(path),
    }
