"""FORM: imitation from observations by a ratio of two effect models (Jaegle et al., 2021, arXiv 2107.03851).

The demonstrator's model is fitted to the demonstrations before reinforcement learning and frozen; the imitator's is
trained with the agent on its newest transitions. Nothing is adversarial: the first is fixed, and the second follows
the agent instead of opposing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from paperworks.control.form.effect_model import EffectModel
from paperworks.control.form.fitting import History
from paperworks.control.form.imitation import DEFAULT_LOOP, Imitation, LoopConfig
from paperworks.control.form.reward import form_reward, log_ratio
from paperworks.data.trajectories import Trajectories
from paperworks.worlds.protocol import World


@dataclass(frozen=True)
class EffectConfig:
    """Both effect models, and what becomes of their ratio."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    components: int = 4
    """Gaussians of the mixture."""
    covariance: Literal["diagonal", "full"] = "diagonal"
    """Of each Gaussian."""
    predict: Literal["delta", "absolute"] = "delta"
    """The difference of observations, or the observation itself."""
    noise: float = 0.01
    """Input noise in training, in standard deviations of the demonstrations."""
    min_scale: float = 0.02
    """Floor of the scales, in standard deviations of what is predicted."""
    ensemble: int = 1
    """Members on bootstrapped episodes; 1 is the paper's."""
    epochs: int = 60
    """Passes over the demonstrations; the best held-out one is kept."""
    fit_lr: float = 3e-3
    """AdamW's rate for the demonstrator's model, falling to 0."""
    fit_batch: int = 256
    """Transitions a step of that fit."""
    lr: float = 1e-3
    """AdamW's rate for the imitator's model."""
    weight_decay: float = 1e-4
    """AdamW's, for both."""
    clip: float = 50.0
    """Largest log-ratio, in nats."""
    scale: float = 0.05
    """Factor between log-ratio and reward."""
    init_imitator: Literal["demonstrator", "fresh"] = "demonstrator"
    """Where the imitator's model starts; from the demonstrator's, r = 0 at first."""
    imitator_term: bool = True
    """False: the ablation that rewards the demonstrator's density alone (in normalised units)."""


class FORM(Imitation):
    """Imitation from observations by a ratio of conditional densities.

    Example:
        env = PointOrbit(8)
        form = FORM(env, Demonstrations.from_path("demos.npz"), seed=0)
        form.train(6_000)
        action = form.policy(obs)

    Args: see `Collector`, and
        effect: the effect models.

    Difference to the paper: learner, architectures and their settings are ours wherever the text could not be checked.
    """

    def __init__(
        self,
        env: World,
        demonstrations: Trajectories | Sequence[Trajectories],
        *,
        learner: Literal["sac", "mpo"] = "sac",
        effect: EffectConfig = EffectConfig(),
        loop: LoopConfig = DEFAULT_LOOP,
        seeds: int = 1,
        absorbing: bool = False,
        frames: int = 1,
        seed: int = 0,
    ) -> None:
        self.effect = effect
        super().__init__(
            env,
            demonstrations,
            learner=learner,
            loop=loop,
            seeds=seeds,
            absorbing=absorbing,
            frames=frames,
            seed=seed,
        )

    def build(self) -> None:
        self.history: History | None = None
        self.demonstrator, self.imitator = self._model(), self._model()
        for model in (self.demonstrator, self.imitator):
            model.set_statistics(self.statistics)
        self.optimizer = torch.optim.AdamW(
            self.imitator.parameters(), lr=self.effect.lr, weight_decay=self.effect.weight_decay, fused=True
        )
        self.clipped = torch.zeros(self.seeds)

    def fit_demonstrator(self) -> History:
        """Fit and freeze the demonstrator's model; the first call of `train` does so too."""
        if self.history is None:
            effect = self.effect
            self.history = self.demonstrator.fit(
                self.demonstrations,
                epochs=effect.epochs,
                lr=effect.fit_lr,
                batch=effect.fit_batch,
                weight_decay=effect.weight_decay,
                generator=self.generator,
            )
            self.demonstrator.requires_grad_(False).eval()
            if effect.init_imitator == "demonstrator":
                self.imitator.load_state_dict(self.demonstrator.state_dict())
        return self.history

    def train(self, steps: int, **options: Any) -> None:
        self.fit_demonstrator()
        super().train(steps, **options)

    def reward_model(self, x_prev: Tensor, x: Tensor) -> Tensor:
        """The reward of transitions (seeds, B, d) under the current models, (seeds, B)."""
        self.imitator.eval()
        effect = self.effect
        if effect.imitator_term:
            return form_reward(self.demonstrator, self.imitator, x_prev, x, clip=effect.clip, scale=effect.scale)
        with torch.no_grad():
            density = self.demonstrator.log_prob(x_prev, x) + self.demonstrator.log_jacobian()
        return density.clamp(-effect.clip, effect.clip) * effect.scale

    def reward(self, batch: dict[str, Tensor]) -> Tensor:
        reward = self.reward_model(batch["obs"], self.newest(batch["next_obs"]))
        # Clipped values sit at the bounds exactly.
        beyond = (reward.abs() >= self.effect.clip * self.effect.scale * (1 - 1e-6)).float().mean(1)
        self.clipped.lerp_(beyond, 0.01)
        return reward

    def learn_reward(self) -> None:
        if not self.effect.imitator_term:
            return
        batch = self.recent()
        previous, following = batch["obs"], self.newest(batch["next_obs"])
        self.imitator.train()
        pair = [x.repeat_interleave(self.effect.ensemble, 0) for x in (previous, following)]
        loss = -self.imitator.member_log_prob(pair[0], pair[1], generator=self.generator).mean(1).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def divergence(self) -> Tensor:
        """Estimated KL(imitator || demonstrator) of the effects, nats a step, (seeds,): -E[r] over the newest
        transitions, clipped as the reward is. 0 where the two move alike; adversarial rewards have no such mark."""
        recent = self.replay.newest(self.loop.window)
        previous, following = recent["obs"], self.newest(recent["next_obs"])
        self.imitator.eval()
        ratio = log_ratio(self.demonstrator, self.imitator, previous, following)
        return -ratio.clamp(-self.effect.clip, self.effect.clip).mean(1)

    def _model(self) -> EffectModel:
        effect = self.effect
        return EffectModel(
            self.dim,
            hidden=effect.hidden,
            components=effect.components,
            covariance=effect.covariance,
            frames=self.frames,
            predict=effect.predict,
            noise=effect.noise,
            min_scale=effect.min_scale,
            ensemble=effect.ensemble,
            seeds=self.seeds,
        )
