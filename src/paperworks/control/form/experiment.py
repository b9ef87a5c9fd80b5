"""One trial: train an arm for all seeds of a block, watch it, and measure what the claims and figures need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paperworks.control.form import arms
from paperworks.control.form.adversarial import GAIfO
from paperworks.control.form.agents import AgentConfig
from paperworks.control.form.energy import transition_test
from paperworks.control.form.form import FORM
from paperworks.control.form.imitation import Collector, Imitation, LoopConfig
from paperworks.control.form.tasks import Setting, SideBySide, Task, baseline_return, demonstrate
from paperworks.data.trajectories import Trajectories
from paperworks.lab.study import Progress
from paperworks.worlds.points import PointOrbit, orbit_velocity
from paperworks.worlds.protocol import Rollout, World, rollout

EVALUATION_EPISODES = 20
CHECKPOINTS = 8
MAP_SIDE = 33
SHOWN_PATHS = 6


@dataclass(frozen=True)
class Trial:
    """What one trial trains, in numbers; see the study's Config for their meaning."""

    arm: str
    setting: int
    task: Task
    distractors: Setting
    demos: int
    steps: int
    copies: int
    batch: int
    hidden: tuple[int, ...]
    lr: float
    window: int
    epochs: int
    ensemble: int
    learner: str
    absorbing: bool
    seeds: tuple[int, ...]


