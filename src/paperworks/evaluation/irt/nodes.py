"""Integration over ability: item curves on a few knots, posteriors on as many points as the data ask for.

With many items a responder's posterior is far narrower than any grid on which all item curves could be afforded: 41
nodes give the 90 responders of the paper's table 21 distinct abilities. But the log-curves are smooth, so a responder's
log-likelihood on the knots, interpolated by a quintic spline, is the log-likelihood everywhere. Both directions of EM
are one matrix B (Q knots x F points): likelihood on the points = L B, expected counts on the knots = posterior B^T. So
the cost of the items does not grow with the precision of the abilities, and EM stays exact for the interpolated
curves: its objective still never falls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor

RANGE = 6.0  # the 3PL pins hopeless responders at the edge, so the grid goes far out
KNOTS, POINTS, MOST_KNOTS, MOST_POINTS = 31, 61, 481, 30721
SPACING = 0.75  # of the 10th percentile of the posterior standard deviations
BLOCK_CELLS = 1 << 22


@dataclass(frozen=True)
class Grid:
    """`knots` equally spaced on [-6, 6] where curves are evaluated, `points` where posteriors live.

    points = knots is plain quadrature on fixed nodes.
    """

    knots: int
    points: int

    @cached_property
    def theta(self) -> Tensor:
        """Abilities of the knots, (Q,) float64."""
        return torch.linspace(-RANGE, RANGE, self.knots, dtype=torch.float64)

    @cached_property
    def point(self) -> Tensor:
        """Abilities of the points, (F,) float64."""
        return torch.linspace(-RANGE, RANGE, self.points, dtype=torch.float64)

    @cached_property
    def log_weight(self) -> Tensor:
        """Logarithm of the standard normal's mass at each point, normalised, (F,)."""
        return torch.log_softmax(-0.5 * self.point**2, dim=0)

    @cached_property
    def interpolation(self) -> Tensor:
        """B, (Q, F): what each knot contributes to each point in a quintic spline."""
        values = make_interp_spline(self.theta.numpy(), np.eye(self.knots), k=min(5, self.knots - 1))(
            self.point.numpy()
        )
        return torch.from_numpy(np.ascontiguousarray(values.T))

    @property
    def spline(self) -> Tensor | None:
        """B, or None where points are knots and there is nothing to interpolate."""
        return None if self.points == self.knots else self.interpolation

    @property
    def spacing(self) -> float:
        return 2 * RANGE / (self.points - 1)

    def finer(self, spacing: float) -> Grid:
        """The same knots with points at most `spacing` apart (a whole number of them between two knots)."""
        per_knot = math.ceil(2 * RANGE / (self.knots - 1) / spacing)
        return Grid(self.knots, min((self.knots - 1) * per_knot + 1, MOST_POINTS))


@dataclass(frozen=True)
class Posterior:
    """Abilities given the answers: mean, standard deviation, log evidence, counts on the knots, mass at the edge."""

    theta: Tensor
    sd: Tensor
    log_evidence: Tensor
    counts: Tensor
    edge: Tensor


def posterior(grid: Grid, loglik: Tensor) -> Posterior:
    """Posterior of each responder from the log-likelihood on the knots, (R, Q) float64.

    `counts` (R, Q) sums to one in each row; with a spline single entries may be slightly negative.
    """
    device = loglik.device
    point, log_weight = grid.point.to(device), grid.log_weight.to(device)
    spline = None if grid.spline is None else grid.spline.to(device)
    powers = torch.stack([torch.ones_like(point), point, point**2], dim=1)
    parts = []
    for block in loglik.split(max(1, BLOCK_CELLS // grid.points)):
        joint = log_weight + block if spline is None else torch.addmm(log_weight, block, spline)
        top = joint.amax(1, keepdim=True)
        mass = joint.sub_(top).exp_()
        total, theta, square = (mass @ powers).unbind(1)
        theta, square = theta / total, square / total
        sd = (square - theta**2).clamp_(min=0).sqrt_()
        edge = (mass[:, 0] + mass[:, -1]) / total
        counts = (mass if spline is None else mass @ spline.T).div_(total[:, None])
        parts.append((theta, sd, top[:, 0] + total.log(), counts, edge))
    return Posterior(*(torch.cat(part) for part in zip(*parts, strict=True)))


def refined(grid: Grid, loglik: Tensor, result: Posterior) -> tuple[Grid, Posterior]:
    """Halve the points' spacing until it is at most 0.75 x the 10th percentile of the posterior standard deviations."""
    while grid.points < MOST_POINTS:
        tenth = -(-len(result.sd) // 10)
        wanted = SPACING * float(result.sd.kthvalue(tenth).values)
        if grid.spacing <= wanted:
            break
        # A posterior narrower than the grid shows no width at all yet, so one step refines at most eightfold.
        grid = grid.finer(max(wanted / 1.5, grid.spacing / 8))
        result = posterior(grid, loglik)
    return grid, result


def denser(grid: Grid, params: Tensor) -> Grid | None:
    """A grid with twice the knots where the steepest curve is too steep for the spline, else None.

    At the rule's limit, slope x knot spacing = 1.25, the interpolated log-curve is off by 3e-5 at most.
    """
    steepest = float(params[0].max().exp())
    if steepest * 2 * RANGE / (grid.knots - 1) <= 1.25 or grid.knots >= MOST_KNOTS:
        return None
    knots = 2 * grid.knots - 1
    return Grid(knots, max(knots, (grid.points - 1) // (knots - 1) * (knots - 1) + 1))


def modes(grid: Grid, loglik: Tensor, *, prior: bool) -> tuple[Tensor, Tensor]:
    """Most likely abilities (with the N(0, 1) prior or without) and their standard errors from the curvature.

    Without the prior a responder with all answers right or wrong has none within reach: the edge of the grid is
    returned, with an infinite standard error.
    """
    device = loglik.device
    fine = Grid(grid.knots, (grid.knots - 1) * 40 + 1)
    point = fine.point.to(device)
    spline, step, parts = fine.interpolation.to(device), fine.spacing, []
    for block in loglik.split(max(1, BLOCK_CELLS // fine.points)):
        height = block @ spline
        if prior:
            height = height - 0.5 * point**2
        best = height.argmax(1)
        inner = best.clamp(1, fine.points - 2)
        left, middle, right = (height.gather(1, (inner + move)[:, None])[:, 0] for move in (-1, 0, 1))
        bend = (left + right - 2 * middle) / step**2
        top = point[inner] - (right - left) / (2 * step) / bend
        inside = (best == inner) & (bend < 0)
        parts.append(
            (
                torch.where(inside, top, point[best]),
                torch.where(inside, (-bend).rsqrt(), torch.full_like(top, math.inf)),
            )
        )
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
