"""Running one trial in whatever process it lands in: limits, progress, and an outcome whatever happens."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paperworks.lab.environment import environment
from paperworks.lab.store import Record, Store, trial_key
from paperworks.lab.study import Point, Study, Values

PROGRESS_EVERY = 0.5
RESERVED = {"seed", "seconds", "cpu_seconds", "peak_bytes", "key"}


@dataclass(frozen=True)
class Limits:
    """What a trial may use: wall-clock seconds and GiB of memory beyond what the process had (None: no limit), and the
    GPUs to reserve for it on a cluster."""

    seconds: float | None = None
    gigabytes: float | None = None
    gpus: float = 0.0


@dataclass(frozen=True)
class Task:
    """One trial to run. `data` is a file that the parent wrote; workers read it once."""

    study: Study
    config: Any
    point: Point
    seed: int
    key: str
    folder: str
    data: str
    limits: Limits = Limits()


@dataclass(frozen=True)
class Outcome:
    """What became of a task."""

    key: str
    status: Literal["done", "failed"]
    message: str = ""
    details: str = ""


class TrialTimeout(Exception):
    """A trial used up its seconds."""


def task_key(study: Study, config: Any, point: Point, seed: int, fingerprint: str) -> str:
    """The key of a trial: all that decides its result."""
    return trial_key(
        slug=study.slug,
        version=study.version,
        config=_fields(config),
        point=dict(point),
        seed=seed,
        data=fingerprint,
    )


def _fields(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def execute(task: Task) -> Outcome:
    """Run a trial unless it is finished already, keep its result, and say what happened. Never raises."""
    try:
        store = Store(task.folder)
        with store.lock(task.key):
            if task.key in store and store.load(task.key) is not None:
                return Outcome(task.key, "done")
            return _run(task, store)
    except OSError as error:
        return Outcome(task.key, "failed", _disk_words(error), traceback.format_exc())


def _run(task: Task, store: Store) -> Outcome:
    progress = FileProgress(store, task.key)
    started, cpu = time.perf_counter(), time.process_time()
    try:
        progress(0.0)
        data = load_data(task.data)
        with limited(task.limits):
            values = task.study.trial(task.point, task.seed, task.config, data, progress)
        _check_names(values)
        record = Record(
            key=task.key,
            slug=task.study.slug,
            point=dict(task.point),
            seed=task.seed,
            values=dict(values),
            seconds=time.perf_counter() - started,
            cpu_seconds=time.process_time() - cpu,
            peak_bytes=_peak_bytes(),
            environment=environment(),
        )
        store.save(record)
    except Exception as error:
        return Outcome(task.key, "failed", _words(error, task.limits), traceback.format_exc())
    finally:
        progress.end()
    return Outcome(task.key, "done")


def _check_names(values: Values) -> None:
    """Refuse columns that the laboratory fills itself."""
    if taken := sorted(RESERVED & set(values)):
        raise ValueError(f"trial: the names {', '.join(sorted(RESERVED))} are the laboratory's own, got {taken[0]!r}")


@functools.lru_cache(maxsize=2)
def load_data(path: str) -> Any:
    """The study's data as the parent prepared it."""
    import joblib

    return joblib.load(path)


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class FileProgress:
    """Progress that survives the process: a small file that the parent reads, and that marks a trial as under way."""

    def __init__(self, store: Store, key: str):
        self.folder = store.files(key)
        self.path = store.path(key, ".running")
        self._last = -PROGRESS_EVERY

    def __call__(self, fraction: float, **fields: Any) -> None:
        now = time.monotonic()
        if now - self._last < PROGRESS_EVERY:
            return
        self._last = now
        shown = {name: value if isinstance(value, str) else float(value) for name, value in fields.items()}
        self.path.write_text(json.dumps({"pid": os.getpid(), "fraction": float(fraction), **shown}))

    def end(self) -> None:
        self.path.unlink(missing_ok=True)


def read_progress(path: Path) -> Mapping[str, Any]:
    """What a running trial last said; empty while it is being written."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}


@contextlib.contextmanager
def limited(limits: Limits) -> Iterator[None]:
    """Hold the enclosed block to its seconds and memory (Linux; elsewhere the memory limit is not applied)."""
    with _time_limit(limits.seconds), _memory_limit(limits.gigabytes):
        yield


@contextlib.contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield
        return

    def alarm(signum: int, frame: object) -> None:
        raise TrialTimeout

    previous = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def _memory_limit(gigabytes: float | None) -> Iterator[None]:
    if gigabytes is None or sys.platform != "linux":
        yield
        return
    # RLIMIT_DATA counts what is really allocated; RLIMIT_AS would also count the address space that CUDA reserves.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + int(gigabytes * 2**30), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def _words(error: Exception, limits: Limits) -> str:
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if isinstance(error, TrialTimeout):
        return f"exceeded {limits.seconds:g} seconds"
    if isinstance(error, MemoryError) or "allocate memory" in text or "not enough memory" in text:
        limit = "" if limits.gigabytes is None else f" (limit {limits.gigabytes:g} GiB)"
        return f"out of memory{limit}"
    if isinstance(error, OSError):
        return _disk_words(error)
    return f"{type(error).__name__}: {text}"


def _disk_words(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full; the result could not be kept"
    return f"{type(error).__name__}: {error}"
