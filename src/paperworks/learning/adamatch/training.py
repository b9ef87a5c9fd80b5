"""One way of training for every setting and every arm: views, CTAugment's probe, the step, the averaged network.

Semi-supervised learning, domain adaptation and both at once differ in which images are handed in, and in nothing else.
No label of an unlabelled image is among the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from paperworks.data.augment import RandAugment, WeakStrong
from paperworks.data.augment.images import as_float
from paperworks.data.augment.policies import StrongAugment
from paperworks.learning.adamatch.ctaugment import CTAugment, Policy, proximity
from paperworks.learning.adamatch.loss import AdaMatchOutput, class_indices, quarter_cosine
from paperworks.learning.adamatch.method import Adaptation
from paperworks.nn.modes import evaluating
from paperworks.nn.momentum_twin import MomentumTwin
from paperworks.train.ema import Averaging
from paperworks.train.evaluation import Evaluation
from paperworks.train.loop import Budget, FitResult, fit
from paperworks.train.optim import decay_groups, sgd
from paperworks.train.progress import Progress, Report
from paperworks.train.step import Recipe

Watch: TypeAlias = Callable[[int, AdaMatchOutput, Tensor], None]
_EVALUATED_AT_ONCE = 1024
STRONG = ("ctaugment", "simple", "cutout")
# Moves, blur and gain: what keeps a picture's meaning obvious.
SIMPLE = ("rotate", "shear_x", "shear_y", "rescale", "translate_x", "translate_y", "blur", "brightness")


@dataclass(frozen=True)
class Training:
    """The hyperparameters, the same for every setting, data set and arm.

    Attributes:
        steps: optimiser steps; rate and mu are scheduled over them.
        batch: n, labelled images per step.
        unlabelled_ratio: u, unlabelled images per labelled one.
        rate: SGD's learning rate at the start; it ends at a quarter.
        momentum: of SGD.
        weight_decay: on convolution and linear weights.
        average: what the averaged network keeps of itself per step; less at the start.
        mirror: whether weak views are mirrored; not for digits and letters.
        strong: the strong view: "ctaugment"; "simple", one of 8 mild operations `depth` times, nothing learned;
            "cutout". All end with a cutout of half the side.
        depth: operations of the strong view before its cutout.
        optimizer: "sgd"; "adam" is a mistake of public ports, kept for the comparison.

    Raises:
        ValueError: a number out of range.
    """

    steps: int = 700
    batch: int = 32
    unlabelled_ratio: int = 3
    rate: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 1e-3
    average: float = 0.999
    mirror: bool = False
    strong: Literal["ctaugment", "simple", "cutout"] = "ctaugment"
    depth: int = 2
    optimizer: Literal["sgd", "adam"] = "sgd"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "unlabelled_ratio", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.rate > 0 or self.weight_decay < 0:
            raise ValueError(
                f"rate, weight_decay: expected a positive number and one that is not negative, got {self.rate} and "
                f"{self.weight_decay}"
            )
        if not 0 <= self.average < 1 or not 0 <= self.momentum < 1:
            raise ValueError(f"average, momentum: expected parts below 1, got {self.average} and {self.momentum}")
        if self.strong not in STRONG:
            raise ValueError(f"strong: expected one of {', '.join(STRONG)}, got {self.strong!r}")
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer: expected sgd or adam, got {self.optimizer!r}")


class EndlessRows:
    """Row numbers of batch `position`: one shuffled epoch after the other, batches crossing their ends."""

    def __init__(self, count: int, size: int, *, seed: int):
        if count < 1 or size < 1:
            raise ValueError(f"count, size: expected at least 1 row and 1 per batch, got {count} and {size}")
        self.count, self.size, self.seed = count, size, seed
        self._epoch, self._order = -1, torch.zeros(0)

    def __call__(self, position: int) -> Tensor:
        first, parts = position * self.size, []
        while len(parts) == 0 or sum(map(len, parts)) < self.size:
            taken = sum(map(len, parts))
            epoch, place = divmod(first + taken, self.count)
            parts.append(self._epoch_order(epoch)[place : place + self.size - taken])
        return torch.cat(parts)

    def _epoch_order(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
            self._epoch, self._order = epoch, torch.from_numpy(order)
        return self._order


@dataclass(frozen=True)
class _Planned:
    """A strong augmentation that follows a policy drawn before."""

    augment: CTAugment
    policy: Policy

    def __call__(self, images: Tensor, *, fill: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
        return self.augment.apply(images, self.policy, fill=fill, generator=generator)


@dataclass(frozen=True)
class Images:
    """What is trained on: (N, C, H, W) uint8 and (N,) labels of the source; target images; labelled target images."""

    source: Tensor
    labels: Tensor
    target: Tensor
    target_labelled: tuple[Tensor, Tensor] | None = None


class Adapter(nn.Module):
    """A method with its views, its augmentation policy and its averaged network; `loss` makes one step of it."""

    made: Tensor
    averaged: Tensor

    def __init__(self, method: Adaptation, training: Training, image_size: tuple[int, int], *, seed: int):
        super().__init__()
        # Faster on CPUs and GPUs alike.
        method.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.method, self.training_options, self.seed = method, training, seed
        self.augment = CTAugment(depth=training.depth) if training.strong == "ctaugment" else None
        self.image_size = image_size
        self.twin = MomentumTwin(method.model, buffers="ema")
        self.averaging = Averaging(training.average, warmup=True)
        self.register_buffer("made", torch.zeros((), dtype=torch.long))
        self.register_buffer("averaged", torch.zeros((), dtype=torch.long))
        # Not registered: who looks on is no part of what is trained.
        self.__dict__["watch"] = None

    @property
    def classifier(self) -> nn.Module:
        """The averaged network, up to date."""
        self.catch_up()
        return self.twin.module

    @torch.no_grad()
    def catch_up(self) -> None:
        """Average in the weights that the last step left, once."""
        made = int(self.made)
        if made > int(self.averaged):
            self.twin.update(self.averaging.at(made))
            self.averaged.copy_(self.made)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of the next step."""
        self.catch_up()
        position = int(batch["position"])
        generator = torch.Generator().manual_seed(_mix(self.seed, position))
        with torch.no_grad(), torch.autocast(batch["target"].device.type, enabled=False):
            weak, strong = self._views(batch, generator)
        n, more = len(batch["source"]), len(batch.get("more", ()))
        sizes = [n, len(batch["target"]), more]
        (weak, weak_target, weak_more), (strong, strong_target, strong_more) = weak.split(sizes), strong.split(sizes)
        output = self.method.training_step(
            (weak, strong, batch["labels"]),
            (weak_target, strong_target),
            (weak_more, strong_more, batch["more_labels"]) if more else None,
            progress=position / self.training_options.steps,
            generator=generator,
        )
        self.made += 1
        if (watch := self.__dict__["watch"]) is not None:
            watch(position, output, batch["rows"])
        return output.loss

    def _views(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Weak and strong views of all images; CTAugment's probe goes with them, is shown and learned from."""
        names, n = ["source", "target", "more"], len(batch["source"])
        if self.augment is None:
            simple = RandAugment(SIMPLE, depth=self.training_options.depth, final_cutout=True)
            return self._pairs(
                batch, names, "cutout" if self.training_options.strong == "cutout" else simple, generator
            )
        count = sum(len(batch[name]) for name in names if name in batch)
        probe = self.augment.sample(n, probe=True, generator=generator)
        policy = self.augment.sample(count, generator=generator) + probe
        weak, strong = self._pairs(batch, [*names, "source"], _Planned(self.augment, policy), generator)
        with evaluating(self.twin):
            probs = self.twin(strong[-n:]).float().softmax(1)
        self.augment.update(probe, proximity(probs, batch["labels"]))
        return weak[:-n], strong[:-n]

    def _pairs(
        self,
        batch: dict[str, Tensor],
        names: list[str],
        strong: StrongAugment | Literal["cutout"],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        images = torch.cat([batch[name] for name in names if name in batch])
        weak = "shift_mirror" if self.training_options.mirror else "shift"
        return WeakStrong(self.image_size, weak=weak, strong=strong)(images, generator=generator)


def train(
    method: Adaptation,
    images: Images,
    training: Training,
    *,
    seed: int,
    watch: Watch | None = None,
    evaluation: Callable[[nn.Module], dict[str, float]] | None = None,
    every: int | None = None,
    progress: Progress | Report | None = None,
    fabric: Fabric | None = None,
) -> tuple[Adapter, FitResult]:
    """Train `method`, in place. The averaged network is `adapter.classifier`.

    Args:
        method: AdaMatch, FixMatch or SourceOnly.
        images: what to train on.
        training: hyperparameters.
        seed: of batches, views and lam. The network's weights are the caller's.
        watch: called as watch(step, output, rows of the target) in each step; must not change anything.
        evaluation: averaged network -> numbers, called every `every` steps and at the end; nothing depends on them.
        progress, fabric: as for `paperworks.train.fit`.

    Raises:
        ValueError: images of another form, or a label that is no class.
    """
    _check(images, method.n_classes)
    size = (images.source.shape[2], images.source.shape[3])
    adapter = Adapter(method, training, size, seed=seed)
    adapter.__dict__["watch"] = watch
    judged = None if evaluation is None else Evaluation(lambda model: evaluation(model.classifier), every=every)
    result = fit(
        adapter,
        lambda model, batch: model.loss(batch),
        _stream(images, training, seed),
        recipe=Recipe(partial(_optimizer, training=training), schedule=quarter_cosine(training.steps)),
        budget=Budget(steps=training.steps),
        seed=seed,
        evaluation=judged,
        progress=progress,
        fabric=fabric,
    )
    adapter.catch_up()
    adapter.eval()
    return adapter, result


def _stream(images: Images, training: Training, seed: int) -> Callable[[int], dict[str, Tensor]]:
    n, many = training.batch, training.batch * training.unlabelled_ratio
    known = EndlessRows(len(images.source), n, seed=seed)
    unknown = EndlessRows(len(images.target), many, seed=seed + 1)
    few = None if images.target_labelled is None else EndlessRows(len(images.target_labelled[0]), n, seed=seed + 2)

    def batch(position: int) -> dict[str, Tensor]:
        rows, others = known(position), unknown(position)
        found = {
            "source": images.source[rows], "labels": images.labels[rows], "target": images.target[others],
            "rows": others, "position": torch.tensor(position),
        }  # fmt: skip
        if few is not None and images.target_labelled is not None:
            some = few(position)
            found |= {"more": images.target_labelled[0][some], "more_labels": images.target_labelled[1][some]}
        return found

    return batch


def _optimizer(model: nn.Module, *, training: Training) -> Optimizer:
    if training.optimizer == "adam":
        return Adam(decay_groups(model, training.weight_decay), lr=training.rate)
    return sgd(model, lr=training.rate, momentum=training.momentum, weight_decay=training.weight_decay)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, *, features: bool = False) -> Tensor:
    """Class probabilities (N, C) of uint8 or float images, in evaluation mode; or features (N, D)."""
    device = next(model.parameters()).device
    with evaluating(model):
        call: Any = model.features if features else model  # pyright: ignore[reportAttributeAccessIssue]
        parts = [call(as_float(part).to(device)).float().cpu() for part in images.split(_EVALUATED_AT_ONCE)]
    return torch.cat(parts) if features else torch.cat(parts).softmax(1)


def _mix(seed: int, position: int) -> int:
    """A seed for one position of one fit, unrelated to its neighbours'."""
    return int(np.random.SeedSequence((seed, position)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _check(images: Images, n_classes: int) -> None:
    named = [("source", images.source), ("target", images.target)]
    labels = [images.labels]
    if images.target_labelled is not None:
        named.append(("target_labelled", images.target_labelled[0]))
        labels.append(images.target_labelled[1])
    for given in labels:
        class_indices(given, n_classes)
    for name, pixels in named:
        if pixels.ndim != 4 or pixels.dtype != torch.uint8 or not len(pixels):
            raise ValueError(f"{name}: expected (N, C, H, W) uint8, got {tuple(pixels.shape)} {pixels.dtype}")
        if pixels.shape[1:] != images.source.shape[1:]:
            raise ValueError(
                f"{name}: expected images {tuple(images.source.shape[1:])} as in the source, "
                f"got {tuple(pixels.shape[1:])}"
            )
