"""Counting the multiply-adds that a call executes: by the shapes of the operators that run, not by a formula.

Sparse paths, branches not taken and loops count as what they are, since only operators that run are seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Count = Callable[..., int]


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of a call: all of them, and by operator (`convolution`, `addmm`, ...)."""

    total: int
    by_operator: dict[str, int]


def count_macs(call: Callable[..., Any], *args: Any, counts: Mapping[Any, Count] | None = None, **options: Any) -> Macs:
    """The multiply-adds that `call(*args, **options)` executes, its backward pass included where it runs one.

    Counted are matrix products, convolutions, attention, FFTs (5/2 N log2 N for N complex numbers, half of that for
    real ones) and embedding bags (one per gathered number). Elementwise work, gathers and reductions are not.

    Args:
        call: a module or function; it is called once.
        counts: further operators: `torch.ops...` overload packet -> function(*shapes, out_shape=...) -> multiply-adds.

    Returns:
        Macs.
    """
    mapping = {operator: _doubled(count) for operator, count in {**_counts(), **(counts or {})}.items()}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        call(*args, **options)
    found = counter.get_flop_counts().get("Global", {})
    by_operator = {str(operator).rsplit(".", 1)[-1]: flops // 2 for operator, flops in found.items()}
    return Macs(sum(by_operator.values()), by_operator)


def _doubled(count: Count) -> Count:
    """As FLOPs, which is what the counter adds up."""
    return lambda *shapes, out_shape=None, **options: 2 * count(*shapes, out_shape=out_shape, **options)


def _counts() -> dict[Any, Count]:
    aten = torch.ops.aten
    return {
        aten._fft_c2c: lambda x, dims, *_, out_shape: _fft(x, dims),
        aten._fft_r2c: lambda x, dims, *_, out_shape: _fft(x, dims) // 2,
        aten._fft_c2r: lambda x, dims, *_, out_shape: _fft(out_shape, dims) // 2,
        aten._embedding_bag: _bag,
        aten._embedding_bag_forward_only: _bag,
    }


def _fft(shape: Any, dims: Any) -> int:
    length = math.prod(shape[dim] for dim in dims)
    return round(2.5 * math.prod(shape) * math.log2(max(length, 1)))


def _bag(weight: Any, indices: Any, *_: Any, out_shape: Any, **options: Any) -> int:
    return weight[-1] * math.prod(indices)
