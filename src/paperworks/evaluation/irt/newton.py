"""One Fisher-scoring step for the parameters of many items at once, with halving item by item.

Given expected counts (how many responders at each ability answered, and how many of them were right), an item's
expected log-posterior is a function of at most four numbers, whatever the number of responders. EM calls this with
posterior counts on quadrature knots, joint MAP with the responders themselves as knots and their 0/1 answers as counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paperworks.evaluation.irt.curves import LOG_A, LOWER, UPPER, B, Curve, log_odds, shares
from paperworks.evaluation.irt.priors import Priors

STEP = 0.5
HALVINGS = 8
ROUNDING = 64  # units in the last place that a sum over knots may lose
# Where there is no prior an item that all answer rightly has no maximum: these stop its walk.
BOUNDS = {LOG_A: (-4.0, 3.0), B: (-12.0, 12.0), LOWER: (-12.0, 6.0), UPPER: (-12.0, 6.0)}


def column_sums(cells: Tensor, counts: Tensor, basis: Tensor) -> Tensor:
    """Sum over knots of cells x counts x basis: (M, Q), (Q,) or (M, Q), (Q, K) -> (M, K)."""
    if counts.dim() == 1:
        return cells @ (counts[:, None] * basis)
    return (cells * counts) @ basis


def log_prior(params: Tensor, rows: tuple[int, ...], priors: Priors) -> Tensor:
    """Log prior of each item up to a constant, (M,)."""
    total = torch.zeros_like(params[B])
    for row in rows:
        mean, precision = priors.of(row)
        if precision:
            total -= 0.5 * precision * (params[row] - mean) ** 2
    return total


def fisher_system(
    params: Tensor, theta: Tensor, right: Tensor, counts: Tensor, rows: tuple[int, ...], priors: Priors
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Score and expected information of the free parameters, with the priors' share.

    params (4, M), theta (Q,), right (M, Q), counts (Q,) or (M, Q) -> K scores (M,) and K x K informations (M,).

    An answer's score has two values, s1 if right and s0 if wrong, with mean zero, so that the information about two
    parameters x, y is -s1_x s0_y = -s0_x s1_y: no chance P is needed. The sums over knots are written as matrix
    products of as few (M, Q) tables as possible.
    """
    curve = Curve.of(params, rows)
    below, guess, slip = shares(curve, theta)
    basis = torch.stack([torch.ones_like(theta), theta, theta**2], dim=1)
    line = basis[:, :2].contiguous()
    a, b = curve.a, params[B]
    score, info = {}, {}
    total, n_right = counts @ line, right @ line
    d1 = below if guess is None else below - guess
    bend = column_sums(d1, counts, basis) - column_sums(d1 * below, counts, basis)
    slope = column_sums(below, counts, line) - total + n_right
    if guess is not None:
        guessed = (guess * right) @ line
        slope -= guessed
        c1, c = curve.k1.exp(), (curve.k1 + curve.log_one).exp()
        mass = c1 * total[..., 0] + (1 - c1) * column_sums(guess, counts, line[:, :1])[:, 0]
        cross = column_sums(d1, counts, line)
        score[LOWER] = c1 * n_right[:, 0] + (1 - c1) * guessed[:, 0] - c * total[..., 0]
        info[LOWER, LOWER] = c * (mass - c * total[..., 0])
        info[B, LOWER], info[LOG_A, LOWER] = -a * c * cross[:, 0], a * c * (cross[:, 1] - b * cross[:, 0])
    if slip is not None:
        bend -= column_sums(d1 * slip, counts, basis)
        slipped = column_sums(slip, counts, line) - (slip * right) @ line
        slope += slipped
        d0, s = (-curve.k0).exp(), (curve.log_zero - curve.k0).exp()
        mass = d0 * total[..., 0] + (1 - d0) * column_sums(slip, counts, line[:, :1])[:, 0]
        cross = column_sums(below + slip, counts, line) - total
        score[UPPER] = d0 * (total[..., 0] - n_right[:, 0]) + (1 - d0) * slipped[:, 0] - s * total[..., 0]
        info[UPPER, UPPER] = s * (mass - s * total[..., 0])
        info[B, UPPER], info[LOG_A, UPPER] = -a * s * cross[:, 0], a * s * (cross[:, 1] - b * cross[:, 0])
        c = (curve.k1 + curve.log_one).exp()  # zero without guessing, where this entry is not read
        info[LOWER, UPPER] = -c * s * total[..., 0]
    i0, i1, i2 = bend.unbind(1)
    score[B], score[LOG_A] = -a * slope[:, 0], a * (slope[:, 1] - b * slope[:, 0])
    info[B, B] = a**2 * i0
    info[LOG_A, B] = -(a**2) * (i1 - b * i0)
    info[LOG_A, LOG_A] = a**2 * (i2 - 2 * b * i1 + b**2 * i0)
    return _with_priors(score, info, params, rows, priors)


