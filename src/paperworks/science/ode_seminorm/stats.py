"""What a solve did: evaluations, attempted steps, how it ended; and the errors a solver raises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["done", "max_steps", "min_step", "running"]


class SolverError(RuntimeError):
    """A solve cannot go on: a state that is not finite, a step below `min_step`, or too many steps."""


class SolverWarning(UserWarning):
    """A result to be careful with: a partial solve, or a backward solve that does not come back to where it began."""


@dataclass
class SolveStats:
    """One solve; for a backward pass all its intervals together.

    Attributes:
        kind: "forward" or "backward".
        nfe: evaluations of the field, all of them: rejected steps and the choice of the first step included.
        initial_nfe: those spent before the first step (two for each interval unless `first_step` is given).
        accepted, rejected: attempted steps by outcome.
        ts, hs, kept: where each attempted step began, its signed size, and whether it was accepted.
        status: "done"; "max_steps" or "min_step" where `on_max_steps="return"` ended it early at `reached`.
        reached: the time to which the solution is known.
        drift: backward only: largest RMS of (state reconstructed - state stored) over the tolerance; far above 1 the
            backward solve is unstable.
        backward: filled by `backward()` for a solve by `odeint_adjoint`.
    """

    kind: Literal["forward", "backward"] = "forward"
    nfe: int = 0
    initial_nfe: int = 0
    ts: list[float] = field(default_factory=list)
    hs: list[float] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    status: Status = "running"
    reached: float = float("nan")
    drift: float = 0.0
    backward: SolveStats | None = None

    @property
    def accepted(self) -> int:
        return sum(self.kept)

    @property
    def rejected(self) -> int:
        return len(self.kept) - self.accepted

    def note(self, t: float, h: float, kept: bool) -> None:
        self.ts.append(t)
        self.hs.append(h)
        self.kept.append(kept)


_logs: list[list[SolveStats]] = []


@contextlib.contextmanager
def record_solves() -> Iterator[list[SolveStats]]:
    """Collect the statistics of every solve, forward and backward, in the enclosed block, in the order they begin.

    >>> import torch
    >>> from paperworks.science import odeint, record_solves
    >>> with record_solves() as log:
    ...     y = odeint(lambda t, y: -y, torch.ones(2), torch.tensor([0.0, 1.0]))
    >>> log[0].kind, log[0].nfe == log[0].initial_nfe + 6 * (log[0].accepted + log[0].rejected)
    ('forward', True)
    """
    log: list[SolveStats] = []
    _logs.append(log)
    try:
        yield log
    finally:
        # By identity: two logs may be equal, both empty for instance.
        _logs[:] = [other for other in _logs if other is not log]


def open_stats(kind: Literal["forward", "backward"]) -> SolveStats:
    """Statistics of a solve that begins now, known to every open `record_solves`."""
    stats = SolveStats(kind)
    for log in _logs:
        log.append(stats)
    return stats