def run_trial(trial: Trial, own: Trajectories | None, progress: Progress) -> dict[str, Any]:
    """Train and test; arrays with one entry a seed, curves with one row a checkpoint."""
    seeds, task = trial.seeds, trial.task
    pairs = [_demonstrations(trial, own, seed) for seed in seeds]
    demonstrations = [pair[0] for pair in pairs]
    actions = None if own is not None else [pair[1] for pair in pairs]
    env = _world(trial, trial.copies, 10_000)
    loop = LoopConfig(agent=AgentConfig(hidden=trial.hidden, lr=trial.lr), batch=trial.batch, window=trial.window)
    torch.manual_seed(seeds[0])
    arm = arms.build(
        trial.arm,
        trial.setting,
        env,
        demonstrations,
        actions=actions,
        loop=loop,
        hidden=trial.hidden,
        epochs=trial.epochs,
        steps=trial.steps,
        ensemble=trial.ensemble,
        learner=trial.learner,
        absorbing=trial.absorbing,
        seed=seeds[0],
    )
    test = _world(trial, EVALUATION_EPISODES, 20_000)
    watched: list[tuple[int, NDArray[Any], NDArray[Any]]] = []

    def watch(steps: int) -> None:
        returns = _returns(arm, test, len(seeds), seeds[0])
        watched.append((steps, returns, _divergence(arm)))
        progress(steps / trial.steps, returned=float(returns.mean()))

    watch(0)
    arm.train(trial.steps, every=max(1, trial.steps // CHECKPOINTS), watch=watch)
    final = _episode(arm, test, seeds[0])
    returns = final.returns.view(len(seeds), -1).mean(1).numpy()
    curve = np.stack([row[1] for row in watched])
    moved = _episodes(_sampled_episode(arm, test, seeds[0]), seeds)
    compared = np.array([transition_test(shown, mine) for shown, mine in zip(demonstrations, moved, strict=True)])
    result = {
        "seeds": np.array(seeds),
        "returns": returns,
        "random": np.array([baseline_return(task, "random", seed=seed) for seed in seeds]),
        "curve_steps": np.array([row[0] for row in watched]) * trial.copies,
        "curve": curve,
        "mean_return": float(returns.mean()),
        "divergence_curve": np.stack([row[2] for row in watched]),
        "energy": compared[:, 0],
        "energy_p": compared[:, 1],
        "parameters": _parameters(arm) / len(seeds),
        "updates": arm.learned,
        "env_steps": arm.acted * trial.copies,
        "tuned": arms.words(trial.arm, trial.setting),
    }
    if task.expert is not None:
        result["expert"] = np.array([baseline_return(task, "expert", seed=seed) for seed in seeds])
    if isinstance(arm, GAIfO):
        result["accuracy"] = arm.accuracy().numpy()
    if isinstance(arm, FORM):
        result |= _reward_report(arm, demonstrations, final, trial)
    return result


def _demonstrations(trial: Trial, own: Trajectories | None, seed: int) -> tuple[Trajectories, Tensor]:
    if own is not None:
        return own, torch.zeros(0)
    return demonstrate(trial.task, trial.distractors, episodes=trial.demos, seed=seed)


def _world(trial: Trial, copies: int, offset: int) -> World:
    """The imitator's world, every seed with its own patterns and draws."""
    return SideBySide(
        [
            trial.distractors.imitator_world(trial.task.make(copies), trial.demos, seed, draws=offset + seed)
            for seed in trial.seeds
        ]
    )


def _episode(arm: Collector, test: World, seed: int) -> Rollout:
    return rollout(test, arm.policy, generator=torch.Generator().manual_seed(400_000 + seed))


def _sampled_episode(arm: Collector, test: World, seed: int) -> Rollout:
    """With the policy's own noise, which is part of how it moves; a clone has none, since only its mean has learnt."""
    if not isinstance(arm, Imitation):
        return _episode(arm, test, seed)
    generator = torch.Generator().manual_seed(400_000 + seed)

    def act(obs: Tensor) -> Tensor:
        by_seed = obs.reshape(arm.seeds, -1, obs.shape[-1])
        return arm.learner.act(by_seed, generator=generator).flatten(0, 1)

    return rollout(test, act, generator=generator)


def _returns(arm: Collector, test: World, seeds: int, seed: int) -> NDArray[Any]:
    return _episode(arm, test, seed).returns.view(seeds, -1).mean(1).numpy()


def _divergence(arm: Collector) -> NDArray[Any]:
    if isinstance(arm, FORM) and arm.effect.imitator_term and len(arm.replay):
        return arm.divergence().numpy()
    return np.full(arm.seeds, np.nan)


def _episodes(final: Rollout, seeds: Sequence[int]) -> list[list[NDArray[Any]]]:
    """Each seed's episodes, up to their own ends."""
    found = [episode.numpy() for episode in final.episodes()]
    each = len(found) // len(seeds)
    return [found[index * each : (index + 1) * each] for index in range(len(seeds))]


def _parameters(arm: Collector) -> float:
    parts: list[Any] = [arm.learner.policy]
    parts += [getattr(arm, name) for name in ("demonstrator", "imitator", "network") if hasattr(arm, name)]
    parts += [arm.learner.critic] if hasattr(arm.learner, "critic") else []  # pyright: ignore[reportAttributeAccessIssue]
    return float(sum(parameter.numel() for part in parts for parameter in part.parameters()))


def _reward_report(arm: FORM, demonstrations: Sequence[Trajectories], final: Rollout, trial: Trial) -> dict[str, Any]:
    """What the reward was made of: held-out likelihoods, clipped share, and for the first seed where it misleads."""
    assert arm.history is not None
    per_seed = arm.history.valid.reshape(len(arm.history.valid), arm.seeds, -1).mean(2)
    jacobian = arm.demonstrator.log_jacobian().squeeze(1).numpy()
    result: dict[str, Any] = {
        "clipped": arm.clipped.numpy(),
        "held_out": np.nanmax(per_seed, axis=0) + jacobian,
        "unseen": _unseen(arm, trial) + jacobian,
        "history": np.stack([arm.history.train.mean(1), arm.history.valid.mean(1)], 1),
    }
    copies = final.obs.shape[1] // arm.seeds
    obs = final.obs.view(len(final.obs), arm.seeds, copies, -1).permute(1, 0, 2, 3)
    steps = obs.shape[1] - 1
    previous, following = (part.reshape(arm.seeds, steps * copies, -1) for part in (obs[:, :-1], obs[:, 1:]))
    with torch.no_grad():
        ratio = arm.demonstrator.log_prob_per_dim(previous, following)
        if arm.effect.imitator_term:
            ratio = ratio - arm.imitator.log_prob_per_dim(previous, following)
    # Copies that have ended repeat their last observation, which is no step.
    alive = final.alive[:, :copies, None].float()
    ratio = ratio[0].view(steps, copies, -1)
    result["per_dim"] = ((ratio * alive).sum(1) / alive.sum(1).clamp(min=1)).numpy().astype(np.float32)
    if trial.task.make is PointOrbit:
        result["map"] = _coverage(arm)
        result["paths"] = obs[0, :, :SHOWN_PATHS, :2].numpy().astype(np.float32)
        result["shown_paths"] = np.stack([episode[:, :2] for episode in demonstrations[0].observations[:SHOWN_PATHS]])
    return result


def _unseen(arm: FORM, trial: Trial) -> NDArray[Any]:
    """Log-likelihood of the expert's transitions on patterns that no demonstration showed, nats a step, (seeds,)."""
    if trial.task.expert is None or trial.distractors.dims == 0:
        return np.full(arm.seeds, np.nan)
    expert, generator = trial.task.expert, torch.Generator().manual_seed(500_000 + trial.seeds[0])
    done = rollout(
        _world(trial, EVALUATION_EPISODES, 30_000), lambda obs: expert(obs, generator=generator), generator=generator
    )
    obs = done.obs.view(len(done.obs), arm.seeds, EVALUATION_EPISODES, -1).permute(1, 0, 2, 3)
    shape = (arm.seeds, (len(done.obs) - 1) * EVALUATION_EPISODES, -1)
    with torch.no_grad():
        return arm.demonstrator.log_prob(obs[:, :-1].reshape(shape), obs[:, 1:].reshape(shape)).mean(1).numpy()


def _coverage(arm: FORM) -> NDArray[Any]:
    """log p^D of the expert's move minus that of the opposite move, a body at rest, over the plane: (side, side).

    Negative: there the reward prefers the opposite of what the demonstrator would do.
    """
    grid = torch.linspace(-2.5, 2.5, MAP_SIDE)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    p = torch.stack([x.flatten(), y.flatten()], -1)
    action = (2 * orbit_velocity(p)).clamp(-0.8, 0.8)
    features = torch.zeros(len(p), arm.dim - 4)
    state = torch.cat([p, torch.zeros_like(p), features], -1)
    moves = [torch.cat([p, 0.3 * sign * action, features], -1) for sign in (1, -1)]
    with torch.no_grad():
        density = [
            arm.demonstrator.log_prob(state.expand(arm.seeds, -1, -1), move.expand(arm.seeds, -1, -1))[0]
            for move in moves
        ]
    return (density[0] - density[1]).view(MAP_SIDE, MAP_SIDE).numpy().astype(np.float32)
