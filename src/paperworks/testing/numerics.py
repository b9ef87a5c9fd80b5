"""Compiled, and in half precision: the same results."""

from __future__ import annotations

import copy
import os
import shutil
import unittest
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.testing.compare import difference, in_evaluation, output_of, probe, relative_error, repeatable


def assert_compiles(
    module: Callable[..., Any],
    *inputs: Tensor,
    more: Sequence[tuple[Tensor, ...]] = (),
    fullgraph: bool = True,
    tolerance: float = 1e-4,
    **options: Any,
) -> None:
    """`torch.compile(module, fullgraph=True)` gives the outputs and input gradients of the plain call.

    Args:
        inputs, options: what the module is called with.
        more: further inputs, such as other batch sizes: they must agree too, and two graphs must do for all (one of the
            first shapes, one with sizes left open).

    Raises:
        AssertionError: it cannot be compiled, differs, or is compiled anew for every shape.
        unittest.SkipTest: there is no C++ compiler, which compiling for a CPU needs. pytest reports a skipped test.
    """
    if inputs[0].is_cpu and (missing := missing_compiler()):
        raise unittest.SkipTest(missing)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(module, fullgraph=fullgraph)
    with in_evaluation(module):
        for arguments in (inputs, *more):
            repeatable(lambda given=arguments: output_of(module(*given, **options)), tolerance=tolerance)
            expected = _run(module, arguments, options)
            try:
                got = _run(compiled, arguments, options)
            except Exception as error:
                raise AssertionError(f"does not compile: {type(error).__name__}: {error}") from error
            for name, a, b in zip(("output", "gradient"), expected, got, strict=True):
                if (gap := difference(a, b)) > tolerance:
                    raise AssertionError(f"compiled {name} differs by {gap:.2g}")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    if more and graphs > 2:
        raise AssertionError(f"compiled {graphs} graphs for {1 + len(more)} inputs; at most 2 are needed")


def missing_compiler() -> str | None:
    """Why `torch.compile` cannot work for a CPU here; None: it can."""
    names = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    if any(name and shutil.which(name) for name in names):
        return None
    return "no C++ compiler found (g++ or clang++), which torch.compile needs for a CPU"


def _run(module: Callable[..., Any], inputs: tuple[Tensor, ...], options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of a scalar of it by the first input that can have one."""
    leaves = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
    out = output_of(module(*leaves, **options))
    first = next((leaf for leaf in leaves if leaf.requires_grad), None)
    if first is None or not out.requires_grad:
        return out.detach(), torch.zeros(())
    (gradient,) = torch.autograd.grad(probe(out), first)
    return out.detach(), gradient


def assert_bf16_close(module: Callable[..., Any], *inputs: Tensor, tolerance: float = 2e-2, **options: Any) -> None:
    """bfloat16 changes outputs and input gradients little: under autocast, and with module and input converted.

    The error is `|a - b| / |b|` in the Frobenius norm against float32. A converted module must return bfloat16. Plain
    functions are tried with converted inputs.

    Args:
        inputs, options: float32 inputs that the module is called with.
        tolerance: bfloat16 has 8 bits, a relative step of 0.4 %. Gradients may err by three times as much.

    Raises:
        AssertionError: not finite, too far, or another dtype.
    """
    device = inputs[0].device.type
    with in_evaluation(module):
        expected = _run(module, inputs, options)
        with torch.autocast(device, dtype=torch.bfloat16):
            lowered = _run(module, inputs, options)
        _expect_close("under autocast", lowered, expected, tolerance)
        half = copy.deepcopy(module).to(torch.bfloat16) if isinstance(module, nn.Module) else module
        converted = _run(
            half, tuple(_lowered(x) for x in inputs), {name: _lowered(value) for name, value in options.items()}
        )
    if converted[0].dtype != torch.bfloat16:
        raise AssertionError(f"in bfloat16: expected an output in bfloat16, got {converted[0].dtype}")
    _expect_close("in bfloat16", converted, expected, tolerance)


def _lowered(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(torch.bfloat16) if floating else value


def _expect_close(name: str, got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float) -> None:
    for part, a, b, allowed in zip(("output", "gradient"), got, expected, (tolerance, 3 * tolerance), strict=True):
        if (error := relative_error(a, b)) > allowed:
            raise AssertionError(f"{name}: the {part} is off by {error:.2g}, more than {allowed:g}")
