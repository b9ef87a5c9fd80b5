"""Action-value functions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paperworks.nn.seed_mlp import Init, SeedMLP


class TwinQ(nn.Module):
    """Two action-value networks a seed, all in one batch of products.

    Args:
        obs_dim, action_dim: sizes.
        hidden: widths of the hidden layers (relu).
        seeds: S.
        init, last_scale: see `SeedMLP`.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        *,
        hidden: tuple[int, ...] = (256, 256),
        seeds: int = 1,
        init: Init = "torch",
        last_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = SeedMLP(2 * seeds, (obs_dim + action_dim, *hidden, 1), init=init, last_scale=last_scale)

    def forward(self, obs: Tensor, action: Tensor, *, frozen: bool = False) -> Tensor:
        """Both values of (obs, action): (2, seeds, B).

        Args:
            obs: (seeds, B, obs_dim).
            action: (seeds, B, action_dim).
            frozen: see `SeedMLP.forward`.
        """
        x = torch.cat([obs, action], -1)
        seeds, batch, width = x.shape
        both = x.expand(2, seeds, batch, width).reshape(2 * seeds, batch, width)
        return self.network(both, frozen=frozen).view(2, seeds, batch)
