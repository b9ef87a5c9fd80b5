"""Does SSL-HSIC do as well as InfoNCE and BYOL under one budget, and does it need its regulariser?

All arms train the same backbone on the same images, batches and random views, for the same steps, with one optimiser;
each was tuned by as many trials on pilot seeds. Judged is a linear classifier on the frozen backbone's features, on
images of classes that were seen and instances that were not, paired by seed; each seed has an alphabet of its own.
References without a verdict: an untrained backbone, nearest neighbours of pixels, and the same backbone with labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import tyro

from paperworks.data.errors import DataMissing
from paperworks.lab.claim import Claim, Condition, Guard, NotMeasurable, difference, per_seed
from paperworks.lab.study import Loaded, Point, Progress, Request, Study
from paperworks.representation.ssl_hsic import views
from paperworks.representation.ssl_hsic.images import SetName, ViewName
from paperworks.representation.ssl_hsic.training import ARMS, REFERENCES, Lesson
from paperworks.representation.ssl_hsic.tuning import TRIALS, Tuned, setting_of, tuned_settings

if TYPE_CHECKING:
    from paperworks.representation.ssl_hsic.images import ImageSet

MARGIN = 0.02
GAMMAS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
FEATURES = (64, 128, 256, 512, 1024, 2048)
WIDTHS = (0.3, 1.0, 3.0)
BATCHES = (32, 64, 128, 512, 1024)


@dataclass(frozen=True)
class Config:
    """Every number of the study."""

    images: SetName = "glyphs"
    """glyphs (embedded), omniglot_small, cifar10_jpeg, or folder: only one's own, by --data."""
    image_size: int = 20
    """Side of the images, pixels."""
    classes: int = 100
    """Characters of an alphabet."""
    per_class: int = 40
    """Training images of each."""
    test_per_class: int = 100
    """Test images of each: 10,000, so that a run's own sampling error is half a point."""
    views: ViewName = "auto"
    """affine (characters), byol (colour), or auto: by the images' channels."""
    arms: tuple[str, ...] = ARMS
    """ssl_hsic (no target), ssl_hsic_target, simclr, byol, gamma0 (no regulariser, no target)."""
    references: tuple[str, ...] = REFERENCES
    """random_init, pixels, blurred_pixels, supervised."""
    backbone: str = "small"
    """small, or the name of a timm model."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels of the small convolutional backbone."""
    hidden: int = 512
    """Hidden width of projector and predictor."""
    out: int = 128
    """Width of what is compared."""
    batch: int = 256
    """Images per step."""
    steps: int = 240
    """Optimiser steps, the same for every arm. Too few reverse the comparison with gamma0."""
    optimizer: Literal["adamw", "lars"] = "adamw"
    """The same for every arm."""
    weight_decay: float = 0.05
    """On tensors of two or more dimensions."""
    rate: float | None = None
    """One learning rate for all arms, with the papers' own gamma, temperature and momentum; None: as tuned."""
    kernel_width: Literal["solve", "adam"] = "solve"
    """solve: the batch's optimum every ten steps; adam: the paper's rule, for long runs."""
    warmup: float = 0.1
    """Part of the steps in which the rate rises; then half a cosine down."""
    looks: int = 4
    """Times that neighbours, loss terms and width are looked at during training; nothing depends on them."""
    supervised_rate: float = 4e-3
    """Learning rate of the supervised reference."""
    estimators: bool = True
    """Measure bias and spread of the estimate by random features, once."""
    search: bool = False
    """Run the equal search (five trials an arm on pilot seeds) in place of the study."""
    search_seeds: int = 2
    """Pilot seeds of the search, from 0."""
    ablation: bool = False
    """Run ssl_hsic with other weights, features, kernels, widths and batches in place of the study."""
    tuned: Annotated[Tuned, tyro.conf.Suppress] = field(default_factory=tuned_settings)
    """The tuned settings, part of every trial's key."""

    def lesson(self) -> Lesson:
        """What all arms share."""
        return Lesson(
            self.backbone, self.widths, self.hidden, self.out, self.batch, self.steps, self.optimizer,
            self.weight_decay, self.warmup, self.kernel_width, self.looks,
        )  # fmt: skip


