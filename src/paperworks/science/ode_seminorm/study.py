"""Does the seminorm save evaluations, does quality suffer, and what does the saving cost in accuracy of the gradient?

Every arm is trained by itself from the same weights on the same batches. Checkpoints of the default arm are then solved
again under every norm, in float64 and from one precise forward solution: there the paired reductions and the
work-precision curves come from, free of the drift between two runs. Attempted steps count, accepted or not, and so do
the evaluations that choose the first step.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paperworks.data.errors import DataMissing
from paperworks.lab.claim import Claim, Condition
from paperworks.lab.study import Loaded, Point, Progress, Request, Study
from paperworks.science.ode_seminorm import measures, views

SERIES = {"vowels": "JapaneseVowels", "motions": "BasicMotions"}


@dataclass(frozen=True)
class Config:
    """Every number of the study."""

    tasks: tuple[str, ...] = ("gaussians", "moons", "acrobot", "digits", "vowels")
    """Tasks: gaussians, moons (CNF), acrobot (Hamiltonian), digits (neural ODE), vowels, motions (neural CDE)."""
    arms: tuple[str, ...] = ("full", "seminorm", "direct", "checkpointed")
    """Arms to train: full, seminorm, seminorm_t, direct, checkpointed; the last two at the tightest tolerance only."""
    tolerances: tuple[float, ...] = (1e-3, 1e-4)
    """Relative tolerances of training; the absolute one is a thousandth of it."""
    density_steps: int = 80
    """Training steps of gaussians and moons."""
    acrobot_steps: int = 30
    """Training steps of acrobot."""
    digits_steps: int = 150
    """Training steps of digits."""
    series_steps: int = 40
    """Training steps of series."""
    density_batch: int = 256
    """Points per step."""
    acrobot_batch: int = 64
    """Windows of 8 points per step."""
    digits_batch: int = 128
    """Images per step."""
    series_batch: int = 135
    """Series per step."""
    width: int = 64
    """Hidden width of the CNF and the Hamiltonian network."""
    hidden: int = 32
    """State and field width of the neural CDE (depth 4)."""
    trajectories: int = 32
    """Acrobot trajectories for each of the nine controls."""
    curve: tuple[float, ...] = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    """Relative tolerances of the work-precision curves, the absolute one a hundredth; the third is the default's."""
    replayed: tuple[float, ...] = (1e-3, 1e-4, 1e-5)
    """Relative tolerances at which checkpoints are replayed, the absolute one a thousandth."""
    checkpoints: int = 3
    """Checkpoints that are replayed, spread over training."""
    replay_batch: int = 32
    """Points, windows or images of a replayed batch."""
    series_replay_batch: int = 4
    """Series of a replayed batch; the reference crosses every kink of their ReLUs at 1e-9."""
    saving: float = 0.20
    """The claimed reduction of backward evaluations (0.40 at paper scale)."""
    field: str = ""
    """A field of your own, module:function (or an nn.Module there); with y0 and t it replaces all tasks."""
    y0: str = ""
    """The initial state for `field`, an .npy file."""
    t: str = "0,1"
    """The times for `field`, separated by commas."""


SCALES = {
    "smoke": Config(
        tasks=("gaussians", "vowels"), arms=("full", "seminorm"), tolerances=(1e-3,), density_steps=3, series_steps=3,
        density_batch=64, series_batch=16, width=16, hidden=8, checkpoints=1,
        curve=(1e-2, 1e-3, 1e-4), replayed=(1e-3,), replay_batch=4, series_replay_batch=2,
    ),
    "laptop": Config(),
    "paper": Config(
        tasks=("gaussians", "moons", "acrobot", "digits", "vowels", "motions"), tolerances=(1e-3, 1e-4, 1e-5),
        density_steps=1500, acrobot_steps=2500, digits_steps=1000, series_steps=400, acrobot_batch=256, width=300,
        trajectories=128, checkpoints=5, saving=0.40,
    ),
}  # fmt: skip


