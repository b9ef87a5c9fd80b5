"""The study's tasks: a model, its data, its loss and its metric, and the equation behind one batch.

gaussians, moons   CNF density of two-dimensional points                              metric: negative log likelihood
acrobot            Hamiltonian network on a simulated acrobot, windows of 8 points    metric: mean squared error
digits             neural ODE on scikit-learn's 8x8 digits                            metric: accuracy
vowels, motions    neural CDE on JapaneseVowels and BasicMotions                      metric: accuracy
own                neural CDE on the user's series                                    metric: accuracy
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.data.time_series import TimeSeries
from paperworks.science.ode_seminorm.acrobot import acrobot_windows
from paperworks.science.ode_seminorm.adjoint import odeint
from paperworks.science.ode_seminorm.cnf import CNF
from paperworks.science.ode_seminorm.fields import TimeMLP, perceptron
from paperworks.science.ode_seminorm.neural_ode import NeuralCDE
from paperworks.science.ode_seminorm.solver import Solver
from paperworks.science.ode_seminorm.symplectic import SymplecticODE

WINDOW_TIMES = tuple(0.05 * step for step in range(8))


@dataclass(frozen=True)
class Equation:
    """What one batch's loss solves: for measuring a gradient's cost and error at a checkpoint.

    `loss`: solution -> scalar; `options`: jump times, for both passes.
    """

    func: nn.Module
    y0: Any
    t: Tensor
    loss: Callable[[Any], Tensor]
    options: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One task, ready to train.

    `batch(step)` gives the tensors of a step; `loss` and `equation` take the model and such tensors; `metric` is larger
    for better (accuracy) unless `is_loss`. `floor`: what doing nothing reaches. `drift`: a further number to report.
    """

    name: str
    build: Callable[[Solver], nn.Module]
    batch: Callable[[int], tuple[Any, ...]]
    loss: Callable[..., Tensor]
    equation: Callable[..., Equation]
    metric: Callable[[nn.Module], float]
    rate: float
    is_loss: bool
    floor: float
    has_knots: bool = False
    drift: Callable[[Any], float] | None = None


class StateField(nn.Module):
    """A field of the state alone: an MLP, tanh inside and at the end."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.net = perceptron((dim, width, dim), nn.Tanh)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.net(z)


# (A) Densities -------------------------------------------------------------------------------------------------------


def draw_points(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) points of eight gaussians on a circle, or of two moons, with spread about 1."""
    if kind == "gaussians":
        angle = rng.integers(8, size=count) * (np.pi / 4)
        centres = 1.4 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return centres + 0.18 * rng.normal(size=(count, 2))
    angle = np.pi * rng.random(count)
    upper = rng.random(count) < 0.5
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    points = np.stack([x, y], axis=1) + 0.08 * rng.normal(size=(count, 2))
    return (points - np.array([0.5, 0.25])) * np.array([1.2, 2.0])


def density_task(kind: str, *, width: int, batch: int, seed: int, **_: Any) -> Task:
    test = torch.tensor(draw_points(kind, 512, np.random.default_rng([seed, 1])), dtype=torch.float32)

    def points(step: int) -> tuple[Tensor]:
        drawn = draw_points(kind, batch, np.random.default_rng([seed, 2, step]))
        return (torch.tensor(drawn, dtype=torch.float32),)

    def equation(model: Any, x: Tensor) -> Equation:
        field, state, t = model.problem(x)
        return Equation(field, state, t, lambda s: (0.5 * s[0][-1].square().sum(1) - s[1][-1]).mean(), {})

    @torch.no_grad()
    def metric(model: Any) -> float:
        return float(-model.log_prob(test).mean())

    # A normal density with the data's own mean and covariance knows nothing of the shape.
    covariance = np.cov(test.numpy().T)
    floor = 0.5 * (2 * (1 + np.log(2 * np.pi)) + np.log(np.linalg.det(covariance)))
    return Task(
        kind,
        lambda solver: CNF(2, field=TimeMLP(2, width=width, depth=2), solver=solver),
        points,
        lambda model, x: -model.log_prob(x).mean(),
        equation,
        metric,
        rate=5e-3,
        is_loss=True,
        floor=float(floor),
    )


# (B) The acrobot -----------------------------------------------------------------------------------------------------


class Trajectories(nn.Module):
    """Eight points from the first of them."""

    def __init__(self, field: nn.Module, solver: Solver):
        super().__init__()
        self.field, self.solver = field, solver

    def forward(self, start: Tensor) -> Tensor:
        return self.solver.solve(self.field, start, start.new_tensor(WINDOW_TIMES)).transpose(0, 1)


def acrobot_task(*, width: int, batch: int, seed: int, trajectories: int, **_: Any) -> Task:
    data = {part: torch.tensor(x) for part, x in acrobot_windows(trajectories=trajectories, seed=seed).items()}
    train, test = data["train"], data["test"]

    def windows(step: int) -> tuple[Tensor]:
        rng = np.random.default_rng([seed, 3, step])
        return (train[torch.tensor(rng.choice(len(train), size=min(batch, len(train)), replace=False))],)

    def equation(model: Any, x: Tensor) -> Equation:
        def loss(solution: Tensor) -> Tensor:
            return (solution.transpose(0, 1) - x.to(solution.dtype)).square().mean()

        return Equation(model.field, x[:, 0], x.new_tensor(WINDOW_TIMES), loss, {})

    def error(model: Any, x: Tensor) -> Tensor:
        return (model(x[:, 0]) - x).square().mean()

    @torch.no_grad()
    def metric(model: Any) -> float:
        return float(error(model, test))

    return Task(
        "acrobot",
        lambda solver: Trajectories(SymplecticODE(2, mass_width=width, width=width), solver),
        windows,
        error,
        equation,
        metric,
        rate=3e-3,
        is_loss=True,
        floor=float((test[:, :1] - test).square().mean()),
        drift=lambda model: energy_drift(model.field, test[:16, 0]),
    )


