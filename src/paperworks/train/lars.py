"""Layer-wise adaptive rates, for large batches."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from paperworks.train.optim import decay_groups


def lars(
    model: nn.Module, *, lr: float, weight_decay: float = 1e-6, momentum: float = 0.9, trust: float = 0.001
) -> Optimizer:
    """LARS (You et al. 2017, arXiv 1708.03888) over the model's `decay_groups`; needs timm.

    Matrices and kernels move by lr trust |w| / |g + weight_decay w| times g + weight_decay w; biases and the parameters
    of norms neither decay nor adapt. With `weight_decay` 0 nothing adapts.

    Raises:
        ImportError: timm is not installed.
        ValueError: a number out of range, or no parameter is trainable.
    """
    try:
        from timm.optim import Lars  # pyright: ignore[reportPrivateImportUsage]
    except ImportError as error:
        raise ImportError("lars needs timm: pip install 'paperworks[representation]'") from error
    # timm adapts exactly the groups that decay.
    groups: Any = decay_groups(model, weight_decay)
    options: Any = {"momentum": momentum, "trust_coeff": trust}  # its annotations ask for whole numbers
    return Lars(groups, lr=lr, **options)
