"""The loop that FORM and its adversarial rivals share: act, store, recompute rewards from replay, learn.

    for every step of the parallel environments:
        act, store (x_{t-1}, a, x_t, end)                      the environment's reward is not stored
        batch ~ replay;  r = reward(batch) with the current reward model, no gradient
        learner update on (x_{t-1}, a, r, x_t, end)
        reward model: one step

Rewards are never kept: a replayed transition is judged by the models of now, not by those of when it was made.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from paperworks.control.form.agents import AGENTS, AgentConfig, Learner
from paperworks.control.form.statistics import CONSTANT, Statistics
from paperworks.data.trajectories import Trajectories
from paperworks.train.rl.replay import Transitions
from paperworks.worlds.protocol import Step, World


@dataclass(frozen=True)
class LoopConfig:
    """Settings of the loop, equal for all arms."""

    agent: AgentConfig = field(default_factory=AgentConfig)
    """The learner."""
    batch: int = 256
    """Transitions of an update, a seed."""
    warmup: int = 50
    """Steps of uniformly random actions before the first update."""
    capacity: int = 100_000
    """Transitions kept, a seed."""
    window: int = 4_000
    """The reward model learns from the newest so many transitions: it must track the current policy."""


DEFAULT_LOOP = LoopConfig()


class Collector(ABC):
    """What every method needs: demonstrations, normalisation, a policy, a replay, and acting in the world.

    `updates` counts the steps of `train`, `acted` those in the world (of all copies together), `learned` the policy's
    gradient steps.

    Args:
        env: a world of `seeds` x n copies, those of one seed in a row.
        demonstrations: observations of the demonstrator, one set a seed, or one set for all. Actions are never read.
        learner: "sac" or "mpo".
        loop: its settings.
        seeds: S, trained in one program; their draws come from one stream and are independent.
        absorbing: the last dimension is an absorbing state's indicator (see `worlds.AbsorbingState`); it stays in the
            likelihood even where no demonstration ends.
        frames: observations that the environment stacks (`worlds.FrameStack`).
        seed: of initialisation and of all draws.

    Raises:
        ValueError: dimensions that do not fit, copies that are no multiple of the seeds.
    """

    def __init__(
        self,
        env: World,
        demonstrations: Trajectories | Sequence[Trajectories],
        *,
        learner: Literal["sac", "mpo"] = "sac",
        loop: LoopConfig = DEFAULT_LOOP,
        seeds: int = 1,
        absorbing: bool = False,
        frames: int = 1,
        seed: int = 0,
    ) -> None:
        if learner not in AGENTS:
            raise ValueError(f"learner: expected one of {', '.join(AGENTS)}, got {learner!r}")
        if env.n % seeds:
            raise ValueError(f"env: {env.n} copies cannot be shared by {seeds} seeds")
        self.env, self.loop, self.seeds, self.frames = env, loop, seeds, frames
        self.dim = env.obs_dim // frames
        self.demonstrations = _one_each(demonstrations, seeds)
        for episodes in self.demonstrations:
            episodes.expect_dim(self.dim)
        self.generator = torch.Generator().manual_seed(seed)
        self.statistics = _statistics(self.demonstrations, (self.dim - 1,) if absorbing else ())
        self.fixed = self.statistics.fixed
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.learner: Learner = AGENTS[learner](
                self.statistics, env.obs_dim, env.action_dim, low=env.low, high=env.high, config=loop.agent
            )
            self.build()
        fields = {"obs": (env.obs_dim,), "action": (env.action_dim,), "next_obs": (env.obs_dim,), "terminal": ()}
        self.replay = Transitions(loop.capacity, fields | self.extra_fields(), seeds=seeds)
        self.updates, self.acted, self.learned = 0, 0, 0
        self._obs: Tensor | None = None
        self._warned = False

    @abstractmethod
    def build(self) -> None:
        """Make the method's own models; called once, with the seed set."""

    @abstractmethod
    def train(self, steps: int, *, every: int = 0, watch: Callable[[int], None] | None = None) -> None:
        """Act and learn for `steps` steps of all copies together; `watch` is called on the way with the steps made."""

    def extra_fields(self) -> dict[str, tuple[int, ...]]:
        """Fields of the replay beside observations, action and end."""
        return {}

    def extra(self, step: Step) -> dict[str, Tensor]:
        """Values of the extra fields, (n, ...) each."""
        return {}

    def policy(self, obs: Tensor) -> Tensor:
        """Deterministic actions for observations (copies, d), the copies of a seed in a row: (copies, a)."""
        return self.learner.mode(self._by_seed(obs)).flatten(0, 1)

    def act(self, *, random: bool) -> None:
        """One step of every copy, stored."""
        obs = self.env.reset(generator=self.generator) if self._obs is None else self._obs
        if random:
            uniform = torch.rand(self.env.n, self.env.action_dim, generator=self.generator)
            action = self.env.low + (self.env.high - self.env.low) * uniform
        else:
            action = self.learner.act(self._by_seed(obs), generator=self.generator).flatten(0, 1)
        step = self.env.step(action)
        values = {"obs": obs, "action": action, "next_obs": step.obs, "terminal": step.terminal.float()}
        values |= self.extra(step)
        self.replay.add(**{name: self._by_seed(value) for name, value in values.items()})
        self.acted += 1
        over = step.terminal | step.truncated
        self._obs = self.env.reset(where=over) if bool(over.any()) else step.obs

    def recent(self) -> dict[str, Tensor]:
        """A batch of the newest transitions, for the reward model."""
        return self.replay.sample(self.loop.batch, last=self.loop.window, generator=self.generator)

    def newest(self, stacked: Tensor) -> Tensor:
        """The last frame of stacked observations."""
        return stacked if self.frames == 1 else stacked[..., -self.dim :]

    def _by_seed(self, value: Tensor) -> Tensor:
        return value.reshape(self.seeds, -1, *value.shape[1:])

    def check_constant(self) -> None:
        """Warn once when a dimension moves that never moved in the demonstrations: the reward cannot see it."""
        if self._warned or len(self.replay) == 0 or len(self.statistics.moving) == self.dim:
            return
        recent = self.replay.newest(1_000)
        moved = self.newest(recent["next_obs"]) - self.newest(recent["obs"]) - self.statistics.delta_mean.unsqueeze(1)
        moves = (moved.abs() > 10 * CONSTANT).flatten(0, 1).any(0)
        moves[self.statistics.moving] = False
        if bool(moves.any()):
            self._warned = True
            names = ", ".join(self.demonstrations[0].columns[dim] for dim in moves.nonzero().flatten().tolist())
            warnings.warn(
                f"dimension {names} never changes in the demonstrations but does for the imitator; it is outside of "
                "the likelihood, so the reward does not see this",
                stacklevel=3,
            )


