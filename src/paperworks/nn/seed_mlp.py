"""Many small multilayer perceptrons of one shape, run as one: a batched matrix product per layer.

Networks of 64 units spend their time in the calls, not in the arithmetic. With the weights of S networks (seeds,
ensemble members, twin critics) in one tensor, a layer is one `baddbmm` for all of them, and an elementwise optimiser
such as Adam updates all of them as it would update each alone. Sum losses over the networks, never average them: then
each network receives exactly the gradient of its own loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Init: TypeAlias = Literal["torch", "fan_out", "orthogonal"]


class SeedMLP(nn.Module):
    """`seeds` perceptrons side by side: `y_s = W_sL f(... f(W_s1 x_s + b_s1) ...) + b_sL`.

    Args:
        seeds: how many networks.
        sizes: (inputs, hidden ..., outputs), the same for all.
        activation: between layers.
        init: "torch", `nn.Linear`'s own, U(+-1/sqrt(inputs)) for weights and biases; "fan_out", U(+-1/sqrt(outputs))
            and zero biases, what several public actor-critic codes do by reading the wrong axis; "orthogonal" with gain
            sqrt(2), the last layer 1, and zero biases.
        last_scale: factor of the last layer's initial weights and biases.

    Raises:
        ValueError: no networks, fewer than two sizes, sizes that are not positive, an unknown `init`.
    """

    def __init__(
        self,
        seeds: int,
        sizes: Sequence[int],
        *,
        activation: Callable[[Tensor], Tensor] = F.relu,
        init: Init = "torch",
        last_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if seeds < 1:
            raise ValueError(f"seeds: expected at least 1, got {seeds}")
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes: expected at least inputs and outputs, all positive, got {tuple(sizes)}")
        if init not in get_args(Init):
            raise ValueError(f"init: expected one of {', '.join(get_args(Init))}, got {init!r}")
        self.seeds, self.sizes, self.activation = seeds, tuple(sizes), activation
        self.init, self.last_scale = init, last_scale
        shapes = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList([nn.Parameter(torch.empty(seeds, *shape)) for shape in shapes])
        self.biases = nn.ParameterList([nn.Parameter(torch.empty(seeds, 1, outputs)) for _, outputs in shapes])
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            inputs, outputs = weight.shape[1:]
            bias.zero_()
            if self.init == "orthogonal":
                for matrix in weight:
                    nn.init.orthogonal_(matrix, gain=1.0 if layer == last else 2**0.5)
            else:
                bound = (outputs if self.init == "fan_out" else inputs) ** -0.5
                weight.uniform_(-bound, bound)
                if self.init == "torch":
                    bias.uniform_(-bound, bound)
            if layer == last:
                weight.mul_(self.last_scale)
                bias.mul_(self.last_scale)

    def forward(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Apply network s to row s.

        Args:
            x: (seeds, B, inputs).
            frozen: no gradient to the parameters, though one to `x`: a critic that an actor climbs.

        Returns:
            (seeds, B, outputs).

        Raises:
            ValueError: another shape.
        """
        if x.ndim != 3 or x.shape[0] != self.seeds or x.shape[2] != self.sizes[0]:
            raise ValueError(f"x: expected ({self.seeds}, B, {self.sizes[0]}), got {tuple(x.shape)}")
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if frozen:
                weight, bias = weight.detach(), bias.detach()
            x = torch.baddbmm(bias, x, weight)
            if layer < last:
                x = self.activation(x)
        return x

    @torch.no_grad()
    def copy_network(self, source: int, target: int) -> None:
        """Give network `target` the weights of network `source`."""
        for parameter in self.parameters():
            parameter[target] = parameter[source]

    def extra_repr(self) -> str:
        return f"seeds={self.seeds}, sizes={self.sizes}, init={self.init!r}"
