"""CTAugment (Berthelot et al., ReMixMatch, 2020, arXiv 1911.09785): a strong augmentation that learns its strengths.

The range of each operation's parameter is cut into bins. A probe batch, augmented at random strengths, is shown to the
averaged network; where it still recognises the images, the bin's rate rises:

    rate <- decay rate + (1 - decay) (1 - |p - y|_1 / 2)

Training draws operations uniformly with replacement, and bins in proportion to rate + 1 - decay; bins below `threshold`
times the largest of their parameter are left out. Within a bin the level is uniform. Every training image ends with a
cutout of half its side; probes do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.data.augment.images import as_float, uniform
from paperworks.data.augment.operations import OPERATIONS, Operation, translate_x, translate_y
from paperworks.data.augment.pipeline import apply_operations
from paperworks.data.augment.pixels import cutout_

DEFAULT_OPS = tuple(OPERATIONS)
PARAMETERS = 2
# As published: a level of exactly 1 falls into the last bin.
_BELOW = 0.999


class Policy(NamedTuple):
    """What to do to B images: (B, depth) indices of operations, (B, depth, 2) levels, (B,) whether to cut out."""

    chosen: Tensor
    levels: Tensor
    final_cutout: Tensor

    def __add__(self, other: Policy) -> Policy:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The policy of both batches, one behind the other."""
        return Policy(*(torch.cat(parts) for parts in zip(self, other, strict=True)))


