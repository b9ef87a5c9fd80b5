"""Continuous normalising flow: a density by following points through time.

dz/dt = f(t, z)        d log p / dt = -tr df/dz        z(0) ~ N(0, I), z(1) = x
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from paperworks.science.ode_seminorm.fields import TimeMLP
from paperworks.science.ode_seminorm.solver import DEFAULT_SOLVER, Solver

EXACT_UP_TO = 8


class CNF(nn.Module):
    """Density and samples of a continuous normalising flow.

    The trace is exact up to 8 dimensions, else Hutchinson's estimate `e^T (df/dz) e` with one Rademacher probe per
    point, the same throughout a solve (and its backward solve).

    Args:
        dim: of the data.
        field: module `(t, z) -> dz/dt`; default: `TimeMLP(dim, width=width, depth=depth)`.
        width, depth: of the default field.
        solver: tolerances, method, gradient.
    """

    def __init__(
        self,
        dim: int,
        *,
        field: nn.Module | None = None,
        width: int = 64,
        depth: int = 2,
        solver: Solver = DEFAULT_SOLVER,
    ):
        super().__init__()
        self.dim, self.solver = dim, solver
        self.field = TimeMLP(dim, width=width, depth=depth) if field is None else field

    def log_prob(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """log p(x) of x (batch, dim): (batch,). `generator` draws Hutchinson's probe.

        Raises:
            ValueError: x has another shape.
        """
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x: expected (batch, {self.dim}), got {tuple(x.shape)}")
        field, state, t = self.problem(x, generator=generator)
        z, change = (part[-1] for part in self.solver.solve(field, state, t))
        return -0.5 * z.square().sum(dim=1) - 0.5 * self.dim * math.log(2 * math.pi) + change

    def problem(
        self, x: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[FlowField, tuple[Tensor, Tensor], Tensor]:
        """The equation behind `log_prob`: its field, initial state and times, from data to noise."""
        probe = None
        if self.dim > EXACT_UP_TO:
            bits = torch.randint(0, 2, x.shape, generator=generator, device=x.device)
            probe = bits.to(x.dtype).mul_(2).sub_(1)
        return FlowField(self.field, probe), (x, x.new_zeros(len(x))), x.new_tensor([1.0, 0.0])

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """(n, dim) points."""
        like = next(self.parameters())
        noise = torch.randn(n, self.dim, generator=generator, dtype=like.dtype, device=like.device)
        return self.solver.solve(self.field, noise, like.new_tensor([0.0, 1.0]))[-1]


class FlowField(nn.Module):
    """`(dz/dt, tr df/dz)`: run from time 1 to 0 the second part ends at what must be added to the base's log density,
    since `log p(z(1)) = log p(z(0)) - int_0^1 tr dt = log p(z(0)) + int_1^0 tr dt`.
    """

    def __init__(self, field: nn.Module, probe: Tensor | None):
        super().__init__()
        self.field = field
        self.register_buffer("probe", probe, persistent=False)
        self.probe: Tensor | None

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            z = state[0] if recorded and state[0].requires_grad else state[0].detach().requires_grad_()
            f = self.field(t, z)
            trace = self._trace(f, z, recorded)
        return (f, trace) if recorded else (f.detach(), trace.detach())

    def _trace(self, f: Tensor, z: Tensor, recorded: bool) -> Tensor:
        if self.probe is not None:
            (pulled,) = torch.autograd.grad(f, z, self.probe, create_graph=recorded)
            return (pulled * self.probe).sum(dim=1)
        total = z.new_zeros(len(z))
        for index in range(z.shape[1]):
            keep = recorded or index < z.shape[1] - 1
            (row,) = torch.autograd.grad(f[:, index].sum(), z, create_graph=recorded, retain_graph=keep)
            total = total + row[:, index]
        return total
