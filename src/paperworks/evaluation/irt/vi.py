"""The paper's fit: mean-field variational inference with one Monte Carlo sample a step.

q(theta_r), q(b_i), q(logit c_i) and q(log a_i) are normal; the weighted evidence lower bound is

    ELBO = E_q [ sum_i w_i ( sum_r log P(y_ri) + log prior_i - log q_i ) + sum_r (log prior_r - log q_r) ]

with w_i = 1 / N of the item's group: everything of an item is weighted, nothing of an ability is. So item posteriors
hardly depend on w (Adam is scale-free) while abilities see 29 mean items instead of 82,756 and stay wide. AdamW, lr .1,
its default weight decay .01 on every variational parameter, 500 full-batch steps; means start at 0, log standard
deviations at 0, that of log a at log .3.

Notes:
    - the gradient is written by hand (`joint.py`, `fused.py`): no graph, one byte a cell, cells only in registers;
    - the Kullback-Leibler terms are sampled, as in the official code, not taken in closed form;
    - point estimates as in the authors' notebook: a = exp(mu + s^2 / 2), the mean of the lognormal, c = sigmoid(mu), b
      and theta = mu;
    - differs from the official Pyro script in the order of random draws only, so losses agree within the noise of one
      draw, not digit by digit.

Reference: Vania et al. 2021, arXiv 2106.00840, section 3.1 and appendix.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paperworks.evaluation.irt import fused
from paperworks.evaluation.irt.curves import LOG_A, Model, free_rows
from paperworks.evaluation.irt.joint import gradient, total_loglik
from paperworks.evaluation.irt.mml import Estimate
from paperworks.evaluation.irt.newton import log_prior
from paperworks.evaluation.irt.priors import Priors
from paperworks.evaluation.irt.table import Table

TRACE = 100  # the bound is noted at every hundredth step and the last: it costs more than the gradient


@dataclass(frozen=True)
class Variational:
    """Means and log standard deviations: of the K free rows of the item table, (2, K, M), and of abilities, (2, R)."""

    items: Tensor
    theta: Tensor

    @classmethod
    def start(cls, items: int, responders: int, rows: tuple[int, ...], priors: Priors, like: Tensor) -> Variational:
        """The official starting values (the 4PL's slip, not in the paper, starts at its prior mean)."""
        block = like.new_zeros(2, len(rows), items)
        for position, row in enumerate(rows):
            block[0, position] = priors.mean(like)[row]
            if row == LOG_A:
                block[1, position] = np.log(0.3)
        return cls(block, like.new_zeros(2, responders))

    def draw(self, noise: Variational, rows: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """A reparametrised sample: the (4, M) table and theta (R,). `noise` has one draw in place of mean and std."""
        params = self.items.new_full((4, self.items.shape[2]), -torch.inf)
        params[LOG_A] = 0
        for position, row in enumerate(rows):
            torch.addcmul(
                self.items[0, position], self.items[1, position].exp(), noise.items[0, position], out=params[row]
            )
        return params, self.theta[0] + self.theta[1].exp() * noise.theta[0]


def elbo(table: Table, state: Variational, noise: Variational, rows: tuple[int, ...], priors: Priors) -> Tensor:
    """The weighted bound on one draw, with every constant, as Pyro would report it (negated) as the loss."""
    params, theta = state.draw(noise, rows)
    precision = priors.precision(params).double()[list(rows)]
    half = 0.5 * noise.items[0].double() ** 2 + state.items[1].double()
    item = log_prior(params.double(), rows, priors) + half.sum(0) + 0.5 * precision.log().nan_to_num(neginf=0).sum()
    ability = (-0.5 * theta**2 + 0.5 * noise.theta[0] ** 2 + state.theta[1]).double().sum()
    return total_loglik(table, params, theta, rows) + table.weight @ item + ability


def elbo_gradient(
    table: Table, state: Variational, noise: Variational, rows: tuple[int, ...], priors: Priors
) -> Variational:
    """Gradient of `elbo` in the variational parameters, for the same draw."""
    params, theta = state.draw(noise, rows)
    by_item, by_theta = gradient(table, params, theta, rows)
    mean, precision = priors.mean(params), priors.precision(params)
    weight = table.weight.to(params)
    items = torch.empty_like(state.items)
    for position, row in enumerate(rows):
        pull = by_item[row] - precision[row] * (params[row] - mean[row])
        torch.mul(pull, weight, out=items[0, position])
        spread = state.items[1, position].exp() * noise.items[0, position]
        torch.mul(torch.addcmul(torch.ones_like(pull), pull, spread), weight, out=items[1, position])
    pull = by_theta - theta
    return Variational(items, torch.stack([pull, 1 + pull * state.theta[1].exp() * noise.theta[0]]))


def adamw_ascent(
    value: Tensor, slope: Tensor, first: Tensor, second: Tensor, *, step: int, lr: float, decay: float
) -> None:
    """One AdamW step uphill, in place, betas (.9, .999), eps 1e-8; `torch.optim` takes seconds to import for this."""
    if fused.usable(value):
        fused.ascend(value, slope, first, second, step=step, lr=lr, decay=decay)
        return
    one, two = fused.BETAS
    value.mul_(1 - lr * decay)
    first.lerp_(slope, 1 - one)
    second.mul_(two).addcmul_(slope, slope, value=1 - two)
    root = second.sqrt().mul_((1 - two**step) ** -0.5).add_(fused.EPSILON)
    value.addcdiv_(first, root, value=lr / (1 - one**step))


def vi_fit(
    values: np.ndarray,
    observed: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    *,
    model: Model = "3pl",
    priors: Priors | None = None,
    steps: int = 500,
    lr: float = 0.1,
    weight_decay: float = 0.01,
    seed: int = 101,
    device: torch.device | str = "cpu",
) -> Estimate:
    """The paper's recipe; its own seed is 101. `sd` of the result are posterior standard deviations on the link scales.

    values (R, M) of 0 and 1, observed (R, M) bool, weights (M,) as in `mml_fit`. Float32 throughout, as the paper's.
    """
    rows = free_rows(model)
    priors = Priors() if priors is None else priors
    table = Table.of(values, observed, weights, device=device, merge=False)
    items, responders = table.shape
    like = torch.zeros((), device=device)
    state = Variational.start(items, responders, rows, priors, like)
    variables = [state.items, state.theta]
    moments = [(torch.zeros_like(part), torch.zeros_like(part)) for part in variables]
    history = []
    with fused.undisturbed():
        for step, noise in zip(range(steps), _noises(like, len(rows), items, responders, seed), strict=False):
            if (step + 1) % TRACE == 0 or step == steps - 1:
                history.append(float(elbo(table, state, noise, rows, priors)))
            up = elbo_gradient(table, state, noise, rows, priors)
            for variable, slope, moment in zip(variables, (up.items, up.theta), moments, strict=True):
                adamw_ascent(variable, slope, *moment, step=step + 1, lr=lr, decay=weight_decay)
    params = np.full((4, items), -np.inf)
    params[LOG_A] = 0
    sd = np.zeros((4, items))
    params[list(rows)] = state.items[0].double().cpu().numpy()
    sd[list(rows)] = state.items[1].double().exp().cpu().numpy()
    theta, theta_sd = state.theta[0].double(), state.theta[1].double().exp()
    return Estimate(params, sd, theta.cpu().numpy(), theta_sd.cpu().numpy(), np.array(history), steps, True)


def _noises(like: Tensor, rows: int, items: int, responders: int, seed: int) -> Iterator[Variational]:
    """The draws of every step, without end; those of the next one are made while this one is used."""
    generator = torch.Generator(device=like.device).manual_seed(seed)
    ready, coming = (Variational(like.new_empty(1, rows, items), like.new_empty(1, responders)) for _ in range(2))

    def draw(noise: Variational) -> None:
        noise.theta.normal_(generator=generator)
        noise.items.normal_(generator=generator)

    draw(ready)
    while True:
        drawing = fused.aside(functools.partial(draw, coming))
        yield ready
        drawing.result()
        ready, coming = coming, ready
