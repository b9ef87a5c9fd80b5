"""Maximum-likelihood fit of effect models, all seeds and members together, early stopping for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paperworks.control.form.statistics import Statistics
from paperworks.data.trajectories import Trajectories

if TYPE_CHECKING:
    from paperworks.control.form.effect_model import EffectModel

VALID_BATCH = 4096


@dataclass(frozen=True)
class History:
    """Mean log-likelihoods in nats a transition, (epochs, seeds * ensemble); `valid` is NaN where nothing is held out.

    `best`: the epoch whose weights each member kept.
    """

    train: NDArray[np.float64]
    valid: NDArray[np.float64]
    best: NDArray[np.int64]


def fit_effect_model(
    model: EffectModel,
    trajectories: Sequence[Trajectories],
    *,
    valid_fraction: float,
    epochs: int,
    lr: float,
    batch: int,
    weight_decay: float,
    fixed: Sequence[int],
    generator: torch.Generator | None,
) -> History:
    """See `EffectModel.fit`."""
    if len(trajectories) != model.seeds:
        raise ValueError(f"trajectories: expected {model.seeds} sets, one a seed, got {len(trajectories)}")
    if not 0 <= valid_fraction < 1 or epochs < 1:
        raise ValueError(
            f"valid_fraction, epochs: expected 0 <= fraction < 1 and at least one epoch, got {valid_fraction}, {epochs}"
        )
    for episodes in trajectories:
        episodes.expect_dim(model.obs_dim)
    data = [_Transitions(episodes, model, valid_fraction, generator) for episodes in trajectories]
    if model.statistics is None:
        model.set_statistics(Statistics.of([(part.last, part.next) for part in data], fixed=fixed))
    assert model.network is not None
    rows = _Rows(data, model.ensemble)
    steps = max(1, round(np.mean([len(chosen) for part in data for chosen in part.chosen]) / batch))
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    best = _Best(model)
    train, valid = [], []
    for epoch in range(epochs):
        model.train()
        total = torch.zeros(model.seeds * model.ensemble)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1 - (epoch * steps + step) / (epochs * steps))
            log_prob = model.member_log_prob(*rows.draw(batch, generator), generator=generator).mean(1)
            optimizer.zero_grad(set_to_none=True)
            (-log_prob.sum()).backward()
            optimizer.step()
            total += log_prob.detach()
        train.append((total / steps).numpy().astype(np.float64))
        valid.append(_held_out(model, data))
        best.see(epoch, valid[-1], judged=valid_fraction > 0)
    best.restore()
    model.eval()
    return History(np.stack(train), np.stack(valid), best.epochs)


class _Transitions:
    """One seed's transitions as tensors, which of them are held out, and each member's (bootstrapped) own."""

    def __init__(
        self, episodes: Trajectories, model: EffectModel, fraction: float, generator: torch.Generator | None
    ) -> None:
        previous, following, episode = episodes.transitions(model.frames)
        self.previous, self.next = torch.from_numpy(previous), torch.from_numpy(following)
        self.last = self.previous[:, -model.obs_dim :]
        count = len(episodes)
        held = max(1, round(fraction * count)) if fraction else 0
        if held >= count:
            raise ValueError(f"demonstrations: expected at least 2 episodes to hold one out, got {count}")
        order = torch.randperm(count, generator=generator)
        number = torch.from_numpy(episode)
        self.valid = torch.isin(number, order[:held]).nonzero().squeeze(1)
        kept = order[held:]
        where = [(number == index).nonzero().squeeze(1) for index in range(count)]
        self.chosen = []
        for _ in range(model.ensemble):
            drawn = kept
            if model.ensemble > 1:
                drawn = kept[torch.randint(len(kept), (len(kept),), generator=generator)]
            self.chosen.append(torch.cat([where[index] for index in drawn.tolist()]))


class _Rows:
    """Batches for all seeds and members at once: (seeds * ensemble, B, ...)."""

    def __init__(self, data: Sequence[_Transitions], ensemble: int) -> None:
        self.previous = torch.cat([part.previous for part in data])
        self.next = torch.cat([part.next for part in data])
        starts = np.cumsum([0, *(len(part.next) for part in data)])[:-1].tolist()
        lists = [chosen + start for part, start in zip(data, starts, strict=True) for chosen in part.chosen]
        self.lengths = torch.tensor([len(chosen) for chosen in lists])
        self.table = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True)
        self.ensemble = ensemble

    def draw(self, batch: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        uniform = torch.rand(len(self.lengths), batch, generator=generator, dtype=torch.float64)
        index = self.table.gather(1, (uniform * self.lengths[:, None]).long())
        return self.previous[index], self.next[index]


class _Best:
    """Each member's weights at its best held-out epoch; without held-out episodes the last."""

    def __init__(self, model: EffectModel) -> None:
        assert model.network is not None
        self.parameters = list(model.network.parameters())
        self.kept = [parameter.detach().clone() for parameter in self.parameters]
        self.score = np.full(model.seeds * model.ensemble, -np.inf)
        self.epochs = np.zeros(model.seeds * model.ensemble, dtype=np.int64)

    def see(self, epoch: int, scores: NDArray[np.float64], *, judged: bool) -> None:
        # A fit that diverged scores NaN, which is better than nothing.
        better = scores > self.score if judged else np.ones(len(scores), dtype=bool)
        self.score[better], self.epochs[better] = scores[better] if judged else 0.0, epoch
        index = torch.from_numpy(np.flatnonzero(better))
        for kept, parameter in zip(self.kept, self.parameters, strict=True):
            kept[index] = parameter.detach()[index]

    @torch.no_grad()
    def restore(self) -> None:
        if not np.isfinite(self.score).all():
            raise ValueError("effect model: no epoch had a finite held-out likelihood; lower lr, or look at the data")
        for kept, parameter in zip(self.kept, self.parameters, strict=True):
            parameter.copy_(kept)


@torch.no_grad()
def _held_out(model: EffectModel, data: Sequence[_Transitions]) -> NDArray[np.float64]:
    """Mean held-out log-likelihood of every member, (seeds * ensemble,)."""
    model.eval()
    longest = max(len(part.valid) for part in data)
    if longest == 0:
        return np.full(model.seeds * model.ensemble, np.nan)
    # Shorter held-out parts repeat themselves; the weights leave the repetitions out.
    index = [part.valid[torch.arange(longest) % len(part.valid)] for part in data]
    previous = torch.stack([part.previous[i] for part, i in zip(data, index, strict=True)])
    following = torch.stack([part.next[i] for part, i in zip(data, index, strict=True)])
    counts = torch.tensor([len(part.valid) for part in data]).repeat_interleave(model.ensemble)
    total = torch.zeros(len(counts), dtype=torch.float64)
    for start in range(0, longest, VALID_BATCH):
        chunk = slice(start, start + VALID_BATCH)
        pair = [x[:, chunk].repeat_interleave(model.ensemble, 0) for x in (previous, following)]
        values = model.member_log_prob(pair[0], pair[1]).double()
        inside = torch.arange(start, start + values.shape[1]) < counts[:, None]
        total += (values * inside).sum(1)
    return (total / counts).numpy()
