"""The same attention in plain PyTorch: for machines without numba or triton, and for second derivatives."""

from __future__ import annotations

import torch
from torch import Tensor

from paperworks.graphs.gatv2.graph import CSRGraph

# The constants of splitmix64 as signed numbers: PyTorch multiplies int64 modulo 2^64.
_GOLDEN, _MIX_1, _MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
DROPOUT_STEPS = 1 << 24


def plain_attention(
    left: Tensor,
    right: Tensor,
    att: Tensor,
    value: Tensor,
    attr: Tensor,
    lin: Tensor,
    bias: Tensor,
    mask: Tensor,
    seed: Tensor,
    graph: CSRGraph,
    slope: float,
    dropout: float,
    dot: bool,
) -> tuple[Tensor, Tensor]:
    """(out (N_dst, H C), alpha (E, H) before dropout), of the arguments of `ops.graph_attention`."""
    source, target = graph.edge_index
    heads, width = att.shape
    base = right[target]
    if attr.shape[0]:
        base = base + attr @ lin
    pair = left[source] * base if dot else torch.nn.functional.leaky_relu(left[source] + base, slope)
    scores = (pair.view(len(pair), heads, width) * att).sum(-1)
    if bias.shape[0]:
        scores = scores + bias
    if mask.shape[0]:
        scores = scores.masked_fill(~mask[:, None], float("-inf"))
    alpha = softmax_by_target(scores, target, graph.num_dst)
    kept = alpha * dropout_factors(seed.to(alpha.device), alpha.shape, dropout, alpha.dtype) if dropout else alpha
    message = kept[..., None] * value.view(len(value), heads, value.shape[1] // heads)[source]
    out = value.new_zeros(graph.num_dst, value.shape[1])
    return out.index_add(0, target, message.flatten(1)), alpha


def softmax_by_target(scores: Tensor, target: Tensor, count: int) -> Tensor:
    """Softmax of scores (E, H) over the edges of each target; 0 where the score is -inf."""
    place = target[:, None].expand_as(scores)
    top = scores.new_full((count, scores.shape[1]), float("-inf"))
    top = top.scatter_reduce(0, place, scores.detach(), "amax")
    top = torch.where(top.isneginf(), 0.0, top)
    mass = torch.exp(scores - top[target])
    total = torch.zeros_like(top).index_add(0, target, mass)
    return mass / total.clamp(min=torch.finfo(mass.dtype).tiny)[target]


def dropout_factors(seed: Tensor, shape: tuple[int, ...], dropout: float, dtype: torch.dtype) -> Tensor:
    """0 or 1 / (1 - p) for edge e and head h, a function of the seed and e H + h: the kernels' stream of numbers."""
    threshold = round(dropout * DROPOUT_STEPS)
    counter = torch.arange(shape[0] * shape[1], device=seed.device)
    z = seed + (counter + 1) * _GOLDEN
    z = (z ^ _shifted(z, 30)) * _MIX_1
    z = (z ^ _shifted(z, 27)) * _MIX_2
    z = z ^ _shifted(z, 31)
    kept = _shifted(z, 40) >= threshold
    return (kept.to(dtype) / (1 - threshold / DROPOUT_STEPS)).view(shape)


def _shifted(z: Tensor, by: int) -> Tensor:
    """Logical shift to the right: int64's own keeps the sign."""
    return (z >> by) & ((1 << (64 - by)) - 1)
