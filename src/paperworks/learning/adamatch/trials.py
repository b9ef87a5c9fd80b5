"""One trial of the study: an arm in a setting, trained and measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.learning.adamatch.adapt import build_backbone
from paperworks.learning.adamatch.ctaugment import CTAugment
from paperworks.learning.adamatch.domains import Domain, Pair
from paperworks.learning.adamatch.loss import (
    AdaMatchOutput,
    Rules,
    fixed_threshold,
    no_alignment,
    overall_mean_alignment,
)
from paperworks.learning.adamatch.method import AdaMatch, Adaptation, FixMatch, SourceOnly
from paperworks.learning.adamatch.networks import wide_resnet
from paperworks.learning.adamatch.training import Images, Training, predict, train

if TYPE_CHECKING:
    from paperworks.lab.study import Point, Progress
    from paperworks.learning.adamatch.study import Config

# Parts of a training into which its curves are cut.
_WINDOWS = 20
_SHOWN_PER_DOMAIN = 150
_BINS = 10


def run_trial(point: Point, seed: int, config: Config, pair: Pair, progress: Progress) -> dict[str, Any]:
    """Numbers and arrays of one trial; the target's labels are looked at by what measures, not by what trains."""
    training = training_of(config, point["arm"])
    source, target, more = _sets(point, seed, config, pair)
    method = build_method(point["arm"], config, len(pair.source.classes), pair.source.images.shape[1], seed)
    trace = Trace(training.steps, None if target.labels is None else target.labels)
    images = Images(source.images, source.known(), target.images, None if more is None else (more.images, more.known()))
    known = pair.test.labels is not None
    adapter, result = train(
        method, images, training, seed=seed, watch=trace,
        evaluation=(lambda model: {"accuracy": _accuracy(model, pair.test)}) if known else None,
        every=config.every, progress=lambda fraction, **fields: progress(fraction, **fields),
    )  # fmt: skip
    found: dict[str, Any] = {
        "parameters": float(sum(p.numel() for p in method.model.parameters())),
        "steps": float(result.steps),
        "labelled": float(training.batch * (1 if more is None else 2)),
        "unlabelled": float(training.batch * training.unlabelled_ratio),
        "network_images": float(network_images(method, training, more is not None)),
        "tuning_trials": 0.0,
        "recipe": recipe_of(training, config),
        "train_seconds": result.seconds,
    }
    if adapter.augment is not None:
        found["augment_rates"] = _rates(adapter.augment)
    found |= trace.summary() | _domains(adapter.classifier, pair, seed)
    if known:
        found["accuracy"] = result.evaluations[-1].values["accuracy"]
        found["curve_steps"] = np.array([item.step for item in result.evaluations], dtype=float)
        found["curve"] = np.array([item.values["accuracy"] for item in result.evaluations])
        found |= _test_facts(adapter.classifier, pair.test)
    return found | _own_facts(adapter.classifier, pair)


# Arms ----------------------------------------------------------------------------------------------------------------


def training_of(config: Config, arm: str) -> Training:
    """The one configuration; only the arms that are about it differ: twice the steps, and what public ports do."""
    training = Training(
        steps=config.steps, batch=config.batch, unlabelled_ratio=config.unlabelled_ratio, rate=config.rate,
        mirror=config.mirror, strong=config.strong,
    )  # fmt: skip
    if arm == "fixmatch_twice":
        return replace(training, steps=2 * config.steps)
    if arm == "public_ports":
        optimizer = "adam" if "adam" in config.mistakes else "sgd"
        return replace(training, optimizer=optimizer, mirror=config.mirror or "mirror" in config.mistakes)
    return training


def recipe_of(training: Training, config: Config) -> str:
    """A fingerprint of every hyperparameter of method and training."""
    words = f"{training!r} tau={config.tau} norm={config.norm_momentum}"
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def build_method(arm: str, config: Config, n_classes: int, channels: int, seed: int) -> Adaptation:
    """The arm around a network whose weights depend on the seed alone."""
    torch.manual_seed(seed)
    model = _network(config, n_classes, channels)
    ratio = config.unlabelled_ratio
    if arm in ("source_only", "oracle"):
        return SourceOnly(model, n_classes, unlabelled_ratio=ratio)
    if arm in ("fixmatch", "fixmatch_twice"):
        return FixMatch(model, n_classes, threshold=config.tau, unlabelled_ratio=ratio)
    first_pass = "running" if arm == "public_ports" and "running_statistics" in config.mistakes else "batch"
    return AdaMatch(
        model, n_classes, tau=config.tau, unlabelled_ratio=ratio, rules=rules_of(arm, config), first_pass=first_pass
    )


def rules_of(arm: str, config: Config) -> Rules:
    """Which part of the loss an arm exchanges.

    Raises:
        ValueError: an unknown arm.
    """
    known = {
        "adamatch": Rules(),
        "no_interpolation": Rules(interpolate=None),
        "no_alignment": Rules(align=no_alignment),
        "true_law": Rules(law="labels"),
        "fixed_threshold": Rules(threshold=fixed_threshold),
        "public_ports": Rules(align=overall_mean_alignment) if "overall_mean" in config.mistakes else Rules(),
    }
    if arm not in known:
        raise ValueError(f"arm: expected one of {', '.join(known)}, got {arm!r}")
    return known[arm]


