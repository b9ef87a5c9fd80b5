"""Cloning behaviour: from observations with inferred actions (BCO), and with the demonstrator's own actions (BC).

BCO (Torabi et al., 2018, arXiv 1805.01954): an inverse model `a = g(x_{t-1}, x_t)` is learnt on the imitator's own
transitions, it labels the demonstrations, and the policy copies the labels; repeated with the policy's transitions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from paperworks.control.form.imitation import DEFAULT_LOOP, Collector, LoopConfig
from paperworks.control.form.pairs import ObservedPairs
from paperworks.data.trajectories import Trajectories
from paperworks.nn.seed_mlp import SeedMLP
from paperworks.train.rl.policies import TanhGaussian
from paperworks.worlds.protocol import World


@dataclass(frozen=True)
class CloningConfig:
    """Inverse model and cloned policy."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the inverse model; the policy has the learner's."""
    lr: float = 1e-3
    """AdamW's rate for both."""
    rounds: int = 4
    """Times that transitions are collected, the inverse model refitted and the demonstrations labelled anew."""
    window: int = 0
    """The inverse model learns from the newest so many transitions (0: all)."""


DEFAULT_CLONING = CloningConfig()


class BCO(Collector):
    """Behavioural cloning from observations, with the signature of `FORM`.

    The first round's actions are random, later rounds' the policy's own. Every step of `train` buys one update of the
    inverse model and one of the policy, as it buys the other methods one of the reward model and one of the learner.

    Args: see `Collector`, and
        cloning: its settings.
    """

    def __init__(
        self,
        env: World,
        demonstrations: Trajectories | Sequence[Trajectories],
        *,
        learner: Literal["sac", "mpo"] = "sac",
        cloning: CloningConfig = CloningConfig(),
        loop: LoopConfig = DEFAULT_LOOP,
        seeds: int = 1,
        absorbing: bool = False,
        frames: int = 1,
        seed: int = 0,
    ) -> None:
        self.cloning = cloning
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
        self.observed = ObservedPairs(self.statistics, self.frames)
        self.inputs = self.observed.of(self.demonstrations)
        self.network = SeedMLP(self.seeds, (self.observed.width, *self.cloning.hidden, self.env.action_dim))
        self.labels: list[Tensor] = []

    def train(self, steps: int, *, every: int = 0, watch: Callable[[int], None] | None = None) -> None:
        """Rounds of collecting, labelling and copying; `watch` is called after each round."""
        rounds = min(self.cloning.rounds, steps)
        parts = [steps // rounds + (index < steps % rounds) for index in range(rounds)]
        for index, part in enumerate(parts):
            for _ in range(part):
                self.act(random=index == 0)
                self.updates += 1
            self.fit_inverse(part)
            self.label()
            self._clone(part)
            self.learned += part
            if watch:
                watch(self.updates)

    def fit_inverse(self, updates: int) -> None:
        """Regress actions on transitions of the imitator."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.cloning.lr, fused=True)
        for update in range(updates):
            optimizer.param_groups[0]["lr"] = self.cloning.lr * (1 - update / updates)
            last = self.cloning.window or None
            batch = self.replay.sample(self.loop.batch, last=last, generator=self.generator)
            pairs = self.observed(batch["obs"], self.newest(batch["next_obs"]))
            loss = (self.network(pairs) - unit_action(self.env, batch["action"])).square().mean((1, 2)).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def label(self) -> None:
        """Infer the demonstrator's actions, on [-1, 1]."""
        self.labels = []
        for seed, rows in enumerate(self.inputs):
            # One seed's rows through all networks would be S times the work; its own weights are taken out.
            self.labels.append(_one_network(self.network, seed, rows).clamp(-1, 1))

    def _clone(self, updates: int) -> None:
        width = self.env.obs_dim
        rows = [
            torch.cat([inputs[:, :width], labels], 1) for inputs, labels in zip(self.inputs, self.labels, strict=True)
        ]
        clone_policy(
            self.learner.policy,
            rows,
            updates=updates,
            lr=self.cloning.lr,
            batch=self.loop.batch,
            generator=self.generator,
        )


def unit_action(env: World, action: Tensor) -> Tensor:
    """Actions on [-1, 1]."""
    return (2 * action - env.low - env.high) / (env.high - env.low)


def clone_policy(
    policy: TanhGaussian,
    rows: Sequence[Tensor],
    *,
    updates: int,
    lr: float,
    batch: int,
    generator: torch.Generator | None = None,
    after: Callable[[int], None] | None = None,
) -> None:
    """Least squares of the squashed mean on actions.

    Args:
        rows: (N, obs + action) a seed, observations normalised and actions on [-1, 1].
        after: called after each update with the number of updates made.
    """
    network = policy.network
    obs_dim, dim = network.sizes[0], policy.action_dim
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, fused=True)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = lr * (1 - update / updates)
        drawn = torch.stack([part[torch.randint(len(part), (batch,), generator=generator)] for part in rows])
        predicted = torch.tanh(network(drawn[..., :obs_dim])[..., :dim])
        loss = (predicted - drawn[..., obs_dim:]).square().mean((1, 2)).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if after:
            after(update + 1)


def _one_network(network: SeedMLP, seed: int, x: Tensor) -> Tensor:
    last = len(network.weights) - 1
    for layer, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        x = torch.addmm(bias[seed], x, weight[seed])
        if layer < last:
            x = F.relu(x)
    return x
