"""How wrong a gradient is, and what it cost: error is measured against a reference, never assumed.

The reference is the gradient of a float64 solve at 1e-9 / 1e-10, by back-propagation through its steps: another way to
the same number, so it shares no error with the adjoint solve.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from paperworks.science.ode_seminorm.adjoint import BackwardPlan, _forward_plan, odeint, odeint_adjoint, solve_adjoint
from paperworks.science.ode_seminorm.norms import Norm, check_adjoint_norm
from paperworks.science.ode_seminorm.options import check_state, check_tolerance, find_method, read_options
from paperworks.science.ode_seminorm.stats import SolverWarning, SolveStats

if TYPE_CHECKING:
    import pandas as pd

Loss = Callable[[Any], Tensor]
REFERENCE_RTOL, REFERENCE_ATOL = 1e-9, 1e-10


@dataclass(frozen=True)
class GradientError:
    """Relative errors `|g - g*| / |g*|` of the whole gradient and of its halves, and the solve's statistics."""

    relative: float
    relative_y0: float
    relative_params: float
    stats: SolveStats


def gradient_error(
    func: nn.Module,
    y0: Any,
    t: Tensor,
    loss: Loss,
    *,
    reference: str | Tensor = "direct64",
    rtol: float = 1e-4,
    atol: float = 1e-6,
    method: str = "dopri5",
    options: Mapping[str, Any] | None = None,
    adjoint_norm: Norm = "seminorm",
    **adjoint: Any,
) -> GradientError:
    """The relative error of the adjoint gradient of `loss(solution)` in one setting.

    Args:
        func, y0, t: as in `odeint_adjoint`; the gradient is with respect to y0 and func's parameters.
        loss: solution -> scalar.
        reference: "direct64", or a vector that `reference_gradient` returned.
        rtol, atol, method, options, adjoint_norm, **adjoint: of `odeint_adjoint`.

    Raises:
        ValueError: unknown reference, or an argument does not fit.
    """
    if isinstance(reference, str) and reference != "direct64":
        raise ValueError(f"reference: expected 'direct64' or a vector of reference_gradient, got {reference!r}")
    truth = reference_gradient(func, y0, t, loss, options=options) if isinstance(reference, str) else reference
    leaves = _leaves(y0)
    solution, stats = odeint_adjoint(
        func,
        leaves,
        t,
        rtol=rtol,
        atol=atol,
        method=method,
        options=options,
        adjoint_norm=adjoint_norm,
        return_stats=True,
        **adjoint,
    )
    found = _gradient(loss(solution), _flat(leaves), func)
    return _compare(found, truth, sum(part.numel() for part in _flat(leaves)), stats)


def reference_gradient(
    func: nn.Module, y0: Any, t: Tensor, loss: Loss, *, options: Mapping[str, Any] | None = None
) -> Tensor:
    """dL/d(y0, parameters) as one float64 vector: back-propagation through a float64 solve at 1e-9 / 1e-10."""
    precise = copy.deepcopy(func).double()
    leaves = _leaves(y0, torch.float64)
    steps = {name: value for name, value in (options or {}).items() if name in ("jump_t", "step_t")}
    solution = odeint(precise, leaves, t.double(), rtol=REFERENCE_RTOL, atol=REFERENCE_ATOL, options=steps)
    return _gradient(loss(solution), _flat(leaves), precise)