def _network(config: Config, n_classes: int, channels: int) -> nn.Module:
    model = (
        wide_resnet(n_classes, channels=channels)
        if config.backbone == "wide_resnet"
        else build_backbone(config.backbone, n_classes, channels)
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = config.norm_momentum
    return model


def network_images(method: Adaptation, training: Training, more: bool) -> int:
    """Images that pass the network with gradients in one step, both views counted."""
    labelled = 2 * training.batch * (2 if more else 1)
    once = labelled + 2 * training.batch * training.unlabelled_ratio
    twice = isinstance(method, AdaMatch) and method.rules.interpolate is not None
    return once + (labelled if twice else 0)


def _sets(point: Point, seed: int, config: Config, pair: Pair) -> tuple[Domain, Domain, Domain | None]:
    """Labelled images, unlabelled images, and labelled target images where the setting has any."""
    if point["arm"] == "oracle":
        return pair.target, pair.target, None
    if point["part"] == "long_tail":
        return pair.source, pair.target.long_tail(config.tail, seed=seed), None
    if point["part"] == "ssl":
        return pair.target.few(point["labels"], seed=seed), pair.target, None
    if point["part"] == "ssda":
        return pair.source, pair.target, pair.target.few(point["labels"], seed=seed)
    return pair.source, pair.target, None


# Measures ------------------------------------------------------------------------------------------------------------


@dataclass
class Trace:
    """Looks at every step: mask rate, threshold, divergence of laws, accuracy of the pseudo-labels that count."""

    steps: int
    truth: Tensor | None
    rows: list[list[float]] = field(default_factory=list)

    def __call__(self, step: int, output: AdaMatchOutput, rows: Tensor) -> None:
        mask = output.mask.float()
        right = float("nan")
        if self.truth is not None and bool(output.mask.any()):
            hits = (output.pseudo_labels == self.truth[rows]).float()
            right = float((hits * mask).sum() / mask.sum())
        self.rows.append([float(mask.mean()), float(output.threshold), float(output.kl), right])

    def summary(self) -> dict[str, Any]:
        """Means over windows of the training, and of its last tenth."""
        table = np.array(self.rows)
        cuts = np.array_split(np.arange(len(table)), min(_WINDOWS, len(table)))
        names = ("mask", "threshold", "law_divergence", "pseudo_accuracy")
        curves = {
            f"{name}_curve": np.array([_mean(table[cut, column]) for cut in cuts]) for column, name in enumerate(names)
        }
        last = table[-max(1, len(table) // 10) :]
        ends = {"mask_rate": _mean(last[:, 0]), "threshold": _mean(last[:, 1]), "pseudo_accuracy": _mean(last[:, 3])}
        return curves | ends | {"trace_steps": np.array([float(cut[-1] + 1) for cut in cuts])}


def _mean(values: np.ndarray) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _accuracy(model: nn.Module, test: Domain) -> float:
    return float((predict(model, test.images).argmax(1) == test.known()).float().mean())


def _test_facts(model: nn.Module, test: Domain) -> dict[str, Any]:
    """Confusion (true, predicted), and how often each confidence is right."""
    confidence, best = predict(model, test.images).max(1)
    truth, classes = test.known(), len(test.classes)
    confusion = torch.bincount(truth * classes + best, minlength=classes**2).view(classes, classes)
    bins = (confidence * _BINS).long().clamp(max=_BINS - 1)
    right = (best == truth).float()
    counts = torch.bincount(bins, minlength=_BINS)
    hits, sums = (torch.bincount(bins, weights=values, minlength=_BINS) for values in (right, confidence))
    return {
        "confusion": confusion.numpy(),
        "reliability": torch.stack([counts.float(), hits, sums]).numpy().astype(float),
    }


def _domains(model: nn.Module, pair: Pair, seed: int) -> dict[str, Any]:
    """Two principal components of some features of both domains: columns x, y, is target, class (-1: unknown)."""
    if not callable(getattr(model, "features", None)):
        return {}
    parts, marks = [], []
    for number, domain in enumerate((pair.source, pair.target)):
        order = np.random.default_rng((seed, number)).permutation(len(domain))[:_SHOWN_PER_DOMAIN]
        some = domain.take(torch.from_numpy(order))
        parts.append(predict(model, some.images, features=True))
        labels = torch.full((len(some),), -1) if some.labels is None else some.labels
        marks.append(torch.stack([torch.full((len(some),), number), labels], 1))
    features = torch.cat(parts)
    centred = features - features.mean(0)
    axes = torch.linalg.svd(centred.double(), full_matrices=False)[2][:2]
    # A component's sign is arbitrary: the largest entry shall be positive.
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return {"features": torch.cat([centred.double() @ axes.T, torch.cat(marks).double()], 1).numpy()}


def _own_facts(model: nn.Module, pair: Pair) -> dict[str, Any]:
    """Predicted class frequencies of the target, those of the source's labels, and agreement between views."""
    from paperworks.data.augment import RandAugment, WeakStrong

    classes = len(pair.source.classes)
    size = (pair.target.images.shape[2], pair.target.images.shape[3])
    views = WeakStrong(size, weak="shift", strong=RandAugment())
    weak, strong = views(pair.target.images, generator=torch.Generator().manual_seed(0))
    plain, changed = (predict(model, view).argmax(1) for view in (weak, strong))
    probs = predict(model, pair.target.images)
    law, source = (
        torch.bincount(labels, minlength=classes).double() / len(labels)
        for labels in (probs.argmax(1), pair.source.known())
    )
    facts: dict[str, Any] = {
        "predicted_law": law.numpy(),
        "source_law": source.numpy(),
        "view_agreement": float((plain == changed).float().mean()),
        "law_distance": float((law - source).abs().sum() / 2),
    }
    if pair.name == "own":
        facts["predictions"] = probs.argmax(1).numpy()
        facts["confidences"] = probs.amax(1).numpy().astype(float)
    return facts


def _rates(augment: CTAugment) -> np.ndarray:
    """(operations, bins): rates of each operation's first parameter, nan where there is no bin."""
    table, valid = augment.table[:, 0], augment.valid[:, 0]
    return torch.where(valid, table, torch.nan).cpu().numpy().astype(float)
