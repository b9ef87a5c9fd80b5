"""Workloads of `paperworks bench poolingformer`: attention without projections, forward and backward.

The sliding window is timed against the core of Longformer's self-attention in `transformers` (its two sliding products
and the softmax between them), both levels together against PyTorch's attention to all pairs, which computes another
function at the same shape, and pooled keys against the plain way of gathering each token's cells.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from paperworks.lab.bench import Contender, Growth, Workload
from paperworks.nn import local_attention
from paperworks.sequence.poolingformer.attention import PoolingformerAttention
from paperworks.sequence.poolingformer.pooling import pooled_cells, pooling_attention

Call = Callable[[], Any]
Shape = tuple[int, int, int, int]
POOLED: dict[str, Any] = {"window": 512, "pool_size": 5, "stride": 4}


def workloads(*, quick: bool = False) -> list[Workload]:
    """The rows, with the ratios that are promised."""
    if quick:
        return [
            _window((1, 2, 512, 16), 32, target=None, rounds=2),
            _levels((1, 2, 512, 16), target=None, rounds=2),
            _cells((1, 2, 512, 16), target=None, rounds=2),
        ]
    return [
        _window((1, 12, 4096, 64), 128, target=2.5, rounds=7),
        _window((1, 12, 4096, 64), 32, target=1.5, rounds=7),
        _levels((1, 12, 4096, 64), target=2.5, rounds=3),
        _levels((1, 12, 2048, 64), target=1.0, rounds=5),
        _cells((1, 2, 1024, 64), target=None, rounds=5),
    ]


def growth() -> list[Growth]:
    """Both levels are linear in the length."""
    sizes = (1024, 2048, 4096, 8192, 16384)
    return [
        Growth("PoolingformerAttention (1, N, 128), 2 heads, both ways", sizes, _growing, limit=1.1),
        Growth("window of 32 (1, 2, N, 64), both ways", sizes, _growing_window, limit=1.1),
    ]


def _growing(length: int) -> Call:
    torch.manual_seed(0)
    layer, x = PoolingformerAttention(128, 2), torch.randn(1, length, 128, requires_grad=True)
    return lambda: torch.autograd.grad(layer(x).sum(), x)


def _growing_window(length: int) -> Call:
    return _both(partial(local_attention, window=32), _inputs((1, 2, length, 64)))


def _inputs(shape: Shape) -> list[Tensor]:
    """Queries, keys and values in the memory order of projections, as every model has them."""
    torch.manual_seed(0)
    batch, heads, length, width = shape
    return [torch.randn(batch, length, heads, width).transpose(1, 2).requires_grad_() for _ in range(3)]


def _both(attend: Callable[..., Tensor], inputs: list[Tensor]) -> Call:
    slope = torch.ones(()).expand(inputs[0].shape)

    def step() -> tuple[Tensor, ...]:
        y = attend(*inputs)
        return y.detach(), *torch.autograd.grad(y, inputs, slope)

    return step


def _window(shape: Shape, window: int, *, target: float | None, rounds: int) -> Workload:
    inputs = _inputs(shape)
    return Workload(
        f"sliding window {shape}, w = {window}, forward + backward",
        Contender("local_attention", lambda: _both(partial(local_attention, window=window), inputs)),
        (Contender("transformers Longformer", lambda: _longformer(inputs, window), requires="transformers"),),
        _agree,
        target=target,
        rounds=rounds,
    )


def _longformer(inputs: list[Tensor], window: int) -> Call:
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    _, heads, _, width = inputs[0].shape
    config = LongformerConfig(
        hidden_size=heads * width, num_attention_heads=heads, num_hidden_layers=1, attention_window=[2 * window]
    )
    core: Any = LongformerSelfAttention(config, 0)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q * width**-0.5, k, v))
        weights = core._sliding_chunks_query_key_matmul(q, k, window).softmax(-1)
        return core._sliding_chunks_matmul_attn_probs_value(weights, v, window).transpose(1, 2)

    return _both(attend, inputs)


def _levels(shape: Shape, *, target: float | None, rounds: int) -> Workload:
    """Both levels on the same inputs against one attention to all pairs: another function, compared in shape only."""
    inputs = _inputs(shape)

    def levels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = local_attention(q, k, v, window=128)
        return y + pooling_attention(y, k, v, **POOLED)

    return Workload(
        f"both levels {shape}, w1 = 128, w2 = 512, stride 4, forward + backward",
        Contender("window, then pooled", lambda: _both(levels, inputs)),
        (Contender("attention to all pairs", lambda: _both(F.scaled_dot_product_attention, inputs)),),
        lambda mine, theirs: None if [x.shape for x in mine] == [x.shape for x in theirs] else "shapes differ",
        target=target,
        note="another function at the same shape",
        rounds=rounds,
    )


def _cells(shape: Shape, *, target: float | None, rounds: int) -> Workload:
    inputs = _inputs(shape)
    return Workload(
        f"pooling attention {shape}, w2 = 512, mean, forward + backward",
        Contender("pooling_attention", lambda: _both(partial(pooling_attention, **POOLED), inputs)),
        (Contender("cells gathered per token", lambda: _both(_gathered, inputs)),),
        _agree,
        target=target,
        rounds=rounds,
    )


def _gathered(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The plain way: for each token a copy of the cells that it sees."""
    grid: dict[str, Any] = {"pool_size": POOLED["pool_size"], "stride": POOLED["stride"]}
    keys, values = pooled_cells(k, **grid), pooled_cells(v, **grid)
    reach = POOLED["window"] // POOLED["stride"] + 1
    token = torch.arange(q.shape[2])[:, None]
    cell = token // POOLED["stride"] + torch.arange(-reach, reach + 1)
    seen = (cell >= 0) & (cell < len(keys.centres)) & ((cell * POOLED["stride"] - token).abs() <= POOLED["window"])
    cell = cell.clamp(0, len(keys.centres) - 1)
    scores = torch.einsum("bhnd,bhnsd->bhns", q * q.shape[-1] ** -0.5, keys.cells[:, :, cell])
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("bhns,bhnsd->bhnd", weights, values.cells[:, :, cell])


def _agree(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> str | None:
    names = ("output", "gradient of q", "gradient of k", "gradient of v")
    for name, one, two in zip(names, mine, theirs, strict=True):
        off = float((one - two).abs().max() / two.abs().max())
        if off > 1e-4:
            return f"{name}: largest difference {off:.1e} of the largest number"
    return None
