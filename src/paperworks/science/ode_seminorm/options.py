"""The doors: what a user passes to a solver, checked and put into one form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from paperworks.science.ode_seminorm.tableaux import METHODS, Tableau


@dataclass(frozen=True)
class StepOptions:
    """How steps are chosen.

    Attributes:
        first_step: size of the first step; None: chosen by trial (two evaluations).
        min_step, max_step: bounds of a step's size. A step below `min_step` ends the solve with `SolverError`.
        max_num_steps: attempted steps allowed.
        safety, ifactor, dfactor: next size is `h min(ifactor, max(safety r^(-1/order), dfactor))`.
        jump_t: times at which the field jumps: steps end there, and the field is evaluated anew on the other side.
        step_t: times at which steps must end.
        endpoint: "clip": the last step ends on the last time, the field is never asked beyond it; "interpolate": it may
            overshoot and the dense output is read, as in torchdiffeq. Times in between are read from the dense output.
        on_max_steps: "raise", or "return" what is known, with `stats.status` and `stats.reached`.
        step_size: for fixed-step methods: largest step; None: one step between two times.
    """

    first_step: float | None = None
    min_step: float = 0.0
    max_step: float = math.inf
    max_num_steps: int = 2**31 - 1
    safety: float = 0.9
    ifactor: float = 10.0
    dfactor: float = 0.2
    jump_t: tuple[float, ...] = ()
    step_t: tuple[float, ...] = ()
    endpoint: Literal["clip", "interpolate"] = "clip"
    on_max_steps: Literal["raise", "return"] = "raise"
    step_size: float | None = None


FIXED_ONLY = {"step_size"}
FOR_ALL = {"max_num_steps"}


def find_method(method: str | Tableau, *, name: str = "method") -> Tableau:
    """The table of a method.

    Raises:
        ValueError: unknown name.
    """
    if isinstance(method, Tableau):
        return method
    if method not in METHODS:
        raise ValueError(f"{name}: expected one of {', '.join(METHODS)}, got {method!r}")
    return METHODS[method]


def read_options(options: Mapping[str, Any] | None, tableau: Tableau, *, name: str = "options") -> StepOptions:
    """Options as a user wrote them.

    Raises:
        ValueError: unknown option, one that the method does not know, or a value out of range.
    """
    given = dict(options or {})
    if "norm" in given:
        hint = "adjoint_norm=..." if name == "adjoint_options" else "norm=... (adjoint_norm=... for the backward solve)"
        raise ValueError(f"{name}: 'norm' is an argument of its own here; pass {hint}")
    everything = {item.name for item in fields(StepOptions)}
    known = everything - FIXED_ONLY if tableau.adaptive else FIXED_ONLY | FOR_ALL
    if unknown := set(given) - known:
        raise ValueError(f"{name}: {tableau.name} takes {', '.join(sorted(known))}; got {sorted(unknown)[0]!r}")
    for times in ("jump_t", "step_t"):
        if times in given:
            given[times] = _times(given[times], f"{name}[{times!r}]")
    chosen = StepOptions(**given)
    _check_ranges(chosen, name)
    return chosen


def _times(value: Any, name: str) -> tuple[float, ...]:
    times = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    if times.ndim != 1 or not torch.isfinite(times).all():
        raise ValueError(f"{name}: expected finite times in one dimension, got shape {tuple(times.shape)}")
    found = tuple(times.tolist())
    if len(set(found)) < len(found):
        raise ValueError(f"{name}: a time is listed twice; every time may stand there once")
    return found


def _check_ranges(options: StepOptions, name: str) -> None:
    positive = {"max_step": options.max_step, "safety": options.safety, "max_num_steps": options.max_num_steps}
    optional = {"first_step": options.first_step, "step_size": options.step_size}
    positive |= {key: value for key, value in optional.items() if value is not None}
    for key, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name}[{key!r}]: expected a positive number, got {value}")
    if not 0 <= options.min_step <= options.max_step:
        raise ValueError(f"{name}['min_step']: expected 0 <= min_step <= max_step, got {options.min_step}")
    if not 0 < options.dfactor < 1 <= options.ifactor:
        raise ValueError(f"{name}: expected 0 < dfactor < 1 <= ifactor, got {options.dfactor} and {options.ifactor}")
    if set(options.jump_t) & set(options.step_t):
        raise ValueError(f"{name}: a time stands in both jump_t and step_t; leave it in jump_t")
    for key, allowed in (("endpoint", ("clip", "interpolate")), ("on_max_steps", ("raise", "return"))):
        if getattr(options, key) not in allowed:
            raise ValueError(f"{name}[{key!r}]: expected {' or '.join(allowed)}, got {getattr(options, key)!r}")


def check_times(t: Any) -> list[float]:
    """The output times as Python floats.

    Raises:
        ValueError: not a floating-point tensor of one dimension, fewer than two, or not strictly monotone.
    """
    if not isinstance(t, Tensor) or not t.is_floating_point():
        raise ValueError(f"t: expected a floating-point tensor, got {_kind(t)}")
    if t.ndim != 1 or len(t) < 2:
        raise ValueError(f"t: expected at least two times in one dimension, got shape {tuple(t.shape)}")
    times = t.detach().double().cpu()
    steps = times.diff()
    if not torch.isfinite(times).all() or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"t: expected finite times, strictly increasing or strictly decreasing, got {times.tolist()}")
    return times.tolist()


def check_tolerance(value: Any, name: str) -> float:
    """One positive number.

    Raises:
        ValueError: it is not.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{name}: expected a positive number, got {value!r}")
    return number


def check_state(y0: Any) -> tuple[Tensor, list[torch.Size] | None]:
    """The initial state as one flat vector, and its shapes where it is a tuple.

    Raises:
        ValueError: not a float32 or float64 tensor, nor a tuple of them with one dtype and device.
    """
    parts: Sequence[Any] = y0 if isinstance(y0, tuple) else (y0,)
    if not parts:
        raise ValueError("y0: the tuple is empty")
    for part in parts:
        if not isinstance(part, Tensor) or part.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"y0: expected a float32 or float64 tensor, or a tuple of them, got {_kind(part)}")
        if part.dtype != parts[0].dtype or part.device != parts[0].device:
            raise ValueError(f"y0: its tensors must have one dtype and device, got {_kind(parts[0])} and {_kind(part)}")
    if isinstance(y0, tuple):
        return torch.cat([part.reshape(-1) for part in y0]), [part.shape for part in y0]
    return y0.reshape(-1), None


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} on {value.device}"
    return type(value).__name__
