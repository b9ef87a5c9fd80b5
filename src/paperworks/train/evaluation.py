"""Evaluations during a fit, and stopping early on what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from paperworks.train.ema import ExponentialAverage
from paperworks.train.random import kept_generators, module_mode


class Evaluated(NamedTuple):
    """What an evaluation found after `step` optimiser steps."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class EarlyStopping:
    """Keep the weights of the best evaluation, and stop when it has not been beaten for a while.

    Attributes:
        metric: the name of the value to watch.
        mode: whether "min" or "max" of it is best.
        patience: evaluations in a row without improvement after which training stops; None: never, keep the best only.
        margin: what counts as an improvement: more than so much better than the best.

    Raises:
        ValueError: unknown mode, patience below 1, negative margin.
    """

    metric: str
    mode: Literal["min", "max"]
    patience: int | None = None
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(f"mode: expected 'min' or 'max', got {self.mode!r}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience: expected at least 1 evaluation or None, got {self.patience}")
        if not self.margin >= 0:
            raise ValueError(f"margin: expected a number that is not negative, got {self.margin}")

    def improves(self, value: float, best: float | None) -> bool:
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value < best - self.margin if self.mode == "min" else value > best + self.margin


@dataclass(frozen=True)
class Evaluation:
    """A function of the model, called every `every` steps and after the last one.

    It runs in evaluation mode, without gradients, in the fit's precision, on the averaged weights where there are any;
    random numbers it draws do not change the training. With several processes each calls it, and process 0 is believed.

    Attributes:
        function: model -> a number or {name: number}; a single number is called "value".
        every: steps between evaluations; None: only after the last step.
        stopping: what to do about the values.

    Raises:
        ValueError: `every` below 1.
    """

    function: Callable[[Any], Mapping[str, float] | float]
    every: int | None = None
    stopping: EarlyStopping | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"function: expected a function of the model, got {type(self.function).__name__}")
        if self.every is not None and self.every < 1:
            raise ValueError(f"every: expected at least 1 step or None, got {self.every}")


class Judge:
    """Runs the evaluations of one fit and remembers the best."""

    def __init__(
        self, model: nn.Module, evaluation: Evaluation | None, fabric: Fabric, average: ExponentialAverage | None
    ):
        self.model, self.evaluation, self.fabric, self.average = model, evaluation, fabric, average
        self.history: list[Evaluated] = []
        self.best: dict[str, Any] | None = None
        self.stale = 0

    def due(self, step: int) -> bool:
        return self.evaluation is not None and self.evaluation.every is not None and step % self.evaluation.every == 0

    def due_at_end(self, step: int) -> bool:
        return self.evaluation is not None and not (self.history and self.history[-1].step == step)

    @property
    def satisfied(self) -> bool:
        """Whether patience has run out."""
        stopping = self.evaluation.stopping if self.evaluation else None
        return stopping is not None and stopping.patience is not None and self.stale >= stopping.patience

    def evaluate(self, step: int) -> None:
        """Evaluate the model as it is after `step` steps.

        Raises:
            ValueError: the function returned something else than numbers, or not the watched metric.
        """
        if self.average is None:
            self._evaluate(step)
        else:
            with self.average.applied():
                self._evaluate(step)

    def _evaluate(self, step: int) -> None:
        assert self.evaluation is not None
        with (
            torch.no_grad(),
            kept_generators(self.fabric.device),
            module_mode(self.model, training=False),
            self.fabric.autocast(),
        ):
            values = _numbers(self.evaluation.function(self.model))
        if self.fabric.world_size > 1:
            values = self.fabric.broadcast(values)
        self.history.append(Evaluated(step, values))
        if self.evaluation.stopping is not None:
            self._compare(step, values, self.evaluation.stopping)

    def _compare(self, step: int, values: dict[str, float], stopping: EarlyStopping) -> None:
        if stopping.metric not in values:
            raise ValueError(f"metric: the evaluation returned {sorted(values)}, not {stopping.metric!r}")
        value = values[stopping.metric]
        if stopping.improves(value, self.best["value"] if self.best else None):
            weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _tensors(self.model).items()}
            self.best = {"step": step, "value": value, "weights": weights}
            self.stale = 0
        else:
            self.stale += 1

    def finish(self) -> None:
        """Leave in the model the weights that the evaluations speak of: the best, else the averaged ones."""
        if self.best is not None:
            self.model.load_state_dict(self.best["weights"], strict=False)
        elif self.average is not None:
            self.average.apply()

    def state(self) -> dict[str, Any]:
        history = [(item.step, item.values) for item in self.history]
        return {"history": history, "best": self.best, "stale": self.stale}

    def load(self, state: Mapping[str, Any]) -> None:
        self.history = [Evaluated(step, dict(values)) for step, values in state["history"]]
        self.best, self.stale = state["best"], state["stale"]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _numbers(result: Any) -> dict[str, float]:
    values = result if isinstance(result, Mapping) else {"value": result}
    try:
        return {str(name): float(value) for name, value in values.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"evaluation: expected a number or {{name: number}}, got {result!r}") from error
