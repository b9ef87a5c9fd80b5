"""The inner loops of the variational fit in compiled passes (numba): cells with one exponential each, AdamW in place.

With E = e^z and (p, q) = (e^k1, 1) for a right answer and (1, e^-k0) for a wrong one, both sigmoids of a cell and its
likelihood come from two factors and one division:

    f = 1 + E,  s = p + E q,  i = 1 / (f s):   sigmoid(-z) = s i,   sigmoid(k - z) = p f i,   log P = log(s / f) + const

Nothing of the table's size is written. Items go in blocks of fixed size to the threads, and sums over blocks are added
in order: the result does not depend on the number of threads. `joint.py` has the same sums in plain torch, for other
devices and precisions and where numba is absent.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from paperworks._compiled import has_numba, in_threads, pool

BLOCK = 1024  # items: some hundred microseconds of work
ALONE = 20_000  # numbers that one thread updates faster than two are woken
LANES = 16  # single-precision numbers in the widest vector register
RIGHT, MISSING = 1, 2
BETAS, EPSILON = (0.9, 0.999), 1e-8
_threads: ContextVar[int | None] = ContextVar("threads of the compiled passes", default=None)


class Sums(NamedTuple):
    """Of D, D theta, the guess and the slip shares over responders, (M,); of pull times D over items, (R,)."""

    slope: Tensor
    slope_theta: Tensor
    guess: Tensor
    slip: Tensor
    by_theta: Tensor


def usable(theta: Tensor) -> bool:
    """Whether the compiled pass serves these abilities: single precision on a CPU, numba installed."""
    return theta.dtype == torch.float32 and theta.device.type == "cpu" and has_numba()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, torch's own operations use one thread, and the compiled passes as many as torch had.

    The idle threads of torch spin for milliseconds after each operation, on the cores that a pass needs.
    """
    count = torch.get_num_threads()
    token = _threads.set(count)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)
        _threads.reset(token)


def aside(work: Callable[[], None]) -> Future[None]:
    """Run something beside what follows, or at once where there is one thread."""
    if _thread_count() > 1:
        return pool(_thread_count()).submit(work)
    done: Future[None] = Future()
    done.set_result(work())
    return done


def ascend(value: Tensor, slope: Tensor, first: Tensor, second: Tensor, *, step: int, lr: float, decay: float) -> None:
    """One AdamW step uphill, in place, contiguous tensors of one shape; the twin of `vi.adamw_ascent`."""
    flat = [part.view(-1).numpy() for part in (value, slope, first, second)]
    one, two = BETAS
    rates = (1 - lr * decay, lr / (1 - one**step), (1 - two**step) ** -0.5)
    threads = _thread_count() if value.numel() > ALONE else 1
    in_threads(lambda thread, of: _kernels().ascend(*flat, *map(np.float32, rates), thread, of), threads)


def coded(right: Tensor, observed: Tensor | None) -> np.ndarray:
    """Cells as 0, 1 or 2 (missing), (M, R rounded up to whole vectors), filled up with missing ones."""
    items, responders = right.shape
    cells = np.full((items, -(-responders // LANES) * LANES), MISSING, dtype=np.uint8)
    cells[:, :responders] = right.numpy()
    if observed is not None:
        cells[:, :responders][observed.numpy() == 0] = MISSING
    return cells


def cell_sums(cells: np.ndarray, a: Tensor, shift: Tensor, k1: Tensor, k0: Tensor, pull: Tensor, theta: Tensor) -> Sums:
    """The sums of the gradient for curves with z = a theta + shift, D = sigmoid(-z) - sigmoid(k_y - z)."""
    items = len(cells)
    columns = [a, shift, torch.exp(k1), torch.exp(-k0), pull]
    sums = [torch.empty(items) for _ in range(4)]
    parts = np.zeros((-(-items // BLOCK), cells.shape[1]), dtype=np.float32)
    _in_threads(_kernels().cell_sums, cells, theta, columns, [total.numpy() for total in sums], parts)
    by_theta = torch.from_numpy(parts.sum(0, dtype=np.float64)[: len(theta)]).to(theta)
    slope, slope_theta, guess, slip = sums
    return Sums(slope, slope_theta, guess, slip, by_theta)


def cell_logliks(cells: np.ndarray, a: Tensor, shift: Tensor, k1: Tensor, k0: Tensor, theta: Tensor) -> Tensor:
    """sum_r log(s / f) of each item, (M,) float64: its log-likelihood but for the two constants of `Curve`.

    Differs from the plain form where |z| > 43: there a cell counts as if |z| were 43.
    """
    items = len(cells)
    columns = [a, shift, torch.exp(k1), torch.exp(-k0)]
    totals = torch.empty(items, dtype=torch.float64)
    parts = np.zeros((-(-items // BLOCK), 1), dtype=np.float32)
    _in_threads(_kernels().cell_logliks, cells, theta, columns, [totals.numpy()], parts)
    return totals


def _in_threads(
    kernel: Callable[..., None], cells: np.ndarray, theta: Tensor, columns: list[Tensor], results: list[np.ndarray],
    parts: np.ndarray,
) -> None:  # fmt: skip
    padded = np.zeros(cells.shape[1], dtype=np.float32)
    padded[: len(theta)] = theta.numpy()
    arguments = [cells, padded, *(column.contiguous().numpy() for column in columns), *results, parts]
    in_threads(lambda thread, of: kernel(*arguments, thread, of), min(_thread_count(), len(parts)))


def _thread_count() -> int:
    return _threads.get() or torch.get_num_threads()


@functools.cache
def _kernels() -> ModuleType:
    """Compiled at their first use (seconds) and kept on disk."""
    return importlib.import_module("paperworks.evaluation.irt.kernels")