# Data ----------------------------------------------------------------------------------------------------------------


def load(config: Config, request: Request) -> Loaded:
    """The series that the tasks need, one's own series, or a field of one's own."""
    if config.field:
        return _load_field(config, request)
    if request.path is not None:
        return _load_own(request)
    from paperworks.data.time_series import uea_series

    data: dict[str, Any] = {}
    notes = ["gaussians, moons, acrobot and digits are drawn, simulated, or come with scikit-learn"]
    for name in config.tasks:
        if name in SERIES:
            try:
                data[name] = uea_series(SERIES[name])
                notes.append(f"{name}: {SERIES[name]}, {data[name]!r}, sha256 {data[name].fingerprint[:8]}")
            except DataMissing as missing:
                notes.append(f"left out: {missing}")
    prints = "".join(f"{name}:{series.fingerprint}" for name, series in sorted(data.items()))
    return Loaded(data, hashlib.sha256(prints.encode()).hexdigest(), tuple(notes))


def _load_own(request: Request) -> Loaded:
    from paperworks.data.time_series import read_time_series

    series = read_time_series(request.path or "", columns=request.columns or None)
    if len(series.classes) < 2:
        raise ValueError(
            f"{request.path}: all series have one label ({', '.join(series.classes)}); nothing to tell apart"
        )
    split = series.with_split(test=0.3, seed=0)
    note = f"{request.path}: {series!r}, sha256 {series.fingerprint[:8]}; 30 % of each class are kept for testing"
    return Loaded({"own": split}, split.fingerprint, (note,))


def _load_field(config: Config, request: Request) -> Loaded:
    if request.path is not None:
        raise ValueError("field: either --data with series, or --field with --y0 and --t")
    find_field(config.field)
    path = Path(config.y0)
    if not path.is_file():
        raise ValueError(f"y0: expected an .npy file with the initial state, got {config.y0!r}")
    y0 = np.load(path, allow_pickle=False)
    times = read_times(config.t)
    source = hashlib.sha256(y0.tobytes() + config.field.encode() + config.t.encode()).hexdigest()
    return Loaded({"field": (config.field, y0, times)}, source, (f"{config.field}, y0 {y0.shape}, t {times}",))


def find_field(spec: str) -> Any:
    """The field `module:name`: an nn.Module, or a function `(t, y) -> dy/dt`, or a class or function that builds one.

    Raises:
        ValueError: it cannot be imported.
    """
    module, colon, name = spec.partition(":")
    try:
        found = getattr(importlib.import_module(module), name) if colon else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"field: cannot import {spec!r}: {error}") from None
    if not callable(found):
        raise ValueError(f"field: expected module:function, got {spec!r}")
    return found


def read_times(text: str) -> tuple[float, ...]:
    """`"0,5"` as times.

    Raises:
        ValueError: no numbers, or fewer than two.
    """
    try:
        times = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"t: expected numbers separated by commas such as 0,5, got {text!r}") from None
    if len(times) < 2:
        raise ValueError(f"t: expected at least two times such as 0,5, got {text!r}")
    return times


# Trials --------------------------------------------------------------------------------------------------------------


