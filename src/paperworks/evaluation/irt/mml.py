"""Marginal maximum likelihood (with priors: marginal MAP) by EM, all items at once.

Abilities are integrated out on a grid. E-step: with item weights v_i,

    L_rq = sum_i v_i [y_ri log P_iq + (1 - y_ri) log (1 - P_iq)],   posterior_rq = softmax_q (L_rq + log w_q)

one matrix product of the answers with the item table. M-step: expected counts r_iq = Y^T posterior, N_q (or N_iq with
missing cells), then one Fisher-scoring step for each item, in which v_i cancels, halved until the item's expected
log-posterior does not fall. So the objective sum_r log Z_r + sum_i v_i log prior_i never falls.

Notes:
    - one pass over tiles of items does M-step, new curves and next E-step while a tile is in cache;
    - items with the same column of answers share their parameters and are fitted once, with their weights added;
    - the weights decide the answer: v = 1/N of the item's group gives every test set one vote on ability (the paper's
      model), v = 1 is textbook MML;
    - stops when no ability moves by `tol`: a likelihood rule stops small tables with b still 0.02 off.

Reference: Bock & Aitkin 1981; the model of Vania et al. 2021, arXiv 2106.00840.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paperworks.evaluation.irt import nodes as quadrature
from paperworks.evaluation.irt.abilities import accumulate, loglik_on_knots
from paperworks.evaluation.irt.curves import LOWER, UPPER, B, Curve, Model, free_rows
from paperworks.evaluation.irt.newton import fisher_system, log_prior, standard_errors, update
from paperworks.evaluation.irt.nodes import Grid, Posterior, posterior
from paperworks.evaluation.irt.priors import Priors
from paperworks.evaluation.irt.table import Table

Nodes = int | Literal["auto", "adaptive"]
START_LOWER, START_UPPER = -1.0, -3.0
DOUBLE_CELLS = 4_000_000  # tables up to this size are fitted in float64


@dataclass(frozen=True)
class Estimate:
    """What a fit knows: a (4, M) table of log a, b, lower, upper with standard errors, and the abilities (R,).

    `objective`: its value after each iteration (since the grid was last refined, for EM), never falling in EM.
    """

    params: np.ndarray
    sd: np.ndarray
    theta: np.ndarray
    theta_sd: np.ndarray
    objective: np.ndarray
    iterations: int
    converged: bool
    edge: np.ndarray | None = None
    grid: Grid | None = None
    loglik: float | None = None


def mml_fit(
    values: np.ndarray,
    observed: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    *,
    model: Model = "3pl",
    priors: Priors | None = None,
    nodes: Nodes = "auto",
    tol: float = 1e-3,
    steps: int = 500,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Estimate:
    """Fit item curves with the abilities integrated out.

    Args:
        values: (R, M) of 0 and 1. `observed`: (R, M) bool, False where not administered. `weights`: (M,) v_i.
        nodes: "auto": 31 knots, more for steep curves, and points as fine as the narrowest posteriors ask for (see
            `nodes.py`); "adaptive": the same from a finer start; a number: that many fixed nodes on [-6, 6].
        tol: largest movement of an ability in the last iteration. `steps`: at most so many iterations.
        dtype: of the item tables; by default float64 for tables up to four million cells, else float32. Sums over
            items and posteriors are always float64.

    Differs from the paper, which fits the same weighted model by variational inference.
    """
    rows = free_rows(model)
    priors = Priors() if priors is None else priors
    dtype = dtype or (torch.float64 if values.size <= DOUBLE_CELLS else torch.float32)
    table = Table.of(values, observed, weights, device=device)
    em = _EM(table, rows, priors, dtype)
    grid = Grid(nodes, nodes) if isinstance(nodes, int) else Grid(quadrature.KNOTS, quadrature.POINTS)
    if nodes == "adaptive":
        grid = grid.finer(0.02)

    params = start(table, rows, dtype)
    loglik = loglik_on_knots(table, params, rows, grid)
    state, history, moved = None, [], np.inf
    iteration = 0
    while True:
        old = state
        grid, state, refined = _e_step(grid, loglik, adapt=not isinstance(nodes, int))
        if refined:
            history = []
        history.append(float((table.copies * state.log_evidence).sum() + em.penalty(params)))
        moved = np.inf if old is None else float((state.theta - old.theta).abs().max())
        if moved < tol or iteration == steps:
            break
        if not isinstance(nodes, int) and (denser := quadrature.denser(grid, params)) is not None:
            grid, loglik = denser, loglik_on_knots(table, params, rows, denser)
            grid, state, _ = _e_step(grid, loglik, adapt=True)
            history = []
        params, loglik = em.step(params, grid, state)
        iteration += 1
    sd = em.errors(params, grid, state)
    return Estimate(
        params.double().cpu().numpy()[:, table.item_of],
        sd.double().cpu().numpy()[:, table.item_of],
        state.theta.cpu().numpy()[table.responder_of],
        state.sd.cpu().numpy()[table.responder_of],
        np.array(history),
        iteration,
        moved < tol,
        state.edge.cpu().numpy()[table.responder_of],
        grid,
        float((table.copies * state.log_evidence).sum()),
    )


def _e_step(grid: Grid, loglik: Tensor, *, adapt: bool) -> tuple[Grid, Posterior, bool]:
    state = posterior(grid, loglik)
    if not adapt:
        return grid, state, False
    finer, state = quadrature.refined(grid, loglik, state)
    return finer, state, finer is not grid


def start(table: Table, rows: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Starting values: a = 1, difficulties from the share of right answers, small asymptotes; (4, M)."""
    right = table.right.double() @ table.copies
    seen = table.copies.sum() if table.observed is None else table.observed.double() @ table.copies
    share = (right + 0.5) / (seen + 1)
    params = torch.full((4, len(share)), -torch.inf, dtype=dtype, device=share.device)
    params[0] = 0
    params[B] = -torch.logit(share).clamp(-2, 2)
    if LOWER in rows:
        params[LOWER] = START_LOWER
    if UPPER in rows:
        params[UPPER] = START_UPPER
    return params


