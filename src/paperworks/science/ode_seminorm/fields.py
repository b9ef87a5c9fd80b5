"""Small networks that serve as right-hand sides."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn


def perceptron(widths: tuple[int, ...], activation: Callable[[], nn.Module], *, final: bool = False) -> nn.Sequential:
    """Linear layers of these widths with an activation between them, and after the last one where `final`."""
    layers: list[nn.Module] = []
    for number, (inside, outside) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(inside, outside))
        if final or number < len(widths) - 2:
            layers.append(activation())
    return nn.Sequential(*layers)


class TimeMLP(nn.Module):
    """`dz/dt = MLP([z, t])` for z (batch, dim).

    Args:
        dim: of the state.
        width, depth: hidden layers.
        activation: a module class; smooth ones suit adaptive solvers.
    """

    def __init__(self, dim: int, *, width: int = 64, depth: int = 2, activation: Callable[[], nn.Module] = nn.Tanh):
        super().__init__()
        self.dim = dim
        self.net = perceptron((dim + 1, *[width] * depth, dim), activation)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.net(torch.cat([z, t.to(z).expand(*z.shape[:-1], 1)], dim=-1))


class CDEField(nn.Module):
    """`f: R^h -> R^{h x c}` of the paper's speech experiment: Linear(h, w), ReLU, (depth - 1) x [Linear(w, w), ReLU],
    Linear(w, h c), tanh.

    Shapes: (batch, hidden) -> (batch, hidden, channels).
    """

    def __init__(self, hidden: int, channels: int, *, width: int, depth: int):
        super().__init__()
        self.hidden, self.channels = hidden, channels
        self.net = perceptron((hidden, *[width] * depth, hidden * channels), nn.ReLU)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z).tanh().view(*z.shape[:-1], self.hidden, self.channels)