SCALES = {
    "smoke": Config(
        image_size=12, classes=6, per_class=12, test_per_class=6, widths=(8, 16), hidden=32, out=16, batch=24, steps=6,
        looks=2,
    ),
    "demo": Config(test_per_class=20, arms=("ssl_hsic", "simclr"), references=("random_init", "blurred_pixels")),
    "search": Config(search=True, test_per_class=20, looks=0),
    "ablation": Config(ablation=True, test_per_class=20),
    "laptop": Config(),
    # ImageNet-1k by --data, 1,000 epochs; the folder is read into memory.
    "paper": Config(
        images="folder", image_size=224, backbone="resnet50", hidden=4096, out=256, batch=4096, steps=312_000,
        optimizer="lars", weight_decay=1e-6, rate=6.4, warmup=0.01, kernel_width="adam", looks=20,
    ),
}  # fmt: skip


# Data ----------------------------------------------------------------------------------------------------------------


def load(config: Config, request: Request) -> Loaded:
    """Glyphs are drawn anew for each seed; all other images are the same for all seeds."""
    from paperworks.representation.ssl_hsic import images as sets

    _check(config)
    if request.path is not None:
        if request.columns:
            raise ValueError("columns: pictures in a folder have none; class folders are the labels")
        found, name = sets.read_image_folder(request.path, config.image_size), Path(request.path).name
    elif config.images == "glyphs":
        numbers = (config.classes, config.per_class, config.test_per_class, config.image_size)
        said = f"glyphs, {config.classes} characters with {config.per_class} training and {config.test_per_class} test "
        first = sets.glyph_set(2, 2, 2, image_size=config.image_size, seed=0).fingerprint
        fingerprint = hashlib.sha256(f"{numbers} {first}".encode()).hexdigest()
        return Loaded({"images": None, "labelled": True}, fingerprint, (f"{said}images; each seed has its alphabet",))
    elif config.images in ("omniglot_small", "cifar10_jpeg"):
        found, name = sets.benchmark_set(config.images, config.image_size), config.images
    elif config.images == "folder":
        raise DataMissing("images: this scale needs a folder of pictures, one folder a class: --data FOLDER")
    else:
        raise ValueError(f"images: expected glyphs, omniglot_small, cifar10_jpeg or folder, got {config.images!r}")
    if len(found.train) < config.batch:
        raise ValueError(
            f"{name}: has {len(found.train)} training images, fewer than a batch of {config.batch}; set --batch lower"
        )
    sizes = f"{len(found.train)} training and {len(found.test)} test images of {config.image_size} pixels"
    labelled = found.train_labels is not None
    return Loaded(
        {"images": found, "labelled": labelled}, found.fingerprint, (*found.notes, f"{name}, {sizes}; seeds vary "
        "initialisation, batches and views alone, so an interval does not cover other images"),
    )  # fmt: skip


def _check(config: Config) -> None:
    for name, known in (("arms", ARMS), ("references", REFERENCES)):
        if unknown := [item for item in getattr(config, name) if item not in known]:
            raise ValueError(f"{name}: expected some of {', '.join(known)}, got {unknown[0]!r}")
    if config.images == "glyphs" and not 2 <= config.batch <= config.classes * config.per_class:
        raise ValueError(
            f"batch: expected 2 to {config.classes * config.per_class} (the training images), got {config.batch}"
        )


def _images(config: Config, data: Mapping[str, Any], seed: int) -> ImageSet:
    from paperworks.representation.ssl_hsic.images import glyph_set

    if data["images"] is not None:
        return data["images"]
    counts = config.classes, config.per_class, config.test_per_class
    return glyph_set(*counts, image_size=config.image_size, seed=seed)


# Trials --------------------------------------------------------------------------------------------------------------


