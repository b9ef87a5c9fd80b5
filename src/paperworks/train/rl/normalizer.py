"""Observations of zero mean and unit spread."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class ObservationNormalizer(nn.Module):
    """`(x - mean) / std`, a constant dimension left at its distance from the mean; one pair of constants a seed.

    Args:
        dim: d.
        seeds: S.
        statistics: "fixed": `set` once, from data that do not change; "running": `update` with every batch (parallel
            variance of Chan et al., exact whatever the batches).
        clip: largest magnitude of the result; None: none.

    Raises:
        ValueError: unknown `statistics`; `update` of fixed ones.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(
        self,
        dim: int,
        *,
        seeds: int = 1,
        statistics: Literal["fixed", "running"] = "running",
        clip: float | None = None,
    ) -> None:
        super().__init__()
        if statistics not in ("fixed", "running"):
            raise ValueError(f"statistics: expected 'fixed' or 'running', got {statistics!r}")
        self.statistics, self.clip = statistics, clip
        self.register_buffer("mean", torch.zeros(seeds, 1, dim))
        self.register_buffer("variance", torch.ones(seeds, 1, dim))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Take constants, (seeds, d) each."""
        self.mean.copy_(mean.unsqueeze(1))
        self.variance.copy_(std.unsqueeze(1) ** 2)
        self.count.fill_(1)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Count a batch (seeds, B, d)."""
        if self.statistics == "fixed":
            raise ValueError("statistics: fixed ones do not change; use set()")
        new, held = x.shape[1], float(self.count)
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
        gap, total = mean - self.mean, held + new
        if held == 0:
            self.variance.copy_(variance)
        else:
            spread = self.variance * held + variance * new + gap**2 * (held * new / total)
            self.variance.copy_(spread / total)
        self.mean.add_(gap * (new / total))
        self.count.fill_(total)

    def forward(self, x: Tensor) -> Tensor:
        """(seeds, B, d) -> (seeds, B, d)."""
        std = torch.where(self.variance > 1e-12, self.variance, torch.ones_like(self.variance)).sqrt()
        z = (x - self.mean) / std
        return z if self.clip is None else z.clamp(-self.clip, self.clip)
