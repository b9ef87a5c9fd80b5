"""Compiled loops (numba) for what tensors cannot express; each has a plain twin that tests compare it with."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# Sums may be reordered, which is what makes them fast; infinities and NaN keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp"}


@functools.cache
def has_numba() -> bool:
    """Whether numba is installed; the extras of the areas that need it bring it."""
    return importlib.util.find_spec("numba") is not None


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` that releases the interpreter lock, divides as NumPy does, and is kept on disk where that can be."""

    def compiled(function: Callable[..., Any]) -> Any:
        from numba import njit

        options.setdefault("nogil", True)
        options.setdefault("error_model", "numpy")
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no folder for a cache can be written: compiled anew in each process
            return njit(**options)(function)

    return compiled


def in_threads(work: Callable[[int, int], None], threads: int) -> None:
    """`work(thread, threads)` for each of `threads`; for loops that release the interpreter lock."""
    if threads == 1:
        work(0, 1)
    else:
        list(pool(threads).map(lambda thread: work(thread, threads), range(threads)))


@functools.cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work, one pool for each number."""
    return ThreadPoolExecutor(threads, thread_name_prefix="paperworks")
