"""Off-policy learners for many seeds at once: they take batches whose rewards were computed a moment ago.

`SoftActorCritic` with a small fixed entropy weight (a bonus on top of a log-ratio would count exploration twice);
`MPO`, the paper's choice of learner, whose own settings could not be checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from paperworks.control.form.statistics import Statistics
from paperworks.nn.momentum_twin import MomentumTwin
from paperworks.train.rl.critics import TwinQ
from paperworks.train.rl.losses import sac_losses
from paperworks.train.rl.mpo import mpo_losses, positive
from paperworks.train.rl.policies import TanhGaussian

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class AgentConfig:
    """Settings of a learner."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of policy and critics."""
    lr: float = 3e-4
    """Adam's rate."""
    discount: float = 0.95
    """Per step."""
    entropy: float = 0.01
    """Weight of the entropy on the scaled reward (sac)."""
    tau: float = 0.01
    """Part of the way that target critics go in each update (sac)."""
    samples: int = 20
    """Actions a state (mpo)."""
    target_every: int = 100
    """Updates between copies to the target networks (mpo)."""
    epsilon: float = 0.1
    """Limit of the E-step's KL (mpo)."""
    epsilon_mean: float = 0.0025
    """Limit of the mean's KL, per dimension (mpo)."""
    epsilon_std: float = 1e-6
    """Limit of the spread's KL, per dimension (mpo)."""
    dual_lr: float = 1e-2
    """Adam's rate of temperature and multipliers (mpo)."""


class Learner(Protocol):
    """What a training loop needs of a learner; observations (seeds, B, d)."""

    policy: TanhGaussian

    def act(self, obs: Tensor, *, generator: torch.Generator | None = None) -> Tensor: ...

    def mode(self, obs: Tensor) -> Tensor: ...

    def update(self, batch: Batch, reward: Tensor, *, generator: torch.Generator | None = None) -> None: ...