@dataclass(frozen=True)
class _EM:
    """The passes over the tiles of items."""

    table: Table
    rows: tuple[int, ...]
    priors: Priors
    dtype: torch.dtype

    def step(self, params: Tensor, grid: Grid, state: Posterior) -> tuple[Tensor, Tensor]:
        """M-step for every item, and the log-likelihood under the new parameters."""
        theta, total, fixed = self._begin(grid)
        new = torch.empty_like(params)
        counts, expected = self._counts(state)
        for tile in self.table.tiles(grid.knots):
            right, seen = self._tile_counts(tile, counts, expected)
            new[:, tile], odds, wrong = update(params[:, tile], theta, right, seen, self.rows, self.priors)
            accumulate(self.table, tile, Curve.of(new[:, tile], self.rows), odds, wrong, total, fixed)
        return new, total + fixed

    def errors(self, params: Tensor, grid: Grid, state: Posterior) -> Tensor:
        """Standard errors of the free parameters from the expected information, (4, M)."""
        theta = grid.theta.to(params)
        result = torch.zeros_like(params)
        counts, expected = self._counts(state)
        for tile in self.table.tiles(grid.knots):
            right, seen = self._tile_counts(tile, counts, expected)
            _, info = fisher_system(params[:, tile], theta, right, seen, self.rows, self.priors)
            for row, error in zip(self.rows, standard_errors(info), strict=True):
                result[row, tile] = error
        return result

    def penalty(self, params: Tensor) -> Tensor:
        """sum_i v_i log prior_i."""
        return (self.table.weight * log_prior(params.double(), self.rows, self.priors)).sum()

    def _begin(self, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        device = self.table.right.device
        total = torch.zeros(self.table.shape[1], grid.knots, dtype=torch.float64, device=device)
        return grid.theta.to(device, self.dtype), total, torch.zeros(grid.knots, dtype=torch.float64, device=device)

    def _counts(self, state: Posterior) -> tuple[Tensor, Tensor]:
        # Denormal numbers, far from a responder's ability, would make the products ten times slower.
        counts = F.hardshrink(state.counts, 1e-20) * self.table.copies[:, None]
        return counts.to(self.dtype), counts.sum(0).to(self.dtype)

    def _tile_counts(self, tile: slice, counts: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
        right = self.table.times(self.table.right, tile, counts)
        if self.table.observed is None:
            return right, expected
        return right, self.table.times(self.table.observed, tile, counts)