def points(config: Config, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every arm, and what it is held against; or the search; or the ablation."""
    if config.search:
        return [{"part": "search", "arm": arm} for arm in config.arms]
    grid: list[dict[str, Any]] = [{"part": "train", "arm": arm} for arm in config.arms]
    if config.ablation:
        levels = [
            *(("gamma", f"{gamma:g}") for gamma in GAMMAS),
            *(("features", str(count)) for count in FEATURES),
            *(("kernel", kernel) for kernel in ("rbf", "linear")),
            *(("width", f"{width:g}") for width in WIDTHS),
            *(("batch", str(batch)) for batch in BATCHES),
        ]
        return [{"part": "ablation", "arm": "ssl_hsic", "factor": "none", "level": "as in the study"}] + [
            {"part": "ablation", "arm": "ssl_hsic", "factor": factor, "level": level} for factor, level in levels
        ]
    grid += [{"part": "reference", "arm": name} for name in config.references if data["labelled"]]
    return grid + ([{"part": "estimators", "arm": "ssl_hsic"}] if config.estimators else [])


def trial(point: Point, seed: int, config: Config, data: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Train and measure an arm, a variant of it or a reference; or search; or look at the estimators."""
    from paperworks.representation.ssl_hsic import training
    from paperworks.representation.ssl_hsic.images import make_views

    if point["part"] == "estimators":
        from paperworks.representation.ssl_hsic.spread import estimator_spread

        return dict(estimator_spread(FEATURES[:4]))
    if point["part"] == "search":
        return _search(point["arm"], config, data, progress)
    images, lesson = _images(config, data, seed), config.lesson()
    drawn = make_views(config.views, images.train)
    if point["part"] == "reference":
        if point["arm"] == "supervised":
            return training.train_supervised(
                lesson, images, drawn, rate=config.supervised_rate, seed=seed, progress=progress
            )
        return training.reference(point["arm"], lesson, images, seed=seed)
    setting, trials = setting_of(point["arm"], config.tuned)
    if config.rate is not None:
        setting, trials = training.Setting(config.rate), 0
    if point["part"] == "ablation":
        lesson, setting = _varied(point, lesson, setting)
    found = training.train_arm(point["arm"], lesson, setting, images, drawn, seed=seed, progress=progress)
    return found | {"tuning_trials": float(trials), "rate": setting.rate}


def _search(arm: str, config: Config, data: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    from paperworks.representation.ssl_hsic.images import make_views
    from paperworks.representation.ssl_hsic.training import Setting, train_arm
    from paperworks.representation.ssl_hsic.tuning import search

    if not data["labelled"]:
        raise ValueError("search: needs labels")
    done = 0

    def accuracy(setting: Setting, seed: int) -> float:
        nonlocal done
        images = _images(config, data, seed)
        found = train_arm(arm, config.lesson(), setting, images, make_views(config.views, images.train), seed=seed)
        done += 1
        progress(done / (TRIALS * config.search_seeds), accuracy=found["accuracy"])
        return found["accuracy"]

    return search(arm, accuracy, seeds=range(config.search_seeds))


def _varied(point: Point, lesson: Lesson, setting: Any) -> tuple[Lesson, Any]:
    factor, level = point["factor"], point["level"]
    if factor == "batch":
        # As many images are seen, so that small batches take more steps.
        return replace(lesson, batch=int(level), steps=max(1, lesson.steps * lesson.batch // int(level))), setting
    if factor == "none":
        return lesson, setting
    kind = {"gamma": float, "features": int, "kernel": str, "width": float}[factor]
    return lesson, replace(setting, **{factor: kind(level)})


# Claims --------------------------------------------------------------------------------------------------------------


def arm(name: str) -> dict[str, str]:
    return {"part": "train", "arm": name}


def gain(name: str, against: str, column: str = "accuracy") -> Any:
    """Accuracy of one trained arm minus another's, paired by seed."""
    return difference(column, arm(name), arm(against))


def over_untrained(name: str) -> Any:
    """Accuracy minus that of the untrained backbone, paired by seed."""
    return difference("accuracy", arm(name), {"part": "reference", "arm": "random_init"})


def _headroom(name: str, least: float) -> Guard:
    """The instrument works: a rival of known worth learns something that the untrained backbone does not have."""

    def check(frame: pd.DataFrame) -> str | None:
        try:
            gained = float(np.mean(over_untrained(name)(frame)))
        except NotMeasurable as missing:
            return f"no headroom known: {missing}"
        return None if gained >= least else f"no headroom: {name} gains {gained:.3f}, expected {least:g}"

    return Guard(f"{name} beats the untrained backbone", check)


def _tuned_alike(*names: str) -> Guard:
    def check(frame: pd.DataFrame) -> str | None:
        for name in names:
            trials = float(per_seed(frame, "tuning_trials", arm(name)).iloc[0])
            if trials != TRIALS:
                return f"{name} was tuned by {trials:g} trials, expected {TRIALS}; see tuning.toml"
        return None

    return Guard("equal tuning", check)


def _all_converged(*names: str) -> Guard:
    def check(frame: pd.DataFrame) -> str | None:
        for name in names:
            if float(per_seed(frame, "diverged", arm(name)).max()) > 0:
                return f"{name} diverged in some seed"
        return None

    return Guard("no arm diverged", check)


def _guards(*names: str) -> tuple[Guard, ...]:
    return _headroom("simclr", 0.15), _tuned_alike(*names), _all_converged(*names)


CLAIMS = (
    Claim(
        "infonce",
        (Condition("linear accuracy, SSL-HSIC - SimCLR (InfoNCE), no target", gain("ssl_hsic", "simclr"), -MARGIN),),
        arms=("ssl_hsic", "simclr"),
        guards=_guards("ssl_hsic", "simclr"),
        shown=(Condition("neighbours, SSL-HSIC - SimCLR", gain("ssl_hsic", "simclr", "knn"), -MARGIN),),
    ),
    Claim(
        "byol",
        (Condition("linear accuracy, SSL-HSIC with target - BYOL", gain("ssl_hsic_target", "byol"), -MARGIN),),
        arms=("ssl_hsic_target", "byol"),
        guards=(*_guards("ssl_hsic_target", "byol"), _headroom("byol", 0.10)),
        shown=(
            Condition("neighbours, SSL-HSIC with target - BYOL", gain("ssl_hsic_target", "byol", "knn"), -MARGIN),
            Condition("linear accuracy, SSL-HSIC with - without target", gain("ssl_hsic_target", "ssl_hsic"), 0.0),
        ),
    ),
    Claim(
        "regulariser",
        (Condition("linear accuracy, SSL-HSIC - gamma = 0", gain("ssl_hsic", "gamma0"), 0.0),),
        arms=("ssl_hsic", "gamma0"),
        guards=_guards("ssl_hsic", "gamma0"),
        shown=(
            Condition("effective rank, SSL-HSIC - gamma = 0", gain("ssl_hsic", "gamma0", "effective_rank"), 0.0),
            Condition("linear accuracy, gamma = 0 - untrained backbone", over_untrained("gamma0"), 0.0),
        ),
    ),
)  # fmt: skip


def budget(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm: parameters, multiply-adds of a forward pass per image, steps, images, tuning trials, CPU seconds."""
    columns = ["parameters", "macs", "steps", "images", "tuning_trials", "cpu_seconds"]
    rows = frame[frame["part"] == "train"]
    if rows.empty:
        return pd.DataFrame(columns=columns, dtype=float)
    return rows.groupby("arm", sort=False)[columns].mean()


def sentences(frame: pd.DataFrame) -> Sequence[str]:
    """What the result rests on."""
    said = [
        "The accuracies are those of a small backbone on small images and tell how methods compare there, not how they "
        "do on ImageNet.",
        "Kernel width: the optimum of the batch every ten steps; the paper's Adam at 3e-4 would hardly move in so few.",
    ]
    rows = frame[frame["part"] == "train"]
    if not rows.empty and "accuracy" in rows and rows["accuracy"].notna().any():
        blurred = frame[(frame["part"] == "reference") & (frame["arm"] == "blurred_pixels")]
        if len(blurred) and rows.groupby("arm")["accuracy"].mean().max() <= blurred["knn"].mean():
            said.append("No arm beats the nearest neighbours of blurred pixels.")
    elif not rows.empty:
        said.append("The images have no classes: label-free measures only, and no verdict.")
    return said


def finish(frame: pd.DataFrame, loaded: Loaded, folder: Path) -> Sequence[Path]:
    """After a search: `tuning.toml`, to be put in the place of the room's own."""
    rows = frame[frame["part"] == "search"]
    if rows.empty or set(rows["arm"]) != set(ARMS):
        return ()
    from paperworks.representation.ssl_hsic.tuning import write_tuning

    write_tuning(rows, folder / "tuning.toml")
    return (folder / "tuning.toml",)


STUDY = Study(
    slug="ssl_hsic",
    scales=SCALES,
    seeds={"smoke": 1, "demo": 2, "search": 1, "ablation": 2, "laptop": 5, "paper": 5},
    load=load,
    points=points,
    trial=trial,
    claims=CLAIMS,
    figures=views.FIGURES,
    tables=views.TABLES,
    sentences=sentences,
    budget=budget,
    equal=("steps", "images", "tuning_trials"),
    once=lambda point: point["part"] in ("estimators", "search"),
    finish=finish,
    baseline_factor="arm",
)