class _ActorCritic:
    """Networks and normalisation that both learners have."""

    def __init__(
        self, statistics: Statistics, obs_dim: int, action_dim: int, *, low: float, high: float, config: AgentConfig
    ) -> None:
        self.config = config
        seeds = statistics.seeds
        repeats = obs_dim // statistics.dim
        self.mean = statistics.mean.unsqueeze(1).repeat(1, 1, repeats)
        self.inverse_std = 1 / statistics.safe_std.unsqueeze(1).repeat(1, 1, repeats)
        self.middle, self.inverse_half = (low + high) / 2, 2 / (high - low)
        self.policy = TanhGaussian(obs_dim, action_dim, hidden=config.hidden, seeds=seeds, low=low, high=high)
        self.critic = TwinQ(obs_dim, action_dim, hidden=config.hidden, seeds=seeds)
        self.target = MomentumTwin(self.critic)

    def normalize(self, obs: Tensor) -> Tensor:
        return (obs - self.mean) * self.inverse_std

    def unit(self, action: Tensor) -> Tensor:
        """Actions on [-1, 1] for the critics."""
        return (action - self.middle) * self.inverse_half

    @torch.no_grad()
    def act(self, obs: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return self.policy(self.normalize(obs), generator=generator)[0]

    @torch.no_grad()
    def mode(self, obs: Tensor) -> Tensor:
        return self.policy.mode(self.normalize(obs))


class SoftActorCritic(_ActorCritic):
    """SAC with a fixed entropy weight; actor and critics take one Adam step together."""

    def __init__(
        self, statistics: Statistics, obs_dim: int, action_dim: int, *, low: float, high: float, config: AgentConfig
    ) -> None:
        super().__init__(statistics, obs_dim, action_dim, low=low, high=high, config=config)
        parameters = [*self.policy.parameters(), *self.critic.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=config.lr, fused=True)

    def update(self, batch: Batch, reward: Tensor, *, generator: torch.Generator | None = None) -> None:
        obs, following = self.normalize(batch["obs"]), self.normalize(batch["next_obs"])
        size = obs.shape[1]
        # One pass of the policy for both observations; the next one's actions are constants.
        action, log_prob = self.policy(torch.cat([obs, following], 1), generator=generator)
        unit = self.unit(action)
        with torch.no_grad():
            next_q = self.target(following, unit[:, size:])
        losses = sac_losses(
            q=self.critic(obs, self.unit(batch["action"])),
            next_q=next_q,
            next_log_prob=log_prob[:, size:].detach(),
            reward=reward,
            terminal=batch["terminal"],
            new_q=self.critic(obs, unit[:, :size], frozen=True),
            log_prob=log_prob[:, :size],
            discount=self.config.discount,
            entropy=self.config.entropy,
        )
        self.optimizer.zero_grad(set_to_none=True)
        (losses.actor + losses.critic).sum().backward()
        self.optimizer.step()
        self.target.update(1 - self.config.tau)


class MPO(_ActorCritic):
    """Maximum a posteriori policy optimisation with target networks for policy and critics."""

    def __init__(
        self, statistics: Statistics, obs_dim: int, action_dim: int, *, low: float, high: float, config: AgentConfig
    ) -> None:
        super().__init__(statistics, obs_dim, action_dim, low=low, high=high, config=config)
        seeds = statistics.seeds
        self.old_policy = MomentumTwin(self.policy)
        self.raw_eta = nn.Parameter(torch.ones(seeds))
        self.raw_alpha_mean = nn.Parameter(torch.full((seeds, action_dim), 1.0))
        self.raw_alpha_std = nn.Parameter(torch.full((seeds, action_dim), 10.0))
        parameters = [*self.policy.parameters(), *self.critic.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=config.lr, fused=True)
        duals = [self.raw_eta, self.raw_alpha_mean, self.raw_alpha_std]
        self.dual_optimizer = torch.optim.Adam(duals, lr=config.dual_lr)
        self.updates = 0

    def update(self, batch: Batch, reward: Tensor, *, generator: torch.Generator | None = None) -> None:
        config = self.config
        if self.updates % config.target_every == 0:
            self.target.update(0.0)
            self.old_policy.update(0.0)
        self.updates += 1
        obs, following = self.normalize(batch["obs"]), self.normalize(batch["next_obs"])
        with torch.no_grad():
            u, q, mean, log_std = self._drawn(obs, generator)
            next_value = self._drawn(following, generator)[1].mean(0)
            target = reward + config.discount * (1 - batch["terminal"]) * next_value
        online_mean, online_log_std = self.policy.gaussian(obs)
        losses = mpo_losses(
            q=q,
            u=u,
            mean=online_mean,
            log_std=online_log_std,
            target_mean=mean,
            target_log_std=log_std,
            eta=positive(self.raw_eta),
            alpha_mean=positive(self.raw_alpha_mean),
            alpha_std=positive(self.raw_alpha_std),
            epsilon=config.epsilon,
            epsilon_mean=config.epsilon_mean,
            epsilon_std=config.epsilon_std,
        )
        critic = (self.critic(obs, self.unit(batch["action"])) - target).square().mean(-1).sum(0)
        self.optimizer.zero_grad(set_to_none=True)
        self.dual_optimizer.zero_grad(set_to_none=True)
        (losses.policy + losses.dual + critic).sum().backward()
        self.optimizer.step()
        self.dual_optimizer.step()

    def _drawn(self, obs: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """N actions a state from the old policy, before squashing (N, seeds, B, d), their values, and its moments."""
        old: Any = self.old_policy.module
        mean, log_std = old.gaussian(obs)
        samples, (seeds, batch, dim) = self.config.samples, mean.shape
        noise = torch.randn(samples, seeds, batch, dim, generator=generator)
        u = mean + log_std.exp() * noise
        unit = self.unit(self.policy.squash(u)).transpose(0, 1).reshape(seeds, samples * batch, dim)
        repeated = obs.unsqueeze(1).expand(-1, samples, -1, -1).reshape(seeds, samples * batch, -1)
        q = self.target(repeated, unit).amin(0).view(seeds, samples, batch).transpose(0, 1)
        return u, q, mean, log_std


AGENTS = {"sac": SoftActorCritic, "mpo": MPO}
