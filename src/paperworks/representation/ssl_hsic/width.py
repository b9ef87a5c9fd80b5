"""The kernel's width, chosen so that the kernel is sensitive at the distances that occur.

    maximise over c:  mean over pairs of log |dk / d(dist^2)|,   dk / d(dist^2) = -c/2 (dist^2 + c^2)^(-3/2)

The maximum is where the mean of 3 c^2 / (dist^2 + c^2) is 1; for |z - z'|^2 = 2 it is c = 1.

Reference: Li et al. 2021, arXiv 2106.08320, appendix; the official code maximises it with Adam at 3e-4.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.representation.ssl_hsic.kernels import squared_distances

SAMPLE = 1024
LOWEST, HIGHEST = 1e-3, 1e3
SMALLEST_SLOPE = 1e-14  # of the squared slope, as in the official code


class KernelWidth(nn.Module):
    """The width c as a parameter with an optimiser of its own; keep it out of the main one.

    Args:
        init: start. lr: Adam's rate in `step`. The official 3e-4 needs some thousand steps; short runs use `solve`.

    `width` is a buffer: neither `parameters()` of a model that holds this module nor its loss reach it.
    """

    width: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor

    def __init__(self, init: float = 1.0, lr: float = 3e-4) -> None:
        super().__init__()
        if not init > 0 or not lr > 0:
            raise ValueError(f"init, lr: must be positive, got {init:g} and {lr:g}")
        self.register_buffer("width", torch.tensor(float(init)))
        for name in ("first", "second", "steps"):
            self.register_buffer(name, torch.zeros(()))
        self.lr = lr

    def objective(
        self, z: Tensor, c: float | Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean of 1/2 log max(1e-14, (dk / d(dist^2))^2) over pairs of rows of z (n, D), a scalar; default c: `width`.

        Pairs are those of two random samples of 1,024 rows; up to 1,024 rows all n^2 pairs.
        """
        return slope_objective(_distances(z, generator), self.width if c is None else c)

    @torch.no_grad()
    def step(self, z: Tensor, *, generator: torch.Generator | None = None) -> float:
        """One step of Adam uphill on the objective of this batch; returns the new width."""
        distances = _distances(z, generator)
        with torch.enable_grad():
            c = self.width.clone().requires_grad_()
            (slope,) = torch.autograd.grad(slope_objective(distances, c), c)
        self.steps += 1
        self.first.lerp_(slope, 0.1)
        self.second.lerp_(slope * slope, 0.001)
        first, second = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        self.width.add_(self.lr * first / (second.sqrt() + 1e-8)).clamp_(LOWEST, HIGHEST)
        return float(self.width)

    @torch.no_grad()
    def solve(self, z: Tensor, *, generator: torch.Generator | None = None) -> float:
        """Set the width to the maximum for this batch, by bisection, and return it.

        Where a third or more of the pairs are identical there is no maximum: the lower limit, 1e-3, with a warning.
        """
        distances = _distances(z, generator).double()
        low, high = LOWEST, HIGHEST
        if _excess(distances, low) >= 0:
            warnings.warn(
                "a third or more of the pairs are identical: the kernel width has no optimum and is set to 1e-3",
                stacklevel=2,
            )
            high = low
        for _ in range(60):
            middle = (low * high) ** 0.5
            low, high = (low, middle) if _excess(distances, middle) > 0 else (middle, high)
        self.width.fill_(high)
        return float(self.width)


def slope_objective(squared: Tensor, c: float | Tensor) -> Tensor:
    """Mean of 1/2 log max(1e-14, (c/2)^2 (dist^2 + c^2)^-3) over squared distances."""
    c = torch.as_tensor(c, dtype=squared.dtype, device=squared.device)
    return 0.5 * ((c / 2).square() * (squared + c * c).pow(-3)).clamp(min=SMALLEST_SLOPE).log().mean()


def optimum_exists(z: Tensor) -> bool:
    """Whether fewer than a third of the pairs of rows are identical, so that `solve` has an answer."""
    return _excess(_distances(z, None), LOWEST) < 0


def _excess(squared: Tensor, c: float) -> float:
    """Growing in c: mean of 3 c^2 / (dist^2 + c^2), less 1."""
    return float((3 * c * c / (squared + c * c)).mean()) - 1


def _distances(z: Tensor, generator: torch.Generator | None) -> Tensor:
    z = z.detach()
    z = z if z.dtype == torch.float64 else z.float()
    if len(z) <= SAMPLE:
        return squared_distances(z, z)
    options: Any = {"generator": generator, "device": z.device if generator is None else generator.device}
    rows, columns = (torch.randint(len(z), (SAMPLE,), **options).to(z.device) for _ in range(2))
    return squared_distances(z[rows], z[columns])
