"""What a fit says about single items and about groups of items: misfit, suspects, subsets, rankings with intervals.

Residuals y - P come from the fit's own abilities. Standard errors that treat responders as independent are too small
where several are checkpoints of one model: `compare_groups(..., clusters="families")` refits on resampled families.

Reference: Vania et al. 2021, arXiv 2106.00840, for the headroom; infit and outfit: Wright & Masters 1982. The suspects'
scores and the selection of items are not in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from paperworks.data.responses import Responses
from paperworks.evaluation.irt.curves import item_curve
from paperworks.evaluation.irt.fitted import IRTFit

if TYPE_CHECKING:
    import pandas as pd

BLOCK_CELLS = 1 << 21
Suspicion = Literal[
    "expert_logit", "error_rate", "difficulty", "best_third_error", "point_biserial", "outfit", "flatness"
]
Statistic = Literal["leh", "log_a"]
QUANTILE = 0.75


def item_fit(fit: IRTFit, responses: Responses | None = None) -> pd.DataFrame:
    """How well each item's curve describes its answers.

        outfit_i = mean_r (y - P)^2 / (P (1 - P)),   infit_i = sum_r (y - P)^2 / sum_r P (1 - P)

    `point_biserial` is the correlation of the answer with the responder's share of right answers to the *other* items.
    Both fits are about 1 where the model is true (a little less, since abilities come from the same answers); outfit is
    moved by single surprises.

    Args:
        responses: what the fit was made from; default: what it still holds.

    Returns:
        One row an item: group, item, infit, outfit, point_biserial (NaN where everybody answered alike), flag: empty,
        or words among unanswered, all_right, all_wrong, negative_discrimination.

    Raises:
        ValueError: the fit was loaded from files and no responses are given, or they are others.
    """
    import pandas as pd

    table = _table(fit, responses)
    parts = [_misfit(fit, table, columns) for columns in _blocks(table)]
    outfit, infit, biserial = (np.concatenate(values) for values in zip(*parts, strict=True))
    p_correct = table.p_correct()
    flags = {
        "unanswered": np.isnan(p_correct),
        "all_right": p_correct == 1,
        "all_wrong": p_correct == 0,
        "negative_discrimination": biserial < 0,
    }
    names = list(flags)
    words = [
        " ".join(name for name, on in zip(names, row, strict=True) if on) for row in zip(*flags.values(), strict=True)
    ]
    columns = {"infit": infit, "outfit": outfit, "point_biserial": biserial, "flag": words}
    return pd.DataFrame(_head(fit) | columns)


def suspect_items(fit: IRTFit, responses: Responses | None = None, *, by: Suspicion = "expert_logit") -> pd.DataFrame:
    """Items by how probably their label is wrong, the most suspect first.

    Seven scores, each the higher the more suspect:
        expert_logit      -a (theta_k - b): log-odds against the k-th best responder, k = min(10, a quarter of them)
        error_rate        share of wrong answers
        difficulty        b
        best_third_error  share of wrong answers among the third of highest ability
        point_biserial    minus the correlation with the other items
        outfit            outfit
        flatness          -log a

    `expert_logit` is the default because it was the best of the seven on three pilot draws, .007 above the plain error
    rate in average precision: a selection, no evidence. The study's claim E2 tests it on fresh draws.

    Returns:
        rank, group, item, p_correct, n and the seven scores, by falling `by`; unanswered items come last.

    Raises:
        ValueError: no such score; no responses (see `item_fit`).
    """
    import pandas as pd

    if by not in get_args(Suspicion):
        raise ValueError(f"by: expected one of {', '.join(get_args(Suspicion))}, got {by!r}")
    table = _table(fit, responses)
    misfit = item_fit(fit, table)
    order = np.argsort(-fit.theta, kind="stable")
    expert = fit.theta[order[min(10, max(1, len(order) // 4)) - 1]]
    third = table.select(responders=order[: math.ceil(len(order) / 3)])
    scores: dict[Suspicion, np.ndarray] = {
        "expert_logit": -fit.a * (expert - fit.b),
        "error_rate": 1 - table.p_correct(),
        "difficulty": fit.b,
        "best_third_error": 1 - third.p_correct(),
        "point_biserial": -misfit["point_biserial"].to_numpy(),
        "outfit": misfit["outfit"].to_numpy(),
        "flatness": -fit.log_a,
    }
    frame = pd.DataFrame(_head(fit) | {"p_correct": fit.p_correct, "n": fit.n} | scores)
    answered = ~np.isnan(table.p_correct())
    keys = np.where(answered & ~np.isnan(scores[by]), scores[by], -np.inf)
    frame = frame.iloc[np.argsort(-keys, kind="stable")].reset_index(drop=True)
    frame.insert(0, "rank", np.arange(1, len(frame) + 1))
    return frame


def select_items(fit: IRTFit, k: int, *, at: str | float | Sequence[float] | np.ndarray = "best") -> tuple[str, ...]:
    """The `k` items that tell most about an ability (Fisher information), the most informative first.

    Measured (the study's claim E3): to *estimate the full accuracy* of unseen models, items drawn at random do better
    than these. Never rank models by raw accuracy on chosen items; use `score_responders`.

    Args:
        at: "best", a responder's name, an ability, or several abilities over which the information is averaged.

    Raises:
        ValueError: k outside 1 ... number of items, or no such responder.
    """
    if not 1 <= k <= len(fit.item_names):
        raise ValueError(f"k: expected 1 to {len(fit.item_names)} items, got {k}")
    abilities = np.array([fit.ability(at)]) if isinstance(at, (str, int, float)) else np.asarray(at, dtype=np.float64)
    if abilities.ndim != 1 or not len(abilities) or not np.isfinite(abilities).all():
        raise ValueError(f"at: expected a responder or finite abilities (T,), got shape {abilities.shape}")
    information = sum(fit.information(float(theta)) for theta in abilities)
    return tuple(fit.item_names[position] for position in np.argsort(-np.asarray(information), kind="stable")[:k])


@dataclass(frozen=True)
class GroupDraws:
    """Bootstrap draws of a statistic's upper quartile: `values` (draws, groups) and the estimate (groups,)."""

    groups: tuple[str, ...]
    estimate: np.ndarray
    values: np.ndarray

    @property
    def ranks(self) -> np.ndarray:
        """(draws, groups): 1 is the largest value of the draw."""
        return _ranks(self.values)


def compare_groups(
    fit: IRTFit,
    *,
    bootstrap: int = 1000,
    clusters: Literal["families"] | Sequence[str] | np.ndarray | None = None,
    refits: int = 20,
    statistic: Statistic = "leh",
    at: str | float = "best",
    seed: int = 0,
) -> pd.DataFrame:
    """Rank the groups by the upper quartile of their items' headroom, with 95 % bootstrap intervals.

    Items are resampled within their group. With `clusters`, responders are too, a whole cluster at a time, and the
    model is refitted for each of `refits` such draws; the item draws are spread over the refits.

    Args:
        clusters: "families" (the fit's), or one label per responder; None: responders as they are.
        statistic: "leh", or "log_a".
        at: ability at which headroom is taken; a refit takes its own best responder for "best".

    Returns:
        One row a group, by rank: group, items, q75, low, high, rank, rank_low, rank_high, top3 (share of draws).

    Raises:
        ValueError: as `group_draws`.
    """
    import pandas as pd

    options = {"bootstrap": bootstrap, "clusters": clusters, "refits": refits, "statistic": statistic}
    draws = group_draws(fit, **options, at=at, seed=seed)
    labels = _groups(fit)
    low, high = np.quantile(draws.values, [0.025, 0.975], axis=0)
    ranks = draws.ranks
    # Ranks are whole numbers: the interval's ends are draws themselves, never a number between two ranks.
    first, last = np.quantile(ranks, [0.025, 0.975], axis=0, method="inverted_cdf")
    frame = pd.DataFrame(
        {
            "group": draws.groups,
            "items": [int((labels == name).sum()) for name in draws.groups],
            "q75": draws.estimate,
            "low": low,
            "high": high,
            "rank": _ranks(draws.estimate[None])[0],
            "rank_low": first.astype(int),
            "rank_high": last.astype(int),
            "top3": (ranks <= 3).mean(0),
        }
    )
    return frame.sort_values("rank", kind="stable").reset_index(drop=True)


def group_draws(
    fit: IRTFit,
    *,
    bootstrap: int = 1000,
    clusters: Literal["families"] | Sequence[str] | np.ndarray | None = None,
    refits: int = 20,
    statistic: Statistic = "leh",
    at: str | float = "best",
    seed: int = 0,
) -> GroupDraws:
    """The draws behind `compare_groups`, for figures and for other questions about ranks.

    Raises:
        ValueError: fewer than one draw; unknown statistic; clusters that are not one label per responder, or only one;
            a fit without responses where clusters ask for refits.
    """
    if bootstrap < 1 or refits < 1:
        raise ValueError(f"bootstrap, refits: expected at least 1, got {bootstrap} and {refits}")
    if statistic not in get_args(Statistic):
        raise ValueError(f"statistic: expected one of {', '.join(get_args(Statistic))}, got {statistic!r}")
    labels = _groups(fit)
    names = tuple(dict.fromkeys(labels.tolist()))
    members = [np.flatnonzero(labels == name) for name in names]
    rng = np.random.default_rng(seed)
    estimate = np.array([np.quantile(_values(fit, statistic, at)[items], QUANTILE) for items in members])
    fits: Iterator[IRTFit] = iter([fit]) if clusters is None else _refits(fit, clusters, refits, rng)
    count = 1 if clusters is None else min(refits, bootstrap)
    shares = [bootstrap // count + (number < bootstrap % count) for number in range(count)]
    parts = []
    for share, drawn in zip(shares, fits, strict=False):
        values = _values(drawn, statistic, at)
        parts.append(np.stack([resampled_quantile(values[items], share, rng) for items in members], axis=1))
    return GroupDraws(names, estimate, np.concatenate(parts))


def resampled_quantile(values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Upper quartiles of `draws` resamples (with replacement) of `values`: exact in law, cost free of n.

    The k-th smallest of n uniform draws is Beta(k, n + 1 - k), the next one given it is again a Beta; a resample's
    order statistics are the sorted values at those places. Interpolates linearly as `np.quantile` does.
    """
    n = len(values)
    place = (n - 1) * QUANTILE
    k = int(place) + 1
    ordered = np.sort(values)
    lower = rng.beta(k, n + 1 - k, size=draws)
    upper = lower if k == n else lower + (1 - lower) * rng.beta(1, n - k, size=draws)
    left, right = (ordered[np.minimum((n * part).astype(np.int64), n - 1)] for part in (lower, upper))
    return left + (place - int(place)) * (right - left)


def _refits(
    fit: IRTFit, clusters: str | Sequence[str] | np.ndarray, refits: int, rng: np.random.Generator
) -> Iterator[IRTFit]:
    from paperworks.evaluation.irt.fit import fit_irt

    table = _table(fit, None)
    labels = fit.families if isinstance(clusters, str) and clusters == "families" else np.asarray(clusters)
    if labels is None:
        raise ValueError('clusters: "families" needs responses with families; give one label per responder instead')
    if labels.shape != (len(table),):
        raise ValueError(f"clusters: expected {len(table)} labels, one per responder, got shape {labels.shape}")
    names, which = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError("clusters: expected at least two different labels; one cluster cannot be resampled")
    for _ in range(refits):
        drawn = rng.integers(len(names), size=len(names))
        rows = np.concatenate([np.flatnonzero(which == cluster) for cluster in drawn])
        yield fit_irt(
            _repeated(table, rows), model=fit.model, method=fit.method, priors=fit.priors, weights=fit.weights
        )


def _repeated(table: Responses, rows: np.ndarray) -> Responses:
    """Responders at these positions, where one may come several times."""
    names = tuple(f"{table.responders[row]} (draw {number})" for number, row in enumerate(rows))
    observed = None if table.observed is None else table.observed[rows]
    return Responses(table.values[rows], observed, names, table.items, table.groups)


def _values(fit: IRTFit, statistic: Statistic, at: str | float) -> np.ndarray:
    return fit.leh(at) if statistic == "leh" else fit.log_a


def _ranks(values: np.ndarray) -> np.ndarray:
    order = np.argsort(-values, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, values.shape[1] + 1)[None], axis=1)
    return ranks


def _groups(fit: IRTFit) -> np.ndarray:
    return np.full(len(fit.item_names), "all") if fit.groups is None else fit.groups


def _head(fit: IRTFit) -> dict[str, object]:
    return {"group": _groups(fit), "item": list(fit.item_names)}


def _table(fit: IRTFit, responses: Responses | None) -> Responses:
    table = fit.responses if responses is None else responses
    if table is None:
        raise ValueError("responses: a fit that was loaded from files holds none; give the table it was made from")
    if table.responders != fit.responder_names or table.items != fit.item_names:
        rows, columns = len(fit.responder_names), len(fit.item_names)
        raise ValueError(
            f"responses: expected the table of the fit, {rows} responders and {columns} items, got another one with "
            f"{len(table)} and {len(table.items)}"
        )
    return table


def _blocks(table: Responses) -> Iterator[slice]:
    size = max(1, BLOCK_CELLS // len(table))
    for start in range(0, len(table.items), size):
        yield slice(start, start + size)


def _misfit(fit: IRTFit, table: Responses, columns: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outfit, infit and point-biserial of a block of items."""
    right = table.values[:, columns].astype(np.float64)
    seen = np.ones_like(right) if table.observed is None else table.observed[:, columns].astype(np.float64)
    a, b, c, d = (values[columns] for values in (fit.a, fit.b, fit.c, fit.d))
    chance = item_curve(fit.theta[:, None], a, b, c, d)
    # A chance of exactly 0 or 1 in floating point would divide by zero; that far out any surprise is infinite anyway.
    variance = np.maximum(chance * (1 - chance), np.finfo(np.float64).tiny)
    squared = seen * (right - chance) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        outfit = (squared / variance).sum(0) / seen.sum(0)
        infit = squared.sum(0) / (seen * variance).sum(0)
        return outfit, infit, _biserial(right, seen, table)


def _biserial(right: np.ndarray, seen: np.ndarray, table: Responses) -> np.ndarray:
    """Correlation of each column with the responder's accuracy on the other items, over those who were asked."""
    total = table.values.sum(1, dtype=np.int64)[:, None]
    count = (np.full(len(table), len(table.items)) if table.observed is None else table.observed.sum(1))[:, None]
    rest_count = count - seen
    rest = (total - right) / np.maximum(rest_count, 1)
    weight = seen * (rest_count > 0)
    n = weight.sum(0)
    right_mean, rest_mean = (weight * right).sum(0) / n, (weight * rest).sum(0) / n
    left, other = weight * (right - right_mean), weight * (rest - rest_mean)
    product = (left * other).sum(0)
    scale = np.sqrt((left**2).sum(0) * (other**2).sum(0))
    return np.where(scale > 1e-12, product / scale, np.nan)
