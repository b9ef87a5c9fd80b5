"""Adversarial imitation from observations: GAIfO (Torabi et al., 2018, arXiv 1807.06158), off-policy, regularised.

    D(x_{t-1}, x_t) = sigmoid(f),   loss = - E_demo log D - E_imitator log(1 - D) + penalty E (|grad f| - 1)^2

The input is the normalised previous observation and the normalised difference; differences that are constant in the
demonstrations are left out here as they are left out of the effect models. Rewards: `-log(1 - D) = softplus(f)`, always
positive, or `log D - log(1 - D) = f`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from paperworks.control.form.imitation import DEFAULT_LOOP, Imitation, LoopConfig
from paperworks.control.form.pairs import ObservedPairs
from paperworks.data.trajectories import Trajectories
from paperworks.nn.seed_mlp import SeedMLP
from paperworks.worlds.protocol import World


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator and its regularisers."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    lr: float = 1e-3
    """AdamW's rate."""
    weight_decay: float = 1e-4
    """AdamW's."""
    penalty: float = 10.0
    """Weight of the gradient penalty (0: none)."""
    noise: float = 0.0
    """Input noise in training, in standard deviations of the demonstrations."""
    spectral: bool = False
    """Divide every weight matrix by its largest singular value, so that no layer stretches (Miyato et al., 2018)."""
    reward: Literal["softplus", "logit"] = "softplus"
    """-log(1 - D), or log D - log(1 - D)."""


def spectral_logits(network: SeedMLP, x: Tensor) -> Tensor:
    """`network(x)` with every weight matrix divided by its largest singular value, exactly rather than by power
    iteration (arXiv 1802.05957): the matrices are small."""
    weights = {
        f"weights.{layer}": weight / torch.linalg.matrix_norm(weight, 2, keepdim=True)
        for layer, weight in enumerate(network.weights)
    }
    return torch.func.functional_call(network, weights, (x,))


def discriminator_reward(logits: Tensor, kind: Literal["softplus", "logit"]) -> Tensor:
    """`softplus(f) = -log(1 - D)`, or the logit f itself, `log D - log(1 - D)`."""
    return F.softplus(logits) if kind == "softplus" else logits


def discriminator_loss(demonstrated: Tensor, imitated: Tensor) -> Tensor:
    """Binary cross-entropy of logits, demonstrations labelled 1, mean over both halves: (seeds,)."""
    return 0.5 * (F.softplus(-demonstrated).mean(-1) + F.softplus(imitated).mean(-1))


def gradient_penalty(network: Callable[[Tensor], Tensor], left: Tensor, right: Tensor, mix: Tensor) -> Tensor:
    """Mean of `(|grad f| - 1)^2` at points between two batches (seeds, B, d), (seeds,); mix (seeds, B, 1) in [0, 1]."""
    point = torch.lerp(left, right, mix).requires_grad_()
    (slope,) = torch.autograd.grad(network(point).sum(), point, create_graph=True)
    return (slope.square().sum(-1).add(1e-12).sqrt() - 1).square().mean(-1)


class GAIfO(Imitation):
    """Adversarial imitation from observations under the same learner, data and budget as `FORM`.

    Args: see `Collector`, and
        discriminator: its settings; the first tenth of the demonstrations' episodes is held out for its accuracy.

    Difference to the published method: off-policy with replay, as `FORM` is, so that the comparison is of rewards.
    """

    def __init__(
        self,
        env: World,
        demonstrations: Trajectories | Sequence[Trajectories],
        *,
        learner: Literal["sac", "mpo"] = "sac",
        discriminator: DiscriminatorConfig = DiscriminatorConfig(),
        loop: LoopConfig = DEFAULT_LOOP,
        seeds: int = 1,
        absorbing: bool = False,
        frames: int = 1,
        seed: int = 0,
    ) -> None:
        self.config = discriminator
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
        config = self.config
        self.observed = ObservedPairs(self.statistics, self.frames)
        self.train_inputs, self.held_inputs = self.demonstrated()
        self.network = SeedMLP(self.seeds, (self.train_inputs[0].shape[1], *config.hidden, 1))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )

    def inputs(self, x_prev: Tensor, x: Tensor, action: Tensor) -> Tensor:
        """What the discriminator sees of transitions (seeds, B, ...); never the action."""
        return self.observed(x_prev, x)

    def logits(self, inputs: Tensor) -> Tensor:
        """f of inputs (seeds, B, width), (seeds, B, 1)."""
        return spectral_logits(self.network, inputs) if self.config.spectral else self.network(inputs)

    def reward_model(self, x_prev: Tensor, x: Tensor) -> Tensor:
        """The reward of transitions (seeds, B, d) under the current discriminator, (seeds, B)."""
        with torch.no_grad():
            logits = self.logits(self.observed(x_prev, x)).squeeze(-1)
        return discriminator_reward(logits, self.config.reward)

    @torch.no_grad()
    def reward(self, batch: dict[str, Tensor]) -> Tensor:
        logits = self.logits(self._batch_inputs(batch)).squeeze(-1)
        return discriminator_reward(logits, self.config.reward)

    def learn_reward(self) -> None:
        config, size = self.config, self.loop.batch
        imitated = self._batch_inputs(self.recent())
        demonstrated = torch.stack([self._draw(rows, size) for rows in self.train_inputs])
        both = torch.cat([demonstrated, imitated], 1)
        if config.noise:
            both = both + config.noise * torch.randn(both.shape, generator=self.generator)
        logits = self.logits(both).squeeze(-1)
        loss = discriminator_loss(logits[:, :size], logits[:, size:])
        if config.penalty:
            mix = torch.rand(self.seeds, size, 1, generator=self.generator)
            loss = loss + config.penalty * gradient_penalty(self.logits, both[:, :size], both[:, size:], mix)
        self.optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        self.optimizer.step()

    @torch.no_grad()
    def accuracy(self) -> Tensor:
        """Share of transitions told apart, (seeds,): held-out demonstrations and the newest of the imitator's."""
        newest = self.replay.newest(1_000)
        imitated = (self.logits(self._batch_inputs(newest)).squeeze(-1) < 0).float().mean(1)
        held = torch.stack([self._draw(rows, 1_000) for rows in self.held_inputs])
        return 0.5 * (imitated + (self.logits(held).squeeze(-1) > 0).float().mean(1))

    def _batch_inputs(self, batch: dict[str, Tensor]) -> Tensor:
        return self.inputs(batch["obs"], self.newest(batch["next_obs"]), batch["action"])

    def _draw(self, rows: Tensor, size: int) -> Tensor:
        return rows[torch.randint(len(rows), (size,), generator=self.generator)]

    def demonstrated(self) -> tuple[list[Tensor], list[Tensor]]:
        """Each seed's demonstrated inputs: to train on, and held out."""
        return self._split(self.observed.of(self.demonstrations))

    def _split(self, rows: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The first tenth of the episodes apart from the others; a single episode is on both sides."""
        train, held = [], []
        for part, episodes in zip(rows, self.demonstrations, strict=True):
            episode = torch.from_numpy(episodes.transitions()[2])
            out = episode < (max(1, len(episodes) // 10) if len(episodes) > 1 else 0)
            train.append(part[~out])
            held.append(part[out] if bool(out.any()) else part)
        return train, held
