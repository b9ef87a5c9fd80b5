"""One optimiser step: micro-batches, gradients, clipping, the update, the running average.

With `accumulate` = a micro-batches on each of W processes, step s sees the stream's batches s a W ... (s + 1) a W - 1,
whatever a and W are: two processes do exactly what one process does with `accumulate=2`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from paperworks.train.ema import Averaging, ExponentialAverage

Loss: TypeAlias = Callable[[Any, Any], "Tensor | tuple[Tensor, Tensor | int]"]


@dataclass(frozen=True)
class Recipe:
    """How gradients become an update.

    Attributes:
        optimizer: a function model -> optimiser (`partial(adamw, lr=1e-3)`), or an optimiser of the model's parameters.
        schedule: step (from 0) -> factor on every group's learning rate; None: constant.
        clip: largest Euclidean norm of the whole gradient; None: no clipping.
        accumulate: micro-batches per step (and per process). The step's gradient is the mean over them.
        average: keep an exponential moving average of the weights; evaluations see it, the model ends up holding it.

    Raises:
        ValueError: `clip` is not positive, or `accumulate` is below 1.
    """

    optimizer: Callable[[nn.Module], Optimizer] | Optimizer
    schedule: Callable[[int], float] | None = None
    clip: float | None = None
    accumulate: int = 1
    average: Averaging | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.optimizer, Optimizer) or callable(self.optimizer)):
            got = type(self.optimizer).__name__
            raise ValueError(f"optimizer: expected a function model -> optimiser or an optimiser, got {got}")
        if self.clip is not None and not (self.clip > 0 and math.isfinite(self.clip)):
            raise ValueError(f"clip: expected a positive number or None, got {self.clip}")
        if self.accumulate < 1:
            raise ValueError(f"accumulate: expected at least 1 micro-batch per step, got {self.accumulate}")


class Objective(nn.Module):
    """`loss(model, batch)` as one forward pass: autocast and DDP cover whatever the loss does with the model."""

    def __init__(self, model: nn.Module, loss: Loss, accumulate: int):
        super().__init__()
        self.model, self.accumulate = model, accumulate
        # Not registered: a loss that happens to be a module is no part of what is trained.
        self.__dict__["loss"] = loss
        self.value = torch.zeros(())
        self.count: Tensor | float | None = None

    def forward(self, batch: Any) -> Tensor:
        """What to differentiate; `value` and `count` keep what the loss said, before Fabric casts what is returned."""
        value = self.__dict__["loss"](self.model, batch)
        if isinstance(value, tuple):
            value, self.count = value
            _check_scalar(value)
        else:
            _check_scalar(value)
            value = value / self.accumulate
        self.value = value.detach()
        return value


class Stepper:
    """The model, its optimiser and its average, set up for the devices of `fabric`; `stepper(step)` makes one step."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        stream: Callable[[int], Any],
        recipe: Recipe,
        fabric: Fabric,
        *,
        watch: Callable[[Any], None],
    ):
        self.model, self.stream, self.recipe, self.fabric, self.watch = model, stream, recipe, fabric, watch
        self._said = Objective(model, loss, recipe.accumulate)
        self.objective = fabric.setup_module(self._said)
        self.optimizer: Any = fabric.setup_optimizers(_build_optimizer(model, recipe.optimizer))
        self.average = ExponentialAverage(model, recipe.average) if recipe.average else None
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self._moves = fabric.device.type != "cpu"

    def __call__(self, step: int) -> Tensor:
        """Make step number `step`, counted from 0; returns this process's loss, a scalar that is not yet waited for."""
        recipe, fabric = self.recipe, self.fabric
        if recipe.schedule is not None:
            self._set_rates(recipe.schedule(step))
        loss, count = self._gradients(step)
        if count is not None:
            loss = loss * self._divide_gradients(count)
        if recipe.clip is not None:
            fabric.clip_gradients(self.objective, self.optimizer, max_norm=recipe.clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        return loss

    def _gradients(self, step: int) -> tuple[Tensor, Tensor | float | None]:
        """Sum the micro-batches' gradients: of means, each divided by their number, or of sums, with their count."""
        accumulate, world, rank = self.recipe.accumulate, self.fabric.world_size, self.fabric.global_rank
        total, count = None, None
        for micro in range(accumulate):
            batch = self.stream((step * accumulate + micro) * world + rank)
            self.watch(batch)
            if self._moves:
                batch = self.fabric.to_device(batch)
            with self.fabric.no_backward_sync(self.objective, enabled=micro + 1 < accumulate):
                self.fabric.backward(self.objective(batch))
            value, part = self._said.value, self._said.count
            total = value if total is None else total + value
            if part is not None:
                count = part if count is None else count + part
        assert total is not None
        return total, count

    def _divide_gradients(self, count: Tensor | float) -> float:
        """Turn the gradient of a sum into that of a mean over everything that all processes counted."""
        if self.fabric.world_size > 1:
            counts = torch.as_tensor(count, dtype=torch.float64, device=self.fabric.device)
            count = cast(Tensor, self.fabric.all_reduce(counts, reduce_op="sum"))
        # A step in which nothing is counted has zero gradients already.
        scale = self.fabric.world_size / float(count) if count else 1.0
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]
        return scale

    def _set_rates(self, factor: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to continue."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def _build_optimizer(model: nn.Module, optimizer: Callable[[nn.Module], Optimizer] | Optimizer) -> Optimizer:
    built = optimizer if isinstance(optimizer, Optimizer) else optimizer(model)
    if not isinstance(built, Optimizer):
        raise ValueError(f"optimizer: expected the function to return a torch optimiser, got {type(built).__name__}")
    known = {id(parameter) for parameter in model.parameters()}
    given = {id(parameter) for group in built.param_groups for parameter in group["params"]}
    if not given <= known:
        raise ValueError(
            f"optimizer: {len(given - known)} of its parameters are not the model's; build it from the model you pass"
        )
    return built


def _check_scalar(value: Any) -> None:
    if not isinstance(value, Tensor) or value.ndim != 0:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss: expected loss(model, batch) to return a scalar tensor or (sum, count), got {got}")
    if not value.requires_grad:
        raise ValueError("loss: the value does not depend on any trainable parameter of the model")
