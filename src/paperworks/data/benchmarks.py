"""Benchmark files by name and checksum: never a byte other than the one the results were measured on.

Each data set has one TOML file in `registry/`: licence, citation, and for each file its path, length, SHA-256 and
address. A file is looked for in `$PAPERWORKS_DATA/<data set>/<path>`, then in the user's cache, and then fetched into
it with `pooch`. Whatever is found is checked before it is handed out. Where only a file's content is asked for, a copy
packed with gzip (`<path>.gz`) does as well.
"""

from __future__ import annotations

import fnmatch
import functools
import gzip
import hashlib
import os
import tomllib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paperworks.data.errors import DataCorrupt, DataError, DataMissing

REGISTRY = Path(__file__).parent / "registry"


@dataclass(frozen=True)
class BenchmarkFile:
    """One file: where it comes from (`url` None: made by hand, only in a folder) and what it must be.

    `members` gives, for an archive, patterns of the names inside and how many members each matches.
    """

    path: str
    bytes: int
    sha256: str
    url: str | None = None
    members: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """A data set of the registry."""

    name: str
    title: str
    licence: str
    citation: str
    used_by: tuple[str, ...]
    files: tuple[BenchmarkFile, ...]


@dataclass(frozen=True)
class FileStatus:
    """What `verify_benchmark` found for one file; `path` is None where it is missing, `detail` says what is wrong."""

    file: str
    state: Literal["ok", "missing", "corrupt"]
    path: Path | None
    detail: str = ""


def list_benchmarks() -> tuple[Benchmark, ...]:
    """All data sets of the registry, by name."""
    return tuple(_registry(REGISTRY).values())


def benchmark_file(dataset: str, file: str) -> Path:
    """The path of a checked file of a data set, fetched if need be.

    Args:
        dataset: a name of `list_benchmarks()`, such as `"sst2"`.
        file: the file's path in the data set, such as `"train.tsv"`.

    Raises:
        ValueError: no such data set or file in the registry.
        DataMissing: it is not here and cannot be fetched; says where to put it.
        DataCorrupt: what is here, or what was fetched, is not the file it should be.
    """
    entry = _entry(dataset, file)
    for folder in _folders(dataset):
        path = folder / entry.path
        if path.is_file():
            _check(path, entry)
            return path
    return _fetch(dataset, entry)


def benchmark_content(dataset: str, file: str) -> bytes:
    """The content of a checked file of a data set; a gzip-compressed copy beside its place serves too.

    Raises:
        ValueError, DataMissing, DataCorrupt: as `benchmark_file`.
    """
    entry = _entry(dataset, file)
    for folder in _folders(dataset):
        plain, packed = folder / entry.path, folder / f"{entry.path}.gz"
        if not plain.is_file() and packed.is_file():
            return _unpacked(packed, entry)
    return benchmark_file(dataset, file).read_bytes()


def benchmark_folder(dataset: str, files: Sequence[str] | None = None) -> Path:
    """The folder that holds the given files of a data set (default: all), each of them checked.

    Raises:
        ValueError, DataMissing, DataCorrupt: as `benchmark_file`; DataMissing also where the files are spread over
            two folders.
    """
    wanted = [entry.path for entry in _benchmark(dataset).files] if files is None else list(files)
    if not wanted:
        raise ValueError(f"files: expected at least one file of {dataset!r}, got none")
    folders = {Path(str(benchmark_file(dataset, file)).removesuffix(file)): file for file in wanted}
    if len(folders) > 1:
        spread = "; ".join(f"{file} in {folder}" for folder, file in folders.items())
        raise DataMissing(f"{dataset}: the files lie in different folders ({spread}); put all of them into one")
    return next(iter(folders))


def benchmark_members(dataset: str, file: str, pattern: str) -> dict[str, bytes]:
    """The members of a zip archive whose names match a pattern of its registry entry, by name in sorted order.

    Raises:
        ValueError, DataMissing, DataCorrupt: as `benchmark_file`, and where the archive holds another number of
            members than the registry says.
    """
    counts = dict(_entry(dataset, file).members)
    if pattern not in counts:
        raise ValueError(f"pattern: {file} of {dataset!r} has {', '.join(counts) or 'no members'}, got {pattern!r}")
    path = benchmark_file(dataset, file)
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in sorted(fnmatch.filter(archive.namelist(), pattern))}
    if len(found) != counts[pattern]:
        raise DataCorrupt(f"{path}: {len(found)} members match {pattern}, expected {counts[pattern]}")
    return found


