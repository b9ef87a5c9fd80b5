"""Where the results of a run live: one atomic JSON file per finished trial, and nothing else is the truth.

A trial's scalars are in `trial-<key>.json`; its arrays, where it has any, in `trial-<key>.npz`, written first, so that
a JSON file always speaks of arrays that are there. Whoever runs a trial holds a lock on `trial-<key>.lock`; the
kernel releases it when the process dies, however it dies, so a killed run leaves nothing to clean up.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paperworks._files import atomic_file, write_atomic


def canonical_json(value: Any) -> str:
    """One spelling per value: sorted keys, no spaces, NumPy scalars as numbers, tuples as lists."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a trial's description: {value!r}")


def trial_key(**parts: Any) -> str:
    """The name of a trial: a hash of everything that decides its result."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Record:
    """One finished trial."""

    key: str
    slug: str
    point: Mapping[str, Any]
    seed: int
    values: Mapping[str, Any]
    seconds: float
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    environment: Mapping[str, Any] = field(default_factory=dict)


class Store:
    """The folder of one run.

    Raises:
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self.folder, os.W_OK):
            raise PermissionError(f"{self.folder}: not writable; choose another folder with --store")

    def path(self, key: str, suffix: str = ".json") -> Path:
        return self.folder / f"trial-{key}{suffix}"

    def files(self, key: str) -> Path:
        """A folder in which this trial may keep files (checkpoints, predictions)."""
        return self.path(key, ".files")

    def save(self, record: Record) -> None:
        """Keep a finished trial; arrays among its values go to an `.npz` beside it."""
        arrays = {name: value for name, value in record.values.items() if isinstance(value, np.ndarray)}
        scalars = {name: _scalar(name, value) for name, value in record.values.items() if name not in arrays}
        if arrays:
            self._save_arrays(record.key, arrays)
        content = asdict(record) | {"values": scalars, "arrays": sorted(arrays)}
        write_atomic(self.path(record.key), json.dumps(content, indent=1, sort_keys=True, default=_plain))

    def _save_arrays(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        with atomic_file(self.path(key, ".npz")) as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)

    def load(self, key: str) -> Record | None:
        """The finished trial of this key, or None; a file that cannot be read counts as not finished."""
        try:
            content = json.loads(self.path(key).read_text())
            values = dict(content["values"])
            if names := content.pop("arrays"):
                with np.load(self.path(key, ".npz"), allow_pickle=False) as arrays:
                    values |= {name: arrays[name] for name in names}
        except (FileNotFoundError, json.JSONDecodeError, KeyError, ValueError, OSError):
            return None
        return Record(**(content | {"values": values}))

    def __contains__(self, key: str) -> bool:
        return self.path(key).exists()

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the right to run a trial; waits while another process runs the same one."""
        path = self.path(key, ".lock")
        while True:
            with path.open("a") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                # The one before us removed the file it held: what we locked is no longer what others would lock.
                if not _is_still(path, stream.fileno()):
                    continue
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one that the path names now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _scalar(name: str, value: Any) -> Any:
    if isinstance(value, (bool, int, float, str, np.generic)) or value is None:
        return value
    raise TypeError(f"trial value {name!r}: expected a number, text or NumPy array, got {type(value).__name__}")
