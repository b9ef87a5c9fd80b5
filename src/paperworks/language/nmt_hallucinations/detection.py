"""How well each detector finds each kind of error, with intervals.

A category is judged in two ways: `clean`, its rows against rows that are not hallucinated in any way (other kinds left
out), and `rest`, its rows against all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from paperworks.lab.detection import (
    Metric,
    auroc,
    detection_interval,
    fpr_at_tpr,
    precision_at_recall,
    resample_weights,
)

if TYPE_CHECKING:
    import pandas as pd

METRICS: dict[str, Metric] = {"auroc": auroc, "fpr90": fpr_at_tpr, "p_at_r90": precision_at_recall}
# Below this many positives an estimate is shown, but nothing is concluded from it.
FEW = 60


@dataclass(frozen=True, eq=False)
class DetectionReport:
    """A row per detector, category, negatives and metric.

    `table` columns: `detector, category, negatives, metric, value, low, high, positives, negative_rows`, and `few`
    where the category has fewer than 60 rows. Intervals are 95 %, by bootstrap over pairs, the same draws for all.
    """

    table: pd.DataFrame

    def wide(self, *, negatives: str = "rest", metric: str = "auroc") -> pd.DataFrame:
        """Detectors by categories, one metric."""
        chosen = self.table[(self.table["negatives"] == negatives) & (self.table["metric"] == metric)]
        wide = chosen.pivot(index="detector", columns="category", values="value")
        order = list(dict.fromkeys(chosen["detector"])), list(dict.fromkeys(chosen["category"]))
        return wide.loc[order[0], order[1]]

    def __str__(self) -> str:
        return self.wide().round(4).to_string()


def detection_report(
    scores: pd.DataFrame | Mapping[str, Any],
    labels: pd.DataFrame,
    *,
    categories: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    hallucinations: Sequence[str] | None = None,
    metrics: Sequence[str] = ("auroc", "fpr90", "p_at_r90"),
    bootstrap: int = 1000,
    seed: int = 0,
) -> DetectionReport:
    """Judge detectors on labelled pairs.

    Args:
        scores: one column of risks a detector.
        labels: one column of bool a label, rows as in `scores`.
        categories: name -> labels, a row belongs if it has any of them; or names of labels. None: every label.
        hallucinations: the labels that make a row hallucinated, for the negatives of `clean`; None: all that the
            categories use.
        metrics: some of auroc, fpr90 (false-positive rate at 90 % recall), p_at_r90 (precision at 90 % recall).
        bootstrap: resamples of pairs; 0: no intervals.

    Raises:
        ValueError: lengths differ, an unknown label or metric, or a category with no row or all rows.
    """
    import pandas as pd

    frame, truth = pd.DataFrame(scores), labels.reset_index(drop=True)
    if len(frame) != len(truth):
        raise ValueError(f"labels: expected a row per score, {len(frame)}, got {len(truth)}")
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise ValueError(f"metrics: expected some of {', '.join(METRICS)}, got {unknown[0]!r}")
    chosen = _categories(truth, categories)
    kinds = list(dict.fromkeys(label for names in chosen.values() for label in names))
    hallucinated = _any(truth, list(hallucinations) if hallucinations is not None else kinds)
    weights = resample_weights(len(frame), draws=bootstrap, seed=seed) if bootstrap else None
    rows = []
    for category, names in chosen.items():
        positive = _any(truth, names)
        for negatives, kept in (("clean", positive | ~hallucinated), ("rest", np.ones(len(frame), dtype=bool))):
            if positive.all() or not positive.any() or positive[kept].all():
                raise ValueError(f"categories: {category!r} has {int(positive.sum())} of {len(frame)} rows")
            for detector in frame.columns:
                values = frame[detector].to_numpy(float)[kept]
                for metric in metrics:
                    measured = _measure(METRICS[metric], values, positive[kept], weights, kept)
                    rows.append(
                        {"detector": detector, "category": category, "negatives": negatives, "metric": metric}
                        | measured
                        | {"positives": int(positive.sum()), "negative_rows": int((kept & ~positive).sum())}
                        | {"few": bool(positive.sum() < FEW)}
                    )
    return DetectionReport(pd.DataFrame(rows))


def _measure(
    metric: Metric, values: np.ndarray, positive: np.ndarray, weights: Any, kept: np.ndarray
) -> dict[str, float]:
    if weights is None:
        return {"value": metric(values, positive), "low": np.nan, "high": np.nan}
    interval = detection_interval(metric, values, positive, weights[:, kept])
    return {"value": interval.estimate, "low": interval.low, "high": interval.high}


def _categories(labels: pd.DataFrame, given: Any) -> dict[str, tuple[str, ...]]:
    if given is None:
        given = [str(column) for column in labels.columns]
    chosen = dict(given) if isinstance(given, Mapping) else {name: (name,) for name in given}
    return {str(name): (names,) if isinstance(names, str) else tuple(names) for name, names in chosen.items()}


def _any(labels: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    if missing := [name for name in names if name not in labels.columns]:
        raise ValueError(f"categories: no label {missing[0]!r}; there are {', '.join(map(str, labels.columns))}")
    return labels[list(names)].to_numpy(dtype=bool).any(axis=1)
