"""The arms of the study: built, trained alike, and measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperworks.lab.baseline import is_baseline, load_baseline
from paperworks.nn.macs import count_macs
from paperworks.nn.small_conv import SmallConvNet
from paperworks.representation.ssl_hsic.estimators import mmd2
from paperworks.representation.ssl_hsic.images import ImageSet
from paperworks.representation.ssl_hsic.loss import infonce_second_order, ssl_hsic_loss
from paperworks.representation.ssl_hsic.model import SSLHSIC
from paperworks.representation.ssl_hsic.width import KernelWidth, optimum_exists
from paperworks.train.batches import EpochBatches
from paperworks.train.contrast import BYOL, SimCLR, infonce_loss, resolve_backbone
from paperworks.train.devices import make_fabric
from paperworks.train.evaluation import Evaluation
from paperworks.train.loop import Budget, FitResult, fit
from paperworks.train.optim import adamw
from paperworks.train.probes import alignment, effective_rank, embed_images, knn_probe, linear_probe, uniformity
from paperworks.train.random import isolated_generators
from paperworks.train.schedules import warmup_cosine
from paperworks.train.self_supervised import Views, fit_self_supervised
from paperworks.train.step import Recipe

ARMS = ("ssl_hsic", "ssl_hsic_target", "simclr", "byol", "gamma0")
REFERENCES = ("random_init", "pixels", "blurred_pixels", "supervised")
TEMPERATURES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_MMD_IMAGES, _MMD_VIEWS = 16, 16
_LOOK_BANK, _LOOK_QUERIES = 2000, 1000  # images of the neighbours that are looked at during training


@dataclass(frozen=True)
class Lesson:
    """What all arms share: backbone, heads, batch, steps."""

    backbone: str
    widths: tuple[int, ...]
    hidden: int
    out: int
    batch: int
    steps: int
    optimizer: Literal["adamw", "lars"]
    weight_decay: float
    warmup: float
    kernel_width: Literal["solve", "adam"]
    looks: int


@dataclass(frozen=True)
class Setting:
    """What is an arm's own."""

    rate: float
    gamma: float = 3.0
    temperature: float = 0.2
    momentum: float = 0.99
    kernel: str = "imq"
    features: int | None = None
    width: float | None = None


def build(arm: str, lesson: Lesson, setting: Setting, channels: int) -> nn.Module:
    """The untrained model of an arm, or of a user's `file.py:function`, called with the backbone.

    Raises:
        ValueError: an unknown arm.
    """
    backbone = make_backbone(lesson, channels)
    heads: dict[str, Any] = {"projector": (lesson.hidden, lesson.out)}
    if is_baseline(arm):
        return load_baseline(arm)(backbone)
    if arm == "simclr":
        return SimCLR(backbone, temperature=setting.temperature, **heads)
    if arm == "byol":
        return BYOL(backbone, momentum=setting.momentum, predictor=heads["projector"], **heads)
    if arm not in ARMS:
        raise ValueError(f"arms: expected some of {', '.join(ARMS)}, got {arm!r}")
    target = arm == "ssl_hsic_target"
    options: Any = {"kernel": setting.kernel, "estimator": "exact" if setting.features is None else "features"}
    options |= {} if setting.features is None else {"features": setting.features}
    return SSLHSIC(
        backbone,
        target=target,
        gamma=0.0 if arm == "gamma0" else setting.gamma,
        width=lesson.kernel_width if setting.width is None else setting.width,
        momentum=setting.momentum,
        predictor=heads["projector"] if target else (),
        objective=partial(ssl_hsic_loss, **options),
        **heads,
    )


def make_backbone(lesson: Lesson, channels: int) -> nn.Module:
    """The small network, or one of timm's by its name."""
    if lesson.backbone == "small":
        return SmallConvNet(channels, lesson.widths, stride_first=1)
    import timm

    return timm.create_model(lesson.backbone, pretrained=False, num_classes=0, in_chans=channels)


