"""Timing our components against their peers: interleaved in one run, and only after the outputs agree.

A ratio is peer time over our time, taken pair by pair within a round, so that a machine whose speed drifts does not
favour either; the median over rounds is quoted, with its quartiles.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from paperworks._files import write_atomic
from paperworks.lab.environment import environment
from paperworks.testing.cost import peak_bytes


@dataclass(frozen=True)
class Contender:
    """Something to time. `build()` prepares it and returns a call that does the timed work once.

    `requires`: the importable module of an optional peer; where it is missing, the row says so.
    """

    name: str
    build: Callable[[], Callable[[], Any]]
    requires: str | None = None

    @property
    def available(self) -> bool:
        return self.requires is None or importlib.util.find_spec(self.requires) is not None


@dataclass(frozen=True)
class Workload:
    """One job, ours and the peers'. `agree(ours, theirs)` returns what differs between the outputs, or None.

    `target`: the least ratio of times that we promise. `memory`: the least ratio of peak bytes (of tensors, above what
    lived before the call); where it is given, one more call of each is watched.
    """

    name: str
    ours: Contender
    peers: tuple[Contender, ...]
    agree: Callable[[Any, Any], str | None]
    target: float | None = None
    note: str = ""
    rounds: int = 20
    memory: float | None = None


@dataclass(frozen=True)
class Growth:
    """How a cost grows with size: the fitted exponent of time over the upper half of the sizes."""

    name: str
    sizes: tuple[int, ...]
    build: Callable[[int], Callable[[], Any]]
    limit: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    workload: str
    ours: str
    peer: str
    status: Literal["measured", "not installed", "outputs differ", "failed"]
    ours_ms: float | None = None
    peer_ms: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    rounds: int = 0
    target: float | None = None
    note: str = ""
    ours_mb: float | None = None
    peer_mb: float | None = None
    memory_ratio: float | None = None
    memory_target: float | None = None


@dataclass(frozen=True)
class GrowthRow:
    """One fitted exponent with its standard error."""

    name: str
    sizes: tuple[int, ...]
    ms: tuple[float, ...]
    exponent: float
    error: float
    limit: float | None


def measure(workloads: Sequence[Workload], *, rounds: int | None = None) -> Iterator[Row]:
    """Time every workload against every peer that is installed."""
    for workload in workloads:
        for peer in workload.peers:
            yield _compare(workload, peer, rounds or workload.rounds)


def _compare(workload: Workload, peer: Contender, rounds: int) -> Row:
    row = Row(
        workload.name,
        workload.ours.name,
        peer.name,
        "measured",
        target=workload.target,
        note=workload.note,
        rounds=rounds,
        memory_target=workload.memory,
    )
    if not peer.available:
        return replace(row, status="not installed", note=f"needs {peer.requires}", rounds=0)
    try:
        ours, theirs = workload.ours.build(), peer.build()
        differs = workload.agree(ours(), theirs())
    except Exception as error:
        return replace(row, status="failed", note=f"{type(error).__name__}: {error}", rounds=0)
    if differs:
        return replace(row, status="outputs differ", note=differs, rounds=0)
    times = np.array([_pair(ours, theirs, first=number % 2) for number in range(rounds)])
    low, middle, high = np.quantile(times[:, 1] / times[:, 0], [0.25, 0.5, 0.75]).tolist()
    ours_ms, peer_ms = np.median(times, axis=0).tolist()
    row = replace(row, ours_ms=ours_ms, peer_ms=peer_ms, ratio=middle, ratio_low=low, ratio_high=high)
    if workload.memory is None:
        return row
    ours_mb, peer_mb = (peak_bytes(call) / 1e6 for call in (ours, theirs))
    return replace(row, ours_mb=ours_mb, peer_mb=peer_mb, memory_ratio=peer_mb / ours_mb)


def _pair(ours: Callable[[], Any], theirs: Callable[[], Any], *, first: int) -> tuple[float, float]:
    """Milliseconds of one call each; who goes first alternates between rounds."""
    if first == 0:
        return timed(ours), timed(theirs)
    peer = timed(theirs)
    return timed(ours), peer


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def measure_growth(growth: Growth, *, rounds: int = 7) -> GrowthRow:
    """The exponent b of `time = a * size^b`, fitted on the upper half of the sizes, where overheads no longer count."""
    calls = [growth.build(size) for size in growth.sizes]
    for call in calls:
        call()
    times = np.median([[timed(call) for call in calls] for _ in range(rounds)], axis=0)
    half = len(calls) // 2
    fit: Any = stats.linregress(np.log(growth.sizes[half:]), np.log(times[half:]))
    return GrowthRow(
        growth.name, growth.sizes, tuple(times.tolist()), float(fit.slope), float(fit.stderr), growth.limit
    )


def save(path: Path, slug: str, rows: Sequence[Row], growth: Sequence[GrowthRow], *, threads: int) -> None:
    """Keep a benchmark's result with the machine and versions it was obtained on."""
    content = {
        "slug": slug,
        "command": f"paperworks bench {slug}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "threads": threads,
        "environment": environment(),
        "rows": [asdict(row) for row in rows],
        "growth": [asdict(row) for row in growth],
    }
    write_atomic(path, json.dumps(content, indent=1) + "\n")
