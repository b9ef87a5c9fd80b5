"""Learning-rate schedules: pure functions of the step, as factors on the optimiser's own rate.

Each constructor returns `factor(step)`, step counted from 0. During a warm-up of w steps the factor is
(step + 1) / (w + 1): the first step already learns, and step w is the first at the full rate. It then decays so that
the step after the last (step = total) would be at `floor`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]


def constant() -> Schedule:
    """factor = 1."""
    return lambda step: 1.0


def warmup_constant(warmup: int) -> Schedule:
    """Linear warm-up over `warmup` steps, then 1.

    Raises:
        ValueError: `warmup` is negative.
    """
    if warmup != int(warmup) or warmup < 0:
        raise ValueError(f"warmup: expected a whole number of steps that is not negative, got {warmup}")
    return lambda step: _ramp(step, warmup)


def warmup_linear(total: int, warmup: int = 0, *, floor: float = 0.0) -> Schedule:
    """Linear warm-up over `warmup` steps, then a straight line from 1 down to `floor` at step `total`.

    Raises:
        ValueError: `total` is not positive, `warmup` not in 0..total - 1, or `floor` not in [0, 1].
    """
    _check(total, warmup, floor)
    return lambda step: _ramp(step, warmup) if step < warmup else floor + (1 - floor) * (1 - _part(step, total, warmup))


def warmup_cosine(total: int, warmup: int = 0, *, floor: float = 0.0) -> Schedule:
    """Linear warm-up over `warmup` steps, then half a cosine from 1 down to `floor` at step `total`.

    factor = floor + (1 - floor) (1 + cos(pi p)) / 2, p = (step - warmup) / (total - warmup).

    Raises:
        ValueError: `total` is not positive, `warmup` not in 0..total - 1, or `floor` not in [0, 1].
    """
    _check(total, warmup, floor)

    def factor(step: int) -> float:
        if step < warmup:
            return _ramp(step, warmup)
        return floor + (1 - floor) * (1 + math.cos(math.pi * _part(step, total, warmup))) / 2

    return factor


def _ramp(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / (warmup + 1))


def _part(step: int, total: int, warmup: int) -> float:
    # A fit may run past the schedule's end (a larger budget on resume): the rate stays at the floor.
    return min(1.0, (step - warmup) / (total - warmup))


def _check(total: int, warmup: int, floor: float) -> None:
    if total != int(total) or total < 1:
        raise ValueError(f"total: expected a positive number of steps, got {total}")
    if warmup != int(warmup) or not 0 <= warmup < total:
        raise ValueError(f"warmup: expected a whole number of steps from 0 to {total - 1}, got {warmup}")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor: expected a factor from 0 to 1, got {floor}")
