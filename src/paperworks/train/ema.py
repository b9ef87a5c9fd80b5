"""Exponential moving averages of weights (Polyak & Juditsky, 1992; as "mean teacher" targets, arXiv 1703.01780).

w_avg <- d_t w_avg + (1 - d_t) w after step t = 1, 2, ...; d_t = decay, or with warm-up min(decay, (1 + t) / (10 + t)).
Parameters are averaged; buffers (running statistics) are the model's own, which are averages already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Averaging:
    """How weights are averaged.

    Attributes:
        decay: what the average keeps of itself per step, 0 <= decay < 1.
        warmup: smaller decay in the first steps, so that the start is forgotten quickly.

    Raises:
        ValueError: `decay` out of range.
    """

    decay: float = 0.999
    warmup: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay: expected 0 <= decay < 1, got {self.decay}")

    def at(self, step: int) -> float:
        """d_t for t = `step`, counted from 1."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay


class ExponentialAverage:
    """The running average of a model's parameters; starts at the weights the model has now.

    Half-precision parameters are averaged in float32: in bfloat16 an update of 0.001 would be rounded away.
    """

    def __init__(self, model: nn.Module, averaging: Averaging):
        self.averaging = averaging
        self.steps = 0
        self._names = [name for name, _ in model.named_parameters()]
        self._weights = [parameter for _, parameter in model.named_parameters()]
        self._average = [_wide(parameter.detach().clone()) for parameter in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's present weights, after an optimiser step."""
        self.steps += 1
        weights = [_wide(parameter.detach()) for parameter in self._weights]
        if weights:
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                self._average, weights, 1 - self.averaging.at(self.steps)
            )

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Give `model`, which has the same parameters, the averaged weights.

        Raises:
            ValueError: its parameters have other names or shapes.
        """
        named = dict(model.named_parameters())
        shapes = {name: average.shape for name, average in zip(self._names, self._average, strict=True)}
        if shapes != {name: parameter.shape for name, parameter in named.items()}:
            raise ValueError("model: its parameters differ from those that were averaged")
        for name, average in zip(self._names, self._average, strict=True):
            named[name].copy_(average)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the model holds the averaged weights; afterwards its own again, bit for bit."""
        own = [parameter.detach().clone() for parameter in self._weights]
        self._put(self._average)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._weights, values, strict=True):
            parameter.copy_(value)

    def apply(self) -> None:
        """Leave the averaged weights in the model."""
        self._put(self._average)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": dict(zip(self._names, self._average, strict=True))}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        for name, average in zip(self._names, self._average, strict=True):
            average.copy_(state["average"][name])


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
