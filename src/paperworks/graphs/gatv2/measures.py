"""What the claims measure: agreement of queries, gains on DictionaryLookup, and areas between curves of noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from paperworks.lab.claim import Measure, NotMeasurable, difference, value
from paperworks.lab.statistics import Interval, resampled_t, t_interval

GATV2_CHOICES, GAT_CHOICES = ("gatv2", "gatv2_shared"), ("gat", "gat_8_heads")


def _rows(frame: pd.DataFrame, arms: Sequence[str], parts: Sequence[str]) -> pd.DataFrame:
    rows = frame[frame["arm"].isin(arms) & frame["part"].isin(parts)]
    if "agreement_min" not in rows or rows["agreement_min"].dropna().empty:
        raise NotMeasurable(f"no layer of {arms[0]} was looked at")
    return rows.dropna(subset=["agreement_min"])


def always_static(frame: pd.DataFrame) -> np.ndarray:
    """Per seed 1 if every GAT layer, random or trained, agrees with itself on every compared pair, else 0."""
    rows = _rows(frame, GAT_CHOICES, ("static", "lookup", "matched", "noise"))
    return (rows.groupby("seed")["agreement_min"].min() == 1.0).to_numpy(float)


def never_static(frame: pd.DataFrame) -> np.ndarray:
    """Per seed 1 if every GATv2 layer, random or trained on DictionaryLookup, disagrees somewhere, else 0."""
    rows = _rows(frame, GATV2_CHOICES, ("static", "lookup", "matched"))
    return (rows.groupby("seed")["agreement_max"].max() < 1.0).to_numpy(float)


def choice(frame: pd.DataFrame, among: Sequence[str]) -> str:
    """The variant with the best mean accuracy at k = 6; the only choice that a side gets.

    Raises:
        NotMeasurable: k = 6 was not run.
    """
    rows = frame[frame["arm"].isin(among)]
    rows = rows[(rows["part"] == "lookup") & (rows["k"] == 6)] if "k" in rows else rows[:0]
    if rows.empty:
        raise NotMeasurable("DictionaryLookup with k = 6, at which variants are chosen, was not run")
    return str(rows.groupby("arm", sort=False)["accuracy"].mean().idxmax())


def lookup_at(k: int, arm: str) -> dict[str, Any]:
    return {"part": "lookup", "k": k, "arm": arm}


def lookup_gain(k: int, baseline: str) -> Measure:
    """Accuracy on unseen graphs, the chosen GATv2 minus a GAT, paired by seed."""
    return lambda frame: difference("accuracy", lookup_at(k, choice(frame, GATV2_CHOICES)), lookup_at(k, baseline))(
        frame
    )


def lookup_accuracy(k: int) -> Measure:
    """Accuracy of the chosen GATv2 on unseen graphs."""
    return lambda frame: value("accuracy", lookup_at(k, choice(frame, GATV2_CHOICES)))(frame)


def over_dot(k: int) -> Measure:
    """Accuracy of the chosen GATv2 minus that of dot-product attention."""
    return lambda frame: difference("accuracy", lookup_at(k, choice(frame, GATV2_CHOICES)), lookup_at(k, "dot"))(frame)


def area_between(graph: str) -> Measure:
    """Area between the curves of score against noise, GATv2 minus GAT, one value per run.

    Runs on one split differ by initialisation (paired t); runs on several splits of a graph share nodes, so their
    interval is the corrected resampled t.
    """

    def measure(frame: pd.DataFrame) -> Interval:
        rows = frame[frame["part"] == "noise"] if "graph" in frame else frame[:0]
        rows = rows[rows["graph"] == graph] if len(rows) else rows
        curves = {arm: _curves(rows[rows["arm"] == arm]) for arm in ("gatv2", "gat")} if len(rows) else {}
        if not curves or any(curve is None for curve in curves.values()):
            raise NotMeasurable(f"{graph} was not run with both arms and at least two noise ratios")
        (ratios, better), (_, worse) = curves["gatv2"], curves["gat"]  # pyright: ignore[reportGeneralTypeIssues]
        values = np.trapezoid(better - worse, ratios, axis=1)
        if rows["splits"].iloc[0] > 1 and len(values) > 1:
            sizes = rows.iloc[0]
            return resampled_t(values, test_size=int(sizes["test_size"]), train_size=int(sizes["train_size"]))
        return t_interval(values, unit="runs")

    return measure


def _curves(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray] | None:
    """(ratios (R,), scores (runs, R)); None with fewer than two ratios. Of a searched grid, the mean."""
    table = {
        (seed, ratio): np.mean(np.stack(list(cell["scores"])), axis=0)
        for (seed, ratio), cell in rows.groupby(["seed", "ratio"])
    }
    ratios = sorted({ratio for _, ratio in table})
    seeds = [seed for seed in sorted({seed for seed, _ in table}) if all((seed, ratio) in table for ratio in ratios)]
    if len(ratios) < 2 or not seeds:
        return None
    return np.array(ratios), np.concatenate([np.stack([table[seed, r] for r in ratios], axis=1) for seed in seeds])


def baseline_learns(frame: pd.DataFrame) -> str | None:
    """GAT is above chance, and someone solves the task: else nothing can be said about who cannot."""
    for k in (8, 10):
        rows = frame[(frame["part"] == "lookup") & (frame["k"] == k)]
        means = rows.groupby("arm")["accuracy"].mean()
        best = max((means.get(arm, 0.0) for arm in GAT_CHOICES), default=0.0)
        if best <= 1.5 / k:
            return f"GAT reaches {best:.2f} at k = {k}, chance is {1 / k:.2f}"
    return None


def nodes_learn(frame: pd.DataFrame) -> str | None:
    rows = frame[(frame["part"] == "noise") & (frame["ratio"] == 0)]
    for (graph, arm), cell in rows.groupby(["graph", "arm"], sort=False):
        if cell["score"].mean() <= cell["majority"].mean():
            most = cell["majority"].mean()
            return f"{arm} on {graph} reaches {cell['score'].mean():.3f}, the most frequent class {most:.3f}"
    return None
