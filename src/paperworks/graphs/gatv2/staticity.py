r"""How static an attention is: do all queries put the same sources in the same order?

Two queries can be compared on the sources that both see. A static attention (GAT) ranks sources by one number each, so
any two queries agree; a dynamic one may not. This is a statement about one layer and common neighbourhoods: a deep GAT
can still be dynamic in effect, since lower layers mix what a query knows into its keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from paperworks.graphs.gatv2.graph import CSRGraph

# Weights closer than this count as tied: rounding must not make a static attention look dynamic.
TIE = 1e-5


def attention_staticity(
    alpha: Tensor, graph: CSRGraph | Tensor, *, max_pairs: int = 2000, seed: int = 0
) -> dict[str, np.ndarray]:
    r"""Compare the attention of pairs of queries on the sources that both see.

    Args:
        alpha: (E, H), as `return_attention_weights=True` gives it.
        graph: the graph with these edges: a CSRGraph, or the edge_index (2, E) that came with alpha.
        max_pairs: pairs of queries to compare; all if there are no more, else a random choice, in which the chance of a
            pair grows with the number of sources that both see.
        seed: of that choice.

    Returns:
        Arrays (H,): `agreement`, the share of pairs whose largest weight among common sources lies on the same source;
        `kendall_w`, Kendall's coefficient of concordance W = (1 + (m - 1) r) / m, r the mean rank correlation of the
        pairs, m the number of queries in them (for one complete bipartite graph with all pairs: W itself);
        `distinct_argmax`, the largest number of different top sources within a set of queries that see the same
        sources (0 where no two queries do); and `pairs`, how many pairs were compared. NaN where no pair has two
        sources in common. All three are 1 for GAT, whatever its weights.

    Raises:
        ValueError: alpha does not have a row per edge.
    """
    edges = (graph.edge_index if isinstance(graph, CSRGraph) else graph).detach().cpu().numpy()
    weights = alpha.detach().float().cpu().numpy()
    if edges.ndim != 2 or weights.ndim != 2 or weights.shape[0] != edges.shape[1]:
        raise ValueError(f"alpha: expected ({edges.shape[-1]}, heads), got {tuple(alpha.shape)}")
    source, target, weights = _merge_multiples(edges[0], edges[1], weights)
    table = _Rows(source, target, weights)
    pairs = _pairs(source, target, max_pairs, np.random.default_rng(seed))
    heads = weights.shape[1]
    agree, correlation, compared = [], [], set()
    for one, two in pairs:
        left, right = table.common(one, two)
        if len(left) < 2:
            continue
        agree.append(((left >= left.max(0) * (1 - TIE)) & (right >= right.max(0) * (1 - TIE))).any(0))
        correlation.append(_rank_correlation(left, right))
        compared |= {one, two}
    empty = np.full(heads, np.nan)
    count = len(compared)
    mean = np.nanmean(correlation, axis=0) if _any_number(correlation) else empty
    return {
        "agreement": np.mean(agree, axis=0) if agree else empty,
        "kendall_w": (1 + (count - 1) * mean) / count if count else empty,
        "distinct_argmax": table.distinct_tops(),
        "pairs": np.full(heads, len(agree)),
    }


class _Rows:
    """Sources and weights of each query, sorted by source."""

    def __init__(self, source: np.ndarray, target: np.ndarray, weights: np.ndarray):
        self.source, self.weights = source, weights
        self.queries, first, count = np.unique(target, return_index=True, return_counts=True)
        rows = [slice(start, start + size) for start, size in zip(first.tolist(), count.tolist(), strict=True)]
        self._rows = dict(zip(self.queries.tolist(), rows, strict=True))

    def row(self, query: int) -> slice:
        return self._rows[query]

    def common(self, one: int, two: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights of both queries on their common sources."""
        left, right = self.row(one), self.row(two)
        _, at, bt = np.intersect1d(self.source[left], self.source[right], assume_unique=True, return_indices=True)
        return self.weights[left][at], self.weights[right][bt]

    def distinct_tops(self) -> np.ndarray:
        """The largest number of different top sources in a set of queries that see the same sources."""
        groups: dict[bytes, list[int]] = {}
        for query in self.queries.tolist():
            groups.setdefault(self.source[self.row(query)].tobytes(), []).append(query)
        best = np.zeros(self.weights.shape[1], dtype=int)
        for queries in groups.values():
            if len(queries) > 1:
                tops = np.stack([self._top(query, self.row(queries[0])) for query in queries])
                best = np.maximum(best, [len(np.unique(head)) for head in tops.T])
        return best

    def _top(self, query: int, reference: slice) -> np.ndarray:
        """The first source, in the order of the reference query, that ties with the largest weight."""
        order = np.argsort(-self.weights[reference], axis=0, kind="stable")
        own = np.take_along_axis(self.weights[self.row(query)], order, axis=0)
        place = (own >= own.max(0) * (1 - TIE)).argmax(0)
        return np.take_along_axis(order, place[None], axis=0)[0]


def _merge_multiples(source: Any, target: Any, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted by target, then source; of multiple edges the largest weight."""
    order = np.lexsort((source, target))
    source, target, weights = source[order], target[order], weights[order]
    new = np.append(True, (np.diff(source) != 0) | (np.diff(target) != 0))[: len(source)]
    first = np.flatnonzero(new)
    merged = np.maximum.reduceat(weights, first, axis=0) if len(first) else weights
    return source[first], target[first], merged


def _pairs(source: np.ndarray, target: np.ndarray, limit: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Pairs of queries with a source in common; all of them, or a random choice of at most `limit`."""
    order = np.argsort(source, kind="stable")
    by_source = target[order]
    sizes = np.unique(source, return_counts=True)[1].astype(np.float64)
    ends = np.cumsum(sizes).astype(int)
    chances = sizes * (sizes - 1)
    if chances.sum() == 0:
        return []
    if chances.sum() <= 4 * limit:
        groups = [np.sort(group) for group in np.split(by_source, ends[:-1])]
        all_pairs = {(int(a), int(b)) for group in groups for i, a in enumerate(group) for b in group[i + 1 :]}
        found = sorted(all_pairs)
        if len(found) <= limit:
            return found
        return [found[i] for i in np.sort(rng.choice(len(found), limit, replace=False))]
    # Many pairs share only one source and say nothing: draw more than are asked for, and keep distinct ones.
    drawn = rng.choice(len(sizes), 4 * limit, p=chances / chances.sum())
    first = (rng.random(len(drawn)) * sizes[drawn]).astype(int)
    second = (first + 1 + (rng.random(len(drawn)) * (sizes[drawn] - 1)).astype(int)) % sizes[drawn].astype(int)
    start = ends[drawn] - sizes[drawn].astype(int)
    one, two = by_source[start + first], by_source[start + second]
    found = dict.fromkeys(zip(np.minimum(one, two).tolist(), np.maximum(one, two).tolist(), strict=True))
    return list(found)[:limit]


def _rank_correlation(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each head's two columns; NaN where one is constant."""
    a, b = (_ranks(part) - (len(part) - 1) / 2 for part in (left, right))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0))


def _ranks(columns: np.ndarray) -> np.ndarray:
    """Ranks from 0; ties share their mean rank."""
    ranks = np.empty(columns.shape)
    for head, column in enumerate(columns.T):
        ordered = np.sort(column)
        before = np.searchsorted(ordered, column, "left") + np.searchsorted(ordered, column, "right")
        ranks[:, head] = (before - 1) / 2
    return ranks


def _any_number(rows: list[np.ndarray]) -> bool:
    return bool(rows) and bool(np.isfinite(np.stack(rows)).any(0).all())
