"""The adjoint problem: `z` and `a_z` are integrated, and what theta and t receive is summed up beside them.

    dz/dt = f      da_z/dt = -a_z^T df/dz      da_th/dt = -a_z^T df/dtheta      da_t/dt = -a_z^T df/dt

`a_th` and `a_t` stand on no right-hand side, so they need no stages of their own: an accepted step of size h adds
`h sum_i b_i g_i` with `g_i = -a_i^T df/dtheta` at stage i. Stages of weight 0 (2 and 7 of `dopri5`) ask for no gradient
with respect to theta; the last one does where it opens the next step. A rejected step leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from paperworks.science.ode_seminorm.norms import Norm, Parts
from paperworks.science.ode_seminorm.problem import Field, Problem
from paperworks.science.ode_seminorm.stats import SolveStats
from paperworks.science.ode_seminorm.tableaux import Tableau

AdjointSize = Callable[[Tensor, Tensor, Tensor, Parts], Tensor]


def count_measured(norm: Norm, *, time_grad: bool, parameters: int) -> int:
    """How many of the integrals `(a_t, a_th_1, ...)` (without a_t where it is not asked for) the norm looks at."""
    if norm == "seminorm":
        return 0
    return int(time_grad) + (0 if norm == "seminorm_t" else parameters)


class AdjointProblem(Problem):
    """State `[z, a_z]`, flat; `totals`: the integrals so far, `a_t` first (with `time_grad`), then the parameters."""

    def __init__(
        self,
        field: Field,
        params: Sequence[Tensor],
        size: AdjointSize,
        stats: SolveStats,
        tableau: Tableau,
        *,
        measured: int,
        time_grad: bool,
        like: Tensor,
    ):
        super().__init__(field, lambda flat: flat, stats)
        self.params, self.measure, self.time_grad = list(params), size, time_grad
        self.tableau, self.measured = tableau, measured
        self.zero = like.new_zeros(())
        targets = [self.zero, *params] if time_grad else self.params
        self.totals = [torch.zeros_like(target, memory_format=torch.contiguous_format) for target in targets]
        self.sums = [torch.zeros_like(total) for total in self.totals]
        self.lapses = [torch.zeros_like(total) for total in self.totals[:measured]]
        self.opening: Sequence[Tensor | None] = ()
        self.next_opening: Sequence[Tensor | None] = ()
        self.probe: Sequence[Tensor | None] = ()
        self.weights = tableau.b
        self.h, self.opens_next = 0.0, False

    def rate(self, clock: Tensor, y: Tensor, *, stage: int = 0) -> Tensor:
        self.stats.nfe += 1
        n = y.numel() // 2
        if self.time_grad:
            clock = clock.detach().requires_grad_()
        # detach() shares the version counter, and requires_grad_ needs a leaf.
        z = y[:n].detach().requires_grad_()
        with torch.enable_grad():
            f = self.field(clock, z)
        wanted = self._targets(clock) if self._wants(stage) else []
        a_z, *rest = self._pull_back(f, [z, *wanted], y[n:])
        if wanted:
            self._add(stage, rest)
        slope = torch.empty_like(y)
        slope[:n] = f.detach()
        if a_z is None:
            slope[n:] = 0
        else:
            torch.neg(a_z, out=slope[n:])
        return slope

    @staticmethod
    def _pull_back(f: Tensor, inputs: list[Tensor], a: Tensor) -> Sequence[Tensor | None]:
        if not f.requires_grad:
            return [None] * len(inputs)
        return torch.autograd.grad(f, inputs, a, allow_unused=True)

    def _targets(self, clock: Tensor) -> list[Tensor]:
        return [clock, *self.params] if self.time_grad else self.params

    def _wants(self, stage: int) -> bool:
        if stage <= 0:
            # The slope that opens a step is weighed when the step's size is known; a probe matters to the norm only.
            return stage == 0 or self.measured > 0
        last = stage == self.tableau.stages - 1
        return (
            self.weights[stage] != 0
            or (last and self.opens_next)
            or (self.measured > 0 and (self.tableau.e[stage] != 0 or self.tableau.b[stage] != 0))
        )

    # Sums over the stages of a step; g = -(what autograd returns), hence the minus signs -----------------------------

    def begin(self, h: float, x: float, *, opens_next: bool) -> None:
        self.h, self.opens_next = h, opens_next
        whole = x == 1.0 or not self.tableau.adaptive
        self.weights = self.tableau.b if whole else self.tableau.dense(x)
        # The error is measured over the whole step, also where only a part of it will count.
        self.whole = None if whole or not self.measured else [torch.zeros_like(t) for t in self.lapses]
        for buffer in (*self.sums, *self.lapses):
            buffer.zero_()
        if self.tableau.adaptive:
            self._weigh(0, self.opening)

    def _add(self, stage: int, rates: Sequence[Tensor | None]) -> None:
        if stage == -1:
            self.probe = rates
            return
        if stage == 0:
            self.opening = rates
            if self.tableau.adaptive:
                return
        self._weigh(stage, rates)
        if stage == self.tableau.stages - 1 and self.opens_next:
            self.next_opening = rates

    def _weigh(self, stage: int, rates: Sequence[Tensor | None]) -> None:
        _accumulate(self.sums, rates, -self.h * self.weights[stage])
        if self.measured:
            _accumulate(self.lapses, rates, -self.h * self.tableau.e[stage])
        if self.whole is not None:
            _accumulate(self.whole, rates, -self.h * self.tableau.b[stage])

    def accept(self) -> None:
        _accumulate(self.totals, self.sums, 1.0)
        if self.opens_next:
            self.opening = self.next_opening

    # What the norm sees ----------------------------------------------------------------------------------------------

    def size(self, ratio: Tensor, integrals: Parts = ()) -> float:
        n = ratio.numel() // 2
        a_t, theta = (integrals[0], integrals[1:]) if self.time_grad and integrals else (self.zero, integrals)
        return float(self.measure(a_t, ratio[:n], ratio[n:], theta))

    def errors(self, h: float, rtol: float, atol: float) -> Parts:
        sums = self.sums if self.whole is None else self.whole
        return [
            lapse / torch.maximum(total.abs(), (total + change).abs()).mul_(rtol).add_(atol)
            for lapse, total, change in zip(self.lapses, self.totals, sums, strict=False)
        ]

    def values_and_rates(self, rtol: float, atol: float) -> tuple[Parts, Parts]:
        measured = self.totals[: self.measured]
        scales = self._scales(rtol, atol)
        values = [total / scale for total, scale in zip(measured, scales, strict=True)]
        rates = [_or_zero(rate, scale) / scale for rate, scale in zip(self.opening, scales, strict=False)]
        return values, rates

    def rate_change(self, rtol: float, atol: float) -> Parts:
        return [
            (_or_zero(after, scale) - _or_zero(before, scale)) / scale
            for before, after, scale in zip(self.opening, self.probe, self._scales(rtol, atol), strict=False)
        ]

    def _scales(self, rtol: float, atol: float) -> list[Tensor]:
        return [total.abs().mul_(rtol).add_(atol) for total in self.totals[: self.measured]]


def _accumulate(sums: Sequence[Tensor], rates: Sequence[Tensor | None], weight: float) -> None:
    """`sums += weight * rates`, in place; a rate of None is zero."""
    if weight == 0:
        return
    pairs = [(total, rate) for total, rate in zip(sums, rates, strict=False) if rate is not None]
    if pairs:
        # One call for all tensors: a field may have many small ones.
        add: Any = torch._foreach_add_  # pyright: ignore[reportPrivateImportUsage]
        add([total for total, _ in pairs], [rate for _, rate in pairs], alpha=weight)


def _or_zero(rate: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if rate is None else rate
