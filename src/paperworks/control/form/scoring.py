"""How much a log moves like the demonstrations, from observations alone, without reinforcement learning.

    s_t = log p_demonstrations(x_t | x_{t-1}) - log p_log(x_t | x_{t-1})

With exact models the mean of s over a log is minus the divergence of its effects from the demonstrator's. Fitted models
are cross-fitted by episode: no episode is scored by a model that has seen it, since in-sample densities flatter their
own side. What the two models lack for want of data does not cancel, so demonstrations are scored in the same way, each
by models that have not seen it: where log and demonstrations follow one law, both have the same mean whatever the
models are worth, and the difference between them is what a finding rests on.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from paperworks.control.form.effect_model import EffectModel
from paperworks.control.form.statistics import CONSTANT, Statistics
from paperworks.data.errors import DataError
from paperworks.data.trajectories import Trajectories
from paperworks.lab.statistics import LEVEL

CHUNK = 65_536
BATCHES_A_PASS = 40


def score_trajectories(
    demos: Trajectories,
    logs: Trajectories,
    *,
    folds: int = 5,
    hidden: tuple[int, ...] = (64, 64),
    components: int = 4,
    ensemble: int = 3,
    epochs: int = 60,
    seed: int = 0,
) -> pd.DataFrame:
    """Log-ratios of every logged transition against the demonstrations.

    Args:
        demos: the demonstrator's episodes, at least two.
        logs: at least two episodes to be scored.
        folds: parts of each side's episodes; a part is scored by models of the other parts.
        hidden, components, ensemble, epochs: of both models; see `EffectModel`.
        seed: of initialisation, folds and batches.

    Returns:
        One row a transition: `episode`, `step`, `log_ratio` (nats), and for each dimension its marginals' log-ratio
        (0 where its difference is constant in the demonstrations). Marginals do not add up to the joint.

    Raises:
        ValueError: fewer than two episodes on a side, other dimensions, fewer than two folds.
    """
    options = {"hidden": hidden, "components": components, "ensemble": ensemble, "epochs": epochs}
    return score_both(demos, logs, folds=folds, seed=seed, **options)[0].drop(columns="fold")


def score_both(
    demos: Trajectories,
    logs: Trajectories,
    *,
    folds: int,
    hidden: tuple[int, ...],
    components: int,
    ensemble: int,
    epochs: int,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As `score_trajectories`, for the logs and for the demonstrations, with a column `fold`: whose models scored."""
    _check(demos, logs, folds)
    generator = torch.Generator().manual_seed(seed)
    count = min(folds, len(demos), len(logs))
    sides = [(episodes, _folds(len(episodes), count, generator)) for episodes in (demos, logs)]
    shared = Statistics.of([_pair(demos)]).map(lambda part: part.expand(count, -1))
    options = {"hidden": hidden, "components": components, "ensemble": ensemble, "seeds": count}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        models = [_fitted(EffectModel(demos.dim, **options), *side, shared, epochs, generator) for side in sides]
    scored = [_scored(models, episodes, parts) for episodes, parts in sides]
    return scored[1], scored[0]


def compare(logs: pd.DataFrame, demos: pd.DataFrame) -> tuple[float, float, float]:
    """How far logged episodes score below demonstrations: the difference of means a step and its 95 % interval.

    Both frames as `score_both` returns them. Episodes are compared within folds, whose models they share; the interval
    is Student's on spreads pooled over folds, and infinite where no fold has two episodes of a side.
    """
    sides = [frame.groupby(["fold", "episode"], sort=False)["log_ratio"].mean() for frame in (logs, demos)]
    means, counts, spreads = zip(*(_within_folds(side) for side in sides), strict=True)
    weight = counts[0] / counts[0].sum()
    estimate = float((weight * (means[0] - means[1])).sum())
    freedom = [int((count - 1).sum()) for count in counts]
    if min(freedom) < 1:
        return estimate, -np.inf, np.inf
    error = sum(float((weight**2 * spread / count).sum()) for spread, count in zip(spreads, counts, strict=True)) ** 0.5
    half = float(stats.t.ppf(0.5 + LEVEL / 2, min(freedom))) * error
    return estimate, estimate - half, estimate + half


