"""How a world is spoken to: n copies stepped together, as tensors, and nothing resets behind the caller's back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

Obs: TypeAlias = Any
"""A tensor (n, d), or a dictionary of tensors with a leading n."""


class Step(NamedTuple):
    """What a step gives: the observation after it, and for each copy reward, own end, and end by time."""

    obs: Obs
    reward: Tensor
    terminal: Tensor
    truncated: Tensor


class World(ABC):
    """n copies of an environment.

    Attributes:
        n: copies.
        obs_dim, action_dim: sizes (0 where observations are dictionaries).
        low, high: bounds of every action.
        horizon: steps after which an episode is cut off.
    """

    n: int
    obs_dim: int
    action_dim: int
    low: float
    high: float
    horizon: int

    @abstractmethod
    def reset(self, *, task: Any = None, where: Tensor | None = None, generator: torch.Generator | None = None) -> Obs:
        """Start new episodes.

        Args:
            task: what varies between tasks, for worlds that have some.
            where: (n,), which copies start anew; None: all.
            generator: of this start and of all noise until another is given.

        Returns:
            The observations of all copies.
        """

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Apply actions (n, action_dim). Copies whose episode is over must be reset first."""

    def as_gymnasium(self) -> VectorEnv:
        """This world as a `gymnasium.vector.VectorEnv` with disabled auto-reset (`reset(options={"reset_mask": ...})`,
        `options={"task": ...}`)."""
        from paperworks.worlds.gymnasium_bridge import as_vector_env

        return as_vector_env(self)

    def check_action(self, action: Tensor) -> None:
        if action.shape != (self.n, self.action_dim):
            raise ValueError(f"action: expected {(self.n, self.action_dim)}, got {tuple(action.shape)}")


class Rollout(NamedTuple):
    """One episode of each copy, time first: obs (T + 1, n, d), action (T, n, a), reward (T, n), alive (T, n).

    `alive`: the step was made before its episode's end. `terminal`: (n,), whether the episode ended by itself.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    alive: Tensor
    terminal: Tensor

    @property
    def returns(self) -> Tensor:
        """Undiscounted return of each copy, (n,)."""
        return (self.reward * self.alive).sum(0)

    def episodes(self) -> list[Tensor]:
        """The observations of each copy up to its end, (steps + 1, d)."""
        lengths = self.alive.sum(0).int().tolist()
        return [self.obs[: length + 1, copy] for copy, length in enumerate(lengths)]


@torch.no_grad()
def rollout(
    world: World,
    policy: Callable[[Tensor], Tensor],
    *,
    task: Any = None,
    generator: torch.Generator | None = None,
) -> Rollout:
    """One episode of each copy under `policy`, which maps observations (n, d) to actions (n, a).

    Copies that end early stand still (their last observation is repeated) until the last one ends.
    """
    obs = world.reset(task=task, generator=generator)
    done = torch.zeros(world.n, dtype=torch.bool)
    ended = torch.zeros(world.n, dtype=torch.bool)
    seen, actions, rewards, alive = [obs], [], [], []
    for _ in range(world.horizon):
        action = policy(obs)
        step = world.step(action)
        obs = torch.where(done[:, None], obs, step.obs)
        seen.append(obs)
        actions.append(action)
        rewards.append(step.reward)
        alive.append(~done)
        ended |= ~done & step.terminal
        done = done | step.terminal | step.truncated
        if bool(done.all()):
            break
        if bool(done.any()):
            # Nobody looks at these copies any more, but a world may refuse to step one that is over.
            world.reset(task=task, where=done)
    return Rollout(torch.stack(seen), torch.stack(actions), torch.stack(rewards), torch.stack(alive), ended)
