"""A field of one's own under every norm and tolerance: what a gradient costs, how wrong it is, and what to use."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.science.ode_seminorm.accuracy import gradient_error, reference_gradient
from paperworks.science.ode_seminorm.stats import SolverWarning

NORMS = ("full", "seminorm", "seminorm_t")
TOLERANCES = tuple((10.0**-k, 10.0 ** (-k - 2)) for k in range(2, 7))
GOOD_ENOUGH = 1e-3


class Wrapped(nn.Module):
    """A plain function as a module, so that it has (no) parameters."""

    def __init__(self, func: Callable[..., Any]):
        super().__init__()
        self.func = func

    def forward(self, t: Tensor, y: Any) -> Any:
        return self.func(t, y)


def as_module(found: Any) -> nn.Module:
    """A module as it is; a class or factory without arguments is called; a function of (t, y) is wrapped.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(found, nn.Module):
        return found
    if isinstance(found, type):
        found = found()
        if not isinstance(found, nn.Module):
            raise ValueError(f"field: the class must be an nn.Module, got {type(found).__name__}")
        return found
    arguments = found.__code__.co_argcount if hasattr(found, "__code__") else 2
    if arguments == 0:
        return as_module(found())
    if arguments != 2:
        raise ValueError(f"field: expected a function of (t, y), got one of {arguments} arguments")
    return Wrapped(found)


def measure_field(found: Any, y0: np.ndarray, times: Sequence[float], *, seed: int) -> dict[str, Any]:
    """Evaluations, CPU seconds, MiB and gradient error of `sum(y(t_end)^2)/2` for every norm and tolerance.

    Returns:
        `nfe`, `seconds`, `mib`, `error`: (norms, tolerances); `best`: place of the cheapest setting whose error is at
        most
        0.1 %, or -1.

    Raises:
        ValueError: the field does not fit.
    """
    from paperworks.testing import peak_bytes

    torch.manual_seed(seed)
    func = as_module(found).float()
    start = torch.tensor(y0, dtype=torch.float32)
    t = torch.tensor(times, dtype=torch.float32)
    truth = reference_gradient(func, start, t, _loss)
    shape = (len(NORMS), len(TOLERANCES))
    table = {name: np.zeros(shape) for name in ("nfe", "solve_seconds", "mib", "error")}
    for row, norm in enumerate(NORMS):
        for column, (rtol, atol) in enumerate(TOLERANCES):

            def solve(norm: str = norm, rtol: float = rtol, atol: float = atol) -> Any:
                return gradient_error(func, start, t, _loss, reference=truth, rtol=rtol, atol=atol, adjoint_norm=norm)

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SolverWarning)
                began = time.process_time()
                result = solve()
                table["solve_seconds"][row, column] = time.process_time() - began
                table["mib"][row, column] = peak_bytes(solve) / 2**20
            assert result.stats.backward is not None
            table["nfe"][row, column] = result.stats.backward.nfe
            table["error"][row, column] = result.relative
    good = table["error"] <= GOOD_ENOUGH
    costs = np.where(good, table["nfe"], np.inf)
    return table | {"best": int(costs.argmin()) if good.any() else -1}


def _loss(solution: Tensor) -> Tensor:
    return 0.5 * solution[-1].square().sum()
