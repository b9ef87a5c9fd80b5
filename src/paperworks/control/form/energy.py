"""Do two sets of trajectories move alike? The energy distance of their transitions, with a permutation of episodes.

    E = 2 mean |a - b| - mean |a - a'| - mean |b - b'|

over pairs of transitions (x_{t-1}, x_t - x_{t-1}) of different episodes, in units of the demonstrations' spread; its
mean is 0 where both sides follow one law (Szekely and Rizzo, 2013, Energy statistics). Steps of an episode depend on
each other, so whole episodes change sides in the permutations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from paperworks.control.form.statistics import CONSTANT
from paperworks.data.trajectories import Trajectories

EPISODES, ROWS, PERMUTATIONS = 20, 40, 499


def transition_test(demonstrations: Trajectories, logged: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    """Energy distance and its p-value.

    Args:
        demonstrations: their spread is the unit; differences that are constant in them are left out, with their values.
        logged: episodes (steps + 1, d) to compare, at least two.

    Returns:
        The distance, and the share of permutations with one as large; NaN twice with one episode on a side.
    """
    if min(len(demonstrations), len(logged)) < 2:
        return np.nan, np.nan
    shown = [_moves(episode) for episode in demonstrations.observations]
    together = np.concatenate(shown)
    half = together.shape[1] // 2
    moving = together[:, half:].std(0) > CONSTANT
    kept = np.concatenate([moving, moving])
    unit = together[:, kept].std(0)
    rng = np.random.default_rng(0)
    sides = [_drawn(side, rng) for side in (shown, [_moves(episode) for episode in logged])]
    rows = torch.from_numpy(np.stack([episode[:, kept] / unit for side in sides for episode in side]))
    count, first = len(rows), len(sides[0])
    flat = rows.flatten(0, 1)
    apart = torch.cdist(flat, flat).view(count, ROWS, count, ROWS).mean((1, 3)).numpy().astype(np.float64)
    orders = [np.arange(count), *(rng.permutation(count) for _ in range(PERMUTATIONS))]
    distances = np.array([_energy(apart[np.ix_(order, order)], first) for order in orders])
    return float(distances[0]), float((distances >= distances[0]).mean())


def _moves(episode: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([episode[:-1], np.diff(episode, axis=0)], 1)


def _drawn(episodes: Sequence[NDArray[np.float32]], rng: np.random.Generator) -> list[NDArray[np.float32]]:
    """Equally many rows of each of at most so many episodes."""
    chosen = rng.choice(len(episodes), min(EPISODES, len(episodes)), replace=False)
    return [episodes[index][rng.integers(len(episodes[index]), size=ROWS)] for index in chosen]


def _energy(apart: NDArray[np.float64], first: int) -> float:
    """From mean distances between episodes, the first so many on one side; an episode is not compared with itself."""
    within = [_off_diagonal(part) for part in (apart[:first, :first], apart[first:, first:])]
    return float(2 * apart[:first, first:].mean() - sum(within))


def _off_diagonal(block: NDArray[np.float64]) -> float:
    return float((block.sum() - np.trace(block)) / (len(block) * (len(block) - 1)))