def _within_folds(scores: pd.Series) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and number of episodes of each fold, and the variance of an episode's score around its fold's mean."""
    by_fold = scores.groupby(level="fold", sort=True)
    count = by_fold.size().to_numpy()
    residual = scores - by_fold.transform("mean")
    return by_fold.mean().to_numpy(), count, float((residual**2).sum() / max(1, (count - 1).sum()))


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


def fewest_fitted(demos: int, logs: int, folds: int) -> int:
    """Episodes that the model of the smaller side learns from at least."""
    smaller = min(demos, logs)
    return smaller - -(-smaller // min(folds, smaller))


def moving_constants(demos: Trajectories, logs: Trajectories) -> list[str]:
    """Dimensions that never change in the demonstrations but do in the logs: no score sees them."""
    shown, seen = (np.concatenate([np.diff(e, axis=0) for e in side.observations]) for side in (demos, logs))
    constant = shown.std(0) < CONSTANT
    moves = (np.abs(seen - shown.mean(0)) > 10 * CONSTANT).any(0)
    return [name for name, bad in zip(demos.columns, constant & moves, strict=True) if bad]


def _check(demos: Trajectories, logs: Trajectories, folds: int) -> None:
    logs.expect_dim(demos.dim, name="logs", who="the demonstrations' model")
    for name, episodes in (("demonstrations", demos), ("logs", logs)):
        if len(episodes) < 2:
            raise DataError(f"{name}: expected at least 2 episodes, got {len(episodes)}; split a long one at its cuts")
    if folds < 2:
        raise ValueError(f"folds: expected at least 2, got {folds}")


def _pair(episodes: Trajectories) -> tuple[Tensor, Tensor]:
    previous, following, _ = episodes.transitions()
    return torch.from_numpy(previous), torch.from_numpy(following)


def _folds(count: int, folds: int, generator: torch.Generator) -> list[list[int]]:
    order = torch.randperm(count, generator=generator)
    return [sorted(part.tolist()) for part in order.tensor_split(folds)]


def _fitted(
    model: EffectModel,
    episodes: Trajectories,
    parts: list[list[int]],
    shared: Statistics,
    epochs: int,
    generator: torch.Generator,
) -> EffectModel:
    """One model a fold, of the episodes outside it."""
    rest = [episodes.select(sorted(set(range(len(episodes))) - set(part))) for part in parts]
    model.set_statistics(shared)
    model.fit(
        rest,
        valid_fraction=0.1 if min(map(len, rest)) > 1 else 0.0,
        epochs=epochs,
        batch=min(max(64, episodes.steps // BATCHES_A_PASS), 1024),
        generator=generator,
    )
    return model


def _scored(models: list[EffectModel], episodes: Trajectories, parts: list[list[int]]) -> pd.DataFrame:
    frames = {}
    for fold, part in enumerate(parts):
        demonstrator, own = (model.only(fold) for model in models)
        for index in part:
            frames[index] = _one_episode(demonstrator, own, episodes, index).assign(fold=fold)
    return pd.concat([frames[index] for index in range(len(episodes))], ignore_index=True)


@torch.no_grad()
def _one_episode(demonstrator: EffectModel, own: EffectModel, logs: Trajectories, index: int) -> pd.DataFrame:
    episode = torch.from_numpy(logs.observations[index])
    joint, marginal = _ratio(demonstrator, own, episode[:-1], episode[1:])
    frame = {"episode": logs.labels[index], "step": np.arange(1, len(episode)), "log_ratio": joint.numpy()}
    return pd.DataFrame(frame | {f"ratio_{name}": marginal[:, dim].numpy() for dim, name in enumerate(logs.columns)})


def _ratio(demonstrator: EffectModel, own: EffectModel, x_prev: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Joint (N,) and marginal (N, d) log-ratios."""
    pieces = []
    for start in range(0, len(x), CHUNK):
        pair = x_prev[start : start + CHUNK], x[start : start + CHUNK]
        pieces.append(
            (
                demonstrator.log_prob(*pair) - own.log_prob(*pair),
                demonstrator.log_prob_per_dim(*pair) - own.log_prob_per_dim(*pair),
            )
        )
    return torch.cat([piece[0] for piece in pieces]), torch.cat([piece[1] for piece in pieces])
