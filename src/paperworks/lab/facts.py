"""What a run has to say, as plain data: the same facts feed the report, the stored result and the documentation."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperworks.lab.claim import Finding, Verdict

if TYPE_CHECKING:
    from paperworks.lab.run import Run


def plain(value: Any) -> Any:
    """A value as JSON can hold it: None stands for what is missing or infinite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)) or value is pd.NA or value is pd.NaT:
        return None if value is pd.NA or value is pd.NaT else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (Sequence, np.ndarray, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return str(value)


def verdict_facts(verdict: Verdict) -> dict[str, Any]:
    """A verdict with its findings."""
    return {
        "id": verdict.id,
        "state": verdict.state,
        "leaning": verdict.leaning,
        "reason": verdict.reason,
        "seeds": verdict.seeds,
        "p": plain(verdict.p),
        "post_hoc": verdict.post_hoc,
        "findings": [finding_facts(finding) for finding in verdict.findings],
        "shown": [finding_facts(finding) for finding in verdict.shown],
    }


def finding_facts(finding: Finding) -> dict[str, Any]:
    """A measured condition; None is infinite: one unit has no interval, and some conditions cannot be refuted."""
    interval = finding.interval
    numbers = {
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "at_least": finding.at_least,
        "refuting": finding.refuting,
        "p_holds": finding.p_holds,
        "p_refuted": finding.p_refuted,
    }
    words = {"name": finding.name, "count": int(interval.count), "unit": interval.unit, "method": interval.method}
    return words | {name: plain(value) for name, value in numbers.items()}


def table_facts(frame: pd.DataFrame, caption: str = "") -> dict[str, Any]:
    """A table as columns and rows; an index that means something becomes the first columns."""
    meaningless = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    flat = frame.reset_index(drop=True) if meaningless else frame.reset_index()
    columns = [" ".join(map(str, name)).strip() if isinstance(name, tuple) else str(name) for name in flat.columns]
    rows = [[plain(value) for value in row] for row in flat.itertuples(index=False, name=None)]
    return {"caption": caption, "columns": columns, "rows": rows}


def tables_facts(run: Run) -> dict[str, dict[str, Any]]:
    """The study's tables in the study's order."""
    captions = {table.name: table.caption for table in run.study.tables}
    return {name: table_facts(frame, captions.get(name, "")) for name, frame in run.tables.items()}


def budget_facts(run: Run) -> dict[str, Any] | None:
    return None if run.budget is None else table_facts(run.budget)


def seeds(run: Run) -> list[int]:
    return sorted({task.seed for task in run.plan.tasks})


def command(run: Run) -> str:
    """The command that repeats this run: what decides the result, and nothing of where or how fast it is computed."""
    words = ["paperworks", "run", run.card.slug, "--scale", run.options.scale, "--seeds", str(len(seeds(run)))]
    if seeds(run)[0] != 10:
        words += ["--first-seed", str(seeds(run)[0])]
    if run.request.path is not None:
        words += ["--data", run.request.path]
    if run.request.columns:
        words += ["--columns", ",".join(f"{role}={name}" for role, name in run.request.columns.items())]
    if run.options.baseline is not None:
        words += ["--baseline", run.options.baseline]
    return shlex.join([*words, *_flags(run.study.config(run.options.scale), run.config)])


def _flags(default: Any, config: Any) -> Iterator[str]:
    """The settings that differ from the scale's, as flags."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == getattr(default, field.name):
            continue
        name = field.name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        else:
            yield f"--{name}"
            yield from map(str, value if isinstance(value, (tuple, list)) else [value])


def environments(run: Run) -> dict[str, str]:
    """What the trials were computed with. A field on which they differ names all its values."""
    seen: dict[str, dict[str, None]] = {}
    for task in run.plan.tasks:
        try:
            noted = json.loads(run.store.path(task.key).read_text())["environment"]
        except (OSError, json.JSONDecodeError, KeyError):
            continue
        for name, value in noted.items():
            seen.setdefault(name, {})[str(value)] = None
    return {name: ", ".join(sorted(values)) for name, values in seen.items()}


def finished_at(run: Run) -> float | None:
    """When the last trial was finished, in seconds since 1970; None where none is."""
    paths: list[Path] = [run.store.path(task.key) for task in run.plan.tasks]
    return max((path.stat().st_mtime for path in paths if path.exists()), default=None)
