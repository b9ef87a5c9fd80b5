"""Our worlds as Gymnasium's vector environments, and Gymnasium's as ours. Needs the extra `control`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.worlds.protocol import Step, World


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError("this needs gymnasium; install it with `pip install 'paperworks[control]'`") from error
    return gymnasium


def as_vector_env(world: World) -> Any:
    """`world` as a `gymnasium.vector.VectorEnv`, auto-reset disabled."""
    gymnasium = _gymnasium()
    from gymnasium.vector.utils import batch_space

    class WorldVectorEnv(gymnasium.vector.VectorEnv):
        metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}  # noqa: RUF012

        def __init__(self) -> None:
            box = gymnasium.spaces.Box
            self.num_envs = world.n
            self.single_observation_space = box(-np.inf, np.inf, (world.obs_dim,), np.float32)
            self.single_action_space = box(world.low, world.high, (world.action_dim,), np.float32)
            self.observation_space = batch_space(self.single_observation_space, world.n)
            self.action_space = batch_space(self.single_action_space, world.n)

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
            options = options or {}
            mask = options.get("reset_mask")
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            where = None if mask is None else torch.from_numpy(np.asarray(mask, dtype=bool))
            return world.reset(task=options.get("task"), where=where, generator=generator).numpy(), {}

        def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict]:
            step = world.step(torch.as_tensor(actions, dtype=torch.float32))
            return step.obs.numpy(), step.reward.numpy(), step.terminal.numpy(), step.truncated.numpy(), {}

    return WorldVectorEnv()


class GymnasiumWorld(World):
    """n copies of a registered Gymnasium environment with flat observations and bounded actions, as a world.

    Args:
        env_id: as in `gymnasium.make`, e.g. "Reacher-v5".
        n: copies.
        seed: of the copies' own generators, which are Gymnasium's; a `generator` at reset draws a new seed.

    Raises:
        ImportError: Gymnasium is not installed.
        ValueError: unknown environment; observations or actions that are not flat boxes with one pair of bounds.
    """

    def __init__(self, env_id: str, n: int, *, seed: int = 0) -> None:
        gymnasium = _gymnasium()
        try:
            self.env = gymnasium.make_vec(
                env_id,
                num_envs=n,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED},
            )
        except gymnasium.error.Error as error:
            raise ValueError(f"env: Gymnasium cannot make {env_id!r}: {error}") from error
        space, action = self.env.single_observation_space, self.env.single_action_space
        box = gymnasium.spaces.Box
        if not isinstance(space, box) or len(space.shape) != 1 or not isinstance(action, box) or len(action.shape) != 1:
            raise ValueError(f"env: {env_id} needs flat observations and continuous actions, has {space} and {action}")
        if np.ptp(action.low) > 0 or np.ptp(action.high) > 0 or not np.isfinite(action.high).all():
            raise ValueError(f"env: {env_id} bounds its actions unequally or not at all: {action}")
        self.n, self.obs_dim, self.action_dim = n, space.shape[0], action.shape[0]
        self.low, self.high = float(action.low[0]), float(action.high[0])
        limit = self.env.spec.max_episode_steps if self.env.spec is not None else None
        self.horizon = limit or 1000
        self.seed: int | None = seed

    def reset(
        self, *, task: Any = None, where: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        if generator is not None:
            self.seed = int(torch.randint(2**31 - 1, (), generator=generator))
        options = None if where is None else {"reset_mask": where.numpy()}
        obs, _ = self.env.reset(seed=self.seed, options=options)
        self.seed = None
        return torch.from_numpy(np.asarray(obs, dtype=np.float32))

    def step(self, action: Tensor) -> Step:
        self.check_action(action)
        low, high = self.low, self.high
        obs, reward, terminal, truncated, _ = self.env.step(action.clamp(low, high).numpy().astype(np.float32))
        return Step(
            torch.from_numpy(np.asarray(obs, dtype=np.float32)),
            torch.from_numpy(np.asarray(reward, dtype=np.float32)),
            torch.from_numpy(np.asarray(terminal)),
            torch.from_numpy(np.asarray(truncated)),
        )
