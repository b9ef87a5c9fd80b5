"""Prior distributions of the item parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Priors:
    """Normal priors of log a, b, logit c and (4PL) of the slip log-odds; abilities are N(0, 1), which fixes the scale.

    The defaults are the paper's best setting (log a ~ N(0, .3^2), b ~ N(0, 1), logit c ~ N(0, 1); the official code
    calls the last "log c" but applies a sigmoid). The 4PL is not in the paper: `slip` is log((1 - d) / (d - c)).
    An infinite standard deviation takes the prior away.

    Raises:
        ValueError: a standard deviation that is not positive.
    """

    a_log_std: float = 0.3
    b_std: float = 1.0
    logit_c_std: float = 1.0
    slip_mean: float = -3.0
    slip_std: float = 1.0

    def __post_init__(self) -> None:
        for name in ("a_log_std", "b_std", "logit_c_std", "slip_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"priors: {name} must be > 0 (inf: no prior), got {getattr(self, name)}")

    @classmethod
    def none(cls) -> Priors:
        """No priors on the items: textbook maximum likelihood."""
        return cls(math.inf, math.inf, math.inf, slip_std=math.inf)

    def of(self, row: int) -> tuple[float, float]:
        """Mean and 1 / variance of one row of the parameter table; 0 where there is no prior."""
        std = (self.a_log_std, self.b_std, self.logit_c_std, self.slip_std)[row]
        return (0.0, 0.0, 0.0, self.slip_mean)[row], std**-2

    def precision(self, like: Tensor) -> Tensor:
        """1 / variance of the four rows of the parameter table, (4,)."""
        stds = torch.tensor([self.a_log_std, self.b_std, self.logit_c_std, self.slip_std], dtype=torch.float64)
        return (stds**-2).to(like)

    def mean(self, like: Tensor) -> Tensor:
        """Means of the four rows of the parameter table, (4,)."""
        return torch.tensor([0.0, 0.0, 0.0, self.slip_mean]).to(like)
