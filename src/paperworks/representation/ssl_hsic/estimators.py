"""The Hilbert-Schmidt independence criterion and the maximum mean discrepancy, with any kernel.

    HSIC(X, Y) = || E phi(x) psi(y)^T - E phi(x) E psi(y)^T ||^2        biased estimate: tr(K H L H) / n^2
    MMD^2(X, Y) = || E phi(x) - E phi(y) ||^2

with Gram matrices K, L and H = I - 11^T / n. With characteristic kernels (imq, rbf) HSIC is 0 only under independence.

Reference: Gretton et al. 2005, 2012; Song et al. 2012 (the unbiased estimate); Li et al. 2021, arXiv 2106.08320.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from paperworks.representation.ssl_hsic.features import FourierFeatures
from paperworks.representation.ssl_hsic.kernels import Kernel, KernelName, find_kernel

Estimator = Literal["biased", "unbiased", "features"]


class TestResult(NamedTuple):
    """HSIC (biased estimate) and the share of permutations that reach it, itself counted once."""

    statistic: float
    p_value: float


def hsic(
    x: Tensor,
    y: Tensor,
    *,
    kernel_x: KernelName | Kernel = "imq",
    kernel_y: KernelName | Kernel = "imq",
    estimator: Estimator = "biased",
    features: int = 512,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Dependence between paired rows x (n, d) and y (n, e), a scalar.

    Args:
        kernel_x, kernel_y: "imq", "rbf" (both of width 1: scale the columns first), "linear", "identity" (categories),
            or a function of two batches that returns the Gram matrix.
        estimator: "biased" (never negative), "unbiased" (at least 4 rows), "features" (random Fourier features of two
            imq or rbf kernels: linear in n, the same as biased in expectation).

    Raises:
        ValueError: not two tables with the same number of rows, too few rows, an unknown name.
    """
    x, y = _paired(x, y, least=4 if estimator == "unbiased" else 2)
    if estimator == "features":
        return _by_features(x, y, kernel_x, kernel_y, features, generator)
    k = find_kernel(kernel_x, argument="kernel_x")(x, x)
    other = find_kernel(kernel_y, argument="kernel_y")(y, y)
    if estimator == "biased":
        return (centred(k) * other).sum() / len(x) ** 2
    if estimator == "unbiased":
        return _unbiased(k, other)
    raise ValueError(f"estimator: expected biased, unbiased or features, got {estimator!r}")


def mmd2(
    x: Tensor, y: Tensor, *, kernel: KernelName | Kernel = "imq", estimator: Literal["biased", "unbiased"] = "biased"
) -> Tensor:
    """Squared maximum mean discrepancy between the samples x (n, d) and y (m, d), a scalar.

    Raises:
        ValueError: not two tables of equal width; fewer than 2 rows for the unbiased estimate.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"x, y: expected tables of equal width, got {tuple(x.shape)} and {tuple(y.shape)}")
    of = find_kernel(kernel, argument="kernel")
    cross = 2 * of(x, y).mean()
    if estimator == "biased":
        return of(x, x).mean() + of(y, y).mean() - cross
    if min(len(x), len(y)) < 2:
        raise ValueError(f"x, y: the unbiased estimate needs at least 2 rows each, got {len(x)} and {len(y)}")
    return _mean_off_diagonal(of(x, x)) + _mean_off_diagonal(of(y, y)) - cross


def hsic_test(
    x: Tensor,
    y: Tensor,
    *,
    kernel_x: KernelName | Kernel = "imq",
    kernel_y: KernelName | Kernel = "imq",
    permutations: int = 1000,
    groups: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> TestResult:
    """Are paired rows independent? A permutation test of the biased HSIC.

    Args:
        permutations: of the rows of y. groups: (n,) integers; rows are exchanged within their group only (then the
            null hypothesis is independence given the group).

    Returns:
        The statistic and p = (1 + #{permuted >= observed}) / (1 + permutations). A constant x or y gives (0, 1).

    Raises:
        ValueError: as `hsic`; fewer than 1 permutation; groups of another length.
    """
    x, y = _paired(x, y, least=4)
    if permutations < 1:
        raise ValueError(f"permutations: expected at least 1, got {permutations}")
    if groups is not None and groups.shape != (len(x),):
        raise ValueError(f"groups: expected one integer per row, ({len(x)},), got {tuple(groups.shape)}")
    k = centred(find_kernel(kernel_x, argument="kernel_x")(x, x)).double()
    other = centred(find_kernel(kernel_y, argument="kernel_y")(y, y)).double()
    statistic = float((k * other).sum()) / len(x) ** 2
    # Rounding must not decide between equal statistics.
    bar = statistic - 1e-10 * float(k.norm() * other.norm()) / len(x) ** 2
    reached = 0
    for _ in range(permutations):
        order = _permutation(len(x), groups, generator)
        reached += float((k * other[order][:, order]).sum()) / len(x) ** 2 >= bar
    return TestResult(max(statistic, 0.0), (1 + reached) / (1 + permutations))


def centred(k: Tensor) -> Tensor:
    """H K H of a symmetric matrix: rows and columns with mean 0."""
    rows = k.mean(0, keepdim=True)
    return k - rows - rows.T + rows.mean()


def _permutation(count: int, groups: Tensor | None, generator: torch.Generator | None) -> Tensor:
    order = torch.randperm(count, generator=generator)
    if groups is None:
        return order
    # Both sorts list the groups in the same order, the second with the rows of a group in random order.
    places = torch.argsort(groups, stable=True)
    shuffled = order[torch.argsort(groups[order], stable=True)]
    result = torch.empty_like(order)
    result[places] = shuffled
    return result


def _paired(x: Tensor, y: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"x, y: expected tables with paired rows, got {tuple(x.shape)} and {tuple(y.shape)}")
    if len(x) < least:
        raise ValueError(f"x, y: expected at least {least} rows, got {len(x)}")
    return x, y


def _mean_off_diagonal(k: Tensor) -> Tensor:
    n = len(k)
    return (k.sum() - k.diagonal().sum()) / (n * (n - 1))


def _unbiased(k: Tensor, other: Tensor) -> Tensor:
    """Song et al. 2012, equation 5: U-statistic from Gram matrices without their diagonals."""
    n = len(k)
    k, other = k - torch.diag(k.diagonal()), other - torch.diag(other.diagonal())
    crossed = k.sum(0) @ other.sum(0)
    total = (k * other).sum() + k.sum() * other.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * crossed
    return total / (n * (n - 3))


def _by_features(
    x: Tensor, y: Tensor, kernel_x: Any, kernel_y: Any, features: int, generator: torch.Generator | None
) -> Tensor:
    for name, kernel in (("kernel_x", kernel_x), ("kernel_y", kernel_y)):
        if kernel not in ("imq", "rbf"):
            raise ValueError(f"{name}: the estimate by features needs imq or rbf, got {kernel!r}")
    maps = [FourierFeatures(z.shape[1], features, kernel=name) for z, name in ((x, kernel_x), (y, kernel_y))]
    phi, psi = (of(z, 1.0, of.draw(generator=generator, device=z.device)) for of, z in zip(maps, (x, y), strict=True))
    return (((phi - phi.mean(0)).T @ (psi - psi.mean(0))) / len(x)).square().sum()
