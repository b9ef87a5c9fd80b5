"""Kernels on vectors and on categories, as functions of two batches.

    imq(x, y) = c / sqrt(c^2 + |x - y|^2)      rbf(x, y) = exp(-|x - y|^2 / (2 c^2))      linear(x, y) = x . y

Reference: Li et al. 2021, arXiv 2106.08320, section 3; the inverse multiquadric is the paper's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Kernel: TypeAlias = Callable[[Tensor, Tensor], Tensor]
KernelName: TypeAlias = Literal["imq", "rbf", "linear", "identity"]


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 by one matrix product: (n, d), (m, d) -> (n, m), never negative.

    Differs from `torch.cdist` in having a finite gradient where two rows are equal.
    """
    products = torch.addmm((y * y).sum(1), x, y.T, alpha=-2)
    return products.add((x * x).sum(1)[:, None]).clamp(min=0)


def imq_kernel(x: Tensor, y: Tensor, *, c: float | Tensor = 1.0) -> Tensor:
    """The inverse multiquadric c / sqrt(c^2 + |x - y|^2): (n, d), (m, d) -> (n, m), in (0, 1].

    Raises:
        ValueError: c not positive.
    """
    check_width(c)
    return c * (squared_distances(x, y) + c * c).rsqrt()


def rbf_kernel(x: Tensor, y: Tensor, *, c: float | Tensor = 1.0) -> Tensor:
    """The Gaussian exp(-|x - y|^2 / (2 c^2)): (n, d), (m, d) -> (n, m).

    Raises:
        ValueError: c not positive.
    """
    check_width(c)
    return torch.exp(squared_distances(x, y) / (-2 * c * c))


def linear_kernel(x: Tensor, y: Tensor) -> Tensor:
    """x . y: (n, d), (m, d) -> (n, m). HSIC with it sees linear dependence only."""
    return x @ y.T


def identity_kernel(x: Tensor, y: Tensor) -> Tensor:
    """1 where two rows are equal in every column, else 0: for categories given as numbers."""
    return (x[:, None] == y[None]).all(-1).to(torch.get_default_dtype() if not x.is_floating_point() else x.dtype)


def find_kernel(kernel: KernelName | Kernel, *, argument: str) -> Kernel:
    """The kernel of this name, or the callable itself.

    Raises:
        ValueError: no such kernel.
    """
    known: dict[str, Kernel] = {
        "imq": imq_kernel,
        "rbf": rbf_kernel,
        "linear": linear_kernel,
        "identity": identity_kernel,
    }
    if callable(kernel):
        return kernel
    if kernel not in known:
        raise ValueError(f"{argument}: expected one of {', '.join(known)} or a callable, got {kernel!r}")
    return known[kernel]


def check_width(c: float | Tensor) -> None:
    """Refuse a width that is not positive; a tensor is taken as it is, since looking at it would wait for the device.

    Raises:
        ValueError: c not positive.
    """
    if not isinstance(c, Tensor) and not c > 0:
        raise ValueError(f"c: must be positive, got {c:g}")
