"""The joint log-likelihood of abilities and item parameters, its gradient and its information, over tiles of items."""

from __future__ import annotations

import torch
from torch import Tensor

from paperworks.evaluation.irt import fused
from paperworks.evaluation.irt.curves import LOG_A, LOWER, UPPER, B, Curve, log_odds, shares
from paperworks.evaluation.irt.fused import Sums
from paperworks.evaluation.irt.table import Table

# sigmoid(255 + x) is 1 for every x in reach, so 255 (the byte 0 - 1) marks wrong answers of models without slips.
CERTAIN = 255.0


def weighted_loglik(table: Table, params: Tensor, theta: Tensor, rows: tuple[int, ...]) -> Tensor:
    """sum_i v_i log P(y_ri | theta_r, item i) of each responder, (R,) float64."""
    total = torch.zeros(len(theta), dtype=torch.float64, device=theta.device)
    for tile in table.tiles(len(theta)):
        curve = Curve.of(params[:, tile], rows)
        odds, cells = log_odds(curve, theta)
        odds.add_((curve.log_one - curve.log_zero)[:, None])
        cells.add_(curve.log_zero[:, None]).addcmul_(odds, table.right[tile].to(odds))
        if table.observed is not None:
            cells *= table.observed[tile]
        total += table.weight[tile].to(cells) @ cells
    return total


def total_loglik(table: Table, params: Tensor, theta: Tensor, rows: tuple[int, ...]) -> Tensor:
    """sum_ri v_i log P(y_ri | theta_r, item i), a float64 scalar; one compiled pass where `fused` serves."""
    if not fused.usable(theta):
        return weighted_loglik(table, params, theta, rows).sum()
    curve = Curve.of(params, rows)
    n_right, n = table.totals
    ratios = fused.cell_logliks(table.coded, curve.a, curve.shift, curve.k1, curve.k0, theta)
    return table.weight @ (ratios + n_right * curve.log_one + (n - n_right) * curve.log_zero)


def gradient(table: Table, params: Tensor, theta: Tensor, rows: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Gradient of the joint log-likelihood.

    params (4, M), theta (R,) -> (4, M) of each item *without* its weight, and sum_i v_i a_i D_ri of each ability (R,).

        D_ri = d log P(y_ri) / dz = sigmoid(-z) - sigmoid(k_y - z),   k_1 = logsigmoid(lower), k_0 = -logsigmoid(upper)
    """
    curve = Curve.of(params, rows)
    pull = table.weight.to(theta) * curve.a
    if fused.usable(theta):
        sums = fused.cell_sums(table.coded, curve.a, curve.shift, curve.k1, curve.k0, pull, theta)
    else:
        sums = tile_sums(table, curve, pull, theta)
    result = torch.zeros_like(params)
    result[B] = -curve.a * sums.slope
    result[LOG_A] = curve.a * (sums.slope_theta - params[B] * sums.slope)
    n_right, n = (total.to(theta) for total in table.totals)
    if curve.guesses:
        c1, c = curve.k1.exp(), (curve.k1 + curve.log_one).exp()
        result[LOWER] = c1 * n_right + (1 - c1) * sums.guess - c * n
    if curve.slips:
        d0, s = (-curve.k0).exp(), (curve.log_zero - curve.k0).exp()
        result[UPPER] = d0 * (n - n_right) + (1 - d0) * (n - n_right - sums.slip) - s * n
    return result, sums.by_theta


def tile_sums(table: Table, curve: Curve, pull: Tensor, theta: Tensor) -> Sums:
    """The sums over cells of the gradient in plain torch, for any device and precision.

    One buffer holds both answers' second sigmoid, so a cell costs two sigmoids and three sums whatever the answer.
    """
    by_theta = torch.zeros_like(theta)
    one = torch.ones_like(theta)
    line = torch.stack([one, theta], dim=1)
    ability = line.flip(1).T.contiguous()
    left = torch.stack([-curve.a, -curve.shift], dim=1)
    k1 = curve.k1 if curve.guesses else torch.zeros_like(curve.k1)
    sides = left + torch.stack([torch.zeros_like(k1), k1], dim=1)
    slope = theta.new_empty(len(pull), 2)
    guess, slip = (theta.new_zeros(len(pull)) for _ in range(2))
    buffers = [theta.new_empty(0), theta.new_empty(0)]
    for tile in table.tiles(len(theta)):
        right = table.right[tile]
        if buffers[0].shape[0] < len(right):
            buffers = [theta.new_empty(right.shape) for _ in range(2)]
        below, share = buffers[0][: len(right)], buffers[1][: len(right)]
        torch.mm(left[tile], ability, out=below).sigmoid_()
        share.copy_(table.wrong_byte[tile])
        if curve.slips:
            share.mul_(((curve.k0 - k1)[tile] / CERTAIN)[:, None])
        if curve.guesses or curve.slips:
            share.addmm_(sides[tile], ability).sigmoid_()
        else:
            share.mul_(1 / CERTAIN)
        if table.observed is not None:
            below.mul_(table.observed[tile])
            share.mul_(table.observed[tile])
        if curve.slips:
            guess[tile] = (share * right).sum(1)
            slip[tile] = share.sum(1) - guess[tile]
        elif curve.guesses:
            torch.mv(share, one, out=guess[tile])
        cells = below.sub_(share)
        torch.mm(cells, line, out=slope[tile])
        by_theta.addmv_(cells.T, pull[tile])
    if curve.guesses and not curve.slips:  # every wrong answer counted as one
        n_right, n = (total.to(theta) for total in table.totals)
        guess = guess - (n - n_right)
    return Sums(slope[:, 0], slope[:, 1], guess, slip, by_theta)


def ability_system(table: Table, params: Tensor, theta: Tensor, rows: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Score and expected information of each ability, sum_i v_i a_i D_ri and sum_i v_i a_i^2 (-D1 D0), (R,) float64."""
    score, info = (torch.zeros(len(theta), dtype=torch.float64, device=theta.device) for _ in range(2))
    for tile in table.tiles(len(theta)):
        curve = Curve.of(params[:, tile], rows)
        below, guess, slip = shares(curve, theta)
        d1 = below if guess is None else below - guess
        d0 = below - 1 if slip is None else below - 1 + slip
        first, second = torch.where(table.right[tile].bool(), d1, d0), -d1 * d0
        if table.observed is not None:
            first, second = first * table.observed[tile], second * table.observed[tile]
        weight = table.weight[tile].to(theta)
        score += (weight * curve.a) @ first
        info += (weight * curve.a**2) @ second
    return score, info
