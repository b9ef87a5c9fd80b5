"""The integrator: adaptive and fixed Runge-Kutta steps over a flat state.

A step is accepted where the norm r of its error over `atol + rtol max(|y0|, |y1|)` is at most 1; the next size is
`h min(ifactor, max(safety r^(-1/order), dfactor))`, never smaller after an accepted step.

Notes:
    Times are Python floats, so a step waits for the device once, for its r.
    Slopes are kept stage-major, `k (stages, n)`, and a stage state is one matrix-vector product.
    Where gradients are recorded (back-propagation through the solver) slopes stay separate tensors. Step sizes are
    constants to the gradient.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from paperworks.science.ode_seminorm.options import StepOptions
from paperworks.science.ode_seminorm.problem import Problem
from paperworks.science.ode_seminorm.stats import SolverError
from paperworks.science.ode_seminorm.tableaux import Tableau

# A step that would leave less than this share of itself ends on the last time at once.
_SLIVER = 1e-6


class Slopes:
    """The slopes of one step. `recorded`: they carry gradients, so nothing may be overwritten."""

    def __init__(self, tableau: Tableau, like: Tensor, *, recorded: bool):
        self.recorded = recorded
        self.rows: list[Tensor] = []
        self.stages = tableau.stages
        if not recorded:
            self.k = like.new_zeros(tableau.stages, like.numel())
            self.slots = self.k.unbind()
            self.columns = [self.k[:count].t() for count in range(tableau.stages + 1)]
        self.a, self.b, self.e = _weights(tableau, like.dtype, like.device)

    def put(self, stage: int, rate: Tensor) -> None:
        if self.recorded:
            self.rows[stage:] = [rate]
        else:
            self.slots[stage].copy_(rate)

    def first(self) -> Tensor:
        return self.rows[0] if self.recorded else self.slots[0]

    def last(self) -> Tensor:
        return self.rows[-1] if self.recorded else self.slots[-1]

    def _matrix(self, count: int) -> Tensor:
        return torch.stack(self.rows[:count]).t() if self.recorded else self.columns[count]

    def move(self, y: Tensor, weights: Tensor, h: float) -> Tensor:
        """`y + h sum_j w_j k_j` over as many stages as there are weights."""
        return torch.addmv(y, self._matrix(len(weights)), weights, alpha=h)

    def error(self) -> Tensor:
        """`sum_i e_i k_i`, without gradient."""
        with torch.no_grad():
            return torch.mv(self._matrix(self.stages), self.e)

    def roll(self) -> None:
        """The last slope opens the next step."""
        self.put(0, self.last())


@functools.lru_cache(maxsize=64)
def _weights(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], Tensor, Tensor]:
    make = functools.partial(torch.tensor, dtype=dtype, device=device)
    return [make(row) for row in tableau.a], make(tableau.b), make(tableau.e)


class Integrator:
    """One solve of one problem through the times `t`, in either direction."""

    def __init__(
        self,
        problem: Problem,
        y0: Tensor,
        t: Sequence[float],
        tableau: Tableau,
        options: StepOptions,
        *,
        rtol: float,
        atol: float,
        keep: bool = False,
    ):
        self.problem, self.tableau, self.options = problem, tableau, options
        self.rtol, self.atol = rtol, atol
        self.times, self.end = list(t), t[-1]
        self.direction = 1.0 if t[-1] > t[0] else -1.0
        self.y, self.t = y0, t[0]
        self._slopes: Slopes | None = None
        self.stats = problem.stats
        # Where every accepted step began, for those who will take it again.
        self.trail: list[tuple[float, Tensor]] = []
        self.keep = keep
        self.stats.reached = t[0]
        # A quartic is less than a method of order 8 promises: there steps end on the outputs themselves.
        lands = options.endpoint == "clip" and tableau.order > 5
        stops = set(options.step_t) | set(t[1:-1] if lands else ()) - set(options.jump_t)
        self.jumps, self.stops = self._ahead(options.jump_t), self._ahead(stops)
        self.outputs = [y0]

    def _ahead(self, times: Iterable[float]) -> list[float]:
        """Those of the times that lie ahead, the next one last."""
        return sorted((x for x in times if (x - self.t) * self.direction > 0), key=lambda x: -x * self.direction)

    @property
    def slopes(self) -> Slopes:
        assert self._slopes is not None
        return self._slopes

    def _open(self, shift: float) -> None:
        """Evaluate the slope at the beginning of a step."""
        rate = self.problem.rate(self.problem.field.clock(self.t, shift), self.y)
        if self._slopes is None:
            recorded = torch.is_grad_enabled() and (self.y.requires_grad or rate.requires_grad)
            self._slopes = Slopes(self.tableau, self.y, recorded=recorded)
        self.slopes.put(0, rate)

    def solve(self) -> list[Tensor]:
        """The states at all times."""
        if not self.tableau.adaptive:
            return self._fixed()
        # Where the solve begins on a jump, the side that it goes to counts.
        shift = self.direction if self.t in self.options.jump_t else 0.0
        self._open(shift)
        self._check_finite(self.slopes.first())
        h = self._first_step() if self.options.first_step is None else self.options.first_step
        self.stats.initial_nfe += 2 if self.options.first_step is None else 1
        attempts = 0
        while len(self.outputs) < len(self.times):
            if attempts == self.options.max_num_steps:
                return self._stop_early("max_steps", f"{attempts} steps attempted", h)
            if not h >= self.options.min_step or self.t + self.direction * h == self.t:
                return self._stop_early("min_step", f"the next step, {h:.3g}, is below min_step or invisible", h)
            h = self._attempt(min(h, self.options.max_step))
            attempts += 1
        return self._done()

    # One step ---------------------------------------------------------------------------------------------------

    def _attempt(self, h: float) -> float:
        """Try a step of size `h` (positive); returns the size to try next."""
        h, end, on_jump = self._fit(h)
        step = self.direction * h
        # How much of the step counts: all of it, unless it overshoots the last time.
        x = min(1.0, (self.end - self.t) / step)
        opens_next = not on_jump and (end - self.end) * self.direction < 0
        self.problem.begin(step, x, opens_next=opens_next)
        y1 = self._stages(step, end)
        ratio = self._ratio(y1, step)
        kept = ratio <= 1
        self.stats.note(self.t, step, kept)
        if kept:
            self._take(y1, step, end, on_jump)
        return self._next_size(h, ratio)

    def _fit(self, h: float) -> tuple[float, float, bool]:
        """The step shortened to the next stop, jump or end: its size, where it ends, whether on a jump."""
        t, s = self.t, self.direction
        end, on_jump = t + s * h, False
        if self.stops and (end - self.stops[-1]) * s > 0:
            end = self.stops[-1]
        if self.jumps and (end - self.jumps[-1]) * s >= 0:
            end, on_jump = self.jumps[-1], True
        if self.options.endpoint == "clip" and (end - self.end) * s > -_SLIVER * abs(end - t):
            end, on_jump = self.end, False
        return (abs(end - t) if end != t + s * h else h), end, on_jump

    def _stages(self, step: float, end: float) -> Tensor:
        table, slopes = self.tableau, self.slopes
        y = self.y
        if table.stages > 1:
            times = [end if c == 1.0 else self.t + c * step for c in table.c[1:]]
            # Just before the end, in case the field jumps there.
            shifts = [-self.direction if c == 1.0 else 0.0 for c in table.c[1:]]
            for stage, clock in enumerate(self.problem.field.clocks(times, shifts), start=1):
                y = slopes.move(self.y, slopes.a[stage], step)
                slopes.put(stage, self.problem.rate(clock, y, stage=stage))
        return y if table.ends_in_stage else slopes.move(self.y, slopes.b, step)

    @torch.no_grad()
    def _ratio(self, y1: Tensor, step: float) -> float:
        error = self.slopes.error()
        scale = torch.maximum(self.y.abs(), y1.abs()).mul_(self.rtol).add_(self.atol)
        ratio = self.problem.size(error.mul_(step).div_(scale), self.problem.errors(step, self.rtol, self.atol))
        # A step into nonsense is a step too long.
        return ratio if math.isfinite(ratio) else math.inf

    def _next_size(self, h: float, ratio: float) -> float:
        if ratio == 0:
            return h * self.options.ifactor
        least = 1.0 if ratio < 1 else self.options.dfactor
        return h * min(self.options.ifactor, max(self.options.safety / ratio ** (1 / self.tableau.order), least))

    def _take(self, y1: Tensor, step: float, end: float, on_jump: bool) -> None:
        self.problem.accept()
        if self.keep:
            self.trail.append((self.t, self.y))
        self._read(y1, step, end)
        self.t, self.y = end, y1
        self.stats.reached = end
        for passed in (self.jumps, self.stops):
            while passed and (end - passed[-1]) * self.direction >= 0:
                passed.pop()
        finished = len(self.outputs) == len(self.times)
        if on_jump and not (finished and self.options.endpoint == "clip"):
            self._open(self.direction)
        else:
            self.slopes.roll()

    def _read(self, y1: Tensor, step: float, end: float) -> None:
        """States at the output times that the step has passed."""
        while len(self.outputs) < len(self.times):
            t = self.times[len(self.outputs)]
            if (t - end) * self.direction > 0:
                return
            if t == end:
                self.outputs.append(y1)
                continue
            weights = self.tableau.dense((t - self.t) / step)
            self.outputs.append(self.slopes.move(self.y, self.y.new_tensor(weights), step))

    # The first step ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _first_step(self) -> float:
        """Hairer, Norsett and Wanner, II.4: from the sizes of state, slope and change of slope along an Euler probe."""
        problem, y0, f0 = self.problem, self.y, self.slopes.first()
        scale = y0.abs().mul_(self.rtol).add_(self.atol)
        values, rates = problem.values_and_rates(self.rtol, self.atol)
        d0, d1 = problem.size(y0 / scale, values), problem.size(f0 / scale, rates)
        h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        if self.options.endpoint == "clip":
            h0 = min(h0, abs(self.end - self.t))
        step = self.direction * h0
        f1 = problem.rate(problem.field.clock(self.t + step), y0 + step * f0, stage=-1)
        d2 = problem.size((f1 - f0) / scale, problem.rate_change(self.rtol, self.atol)) / h0
        steepest = max(d1, d2)
        h1 = max(1e-6, h0 * 1e-3) if steepest <= 1e-15 else (0.01 / steepest) ** (1 / self.tableau.order)
        return min(100 * h0, h1)

    # Fixed steps ---------------------------------------------------------------------------------------------------

    def _fixed(self) -> list[Tensor]:
        size, taken = self.options.step_size, 0
        for start, stop in itertools.pairwise(self.times):
            count = 1 if size is None else max(1, math.ceil(abs(stop - start) / size - 1e-9))
            for number in range(count):
                if taken == self.options.max_num_steps:
                    raise SolverError(f"{taken} steps taken at t = {self.t:g}; max_num_steps allows no more")
                end = stop if number == count - 1 else start + (stop - start) * (number + 1) / count
                step = end - self.t
                self.problem.begin(step, 1.0, opens_next=False)
                self._open(self.direction)
                y = self._stages(step, end)
                self.stats.note(self.t, step, True)
                self.problem.accept()
                self.y, self.t, taken = y, end, taken + 1
            self._check_finite(self.y)
            self.outputs.append(self.y)
        self.stats.reached = self.t
        return self._done()

    # Ends ----------------------------------------------------------------------------------------------------------

    def _done(self) -> list[Tensor]:
        self.stats.status = "done"
        return self.outputs

    def _stop_early(self, status: str, why: str, h: float) -> list[Tensor]:
        self.stats.status = "max_steps" if status == "max_steps" else "min_step"
        if self.options.on_max_steps == "return":
            missing = len(self.times) - len(self.outputs)
            return self.outputs + [self.y] * missing
        raise SolverError(f"{why} ({self._where(h)}); loosen the tolerances, or ask what the field does there")

    def _check_finite(self, x: Tensor) -> None:
        if not bool(torch.isfinite(x).all()):
            raise SolverError(f"state or slope is not finite ({self._where(None)})")

    def _where(self, h: float | None) -> str:
        size = "" if h is None else f", step {h:.3g}"
        finite = self.y.detach()[torch.isfinite(self.y.detach())]
        span = f"{float(finite.min()):.3g} to {float(finite.max()):.3g}" if finite.numel() else "nowhere finite"
        return f"t = {self.t:.6g}{size}, state {span}"