def work_precision(
    func: nn.Module,
    y0: Any,
    t: Tensor,
    loss: Loss,
    *,
    norms: Sequence[Norm] = ("full", "seminorm"),
    tolerances: Sequence[tuple[float, float]] = tuple((10.0**-k, 10.0 ** (-k - 2)) for k in range(2, 7)),
    method: str = "dopri5",
    options: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Backward evaluations against gradient error, for every norm and tolerance.

    The forward solution is that of a float64 solve at 1e-9 / 1e-10, the same for all rows: what differs is the backward
    solve alone.

    Returns:
        One row each: norm, rtol, atol, nfe, accepted, rejected, error.
    """
    import pandas as pd

    truth = reference_gradient(func, y0, t, loss, options=options)
    precise = copy.deepcopy(func).double()
    rows = []
    backward = _BackwardOnly(precise, _leaves(y0, torch.float64), t.double(), loss, method, options)
    for norm, (rtol, atol) in itertools.product(norms, tolerances):
        check_adjoint_norm(norm)
        found, stats = backward(norm, rtol, atol)
        rows.append(
            {
                "norm": norm if isinstance(norm, str) else getattr(norm, "__name__", "callable"),
                "rtol": rtol,
                "atol": atol,
                "nfe": stats.nfe,
                "accepted": stats.accepted,
                "rejected": stats.rejected,
                "error": float((found - truth).norm() / truth.norm()),
            }
        )
    return pd.DataFrame(rows)


class _BackwardOnly:
    """One precise forward solution, and as many backward solves from it as wanted."""

    def __init__(self, func: nn.Module, y0: Any, t: Tensor, loss: Loss, method: str, options: Mapping[str, Any] | None):
        flat, shapes = check_state(y0)
        flat = flat.detach()
        steps = {name: value for name, value in (options or {}).items() if name in ("jump_t", "step_t")}
        self.params = [param for param in func.parameters() if param.requires_grad]
        self.plan = _forward_plan(func, y0, flat, shapes, t, REFERENCE_RTOL, REFERENCE_ATOL, "dopri5", steps, "rms")
        self.tableau = find_method(method)
        self.options = read_options(options, self.tableau)
        with torch.no_grad():
            solution = odeint(func, y0, t, rtol=REFERENCE_RTOL, atol=REFERENCE_ATOL, options=steps)
        parts = solution if isinstance(solution, tuple) else (solution,)
        leaves = [part.detach().requires_grad_() for part in parts]
        value = loss(tuple(leaves) if isinstance(solution, tuple) else leaves[0])
        grads = torch.autograd.grad(value, leaves, allow_unused=True)
        filled = [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True)]
        self.states = torch.cat([leaf.detach().flatten(1) if leaf.ndim > 1 else leaf[:, None] for leaf in leaves], 1)
        self.grads = torch.cat([grad.flatten(1) if grad.ndim > 1 else grad[:, None] for grad in filled], 1)

    def __call__(self, norm: Norm, rtol: float, atol: float) -> tuple[Tensor, SolveStats]:
        rtol, atol = check_tolerance(rtol, "rtol"), check_tolerance(atol, "atol")
        plan = BackwardPlan(self.tableau, self.options, rtol, atol, norm)
        with warnings.catch_warnings():
            # A loose tolerance is asked for here in order to see how wrong it is.
            warnings.simplefilter("ignore", SolverWarning)
            result = solve_adjoint(self.plan, plan, self.params, self.states, self.grads)
        return torch.cat([result.y0, *[grad.reshape(-1) for grad in result.params]]), result.stats


def _leaves(y0: Any, dtype: torch.dtype | None = None) -> Any:
    if isinstance(y0, tuple):
        return tuple(_leaves(part, dtype) for part in y0)
    return y0.detach().to(dtype or y0.dtype).clone().requires_grad_()


def _flat(leaves: Any) -> list[Tensor]:
    return list(leaves) if isinstance(leaves, tuple) else [leaves]


def _gradient(value: Tensor, leaves: list[Tensor], func: nn.Module) -> Tensor:
    targets = [*leaves, *[param for param in func.parameters() if param.requires_grad]]
    grads = torch.autograd.grad(value, targets, allow_unused=True)
    pairs = zip(targets, grads, strict=True)
    return torch.cat([(torch.zeros_like(x) if g is None else g).reshape(-1).double() for x, g in pairs])


def _compare(found: Tensor, truth: Tensor, size: int, stats: SolveStats) -> GradientError:
    def relative(part: slice) -> float:
        return float((found[part] - truth[part]).norm() / truth[part].norm().clamp(min=1e-300))

    return GradientError(relative(slice(None)), relative(slice(size)), relative(slice(size, None)), stats)
