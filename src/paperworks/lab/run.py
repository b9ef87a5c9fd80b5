"""`paperworks.run("fnet", ...)`: a study from the question to the report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from paperworks._files import write_atomic
from paperworks.catalog import Card, find
from paperworks.lab.baseline import baseline_level
from paperworks.lab.claim import FIRST_JUDGING_SEED, Verdict, judge
from paperworks.lab.runner import Plan, make_plan, read_frame, run_plan
from paperworks.lab.store import Store
from paperworks.lab.study import Loaded, Request, Study
from paperworks.lab.trials import Limits, Outcome, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

DEFAULT_SCALE = "laptop"


@dataclass(frozen=True)
class Options:
    """How a study is run (what it computes is in its Config).

    Attributes:
        scale: a named Config of the study.
        seeds: how many; None: the study's number for the scale.
        first_seed: seeds below 10 are for pilots and never judge.
        jobs: trials at the same time.
        backend: "processes", "inline" or "ray".
        store: the folder of the run; default `runs/<slug>`.
        baseline: `file.py:function`, an arm of one's own.
        limits: what one trial may use.
    """

    scale: str = DEFAULT_SCALE
    seeds: int | None = None
    first_seed: int = FIRST_JUDGING_SEED
    jobs: int = os.cpu_count() or 1
    backend: str = "processes"
    store: Path | None = None
    baseline: str | None = None
    limits: Limits = Limits()


@dataclass
class Run:
    """A study that has been run: its table, verdicts and figures, and the trials that failed."""

    card: Card
    study: Study
    config: Any
    options: Options
    request: Request
    loaded: Loaded
    store: Store
    plan: Plan
    failures: dict[str, Outcome] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per finished trial."""
        return read_frame(self.plan, self.store)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        if self.frame.empty:
            return []
        return judge(self.study.claims, self.frame, budget=self.budget, equal=self.study.equal)

    @cached_property
    def budget(self) -> pd.DataFrame | None:
        """One row per arm: parameters, FLOPs, seconds, tuning trials; None where the study compares no arms."""
        return self.study.budget(self.frame) if self.study.budget and not self.frame.empty else None

    @cached_property
    def figures(self) -> dict[str, Plot]:
        if self.frame.empty:
            return {}
        drawn = {figure.name: figure.draw(self.frame) for figure in self.study.figures}
        return {name: plot for name, plot in drawn.items() if plot is not None}

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        if self.frame.empty:
            return {}
        built = {table.name: table.build(self.frame) for table in self.study.tables}
        return {name: frame for name, frame in built.items() if frame is not None}

    @cached_property
    def sentences(self) -> list[str]:
        return list(self.study.sentences(self.frame)) if self.study.sentences and not self.frame.empty else []

    @property
    def report(self) -> Path:
        return self.store.folder / "report.html"

    def task(self, key: str) -> Task:
        return next(task for task in self.plan.tasks if task.key == key)


def prepare(
    slug: str,
    *,
    data: str | None = None,
    columns: Mapping[str, str] | None = None,
    options: Options = Options(),
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """Everything up to the first trial: the config, the data at the door, the plan.

    Raises:
        UnknownPaper, ValueError: what was asked for does not exist or does not fit; the message says what to do.
    """
    card = find(slug)
    try:
        study: Study = card.part("study").STUDY
    except LookupError as error:
        raise ValueError(f"{slug}: this room has no study to run") from error
    config = study.config(options.scale, overrides)
    request = Request(data, dict(columns or {}))
    store = Store(options.store or Path("runs") / slug)
    loaded = study.load(config, request)
    count = study.seeds[options.scale] if options.seeds is None else options.seeds
    if count < 1:
        raise ValueError(f"seeds: expected at least 1, got {count}")
    plan = make_plan(
        study,
        config,
        loaded,
        range(options.first_seed, options.first_seed + count),
        store,
        extra_points=_baseline_points(study, config, loaded, options.baseline),
        limits=options.limits,
    )
    return Run(card, study, config, options, request, loaded, store, plan)


def remember(run: Run, overrides: Mapping[str, Any]) -> None:
    """Note in the run's folder what was asked for, so that `recall` can read the run without being told again."""
    options = run.options
    asked = {
        "slug": run.card.slug,
        "data": run.request.path,
        "columns": dict(run.request.columns),
        "scale": options.scale,
        "seeds": len({task.seed for task in run.plan.tasks}),
        "first_seed": options.first_seed,
        "baseline": options.baseline,
        "overrides": dict(overrides),
    }
    write_atomic(run.store.folder / "run.json", json.dumps(asked, indent=1))


def recall(slug: str, folder: Path) -> Run:
    """The last run of a folder, as far as it got; runs no trial.

    Raises:
        ValueError: the folder holds no run of this paper.
    """
    path = folder / "run.json"
    asked = json.loads(path.read_text()) if path.exists() else {}
    if asked.get("slug") != slug:
        raise ValueError(f"{folder}: holds no run of {slug}; start one with `paperworks run {slug}`")
    options = Options(asked["scale"], asked["seeds"], asked["first_seed"], store=folder, baseline=asked["baseline"])
    # JSON knows no tuples, and a Config's sequences are tuples.
    overrides = {name: tuple(v) if isinstance(v, list) else v for name, v in asked["overrides"].items()}
    return prepare(slug, data=asked["data"], columns=asked["columns"], options=options, overrides=overrides)


def _baseline_points(study: Study, config: Any, loaded: Loaded, spec: str | None) -> list[dict[str, Any]]:
    """The points of the reference arm once more, with the user's baseline in the arm's place."""
    if spec is None:
        return []
    factor = study.baseline_factor
    if factor is None:
        raise ValueError(f"{study.slug}: this study takes no --baseline")
    level = baseline_level(spec)
    points = [dict(point) for point in study.points(config, loaded.data) if factor in point]
    reference = points[0][factor]
    return [point | {factor: level} for point in points if point[factor] == reference]


def run(
    slug: str,
    *,
    data: str | None = None,
    columns: Mapping[str, str] | None = None,
    options: Options = Options(),
    on_outcome: Callable[[Run, Outcome], None] | None = None,
    **overrides: Any,
) -> Run:
    """Run a study, or the rest of it, and write its report.

    Args:
        slug: the paper, as `paperworks list` shows it.
        data: a file or folder of one's own, or `hf:name`.
        columns: names in the file by role, e.g. `{"text": "review", "label": "stars"}`.
        options: scale, seeds, jobs and the like.
        on_outcome: called after each trial.
        overrides: fields of the study's Config.

    Returns:
        Run, with `.frame`, `.verdicts`, `.figures`, `.report`.
    """
    prepared = prepare(slug, data=data, columns=columns, options=options, overrides=overrides)
    return complete(prepared, on_outcome=on_outcome)


def complete(run: Run, *, on_outcome: Callable[[Run, Outcome], None] | None = None) -> Run:
    """Run the missing trials of a prepared run, then write its report and the user's files."""
    from paperworks.lab.report import write_report

    outcomes = run_plan(
        run.plan, jobs=run.options.jobs, backend=run.options.backend, alone=lambda task: run.study.alone(task.point)
    )
    for outcome in outcomes:
        if outcome.status == "failed":
            run.failures[outcome.key] = outcome
        if on_outcome:
            on_outcome(run, outcome)
    if run.study.finish and not run.frame.empty:
        run.files = tuple(run.study.finish(run.frame, run.loaded, run.store.folder))
    write_report(run, run.report)
    return run
