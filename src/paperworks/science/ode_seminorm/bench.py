"""Workloads of `paperworks bench ode_seminorm`: forward and backward solves against torchdiffeq.

The peer solves with its own seminorm, or with its default norm where the row says so. Both sides must find the same
gradient, as far as the tolerance goes. Timed backward passes reuse one forward solution.

On a field that is bound by its own arithmetic nothing but the number of evaluations can be saved: the row with a
convolution shows that, and promises nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paperworks.data.errors import DataError
from paperworks.lab.bench import Contender, Growth, Workload
from paperworks.science.ode_seminorm.adjoint import odeint, odeint_adjoint
from paperworks.science.ode_seminorm.fields import perceptron
from paperworks.science.ode_seminorm.neural_ode import NeuralCDE

Call = Callable[[], Any]
What = Literal["forward", "backward"]
TOLERANCES: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}


class Autonomous(nn.Module):
    """A field of the state alone."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


def workloads(*, quick: bool = False) -> list[Workload]:
    """The rows, with the ratios that are promised."""
    if quick:
        return [_row("MLP 2-16-16-2, batch 16", lambda: _mlp(16, 16), "backward", "seminorm", None, rounds=3)]
    small, large = "MLP 2-64-64-2, batch 128", "MLP 2-1000-1000-2 (1.0 M parameters), batch 64"
    return [
        _row(small, lambda: _mlp(64, 128), "backward", "seminorm", 1.5, rounds=30),
        _row(small, lambda: _mlp(64, 128), "backward", "full", 2.5, rounds=30),
        _row(small, lambda: _mlp(64, 128), "forward", "seminorm", 2.5, rounds=30),
        _row(large, lambda: _mlp(1000, 64), "backward", "seminorm", 2.0, rounds=7),
        _row(large, lambda: _mlp(1000, 64), "backward", "full", 2.5, rounds=5),
        _row("neural CDE, 135 series of 29 steps", _cde, "backward", "seminorm", None, rounds=5),
        _row("convolution, 16 channels, batch 32", _convolution, "backward", "seminorm", None, rounds=5),
    ]


def growth() -> list[Growth]:
    """What a step costs beyond the gradients themselves does not grow with the parameters: the field here uses few of
    them, and the others are unused."""
    return [Growth("backward solve, P unused parameters", (10_000, 100_000, 1_000_000, 4_000_000), _unused, limit=1.0)]


Problem = tuple[nn.Module, Tensor, Tensor, tuple[float, ...]]


def _mlp(width: int, batch: int) -> Problem:
    torch.manual_seed(0)
    field = Autonomous(perceptron((2, width, width, 2), nn.Tanh))
    return field, torch.randn(batch, 2), torch.tensor([0.0, 1.0]), ()


def _convolution() -> Problem:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1))
    return Autonomous(net), torch.randn(32, 16, 14, 14), torch.tensor([0.0, 1.0]), ()


def _cde() -> Problem:
    torch.manual_seed(0)
    try:
        from paperworks.data.time_series import uea_series

        x = torch.tensor(uea_series("JapaneseVowels").standardised().x[:135])
    except DataError:
        x = torch.randn(135, 29, 12)
    model = NeuralCDE(x.shape[2], 32, 9, width=32, depth=4)
    # Smooth, so that both sides take the same steps: a kink of a ReLU is met or missed by rounding.
    model.field.net = perceptron((32, 32, 32, 32, 32, 32 * (x.shape[2] + 1)), nn.Tanh)
    # Irregular: torchdiffeq loses its jumps after a step that ends on one by itself.
    index = torch.arange(29.0)
    driven, z0, t = model.problem(x, index + 0.1 * index.sin())
    return driven, z0.detach(), t, tuple(driven.path.jumps)


def _row(
    name: str, build: Callable[[], Problem], what: What, norm: str, target: float | None, *, rounds: int
) -> Workload:
    theirs = "torchdiffeq, " + ("its seminorm" if norm == "seminorm" else "its default norm")
    return Workload(
        f"{name}, {what}",
        Contender("odeint_adjoint", lambda: _ours(build(), what)),
        (Contender(theirs, lambda: _theirs(build(), what, norm), requires="torchdiffeq"),),
        _agree,
        target=target,
        rounds=rounds,
    )


def _ours(problem: Problem, what: What) -> Call:
    field, y0, t, jumps = problem
    options = {"jump_t": jumps} if jumps else None
    if what == "forward":
        return torch.no_grad()(lambda: odeint(field, y0, t, options=options, **TOLERANCES)[-1])
    leaf = y0.clone().requires_grad_()
    return _backward(odeint_adjoint(field, leaf, t, options=options, **TOLERANCES)[-1], leaf, field)


def _theirs(problem: Problem, what: What, norm: str) -> Call:
    import torchdiffeq

    field, y0, t, jumps = problem
    options: dict[str, Any] = {"jump_t": torch.tensor(jumps)} if jumps else {}
    if what == "forward":
        return torch.no_grad()(lambda: torchdiffeq.odeint(field, y0, t, options=dict(options), **TOLERANCES)[-1])
    leaf = y0.clone().requires_grad_()
    backward = options | ({"norm": "seminorm"} if norm == "seminorm" else {})
    solution: Any = torchdiffeq.odeint_adjoint(
        field, leaf, t, options=dict(options), adjoint_options=backward, **TOLERANCES
    )
    return _backward(solution[-1], leaf, field)


def _backward(end: Tensor, leaf: Tensor, field: nn.Module) -> Call:
    loss = end.square().sum()
    targets = [leaf, *field.parameters()]

    def call() -> Tensor:
        grads = torch.autograd.grad(loss, targets, retain_graph=True)
        return torch.cat([grad.reshape(-1) for grad in grads])

    return call


def _agree(ours: Tensor, theirs: Tensor) -> str | None:
    error = float((ours - theirs).norm() / theirs.norm())
    return None if error <= 2e-3 else f"relative difference {error:.1e}"


class _Idle(nn.Module):
    def __init__(self, unused: int):
        super().__init__()
        self.net = perceptron((2, 64, 64, 2), nn.Tanh)
        self.unused = nn.Parameter(torch.zeros(unused))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


def _unused(parameters: int) -> Call:
    torch.manual_seed(0)
    field, leaf = _Idle(parameters), torch.randn(128, 2).requires_grad_()
    end = odeint_adjoint(field, leaf, torch.tensor([0.0, 1.0]), **TOLERANCES)[-1]
    return _backward(end, leaf, field)