def verify_benchmark(dataset: str) -> tuple[FileStatus, ...]:
    """The state of every file of a data set on this machine; fetches nothing.

    Raises:
        ValueError: no such data set.
    """
    return tuple(_status(dataset, entry) for entry in _benchmark(dataset).files)


def cache_folder() -> Path:
    """Where fetched files are kept, `$XDG_CACHE_HOME/paperworks` or what this system has in its place."""
    import pooch

    return Path(pooch.os_cache("paperworks"))


def _status(dataset: str, entry: BenchmarkFile) -> FileStatus:
    for folder in _folders(dataset):
        for path, check in ((folder / entry.path, _check), (folder / f"{entry.path}.gz", _unpacked)):
            if path.is_file():
                try:
                    check(path, entry)
                except DataCorrupt as error:
                    return FileStatus(entry.path, "corrupt", path, str(error))
                return FileStatus(entry.path, "ok", path)
    return FileStatus(entry.path, "missing", None, _where_to_put(dataset, entry))


@functools.cache
def _registry(folder: Path) -> dict[str, Benchmark]:
    return {path.stem: _parse(path) for path in sorted(folder.glob("*.toml"))}


def _parse(path: Path) -> Benchmark:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    files = tuple(_parse_file(entry) for entry in content.pop("file"))
    benchmark = Benchmark(**(content | {"files": files, "used_by": tuple(content["used_by"])}))
    if benchmark.name != path.stem:
        raise DataError(f"{path}: name is {benchmark.name!r}, expected {path.stem!r}")
    return benchmark


def _parse_file(entry: dict[str, Any]) -> BenchmarkFile:
    members = tuple((member["pattern"], member["count"]) for member in entry.pop("members", ()))
    return BenchmarkFile(**entry, members=members)


def _benchmark(dataset: str) -> Benchmark:
    known = _registry(REGISTRY)
    if dataset not in known:
        raise ValueError(f"dataset: expected one of {', '.join(known)}, got {dataset!r}")
    return known[dataset]


def _entry(dataset: str, file: str) -> BenchmarkFile:
    entries = {entry.path: entry for entry in _benchmark(dataset).files}
    if file not in entries:
        raise ValueError(f"file: {dataset!r} has {', '.join(entries)}, got {file!r}")
    return entries[file]


def _folders(dataset: str) -> list[Path]:
    """Where to look, first to last."""
    folders = [cache_folder() / dataset]
    if own := os.environ.get("PAPERWORKS_DATA"):
        if not Path(own).is_dir():
            raise DataMissing(f"PAPERWORKS_DATA: {own!r} is no folder; correct the variable or unset it")
        folders.insert(0, Path(own) / dataset)
    return folders


def _check(path: Path, entry: BenchmarkFile) -> None:
    """Raise DataCorrupt unless the file has the length and the hash of the registry."""
    size = path.stat().st_size
    if size != entry.bytes:
        problem = f"{size:,} bytes, expected {entry.bytes:,}"
    else:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest == entry.sha256:
            return
        problem = f"sha256 {digest}, expected {entry.sha256}"
    remedy = f"delete it and fetch it again from {entry.url}" if entry.url else "copy it again from where it came"
    raise DataCorrupt(f"{path}: {problem}; {remedy}")


def _unpacked(path: Path, entry: BenchmarkFile) -> bytes:
    """The content of a packed copy; raise DataCorrupt unless it is the registered one."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataCorrupt(f"{path}: not a whole gzip file ({error}); copy it again") from None
    if (digest := hashlib.sha256(content).hexdigest()) != entry.sha256:
        raise DataCorrupt(f"{path}: its content has sha256 {digest}, expected {entry.sha256}; copy it again")
    return content


def _fetch(dataset: str, entry: BenchmarkFile) -> Path:
    import pooch

    if entry.url is None:
        raise DataMissing(_where_to_put(dataset, entry))
    target = cache_folder() / dataset / entry.path
    try:
        pooch.retrieve(entry.url, known_hash=f"sha256:{entry.sha256}", fname=target.name, path=target.parent)
    except OSError as error:
        raise DataMissing(f"{_where_to_put(dataset, entry)} (fetching it failed: {error})") from error
    except ValueError as error:
        raise DataCorrupt(f"{dataset}: what {entry.url} sent is not {entry.path} as registered: {error}") from error
    return target


def _where_to_put(dataset: str, entry: BenchmarkFile) -> str:
    place = f"set PAPERWORKS_DATA to a folder in which it is {dataset}/{entry.path}"
    if entry.url is None:
        return f"{dataset}: {entry.path} is not on this machine and has no address to fetch it from; {place}"
    return f"{dataset}: {entry.path} is not on this machine; fetch {entry.url}, or {place}"
