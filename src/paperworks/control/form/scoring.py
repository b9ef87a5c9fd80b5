"""How much a log moves like the demonstrations, from observations alone, without reinforcement learning.

    s_t = log p_demonstrations(x_t | x_{t-1}) - log p_log(x_t | x_{t-1})

The mean of s over a log estimates minus the divergence of its effects from the demonstrator's. The log's own model is
cross-fitted: an episode is scored by a model that has not seen it, since in-sample densities flatter the log's side and
make everything look unlike the demonstrations. Both sides' models learn from equally many episodes, so that what they
lack for want of data cancels too.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paperworks.control.form.effect_model import EffectModel
from paperworks.control.form.statistics import CONSTANT, Statistics
from paperworks.data.errors import DataError
from paperworks.data.trajectories import Trajectories

CHUNK = 65_536


def score_trajectories(
    demos: Trajectories,
    logs: Trajectories,
    *,
    folds: int = 5,
    hidden: tuple[int, ...] = (64, 64),
    components: int = 4,
    ensemble: int = 1,
    epochs: int = 60,
    batch: int = 64,
    seed: int = 0,
) -> pd.DataFrame:
    """Log-ratios of every logged transition against the demonstrations.

    Args:
        demos: the demonstrator's episodes, at least two.
        logs: at least two episodes to be scored.
        folds: parts of the log's episodes; each is scored by a model of the other parts.
        hidden, components, ensemble, epochs, batch: of both models; see `EffectModel`.
        seed: of initialisation, folds and batches.

    Returns:
        One row a transition: `episode`, `step`, `log_ratio` (nats), and for each dimension its marginals' log-ratio
        (0 where its difference is constant in the demonstrations). Marginals do not add up to the joint.

    Raises:
        ValueError: fewer than two episodes on a side, other dimensions, fewer than two folds.
    """
    logs.expect_dim(demos.dim, name="logs", who="the demonstrations' model")
    for name, episodes in (("demonstrations", demos), ("logs", logs)):
        if len(episodes) < 2:
            raise DataError(f"{name}: expected at least 2 episodes, got {len(episodes)}; split a long one at its cuts")
    if folds < 2:
        raise ValueError(f"folds: expected at least 2, got {folds}")
    generator = torch.Generator().manual_seed(seed)
    parts = _folds(len(logs), min(folds, len(logs)), generator)
    options = {"hidden": hidden, "components": components, "ensemble": ensemble}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        demonstrator, own = EffectModel(demos.dim, **options), EffectModel(demos.dim, seeds=len(parts), **options)
        fitting = {"epochs": epochs, "batch": batch, "generator": generator}
        rest = [sorted(set(range(len(logs))) - set(part)) for part in parts]
        size = min(len(demos), *map(len, rest))
        held = 0.1 if size > 1 else 0.0
        demonstrator.set_statistics(Statistics.of([_pair(demos)]))
        demonstrator.fit(demos.select(_some(range(len(demos)), size, generator)), valid_fraction=held, **fitting)
        own.set_statistics(_repeated(demonstrator, len(parts)))
        own.fit([logs.select(_some(part, size, generator)) for part in rest], valid_fraction=held, **fitting)
    places = [(fold, index) for fold, part in enumerate(parts) for index in part]
    frames = [_one_episode(demonstrator, own, fold, logs, index) for fold, index in places]
    order = {label: place for place, label in enumerate(logs.labels)}
    return pd.concat(frames, ignore_index=True).sort_values(
        "episode", key=lambda column: column.map(order), kind="stable", ignore_index=True
    )


def score_episodes(steps: pd.DataFrame) -> pd.DataFrame:
    """Episodes from most to least like the demonstrations: mean log-ratio a step, its standard error, rank.

    Steps of an episode depend on each other: the error is that of means of ten consecutive blocks.
    """
    rows = []
    for label, part in steps.groupby("episode", sort=False):
        values = part["log_ratio"].to_numpy(float)
        blocks = [block.mean() for block in np.array_split(values, min(10, len(values)))]
        error = float(np.std(blocks, ddof=1) / len(blocks) ** 0.5) if len(blocks) > 1 else np.nan
        rows.append(
            {
                "episode": label,
                "steps": len(values),
                "mean": values.mean(),
                "standard_error": error,
                "sum": values.sum(),
            }
        )
    frame = pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    frame.insert(0, "rank", np.arange(1, len(frame) + 1))
    return frame


def moving_constants(demos: Trajectories, logs: Trajectories) -> list[str]:
    """Dimensions that never change in the demonstrations but do in the logs: no score sees them."""
    shown, seen = (np.concatenate([np.diff(e, axis=0) for e in side.observations]) for side in (demos, logs))
    constant = shown.std(0) < CONSTANT
    moves = (np.abs(seen - shown.mean(0)) > 10 * CONSTANT).any(0)
    return [name for name, bad in zip(demos.columns, constant & moves, strict=True) if bad]


def _some(positions: Iterable[int], count: int, generator: torch.Generator) -> list[int]:
    """`count` of the positions, drawn without replacement, in order."""
    known = list(positions)
    return sorted(known[index] for index in torch.randperm(len(known), generator=generator)[:count].tolist())


def _pair(episodes: Trajectories) -> tuple[Tensor, Tensor]:
    previous, following, _ = episodes.transitions()
    return torch.from_numpy(previous), torch.from_numpy(following)


def _folds(count: int, folds: int, generator: torch.Generator) -> list[list[int]]:
    order = torch.randperm(count, generator=generator)
    return [sorted(part.tolist()) for part in order.tensor_split(folds)]


def _repeated(model: EffectModel, seeds: int) -> Statistics:
    known = model.statistics
    assert known is not None
    return known.map(lambda part: part.expand(seeds, -1))


@torch.no_grad()
def _one_episode(
    demonstrator: EffectModel, own: EffectModel, fold: int, logs: Trajectories, index: int
) -> pd.DataFrame:
    episode = torch.from_numpy(logs.observations[index])
    joint, marginal = _ratio(demonstrator, own, fold, episode[:-1], episode[1:])
    frame = {"episode": logs.labels[index], "step": np.arange(1, len(episode)), "log_ratio": joint.numpy()}
    return pd.DataFrame(frame | {f"ratio_{name}": marginal[:, dim].numpy() for dim, name in enumerate(logs.columns)})


def _ratio(demonstrator: EffectModel, own: EffectModel, fold: int, x_prev: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Joint (N,) and marginal (N, d) log-ratios; only the fold's own networks are run."""
    model = own.only(fold)
    pieces = []
    for start in range(0, len(x), CHUNK):
        pair = x_prev[start : start + CHUNK], x[start : start + CHUNK]
        pieces.append(
            (
                demonstrator.log_prob(*pair) - model.log_prob(*pair),
                demonstrator.log_prob_per_dim(*pair) - model.log_prob_per_dim(*pair),
            )
        )
    return torch.cat([piece[0] for piece in pieces]), torch.cat([piece[1] for piece in pieces])
