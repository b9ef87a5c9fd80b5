"""Training without labels: two views of each image, and a model that knows what to make of them.

A method is a module with four functions (`SelfSupervised`). Its hooks decide when a target network moves and what is
queued: MoCo's target moves in `before_step`, BYOL's in `after_step`, when the optimiser is done. The trainer knows
neither, so a new method needs no change here.

from paperworks.data.augment import TwoViews
from paperworks.nn import SmallConvNet
from paperworks.train.contrast import SimCLR
from paperworks.train.probes import embed_images, linear_probe
from paperworks.train.self_supervised import fit_self_supervised

model = SimCLR(SmallConvNet(3), projector=(128, 64))
fit_self_supervised(model, images, views=TwoViews(32), steps=400, learning_rate=4e-3, seed=0)   # images: uint8
linear_probe(embed_images(model, train), train_labels, embed_images(model, test), test_labels).accuracy
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from paperworks.train.batches import EpochBatches
from paperworks.train.checkpoint import Checkpoint
from paperworks.train.devices import make_fabric
from paperworks.train.evaluation import Evaluation
from paperworks.train.lars import lars
from paperworks.train.loop import Budget, FitResult, fit
from paperworks.train.optim import adamw
from paperworks.train.progress import Progress, Report
from paperworks.train.schedules import warmup_cosine
from paperworks.train.step import Recipe

OptimizerName: TypeAlias = Literal["adamw", "lars"]


class HasLoss(Protocol):
    """What a step's forward pass returns: anything with a scalar `loss`."""

    @property
    def loss(self) -> Tensor: ...