def _with_priors(score, info, params, rows, priors):
    for row in rows:
        mean, precision = priors.of(row)
        if precision:
            score[row] = score[row] - precision * (params[row] - mean)
        # A hundred-thousandth keeps an item without information and without prior where it is.
        info[row, row] = info[row, row] + (precision + 1e-5)
    return [score[row] for row in rows], [[info[min(i, j), max(i, j)] for j in rows] for i in rows]


def solve(info: list[list[Tensor]], score: list[Tensor]) -> list[Tensor]:
    """Solve many symmetric positive definite K x K systems (K <= 4) by elimination, one vector operation an entry."""
    size = len(score)
    matrix, right = [list(row) for row in info], list(score)
    for pivot in range(size):
        for row in range(pivot + 1, size):
            factor = matrix[row][pivot] / matrix[pivot][pivot]
            for column in range(pivot + 1, size):
                matrix[row][column] = matrix[row][column] - factor * matrix[pivot][column]
            right[row] = right[row] - factor * right[pivot]
    for row in reversed(range(size)):
        for column in range(row + 1, size):
            right[row] = right[row] - matrix[row][column] * right[column]
        right[row] = right[row] / matrix[row][row]
    return right


def standard_errors(info: list[list[Tensor]]) -> list[Tensor]:
    """Square roots of the diagonal of the inverse information."""
    size = len(info)
    unit = [[torch.full_like(info[0][0], float(i == j)) for i in range(size)] for j in range(size)]
    return [solve(info, unit[index])[index].clamp(min=0).sqrt() for index in range(size)]


def update(
    params: Tensor, theta: Tensor, right: Tensor, counts: Tensor, rows: tuple[int, ...], priors: Priors
) -> tuple[Tensor, Tensor, Tensor]:
    """One step for each item: Fisher scoring, clipped, halved until the item's expected log-posterior does not fall.

    Returns the new (4, M) table and what `log_odds` says of the new curves, both (M, Q).
    """
    score, info = fisher_system(params, theta, right, counts, rows, priors)
    new = params.clone()
    for row, step in zip(rows, solve(info, score), strict=True):
        new[row] = (params[row] + step.clamp_(-STEP, STEP)).clamp_(*BOUNDS[row])

    old_value = _value(params, theta, right, counts, rows, priors)[0]
    floor = old_value - ROUNDING * torch.finfo(old_value.dtype).eps * old_value.abs()
    value, odds, wrong = _value(new, theta, right, counts, rows, priors)
    # `not >=` also catches a step that ran into something not finite.
    bad = (~(value >= floor)).nonzero()[:, 0]
    for attempt in range(HALVINGS + 1):
        if len(bad) == 0:
            break
        new[:, bad] = _between(params[:, bad], new[:, bad], 0.0 if attempt == HALVINGS else 0.5, rows)
        some = counts if counts.dim() == 1 else counts[bad]
        value, odds[bad], wrong[bad] = _value(new[:, bad], theta, right[bad], some, rows, priors)
        bad = bad[~(value >= floor[bad])]
    return new, odds, wrong


def _between(old: Tensor, new: Tensor, share: float, rows: tuple[int, ...]) -> Tensor:
    mixed = new.clone()
    for row in rows:  # the fixed rows are infinite, and inf - inf is not a number
        mixed[row] = old[row] + share * (new[row] - old[row]).nan_to_num(0.0)
    return mixed


def _value(params, theta, right, counts, rows, priors) -> tuple[Tensor, Tensor, Tensor]:
    """Each item's expected log-posterior, and its curves."""
    curve = Curve.of(params, rows)
    odds, wrong = log_odds(curve, theta)
    n_right, total = right.sum(1), counts.sum(-1)
    value = (odds * right).sum(1) + (wrong @ counts if counts.dim() == 1 else (wrong * counts).sum(1))
    value += curve.log_one * n_right + curve.log_zero * (total - n_right)
    return value + log_prior(params, rows, priors), odds, wrong
