"""Does imitation from observations alone match adversarial imitation, and does it withstand irrelevant features?

All arms have one learner (SAC), the same demonstrations, environment steps, updates and number of searched settings;
what differs is the reward. The number of updates is set on the learner with the true reward. All seeds of a run are
trained in one program, so a trial holds a column of values, one a seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro

from paperworks.control.form import arms, views
from paperworks.control.form.tuning import SEARCH_TRIALS, tuning
from paperworks.control.form.views import LEVEL, tidy
from paperworks.lab.claim import FIRST_JUDGING_SEED, Claim, Condition, Guard, Measure, NotMeasurable
from paperworks.lab.study import Loaded, Point, Progress, Request, Study

GATE = 0.9


def tuned_settings() -> tuple[tuple[str, int, int], ...]:
    """(arm, distractors, row of its grid); see `tuning.toml`."""
    return tuning().rows


@dataclass(frozen=True)
class Config:
    """Every number of the study."""

    task: str = "orbit"
    """orbit, pendulum or reacher (hard cases: no noise in the dynamics); with --data your environment decides."""
    env: str = ""
    """With --data: the Gymnasium environment that your demonstrations are from."""
    arms: tuple[str, ...] = ("form", "gaifo", "bco")
    """Rivals: form, gaifo, bco."""
    ablations: tuple[str, ...] = ("form_no_imitator", "form_ensemble", "form_absolute", "form_short_window")
    """Variants of form; form_absolute and form_short_window at the largest level only."""
    references: tuple[str, ...] = ("true_reward", "bc_actions", "gail_actions")
    """Arms that see more than observations; no claim is judged on them."""
    dims: tuple[int, ...] = (0, 16)
    """Numbers of irrelevant features."""
    sweep: bool = False
    """Also 4 and 64 features, features that change (iid, ar1), and 5 and 20 demonstrations."""
    demos: int = 100
    """Demonstrated episodes."""
    steps: int = 6_000
    """Steps of all parallel copies, and as many updates."""
    copies: int = 8
    """Environments a seed."""
    batch: int = 128
    """Transitions of an update, a seed."""
    hidden: tuple[int, ...] = (64, 64)
    """Hidden widths of all networks."""
    lr: float = 1e-3
    """Adam's rate of policy and critics."""
    window: int = 4_000
    """Newest transitions that the imitator's model and the discriminator learn from."""
    epochs: int = 40
    """Passes of the demonstrator's model over the demonstrations; the best held-out one is kept."""
    ensemble: int = 5
    """Members of the ensemble arm."""
    learner: str = "sac"
    """sac, or mpo (the paper's; its settings there could not be checked)."""
    together: int = 5
    """Seeds trained in one program: those of the run."""
    searching: bool = False
    """Run every row of every rival's grid instead of the tuned one, on pilot seeds (the last digit of the run's)."""
    tuned: Annotated[tuple[tuple[str, int, int], ...], tyro.conf.Suppress] = field(default_factory=tuned_settings)
    """The tuned rows, part of every trial's key."""


SCALES = {
    "smoke": Config(
        arms=("form", "gaifo"), ablations=(), references=("true_reward",), dims=(0,), demos=10, steps=100, batch=64,
        hidden=(32, 32), epochs=4, together=2,
    ),
    "search": Config(searching=True, ablations=(), references=(), steps=2_500, together=2),
    "laptop": Config(),
    "paper": Config(learner="mpo", hidden=(256, 256), batch=256, lr=3e-4, steps=100_000, epochs=100, sweep=True),
}  # fmt: skip


# Data ----------------------------------------------------------------------------------------------------------------


def load(config: Config, request: Request) -> Loaded:
    """Nothing for the embedded tasks but their expert's check; else the user's demonstrations."""
    if config.learner not in ("sac", "mpo"):
        raise ValueError(f"learner: expected sac or mpo, got {config.learner!r}")
    if request.path is None:
        return _embedded(config)
    if not config.env:
        raise ValueError("env: demonstrations of your own need --env with their Gymnasium environment")
    return _load_own(request.path, config.env)


def _load_own(path: str, env: str) -> Loaded:
    """The user's demonstrations; with an absorbing state where episodes can end by themselves."""
    from paperworks.control.form.demonstrations import Demonstrations
    from paperworks.control.form.tasks import ends_early, own_task

    own = Demonstrations.from_path(path)
    world = own_task(env).make(8)
    own.expect_dim(world.obs_dim)
    said = [f"{path}: {len(own)} episodes, {own.steps:,} transitions of dimension {own.dim}", f"environment {env}"]
    absorbing = bool(own.terminal.any()) or ends_early(world)
    if absorbing:
        own = own.with_absorbing(world.horizon)
        said.append("episodes can end by themselves: an absorbing state with an indicator of its own follows the end")
    return Loaded({"own": own, "absorbing": absorbing}, own.fingerprint, tuple(said))


