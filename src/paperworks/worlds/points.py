"""Small worlds as tensor arithmetic, thousands of copies at once, with experts written down instead of trained.

`PointOrbit`: a point with inertia that should circle the origin at radius 1; every dimension carries noise, independent
given the last state, so that the law of the next observation is exactly a diagonal Gaussian under a Gaussian policy.
`Pendulum`: Gymnasium's `Pendulum-v1`, number for number.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from paperworks.worlds.protocol import Step, World


class PointOrbit(World):
    """A point that should circle the origin: observation (position, velocity) in R^4, action a in [-1, 1]^2.

        p' = clip(p + .1 v + .01 e, +-2.5),   v' = .9 v + .3 a + .03 e,   e ~ N(0, 1)
        reward = - |v - v*(p)|^2 - (|p| - 1)^2      before the step

    Episodes start at p ~ U[-2, 2]^2, v = 0 and are cut off after 100 steps. Actions are taken as they come: clipping
    the noise of an expert near the bound would put a point mass into the law of the effect.
    """

    obs_dim, action_dim, low, high, horizon = 4, 2, -1.0, 1.0, 100

    def __init__(self, n: int) -> None:
        _positive(n)
        self.n = n
        self.state = torch.zeros(n, 4)
        self.time = torch.zeros(n, dtype=torch.long)
        self.generator: torch.Generator | None = None

    def reset(
        self, *, task: Any = None, where: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        self.generator = generator if generator is not None else self.generator
        start = torch.zeros(self.n, 4)
        start[:, :2] = 4 * torch.rand(self.n, 2, generator=self.generator) - 2
        self.state, self.time = _restart(self.state, self.time, start, where)
        return self.state.clone()

    def step(self, action: Tensor) -> Step:
        self.check_action(action)
        p, v = self.state[:, :2], self.state[:, 2:]
        noise = torch.randn(self.n, 4, generator=self.generator)
        p_next = (p + 0.1 * v + 0.01 * noise[:, :2]).clamp(-2.5, 2.5)
        v_next = 0.9 * v + 0.3 * action + 0.03 * noise[:, 2:]
        self.state = torch.cat([p_next, v_next], -1)
        self.time = self.time + 1
        reward = -(v - orbit_velocity(p)).square().sum(-1) - (p.norm(dim=-1) - 1).square()
        return Step(self.state.clone(), reward, torch.zeros(self.n, dtype=torch.bool), self.time >= self.horizon)


def orbit_velocity(p: Tensor) -> Tensor:
    """The velocity wanted at p, (..., 2): counterclockwise at unit speed, and towards the circle; clamped to +-2."""
    radius = p.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    turned = torch.stack([-p[..., 1], p[..., 0]], -1)
    return ((turned + 2 * (1 - radius) * p) / radius).clamp(-2, 2)


def orbit_expert(
    obs: Tensor, *, limit: float = 0.8, noise: float = 0.2, generator: torch.Generator | None = None
) -> Tensor:
    """`clip(2 (v* - v), +-limit) + noise e`; noise after the clip, else the law of the effect has point masses."""
    p, v = obs[..., :2], obs[..., 2:4]
    action = (2 * (orbit_velocity(p) - v)).clamp(-limit, limit)
    return action + noise * torch.randn(action.shape, generator=generator) if noise else action


class Pendulum(World):
    """Swing up and balance a pendulum: Gymnasium's `Pendulum-v1` (g = 10, m = l = 1, steps of .05 s, 200 of them).

    Observation (cos th, sin th, w), th = 0 upright; action: torque in [-2, 2];
    reward = - (th^2 + .1 w^2 + .001 a^2) before the step.
    """

    obs_dim, action_dim, low, high, horizon = 3, 1, -2.0, 2.0, 200

    def __init__(self, n: int) -> None:
        _positive(n)
        self.n = n
        self.state = torch.zeros(n, 2, dtype=torch.float64)
        self.time = torch.zeros(n, dtype=torch.long)
        self.generator: torch.Generator | None = None

    def reset(
        self, *, task: Any = None, where: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        self.generator = generator if generator is not None else self.generator
        uniform = 2 * torch.rand(self.n, 2, generator=self.generator, dtype=torch.float64) - 1
        start = uniform * torch.tensor([math.pi, 1.0], dtype=torch.float64)
        self.state, self.time = _restart(self.state, self.time, start, where)
        return self._observe()

    def step(self, action: Tensor) -> Step:
        self.check_action(action)
        angle, speed = self.state.unbind(-1)
        torque = action[:, 0].to(torch.float64).clamp(-2, 2)
        wrapped = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        reward = -(wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2)
        speed = (speed + (15 * torch.sin(angle) + 3 * torque) * 0.05).clamp(-8, 8)
        self.state = torch.stack([angle + speed * 0.05, speed], -1)
        self.time = self.time + 1
        none = torch.zeros(self.n, dtype=torch.bool)
        return Step(self._observe(), reward.float(), none, self.time >= self.horizon)

    def _observe(self) -> Tensor:
        angle, speed = self.state.unbind(-1)
        return torch.stack([torch.cos(angle), torch.sin(angle), speed], -1).float()


def pendulum_expert(
    obs: Tensor, *, limit: float = 1.6, noise: float = 0.3, generator: torch.Generator | None = None
) -> Tensor:
    """Pump energy, then balance: `clip(2 w (E* - E))` with E = w^2/6 + 5 cos th, E* = 5; a push where w is about 0;
    `-16 th - 4.5 w` near the top. Noise after the clip."""
    cos, sin, speed = obs[..., 0], obs[..., 1], obs[..., 2]
    angle = torch.atan2(sin, cos)
    pumped = (2 * speed * (5 - speed**2 / 6 - 5 * cos)).clamp(-2, 2)
    push = 4 * torch.rand(speed.shape, generator=generator) - 2
    torque = torch.where(speed.abs() < 0.01, push, pumped)
    balanced = -16 * angle - 4.5 * speed
    near = (angle.abs() < 0.5) & (speed.abs() < 2.5)
    torque = torch.where(near, balanced, torque).clamp(-limit, limit)
    if noise:
        torque = torque + noise * torch.randn(torque.shape, generator=generator)
    return torque.unsqueeze(-1)


def _restart(state: Tensor, time: Tensor, start: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
    if where is None:
        return start, torch.zeros_like(time)
    return torch.where(where[:, None], start, state), torch.where(where, torch.zeros_like(time), time)


def _positive(n: int) -> None:
    if n < 1:
        raise ValueError(f"n: expected at least 1 copy, got {n}")