class CTAugment(nn.Module):
    """A strong augmentation for `WeakStrong`, and its learned rates.

    >>> import torch
    >>> from paperworks.learning import CTAugment
    >>> augment = CTAugment()
    >>> images = torch.rand(8, 3, 32, 32)
    >>> probe = augment.sample(8, probe=True, generator=torch.Generator().manual_seed(0))
    >>> shown = augment.apply(images, probe)            # the network is half right about each of these
    >>> augment.update(probe, torch.full((8,), 0.5))
    >>> augment(images).shape
    torch.Size([8, 3, 32, 32])

    Args:
        ops: names in `paperworks.data.augment.OPERATIONS`.
        depth: operations on each image.
        threshold: bins below this part of the largest are left out.
        decay: what a rate keeps of itself per hit.
        translate: by 0.3 of the "side"; "official" moves by 0.3 *pixels*, which does nothing, as the published code.
        surround: grey value of what moves bring in: black, as in the published code; cutouts take `fill`. None: `fill`.

    Raises:
        ValueError: an option out of range.
    """

    table: Tensor
    valid: Tensor
    bins: Tensor

    def __init__(
        self,
        ops: Sequence[str] = DEFAULT_OPS,
        *,
        depth: int = 2,
        threshold: float = 0.8,
        decay: float = 0.99,
        translate: Literal["side", "official"] = "side",
        surround: float | None = 0.0,
    ):
        super().__init__()
        unknown = [name for name in ops if name not in OPERATIONS]
        if unknown or not ops or len(set(ops)) < len(ops):
            raise ValueError(f"ops: expected different names from {', '.join(OPERATIONS)}, got {list(ops)}")
        if depth < 1 or not 0 <= threshold <= 1 or not 0 <= decay < 1:
            raise ValueError(
                "depth, threshold, decay: expected at least 1, a part in [0, 1] and one below 1, got "
                f"{depth}, {threshold} and {decay}"
            )
        if translate not in ("side", "official"):
            raise ValueError(f"translate: expected side or official, got {translate!r}")
        if surround is not None and not 0 <= surround <= 1:
            raise ValueError(f"surround: expected a grey value in [0, 1] or None, got {surround}")
        self.surround = surround
        self.operations = tuple(_translating(OPERATIONS[name], translate) for name in ops)
        self.depth, self.threshold, self.decay = depth, threshold, decay
        widest = max((max(operation.bins, default=1) for operation in self.operations), default=1)
        bins = torch.zeros(len(ops), PARAMETERS, dtype=torch.long)
        for row, operation in enumerate(self.operations):
            bins[row, : len(operation.bins)] = torch.tensor(operation.bins, dtype=torch.long)
        self.register_buffer("bins", bins, persistent=False)
        self.register_buffer("valid", torch.arange(widest) < bins[..., None], persistent=False)
        self.register_buffer("table", self.valid.float())

    @property
    def rates(self) -> dict[str, tuple[np.ndarray, ...]]:
        """For each operation one array of rates per parameter; `identity` has none. Copies: set nothing here."""
        table = self.table.cpu().numpy()
        return {
            operation.name: tuple(table[row, number, :count].copy() for number, count in enumerate(operation.bins))
            for row, operation in enumerate(self.operations)
        }

    def probabilities(self) -> Tensor:
        """(operations, 2, bins): how likely each bin of each parameter is; rows of absent parameters are 0."""
        weights = (self.table + 1 - self.decay) * self.valid
        weights = weights / weights.amax(-1, keepdim=True).clamp_min(1e-30)
        weights = torch.where(weights < self.threshold, 0, weights)
        return weights / weights.sum(-1, keepdim=True).clamp_min(1e-30)

    def sample(self, n: int, *, probe: bool = False, generator: torch.Generator | None = None) -> Policy:
        """What to do to `n` images; a probe takes every level uniformly, whatever the rates.

        Raises:
            ValueError: `n` is below 1.
        """
        if n < 1:
            raise ValueError(f"n: expected at least 1 image, got {n}")
        shape = (n, self.depth)
        chosen = uniform(shape, 0, len(self.operations), like=self.table, generator=generator).long()
        chosen = chosen.clamp(max=len(self.operations) - 1)
        within = uniform((*shape, PARAMETERS), 0, 1, like=self.table, generator=generator)
        final = torch.full((n,), not probe, device=chosen.device)
        if probe:
            return Policy(chosen, within, final)
        # Inverting the cumulative distribution takes one uniform number per draw, where the generator lives.
        steps = self.probabilities().cumsum(-1)[chosen]
        drawn = uniform((*shape, PARAMETERS, 1), 0, 1, like=self.table, generator=generator)
        last = self.bins[chosen].clamp(min=1)
        hit = (steps <= drawn * steps[..., -1:]).sum(-1).minimum(last - 1)
        return Policy(chosen, ((hit + within) / last).clamp(0, 1), final)

    def apply(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, images: Tensor, policy: Policy, *, fill: float = 0.5, generator: torch.Generator | None = None
    ) -> Tensor:
        """The images (B, C, H, W) as the policy says, floats in [0, 1].

        Raises:
            ValueError: a policy for another number of images.
        """
        images = images if images.dtype == torch.uint8 else as_float(images)
        result = apply_operations(
            images, policy.chosen.to(images.device), policy.levels.to(images.device), operations=self.operations,
            fill=fill, surround=self.surround, generator=generator,
        )  # fmt: skip
        centre = uniform((len(images), 2), 0, 1, like=result, generator=generator)
        ends = policy.final_cutout.to(images.device)
        if not bool(ends.any()):
            return result
        return cutout_(result, ends.to(result), centre, fill=fill)

    def forward(self, images: Tensor, *, fill: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
        """`sample`, then `apply`."""
        policy = self.sample(len(images), generator=generator)
        return self.apply(images, policy, fill=fill, generator=generator)

    @torch.no_grad()
    def update(self, policy: Policy, proximity: Tensor) -> None:
        """Move the rates of the bins that a probe hit, one image after the other.

        Args:
            policy: of the probe.
            proximity: (B,) 1 - |p - y|_1 / 2, from 0 (certain and wrong) to 1.

        Raises:
            ValueError: proximities of another shape, or out of range.
        """
        count = len(policy.chosen)
        if proximity.shape != (count,):
            raise ValueError(f"proximity: expected ({count},), one for each image, got {tuple(proximity.shape)}")
        if not bool(((proximity >= -1e-4) & (proximity <= 1 + 1e-4)).all()):
            raise ValueError("proximity: expected 1 - |p - y|_1 / 2 in [0, 1]")
        chosen = policy.chosen.to(self.table.device)
        bins = self.bins[chosen]
        at = (policy.levels.to(self.table.device) * bins * _BELOW).long()
        cell = (chosen[..., None] * PARAMETERS + torch.arange(PARAMETERS, device=chosen.device)) * self.table.shape[-1]
        cell = (cell + at)[bins > 0]
        hits = proximity.to(self.table)[:, None, None].expand(bins.shape)[bins > 0]
        self._move(cell, hits)

    def _move(self, cell: Tensor, hits: Tensor) -> None:
        """All hits at once: a bin hit K times keeps decay^K of its rate, and its k-th hit counts decay^(K - k)."""
        order = cell.argsort(stable=True)
        cell, hits = cell[order], hits[order]
        _, group, counts = cell.unique_consecutive(return_inverse=True, return_counts=True)
        later = counts.cumsum(0)[group] - torch.arange(len(cell), device=cell.device) - 1
        taken = (1 - self.decay) * self.decay ** later.to(hits) * hits
        flat = self.table.view(-1)
        kept = torch.zeros_like(flat).index_add_(0, cell, torch.ones_like(hits))
        flat.mul_(self.decay**kept).index_add_(0, cell, taken)

    def extra_repr(self) -> str:
        return f"{len(self.operations)} operations, depth={self.depth}, threshold={self.threshold:g}"


def proximity(probs: Tensor, labels: Tensor) -> Tensor:
    """1 - |p - y|_1 / 2, which is the probability p of the right class; (B, C), (B,) -> (B,)."""
    return probs.gather(1, labels[:, None])[:, 0]


def _translating(operation: Operation, translate: str) -> Operation:
    moves = {"translate_x": translate_x, "translate_y": translate_y}
    if translate == "side" or operation.name not in moves:
        return operation
    return replace(operation, function=partial(moves[operation.name], unit="pixel"))