def train_arm(
    arm: str, lesson: Lesson, setting: Setting, images: ImageSet, views: Views, *, seed: int, progress: Any = None
) -> dict[str, Any]:
    """Train and measure one arm. Same seed: same first weights of the backbone, batches and views in every arm."""
    with isolated_generators(seed, torch.device("cpu")):
        model = build(arm, lesson, setting, images.train.shape[1])
    sample = two_views(views, images.train[:: max(1, len(images.train) // lesson.batch)][: lesson.batch], seed)
    cost = {"parameters": _trainable(model), "macs": _macs(model, sample)}
    result = fit_self_supervised(
        model,
        images.train,
        views=views,
        steps=lesson.steps,
        learning_rate=setting.rate,
        seed=seed,
        batch_size=lesson.batch,
        weight_decay=lesson.weight_decay,
        warmup=lesson.warmup,
        optimizer=lesson.optimizer,
        evaluation=_looks(lesson, partial(look, images=images, sample=sample)),
        progress=progress,
    )
    fitted = {"loss": result.losses[-1], "steps": float(result.steps), "images": float(result.steps * lesson.batch)}
    if result.stopped_because == "diverged":
        return cost | fitted | {"diverged": 1.0, "accuracy": 0.0, "knn": 0.0}
    measured = cost | fitted | {"diverged": 0.0} | measure(model, images, sample) | _curves(result, lesson)
    return measured | theory(model, sample, views, images.test, seed)


def train_supervised(
    lesson: Lesson, images: ImageSet, views: Views, *, rate: float, seed: int, progress: Any = None
) -> dict[str, Any]:
    """The same backbone, batches and views with labels: a linear classifier and cross-entropy on both views.

    Raises:
        ValueError: images without labels.
    """
    if images.train_labels is None:
        raise ValueError("labels: a supervised reference needs classes")
    with isolated_generators(seed, torch.device("cpu")):
        model = _Classifier(make_backbone(lesson, images.train.shape[1]), images.train_labels)
    batches = EpochBatches((images.train, images.train_labels), size=lesson.batch, seed=seed, drop_last=True)

    def drawn(position: int) -> tuple[Tensor, Tensor]:
        pixels, labels = batches(position)
        own = int(np.random.SeedSequence((seed, position)).generate_state(1)[0])
        return torch.cat(two_views(views, pixels, own)), labels.repeat(2)

    result = fit(
        model,
        lambda network, batch: F.cross_entropy(network(batch[0]).float(), batch[1]),
        drawn,
        recipe=Recipe(
            partial(adamw, lr=rate, weight_decay=lesson.weight_decay),
            schedule=warmup_cosine(lesson.steps, min(round(lesson.warmup * lesson.steps), lesson.steps - 1)),
            clip=5.0,
        ),
        budget=Budget(steps=lesson.steps),
        seed=seed,
        progress=progress,
        fabric=make_fabric(precision="mixed"),
    )
    return measure(model, images) | {"loss": result.losses[-1], "steps": float(result.steps)}


class _Classifier(nn.Module):
    def __init__(self, backbone: nn.Module, labels: Tensor):
        super().__init__()
        self.backbone, width = resolve_backbone(backbone, None)
        self.last = nn.Linear(width, int(labels.max()) + 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.backbone(images))

    def embed(self, images: Tensor) -> Tensor:
        return self.backbone(images)


def reference(name: str, lesson: Lesson, images: ImageSet, *, seed: int) -> dict[str, Any]:
    """What needs no training: an untrained backbone, or the nearest neighbour of pixels, plain or blurred."""
    if name == "random_init":
        with isolated_generators(seed, torch.device("cpu")):
            model = SimCLR(make_backbone(lesson, images.train.shape[1]), projector=(2,))
        return measure(model, images)
    train, test = (part.float() / 255 for part in (images.train, images.test))
    if name == "blurred_pixels":
        train, test = (F.avg_pool2d(part, 5, stride=1, padding=2, count_include_pad=False) for part in (train, test))
    probe = knn_probe(train.flatten(1), images.train_labels, test.flatten(1), images.test_labels, k=1)
    return {"knn": probe.accuracy}


# Measures ------------------------------------------------------------------------------------------------------------


def measure(model: Any, images: ImageSet, sample: tuple[Tensor, Tensor] | None = None) -> dict[str, float]:
    """Linear and nearest-neighbour accuracy of backbone features where there are labels, and label-free measures."""
    train, test = (embed_images(model, part) for part in (images.train, images.test))
    found = {"effective_rank": effective_rank(test), "uniformity": uniformity(test)}
    if sample is not None:
        found["alignment"] = alignment(*(embed_images(model, view) for view in sample))
    if images.train_labels is None or images.test_labels is None:
        return found
    found["accuracy"] = linear_probe(train, images.train_labels, test, images.test_labels).accuracy
    neighbours = min(20, len(train))
    return found | {"knn": knn_probe(train, images.train_labels, test, images.test_labels, k=neighbours).accuracy}


def look(model: Any, *, images: ImageSet, sample: tuple[Tensor, Tensor]) -> dict[str, float]:
    """In the course of training: neighbours on a part of the images, HSIC terms of the two views, and the width."""
    z = _compared(model, sample)
    width = KernelWidth()
    best = width.solve(z.flatten(0, 1)) if optimum_exists(z.flatten(0, 1)) else math.nan
    used = float(model.width.width) if isinstance(model, SSLHSIC) else (best if best == best else 1.0)
    terms = ssl_hsic_loss(z, gamma=1.0, c=used, estimator="exact", validate=False)
    found = {"width": used, "best_width": best}
    found |= {"hsic_zy": float(terms.hsic_zy), "root_hsic_zz": float(terms.hsic_zz) ** 0.5}
    if images.train_labels is None or images.test_labels is None:
        return found
    rows = [
        torch.arange(0, len(part), max(1, len(part) // most))
        for part, most in ((images.train, _LOOK_BANK), (images.test, _LOOK_QUERIES))
    ]
    bank, queries = (
        embed_images(model, part[chosen]) for part, chosen in zip((images.train, images.test), rows, strict=True)
    )
    labels = images.train_labels[rows[0]], images.test_labels[rows[1]]
    return found | {"knn": knn_probe(bank, labels[0], queries, labels[1], k=min(20, len(bank))).accuracy}


def theory(model: Any, sample: tuple[Tensor, Tensor], views: Views, test: Tensor, seed: int) -> dict[str, np.ndarray]:
    """InfoNCE and its second-order expansion on trained features; MMD^2 between the views of some test images."""
    device = next(model.parameters()).device
    z1, z2 = _compared(model, sample)
    losses = [
        [float(infonce_loss(z1, z2, temperature=t, negatives="across")) - math.log(len(z1)) for t in TEMPERATURES],
        [float(_symmetric_expansion(z1, z2, t)) for t in TEMPERATURES],
    ]
    chosen = test[:: max(1, len(test) // _MMD_IMAGES)][:_MMD_IMAGES]
    pairs = [two_views(views, chosen, seed + number) for number in range(_MMD_VIEWS // 2)]
    z = torch.cat([_compared(model, (a.to(device), b.to(device))) for a, b in pairs])
    c = model.width.width if isinstance(model, SSLHSIC) else 1.0
    kernel: Any = partial(_imq, c=c)
    gaps = [[float(mmd2(z[:, i], z[:, j], kernel=kernel)) for j in range(z.shape[1])] for i in range(z.shape[1])]
    return {"infonce": np.array(losses), "mmd": np.array(gaps)}


def _symmetric_expansion(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    both = [infonce_second_order(*pair, temperature=temperature) for pair in ((z1, z2), (z2, z1))]
    return (both[0] + both[1]) / 2


def _imq(x: Tensor, y: Tensor, *, c: Any) -> Tensor:
    from paperworks.representation.ssl_hsic.kernels import imq_kernel

    return imq_kernel(x, y, c=c)


def two_views(views: Callable[..., Any], images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A pair of views by a seed of their own."""
    first, second = views(images, generator=torch.Generator(images.device).manual_seed(seed))
    return first, second


def _compared(model: Any, sample: tuple[Tensor, Tensor]) -> Tensor:
    """(2, B, D) float32: what the method compares of two views; of other models, their features."""
    mode = model.training
    device = next(model.parameters()).device
    with torch.no_grad():
        model.eval()
        output = model(*(view.to(device) for view in sample))
        model.train(mode)
    if hasattr(output, "views"):
        return output.views[:2].float()
    if hasattr(output, "z1"):
        return torch.stack([output.z1, output.z2]).float()
    with torch.no_grad():
        return torch.stack([F.normalize(model.embed(view.to(device)).float(), dim=1) for view in sample])


def _trainable(model: nn.Module) -> float:
    return float(sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad))


def _macs(model: nn.Module, sample: tuple[Tensor, Tensor]) -> float:
    """Multiply-adds of a forward pass, per image (two views)."""
    few = [view[: min(64, len(view))] for view in sample]
    with torch.no_grad():
        mode = model.training
        model.eval()
        total = count_macs(model, *few).total
        model.train(mode)
    return total / len(few[0])


def _looks(lesson: Lesson, function: Callable[[Any], Mapping[str, float]]) -> Evaluation | None:
    return None if lesson.looks < 1 else Evaluation(function, every=max(1, lesson.steps // lesson.looks))


def _curves(result: FitResult, lesson: Lesson) -> dict[str, np.ndarray]:
    curves = {"curve_images": np.array([item.step * lesson.batch for item in result.evaluations], float)}
    names = result.evaluations[0].values if result.evaluations else ()
    return curves | {f"curve_{name}": np.array([item.values[name] for item in result.evaluations]) for name in names}
