"""How time and memory grow."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

Work = Callable[[], Any]


def measure_seconds(works: Sequence[Work], *, rounds: int = 7) -> list[float]:
    """Shortest time of each piece of work, over rounds in which they take turns.

    Processor time of this process, all its threads together: on a busy machine every round of a piece of work longer
    than a time slice is interrupted, so even the shortest wall time would count what other processes did. Where CUDA is
    in use the device works on its own, and wall time up to its end is taken.
    """
    clock = time.perf_counter if _on_cuda() else time.process_time
    for work in works:
        work()
    best = [math.inf] * len(works)
    for _ in range(rounds):
        for index, work in enumerate(works):
            _wait()
            start = clock()
            work()
            _wait()
            best[index] = min(best[index], clock() - start)
    return best


def measure_bytes(works: Sequence[Work]) -> list[float]:
    """Peak of the live bytes of each piece of work: `peak_bytes` of each."""
    return [float(peak_bytes(work)) for work in works]


def cost_exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of log cost over log size, by least squares: 1 is linear, 2 quadratic.

    Raises:
        ValueError: fewer than 3 sizes, or sizes that do not grow.
    """
    if len(sizes) < 3 or len(sizes) != len(costs) or any(b <= a for a, b in itertools.pairwise(sizes)):
        raise ValueError(f"sizes: expected at least 3 growing sizes and a cost for each, got {list(sizes)}")
    if min(costs) <= 0:
        raise ValueError(f"costs: must be positive, got {min(costs)}")
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def assert_linear_cost(
    build: Callable[[int], Work],
    sizes: Sequence[int],
    *,
    limit: float = 1.15,
    measure: Callable[[Sequence[Work]], list[float]] = measure_seconds,
) -> float:
    """The cost of the work grows at most like `size ** limit`.

    Args:
        build: prepares the work of a size and returns a function without arguments that does it.
        sizes: at least 3, growing; large enough that the work outweighs the calls.
        limit: largest exponent allowed; N log N has about 1.1 from 512 to 16384.
        measure: `measure_seconds`, or `measure_bytes` for memory.

    Returns:
        The exponent.

    Raises:
        AssertionError: with the exponent and the costs.
    """
    costs = measure([build(size) for size in sizes])
    exponent = cost_exponent(sizes, costs)
    if exponent > limit:
        table = ", ".join(f"{size}: {cost:.3g}" for size, cost in zip(sizes, costs, strict=True))
        raise AssertionError(f"cost grows with exponent {exponent:.2f}, more than {limit} ({table})")
    return exponent


def peak_bytes(work: Work, *, device: str | torch.device = "cpu") -> int:
    """The most bytes of tensors alive at once during `work`, above what lived before it.

    On a CPU what PyTorch's allocator gives out, temporaries inside of operators included; memory that a library behind
    an operator takes on its own is not seen.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profile:
        kept = work()
    del kept
    live, peak = 0, 0
    for event in _memory_events(profile):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def assert_peak_memory(work: Work, limit: int, *, device: str | torch.device = "cpu") -> int:
    """At most `limit` bytes of tensors are alive at once during `work`, above what lived before it.

    Returns:
        The peak.

    Raises:
        AssertionError: with peak and limit.
    """
    peak = peak_bytes(work, device=device)
    if peak > limit:
        raise AssertionError(f"peak memory is {peak:,} bytes, more than {limit:,}")
    return peak


def _memory_events(profile: Any) -> list[Any]:
    """Allocations (positive `nbytes`) and releases (negative) in the order of time."""
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    return sorted(events, key=lambda event: event.start_ns())


def _on_cuda() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def _wait() -> None:
    if _on_cuda():
        torch.cuda.synchronize()
