"""How well a score finds rare rows: AUROC, false positives at a recall, precision at a recall; and McNemar's test.

Scores are risks: larger means more likely positive. Every metric takes integer weights (draws, n), how often each row
was drawn, and then returns one value per draw. A thousand resamples of a score are so one sort and a few cumulative
sums, and one table of weights serves all scores, which makes their differences paired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from paperworks.lab.statistics import Interval, from_draws

Metric: TypeAlias = Callable[..., Any]
# A block of resamples whose temporaries stay within the processor's cache.
BLOCK = 64


def auroc(scores: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """Area under the ROC curve: `P(score of a positive > score of a negative) + P(equal) / 2`.

    Args:
        scores: (n,), larger = riskier.
        labels: (n,) bool.
        weights: (draws, n) counts; None: every row once.

    Returns:
        A float, or (draws,); NaN where a draw has no positive or no negative.

    Raises:
        ValueError: lengths differ, a score is NaN, or (without weights) a class is empty.
    """
    values, positive = _check(scores, labels, weights)
    order = np.argsort(values, kind="stable")
    starts = _tie_starts(values[order])
    positive = positive[order]

    def block(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        counts = counts[:, order]
        hits = np.add.reduceat(counts * positive, starts, axis=1)
        misses = np.add.reduceat(counts * ~positive, starts, axis=1)
        below = np.cumsum(misses, axis=1) - misses / 2
        return (hits * below).sum(1) / (hits.sum(1) * misses.sum(1))

    return _over(weights, values, labels, block)


def fpr_at_tpr(scores: ArrayLike, labels: ArrayLike, *, tpr: float = 0.9, weights: ArrayLike | None = None) -> Any:
    """The false-positive rate at the first threshold, from above, that finds at least the share `tpr` of positives.

    That is a point of the full ROC curve (scikit-learn's with `drop_intermediate=False`), not an interpolation.
    Arguments, result and errors as for `auroc`.
    """
    values, positive = _check(scores, labels, weights)
    _share(tpr, "tpr")
    order = np.argsort(-values, kind="stable")
    starts = _tie_starts(-values[order])
    positive = positive[order]

    def block(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        counts = counts[:, order]
        hits = np.cumsum(np.add.reduceat(counts * positive, starts, axis=1), axis=1)
        misses = np.cumsum(np.add.reduceat(counts * ~positive, starts, axis=1), axis=1)
        first = (hits / hits[:, -1:] < tpr).sum(1)
        rows = np.arange(len(counts))
        return misses[rows, np.minimum(first, len(starts) - 1)] / misses[:, -1]

    return _over(weights, values, labels, block)


def precision_at_recall(
    scores: ArrayLike, labels: ArrayLike, *, recall: float = 0.9, weights: ArrayLike | None = None
) -> Any:
    """The share of positives among rows scored at least as high as the (1 - recall) quantile of the positives' scores.

    The quantile is interpolated linearly, as in Dale et al. (2022). Arguments, result and errors as for `auroc`.
    """
    values, positive = _check(scores, labels, weights)
    _share(recall, "recall")
    order = np.argsort(values, kind="stable")
    values, positive = values[order], positive[order]
    ranked = values[positive]

    def block(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        counts = counts[:, order]
        thresholds = _weighted_quantile(ranked, counts[:, positive], 1 - recall)
        first = np.searchsorted(values, thresholds, side="left")
        rows = np.arange(len(counts))
        above = _reverse_cumsum(counts)[rows, first]
        return _reverse_cumsum(counts * positive)[rows, first] / above

    return _over(weights, values, labels, block)


def resample_weights(
    count: int, *, draws: int = 1000, seed: int = 0, clusters: ArrayLike | None = None
) -> NDArray[np.int32]:
    """(draws, count) how often each row is drawn with replacement, alone or in whole clusters.

    Raises:
        ValueError: no rows, no draws, or clusters of another length.
    """
    if count < 1 or draws < 1:
        raise ValueError(f"count, draws: expected at least 1, got {count}, {draws}")
    groups = np.arange(count) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    if len(groups) != count:
        raise ValueError(f"clusters: expected one per row, {count}, got {len(groups)}")
    units = int(groups.max()) + 1
    # A stream of its own: data made from the same small seed must not decide which of its rows are drawn.
    drawn = np.random.default_rng((seed, 0xB007)).multinomial(units, np.full(units, 1 / units), size=draws)
    return drawn.astype(np.int32)[:, groups]


def detection_interval(
    metric: Metric, scores: ArrayLike, labels: ArrayLike, weights: ArrayLike, *, unit: str = "pairs"
) -> Interval:
    """A metric with its percentile interval over resamples; draws without a positive or a negative are left out."""
    draws = metric(scores, labels, weights=weights)
    estimate = metric(scores, labels)
    return from_draws(draws[np.isfinite(draws)], estimate=float(estimate), count=len(np.asarray(labels)), unit=unit)


def difference_interval(
    metric: Metric,
    scores: ArrayLike,
    rival: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike,
    *,
    unit: str = "pairs",
) -> Interval:
    """`metric(scores) - metric(rival)` on the same resamples."""
    draws = metric(scores, labels, weights=weights) - metric(rival, labels, weights=weights)
    estimate = metric(scores, labels) - metric(rival, labels)
    return from_draws(draws[np.isfinite(draws)], estimate=float(estimate), count=len(np.asarray(labels)), unit=unit)


@dataclass(frozen=True)
class McNemar:
    """Rows that only the first, only the second condition has, and the exact two-sided p-value of their difference."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """McNemar's exact test: do two yes/no outcomes of the same rows have the same rate?

    Only the rows on which they differ tell; under equality each is a fair coin.

    Raises:
        ValueError: lengths differ.
    """
    left, right = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if left.shape != right.shape or left.ndim != 1:
        raise ValueError(f"first, second: expected two vectors of one length, got {left.shape} and {right.shape}")
    only_left, only_right = int((left & ~right).sum()), int((right & ~left).sum())
    differing = only_left + only_right
    p = float(stats.binomtest(only_left, differing).pvalue) if differing else 1.0
    return McNemar(only_left, only_right, p)


def _check(scores: ArrayLike, labels: ArrayLike, weights: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != positive.shape:
        raise ValueError(f"scores, labels: expected two vectors of one length, got {values.shape}, {positive.shape}")
    if positive.dtype != np.bool_:
        raise ValueError(f"labels: expected bool, got {positive.dtype}; pass labels.astype(bool)")
    if np.isnan(values).any():
        raise ValueError(f"scores: {int(np.isnan(values).sum())} of {len(values)} are NaN")
    if weights is None and (positive.all() or not positive.any()):
        raise ValueError(f"labels: expected positives and negatives, got {int(positive.sum())} of {len(positive)}")
    if weights is not None and (np.ndim(weights) != 2 or np.shape(weights)[1] != len(values)):
        raise ValueError(f"weights: expected (draws, {len(values)}), got {np.shape(weights)}")
    return values, positive


def _share(value: float, name: str) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name}: expected a share in (0, 1], got {value}")


def _over(
    weights: Any,
    values: NDArray[np.float64],
    labels: ArrayLike,
    block: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> Any:
    """The metric of all rows, or of each draw in blocks; NaN for draws without a positive or a negative."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if weights is None:
            return float(block(np.ones((1, len(values))))[0])
        table, positive = np.asarray(weights), np.asarray(labels, dtype=np.float64)
        parts = [block(table[first : first + BLOCK].astype(np.float64)) for first in range(0, len(table), BLOCK)]
        hits = table @ positive
        return np.where((hits > 0) & (hits < table.sum(1)), np.concatenate(parts), np.nan)


def _tie_starts(ranked: NDArray[np.float64]) -> NDArray[np.intp]:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])


def _reverse_cumsum(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]


def _weighted_quantile(ranked: NDArray[np.float64], counts: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """The quantile of each draw's values, every value repeated as often as counted, interpolated as NumPy does."""
    ends = np.cumsum(counts, axis=1)
    place = (ends[:, -1] - 1) * share
    low = np.floor(place)
    last = len(ranked) - 1
    left = ranked[np.minimum((ends <= low[:, None]).sum(1), last)]
    right = ranked[np.minimum((ends <= np.ceil(place)[:, None]).sum(1), last)]
    part = place - low
    # From the nearer end, so that the result never leaves the two values.
    return np.where(part < 0.5, left + (right - left) * part, right - (right - left) * (1 - part))
