"""Back-propagation through the solver in the memory of one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from paperworks.science.ode_seminorm.adjoint import ForwardPlan, unflatten
from paperworks.science.ode_seminorm.integrate import Integrator
from paperworks.science.ode_seminorm.norms import state_norm
from paperworks.science.ode_seminorm.options import StepOptions, check_state, check_times, check_tolerance, find_method
from paperworks.science.ode_seminorm.problem import Field, Problem
from paperworks.science.ode_seminorm.stats import SolveStats, open_stats
from paperworks.science.ode_seminorm.tableaux import Tableau


def odeint_checkpointed(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | Tableau = "dopri5",
    jump_t: Iterable[float] = (),
    params: Iterable[Tensor] | None = None,
    return_stats: bool = False,
) -> Any:
    """`odeint` whose gradient needs the memory of one step: the states between steps are kept, and every step is taken
    once more, with a graph, when its gradient is wanted.

    The gradient is that of the discrete solution, as with `odeint`: no second solve, so none that could be unstable.

    Args:
        func, y0, t, rtol, atol, method, return_stats: as in `odeint`; adaptive methods only.
        jump_t: times at which the field jumps.
        params: what else `func` depends on; default: `func.parameters()`.

    Raises:
        ValueError, SolverError: as `odeint`.
    """
    tableau = find_method(method)
    if not tableau.adaptive:
        raise ValueError(f"method: expected an adaptive one, got {tableau.name!r}")
    if params is None and not isinstance(func, nn.Module):
        raise ValueError("params: func is no nn.Module; pass what it depends on, or () if nothing")
    flat, shapes = check_state(y0)
    times, jumps = check_times(t), tuple(jump_t)
    # Steps end on every output time, so that a step's end is all that an output depends on.
    options = StepOptions(jump_t=jumps, step_t=tuple(x for x in times[1:-1] if x not in jumps))
    plan = ForwardPlan(
        Field(func, shapes, flat.shape if shapes is not None else y0.shape, flat),
        times,
        tableau,
        options,
        check_tolerance(rtol, "rtol"),
        check_tolerance(atol, "atol"),
        "rms",
    )
    if params is None:
        assert isinstance(func, nn.Module)
        params = func.parameters()
    stats = open_stats("forward")
    states: Any = _Checkpointed.apply(plan, stats, flat, *[param for param in params if param.requires_grad])
    solution = unflatten(states, shapes, plan.field.shape)
    return (solution, stats) if return_stats else solution


class _Checkpointed(torch.autograd.Function):
    """Forward: solve, keeping the state at every accepted step. Backward: one step at a time, last to first."""

    @staticmethod
    def forward(ctx: Any, plan: ForwardPlan, stats: SolveStats, flat: Tensor, *params: Tensor) -> Tensor:
        problem = Problem(plan.field, state_norm(plan.norm, plan.field.shapes), stats)
        start = flat.detach()
        solver = Integrator(
            problem, start, plan.times, plan.tableau, plan.options, rtol=plan.rtol, atol=plan.atol, keep=True
        )
        outputs = solver.solve()
        ctx.plan, ctx.stats = plan, stats
        ctx.ends = [*[time for time, _ in solver.trail[1:]], plan.times[-1]]
        ctx.starts = [time for time, _ in solver.trail]
        ctx.save_for_backward(*[state for _, state in solver.trail], *params)
        return torch.stack(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        plan: ForwardPlan = ctx.plan
        count = len(ctx.starts)
        states, params = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        stats = ctx.stats.backward = open_stats("backward")
        problem = Problem(plan.field, state_norm(plan.norm, plan.field.shapes), stats)
        fixed = replace(plan.tableau, e=())
        arriving = dict(zip(plan.times, grads[0], strict=True))
        totals = [torch.zeros_like(param) for param in params]
        a = torch.zeros_like(states[0])
        for start, end, state in zip(reversed(ctx.starts), reversed(ctx.ends), reversed(states), strict=True):
            a = a + arriving[end] if end in arriving else a
            leaf = state.detach().requires_grad_()
            with torch.enable_grad():
                solver = Integrator(problem, leaf, (start, end), fixed, StepOptions(), rtol=1.0, atol=1.0)
                reached = solver.solve()[-1]
            a, *rest = torch.autograd.grad(reached, [leaf, *params], a, allow_unused=True, materialize_grads=True)
            for total, grad in zip(totals, rest, strict=True):
                total.add_(grad)
        return None, None, a + arriving[plan.times[0]], *totals
