"""Stochastic policies over bounded actions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.nn.seed_mlp import Init, SeedMLP

LOG_2 = math.log(2.0)
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class TanhGaussian(nn.Module):
    """`a = middle + half tanh(u)`, `u ~ N(mean(obs), exp(log_std(obs))^2)`; one policy a seed.

    Its log-density counts the squashing, `log p(a) = log N(u) - sum log(half (1 - tanh(u)^2))`, in a form that is exact
    where tanh saturates.

    Args:
        obs_dim, action_dim: sizes.
        hidden: widths of the hidden layers (relu).
        seeds: S.
        log_std_bounds: clamp of the log standard deviation of u.
        low, high: bounds of every action.
        init, last_scale: see `SeedMLP`.

    Raises:
        ValueError: bounds in the wrong order.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        *,
        hidden: tuple[int, ...] = (256, 256),
        seeds: int = 1,
        log_std_bounds: tuple[float, float] = (-5.0, 2.0),
        low: float = -1.0,
        high: float = 1.0,
        init: Init = "torch",
        last_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not low < high or not log_std_bounds[0] < log_std_bounds[1]:
            raise ValueError(f"low, high, log_std_bounds: expected low < high, got {low}, {high}, {log_std_bounds}")
        self.action_dim, self.log_std_bounds = action_dim, log_std_bounds
        self.middle, self.half_range = (low + high) / 2, (high - low) / 2
        self.network = SeedMLP(seeds, (obs_dim, *hidden, 2 * action_dim), init=init, last_scale=last_scale)

    def forward(self, obs: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw reparametrised actions.

        Args:
            obs: (seeds, B, obs_dim).

        Returns:
            action (seeds, B, action_dim) and its log-density (seeds, B).
        """
        mean, log_std = self.gaussian(obs)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        u = torch.addcmul(mean, log_std.exp(), noise)
        density = -0.5 * noise * noise - log_std - self._log_slope(u)
        constant = self.action_dim * (HALF_LOG_2PI + math.log(self.half_range))
        return self.squash(u), density.sum(-1) - constant

    def gaussian(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before squashing, (seeds, B, action_dim) each."""
        mean, log_std = self.network(obs).chunk(2, -1)
        return mean, log_std.clamp(*self.log_std_bounds)

    def mode(self, obs: Tensor) -> Tensor:
        """The squashed mean, (seeds, B, action_dim)."""
        return self.squash(self.network(obs)[..., : self.action_dim])

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log-density of given actions, (seeds, B). Actions at the bounds count as just inside."""
        mean, log_std = self.gaussian(obs)
        u = self.unsquash(action)
        z = (u - mean) * torch.exp(-log_std)
        density = -0.5 * z * z - log_std - self._log_slope(u)
        return density.sum(-1) - self.action_dim * (HALF_LOG_2PI + math.log(self.half_range))

    def squash(self, u: Tensor) -> Tensor:
        return torch.tanh(u) * self.half_range + self.middle

    def unsquash(self, action: Tensor) -> Tensor:
        inside = 1 - 1e-6
        return torch.atanh(((action - self.middle) / self.half_range).clamp(-inside, inside))

    @staticmethod
    def _log_slope(u: Tensor) -> Tensor:
        """log(1 - tanh(u)^2) without cancellation."""
        return 2 * (LOG_2 - u - F.softplus(-2 * u))
