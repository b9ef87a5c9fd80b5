"""Losses of actor-critic methods as pure functions of tensors. Means over the batch, one value a seed."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class ActorCritic(NamedTuple):
    """Losses to descend, (seeds,) each."""

    actor: Tensor
    critic: Tensor


def sac_losses(
    *,
    q: Tensor,
    next_q: Tensor,
    next_log_prob: Tensor,
    reward: Tensor,
    terminal: Tensor,
    new_q: Tensor,
    log_prob: Tensor,
    discount: float,
    entropy: float,
) -> ActorCritic:
    """Soft actor-critic (Haarnoja et al., 2018, arXiv 1812.05905).

        y = r + discount (1 - terminal) (min_k Q'_k(s', a') - entropy log pi(a'|s'))        stopped
        critic = sum_k mean (Q_k(s, a) - y)^2
        actor = mean [ entropy log pi(a_new|s) - min_k Q_k(s, a_new) ]

    Args:
        q: values of the replayed actions, (2, seeds, B).
        next_q: target networks' values of fresh actions at the next observation, (2, seeds, B).
        next_log_prob: log-density of those actions, (seeds, B).
        reward, terminal: (seeds, B). A time limit is not terminal.
        new_q: values of fresh actions at the observation, the critic frozen, (2, seeds, B).
        log_prob: log-density of those actions, (seeds, B).
        discount: in [0, 1].
        entropy: weight of the entropy, in units of reward.
    """
    with torch.no_grad():
        soft = next_q.amin(0) - entropy * next_log_prob
        target = reward + discount * (1 - terminal) * soft
    critic = (q - target).square().mean(-1).sum(0)
    actor = (entropy * log_prob - new_q.amin(0)).mean(-1)
    return ActorCritic(actor, critic)


def awac_loss(
    log_prob: Tensor,
    advantage: Tensor,
    *,
    temperature: float,
    normalize: Literal["softmax", "none"] = "softmax",
    max_weight: float = 100.0,
) -> Tensor:
    """Advantage-weighted behaviour cloning (Nair et al., 2020, arXiv 2006.09359): `- mean w log pi(a|s)`, (seeds,).

    `w = B softmax_b(A / temperature)` over the batch, or `min(exp(A / temperature), max_weight)`; stopped.

    Args:
        log_prob, advantage: (seeds, B).
        temperature: small: only the best actions count; large: behaviour cloning.
    """
    if temperature <= 0:
        raise ValueError(f"temperature: expected positive, got {temperature}")
    scaled = advantage.detach() / temperature
    flat = normalize == "none"
    weight = scaled.exp().clamp(max=max_weight) if flat else scaled.softmax(-1) * scaled.shape[-1]
    return -(weight * log_prob).mean(-1)


class PPO(NamedTuple):
    """Losses to descend, (seeds,) each, and the share of clipped ratios."""

    policy: Tensor
    value: Tensor
    clipped: Tensor


def ppo_losses(
    *, log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, value: Tensor, returns: Tensor, clip: float = 0.2
) -> PPO:
    """Clipped policy loss and plain value loss (Schulman et al., 2017, arXiv 1707.06347).

        policy = - mean min(rho A, clip(rho, 1 - clip, 1 + clip) A),   rho = exp(log pi - log pi_old)
        value = mean (V - returns)^2

    Args: all (seeds, B); `advantage` as it is to be used (normalised by the caller), it and `returns` are stopped.
    """
    advantage = advantage.detach()
    ratio = torch.exp(log_prob - old_log_prob.detach())
    bounded = ratio.clamp(1 - clip, 1 + clip)
    policy = -torch.minimum(ratio * advantage, bounded * advantage).mean(-1)
    return PPO(policy, (value - returns.detach()).square().mean(-1), (ratio != bounded).float().mean(-1))


@torch.no_grad()
def gae(
    rewards: Tensor,
    values: Tensor,
    terminal: Tensor,
    truncated: Tensor,
    *,
    discount: float,
    lam: float,
    next_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., 2016, arXiv 1506.02438).

        delta_t = r_t + discount (1 - terminal_t) V(s'_t) - V(s_t)
        A_t = delta_t + discount lam (1 - terminal_t) (1 - truncated_t) A_{t+1}

    A truncated step bootstraps from the value of the observation it led to, not from that of the next episode's first.

    Args:
        rewards, terminal, truncated: (T, ...).
        values: V(s_t), (T, ...), or (T + 1, ...) with that of the last observation.
        next_values: V(s'_t), (T, ...); None: `values[1:]`, right where no step within is truncated or both agree.

    Returns:
        advantages and value targets `A + V`, (T, ...) each.

    Raises:
        ValueError: `next_values` missing where a truncated step needs it.
    """
    steps = rewards.shape[0]
    if next_values is None:
        if values.shape[0] != steps + 1:
            raise ValueError(f"values: expected {steps + 1} steps without next_values, got {values.shape[0]}")
        if bool(truncated[:-1].any()):
            raise ValueError("next_values: needed where a step before the last is truncated")
        next_values = values[1:]
    values = values[:steps]
    alive = 1 - terminal.to(rewards.dtype)
    delta = rewards + discount * alive * next_values - values
    keep = discount * lam * alive * (1 - truncated.to(rewards.dtype))
    advantages = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for step in range(steps - 1, -1, -1):
        running = delta[step] + keep[step] * running
        advantages[step] = running
    return advantages, advantages + values
