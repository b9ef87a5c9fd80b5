"""How far a translation's attention over its source is from what is usual, by optimal transport.

    to uniform:  1/2 sum_j |a_j - 1/S|
    to data:     the mean of the 4 smallest  W(a, r) = sum_j |A_j - R_j|  over 1,000 references r of similar length
    together:    to uniform (rescaled) where it is beyond its 99.9 % quantile on references, else to data

`a` is the mean over target tokens of the attention on each source token, A and R are cumulative sums (zero padded), so
W is the 1-Wasserstein distance on token positions. Detached translations look at nothing, or at the end token only.

Reference: Guerreiro, Colombo, Piantanida, Martins, Optimal Transport for Unsupervised Hallucination Detection in Neural
Machine Translation (2023, arXiv 2212.09631).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REFERENCES, SMALLEST, WINDOW, QUANTILE = 1000, 4, 0.1, 0.999


@dataclass(frozen=True, eq=False)
class TransportReference:
    """Attention of translations that are taken for good, and what its distances look like.

    Attributes:
        cumulative: (R, longest) cumulative source attention of each, one from its end on.
        lengths: (R,) target tokens of each.
        unusual: the quantile of the distance to uniform beyond which it decides.
        uniform_range, data_range: smallest and largest distance of the references themselves.
    """

    cumulative: np.ndarray
    lengths: np.ndarray
    unusual: float
    uniform_range: tuple[float, float]
    data_range: tuple[float, float]
    seed: int = 0


def distance_to_uniform(marginals: Sequence[np.ndarray]) -> np.ndarray:
    """Half the L1 distance of each distribution to the uniform one over its source: (rows,) in [0, 1)."""
    return np.array([0.5 * np.abs(_distribution(row, a) - 1 / len(a)).sum() for row, a in enumerate(marginals)])


def transport_reference(
    marginals: Sequence[np.ndarray], lengths: np.ndarray, *, quantile: float = QUANTILE, seed: int = 0
) -> TransportReference:
    """References from the source marginals and target lengths of translations that are mostly good.

    Their own distances to data leave out the row itself.

    Raises:
        ValueError: fewer than 20 references, lengths of another number, or a row that is no distribution.
    """
    if len(marginals) < 20 or len(marginals) != len(lengths):
        raise ValueError(
            f"marginals: expected at least 20 references and a length each, got {len(marginals)}, {len(lengths)}"
        )
    cumulative = _cumulative(marginals)
    uniform = distance_to_uniform(marginals)
    bare = TransportReference(cumulative, np.asarray(lengths), 0.0, (0.0, 0.0), (0.0, 0.0), seed)
    data = distance_to_data(marginals, lengths, bare, themselves=True)
    return TransportReference(
        cumulative,
        np.asarray(lengths),
        float(np.quantile(uniform, quantile)),
        (float(uniform.min()), float(uniform.max())),
        (float(data.min()), float(data.max())),
        seed,
    )


def distance_to_data(
    marginals: Sequence[np.ndarray],
    lengths: np.ndarray,
    reference: TransportReference,
    *,
    count: int = REFERENCES,
    smallest: int = SMALLEST,
    window: float = WINDOW,
    themselves: bool = False,
) -> np.ndarray:
    """The mean of the `smallest` distances to at most `count` references whose length is within `window`: (rows,).

    Where no reference is that close in length, those of the closest length serve. `themselves`: the rows are the
    references, and none is compared with itself.
    """
    cumulative = _cumulative(marginals)
    rng = np.random.default_rng(reference.seed)
    width = max(cumulative.shape[1], reference.cumulative.shape[1])
    ours, theirs = _widen(cumulative, width), _widen(reference.cumulative, width)
    found = np.empty(len(marginals))
    for row, length in enumerate(np.asarray(lengths, dtype=np.float64)):
        apart = np.abs(reference.lengths - length)
        if themselves:
            apart[row] = np.inf
        near = np.flatnonzero(apart <= max(window * length, apart.min()))
        if len(near) > count:
            near = rng.choice(near, size=count, replace=False)
        distances = np.abs(theirs[near] - ours[row]).sum(1)
        kept = min(smallest, len(distances))
        found[row] = np.partition(distances, kept - 1)[:kept].mean()
    return found


def attention_transport(
    marginals: Sequence[np.ndarray], lengths: np.ndarray, reference: TransportReference
) -> np.ndarray:
    """The combined risk: (rows,), larger = riskier.

    Args:
        marginals: for each pair its source marginal, see `source_marginals`.
        lengths: (rows,) target tokens of each.
        reference: see `transport_reference`.

    Raises:
        ValueError: a row that is no distribution.
    """
    uniform = distance_to_uniform(marginals)
    data = distance_to_data(marginals, lengths, reference)
    (low, high), (to_low, to_high) = reference.uniform_range, reference.data_range
    rescaled = to_low + (uniform - low) * (to_high - to_low) / max(high - low, 1e-12)
    return np.where(uniform > reference.unusual, rescaled, data)


def _distribution(row: int, values: np.ndarray) -> np.ndarray:
    if values.ndim != 1 or not len(values) or (values < 0).any() or abs(values.sum() - 1) > 1e-3:
        raise ValueError(f"marginals: row {row + 1} is no distribution over the source: {np.round(values, 3)!s:.60}")
    return values


def _cumulative(marginals: Sequence[np.ndarray]) -> np.ndarray:
    """Cumulative sums, padded with the one that they end in."""
    width = max(len(a) for a in marginals)
    found = np.ones((len(marginals), width))
    for row, a in enumerate(marginals):
        found[row, : len(a)] = np.cumsum(_distribution(row, a))
        found[row, len(a) - 1] = 1.0
    return found


def _widen(cumulative: np.ndarray, width: int) -> np.ndarray:
    return np.pad(cumulative, ((0, 0), (0, width - cumulative.shape[1])), constant_values=1.0)
