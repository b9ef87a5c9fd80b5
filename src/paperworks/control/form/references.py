"""References that may see what an imitator from observations may not: the true reward, or the demonstrator's actions.

They say what learner and budget could do; no claim is judged on them as rivals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from paperworks.control.form.adversarial import GAIfO
from paperworks.control.form.cloning import DEFAULT_CLONING, CloningConfig, clone_policy, unit_action
from paperworks.control.form.imitation import Collector, Imitation
from paperworks.control.form.pairs import ObservedPairs
from paperworks.data.trajectories import Trajectories
from paperworks.worlds.protocol import Step, World


class TrueReward(Imitation):
    """The same learner on the environment's own reward, the one arm that stores it.

    Args: see `Collector`, and
        scale: factor of the reward, so that critics see numbers of the size that the imitators' see.
    """

    def __init__(
        self, env: World, demonstrations: Trajectories | Sequence[Trajectories], *, scale: float = 1.0, **options: Any
    ) -> None:
        self.scale = scale
        super().__init__(env, demonstrations, **options)

    def build(self) -> None:
        """Nothing to learn."""

    def extra_fields(self) -> dict[str, tuple[int, ...]]:
        return {"reward": ()}

    def extra(self, step: Step) -> dict[str, Tensor]:
        return {"reward": step.reward}

    def reward(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["reward"] * self.scale

    def learn_reward(self) -> None:
        """The reward is given."""


class ActionGAIL(GAIfO):
    """GAIL with the demonstrator's actions, (N, a) a seed, one for each transition: privileged."""

    def __init__(
        self,
        env: World,
        demonstrations: Trajectories | Sequence[Trajectories],
        *,
        actions: Sequence[Tensor],
        **options: Any,
    ) -> None:
        self.actions = list(actions)
        super().__init__(env, demonstrations, **options)

    def inputs(self, x_prev: Tensor, x: Tensor, action: Tensor) -> Tensor:
        return torch.cat([self.observed(x_prev, x)[..., : x_prev.shape[-1]], unit_action(self.env, action)], -1)

    def demonstrated(self) -> tuple[list[Tensor], list[Tensor]]:
        rows = []
        for part, episodes, actions in zip(
            self.observed.of(self.demonstrations), self.demonstrations, self.actions, strict=True
        ):
            _check_actions(episodes, actions)
            rows.append(torch.cat([part[:, : self.env.obs_dim], unit_action(self.env, actions)], 1))
        return self._split(rows)


class BC(Collector):
    """Behavioural cloning of the demonstrator's actions: privileged, and without any interaction."""

    def __init__(
        self,
        env: World,
        demonstrations: Trajectories | Sequence[Trajectories],
        *,
        actions: Sequence[Tensor],
        cloning: CloningConfig = DEFAULT_CLONING,
        **options: Any,
    ) -> None:
        self.actions, self.cloning = list(actions), cloning
        super().__init__(env, demonstrations, **options)

    def build(self) -> None:
        """The policy is all."""

    def train(self, steps: int, *, every: int = 0, watch: Callable[[int], None] | None = None) -> None:
        """`steps` updates of the policy; `watch` is called after each `every` of them."""
        rows = []
        observed = ObservedPairs(self.statistics, self.frames).of(self.demonstrations)
        for inputs, episodes, actions in zip(observed, self.demonstrations, self.actions, strict=True):
            _check_actions(episodes, actions)
            rows.append(torch.cat([inputs[:, : self.env.obs_dim], unit_action(self.env, actions).clamp(-1, 1)], 1))

        def after(update: int) -> None:
            if every and watch and update % every == 0:
                watch(self.updates + update)

        clone_policy(
            self.learner.policy,
            rows,
            updates=steps,
            lr=self.cloning.lr,
            batch=self.loop.batch,
            generator=self.generator,
            after=after,
        )
        self.updates += steps
        self.learned += steps


def _check_actions(episodes: Trajectories, actions: Tensor) -> None:
    if len(actions) != episodes.steps:
        raise ValueError(f"actions: expected one for each of {episodes.steps} transitions, got {len(actions)}")
