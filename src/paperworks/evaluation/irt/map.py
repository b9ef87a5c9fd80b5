"""Joint MAP: abilities and item parameters maximised together, for tables that are large in both directions.

    sum_ri v_i log P(y_ri) + sum_i v_i log prior_i - sum_r theta_r^2 / 2

Blocks take turns: all items make a Fisher-scoring step given the abilities (the M-step of `mml.py` with the responders
as nodes and their answers as counts), then all abilities make one given the items; both are halved, item by item and
responder by responder, until the objective does not fall. Memory is one tile of items.

Differs from marginal fits: abilities are taken as known, so with few items per responder discriminations come out too
large (Neyman & Scott 1948) and standard errors too small. Prefer "mml" where responders or items are few.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from paperworks.evaluation.irt.curves import Model, free_rows
from paperworks.evaluation.irt.joint import ability_system, weighted_loglik
from paperworks.evaluation.irt.mml import DOUBLE_CELLS, Estimate, start
from paperworks.evaluation.irt.newton import HALVINGS, STEP, fisher_system, log_prior, standard_errors, update
from paperworks.evaluation.irt.nodes import RANGE
from paperworks.evaluation.irt.priors import Priors
from paperworks.evaluation.irt.table import Table


def map_fit(
    values: np.ndarray,
    observed: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    *,
    model: Model = "3pl",
    priors: Priors | None = None,
    tol: float = 1e-3,
    steps: int = 500,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Estimate:
    """Fit abilities and items jointly; arguments as in `mml_fit`. Stops when no ability moves by `tol`."""
    rows = free_rows(model)
    priors = Priors() if priors is None else priors
    dtype = dtype or (torch.float64 if values.size <= DOUBLE_CELLS else torch.float32)
    table = Table.of(values, observed, weights, device=device)
    params = start(table, rows, dtype)
    theta = torch.zeros(table.shape[1], dtype=dtype, device=device)
    height = _height(table, params, theta, rows)
    history, moved, iteration = [], np.inf, 0
    while True:
        history.append(_objective(table, params, height, rows, priors))
        if moved < tol or iteration == steps:
            break
        params = _items(table, params, theta, rows, priors)
        old = theta
        theta, height = _abilities(table, params, theta, rows)
        moved = float((theta - old).abs().max())
        iteration += 1
    _, info = ability_system(table, params, theta, rows)
    return Estimate(
        params.double().cpu().numpy()[:, table.item_of],
        _errors(table, params, theta, rows, priors).double().cpu().numpy()[:, table.item_of],
        theta.double().cpu().numpy()[table.responder_of],
        (1 + info).rsqrt().cpu().numpy()[table.responder_of],
        np.array(history),
        iteration,
        moved < tol,
    )


def _objective(table: Table, params: Tensor, height: Tensor, rows: tuple[int, ...], priors: Priors) -> float:
    return float((table.copies * height).sum() + (table.weight * log_prior(params.double(), rows, priors)).sum())


def _height(table: Table, params: Tensor, theta: Tensor, rows: tuple[int, ...]) -> Tensor:
    """Log posterior of each ability given the items, up to a constant, (R,)."""
    return weighted_loglik(table, params, theta, rows) - 0.5 * theta.double() ** 2


def _counts(table: Table, tile: slice, copies: Tensor) -> tuple[Tensor, Tensor]:
    right = table.right[tile] * copies
    return right, copies if table.observed is None else table.observed[tile] * copies


def _items(table: Table, params: Tensor, theta: Tensor, rows: tuple[int, ...], priors: Priors) -> Tensor:
    new, copies = torch.empty_like(params), table.copies.to(theta)
    for tile in table.tiles(len(theta)):
        new[:, tile], _, _ = update(params[:, tile], theta, *_counts(table, tile, copies), rows, priors)
    return new


def _abilities(table: Table, params: Tensor, theta: Tensor, rows: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    before = _height(table, params, theta, rows)
    score, info = ability_system(table, params, theta, rows)
    step = ((score - theta.double()) / (1 + info)).clamp_(-STEP, STEP)
    new = (theta + step.to(theta)).clamp_(-RANGE, RANGE)
    floor = before - 1e-6 * before.abs() if theta.dtype == torch.float32 else before - 1e-12 * before.abs()
    after = _height(table, params, new, rows)
    for attempt in range(HALVINGS + 1):
        fell = ~(after >= floor)
        if not bool(fell.any()):
            break
        new = torch.where(fell, theta if attempt == HALVINGS else 0.5 * (theta + new), new)
        after = _height(table, params, new, rows)
    return new, after


def _errors(table: Table, params: Tensor, theta: Tensor, rows: tuple[int, ...], priors: Priors) -> Tensor:
    result, copies = torch.zeros_like(params), table.copies.to(theta)
    for tile in table.tiles(len(theta)):
        _, info = fisher_system(params[:, tile], theta, *_counts(table, tile, copies), rows, priors)
        for row, error in zip(rows, standard_errors(info), strict=True):
            result[row, tile] = error
    return result
