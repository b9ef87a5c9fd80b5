"""Neural ordinary and controlled differential equations as modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from paperworks.science.ode_seminorm.fields import CDEField
from paperworks.science.ode_seminorm.paths import HermitePath, LinearPath, through_data
from paperworks.science.ode_seminorm.solver import DEFAULT_SOLVER, Solver


class NeuralODE(nn.Module):
    """`z(t_1)` for `dz/dt = func(t, z)`, `z(t_0) = x`.

    Args:
        func: module `(t, z) -> dz/dt`.
        t: the times; with more than two all states are returned.
        solver: tolerances, method, gradient.

    Shapes: (batch, ...) -> (batch, ...), or (batch, len(t), ...) where there are more than two times.
    """

    def __init__(self, func: nn.Module, *, t: Sequence[float] = (0.0, 1.0), solver: Solver = DEFAULT_SOLVER):
        super().__init__()
        self.func, self.solver = func, solver
        self.times = tuple(float(time) for time in t)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.tensor(self.times, dtype=x.dtype, device=x.device)
        states = self.solver.solve(self.func, x, t)
        return states[-1] if len(self.times) == 2 else states.transpose(0, 1)

    def extra_repr(self) -> str:
        return f"t={self.times}"


class DrivenField(nn.Module):
    """`dz/dt = f(z) X'(t)`: a field driven by a path."""

    def __init__(self, field: nn.Module, path: LinearPath | HermitePath):
        super().__init__()
        self.field, self.path = field, path

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return torch.bmm(self.field(z), self.path.derivative(t)[..., None])[..., 0]


class NeuralCDE(nn.Module):
    """`z(t) = z_0 + int f(z) dX`, read out at the end: for series of any, also irregular, sampling.

    `z_0 = Linear(X(t_0))`, the readout is linear; X goes through the data, time as first channel.

    Args:
        in_channels: of the data, time not counted.
        hidden: size of z.
        out_channels: of the result.
        width, depth: of the field (`CDEField`).
        interpolation: "linear" (the paper; its knots are passed as jump times) or "hermite".
        solver: tolerances, method, gradient. Gradients reach the parameters, not the data.

    Raises:
        ValueError: at construction for an unknown interpolation, at call for data that do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        *,
        width: int = 40,
        depth: int = 4,
        interpolation: Literal["linear", "hermite"] = "linear",
        solver: Solver = DEFAULT_SOLVER,
    ):
        super().__init__()
        if interpolation not in ("linear", "hermite"):
            raise ValueError(f"interpolation: expected linear or hermite, got {interpolation!r}")
        self.in_channels, self.interpolation, self.solver = in_channels, interpolation, solver
        self.initial = nn.Linear(in_channels + 1, hidden)
        self.field = CDEField(hidden, in_channels + 1, width=width, depth=depth)
        self.readout = nn.Linear(hidden, out_channels)

    def forward(self, x: Tensor, times: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x (batch, length, in_channels); times (length,) or (batch, length); mask (batch, length), True = observed.

        Returns:
            (batch, out_channels).
        """
        driven, z0, t = self.problem(x, times, mask)
        return self.readout(self.solver.solve(driven, z0, t, jump_t=driven.path.jumps)[-1])

    def problem(
        self, x: Tensor, times: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[DrivenField, Tensor, Tensor]:
        """The equation that `forward` solves: its field, initial state and first and last time."""
        if x.ndim != 3 or x.shape[2] != self.in_channels:
            raise ValueError(f"x: expected (batch, length, {self.in_channels}), got {tuple(x.shape)}")
        values, knots = through_data(x, times, mask)
        path = (LinearPath if self.interpolation == "linear" else HermitePath)(values, knots)
        return DrivenField(self.field, path), self.initial(values[:, 0]), knots[[0, -1]]

    def extra_repr(self) -> str:
        return f"interpolation={self.interpolation!r}"
