"""Normalisation that both effect models share, taken from the demonstrations and fixed.

A density ratio is free of units only if numerator and denominator measure in the same ones: models with different
constants, or scale floors in different units, no longer cancel, and nothing says so. Hence one frozen object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

CONSTANT = 1e-6
FIXED_UNIT = 0.1


@dataclass(frozen=True)
class Statistics:
    """Means and standard deviations of observations and of their differences, (seeds, d) each.

    `fixed`: dimensions that stay in the likelihood whatever the demonstrations show (the indicator of an absorbing
    state never moves in demonstrations that never end). Their difference is measured in tenths, so that a jump by 1 is
    far outside from the start.
    """

    mean: Tensor
    std: Tensor
    delta_mean: Tensor
    delta_std: Tensor
    fixed: tuple[int, ...] = ()

    @classmethod
    def of(cls, pairs: Sequence[tuple[Tensor, Tensor]], *, fixed: Sequence[int] = ()) -> Statistics:
        """From transitions (previous (N, d), next (N, d)), one pair a seed."""
        rows = [_moments(previous, following) for previous, following in pairs]
        mean, std, delta_mean, delta_std = (torch.stack(part) for part in zip(*rows, strict=True))
        chosen = list(fixed)
        delta_mean[:, chosen], delta_std[:, chosen], mean[:, chosen], std[:, chosen] = 0.0, FIXED_UNIT, 0.0, 1.0
        return cls(mean, std, delta_mean, delta_std, tuple(chosen))

    def map(self, change: Callable[[Tensor], Tensor]) -> Statistics:
        """With every (seeds, d) tensor changed by a function."""
        parts = (change(part) for part in (self.mean, self.std, self.delta_mean, self.delta_std))
        mean, std, delta_mean, delta_std = parts
        return Statistics(mean, std, delta_mean, delta_std, self.fixed)

    @property
    def seeds(self) -> int:
        return self.mean.shape[0]

    @property
    def dim(self) -> int:
        return self.mean.shape[1]

    @cached_property
    def safe_std(self) -> Tensor:
        """Standard deviations of observations, 1 where a dimension never varies."""
        return torch.where(self.std > CONSTANT, self.std, torch.ones_like(self.std))

    @cached_property
    def moving(self) -> Tensor:
        """Indices of the dimensions whose difference varies: the ones that carry information on a policy's effect."""
        return self._varying(self.delta_std, "difference")

    @cached_property
    def varying(self) -> Tensor:
        """Indices of the dimensions whose value varies."""
        return self._varying(self.std, "value")

    def _varying(self, std: Tensor, what: str) -> Tensor:
        varies = std > CONSTANT
        varies[:, list(self.fixed)] = True
        if bool((varies != varies[:1]).any()):
            dim = int((varies != varies[:1]).any(0).nonzero()[0])
            raise ValueError(f"demonstrations: the {what} of dimension {dim} is constant for some seeds only")
        if not bool(varies[0].any()):
            raise ValueError("demonstrations: no dimension ever changes; nothing can be learnt from them")
        return varies[0].nonzero().squeeze(1)

    def normalize(self, x: Tensor) -> Tensor:
        """(seeds, B, d) -> zero mean, unit spread in the demonstrations."""
        return (x - self.mean.unsqueeze(1)) / self.safe_std.unsqueeze(1)

    def equals(self, other: Statistics) -> bool:
        """Whether models with these two may be compared."""
        if self is other:
            return True
        mine, theirs = ([getattr(s, field.name) for field in fields(self)][:4] for s in (self, other))
        return self.fixed == other.fixed and all(
            a.shape == b.shape and torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)
        )


def _moments(previous: Tensor, following: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    delta = (following - previous).double()
    values = torch.cat([previous, following]).double()
    dtype = previous.dtype
    mean, std = values.mean(0).to(dtype), values.std(0, correction=0).to(dtype)
    return mean, std, delta.mean(0).to(dtype), delta.std(0, correction=0).to(dtype)
