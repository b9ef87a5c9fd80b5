"""A differential equation as the integrator sees it: a flat state, its rate, and integrals that ride along."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.science.ode_seminorm.norms import Parts, split
from paperworks.science.ode_seminorm.stats import SolveStats


class Field:
    """The user's function on flat states: reshapes, checks the shape of what comes back, casts it to the state's dtype.

    Args:
        func: `(t, y) -> dy/dt` with `t` a scalar tensor of the state's dtype.
        shapes: the parts of a tuple state, or None.
        shape: the shape of a tensor state.
        like: the flat initial state.
    """

    def __init__(self, func: Callable[..., Any], shapes: Sequence[torch.Size] | None, shape: torch.Size, like: Tensor):
        self.func, self.shapes, self.shape = func, shapes, shape
        self.dtype, self.device = like.dtype, like.device

    def clock(self, t: float, shift: float = 0.0) -> Tensor:
        """Time as a tensor; `shift` < 0 or > 0: the neighbouring number on that side, so that a field that jumps at t
        is asked on the side that is meant."""
        if shift:
            t = self._neighbour(t, math.copysign(math.inf, shift))
        return torch.tensor(t, dtype=self.dtype, device=self.device)

    def clocks(self, times: Sequence[float], shifts: Sequence[float]) -> Sequence[Tensor]:
        """Several times at once: one tensor for all is much cheaper than one for each."""
        asked = [
            self._neighbour(t, math.copysign(math.inf, shift)) if shift else t
            for t, shift in zip(times, shifts, strict=True)
        ]
        return torch.tensor(asked, dtype=self.dtype, device=self.device).unbind()

    def _neighbour(self, t: float, towards: float) -> float:
        if self.dtype == torch.float64:
            return math.nextafter(t, towards)
        return float(np.nextafter(np.float32(t), np.float32(towards)))

    def __call__(self, t: Tensor, flat: Tensor) -> Tensor:
        if self.shapes is None:
            rate = self.func(t, flat.view(self.shape))
            if not isinstance(rate, Tensor) or rate.shape != self.shape:
                raise ValueError(f"func: expected dy/dt of shape {tuple(self.shape)}, as y0, got {_shape(rate)}")
            return rate.reshape(-1).to(self.dtype)
        rates = self.func(t, split(flat, self.shapes))
        if not isinstance(rates, (tuple, list)) or [_shape(rate) for rate in rates] != [*map(tuple, self.shapes)]:
            got = [_shape(rate) for rate in rates] if isinstance(rates, (tuple, list)) else _shape(rates)
            raise ValueError(f"func: expected a tuple of shapes {[*map(tuple, self.shapes)]}, as y0, got {got}")
        return torch.cat([rate.reshape(-1).to(self.dtype) for rate in rates])


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


class Problem:
    """The forward problem. The adjoint problem adds integrals, which hear of every step through the hooks."""

    def __init__(self, field: Field, norm: Callable[[Tensor], Tensor], stats: SolveStats):
        self.field, self.norm, self.stats = field, norm, stats

    def rate(self, clock: Tensor, y: Tensor, *, stage: int = 0) -> Tensor:
        """dy/dt as a flat tensor. `stage`: 0 opens a step, -1 is a probe before the first."""
        self.stats.nfe += 1
        return self.field(clock, y)

    def size(self, ratio: Tensor, integrals: Parts = ()) -> float:
        """The norm of a vector that is already divided by its tolerances."""
        return float(self.norm(ratio))

    # Integrals beside the state: none here.

    def begin(self, h: float, x: float, *, opens_next: bool) -> None:
        """A step of size `h` is attempted; what counts of it, if accepted, is its part up to `x` (0..1].

        `opens_next`: its last slope will open another step.
        """

    def errors(self, h: float, rtol: float, atol: float) -> Parts:
        """Errors of the integrals over a step, divided by their tolerances, as far as the norm asks for them."""
        return ()

    def values_and_rates(self, rtol: float, atol: float) -> tuple[Parts, Parts]:
        """The integrals and their rates at the start, divided by their tolerances."""
        return (), ()

    def rate_change(self, rtol: float, atol: float) -> Parts:
        """How much the integrals' rates differ between start and probe, divided by their tolerances."""
        return ()

    def accept(self) -> None:
        """The attempted step is taken."""
