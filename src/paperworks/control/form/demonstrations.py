"""Demonstrations: trajectories with what imitation needs of them."""

from __future__ import annotations

from typing import Self

import numpy as np

from paperworks.data.trajectories import Trajectories


class Demonstrations(Trajectories):
    """Recorded observations of a demonstrator; actions are never read. See `Trajectories` for the readers."""

    def with_absorbing(self, horizon: int) -> Self:
        """Episodes that ended by themselves go on in an absorbing state up to `horizon` steps, as in
        `worlds.AbsorbingState`: one more dimension, 0 in life and 1 afterwards, where all others are 0."""
        episodes = []
        for episode, ended in zip(self.observations, self.terminal, strict=True):
            living = np.pad(episode, ((0, 0), (0, 1)))
            if ended:
                # The observation that ended the episode is itself the absorbing state.
                living[-1] = 0
                living[-1, -1] = 1
                living = np.concatenate([living, np.repeat(living[-1:], max(0, horizon + 1 - len(living)), 0)])
            episodes.append(living)
        columns = (*self.columns, "absorbing")
        return type(self).from_arrays(episodes, columns=columns, labels=self.labels, name="demonstrations")
