"""Abilities of responders under known item curves: no refit, any subset of the items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from paperworks.evaluation.irt.curves import LOG_A, LOWER, UPPER, Curve, item_curve, log_odds, table_of
from paperworks.evaluation.irt.nodes import KNOTS, POINTS, Grid, denser, modes, posterior, refined
from paperworks.evaluation.irt.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from paperworks.data.responses import Responses
    from paperworks.evaluation.irt.fitted import IRTFit

Scoring = Literal["eap", "map", "ml"]
BLOCK_CELLS = 1 << 22


def loglik_on_knots(table: Table, params: torch.Tensor, rows: tuple[int, ...], grid: Grid) -> torch.Tensor:
    """sum_i v_i log P(y_ri | theta_q) of each responder on the knots, (R, Q) float64; params (4, M) set the dtype."""
    theta = grid.theta.to(params)
    total = torch.zeros(table.shape[1], grid.knots, dtype=torch.float64, device=params.device)
    fixed = total.new_zeros(grid.knots)
    for tile in table.tiles(grid.knots):
        curve = Curve.of(params[:, tile], rows)
        accumulate(table, tile, curve, *log_odds(curve, theta), total, fixed)
    return total + fixed


def accumulate(
    table: Table,
    tile: slice,
    curve: Curve,
    odds: torch.Tensor,
    wrong: torch.Tensor,
    total: torch.Tensor,
    fixed: torch.Tensor,
) -> None:
    """Add one tile of items to `total` (R, Q) and, where nothing is missing, to `fixed` (Q,), which all share."""
    weight = table.weight[tile].to(odds.dtype)
    odds = torch.addcmul((weight * (curve.log_one - curve.log_zero))[:, None], weight[:, None], odds)
    table.add_transposed(table.right, tile, odds, total)
    if table.observed is None:
        fixed += weight @ wrong + weight @ curve.log_zero
    else:
        wrong = torch.addcmul((weight * curve.log_zero)[:, None], weight[:, None], wrong)
        table.add_transposed(table.observed, tile, wrong, total)


def abilities(
    values: np.ndarray,
    observed: np.ndarray | None,
    weights: np.ndarray | None,
    params: np.ndarray,
    *,
    method: Scoring = "eap",
) -> tuple[np.ndarray, np.ndarray, float]:
    """Abilities and standard deviations, (R,), and the marginal log-likelihood, under a (4, M) table of items.

    "eap": posterior mean under N(0, 1); "map": its mode; "ml": maximum likelihood, infinite error at the grid's edge.
    """
    # Items with equal answers may have different parameters here, so they must not be merged.
    table = Table.of(values, observed, weights, merge=False)
    rows = tuple(row for row in (LOG_A, 1, LOWER, UPPER) if np.isfinite(params[row]).any())
    grid = Grid(KNOTS, POINTS)
    tensor = torch.from_numpy(np.ascontiguousarray(params))
    while (finer := denser(grid, tensor)) is not None:
        grid = finer
    loglik = loglik_on_knots(table, tensor, rows, grid)
    grid, state = refined(grid, loglik, posterior(grid, loglik))
    evidence = float((table.copies * state.log_evidence).sum())
    theta, sd = (state.theta, state.sd) if method == "eap" else modes(grid, loglik, prior=method == "map")
    return theta.numpy()[table.responder_of], sd.numpy()[table.responder_of], evidence


def eap(
    values: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray | float = 0.0,
    d: np.ndarray | float = 1.0,
    *,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Expected abilities a posteriori and their standard deviations, both (R,), under known item curves.

        theta_r = int theta p(theta | y_r) dtheta,   p(theta | y_r) ~ N(theta; 0, 1) prod_i P_i(theta)^(v_i y) ...

    Args:
        values: (R, M) of 0, 1 and NaN (not administered). a, b, c, d: (M,). weights: (M,) v_i, default 1.

    A responder without answers gets the prior: 0 and 1.

    Raises:
        ValueError: other values, or shapes that do not fit together.
    """
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    seen = ~np.isnan(values)
    if not np.isin(values[seen], (0.0, 1.0)).all():
        raise ValueError(f"values: expected 0, 1 and NaN, got {values[seen][~np.isin(values[seen], (0.0, 1.0))][0]:g}")
    params = [torch.as_tensor(np.broadcast_to(np.asarray(x, np.float64), np.shape(a)).copy()) for x in (a, b, c, d)]
    if params[0].shape != values.shape[1:]:
        raise ValueError(f"a: expected one value per item, ({values.shape[1]},), got {tuple(params[0].shape)}")
    item_curve(np.zeros(()), *(part.numpy() for part in params))  # refuses impossible curves
    return abilities(
        np.where(seen, values, 0).astype(np.uint8),
        None if seen.all() else seen,
        None if weights is None else np.asarray(weights, dtype=np.float64),
        table_of(*params).numpy(),
    )[:2]


def score_responders(fit: IRTFit, new: Responses, *, method: Scoring = "eap", weighted: bool = True) -> pd.DataFrame:
    """Abilities of new responders under the fit's frozen items, from any of its items.

    Items are matched by name. `weighted`: each answer counts with its item's weight in the fit, so that abilities
    compare with the fit's own; otherwise each counts one, which uses all the information there is.

    Returns:
        One row each: responder, theta, sd, predicted_accuracy (mean chance of a right answer over *all* items of the
        fit), accuracy (plain, over the items answered), n.

    Raises:
        ValueError: an item that the fit does not know, or no such method.
    """
    import pandas as pd

    if method not in ("eap", "map", "ml"):
        raise ValueError(f"method: expected eap, map or ml, got {method!r}")
    place = {name: position for position, name in enumerate(fit.item_names)}
    unknown = [name for name in new.items if name not in place]
    if unknown:
        raise ValueError(
            f"new: item {unknown[0]!r} (one of {len(unknown)}) is not in the fit, whose items are called "
            f"{fit.item_names[0]!r}, ...; keep only known ones with new.select(items=...)"
        )
    where = np.array([place[name] for name in new.items])
    weights = fit.weights[where] if weighted else None
    theta, sd, _ = abilities(new.values, new.observed, weights, fit.point[:, where], method=method)
    n = np.full(len(new.responders), len(new.items)) if new.observed is None else new.observed.sum(1)
    return pd.DataFrame(
        {
            "responder": list(new.responders),
            "theta": theta,
            "sd": sd,
            "predicted_accuracy": predicted_accuracy(fit, theta),
            "accuracy": new.accuracy(),
            "n": n,
        }
    )


def predicted_accuracy(fit: IRTFit, theta: np.ndarray) -> np.ndarray:
    """Mean over all items of the chance of a right answer at each ability, (R,)."""
    block = max(1, BLOCK_CELLS // len(fit.item_names))
    parts = [theta[start : start + block] for start in range(0, len(theta), block)]
    return np.concatenate([item_curve(part[:, None], fit.a, fit.b, fit.c, fit.d).mean(1) for part in parts])