class Imitation(Collector):
    """Learns with rewards that `reward` computes and `learn_reward` improves; arguments as for `Collector`."""

    @abstractmethod
    def reward(self, batch: dict[str, Tensor]) -> Tensor:
        """Rewards (seeds, B) of replayed transitions under the current models, without gradient."""

    @abstractmethod
    def learn_reward(self) -> None:
        """One step of the reward model."""

    def train(self, steps: int, *, every: int = 0, watch: Callable[[int], None] | None = None) -> None:
        """Act and learn for `steps` steps of all copies together; `watch` is called after each `every` of them.

        A second call goes on where the first ended.
        """
        for step in range(steps):
            self.act(random=self.updates < self.loop.warmup)
            self.updates += 1
            if self.updates > self.loop.warmup:
                batch = self.replay.sample(self.loop.batch, generator=self.generator)
                self.learner.update(batch, self.reward(batch), generator=self.generator)
                self.learned += 1
                self.learn_reward()
            if every and watch and (step + 1) % every == 0:
                watch(self.updates)
        self.check_constant()


def _one_each(demonstrations: Trajectories | Sequence[Trajectories], seeds: int) -> list[Trajectories]:
    sets = [demonstrations] * seeds if isinstance(demonstrations, Trajectories) else list(demonstrations)
    if len(sets) != seeds:
        raise ValueError(f"demonstrations: expected one set, or one for each of {seeds} seeds, got {len(sets)}")
    return sets


def _statistics(demonstrations: Sequence[Trajectories], fixed: Sequence[int]) -> Statistics:
    pairs = []
    for episodes in demonstrations:
        previous, following, _ = episodes.transitions()
        pairs.append((torch.from_numpy(previous), torch.from_numpy(following)))
    return Statistics.of(pairs, fixed=fixed)
