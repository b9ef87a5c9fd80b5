"""Train a classifier for images without labels, from images of other looks with labels."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from paperworks._files import atomic_file
from paperworks.data.errors import DataError
from paperworks.learning.adamatch.domains import Domain, as_channels, check_domains, read_domain, renumbered
from paperworks.learning.adamatch.loss import AdaMatchOutput
from paperworks.learning.adamatch.method import AdaMatch
from paperworks.learning.adamatch.networks import cnn5
from paperworks.learning.adamatch.training import Images, Training, predict, train
from paperworks.train.progress import Progress, Report

STEPS = 700
PHOTOS = Training(mirror=True)


@dataclass(frozen=True)
class Classifier:
    """A trained network with what it needs to read images.

    Attributes:
        model: the averaged network, in evaluation mode.
        backbone: "cnn5" or a name of timm.
        classes: names, by index.
        image_size, channels: what the network takes.
        source_law, target_law: (C,) mean predictions on weak source and target images at the end of training.
        mask_rate: share of target images whose pseudo-label counted, over the last tenth of the steps.
    """

    model: nn.Module
    backbone: str
    classes: tuple[str, ...]
    image_size: int
    channels: int
    source_law: np.ndarray
    target_law: np.ndarray
    mask_rate: float

    def probabilities(self, images: Tensor) -> Tensor:
        """(N, C) of uint8 or float images (N, channels, s, s)."""
        return predict(self.model, images)

    def predict(self, images: Domain | str | os.PathLike[str]) -> pd.DataFrame:
        """A row per image of a folder, an `.npz` or a `Domain`: file, label, confidence.

        Raises:
            DataError: unreadable images.
        """
        if not isinstance(images, Domain):
            images = read_domain(images, image_size=self.image_size, channels=self.channels)
        confidence, best = self.probabilities(as_channels(images, self.channels).images).max(1)
        names = images.names or tuple(f"image {number}" for number in range(len(images)))
        words = [self.classes[number] for number in best.tolist()]
        return pd.DataFrame({"file": names, "label": words, "confidence": confidence.numpy()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file, which `Classifier.load` reads."""
        content = {
            "state": self.model.state_dict(), "backbone": self.backbone, "classes": list(self.classes),
            "image_size": self.image_size, "channels": self.channels, "mask_rate": self.mask_rate,
            "source_law": self.source_law.tolist(), "target_law": self.target_law.tolist(),
        }  # fmt: skip
        with atomic_file(path) as stream:
            torch.save(content, stream)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Classifier:
        """What `save` wrote.

        Raises:
            DataError: the file is not that.
        """
        try:
            content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            state = content.pop("state")
            laws = {name: np.array(content.pop(name)) for name in ("source_law", "target_law")}
            classes = tuple(content.pop("classes"))
            model = build_backbone(content["backbone"], len(classes), content["channels"])
            model.load_state_dict(state)
        except (OSError, KeyError, TypeError, AttributeError, RuntimeError, UnpicklingError) as error:
            raise DataError(f"{path}: cannot be read as a saved classifier ({error})") from error
        return cls(model.eval(), classes=classes, **laws, **content)


def build_backbone(backbone: str, n_classes: int, channels: int) -> nn.Module:
    """`cnn5`, or timm's model of that name with untrained weights.

    Raises:
        ValueError: timm knows no such model.
        ImportError: timm is not installed.
    """
    if backbone == "cnn5":
        return cnn5(n_classes, channels=channels)
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"backbone: {backbone} needs timm: pip install 'paperworks[learning]'") from error
    if not timm.is_model(backbone):
        raise ValueError(f"backbone: expected cnn5 or a name of timm, got {backbone!r}")
    return timm.create_model(backbone, pretrained=False, num_classes=n_classes, in_chans=channels)


def fit_adapt(
    source: Domain | str | os.PathLike[str],
    target: Domain | str | os.PathLike[str],
    target_labelled: Domain | str | os.PathLike[str] | None = None,
    *,
    backbone: str = "cnn5",
    image_size: int = 32,
    steps: int = STEPS,
    seed: int = 0,
    training: Training = PHOTOS,
    progress: Progress | Report | None = None,
    fabric: Fabric | None = None,
) -> Classifier:
    """Train by AdaMatch on labelled source and unlabelled target images; labels that the target has are not looked at.

    Args:
        source: a folder with class sub-folders, an `.npz` with images and labels, or a `Domain`.
        target: a folder, with or without sub-folders, an `.npz`, or a `Domain`.
        target_labelled: some labelled target images: semi-supervised domain adaptation.
        backbone: "cnn5", or a model of timm with batch norm, such as "resnet18".
        image_size: side to which images are resized.
        steps: optimiser steps; 700 are the least that a small problem needs.
        seed: of weights, batches and views.
        training: the other hyperparameters; images are mirrored by default, which digits and letters do not bear.
        progress, fabric: as for `paperworks.train.fit`.

    Raises:
        DataError: images or labels that do not fit; names folder and class.
        ValueError: an option out of range.
    """
    source, target, more = _read(source, target, target_labelled, image_size)
    torch.manual_seed(seed)
    model = build_backbone(backbone, len(source.classes), source.images.shape[1])
    options = replace(training, steps=steps)
    method = AdaMatch(model, len(source.classes), unlabelled_ratio=options.unlabelled_ratio)
    kept: list[Tensor] = []

    def watch(step: int, output: AdaMatchOutput, rows: Tensor) -> None:
        if step >= int(0.9 * steps):
            kept.append(output.mask.float().mean())

    images = Images(source.images, source.known(), target.images, None if more is None else (more.images, more.known()))
    adapter, _ = train(method, images, options, seed=seed, watch=watch, progress=progress, fabric=fabric)
    averages = method.averages
    return Classifier(
        adapter.classifier.cpu().eval(), backbone, source.classes, source.images.shape[2], source.images.shape[1],
        averages.source.cpu().numpy(), averages.target.cpu().numpy(), float(torch.stack(kept).mean()),
    )  # fmt: skip


def _read(source: Any, target: Any, more: Any, image_size: int) -> tuple[Domain, Domain, Domain | None]:
    """All domains, checked, of one size and with the same channels."""

    def read(given: Any, labelled: bool | None) -> Domain:
        return (
            given if isinstance(given, Domain) else read_domain(Path(given), image_size=image_size, labelled=labelled)
        )

    found = [read(source, True), read(target, None), *([] if more is None else [read(more, True)])]
    check_domains(found[0], found[1], found[2] if len(found) > 2 else None)
    channels = max(domain.images.shape[1] for domain in found)
    found = [renumbered(as_channels(domain, channels), found[0].classes) for domain in found]
    sizes = {tuple(domain.images.shape[2:]) for domain in found}
    if len(sizes) > 1:
        raise DataError(f"source, target: expected images of one size, got {sorted(sizes)}")
    return found[0], found[1], found[2] if len(found) > 2 else None
