"""Workloads of `paperworks bench aft`: whole layers, forward and backward, against what is public.

Public layers are written here from their formulas, with their cost: AFT-full by two products of exp(w) with exp(k) v
and exp(k), and AFT-local by the same with a band of learned weights in a dense matrix. Inputs stay where exp does not
overflow, which those layers need. The mean itself is also timed against attention and against depthwise convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.lab.bench import Contender, Growth, Workload
from paperworks.sequence.aft.functional import aft_conv1d, aft_local
from paperworks.sequence.aft.mixers import AFTConv1d, AFTFull, AFTLocal, AFTSimple

Call = Callable[[], Any]
WINDOW = 32


def workloads(*, quick: bool = False) -> list[Workload]:
    """The rows, with the ratios that are promised."""
    if quick:
        return [_local((1, 512, 64), target=None, rounds=2), _core((1, 512, 64), target=None, rounds=2)]
    return [
        _local((1, 4096, 512), target=5.0, rounds=5),
        _local((2, 2048, 512), target=2.0, rounds=5),
        _full((1, 4096, 512), target=1.0, memory=2.0, rounds=3),
        _core((1, 4096, 512), target=10.0, rounds=5),
        _filter((1, 4096, 512), target=3.0, rounds=5),
    ]


def growth() -> list[Growth]:
    """Local, conv and simple are linear in the length."""
    sizes = (1024, 2048, 4096, 8192, 16384)
    layers = {
        "local": lambda length: AFTLocal(128, length=length, window=WINDOW),
        "conv": lambda length: AFTConv1d(128, heads=32, window=2 * WINDOW - 1),
        "simple, causal": lambda length: AFTSimple(128, causal=True),
    }
    return [
        Growth(f"AFT-{name} (1, N, 128), both ways", sizes, partial(_growing, make), limit=1.1)
        for name, make in layers.items()
    ]


def _growing(make: Callable[[int], nn.Module], length: int) -> Call:
    torch.manual_seed(0)
    return _both(make(length), torch.randn(1, length, 128))


def _both(layer: nn.Module, x: Tensor) -> Call:
    leaf = x.clone().requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        y = layer(leaf)
        (slope,) = torch.autograd.grad(y.sum(), leaf)
        return y.detach(), slope

    return step


class DenseAFT(nn.Module):
    """The public way: exp of everything, all pairs, weights (T, T) or within a band."""

    def __init__(self, twin: Any, *, window: int | None) -> None:
        super().__init__()
        self.qkv, self.output = twin.qkv, twin.output
        w = (twin.row @ twin.column.T).detach()
        if window is not None:
            offsets = torch.arange(len(w)) - torch.arange(len(w))[:, None]
            w = w.masked_fill(offsets.abs() >= window, 0)
        self.weights = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        w, keys = torch.exp(self.weights), torch.exp(k)
        return self.output(torch.sigmoid(q) * (w @ (keys * v)) / (w @ keys))


def _layers(shape: tuple[int, int, int], make: Callable[[], Any], window: int | None) -> tuple[Call, Call]:
    torch.manual_seed(0)
    twin, x = make(), torch.randn(shape)
    return _both(twin, x), _both(DenseAFT(twin, window=window), x)


def _local(shape: tuple[int, int, int], *, target: float | None, rounds: int) -> Workload:
    _, length, dim = shape
    ours, dense = _layers(shape, lambda: AFTLocal(dim, length=length, window=WINDOW), WINDOW)
    return Workload(
        f"AFT-local layer {shape}, s = {WINDOW}, forward + backward",
        Contender("AFTLocal", lambda: ours),
        (Contender("a dense matrix of weights", lambda: dense),),
        _agree,
        target=target,
        rounds=rounds,
    )


def _full(shape: tuple[int, int, int], *, target: float | None, memory: float | None, rounds: int) -> Workload:
    _, length, dim = shape
    ours, dense = _layers(shape, lambda: AFTFull(dim, length=length), None)
    return Workload(
        f"AFT-full layer {shape}, forward + backward",
        Contender("AFTFull", lambda: ours),
        (Contender("exp of everything", lambda: dense),),
        _agree,
        target=target,
        memory=memory,
        note="the same products of all pairs; ours cannot overflow",
        rounds=rounds,
    )


def _core(shape: tuple[int, int, int], *, target: float | None, rounds: int) -> Workload:
    """The mean alone against attention alone; they compute different things, so outputs are compared in shape only."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, *shape)
    band = torch.randn(shape[1], 2 * WINDOW - 1) * 0.01
    query, key, values = (x.unflatten(2, (-1, 64)).transpose(1, 2) for x in (q, k, v))
    return Workload(
        f"mean of AFT-local {shape}, s = {WINDOW}, forward",
        Contender("aft_local", lambda: lambda: aft_local(q, k, v, band=band, window=WINDOW)),
        (Contender("attention, 64 a head", lambda: lambda: F.scaled_dot_product_attention(query, key, values)),),
        lambda mine, theirs: None if mine.numel() == theirs.numel() else "shapes differ",
        target=target,
        note="another function at the same shape",
        rounds=rounds,
    )


def _filter(shape: tuple[int, int, int], *, target: float | None, rounds: int) -> Workload:
    """All of AFT-conv's mean against the two depthwise convolutions in the paper's formula."""
    torch.manual_seed(0)
    batch, length, dim = shape
    heads, taps = dim // 4, 2 * WINDOW - 1
    q, k, v = torch.randn(batch, length, dim), torch.randn(batch, length, heads), torch.randn(batch, length, dim)
    weight = torch.randn(heads, taps) * 0.1
    kernel = torch.expm1(weight)[:, None]

    def formula() -> Tensor:
        keys = torch.exp(k).transpose(1, 2)
        above = keys.repeat_interleave(4, 1) * v.transpose(1, 2)
        top = F.conv1d(above, kernel.repeat_interleave(4, 0), padding=taps // 2, groups=dim)
        below = F.conv1d(keys, kernel, padding=taps // 2, groups=heads)
        mean = (top + above.sum(2, keepdim=True)) / (below + keys.sum(2, keepdim=True)).repeat_interleave(4, 1)
        return torch.sigmoid(q) * mean.transpose(1, 2)

    return Workload(
        f"mean of AFT-conv {shape}, {taps} taps, forward",
        Contender("aft_conv1d", lambda: lambda: aft_conv1d(q, k, v, weight=weight)),
        (Contender("F.conv1d, depthwise", lambda: formula),),
        lambda mine, theirs: _agree((mine,), (theirs,)),
        target=target,
        rounds=rounds,
    )


def _agree(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> str | None:
    for name, one, two in zip(("output", "gradient"), mine, theirs, strict=False):
        off = float((one - two).abs().max() / two.abs().max())
        if off > 1e-3:
            return f"{name}: largest difference {off:.1e} of the largest number"
    return None
