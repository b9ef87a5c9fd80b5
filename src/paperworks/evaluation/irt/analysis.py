"""A response table fitted and judged, and what came out in words; `apply` writes it, `report_page` draws it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from paperworks.data.responses import Responses

if TYPE_CHECKING:
    import pandas as pd

    from paperworks.evaluation.irt.fitted import IRTFit

MANY_GROUPS = 20  # the paper has 29; with 5, per-group weights leave abilities almost at their prior
ITEM_COLUMNS = ("group", "item", "a", "b", "c", "se_a", "se_b", "se_c", "p_correct", "n")
MISFIT_COLUMNS = ("point_biserial", "infit", "outfit", "flag")
FLAGS = ("unanswered", "all_right", "all_wrong", "negative_discrimination")


@dataclass(frozen=True)
class Analysis:
    """What one application found; the report and the tables are drawn from it."""

    fit: IRTFit
    items: pd.DataFrame
    responders: pd.DataFrame
    groups: pd.DataFrame
    summary: pd.DataFrame
    suspects: pd.DataFrame
    warnings: tuple[str, ...]
    clustered: bool


def analyse(
    table: Responses,
    *,
    model: Literal["1pl", "2pl", "3pl", "4pl"] = "2pl",
    method: Literal["mml", "vi", "map"] = "mml",
    weights: Literal["auto", "per_group"] | None = "auto",
    bootstrap: int = 1000,
    refits: int = 20,
    seed: int = 0,
) -> Analysis:
    """Fit and judge a table of responses; `weights` "auto": per group from 20 groups on.

    Raises:
        ValueError: as `fit_irt` and `compare_groups`.
    """
    from paperworks.evaluation.irt.diagnostics import compare_groups, item_fit, suspect_items
    from paperworks.evaluation.irt.fit import fit_irt

    if weights == "auto":
        weights = "per_group" if len(table.group_names) >= MANY_GROUPS else None
    clustered = table.families is not None and len(set(table.families.tolist())) > 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = fit_irt(table, model=model, method=method, weights=weights)
    said = tuple(dict.fromkeys(str(warning.message) for warning in caught))
    misfit = item_fit(fit, table)
    d_columns = ["d", "se_d"] if model == "4pl" else []
    items = fit.items[[*ITEM_COLUMNS, *d_columns]].assign(
        leh=fit.leh(), **{name: misfit[name] for name in MISFIT_COLUMNS}
    )
    with warnings.catch_warnings():
        # Refits on fewer families say again what the fit has said.
        warnings.simplefilter("ignore")
        ranking = compare_groups(
            fit, bootstrap=bootstrap, clusters="families" if clustered else None, refits=refits, seed=seed
        )
    groups = _group_table(fit, ranking)
    return Analysis(
        fit,
        items,
        fit.responders,
        groups,
        _summary(fit, table, items, said),
        suspect_items(fit, table),
        said,
        clustered,
    )


def _group_table(fit: IRTFit, ranking: pd.DataFrame) -> pd.DataFrame:
    more = fit.summary()[["group", "leh_mean", "log_a", "p_correct", "information"]]
    names = {"q75": "leh_q75", "low": "leh_q75_low", "high": "leh_q75_high", "top3": "share_in_top3"}
    joined = ranking.merge(more, on="group", validate="one_to_one")
    return joined.rename(columns={**names, "information": "test_information"})


def _summary(fit: IRTFit, table: Responses, items: pd.DataFrame, said: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    flags = items["flag"].str.split().explode().dropna().value_counts()
    facts = {
        "model": fit.model,
        "method": fit.method,
        "responders": len(table),
        "items": len(table.items),
        "groups": len(table.group_names) or 1,
        "weights": "each item one vote" if np.ptp(fit.weights) == 0 else "each group one vote",
        "missing_share": table.missing_share,
        "loglik": fit.loglik,
        "iterations": fit.iterations,
        "converged": fit.converged,
        "best_responder": fit.best,
        "best_theta": float(fit.theta.max()),
        "mean_leh": float(items["leh"].to_numpy().mean()),
        **{f"items_{name}": int(flags.get(name, 0)) for name in FLAGS},
        "fingerprint": table.fingerprint,
        "warnings": " | ".join(said),
    }
    return pd.DataFrame({"fact": list(facts), "value": [str(value) for value in facts.values()]})


def findings(found: Analysis) -> list[str]:
    """What the analysis says in words, including that it says nothing."""
    return [_leaders(found), *_separating(found), _doubtful(found)]


def _leaders(found: Analysis) -> str:
    ranked = found.responders.sort_values("theta", ascending=False, kind="stable")
    theta, sd = ranked["theta"].to_numpy(), ranked["sd"].to_numpy()
    near = int((theta[0] - theta[1:] < 1.96 * np.hypot(sd[0], sd[1:])).sum())
    best = f"Ablest: {ranked['responder'].iloc[0]} (theta {theta[0]:.2f}, sd {sd[0]:.2f})"
    if not near:
        return f"{best}, clearly ahead of {ranked['responder'].iloc[1]}."
    others = "other responder cannot" if near == 1 else "other responders cannot"
    return f"{best}; {near} {others} be told from it: the difference is within two standard errors."


def _separating(found: Analysis) -> list[str]:
    groups = found.groups
    if len(groups) < 2:
        return []
    first, last = groups.iloc[0], groups.iloc[-1]
    if int(first["rank_high"]) >= int(last["rank_low"]):
        return [f"No evidence that any of the {len(groups)} groups separates strong responders better than another."]
    best = f"{first['group']} (headroom {first['leh_q75']:.3f}, {_rank_words(first)} of {len(groups)})"
    least = f"{last['group']} ({last['leh_q75']:.3f}, {_rank_words(last)})"
    return [f"Separates strong responders best: {best}; least: {least}."]


def _rank_words(row: pd.Series) -> str:
    low, high = int(row["rank_low"]), int(row["rank_high"])
    return f"rank {low}" if low == high else f"rank {low} to {high}"


def _doubtful(found: Analysis) -> str:
    negative = int(found.items["flag"].str.contains("negative_discrimination").sum())
    if not negative:
        return "No item is answered better by weaker responders than by stronger ones: no sign of wrong labels."
    return f"{negative} of {len(found.items)} items are answered better by weaker responders than by stronger ones."