def points(config: Config, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every arm on every task and tolerance."""
    if "field" in data:
        return [{"part": "field"}]
    tasks = ["own"] if "own" in data else [name for name in config.tasks if name not in SERIES or name in data]
    grid: list[dict[str, Any]] = []
    for task in tasks:
        for arm in config.arms:
            alone = arm in ("direct", "checkpointed")
            tolerances = config.tolerances[-1:] if alone else config.tolerances
            grid += [{"part": "train", "task": task, "arm": arm, "rtol": rtol} for rtol in tolerances]
    return grid


def trial(point: Point, seed: int, config: Config, data: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Train one arm, replaying the checkpoints of the default arm under every norm; or measure a field of one's own."""
    import torch

    from paperworks.science.ode_seminorm import training
    from paperworks.science.ode_seminorm.tasks import make_task

    torch.set_num_threads(1)
    if point["part"] == "field":
        from paperworks.science.ode_seminorm.own_field import measure_field

        spec, y0, times = data["field"]
        return measure_field(find_field(spec), y0, times, seed=seed)
    task = make_task(point["task"], data=data, seed=seed, config=config)
    steps = steps_of(point["task"], config)
    arm, rtol = point["arm"], point["rtol"]
    replayed = arm == "full" and rtol == config.tolerances[0]
    how: dict[str, Any] = {"rtol": rtol, "atol": rtol / 1e3}
    keep = config.checkpoints if replayed else 0
    measured, kept = training.train(task, arm, steps=steps, seed=seed, progress=progress, keep=keep, **how)
    measured["peak_mib"] = training.peak_mib(task, arm, **how)
    if replayed:
        subset = config.series_replay_batch if task.has_knots else config.replay_batch
        measured |= training.replay(task, kept, subset=subset, tolerances=config.replayed, curve=config.curve) | {
            "claimed": config.saving
        }
    return measured


def steps_of(task: str, config: Config) -> int:
    if task in ("gaussians", "moons"):
        return config.density_steps
    return {"acrobot": config.acrobot_steps, "digits": config.digits_steps}.get(task, config.series_steps)


# Claims --------------------------------------------------------------------------------------------------------------


def budget(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm: parameters, steps, evaluations, seconds of CPU, memory (direct and checkpointed at one tolerance)."""
    if "part" not in frame or not (frame["part"] == "train").any():
        return pd.DataFrame(columns=["steps"])
    trained = frame[frame["part"] == "train"]
    tightest = trained[trained["rtol"] == trained["rtol"].min()]
    columns = ["parameters", "steps", "forward_nfe", "backward_nfe", "train_seconds", "peak_mib"]
    return tightest.groupby("arm", sort=False)[columns].mean()


CLAIMS = (
    Claim(
        "saving",
        (
            Condition(
                "median reduction of backward evaluations minus the claimed 0.20 (paper: 0.40)",
                measures.saved_beyond_claim,
                0.0,
            ),
        ),
        arms=("full", "seminorm"),
        guards=(measures.LEARNS,),
        shown=(
            Condition("the reduction itself", measures.reductions, 0.20),
            Condition("the reduction over whole training runs, each arm on its own", measures.trained_reductions, 0.20),
        ),
    ),
    Claim(
        "quality",
        (
            Condition(
                "accuracy, seminorm - full (points; 0 where no task has one)", measures.or_nothing("accuracy"), -1.0
            ),
            Condition(
                "loss, seminorm better than full (per cent; 0 where no task has one)", measures.or_nothing("loss"), -5.0
            ),
        ),
        arms=("full", "seminorm"),
        guards=(measures.LEARNS,),
    ),
    Claim(
        "price",
        (
            Condition(
                "log(error full / error seminorm) at equal evaluations",
                lambda frame: -measures.log_error_ratios(frame),
                0.0,
            ),
        ),
        arms=("full", "seminorm"),
        guards=(measures.PRECISE,),
    ),
)


def once(point: Point) -> bool:
    """A field of one's own is measured once; so are the arms that are shown for time and memory and not judged."""
    return point["part"] == "field" or point["arm"] in ("direct", "checkpointed")


STUDY = Study(
    slug="ode_seminorm",
    scales=SCALES,
    seeds={"smoke": 1, "laptop": 5, "paper": 5},
    load=load,
    points=points,
    trial=trial,
    claims=CLAIMS,
    figures=views.FIGURES,
    tables=views.TABLES,
    sentences=views.sentences,
    budget=budget,
    equal=("steps", "parameters"),
    once=once,
    finish=views.write_field_table,
)
