"""Log-densities of mixtures of Gaussians, fused: the arithmetic behind the effect models.

    log p(x) = logsumexp_k [ log softmax(logits)_k + sum_d log N(x_d; mean_kd, scale_kd) ]

The gradient is written out: with responsibilities `g_k` and `z = (x - mean) / scale`,

    d/d mean = g_k z / scale,   d/d log_scale = g_k (z^2 - 1),   d/d logits = g_k - softmax(logits)_k,

so nothing but `z` and the inverse scales is kept for the backward pass. Residuals of thousands of scales are finite.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class _DiagonalMixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        inverse = torch.exp(-log_scale)
        z = torch.sub(x.unsqueeze(-2), mean).mul_(inverse)
        square = torch.linalg.vecdot(z, z)
        prior = torch.log_softmax(logits, -1)
        joint = prior - 0.5 * square - log_scale.sum(-1)
        total = torch.logsumexp(joint, -1)
        ctx.save_for_backward(z, inverse, prior, joint, total)
        return total - HALF_LOG_2PI * x.shape[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        z, inverse, prior, joint, total = ctx.saved_tensors
        grad = grads[0].unsqueeze(-1)
        share = torch.exp(joint - total.unsqueeze(-1)).mul_(grad)
        weight = share.unsqueeze(-1)
        weighted = z * weight
        d_log_scale = torch.addcmul(-weight, weighted, z) if ctx.needs_input_grad[3] else None
        d_mean = weighted.mul_(inverse) if ctx.needs_input_grad[2] or ctx.needs_input_grad[0] else None
        d_x = -d_mean.sum(-2) if d_mean is not None and ctx.needs_input_grad[0] else None
        d_logits = share - grad * prior.exp() if ctx.needs_input_grad[1] else None
        return d_x, d_logits, d_mean, d_log_scale


def mixture_log_prob(x: Tensor, logits: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-density of a mixture of diagonal Gaussians.

    Args:
        x: (..., d).
        logits: (..., K), unnormalised log-weights.
        mean, log_scale: (..., K, d).

    Returns:
        (...). Differentiable once in all four arguments.

    Raises:
        ValueError: shapes that do not fit together; nothing is broadcast.
    """
    batch, dim = x.shape[:-1], x.shape[-1]
    if logits.shape[:-1] != batch or mean.shape != (*logits.shape, dim) or log_scale.shape != mean.shape:
        raise ValueError(
            f"mixture: x {tuple(x.shape)} needs logits (..., K) and mean, log_scale (..., K, {dim}); got "
            f"{tuple(logits.shape)}, {tuple(mean.shape)}, {tuple(log_scale.shape)}"
        )
    return _DiagonalMixture.apply(x, logits, mean, log_scale)  # pyright: ignore[reportReturnType]


def mixture_log_prob_per_dim(x: Tensor, logits: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-density of each dimension's marginal, (..., d): `log sum_k w_k N(x_d; mean_kd, scale_kd)`.

    They sum to the joint log-density only where K = 1: use them to attribute, not to add up.
    """
    z = (x.unsqueeze(-2) - mean) * torch.exp(-log_scale)
    joint = torch.log_softmax(logits, -1).unsqueeze(-1) - 0.5 * z * z - log_scale - HALF_LOG_2PI
    return torch.logsumexp(joint, -2)


def full_log_prob(x: Tensor, logits: Tensor, mean: Tensor, log_scale: Tensor, lower: Tensor) -> Tensor:
    """Log-density of a mixture of Gaussians with full covariances.

    The precision's factor is `A = diag(1 / scale) (I + lower)`, `lower` strictly lower triangular: `z = A (x - mean)`
    is standard normal and `log |A| = - sum log_scale`, so no system is solved. `scale_d` is the standard deviation of
    dimension d given the dimensions before it.

    Args:
        x, logits, mean, log_scale: as in `mixture_log_prob`.
        lower: (..., K, d (d - 1) / 2), row by row.

    Returns:
        (...).
    """
    residual = x.unsqueeze(-2) - mean
    z = (residual + (unpack_lower(lower, x.shape[-1]) @ residual.unsqueeze(-1)).squeeze(-1)) * torch.exp(-log_scale)
    joint = torch.log_softmax(logits, -1) - 0.5 * (z * z).sum(-1) - log_scale.sum(-1)
    return torch.logsumexp(joint, -1) - HALF_LOG_2PI * x.shape[-1]


def full_marginal_scale(log_scale: Tensor, lower: Tensor) -> Tensor:
    """Log standard deviation of each dimension alone, (..., K, d), of the Gaussians of `full_log_prob`."""
    dim = log_scale.shape[-1]
    unit = torch.eye(dim, dtype=lower.dtype, device=lower.device) + unpack_lower(lower, dim)
    root = torch.linalg.solve_triangular(unit, torch.diag_embed(log_scale.exp()), upper=False, unitriangular=True)
    return 0.5 * root.square().sum(-1).log()


def unpack_lower(packed: Tensor, dim: int) -> Tensor:
    """(..., d (d - 1) / 2) -> (..., d, d), strictly lower triangular."""
    rows, columns = torch.tril_indices(dim, dim, -1, device=packed.device)
    matrix = packed.new_zeros(*packed.shape[:-1], dim, dim)
    matrix[..., rows, columns] = packed
    return matrix
