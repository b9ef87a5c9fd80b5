"""From the states of a sequence to one vector: `forward(x (B, N, D), *, mask=None) -> (pooled, weights)`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paperworks.nn.contract import check_mask, zero_masked
from paperworks.nn.initial import normal_init


def masked_mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over the kept positions, (B, N, D) -> (B, D); zeros for a row that keeps none."""
    count = x.shape[1] if mask is None else mask.sum(-1, keepdim=True).clamp(min=1)
    return zero_masked(x, mask).sum(1) / count


class AttentivePooling(nn.Module):
    """`a_j = softmax_j(q . tanh(W x_j + b))` over the kept positions, `pooled = sum_j a_j x_j`.

    Args:
        dim: width of the states.
        hidden: width of the scoring layer; None: `dim`.

    Shapes: x (B, N, D), mask (B, N) bool -> pooled (B, D), weights (B, N), which sum to 1 and are 0 where masked; a row
    that keeps nothing gives zeros for both.

    Raises:
        ValueError: a wrong input or mask.

    Reference: Yang et al., Hierarchical Attention Networks (NAACL 2016), equations 5-7.
    """

    def __init__(self, dim: int, hidden: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.inner = nn.Linear(dim, hidden or dim)
        self.query = nn.Linear(hidden or dim, 1, bias=False)
        normal_init(self)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        _check(x, mask)
        x = zero_masked(x, mask)
        scores = self.query(torch.tanh(self.inner(x)))[..., 0]
        if mask is None:
            weights = scores.softmax(-1)
        else:
            # A finite floor, not -inf: a row without tokens must not become 0/0. Its weights are set to zero after.
            floor = torch.finfo(scores.dtype).min
            weights = scores.masked_fill(~mask, floor).softmax(-1).masked_fill(~mask, 0)
        return (weights[:, None].to(x.dtype) @ x)[:, 0], weights


class MeanPooling(nn.Module):
    """The mean of the kept states; every kept position has the same weight."""

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        _check(x, mask)
        kept = torch.ones_like(x[..., 0]) if mask is None else mask.to(x.dtype)
        return masked_mean(x, mask), kept / kept.sum(-1, keepdim=True).clamp(min=1)


class FirstPooling(nn.Module):
    """BERT's pooler, `tanh(W x_0 + b)`: the first position stands for all."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        normal_init(self)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        _check(x, mask)
        weights = torch.zeros_like(x[..., 0])
        weights[:, 0] = 1
        return torch.tanh(self.dense(x[:, 0])), weights


def _check(x: Tensor, mask: Tensor | None) -> None:
    if x.ndim != 3:
        raise ValueError(f"x: expected (batch, length, dim), got shape {tuple(x.shape)}")
    check_mask(mask, x.shape[:2])
