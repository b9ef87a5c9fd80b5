"""Fit item response models to a table of answers, and what the fit can tell.

`fit_irt` is the one door to the three methods: marginal maximum likelihood ("mml", seconds on any table of benchmark
size), the paper's variational recipe ("vi") and joint MAP ("map", for tables large in both directions). All fit the
1PL to 4PL with the same likelihood, priors and item weights, and all take gaps in the table.

Reference: Vania et al. 2021, arXiv 2106.00840.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from paperworks.data.responses import Responses
from paperworks.evaluation.irt.abilities import Scoring, abilities, eap, score_responders
from paperworks.evaluation.irt.curves import Model, free_rows
from paperworks.evaluation.irt.fitted import IRTFit, Method
from paperworks.evaluation.irt.priors import Priors

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from paperworks.evaluation.irt.mml import Estimate, Nodes

METHODS = ("mml", "vi", "map")
EDGE_MASS = 0.01


def fit_irt(
    responses: Responses | np.ndarray | pd.DataFrame | torch.Tensor,
    *,
    model: Model = "3pl",
    method: Method = "mml",
    priors: Priors | None = None,
    weights: Literal["auto", "per_group"] | np.ndarray | None = "auto",
    nodes: Nodes = "auto",
    steps: int = 500,
    lr: float = 0.1,
    seed: int = 101,
    device: torch.device | str | None = None,
    tol: float = 1e-3,
) -> IRTFit:
    """Fit item curves and abilities to a table of right and wrong answers.

        P(y_ri = 1) = c_i + (d_i - c_i) sigmoid(a_i (theta_r - b_i)),   theta ~ N(0, 1)

    Args:
        responses: a `Responses`, or an array of 0, 1 and NaN, responders in rows.
        model: "1pl" (a = 1), "2pl" (a free), "3pl" (c free; the paper's), "4pl" (d free too). Below about 200
            responders c leans on its prior.
        method: "mml", "vi" (the paper's) or "map"; see `mml.py`, `vi.py`, `map.py`.
        priors: default the paper's; `Priors.none()` for textbook maximum likelihood.
        weights: "per_group": v_i = 1 / number of items of its group, each test set one vote (the paper); None: each
            item one vote; (M,) numbers; "auto": per group where there are two groups or more. The weights decide the
            answer: with per-group weights an ability rests on as many mean items as there are groups.
        nodes: quadrature of "mml": "auto", a number of nodes, or "adaptive".
        steps: most iterations ("vi": exactly so many). lr, seed: of "vi"; the paper's seed is 101.
        tol: "mml" and "map" stop when no ability moves by so much.

    Warns by name of responders pinned at the edge of the ability range, and where an iteration limit was reached.

    Raises:
        ValueError: fewer than two responders, values other than 0, 1 and NaN, unknown options, weights that do not fit.
    """
    from paperworks.evaluation.irt.map import map_fit
    from paperworks.evaluation.irt.mml import mml_fit
    from paperworks.evaluation.irt.vi import vi_fit

    free_rows(model)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    _check_numbers(nodes, steps, lr, tol)
    if not isinstance(responses, Responses):
        responses = Responses.from_array(responses)
    if len(responses.responders) < 2:
        raise ValueError("responses: expected at least two responders; one alone says nothing about the items")
    v = item_weights(responses, weights)
    priors = Priors() if priors is None else priors
    table = (responses.values, responses.observed, v)
    common = {"model": model, "priors": priors, "steps": steps, "device": device or "cpu"}
    if method == "mml":
        estimate = mml_fit(*table, nodes=nodes, tol=tol, **common)
    elif method == "vi":
        estimate = vi_fit(*table, lr=lr, seed=seed, **common)
    else:
        estimate = map_fit(*table, tol=tol, **common)
    _warn(estimate, responses, steps)
    return _assemble(responses, estimate, model, method, v, priors)


def item_weights(responses: Responses, weights: str | np.ndarray | None) -> np.ndarray:
    """v_i of each item, (M,).

    Raises:
        ValueError: "per_group" without groups, or numbers that are not M positive ones.
    """
    items, groups = len(responses.items), responses.groups
    if isinstance(weights, str):
        if weights not in ("auto", "per_group"):
            raise ValueError(f'weights: expected "auto", "per_group", None or an array, got {weights!r}')
        if weights == "per_group" and groups is None:
            raise ValueError("weights: per_group needs responses with groups; give groups=, or weights=None")
        names, which, counts = np.unique(
            np.zeros(items) if groups is None else groups, return_inverse=True, return_counts=True
        )
        if weights == "auto" and len(names) < 2:
            return np.ones(items)
        return 1 / counts[which]
    if weights is None:
        return np.ones(items)
    v = np.asarray(weights, dtype=np.float64)
    if v.shape != (items,) or not (np.isfinite(v).all() and (v > 0).all()):
        raise ValueError(f"weights: expected {items} positive numbers, got shape {v.shape}")
    return v


def _check_numbers(nodes: Any, steps: int, lr: float, tol: float) -> None:
    if not (nodes in ("auto", "adaptive") or (isinstance(nodes, int) and nodes >= 5)):
        raise ValueError(f'nodes: expected "auto", "adaptive" or a number of at least 5, got {nodes!r}')
    for name, value in (("steps", steps), ("lr", lr), ("tol", tol)):
        if not value > 0:
            raise ValueError(f"{name}: expected a number > 0, got {value!r}")


def _warn(estimate: Estimate, responses: Responses, steps: int) -> None:
    if estimate.edge is not None and (pinned := np.flatnonzero(estimate.edge > EDGE_MASS)).size:
        names = ", ".join(responses.responders[row] for row in pinned[:5])
        more = f" and {len(pinned) - 5} more" if len(pinned) > 5 else ""
        warnings.warn(
            f"abilities at the edge of [-6, 6]: {names}{more}; they do worse than guessing or better than every item, "
            "so their abilities are not determined",
            stacklevel=3,
        )
    if not estimate.converged:
        warnings.warn(f"no convergence within {steps} iterations: raise steps or tol", stacklevel=3)


def _assemble(
    responses: Responses, estimate: Estimate, model: Model, method: Method, v: np.ndarray, priors: Priors
) -> IRTFit:
    observed, (rows, columns) = responses.observed, responses.shape
    fit = IRTFit(
        model,
        method,
        estimate.params,
        estimate.sd,
        v,
        responses.p_correct(),
        np.full(columns, rows) if observed is None else observed.sum(0),
        responses.items,
        responses.groups,
        estimate.theta,
        estimate.theta_sd,
        responses.accuracy(),
        np.full(rows, columns) if observed is None else observed.sum(1),
        responses.responders,
        responses.families,
        objective=estimate.objective,
        iterations=estimate.iterations,
        converged=estimate.converged,
        priors=priors,
        responses=responses,
    )
    if estimate.loglik is not None:
        return replace(fit, loglik=estimate.loglik)
    return replace(fit, loglik=abilities(responses.values, observed, v, fit.point)[2])


__all__ = ["IRTFit", "Method", "Priors", "Scoring", "eap", "fit_irt", "item_weights", "score_responders"]
