"""What the study's claims measure: savings, quality and price, one number per seed; and the guards before them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from paperworks.lab.claim import Guard, Measure, NotMeasurable
from paperworks.science.ode_seminorm import views

# At (1e-4, 1e-6); below, steps of six evaluations are too coarse to compare.
LEAST_NFE = float(views.LEAST_NFE)
DEFAULT_AT = 2


def replays(frame: pd.DataFrame) -> pd.DataFrame:
    """The replays whose default solve is long enough to compare (30 evaluations at (1e-4, 1e-6)), over all seeds.

    A task is judged in all seeds or in none: the mean over seeds and checkpoints decides.

    Raises:
        NotMeasurable: there are none.
    """
    rows = views.replayed(frame)
    if rows.empty:
        raise NotMeasurable("no checkpoint was replayed")
    long = rows.groupby("task")["default_nfe"].mean() >= LEAST_NFE
    kept = rows[rows["task"].map(long).astype(bool)]
    if kept.empty:
        raise NotMeasurable(f"no task needs {LEAST_NFE:g} evaluations by default: all are too short to compare")
    return kept


def reductions(frame: pd.DataFrame) -> np.ndarray:
    """Per seed the median over tasks and tolerances of `1 - nfe(seminorm) / nfe(full)` on the same checkpoints."""
    found = []
    for _, rows in replays(frame).groupby("seed"):
        cells = [_reduction(nfe) for nfe in rows["replay_nfe"]]
        found.append(float(np.median(np.concatenate(cells))))
    return np.array(found)


def _reduction(nfe: np.ndarray) -> np.ndarray:
    """(checkpoints, norms, tolerances) -> one number per tolerance."""
    totals = np.asarray(nfe).sum(axis=0)
    return 1 - totals[1] / totals[0]


def log_error_ratios(frame: pd.DataFrame) -> np.ndarray:
    """Per seed the mean over tasks of log(error of seminorm / error of full) at equal backward evaluations."""
    kept = replays(frame)
    values = [
        rows.apply(lambda row: log_error_ratio(row["curve_nfe"], row["curve_error"]), axis=1).mean()
        for _, rows in kept.groupby("seed")
    ]
    return np.array(values, dtype=float)


def log_error_ratio(nfe: np.ndarray, error: np.ndarray) -> float:
    """Mean over checkpoints of the log ratio at the evaluations that the default needs at (1e-4, 1e-6).

    nfe, error: (checkpoints, norms, tolerances), the first two norms being full and seminorm.
    """
    found = []
    for costs, errors in zip(np.asarray(nfe, float), np.asarray(error, float), strict=True):
        at = costs[0, DEFAULT_AT]
        found.append(read_curve(costs[1], errors[1], at) - read_curve(costs[0], errors[0], at))
    return float(np.mean(found))


def read_curve(nfe: np.ndarray, error: np.ndarray, at: float) -> float:
    """log error at so many evaluations: linear between the points in log-log; tolerances that cost the same count
    with the geometric mean of their errors; beyond the ends the curve goes on as its last piece did."""
    costs = np.unique(nfe)
    logs = np.array([np.log(np.maximum(error[nfe == cost], 1e-300)).mean() for cost in costs])
    x, place = np.log(costs), np.log(at)
    if len(x) == 1:
        return float(logs[0])
    piece = int(np.clip(np.searchsorted(x, place) - 1, 0, len(x) - 2))
    slope = (logs[piece + 1] - logs[piece]) / (x[piece + 1] - x[piece])
    return float(logs[piece] + slope * (place - x[piece]))


def quality(kind: str) -> Measure:
    """Per seed the mean over tasks and tolerances of seminorm against full: accuracy (points), or minus the relative
    change of the loss (per cent); larger is better for the seminorm."""

    def measure(frame: pd.DataFrame) -> np.ndarray:
        rows = frame[frame["part"] == "train"] if "part" in frame else frame.iloc[:0]
        rows = rows[rows["is_loss"].astype(bool) == (kind == "loss")] if len(rows) else rows
        table = rows.pivot_table(index=["seed", "task", "rtol"], columns="arm", values="metric") if len(rows) else rows
        if not {"full", "seminorm"} <= set(table.columns):
            raise NotMeasurable(f"no task with {kind} was trained under both norms")
        change = table["seminorm"] - table["full"]
        if kind == "loss":
            change = -change / table["full"].abs()
        return (100 * change).dropna().groupby("seed").mean().to_numpy()

    return measure


def _learns(frame: pd.DataFrame) -> str | None:
    """The default arm must beat doing nothing on every task."""
    rows = frame[(frame["part"] == "train") & (frame["arm"] == "full")]
    for task, trained in rows.groupby("task"):
        sign = -1 if bool(trained["is_loss"].iloc[0]) else 1
        metric, floor = trained["metric"].mean(), trained["floor"].mean()
        if not sign * (metric - floor) > 0:
            return f"the default arm learns nothing on {task}: {metric:.3g}, doing nothing {floor:.3g}"
    return None


def _precise(frame: pd.DataFrame) -> str | None:
    """At the tightest tolerance both norms must come close to the reference, or the reference is not one."""
    for task, rows in replays(frame).groupby("task"):
        worst = np.median([np.asarray(error)[:, :2, -1].max() for error in rows["curve_error"]])
        if worst > 0.05:
            return f"on {task} gradients at 1e-6 are {worst:.1%} off the reference: nothing to compare"
    return None


LEARNS = Guard("the default arm learns", _learns)
PRECISE = Guard("the reference is one", _precise)


def saved_beyond_claim(frame: pd.DataFrame) -> np.ndarray:
    """Per seed the reduction minus what is claimed at this scale."""
    return reductions(frame) - float(replays(frame)["claimed"].iloc[0])


def or_nothing(kind: str) -> Measure:
    """`quality`, or zeros where no task has this kind of metric but some task has the other."""

    def measure(frame: pd.DataFrame) -> np.ndarray:
        try:
            return np.asarray(quality(kind)(frame))
        except NotMeasurable:
            return np.zeros_like(quality("loss" if kind == "accuracy" else "accuracy")(frame), dtype=float)

    return measure


def trained_reductions(frame: pd.DataFrame) -> np.ndarray:
    """Per seed the median over tasks and tolerances of the reduction over whole training runs."""
    rows = frame[frame["part"] == "train"] if "part" in frame else frame.iloc[:0]
    if rows.empty:
        raise NotMeasurable("nothing was trained")
    table = rows.pivot_table(index=["seed", "task", "rtol"], columns="arm", values="backward_nfe")
    if not {"full", "seminorm"} <= set(table.columns):
        raise NotMeasurable("the arms full and seminorm were not both trained")
    return (1 - table["seminorm"] / table["full"]).dropna().groupby("seed").median().to_numpy()
