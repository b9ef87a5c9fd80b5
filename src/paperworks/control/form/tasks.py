"""The study's tasks: a world, an expert that is written down instead of trained, and demonstrations from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from paperworks.control.form.reacher import Reacher, final_distance, reacher_expert
from paperworks.data.trajectories import Trajectories
from paperworks.worlds.distractors import Kind, add_distractors, draw_patterns
from paperworks.worlds.points import Pendulum, PointOrbit, orbit_expert, pendulum_expert
from paperworks.worlds.protocol import Rollout, World, rollout
from paperworks.worlds.wrappers import AbsorbingState

Pool: TypeAlias = Literal["disjoint", "shared"]
IMITATOR_POOL = 1_000
BASELINE_EPISODES = 256


@dataclass(frozen=True)
class Task:
    """A world and its expert.

    `least`: what the expert, noise included, must reach on average before a study starts, in terms of `merit`.
    """

    name: str
    make: Callable[[int], World]
    expert: Callable[..., Tensor] | None
    least: float = -np.inf
    merit: Callable[[Rollout], Tensor] = lambda done: done.returns


TASKS = {
    "orbit": Task("orbit", PointOrbit, orbit_expert, least=-25.0),
    "pendulum": Task("pendulum", Pendulum, pendulum_expert, least=-200.0),
    "reacher": Task("reacher", Reacher, reacher_expert, least=-0.005, merit=final_distance),
}


def own_task(env_id: str, *, absorbing: bool = False) -> Task:
    """A registered Gymnasium environment, whose expert is known by its demonstrations alone.

    `absorbing`: with an absorbing state after the end of an episode; see `worlds.AbsorbingState`.
    """
    from paperworks.worlds.gymnasium_bridge import GymnasiumWorld

    def make(n: int) -> World:
        world = GymnasiumWorld(env_id, n)
        return AbsorbingState(world) if absorbing else world

    return Task(env_id, make, None)


def ends_early(world: World, *, seed: int = 0) -> bool:
    """Whether an episode of uniformly random actions ends by itself before its time."""
    generator = torch.Generator().manual_seed(seed)
    world.reset(generator=generator)
    for _ in range(world.horizon):
        uniform = torch.rand(world.n, world.action_dim, generator=generator)
        step = world.step(world.low + (world.high - world.low) * uniform)
        if bool(step.terminal.any()):
            return True
        if bool(step.truncated.any()):
            break
    return False


@dataclass(frozen=True)
class Setting:
    """Distractors of a trial: kind, how many, and whether the imitator draws from the demonstrations' patterns."""

    kind: Kind = "static_pool"
    dims: int = 0
    pool: Pool = "disjoint"

    def demonstrated_patterns(self, episodes: int, seed: int) -> Tensor:
        """One pattern an episode, at most half of all there are."""
        count = min(episodes, 2 ** min(self.dims - 1, 20))
        return draw_patterns(count, self.dims, seed=seed)

    def imitator_world(self, world: World, episodes: int, seed: int, *, draws: int) -> World:
        """The world with features from the imitator's pool, drawn apart from the demonstrations'."""
        if self.dims == 0:
            return world
        shown = self.demonstrated_patterns(episodes, seed)
        if self.pool == "shared":
            pool = shown
        else:
            left = 2**self.dims - len(shown) if self.dims < 20 else IMITATOR_POOL
            pool = draw_patterns(min(IMITATOR_POOL, left), self.dims, seed=seed + 500_000, avoid=shown)
        return add_distractors(world, self.kind, self.dims, pool=pool, seed=draws)


class SideBySide(World):
    """Several worlds of one kind as one, the copies of each in a row: the seeds of a block, each with its own pool."""

    def __init__(self, worlds: list[World]) -> None:
        self.worlds = worlds
        first = worlds[0]
        self.each = first.n
        self.n = sum(world.n for world in worlds)
        self.obs_dim, self.action_dim, self.horizon = first.obs_dim, first.action_dim, first.horizon
        self.low, self.high = first.low, first.high

    def reset(
        self, *, task: object = None, where: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        parts = [None] * len(self.worlds) if where is None else where.split(self.each)
        obs = [
            world.reset(task=task, where=part, generator=generator)
            for world, part in zip(self.worlds, parts, strict=True)
        ]
        return torch.cat(obs)

    def step(self, action: Tensor):
        self.check_action(action)
        steps = [world.step(part) for world, part in zip(self.worlds, action.split(self.each), strict=True)]
        first = steps[0]
        return type(first)(*(torch.cat(part) for part in zip(*steps, strict=True)))


def demonstrate(task: Task, setting: Setting, *, episodes: int, seed: int) -> tuple[Trajectories, Tensor]:
    """Demonstrations of the task's expert, and apart from them the actions (N, a) that only references may see."""
    if task.expert is None:
        raise ValueError(f"{task.name}: has no scripted expert; give demonstrations with --data")
    generator = torch.Generator().manual_seed(100_000 + seed)
    world = task.make(episodes)
    if setting.dims:
        patterns = setting.demonstrated_patterns(episodes, seed)
        world = add_distractors(world, setting.kind, setting.dims, pool=patterns, seed=200_000 + seed)
    expert = task.expert
    done = rollout(world, lambda obs: expert(obs, generator=generator), generator=generator)
    return Trajectories.from_arrays(done.episodes(), terminal=done.terminal.numpy()), done.action.transpose(
        0, 1
    ).reshape(-1, world.action_dim)


@cache
def baseline_return(
    task: Task, who: Literal["random", "expert"], *, seed: int, episodes: int = BASELINE_EPISODES
) -> float:
    """Mean return of uniformly random actions, or of the expert with its noise."""
    return float(_baseline(task, who, seed=seed, episodes=episodes).returns.mean())


def _baseline(task: Task, who: Literal["random", "expert"], *, seed: int, episodes: int) -> Rollout:
    generator = torch.Generator().manual_seed(300_000 + seed)
    world = task.make(episodes)

    def random(obs: Tensor) -> Tensor:
        return world.low + (world.high - world.low) * torch.rand(world.n, world.action_dim, generator=generator)

    def expert(obs: Tensor) -> Tensor:
        assert task.expert is not None
        return task.expert(obs, generator=generator)

    return rollout(world, random if who == "random" else expert, generator=generator)


def accept_expert(task: Task) -> float:
    """The expert's mean return; `ValueError` when it is not good enough to be imitated."""
    done = _baseline(task, "expert", seed=0, episodes=BASELINE_EPISODES)
    reached = float(task.merit(done).mean())
    if reached < task.least:
        raise ValueError(f"{task.name}: the expert reaches {reached:.3g}, a study needs at least {task.least:g}")
    return float(done.returns.mean())
