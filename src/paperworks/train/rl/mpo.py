"""Maximum a posteriori policy optimisation (Abdolmaleki et al., 2018, arXiv 1806.06920 and 1812.02256), pure functions.

E-step: `q(a|s) = pi_target(a|s) exp(Q(s, a) / eta) / Z(s)`, with eta the minimiser of the dual

    g(eta) = eta eps + eta mean_s log mean_a exp(Q(s, a) / eta).

M-step: weighted maximum likelihood within trust regions, mean and covariance apart: the likelihood is taken once with
the online mean and the target's spread, once with the target's mean and the online spread, and each dimension's KL has
its own multiplier.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class MPO(NamedTuple):
    """Losses, (seeds,) each: `policy` for the policy's weights, `dual` for eta and the multipliers.

    `kl_mean`, `kl_std`: mean over states, (seeds, d).
    """

    policy: Tensor
    dual: Tensor
    kl_mean: Tensor
    kl_std: Tensor


def mpo_temperature_dual(q: Tensor, eta: Tensor, *, epsilon: float) -> Tensor:
    """The dual g(eta), (seeds,): q (N, seeds, B) values of N actions a state, eta (seeds,)."""
    samples = q.shape[0]
    soft = torch.logsumexp(q / eta[:, None], 0) - torch.log(torch.tensor(float(samples)))
    return eta * (epsilon + soft.mean(-1))


def mpo_weights(q: Tensor, eta: Tensor) -> Tensor:
    """Weights of the E-step, (N, seeds, B): a softmax over each state's actions."""
    return torch.softmax(q / eta[:, None], 0)


def gaussian_kl(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """KL(N(mean, std) || N(other)) of each dimension. Squashing both by one map leaves it as it is."""
    ratio = torch.exp(2 * (log_std - other_log_std))
    moved = ((mean - other_mean) * torch.exp(-other_log_std)) ** 2
    return 0.5 * (ratio + moved - 1) + other_log_std - log_std


def mpo_losses(
    *,
    q: Tensor,
    u: Tensor,
    mean: Tensor,
    log_std: Tensor,
    target_mean: Tensor,
    target_log_std: Tensor,
    eta: Tensor,
    alpha_mean: Tensor,
    alpha_std: Tensor,
    epsilon: float = 0.1,
    epsilon_mean: float = 0.0025,
    epsilon_std: float = 1e-6,
) -> MPO:
    """All losses of one MPO step.

    Args:
        q: target critic's values of N actions drawn from the target policy, (N, seeds, B).
        u: those actions before squashing, (N, seeds, B, d).
        mean, log_std: the online policy, (seeds, B, d).
        target_mean, target_log_std: the policy that drew the actions, (seeds, B, d).
        eta: temperature, positive, (seeds,).
        alpha_mean, alpha_std: multipliers, positive, (seeds, d).
        epsilon, epsilon_mean, epsilon_std: limits of the E-step's KL and of the M-step's, per dimension.
    """
    q, u = q.detach(), u.detach()
    target_mean, target_log_std = target_mean.detach(), target_log_std.detach()
    weights = mpo_weights(q, eta.detach())
    fixed_std = _log_normal(u, mean, target_log_std)
    fixed_mean = _log_normal(u, target_mean, log_std)
    likelihood = (weights * (fixed_std + fixed_mean)).sum(0).mean(-1)
    kl_mean = gaussian_kl(target_mean, target_log_std, mean, target_log_std).mean(1)
    kl_std = gaussian_kl(target_mean, target_log_std, target_mean, log_std).mean(1)
    penalty = (alpha_mean.detach() * kl_mean + alpha_std.detach() * kl_std).sum(-1)
    slack = alpha_mean * (epsilon_mean - kl_mean.detach()) + alpha_std * (epsilon_std - kl_std.detach())
    dual = mpo_temperature_dual(q, eta, epsilon=epsilon) + slack.sum(-1)
    return MPO(penalty - likelihood, dual, kl_mean.detach(), kl_std.detach())


def positive(raw: Tensor, *, least: float = 1e-8) -> Tensor:
    """A free parameter as a positive multiplier."""
    return F.softplus(raw) + least


def _log_normal(u: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    z = (u - mean) * torch.exp(-log_std)
    return (-0.5 * z * z - log_std - 0.9189385332046727).sum(-1)
