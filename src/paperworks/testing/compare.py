"""Running a module under test, and comparing what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.nn.modes import evaluating


@contextmanager
def in_evaluation(module: Callable[..., Any]) -> Iterator[None]:
    """Evaluation mode for modules (and the mode before it afterwards); nothing for plain functions."""
    if not isinstance(module, nn.Module):
        yield
        return
    with evaluating(module):
        yield


def output_of(result: Any) -> Tensor:
    """The tensor in what a module returned: itself, or the first of a tuple (`Encoded.states`, pooled)."""
    tensor = result[0] if isinstance(result, tuple) else result
    if not isinstance(tensor, Tensor):
        raise AssertionError(f"expected a tensor or a tuple that starts with one, got {type(result).__name__}")
    return tensor


def difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference, in units of the largest entry of `a` or 1; infinite where NaN or shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    if not bool(a.isfinite().all() & b.isfinite().all()):
        return float("inf")
    scale = max(1.0, float(a.detach().abs().max()))
    return float((a - b).detach().abs().max()) / scale


def relative_error(a: Tensor, reference: Tensor) -> float:
    """`|a - reference| / |reference|` in the Frobenius norm and float64; infinite where NaN or shapes differ."""
    if a.shape != reference.shape or not bool(a.isfinite().all()):
        return float("inf")
    error = torch.linalg.vector_norm(a.detach().double() - reference.detach().double())
    return float(error / torch.linalg.vector_norm(reference.detach().double()).clamp(min=1e-30))


def probe(out: Tensor) -> Tensor:
    """A scalar of `out` to differentiate: its product with fixed random numbers.

    A sum or a sum of squares would not do: behind a layer norm both are constant, and every gradient zero.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(out.shape, generator=generator).to(out.device)
    return (out.float() * direction).sum()


def repeatable(run: Callable[[], Tensor], *, tolerance: float) -> Tensor:
    """The output of `run`, which must be the same twice: nothing can be said about a random module."""
    first, second = run(), run()
    if not bool(first.isfinite().all()):
        raise AssertionError("the output holds NaN or infinity for ordinary input")
    if difference(first, second) > tolerance:
        raise AssertionError("two calls on one input differ; random modules must be put in evaluation mode or seeded")
    return first
