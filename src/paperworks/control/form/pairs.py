"""What a discriminator and an inverse model see of a transition: both normalised, without what never changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paperworks.control.form.statistics import Statistics
from paperworks.data.trajectories import Trajectories


class ObservedPairs:
    """Normalised previous observations (all frames), and normalised differences of the dimensions that move.

    Differences that are constant in the demonstrations are left out, as they are left out of the effect models'
    likelihood: equal preprocessing for all methods.
    """

    def __init__(self, statistics: Statistics, frames: int = 1) -> None:
        self.statistics, self.frames = statistics, frames
        self.width = frames * statistics.dim + len(statistics.moving)

    def __call__(self, x_prev: Tensor, x: Tensor, *, seeds: slice = slice(None)) -> Tensor:
        """x_prev (seeds, B, frames * d), x (seeds, B, d) -> (seeds, B, width); `seeds`: whose constants to use."""
        statistics, kept = self.statistics, self.statistics.moving
        mean = statistics.mean[seeds].unsqueeze(1).repeat(1, 1, self.frames)
        std = statistics.safe_std[seeds].unsqueeze(1).repeat(1, 1, self.frames)
        delta = (x - x_prev[..., -statistics.dim :])[..., kept] - statistics.delta_mean[seeds][:, None, kept]
        return torch.cat([(x_prev - mean) / std, delta / statistics.delta_std[seeds][:, None, kept]], -1)

    def of(self, demonstrations: Sequence[Trajectories]) -> list[Tensor]:
        """All transitions of each seed's demonstrations, (N, width) each."""
        result = []
        for seed, episodes in enumerate(demonstrations):
            previous, following, _ = episodes.transitions(self.frames)
            pair = torch.from_numpy(previous)[None], torch.from_numpy(following)[None]
            result.append(self(*pair, seeds=slice(seed, seed + 1))[0])
        return result