@runtime_checkable
class SelfSupervised(Protocol):
    """A method of self-supervised learning, a `torch.nn.Module`.

    `progress` is the step over the number of steps, from 0 to below 1. `forward` moves nothing but the statistics of
    batch norm: no target, queue or counter, so that it may be called for evaluation too.
    """

    def before_step(self, progress: float) -> None:
        """Called once per optimiser step, before its forward pass."""
        ...

    def forward(self, view1: Tensor, view2: Tensor) -> HasLoss:
        """Views (B, C, H, W) of the same images -> an object with the `loss` to differentiate."""
        ...

    def after_step(self, output: Any, progress: float) -> None:
        """Called once per optimiser step, after the weights have changed, with what `forward` returned."""
        ...

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, D) of the backbone, before any head."""
        ...


class Views(Protocol):
    """A pair of random views of images (B, C, H, W): `TwoViews`, or any function of this form."""

    def __call__(self, images: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]: ...


def fit_self_supervised(
    model: nn.Module,
    images: Tensor,
    *,
    views: Views,
    steps: int,
    learning_rate: float,
    seed: int,
    batch_size: int = 256,
    weight_decay: float = 0.05,
    warmup: float = 0.05,
    clip_norm: float | None = 5.0,
    optimizer: OptimizerName | Callable[..., Optimizer] = "adamw",
    evaluation: Evaluation | None = None,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    progress: Progress | Report | None = None,
    fabric: Fabric | None = None,
) -> FitResult:
    """Train `model`, in place, on unlabelled images.

    Every step takes the next batch of an epoch's random order (the incomplete last one is left out), draws views by a
    generator that depends on the seed and the position alone, and calls `before_step`, `forward`, the optimiser and
    `after_step`. A killed fit that is called again with its checkpoint ends with the same bits.

    Args:
        model: a `SelfSupervised` module.
        images: (N, C, H, W), uint8 or floats in [0, 1]; with several processes each has all of them.
        views: (images, generator=) -> two views; works on the device of the fit.
        steps: optimiser steps.
        learning_rate: the largest; reached after a part `warmup` of the steps, then half a cosine down to 0.
        batch_size: images per step and process.
        weight_decay: on tensors of two or more dimensions.
        clip_norm: largest norm of the gradient, or None.
        optimizer: "adamw", "lars", or a function called as `optimizer(model, lr=, weight_decay=)`, such as `sgd`.
        evaluation, checkpoint, progress: as for `fit`; a path is a checkpoint there.
        fabric: devices and precision; None: one device, the best there is, in "mixed" precision. With several
            processes methods gather features where they compare images; batch norm is each process's own unless it
            was converted by `torch.nn.SyncBatchNorm.convert_sync_batchnorm` before.

    Raises:
        ValueError: a model without the four functions, images of another form, fewer images than a batch, an option out
            of range, a checkpoint of another fit.
    """
    _check(model, images, steps, warmup)
    fabric = fabric or make_fabric(precision="mixed")
    build = partial(_optimizer(optimizer), lr=learning_rate, weight_decay=weight_decay)
    turns = _Turns(model, views, steps, seed, fabric.world_size)
    return fit(
        model,
        turns.loss,
        _Numbered(EpochBatches(images, size=batch_size, seed=seed, drop_last=True), type(model).__name__),
        recipe=Recipe(
            partial(turns.watched, build=build),
            schedule=warmup_cosine(steps, min(round(warmup * steps), steps - 1)),
            clip=clip_norm,
        ),
        budget=Budget(steps=steps),
        seed=seed,
        evaluation=evaluation,
        checkpoint=Checkpoint(checkpoint) if isinstance(checkpoint, (str, os.PathLike)) else checkpoint,
        progress=progress,
        fabric=fabric,
    )


class _Numbered:
    """Batches that know their position, from which everything random about a step follows."""

    def __init__(self, batches: EpochBatches, kind: str):
        self.batches = batches
        self.identity = f"{kind}: {batches.identity}"

    def __call__(self, position: int) -> tuple[Tensor, int]:
        return self.batches(position), position


class _Turns:
    """One step after the other: the hooks before and after, and the loss in between."""

    def __init__(self, model: Any, views: Views, steps: int, seed: int, processes: int):
        self.model, self.views, self.steps, self.seed, self.processes = model, views, steps, seed, processes
        self._output: Any = None
        self._progress = 0.0

    def loss(self, model: Any, batch: tuple[Tensor, int]) -> Tensor:
        images, position = batch
        self._progress = (position // self.processes) / self.steps
        generator = torch.Generator(images.device).manual_seed(_mix(self.seed, position))
        # Views are drawn in full precision: under autocast their small products would be bfloat16's.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            first, second = self.views(images, generator=generator)
        model.before_step(self._progress)
        self._output = model(first, second)
        return self._output.loss

    def watched(self, model: nn.Module, *, build: Callable[[nn.Module], Optimizer]) -> Optimizer:
        """An optimiser that tells when it has moved the weights."""
        optimizer = build(model)
        if isinstance(optimizer, Optimizer):
            optimizer.register_step_post_hook(self._after)
        return optimizer

    def _after(self, *_: Any) -> None:
        output, self._output = self._output, None
        with torch.no_grad():
            self.model.after_step(output, self._progress)


def _mix(seed: int, position: int) -> int:
    """A seed for one position of one fit, unrelated to its neighbours'."""
    return int(np.random.SeedSequence((seed, position)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _optimizer(given: Any) -> Callable[..., Optimizer]:
    known: dict[str, Callable[..., Optimizer]] = {"adamw": adamw, "lars": lars}
    if (isinstance(given, str) and given not in known) or not (isinstance(given, str) or callable(given)):
        raise ValueError(f"optimizer: expected adamw, lars or a function (model, lr=, weight_decay=), got {given!r}")
    chosen: Any = known[given] if isinstance(given, str) else given
    return chosen


def _check(model: Any, images: Any, steps: int, warmup: float) -> None:
    if not isinstance(model, nn.Module) or not isinstance(model, SelfSupervised):
        missing = [name for name in ("before_step", "after_step", "embed") if not hasattr(model, name)]
        raise ValueError(
            f"model: expected a module with before_step, forward, after_step and embed, got {type(model).__name__} "
            f"without {', '.join(missing) or 'being a torch module'}"
        )
    if not isinstance(images, Tensor) or images.ndim != 4:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images: expected (number, channels, height, width), got {got}")
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup: expected a part of the steps in [0, 1), got {warmup}")
