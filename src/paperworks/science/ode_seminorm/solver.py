"""How the room's modules solve their equations, as one value to pass around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from paperworks.science.ode_seminorm.adjoint import odeint, odeint_adjoint
from paperworks.science.ode_seminorm.checkpointed import odeint_checkpointed
from paperworks.science.ode_seminorm.norms import Norm
from paperworks.science.ode_seminorm.options import find_method


@dataclass(frozen=True)
class Solver:
    """How an equation is solved and differentiated.

    Attributes:
        rtol, atol, method: of the forward solve, and of the backward solve unless it has its own.
        adjoint_norm, adjoint_rtol, adjoint_atol: of the backward solve.
        gradient: "adjoint" (the paper's setting), "direct" (back-propagation through the steps), "checkpointed".
        step_size: for fixed-step methods.
    """

    rtol: float = 1e-4
    atol: float = 1e-7
    method: str = "dopri5"
    adjoint_norm: Norm = "seminorm"
    adjoint_rtol: float | None = None
    adjoint_atol: float | None = None
    gradient: Literal["adjoint", "direct", "checkpointed"] = "adjoint"
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.gradient not in ("adjoint", "direct", "checkpointed"):
            raise ValueError(f"gradient: expected adjoint, direct or checkpointed, got {self.gradient!r}")

    def solve(self, func: torch.nn.Module, y0: Any, t: Tensor, *, jump_t: Sequence[float] = ()) -> Any:
        """The states at the times `t`, time first; `jump_t`: where the field jumps."""
        common: dict[str, Any] = {"rtol": self.rtol, "atol": self.atol, "method": self.method}
        if self.gradient == "checkpointed":
            return odeint_checkpointed(func, y0, t, jump_t=jump_t, **common)
        options: dict[str, Any] = {}
        if find_method(self.method).adaptive:
            options = {"jump_t": tuple(jump_t)}
        elif self.step_size is not None:
            options = {"step_size": self.step_size}
        if self.gradient == "direct":
            return odeint(func, y0, t, options=options, **common)
        return odeint_adjoint(
            func,
            y0,
            t,
            options=options,
            adjoint_norm=self.adjoint_norm,
            adjoint_rtol=self.adjoint_rtol,
            adjoint_atol=self.adjoint_atol,
            **common,
        )


DEFAULT_SOLVER = Solver()
