"""Optimisers built from a model, with weight decay only where it belongs.

Fused kernels are used wherever the parameters allow it, on the CPU too: the default there loops in Python, one
parameter after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import SGD, AdamW

_NORMS = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.modules.batchnorm._NormBase,
)


def decay_groups(
    model: nn.Module, weight_decay: float, *, no_decay: Callable[[str, Parameter], bool] | None = None
) -> list[dict[str, Any]]:
    """Split the trainable parameters into one group with and one without weight decay.

    Without: biases and all other vectors and scalars (fewer than two dimensions), every parameter of a normalisation
    layer, and those for which `no_decay(name, parameter)` is true. Embeddings decay, as in BERT. A parameter that two
    modules share appears once. Empty groups are left out.

    Raises:
        ValueError: `weight_decay` is negative or not finite, or no parameter is trainable.
    """
    _check_number("weight_decay", weight_decay)
    normed = {id(p) for module in model.modules() if isinstance(module, _NORMS) for p in module.parameters()}
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = (
                parameter.ndim < 2 or id(parameter) in normed or (no_decay is not None and no_decay(name, parameter))
            )
            (kept if exempt else decayed).append(parameter)
    if not decayed and not kept:
        raise ValueError("model: no parameter is trainable")
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    no_decay: Callable[[str, Parameter], bool] | None = None,
) -> AdamW:
    """AdamW (Loshchilov & Hutter, 2019) over the model's `decay_groups`, fused where possible.

    w <- w - lr (m / (sqrt(v) + eps) + weight_decay w), m and v with their bias corrections.

    Raises:
        ValueError: a number out of range, or no parameter is trainable.
    """
    _check_number("lr", lr)
    groups = decay_groups(model, weight_decay, no_decay=no_decay)
    return AdamW(groups, lr=lr, betas=betas, eps=eps, fused=_can_fuse(groups))


def sgd(
    model: nn.Module,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    no_decay: Callable[[str, Parameter], bool] | None = None,
) -> SGD:
    """Stochastic gradient descent with momentum over the model's `decay_groups`, fused where possible.

    Raises:
        ValueError: a number out of range, or no parameter is trainable.
    """
    _check_number("lr", lr)
    groups = decay_groups(model, weight_decay, no_decay=no_decay)
    return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=_can_fuse(groups))


def _can_fuse(groups: list[dict[str, Any]]) -> bool:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(
        parameter.device.type in ("cpu", "cuda")
        and torch.is_floating_point(parameter)
        and parameter.layout is torch.strided
        for parameter in parameters
    )


def _check_number(name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name}: expected a finite number that is not negative, got {value}")
