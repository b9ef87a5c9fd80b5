"""Worlds around worlds: an absorbing state after the end, and observations that hold the last few."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paperworks.worlds.protocol import Step, World


class AbsorbingState(World):
    """Episodes that end go on in an absorbing state until the time limit, so that ending is worth what it is worth.

    A last dimension is 0 during life and 1 afterwards, where all others are 0 (Kostrikov et al., 2019, arXiv
    1809.02925). Without it a learner whose rewards are all negative seeks the end, one whose are positive shuns it,
    whatever the demonstrations say. The reward after the end is 0; `terminal` is never set.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.n, self.obs_dim, self.action_dim = world.n, world.obs_dim + 1, world.action_dim
        self.low, self.high, self.horizon = world.low, world.high, world.horizon
        self.over = torch.zeros(world.n, dtype=torch.bool)
        self.time = torch.zeros(world.n, dtype=torch.long)

    def reset(
        self, *, task: Any = None, where: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        obs = self.world.reset(task=task, where=where, generator=generator)
        fresh = torch.ones_like(self.over) if where is None else where
        self.over = self.over & ~fresh
        self.time = torch.where(fresh, torch.zeros_like(self.time), self.time)
        return absorb(obs, self.over)

    def step(self, action: Tensor) -> Step:
        step = self.world.step(action)
        reward = torch.where(self.over, torch.zeros_like(step.reward), step.reward)
        self.over = self.over | step.terminal
        self.time = self.time + 1
        # A copy that is over keeps its clock running inside; restarting it keeps the world valid.
        if bool(self.over.any()):
            self.world.reset(where=self.over)
        return Step(absorb(step.obs, self.over), reward, torch.zeros_like(self.over), self.time >= self.horizon)


def absorb(obs: Tensor, over: Tensor) -> Tensor:
    """(n, d) -> (n, d + 1): the observation and 0, or zeros and 1 where the episode is over."""
    flag = over.to(obs.dtype).unsqueeze(-1)
    return torch.cat([obs * (1 - flag), flag], -1)


class FrameStack(World):
    """Observations that hold the last `frames` ones, newest last; the first of an episode is repeated."""

    def __init__(self, world: World, frames: int) -> None:
        if frames < 1:
            raise ValueError(f"frames: expected at least 1, got {frames}")
        self.world, self.frames = world, frames
        self.n, self.obs_dim, self.action_dim = world.n, world.obs_dim * frames, world.action_dim
        self.low, self.high, self.horizon = world.low, world.high, world.horizon
        self.stack = torch.zeros(world.n, self.obs_dim)

    def reset(
        self, *, task: Any = None, where: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        obs = self.world.reset(task=task, where=where, generator=generator).repeat(1, self.frames)
        self.stack = obs if where is None else torch.where(where[:, None], obs, self.stack)
        return self.stack

    def step(self, action: Tensor) -> Step:
        step = self.world.step(action)
        self.stack = torch.cat([self.stack[:, self.world.obs_dim :], step.obs], -1)
        return Step(self.stack, step.reward, step.terminal, step.truncated)