def _embedded(config: Config) -> Loaded:
    from paperworks.control.form.tasks import TASKS, accept_expert

    if config.task not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {config.task!r}")
    reached = accept_expert(TASKS[config.task])
    said = f"{config.task}: scripted expert, mean return {reached:.1f}; {config.demos} demonstrations a seed"
    return Loaded({}, hashlib.sha256(config.task.encode()).hexdigest(), (said, tuning().words()))


# Trials --------------------------------------------------------------------------------------------------------------


def points(config: Config, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rivals, ablations and references at every level, and in a sweep the other kinds, levels and data sizes."""
    own = "own" in data
    levels = (0,) if own else config.dims
    references = [arm for arm in config.references if not own or arm == "true_reward"]
    grid = [{"part": "baseline"}]
    if config.searching:
        return grid + [
            _point(config, arm, dims, setting=row)
            for dims in levels
            for arm in config.arms
            for row in range(SEARCH_TRIALS)
        ]
    top = max(levels)
    for dims in levels:
        grid += [_point(config, arm, dims) for arm in (*config.arms, *references)]
        grid += [
            _point(config, arm, dims)
            for arm in config.ablations
            if dims == top or arm in ("form_no_imitator", "form_ensemble")
        ]
    compared = [arm for arm in config.arms if arm in ("form", "gaifo")]
    if top:
        grid += [_point(config, arm, top, pool="shared") for arm in compared]
    if config.sweep and not own:
        for arm in compared:
            grid += [_point(config, arm, top or 16, kind=kind) for kind in ("iid", "ar1")]
            grid += [_point(config, arm, dims) for dims in (4, 64) if dims not in levels]
            grid += [_point(config, arm, 0, demos=demos) for demos in (5, 20)]
    return grid


def _point(config: Config, arm: str, dims: int, **changed: Any) -> dict[str, Any]:
    point = LEVEL | {"arm": arm, "dims": dims, "demos": config.demos, "setting": tuned_row(config, arm, dims)}
    return point | changed


def tuned_row(config: Config, arm: str, dims: int) -> int:
    """The arm's tuned row at the nearest level that was searched; 0 for arms without a grid."""
    name = arms.family(arm)
    found = {level: row for searched, level, row in config.tuned if searched == name}
    return found[min(found, key=lambda level: abs(level - dims))] if found else 0


def once(point: Point) -> bool:
    """Trained arms hold all seeds of the run; baselines are measured for each."""
    return point["part"] == "arm"


def trial(point: Point, seed: int, config: Config, data: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Train one arm for the seeds `seed`, `seed + 1`, ..., or measure what random actions and the expert return."""
    from paperworks.control.form.experiment import Trial, run_trial
    from paperworks.control.form.tasks import TASKS, Setting, baseline_return, own_task

    own = data.get("own")
    absorbing = bool(data.get("absorbing", False))
    task = TASKS[config.task] if own is None else own_task(config.env, absorbing=absorbing)
    # A search belongs to the pilot seeds, whichever seeds it was asked for.
    seed = seed % FIRST_JUDGING_SEED if config.searching else seed
    if point["part"] == "baseline":
        episodes = 256 if own is None else 20
        result = {"random_return": baseline_return(task, "random", seed=seed, episodes=episodes)}
        if task.expert is not None:
            result["expert_return"] = baseline_return(task, "expert", seed=seed)
        return result
    described = Trial(
        arm=point["arm"],
        setting=point["setting"],
        task=task,
        distractors=Setting(point["kind"], point["dims"], point["pool"]),
        demos=point["demos"],
        steps=config.steps,
        copies=config.copies,
        batch=config.batch,
        hidden=config.hidden,
        lr=config.lr,
        window=config.window,
        epochs=config.epochs,
        ensemble=config.ensemble,
        learner=config.learner,
        absorbing=absorbing,
        seeds=tuple(range(seed, seed + config.together)),
    )
    return run_trial(described, own, progress)


# Claims --------------------------------------------------------------------------------------------------------------


def scores(frame: pd.DataFrame, arm: str, **where: Any) -> pd.Series:
    """Normalised returns of an arm by seed.

    Raises:
        NotMeasurable: no such trial, or nothing to normalise by.
    """
    table = tidy(frame)
    if table.empty:
        raise NotMeasurable("no arm has been trained")
    wanted = {"kind": "static_pool", "pool": "disjoint", "dims": 0, "demos": table["demos"].max(), "arm": arm} | where
    chosen = table[np.logical_and.reduce([table[name] == value for name, value in wanted.items()])]
    if chosen.empty or chosen["normalised"].isna().any():
        raise NotMeasurable(f"no trial of {', '.join(f'{name}={value}' for name, value in wanted.items())}")
    return chosen.groupby("seed")["normalised"].mean()


def value(arm: str, **where: Any) -> Measure:
    """The arm's normalised return, one value a seed; against an expert whose return is known."""

    def measure(frame: pd.DataFrame) -> np.ndarray:
        if "expert_return" not in frame or frame["expert_return"].isna().all():
            raise NotMeasurable("the expert's return is not known")
        return scores(frame, arm, **where).to_numpy(float)

    return measure


def gap(arm: str, other: str, *, against: Mapping[str, Any] | None = None, **where: Any) -> Measure:
    """Differences of normalised returns, paired by seed."""

    def measure(frame: pd.DataFrame) -> np.ndarray:
        left, right = scores(frame, arm, **where), scores(frame, other, **(where if against is None else against))
        return (left - right).dropna().to_numpy(float)

    return measure


def _learner_works(frame: pd.DataFrame) -> str | None:
    table = tidy(frame)
    reference = table[table["arm"] == "true_reward"]
    if reference.empty:
        return "no learner was trained on the true reward"
    for dims, rows in reference.groupby("dims"):
        if not rows["normalised"].mean() >= GATE:
            return f"with {dims:.0f} features the true reward teaches {rows['normalised'].mean():.2f}, needs {GATE}"
    return None


def _seeds_agree(frame: pd.DataFrame) -> str | None:
    table = tidy(frame)
    asked, trained = frame["seed"].nunique(), table["seed"].nunique()
    return None if asked == trained else f"the run has {asked} seeds, arms were trained with {trained}; set --together"


def _rivals_tuned(frame: pd.DataFrame) -> str | None:
    # An adversary without tuned regularisers makes any comparison with it meaningless.
    return None if tuning().searched else "the equal search (--scale search) has not been run"


GUARDS = (Guard("seeds", _seeds_agree), Guard("learner too weak", _learner_works))
AGAINST = (*GUARDS, Guard("rivals not tuned", _rivals_tuned))
TOP = 16
CLAIMS = (
    Claim(
        "C1a",
        (Condition("normalised return at D = 0, FORM minus GAIfO", gap("form", "gaifo"), -0.1),),
        arms=("form", "gaifo"),
        guards=AGAINST,
        shown=(
            Condition("FORM minus BCO", gap("form", "bco"), -0.1),
            Condition("FORM minus GAIL with actions", gap("form", "gail_actions"), -0.1),
            Condition("five-model ensemble minus one model", gap("form_ensemble", "form"), 0.0),
            Condition("FORM minus FORM without the imitator's model", gap("form", "form_no_imitator"), 0.0),
        ),
    ),
    Claim(
        "C1b",
        (Condition("normalised return of FORM at D = 0 (expert 1, random 0)", value("form"), 0.8),),
        arms=("form",),
        guards=GUARDS,
        shown=(
            Condition("the same learner on the true reward", value("true_reward"), GATE),
            Condition("FORM with a five-model ensemble", value("form_ensemble"), 0.8),
            Condition("BC with actions", value("bc_actions"), 0.8),
        ),
    ),
    Claim(
        "C2",
        (Condition("normalised return at D = 16, FORM minus GAIfO", gap("form", "gaifo", dims=TOP), 0.0),),
        arms=("form", "gaifo"),
        guards=AGAINST,
        shown=(
            Condition("what FORM loses from D = 0 to 16", gap("form", "form", against={"dims": TOP}), 0.0),
            Condition("what GAIfO loses from D = 0 to 16", gap("gaifo", "gaifo", against={"dims": TOP}), 0.0),
            Condition("FORM minus GAIfO, shared patterns", gap("form", "gaifo", dims=TOP, pool="shared"), 0.0),
            Condition("FORM minus GAIfO, fresh bits each step", gap("form", "gaifo", dims=TOP, kind="iid"), 0.0),
            Condition("FORM minus GAIfO, random walks", gap("form", "gaifo", dims=TOP, kind="ar1"), 0.0),
            Condition("ensemble minus one model", gap("form_ensemble", "form", dims=TOP), 0.0),
            Condition("difference minus absolute prediction", gap("form", "form_absolute", dims=TOP), 0.0),
        ),
    ),
)


def budget(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm: parameters a seed, environment steps, updates, settings searched, seconds of CPU (all seeds)."""
    if "arm" not in frame:
        return pd.DataFrame()
    trained = frame[frame["part"] == "arm"]
    columns = ["parameters", "env_steps", "updates", "cpu_seconds"]
    table = trained.groupby("arm", sort=False)[columns].mean()
    table.insert(3, "settings_searched", _searched(table.index))
    return table


def _searched(names: Sequence[str]) -> list[int]:
    """Trials of each rival's search, the same for all; ablations and references inherit a rival's setting."""
    return [SEARCH_TRIALS if tuning().searched and name in arms.RIVALS else 0 for name in names]


def _sentences(frame: pd.DataFrame) -> list[str]:
    words = tuning().words()
    said = [f"{words[0].upper()}{words[1:]}.", *views.findings(frame)]
    return [*said, "FORM's architecture and settings are ours; the paper's tasks, learner and sizes are larger."]


STUDY = Study(
    slug="form",
    scales=SCALES,
    seeds={"smoke": 2, "search": 2, "laptop": 5, "paper": 5},
    load=load,
    points=points,
    trial=trial,
    claims=CLAIMS,
    figures=views.FIGURES,
    tables=views.TABLES,
    sentences=_sentences,
    budget=budget,
    equal=("updates", "settings_searched"),
    once=once,
)
