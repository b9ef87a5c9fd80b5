"""The reward of FORM: how much better the demonstrator's effect model explains a transition than the imitator's own.

    r_t = log p_demonstrator(x_t | x_{t-1}) - log p_imitator(x_t | x_{t-1})

With exact models its sum over an episode has the mean `-KL(p_imitator || p_demonstrator)`: at most 0, and 0 exactly
when the two move alike. Nothing in it says "be where the demonstrator is".
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class ConditionalDensity(Protocol):
    """What a reward needs of a model: a conditional log-density and the normalisation it was fitted with."""

    statistics: Any

    def log_prob(self, x_prev: Tensor, x: Tensor) -> Tensor: ...


def check_comparable(demonstrator: ConditionalDensity, imitator: ConditionalDensity) -> None:
    """Raise `ValueError` unless both models have the same constants: else the Jacobians do not cancel."""
    mine, theirs = demonstrator.statistics, imitator.statistics
    if mine is theirs or (hasattr(mine, "equals") and theirs is not None and mine.equals(theirs)):
        return
    raise ValueError("demonstrator and imitator must share normalisation statistics")


@torch.no_grad()
def log_ratio(demonstrator: ConditionalDensity, imitator: ConditionalDensity, x_prev: Tensor, x: Tensor) -> Tensor:
    """The reward in nats, unclipped; shapes as in `EffectModel.log_prob`. No gradient flows through it.

    Raises:
        ValueError: the models differ in their statistics.
    """
    check_comparable(demonstrator, imitator)
    return demonstrator.log_prob(x_prev, x) - imitator.log_prob(x_prev, x)


def form_reward(
    demonstrator: ConditionalDensity,
    imitator: ConditionalDensity,
    x_prev: Tensor,
    x: Tensor,
    *,
    clip: float = 50.0,
    scale: float = 0.05,
) -> Tensor:
    """`scale * clip(log p_demonstrator - log p_imitator, -clip, clip)`.

    Args:
        demonstrator: fitted to the demonstrations, then frozen.
        imitator: fitted to the imitator's recent transitions.
        x_prev, x: previous and next observations, as in `EffectModel.log_prob`.
        clip: largest magnitude in nats; one transition far outside the demonstrations would decide a batch.
        scale: factor before the critic sees it.

    Returns:
        (B,), or (seeds, B).

    Raises:
        ValueError: the models differ in their statistics.
    """
    return log_ratio(demonstrator, imitator, x_prev, x).clamp(-clip, clip) * scale
