"""Initialisation of dense layers and embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Standard deviation of a standard normal cut at two standard deviations.
_TRUNCATED_STD = 0.87962566103423978


def normal_init(module: nn.Module, *, std: float = 0.02, bias_std: float = 0.0) -> None:
    """Draw the kernels of all dense layers and embeddings in `module` from normal(0, std), in place.

    Biases become zero, or normal(0, bias_std). BERT's and FNet's kernels are drawn like this; for other choices pass
    `functools.partial(normal_init, bias_std=0.02)` or a function of your own where an `init` is asked for.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.normal_(part.bias, std=bias_std)


@torch.no_grad()
def lecun_normal_(weight: Tensor) -> Tensor:
    """Fill a dense kernel (out, in) with variance 1 / in, from a normal cut at two standard deviations, in place."""
    std = math.sqrt(1 / weight.shape[1]) / _TRUNCATED_STD
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
