"""Running a study: which trials are missing, running them, and reading the table of all that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import pandas as pd

from paperworks._files import atomic_file
from paperworks.lab.backends import BACKENDS
from paperworks.lab.store import Record, Store
from paperworks.lab.study import Loaded, Study
from paperworks.lab.trials import Limits, Outcome, Task, task_key


@dataclass(frozen=True)
class Plan:
    """All trials of a run, in order. `finished`: keys that the store has already."""

    tasks: tuple[Task, ...]
    finished: frozenset[str]

    @property
    def missing(self) -> tuple[Task, ...]:
        return tuple(task for task in self.tasks if task.key not in self.finished)


def make_plan(
    study: Study,
    config: Any,
    loaded: Loaded,
    seeds: Sequence[int],
    store: Store,
    *,
    extra_points: Sequence[dict[str, Any]] = (),
    limits: Limits = Limits(),
) -> Plan:
    """Lay out the grid, find what is done, and put the data where workers read it.

    Seeds vary slowest, so that a run that is stopped early has complete seeds.
    """
    data = _keep_data(loaded, store)
    points = [*study.points(config, loaded.data), *extra_points]
    tasks = []
    for seed in seeds:
        for point in points:
            if seed != seeds[0] and study.once(point):
                continue
            key = task_key(study, config, point, seed, loaded.fingerprint)
            tasks.append(Task(study, config, point, seed, key, str(store.folder), data, limits))
    keys = [task.key for task in tasks]
    if len(set(keys)) < len(keys):
        raise ValueError(f"{study.slug}: the study lists a point or seed twice")
    return Plan(tuple(tasks), frozenset(key for key in keys if store.load(key) is not None))


def _keep_data(loaded: Loaded, store: Store) -> str:
    path = store.folder / f"data-{loaded.fingerprint[:16]}.joblib"
    if not path.exists():
        with atomic_file(path) as stream:
            joblib.dump(loaded.data, stream)
    return str(path)


def run_plan(
    plan: Plan, *, jobs: int, backend: str = "processes", alone: Callable[[Task], bool] = lambda task: False
) -> Iterator[Outcome]:
    """Run what is missing: first all that may share the machine, then, one at a time, the trials that measure time.

    Raises:
        ValueError: unknown backend, or fewer than one job.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    if jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}")
    together = [task for task in plan.missing if not alone(task)]
    apart = [task for task in plan.missing if alone(task)]
    if together:
        yield from BACKENDS[backend](together, jobs)
    if apart:
        yield from BACKENDS[backend](apart, 1)


def read_frame(plan: Plan, store: Store) -> pd.DataFrame:
    """One row per finished trial: the point's fields, `seed`, the measured columns, `seconds` and `key`."""
    records = [record for task in plan.tasks if (record := store.load(task.key)) is not None]
    return pd.DataFrame([_row(record) for record in records])


def _row(record: Record) -> dict[str, Any]:
    measured = {"seconds": record.seconds, "cpu_seconds": record.cpu_seconds, "peak_bytes": record.peak_bytes}
    return {**record.point, "seed": record.seed, **measured, **record.values, "key": record.key}
