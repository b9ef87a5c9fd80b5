"""`odeint` and `odeint_adjoint`: solve a differential equation, and differentiate through its solution.

`odeint` is differentiated by back-propagation through every step (discretise, then optimise). `odeint_adjoint` solves
the adjoint equation backwards in time (optimise, then discretise): memory does not grow with the number of steps, at
the price of a second solve, whose cost the paper reduces by its choice of norm.

Reference:
    P. Kidger, R. T. Q. Chen, T. Lyons, "Hey, that's not an ODE": Faster ODE Adjoints via Seminorms, ICML 2021,
    arXiv 2009.09457.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from paperworks.science.ode_seminorm.adjoint_problem import AdjointProblem, count_measured
from paperworks.science.ode_seminorm.integrate import Integrator
from paperworks.science.ode_seminorm.norms import (
    Norm,
    check_adjoint_norm,
    check_state_norm,
    rms,
    state_norm,
)
from paperworks.science.ode_seminorm.norms import (
    adjoint_norm as build_adjoint_norm,
)
from paperworks.science.ode_seminorm.options import (
    StepOptions,
    check_state,
    check_times,
    check_tolerance,
    find_method,
    read_options,
)
from paperworks.science.ode_seminorm.problem import Field, Problem
from paperworks.science.ode_seminorm.stats import SolverWarning, SolveStats, open_stats
from paperworks.science.ode_seminorm.tableaux import Tableau

Func = Callable[..., Any]
DRIFT_TO_WARN_OF = 100.0


def odeint(
    func: Func,
    y0: Any,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | Tableau = "dopri5",
    options: Mapping[str, Any] | None = None,
    norm: Norm = "rms",
    return_stats: bool = False,
) -> Any:
    """Solve `dy/dt = func(t, y)`, `y(t[0]) = y0`; gradients flow back through every step.

    Args:
        func: `(t, y) -> dy/dt`, with `t` a scalar tensor and the result of y's shape.
        y0: a float32 or float64 tensor of any shape, or a tuple of tensors. bf16 belongs inside `func` (autocast).
        t: (T,) strictly increasing or strictly decreasing.
        rtol, atol: a step is accepted where the norm of `error / (atol + rtol max(|y0|, |y1|))` is at most 1.
        method: dopri5, dopri5_classic, tsit5, bosh3, heun21, dopri8; euler, midpoint, rk4 with
            `options={"step_size": h}`; or a `Tableau` of your own.
        options: fields of `StepOptions`.
        norm: "rms", "linf", "l2" (over a tuple state the largest of its parts'), or a callable on the state.
        return_stats: return `(solution, SolveStats)`.

    Returns:
        The states at all times, (T, *y0.shape) each, first the initial one; with `return_stats` also `SolveStats`.

    Raises:
        ValueError: an argument does not fit; the message names it.
        SolverError: the solve cannot go on.

    Compared with torchdiffeq: norms and statistics are arguments; by default (`endpoint="clip"`) the field is never
    asked beyond the last time; fixed-step methods land on every output time instead of interpolating linearly; times
    carry no gradient here.
    """
    if t.requires_grad if isinstance(t, Tensor) else False:
        raise ValueError("t: odeint gives no gradient with respect to times; use odeint_adjoint(..., time_grad=True)")
    flat, shapes = check_state(y0)
    plan = _forward_plan(func, y0, flat, shapes, t, rtol, atol, method, options, norm)
    stats = open_stats("forward")
    states = torch.stack(_solve_forward(plan, flat, stats))
    solution = unflatten(states, shapes, plan.field.shape)
    return (solution, stats) if return_stats else solution


def odeint_adjoint(
    func: Func,
    y0: Any,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | Tableau = "dopri5",
    options: Mapping[str, Any] | None = None,
    norm: Norm = "rms",
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: str | Tableau | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_norm: Norm = "seminorm",
    adjoint_params: Iterable[Tensor] | None = None,
    time_grad: bool = False,
    return_stats: bool = False,
) -> Any:
    """Solve `dy/dt = func(t, y)`; gradients come from the adjoint equation, solved backwards interval by interval.

    Args:
        func, y0, t, rtol, atol, method, options, norm, return_stats: as in `odeint`.
        adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options: of the backward solve; default: the forward ones.
        adjoint_norm: "seminorm" (the paper), "seminorm_t" (torchdiffeq's), "full" (the default of libraries), "rms",
            "linf", "l2" (flat, over everything), or a callable on `(a_t, y, a_y, *a_params)`; with a tuple state its
            parts are spread out there.
        adjoint_params: what else `func` depends on; default: `func.parameters()`. Frozen ones are left out. A tensor
            that `func` closes over and that is not among them gets *no* gradient, silently: nobody can see closures.
        time_grad: also the gradient with respect to `t`.

    Returns:
        As `odeint`; `stats.backward` is filled by `backward()`.

    Raises:
        ValueError, SolverError: as `odeint`.

    A backward solve of a contracting field is an unstable one. Where the state reconstructed at the start of an
    interval misses the stored one by more than 100 tolerances a `SolverWarning` says so; tighten the adjoint
    tolerances, add output times (the state is reset at each), or use `odeint` or `odeint_checkpointed`.
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise ValueError("adjoint_params: func is no nn.Module; pass what it depends on, or () if nothing")
    check_adjoint_norm(adjoint_norm)
    wants_time = isinstance(t, Tensor) and t.requires_grad
    if wants_time != time_grad:
        remedy = "pass time_grad=True, or t.detach()" if wants_time else "t does not require grad; leave time_grad out"
        raise ValueError(f"time_grad: {remedy}")
    flat, shapes = check_state(y0)
    forward = _forward_plan(func, y0, flat, shapes, t, rtol, atol, method, options, norm)
    if forward.options.on_max_steps == "return":
        raise ValueError("options['on_max_steps']: half a solution has no gradient; 'return' is for odeint")
    tableau = forward.tableau if adjoint_method is None else find_method(adjoint_method, name="adjoint_method")
    if adjoint_options is None and tableau.adaptive != forward.tableau.adaptive and options:
        raise ValueError("adjoint_options: the forward options do not suit adjoint_method; pass its own ({} for none)")
    backward = BackwardPlan(
        tableau,
        read_options(options if adjoint_options is None else adjoint_options, tableau, name="adjoint_options"),
        forward.rtol if adjoint_rtol is None else check_tolerance(adjoint_rtol, "adjoint_rtol"),
        forward.atol if adjoint_atol is None else check_tolerance(adjoint_atol, "adjoint_atol"),
        adjoint_norm,
        time_grad,
    )
    if adjoint_params is None:
        assert isinstance(func, nn.Module)
        adjoint_params = func.parameters()
    params = [param for param in adjoint_params if param.requires_grad]
    stats = open_stats("forward")
    states: Any = _Adjoint.apply(forward, backward, stats, flat, t, *params)
    solution = unflatten(states, shapes, forward.field.shape)
    return (solution, stats) if return_stats else solution


@dataclass(frozen=True)
class ForwardPlan:
    """A forward solve, checked."""

    field: Field
    times: list[float]
    tableau: Tableau
    options: StepOptions
    rtol: float
    atol: float
    norm: Norm


@dataclass(frozen=True)
class BackwardPlan:
    """How the adjoint equation is solved."""

    tableau: Tableau
    options: StepOptions
    rtol: float
    atol: float
    norm: Norm
    time_grad: bool = False


def _forward_plan(
    func: Func,
    y0: Any,
    flat: Tensor,
    shapes: Sequence[torch.Size] | None,
    t: Tensor,
    rtol: float,
    atol: float,
    method: str | Tableau,
    options: Mapping[str, Any] | None,
    norm: Norm,
) -> ForwardPlan:
    check_state_norm(norm)
    tableau = find_method(method)
    shape = flat.shape if shapes is not None else y0.shape
    return ForwardPlan(
        Field(func, shapes, shape, flat),
        check_times(t),
        tableau,
        read_options(options, tableau),
        check_tolerance(rtol, "rtol"),
        check_tolerance(atol, "atol"),
        norm,
    )


def _solve_forward(plan: ForwardPlan, flat: Tensor, stats: SolveStats) -> list[Tensor]:
    problem = Problem(plan.field, state_norm(plan.norm, plan.field.shapes), stats)
    solver = Integrator(problem, flat, plan.times, plan.tableau, plan.options, rtol=plan.rtol, atol=plan.atol)
    outputs = solver.solve()
    if stats.status != "done":
        warnings.warn(
            f"the solve ended at t = {stats.reached:g} ({stats.status}); later outputs repeat the last state",
            SolverWarning,
            stacklevel=3,
        )
    return outputs


def unflatten(states: Tensor, shapes: Sequence[torch.Size] | None, shape: torch.Size) -> Any:
    """The user's view of flat states, time first."""
    if shapes is None:
        return states.view(len(states), *shape)
    parts = states.split([part.numel() for part in shapes], dim=1)
    return tuple(part.reshape(len(states), *of) for part, of in zip(parts, shapes, strict=True))


class _Adjoint(torch.autograd.Function):
    """Forward: solve without a graph. Backward: solve the adjoint equation."""

    @staticmethod
    def forward(
        ctx: Any, forward: ForwardPlan, backward: BackwardPlan, stats: SolveStats, flat: Tensor, t: Tensor, *params: Any
    ) -> Tensor:
        states = torch.stack(_solve_forward(forward, flat.detach(), stats))
        ctx.forward_plan, ctx.backward_plan, ctx.stats = forward, backward, stats
        ctx.autocast = _autocast_state(flat.device.type)
        ctx.save_for_backward(states, *params)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        states, *params = ctx.saved_tensors
        with ctx.autocast():
            result = solve_adjoint(ctx.forward_plan, ctx.backward_plan, params, states, grads[0])
        ctx.stats.backward = result.stats
        return None, None, None, result.y0, result.t, *result.params


@dataclass(frozen=True)
class Gradients:
    """What the adjoint solve found: of the flat initial state, of the times (or None), of every parameter."""

    y0: Tensor
    t: Tensor | None
    params: list[Tensor]
    stats: SolveStats


@torch.no_grad()
def solve_adjoint(
    forward: ForwardPlan, backward: BackwardPlan, params: Sequence[Tensor], states: Tensor, grads: Tensor
) -> Gradients:
    """Integrate the adjoint equation over all intervals, last to first.

    Args:
        states, grads: (T, n) the flat forward states and dL/d(states).

    At each output time z is reset to the stored state, and dL/dz(t_i) is added to a_z.
    """
    stats = open_stats("backward")
    tableau, shapes, times = backward.tableau, forward.field.shapes, forward.times
    size = build_adjoint_norm(backward.norm, state_norm(forward.norm, shapes), shapes)
    measured = count_measured(backward.norm, time_grad=backward.time_grad, parameters=len(params))
    problem = AdjointProblem(
        forward.field,
        params,
        size,
        stats,
        tableau,
        measured=measured if tableau.adaptive else 0,
        time_grad=backward.time_grad,
        like=states,
    )
    n = states.shape[1]
    a, dt = grads[-1], states.new_zeros(len(times))
    intervals = reversed(list(enumerate(itertools.pairwise(times))))
    for index, (start, stop) in intervals:
        if backward.time_grad:
            dt[index + 1] = _effect_of_time(problem, stop, states[index + 1], grads[index + 1])
        solver = Integrator(
            problem,
            torch.cat([states[index + 1], a]),
            (stop, start),
            tableau,
            backward.options,
            rtol=backward.rtol,
            atol=backward.atol,
        )
        end = solver.solve()[-1]
        scale = states[index].abs().mul_(backward.rtol).add_(backward.atol)
        stats.drift = max(stats.drift, float(rms((end[:n] - states[index]) / scale)))
        a = end[n:] + grads[index]
    if stats.drift > DRIFT_TO_WARN_OF and tableau.adaptive:
        warnings.warn(
            f"the backward solve misses the stored state by {stats.drift:.0f} tolerances: it is unstable, and the "
            "gradient may be poor; tighten adjoint_rtol and adjoint_atol, add output times, or use odeint",
            SolverWarning,
            stacklevel=2,
        )
    if backward.time_grad:
        dt[0] = problem.totals[0]
    totals = problem.totals[1:] if backward.time_grad else problem.totals
    return Gradients(a, dt if backward.time_grad else None, totals, stats)


def _effect_of_time(problem: AdjointProblem, t: float, state: Tensor, grad: Tensor) -> Tensor:
    """dL/dt_i of moving the time itself, `f . dL/dz(t_i)`; the integral beside the state starts from it."""
    problem.stats.nfe += 1
    effect = torch.dot(problem.field(problem.field.clock(t), state), grad)
    problem.totals[0] -= effect
    return effect


def _autocast_state(device: str) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """The caller's autocast, to be entered again in the backward pass, where PyTorch has left it."""
    if not torch.is_autocast_enabled(device):
        return contextlib.nullcontext
    dtype = torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype)