@torch.no_grad()
def energy_drift(field: SymplecticODE, start: Tensor) -> float:
    """Mean relative change of the learned energy over 5 s without forces, solved at 1e-6: 0 but for the solver's error
    and for `cos^2 + sin^2` leaving 1."""
    free = start.clone()
    free[:, 3 * field.dof :] = 0
    end = odeint(field, free, free.new_tensor([0.0, 5.0]), rtol=1e-6, atol=1e-6)[-1]
    before, after = field.energy(free), field.energy(end)
    return float(((after - before).abs() / before.abs().mean()).mean())


# (C) Digits ----------------------------------------------------------------------------------------------------------


class DigitsODE(nn.Module):
    """The 64 pixels flow for one unit of time, then a linear readout."""

    def __init__(self, width: int, solver: Solver):
        super().__init__()
        self.field, self.solver = StateField(64, width), solver
        self.readout = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.solver.solve(self.field, x, x.new_tensor([0.0, 1.0]))[-1])


def digits_task(*, batch: int, seed: int, **_: Any) -> Task:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng([seed, 4]).permutation(len(labels))
    x, y = torch.tensor(pixels[order] / 8 - 1, dtype=torch.float32), torch.tensor(labels[order])
    train, test = slice(0, 1200), slice(1200, None)

    def images(step: int) -> tuple[Tensor, Tensor]:
        rows = torch.tensor(np.random.default_rng([seed, 5, step]).integers(1200, size=batch))
        return x[train][rows], y[train][rows]

    return Task(
        "digits",
        lambda solver: DigitsODE(128, solver),
        images,
        lambda model, x, y: F.cross_entropy(model(x), y),
        lambda model, x, y: _classify(model.field, model.readout, x, x.new_tensor([0.0, 1.0]), y, {}),
        lambda model: _accuracy(model, (x[test],), y[test]),
        rate=3e-3,
        is_loss=False,
        floor=float(y[test].bincount().max() / len(y[test])),
    )


# (D) Series ----------------------------------------------------------------------------------------------------------


def series_task(series: TimeSeries, *, hidden: int, width: int, batch: int, seed: int, **_: Any) -> Task:
    data = series.standardised()
    train, test = _tensors(data.part("train")), _tensors(data.part("test"))
    count = len(train[1])

    def rows(step: int) -> tuple[Any, ...]:
        chosen = torch.tensor(np.random.default_rng([seed, 6, step]).permutation(count)[: min(batch, count)])
        return _rows(train[0], chosen), train[1][chosen]

    def equation(model: Any, inputs: tuple[Any, ...], y: Tensor) -> Equation:
        driven, z0, t = model.problem(*inputs)
        return _classify(driven, model.readout, z0.detach(), t, y, {"jump_t": driven.path.jumps})

    channels, classes = data.x.shape[2], len(data.classes)
    return Task(
        series.name,
        lambda solver: NeuralCDE(channels, hidden, classes, width=width, depth=4, solver=solver),
        rows,
        lambda model, inputs, y: F.cross_entropy(model(*inputs), y),
        equation,
        lambda model: _accuracy(model, test[0], test[1]),
        rate=1e-2,
        is_loss=False,
        has_knots=True,
        floor=float(test[1].bincount().max() / len(test[1])),
    )


def _tensors(series: TimeSeries) -> tuple[tuple[Any, ...], Tensor]:
    times = None if series.times is None else torch.tensor(series.times, dtype=torch.float32)
    whole = bool(series.mask.all())
    mask = None if whole else torch.tensor(series.mask)
    return (torch.tensor(series.x), times, mask), torch.tensor(series.labels)


def _rows(inputs: tuple[Any, ...], rows: Tensor) -> tuple[Any, ...]:
    x, times, mask = inputs
    own = times if times is None or times.ndim == 1 else times[rows]
    return x[rows], own, None if mask is None else mask[rows]


def _classify(
    func: nn.Module, readout: nn.Module, y0: Tensor, t: Tensor, y: Tensor, options: dict[str, Any]
) -> Equation:
    """The readout's loss as a function of the solution; its own weights are constants here."""
    weight, bias = (parameter.detach() for parameter in readout.parameters())

    def loss(solution: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(solution[-1], weight.to(solution), bias.to(solution)), y)

    return Equation(func, y0, t, loss, options)


@torch.no_grad()
def _accuracy(model: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> float:
    return float((model(*inputs).argmax(-1) == y).float().mean())


def make_task(name: str, *, data: Any, seed: int, config: Any) -> Task:
    """The task of this name, with the data that a seed draws.

    Raises:
        ValueError: unknown name.
    """
    sizes = {
        "width": config.width,
        "hidden": config.hidden,
        "trajectories": config.trajectories,
        "seed": seed,
    }
    if name in ("gaussians", "moons"):
        return density_task(name, batch=config.density_batch, **sizes)
    if name == "acrobot":
        return acrobot_task(batch=config.acrobot_batch, **sizes)
    if name == "digits":
        return digits_task(batch=config.digits_batch, **sizes)
    if name not in data:
        raise ValueError(f"tasks: expected some of gaussians, moons, acrobot, digits, vowels, motions, got {name!r}")
    sizes["width"] = config.hidden
    return series_task(data[name], batch=config.series_batch, **sizes)
