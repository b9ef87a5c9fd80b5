"""The loop that papers share: step until the budget is spent; evaluate, keep checkpoints and report on the way.

Same arguments, same losses, bit for bit on a CPU: the order of the data is a function of the position in the stream,
random numbers are seeded here and the caller's generators are left as they were. A run that is killed and called again
with the same checkpoint gives the losses of a run that was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from paperworks.train.batches import Batches, as_stream
from paperworks.train.checkpoint import Checkpoint, Keeper
from paperworks.train.devices import PRECISIONS, agree, make_fabric, precision_of, shards_weights
from paperworks.train.evaluation import Evaluated, Evaluation, Judge
from paperworks.train.progress import Progress, Report, Reporter
from paperworks.train.random import isolated_generators, module_mode
from paperworks.train.step import Loss, Recipe, Stepper

Reason: TypeAlias = Literal["steps", "seconds", "early stopping", "diverged"]

# Losses stay on the device for so many steps, so that the CPU can run ahead of a GPU.
_PENDING = 32


@dataclass(frozen=True)
class Budget:
    """When to stop: after `steps` optimiser steps, after `seconds` of training, or whichever comes first.

    Seconds count training alone: neither evaluations nor the writing of checkpoints.

    Raises:
        ValueError: neither is given, or one is not positive.
    """

    steps: int | None = None
    seconds: float | None = None
    clock: Callable[[], float] = field(default=time.monotonic, compare=False)

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise ValueError("budget: expected steps, seconds or both, got neither")
        if self.steps is not None and (self.steps != int(self.steps) or self.steps < 1):
            raise ValueError(f"budget: steps must be a positive whole number, got {self.steps}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"budget: seconds must be positive, got {self.seconds}")


@dataclass(frozen=True)
class FitResult:
    """What a fit did.

    Attributes:
        losses: one per step, the mean over micro-batches and processes, before the step's update.
        steps: how many steps were made, those before a resume included.
        seconds: time spent training, without evaluations and checkpoints.
        evaluations: (step, values) of each evaluation, in order.
        stopped_because: "steps", "seconds", "early stopping" or "diverged" (a loss was not finite).
        best_step: the step whose weights the model holds, where early stopping chose them; else None.
        resumed_from: the step at which this call took over from a checkpoint; 0 if it did not.
    """

    losses: tuple[float, ...]
    steps: int
    seconds: float
    evaluations: tuple[Evaluated, ...]
    stopped_because: Reason
    best_step: int | None = None
    resumed_from: int = 0


def fit(
    model: nn.Module,
    loss: Loss,
    batches: Batches | Iterable[Any],
    *,
    recipe: Recipe,
    budget: Budget,
    seed: int,
    evaluation: Evaluation | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress | Report | None = None,
    fabric: Fabric | None = None,
) -> FitResult:
    """Fit `model`, in place, to the gradient of `loss(model, batch)`.

    Args:
        model: trained in training mode, on the device of `fabric`; afterwards back in the modes it came with.
        loss: (model, batch) -> scalar, the mean over the batch; or (sum, count), and then the step's gradient is that
            of sum of sums / sum of counts over micro-batches and processes, exact for ragged batches too.
        batches: position -> batch (`EpochBatches`, `TokenBatches`, any function of a number), or an iterable that can
            be gone through again and again in the same order (a list, a `DataLoader` that does not shuffle).
        recipe: optimiser, schedule, clipping, accumulation, weight average.
        budget: when to stop.
        seed: of dropout and whatever else draws random numbers in the model and the loss (process r uses seed + r).
        evaluation: a function of the model to call now and then, and early stopping on what it returns.
        checkpoint: where to keep the state; if the file exists, the fit continues from it.
        progress: called as `progress(fraction, step=, loss=, rate=, unit=, eta=, memory=)` about twice a second.
        fabric: devices and precision, see `make_fabric`; None: one device, the best there is, float32.

    Raises:
        ValueError: an argument that makes no sense, a loss that is not a scalar, batches that end, a checkpoint of
            another fit.

    A loss that is not finite ends the fit with `stopped_because="diverged"` and a RuntimeWarning.
    """
    _check(model, loss, seed)
    fabric = fabric or make_fabric()
    _check_fabric(fabric, recipe, evaluation, checkpoint)
    stream = as_stream(batches, exact=checkpoint is not None or fabric.world_size > 1)
    reporter = Reporter(progress, fabric, budget.clock)
    with isolated_generators(seed + fabric.global_rank, fabric.device), module_mode(model, training=True):
        stepper = Stepper(model, loss, stream, recipe, fabric, watch=reporter.watch)
        judge = Judge(model, evaluation, fabric, stepper.average)
        keeper = Keeper(checkpoint, fabric, budget.clock, _identity(batches, seed, stepper))
        run = _Run(budget, stepper, judge, keeper, reporter)
        run.resume()
        reporter.start(run.fraction())
        while (reason := run.reason()) is None:
            run.step()
        reason = run.finish(reason)
    if reason == "diverged":
        message = f"fit: the loss is not finite, training stopped after {run.steps} steps"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return run.result(reason)


class _Run:
    """The state of one fit between its steps."""

    def __init__(self, budget: Budget, stepper: Stepper, judge: Judge, keeper: Keeper, reporter: Reporter):
        self.budget, self.stepper, self.judge, self.keeper, self.reporter = budget, stepper, judge, keeper, reporter
        self.fabric = stepper.fabric
        self.losses: list[float] = []
        self.resumed_from = 0
        self._pending: list[Tensor] = []
        self._ended: Reason | None = None
        self._diverged = False
        self._waits = self.fabric.device.type != "cpu" or self.fabric.world_size > 1
        self._seconds, self._since = 0.0, budget.clock()

    @property
    def steps(self) -> int:
        return len(self.losses) + len(self._pending)

    def resume(self) -> None:
        """Take over from the checkpoint, where there is one."""
        state = self.keeper.load()
        if state is not None:
            self.losses = state["losses"].tolist()
            self.resumed_from, self._seconds, self._ended = len(self.losses), state["seconds"], state["ended"]
            self.stepper.load(state["stepper"])
            self.judge.load(state["judge"])
        self._since = self.budget.clock()

    def reason(self) -> Reason | None:
        """Why to stop now, or None to go on."""
        if self._ended in ("early stopping", "diverged"):
            return self._ended
        if self._diverged:
            return "diverged"
        if self.judge.satisfied:
            return "early stopping"
        if self.budget.steps is not None and self.steps >= self.budget.steps:
            return "steps"
        if self.budget.seconds is not None and agree(self.fabric, self.seconds() >= self.budget.seconds):
            return "seconds"
        return None

    def step(self) -> None:
        """One optimiser step, and what is due after it."""
        self._pending.append(self.stepper(self.steps))
        if self._collects():
            self._collect()
        if self.judge.due(self.steps):
            self._evaluate()
        if self.keeper.due(self.steps):
            self._save(None)
        if self.reporter.due():
            self.reporter(self.fraction(), self._fields())

    def _collects(self) -> bool:
        """Whether to fetch losses now; on a CPU they are there, elsewhere waiting would stop the device."""
        return not self._waits or len(self._pending) >= _PENDING

    def finish(self, reason: Reason) -> Reason:
        """The last evaluation, the last save, and the weights that are to stay."""
        self._collect()
        # The losses of the last steps may have come in only now.
        reason = "diverged" if self._diverged else reason
        if self.judge.due_at_end(self.steps):
            self._evaluate()
        self._save(reason)
        self.judge.finish()
        self.reporter(1.0, self._fields())
        return reason

    def result(self, reason: Reason) -> FitResult:
        best = self.judge.best
        return FitResult(
            losses=tuple(self.losses),
            steps=self.steps,
            seconds=self._seconds,
            evaluations=tuple(self.judge.history),
            stopped_because=reason,
            best_step=None if best is None else best["step"],
            resumed_from=self.resumed_from,
        )

    def seconds(self) -> float:
        """Seconds of training up to now."""
        return self._seconds + self.budget.clock() - self._since

    def _collect(self) -> None:
        """Wait for the losses of the last steps; over several processes, their mean."""
        if self._pending:
            losses = torch.stack(self._pending).double() if len(self._pending) > 1 else self._pending[0].double()[None]
            if self.fabric.world_size > 1:
                losses = cast(Tensor, self.fabric.all_reduce(losses, reduce_op="mean"))
            self.losses += losses.tolist()
            self._diverged = self._diverged or not bool(losses.isfinite().all())
            self._pending = []

    def _evaluate(self) -> None:
        with self._not_counted():
            self.judge.evaluate(self.steps)

    def _save(self, ended: Reason | None) -> None:
        with self._not_counted():
            self.keeper.save(
                {
                    "losses": torch.tensor(self.losses, dtype=torch.float64),
                    "seconds": self._seconds,
                    "ended": ended,
                    "stepper": self.stepper.state(),
                    "judge": self.judge.state(),
                }
            )

    @contextlib.contextmanager
    def _not_counted(self) -> Iterator[None]:
        """Finish the steps under way, and let the clock of the training stand still."""
        self._collect()
        self._seconds = self.seconds()
        try:
            yield
        finally:
            self._since = self.budget.clock()

    def fraction(self) -> float:
        parts = []
        if self.budget.steps is not None:
            parts.append(self.steps / self.budget.steps)
        if self.budget.seconds is not None:
            parts.append(self.seconds() / self.budget.seconds)
        return min(1.0, max(parts))

    def _fields(self) -> dict[str, float]:
        """What a report says; losses that are still on their way to this process are not waited for."""
        values = self.judge.history[-1].values if self.judge.history else {}
        losses = {"loss": self.losses[-1]} if self.losses else {}
        return {**values, "step": self.steps, **losses}


def _identity(batches: Any, seed: int, stepper: Stepper) -> dict[str, str]:
    """What must agree for a resumed fit to give the losses of an undisturbed one."""
    recipe, fabric, optimizer = stepper.recipe, stepper.fabric, stepper.optimizer.optimizer
    shapes = [(name, tuple(value.shape)) for name, value in stepper.model.named_parameters()]
    return {
        "seed": str(seed),
        "batches": getattr(batches, "identity", "unnamed"),
        "model": hashlib.sha256(repr(shapes).encode()).hexdigest()[:16],
        "optimizer": type(optimizer).__name__,
        "learning rate": str(stepper.rates),
        "schedule": "none" if recipe.schedule is None else "given",
        "clip": str(recipe.clip),
        "batches per step": str(recipe.accumulate * fabric.world_size),
        "processes": str(fabric.world_size),
        "average": str(recipe.average),
        "precision": precision_of(fabric),
    }


def _check(model: Any, loss: Any, seed: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: expected a torch module, got {type(model).__name__}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model: no parameter is trainable")
    if not callable(loss):
        raise ValueError(f"loss: expected a function (model, batch) -> scalar tensor, got {type(loss).__name__}")
    if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
        raise ValueError("loss: has parameters of its own, which would not be trained; make them part of the model")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed: expected a whole number that is not negative, got {seed!r}")


def _check_fabric(fabric: Fabric, recipe: Recipe, evaluation: Evaluation | None, checkpoint: Checkpoint | None) -> None:
    if precision_of(fabric) not in PRECISIONS:
        raise ValueError(f"fabric: expected precision {', '.join(PRECISIONS)}, got {precision_of(fabric)}")
    stopping = None if evaluation is None else evaluation.stopping
    for name, option in (("checkpoint", checkpoint), ("average", recipe.average), ("stopping", stopping)):
        if option is not None and shards_weights(fabric):
            strategy = type(fabric.strategy).__name__
            raise ValueError(
                f"{name}: needs whole weights, which {strategy} does not keep; use strategy='ddp' or leave it out"
            )
