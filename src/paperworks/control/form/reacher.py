"""Gymnasium's `Reacher-v5` stepped on MuJoCo directly, and an expert that is written down: two-link inverse kinematics.

The model file is Gymnasium's own, read where it is installed; its environment class is not needed, nor what that draws
with. One action moves several observations without any noise in the dynamics: a hard case for densities.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.worlds.protocol import Rollout, Step, World

UPPER, FORE = 0.1, 0.11  # lengths of the links, m
SUBSTEPS = 2


class Reacher(World):
    """A two-link arm whose fingertip should reach a target (metres, radians; 50 steps of .02 s).

    Observation (cos q1, cos q2, sin q1, sin q2, target x, y, dq1/dt, dq2/dt, fingertip - target x, y);
    action: torques in [-1, 1]; reward = - |fingertip - target| - |a|^2 after the step.

    Raises:
        ImportError: MuJoCo or Gymnasium's model file is not installed.
    """

    obs_dim, action_dim, low, high, horizon = 10, 2, -1.0, 1.0, 50

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ValueError(f"n: expected at least 1 copy, got {n}")
        self._mujoco = _mujoco()
        self.n = n
        self.model = self._mujoco.MjModel.from_xml_path(str(_model_file()))
        self.data = [self._mujoco.MjData(self.model) for _ in range(n)]
        self.tip, self.target = (self.model.body(name).id for name in ("fingertip", "target"))
        self.time = torch.zeros(n, dtype=torch.long)
        self.generator: torch.Generator | None = None

    def reset(
        self, *, task: Any = None, where: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        self.generator = generator if generator is not None else self.generator
        chosen = range(self.n) if where is None else where.nonzero().flatten().tolist()
        for copy in chosen:
            data = self.data[copy]
            self._mujoco.mj_resetData(self.model, data)
            data.qpos[:2] += 0.1 * self._uniform(2)
            data.qpos[2:] = self._goal()
            data.qvel[:2] = 0.005 * self._uniform(2)
            self._mujoco.mj_forward(self.model, data)
            self.time[copy] = 0
        return self._observe()

    def step(self, action: Tensor) -> Step:
        self.check_action(action)
        torque = action.clamp(self.low, self.high).numpy()
        for data, control in zip(self.data, torque, strict=True):
            data.ctrl[:] = control
            self._mujoco.mj_step(self.model, data, SUBSTEPS)
            # Positions of bodies are those before the last integration until asked for anew.
            self._mujoco.mj_rnePostConstraint(self.model, data)
        self.time = self.time + 1
        obs = self._observe()
        reward = -obs[:, 8:].norm(dim=1) - torch.from_numpy(torque).square().sum(1)
        return Step(obs, reward, torch.zeros(self.n, dtype=torch.bool), self.time >= self.horizon)

    def _observe(self) -> Tensor:
        angle = np.stack([data.qpos[:2] for data in self.data])
        target = np.stack([data.qpos[2:] for data in self.data])
        speed = np.stack([data.qvel[:2] for data in self.data])
        apart = np.stack([data.xpos[self.tip, :2] - data.xpos[self.target, :2] for data in self.data])
        return torch.from_numpy(np.concatenate([np.cos(angle), np.sin(angle), target, speed, apart], 1)).float()

    def _goal(self) -> np.ndarray:
        while True:
            goal = 0.2 * self._uniform(2)
            if np.hypot(*goal) < 0.2:
                return goal

    def _uniform(self, count: int) -> np.ndarray:
        return (2 * torch.rand(count, generator=self.generator, dtype=torch.float64) - 1).numpy()


def reacher_expert(
    obs: Tensor, *, limit: float = 0.8, noise: float = 0.1, generator: torch.Generator | None = None
) -> Tensor:
    """`clip(1.2 dq - .12 dq/dt, +-limit) + noise e`, dq the way to the nearer of the two elbow positions."""
    angle = torch.atan2(obs[..., 2:4], obs[..., :2])
    target = obs[..., 4:6]
    reach = target.square().sum(-1)
    bend = ((reach - UPPER**2 - FORE**2) / (2 * UPPER * FORE)).clamp(-1, 1).acos()
    ways = torch.stack([_way(angle, target, sign * bend) for sign in (1, -1)])
    nearer = ways.abs().sum(-1).argmin(0)
    way = torch.where((nearer == 0).unsqueeze(-1), ways[0], ways[1])
    action = (1.2 * way - 0.12 * obs[..., 6:8]).clamp(-limit, limit)
    return action + noise * torch.randn(action.shape, generator=generator) if noise else action


def final_distance(done: Rollout) -> Tensor:
    """Minus the distance to the target at the end, m, (n,)."""
    return -done.obs[-1, :, 8:10].norm(dim=-1)


def _way(angle: Tensor, target: Tensor, bend: Tensor) -> Tensor:
    """How far the joints are from reaching the target with this bend of the elbow, (..., 2)."""
    lead = torch.atan2(FORE * bend.sin(), UPPER + FORE * bend.cos())
    first = torch.atan2(target[..., 1], target[..., 0]) - lead - angle[..., 0]
    # The shoulder turns all the way round; the elbow has limits and does not.
    return torch.stack([torch.remainder(first + math.pi, 2 * math.pi) - math.pi, bend - angle[..., 1]], -1)


def _mujoco() -> Any:
    try:
        import mujoco
    except ImportError as error:
        raise ImportError("reacher: needs mujoco; install it with `pip install 'paperworks[control]'`") from error
    return mujoco


def _model_file() -> Path:
    found = importlib.util.find_spec("gymnasium")
    if found is None or found.origin is None:
        raise ImportError("reacher: needs gymnasium's model file; install it with `pip install 'paperworks[control]'`")
    return Path(found.origin).parent / "envs" / "mujoco" / "assets" / "reacher.xml"
