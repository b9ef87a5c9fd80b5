"""Does AdaMatch beat source-only training and FixMatch+ on a target without labels, and do its parts matter?

All arms of a seed share initial weights, batches, augmentation, steps and every hyperparameter: one `Training` for all
settings, data sets and arms, the paper's except for the length. No target label chooses anything: steps are fixed,
nothing is tuned, the disjoint test part is scored by the averaged network.

A plain run is domain adaptation from fonts to handwritten digits, three arms and four ablations with five seeds: 35
trainings of 700 steps, which are not to be cut (FixMatch+ opens its masks late). `--settings all` adds USPS and MNIST
both ways, semi-supervised learning, semi-supervised domain adaptation, a long-tailed target and all references;
`--pairs`, `--references` add single ones. `--strong simple` gives all arms milder strong views.

FixMatch+ in a pilot (one seed, not counted; its loss equals the official code's, see the tests): after 300 steps 1 % of
its masks are open, after 700 a third, of which 88 % are right; from step 350 to 500 nine in ten of the pseudo-labels
that count name the same digit, since a fixed threshold lets the surest class in first. Accuracy .44 after 700 steps,
below source-only training (.65), which learns from labelled strong views as FixMatch+ does not. With `--strong simple`
it reaches .69, 35 % of the masks open. AdaMatch, on the first views: .91, 89 % open, 95 % of those right. Strong
views decide where this baseline stands, so the report names its masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from paperworks.data.errors import DataError, DataMissing
from paperworks.lab.claim import Claim, Condition, Guard, Measure, NotMeasurable, difference, paired
from paperworks.lab.study import Loaded, Point, Progress, Request, Study
from paperworks.learning.adamatch import views

FONTS, OWN = "fonts_digits", "own"
PAIRS = (FONTS, "usps_mnist", "mnist_usps")
ARMS = ("source_only", "fixmatch", "adamatch")
ABLATIONS = ("no_interpolation", "no_alignment", "true_law", "fixed_threshold")
REFERENCES = ("oracle", "fixmatch_twice", "public_ports")
MISTAKES = ("overall_mean", "running_statistics", "adam", "mirror")
SSDA_LABELS, SSL_LABELS, JUDGED_LABELS = (1, 5), (1, 4, 25), (4, 25)
CHANCE = 0.1


@dataclass(frozen=True)
class Config:
    """Every number of the study."""

    settings: Literal["uda", "all"] = "uda"
    """uda: domain adaptation and ablations; all: all pairs, semi-supervised settings, references, long tail too."""
    pairs: tuple[str, ...] = ()
    """Source and target: fonts_digits (embedded), usps_mnist, mnist_usps; default: the first; settings=all: all."""
    arms: tuple[str, ...] = ARMS
    """Arms on every pair: source_only, fixmatch, adamatch."""
    ablations: tuple[str, ...] = ABLATIONS
    """Parts of AdaMatch left out, on the first pair: no_interpolation, no_alignment, true_law, fixed_threshold."""
    references: tuple[str, ...] = ()
    """Arms without a verdict, on the first pair: oracle, fixmatch_twice, public_ports; settings=all has all of them."""
    mistakes: tuple[str, ...] = MISTAKES
    """What the arm public_ports does wrong: overall_mean, running_statistics, adam, mirror."""
    image_size: int = 16
    """Side of the images, pixels."""
    per_glyph: int = 12
    """Instances of each digit of each of 21 fonts."""
    steps: int = 700
    """Training steps, the same for every arm."""
    batch: int = 32
    """Labelled images per step."""
    unlabelled_ratio: int = 3
    """Unlabelled images per labelled one."""
    rate: float = 0.03
    """SGD's learning rate at the start."""
    tau: float = 0.9
    """Share of the source's mean confidence that a pseudo-label must reach; the threshold itself where it is fixed."""
    strong: Literal["ctaugment", "simple", "cutout"] = "ctaugment"
    """Strong views of all arms: ctaugment (the paper's), simple (moves, blur and gain; nothing learned) or cutout."""
    norm_momentum: float = 0.01
    """What running statistics of batch norm take in of each batch."""
    every: int = 100
    """Steps between looks at the target's test part; nothing depends on them."""
    tail: float = 10.0
    """How much rarer the rarest class of the long-tailed target is."""
    labels_per_class: int = 0
    """Own data with a labelled target: also adapt with so many labels per class; 0: do not."""
    mirror: bool = False
    """Own data: whether a mirrored image keeps its class."""
    backbone: str = "cnn5"
    """cnn5, wide_resnet, or a model of timm."""


SCALES = {
    "smoke": Config(arms=("source_only", "adamatch"), ablations=(), per_glyph=1, steps=20, batch=8, every=10),
    "demo": Config(ablations=()),
    "laptop": Config(),
    "paper": Config(
        settings="all", image_size=32, steps=131_072, batch=64, norm_momentum=0.001, every=1024,
        backbone="wide_resnet",
    ),
}  # fmt: skip


# Data ----------------------------------------------------------------------------------------------------------------


def load(config: Config, request: Request) -> Loaded:
    """The pairs; those that are not on this machine are left out, and the report says so."""
    from paperworks.learning.adamatch import domains

    if request.path is not None:
        return _load_own(config, request)
    found, notes = {}, []
    for name in config.pairs or (PAIRS if config.settings == "all" else PAIRS[:1]):
        try:
            found[name] = _load_pair(name, config)
        except DataMissing as missing:
            notes.append(f"left out: {missing}")
    if not found:
        found[FONTS] = domains.fonts_to_digits(per_glyph=config.per_glyph, image_size=config.image_size)
    return _loaded(found, [*(_describe(pair) for pair in found.values()), *notes])


def _load_pair(name: str, config: Config) -> Any:
    from paperworks.learning.adamatch import domains

    if name == FONTS:
        return domains.fonts_to_digits(per_glyph=config.per_glyph, image_size=config.image_size)
    if name == "usps_mnist":
        return domains.usps_to_mnist(image_size=config.image_size)
    if name == "mnist_usps":
        return domains.mnist_to_usps(image_size=config.image_size)
    raise ValueError(f"pairs: expected some of {', '.join(PAIRS)}, got {name!r}")


def _load_own(config: Config, request: Request) -> Loaded:
    """`source` and `target` in a folder: image folders or .npz files; a labelled target is split 2 : 1 for the test."""
    import torch

    from paperworks.learning.adamatch import domains

    if request.columns:
        raise ValueError("columns: images have none; give a folder with source/ and target/, or source.npz, target.npz")
    places = {part: _own_part(Path(request.path or ""), part) for part in ("source", "target")}
    source = domains.read_domain(places["source"], image_size=config.image_size, labelled=True)
    target = domains.read_domain(places["target"], image_size=config.image_size)
    domains.check_domains(source, target)
    channels = max(source.images.shape[1], target.images.shape[1])
    source, target = (domains.as_channels(domain, channels) for domain in (source, target))
    target = domains.renumbered(target, source.classes)
    notes = []
    train = test = target
    if target.labels is None:
        notes.append("the target has no labels: accuracy is not known")
    else:
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(target)))
        cut = max(1, len(target) * 2 // 3)
        train, test = target.take(order[:cut]), target.take(order[cut:])
    pair = domains.Pair(OWN, source, train, test)
    return _loaded({OWN: pair}, [_describe(pair), *notes])


def _own_part(folder: Path, part: str) -> Path:
    for place in (folder / part, folder / f"{part}.npz"):
        if place.exists():
            return place
    raise DataError(f"{folder}: has neither {part}/ nor {part}.npz; both source and target are needed")


def _describe(pair: Any) -> str:
    kind = "without labels" if pair.target.labels is None else "labels not shown in training"
    return (
        f"{pair.name}: source {len(pair.source):,}, target {len(pair.target):,} ({kind}), test {len(pair.test):,} "
        f"images {tuple(pair.source.images.shape[1:])}, {len(pair.source.classes)} classes, "
        f"sha256 {pair.fingerprint[:8]}"
    )


def _loaded(pairs: Mapping[str, Any], notes: Sequence[str]) -> Loaded:
    together = "".join(f"{name}:{pair.fingerprint}" for name, pair in sorted(pairs.items()))
    return Loaded(dict(pairs), hashlib.sha256(together.encode()).hexdigest(), tuple(notes))


# Trials --------------------------------------------------------------------------------------------------------------


def points(config: Config, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Arms on every pair, ablations on the first; the other settings on request."""
    if unknown := set(config.arms) - set(ARMS) or set(config.ablations) - set(ABLATIONS):
        raise ValueError(f"arms, ablations: expected some of {', '.join((*ARMS, *ABLATIONS))}, got {sorted(unknown)}")
    for name, known in (("references", REFERENCES), ("mistakes", MISTAKES)):
        if unknown := set(getattr(config, name)) - set(known):
            raise ValueError(f"{name}: expected some of {', '.join(known)}, got {sorted(unknown)}")
    first = next(iter(data))
    grid = [_point("uda", name, arm) for name in data for arm in config.arms]
    if first == OWN:
        more = [_point("ssda", OWN, "adamatch", config.labels_per_class)] if config.labels_per_class else []
        return grid + more
    grid += [_point("uda", first, arm) for arm in config.ablations]
    grid += [_point("reference", first, arm) for arm in config.references]
    if config.settings == "all":
        grid += [_point("reference", first, arm) for arm in REFERENCES if arm not in config.references]
        grid += [_point("long_tail", first, arm) for arm in (*ARMS, "no_alignment")]
        grid += [_point("ssda", first, "adamatch", labels) for labels in SSDA_LABELS]
        grid += [_point("ssl", first, arm, labels) for labels in SSL_LABELS for arm in ("fixmatch", "adamatch")]
    return grid


def _point(part: str, pair: str, arm: str, labels: int = 0) -> dict[str, Any]:
    return {"part": part, "pair": pair, "arm": arm, "labels": labels}


def trial(point: Point, seed: int, config: Config, data: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Train one arm in one setting and score the averaged network on the target's test part."""
    from paperworks.learning.adamatch import trials

    return trials.run_trial(point, seed, config, data[point["pair"]], progress)


# Claims --------------------------------------------------------------------------------------------------------------


def _where(part: str, pair: str, arm: str, labels: int = 0) -> dict[str, Any]:
    return _point(part, pair, arm, labels)


def gain(pair: str, baseline: str) -> Measure:
    """Accuracy on the target's test part, AdaMatch minus another arm, paired by seed."""
    return difference("accuracy", _where("uda", pair, "adamatch"), _where("uda", pair, baseline))


def gain_of_labels(more: int, fewer: int) -> Measure:
    """Accuracy of AdaMatch with `more` labelled target images per class minus that with `fewer`."""

    def where(labels: int) -> dict[str, Any]:
        return _where("ssda" if labels else "uda", FONTS, "adamatch", labels)

    return difference("accuracy", where(more), where(fewer))


def semi_supervised_gain(frame: pd.DataFrame) -> np.ndarray:
    """Accuracy of AdaMatch minus that of FixMatch+ in semi-supervised learning, mean of 4 and 25 labels per class."""
    pairs = [
        paired(frame, "accuracy", _where("ssl", FONTS, "adamatch", labels), _where("ssl", FONTS, "fixmatch", labels))
        for labels in JUDGED_LABELS
    ]
    counts = {len(ours) for ours, _ in pairs}
    if len(counts) > 1:
        raise NotMeasurable("some seeds lack 4 or 25 labels per class")
    return np.mean([ours - theirs for ours, theirs in pairs], axis=0)


def _above_chance(pair: str) -> Guard:
    def check(frame: pd.DataFrame) -> str | None:
        rows = frame[(frame["part"] == "uda") & (frame["pair"] == pair) & (frame["arm"] == "source_only")]
        mean = rows["accuracy"].mean()
        return None if mean > 2 * CHANCE else f"source-only reaches {mean:.3f}, twice chance is {2 * CHANCE:.1f}"

    return Guard("source-only is above twice chance", check)


def _masks_open(part: str, pair: str) -> Guard:
    def check(frame: pd.DataFrame) -> str | None:
        rows = frame[(frame["part"] == part) & (frame["pair"] == pair) & (frame["arm"] == "adamatch")]
        mean = rows["mask_rate"].mean()
        return None if mean > 0.1 else f"at the end {mean:.3f} of the pseudo-labels count"

    return Guard("AdaMatch's masks open", check)


def _domain_claim(pair: str) -> Claim:
    return Claim(
        f"uda_{pair}",
        (
            Condition("target accuracy, AdaMatch - source only", gain(pair, "source_only"), 0.0),
            Condition("target accuracy, AdaMatch - FixMatch+", gain(pair, "fixmatch"), 0.0),
        ),
        arms=tuple(f"uda {pair}: {arm}" for arm in ARMS),
        guards=(_above_chance(pair), _masks_open("uda", pair)),
        shown=(
            Condition(
                "FixMatch+ - source only",
                difference("accuracy", _where("uda", pair, "fixmatch"), _where("uda", pair, "source_only")),
                0.0,
            ),
            Condition(
                "AdaMatch - FixMatch+ with twice the steps",
                difference("accuracy", _where("uda", pair, "adamatch"), _where("reference", pair, "fixmatch_twice")),
                0.0,
            ),
        ),
    )


def _ablation_claim(name: str, arm: str, words: str) -> Claim:
    return Claim(
        name,
        (Condition(f"target accuracy, AdaMatch - {words}", gain(FONTS, arm), 0.0),),
        arms=(f"uda {FONTS}: adamatch", f"uda {FONTS}: {arm}"),
        guards=(_above_chance(FONTS), _masks_open("uda", FONTS)),
    )


CLAIMS = (
    *(_domain_claim(pair) for pair in PAIRS),
    Claim(
        "few_labels",
        (
            Condition("accuracy, 1 label per class - none", gain_of_labels(1, 0), 0.0),
            Condition("accuracy, 5 labels per class - 1", gain_of_labels(5, 1), 0.0),
        ),
        arms=tuple(f"ssda {FONTS}: adamatch, {labels} labels" for labels in SSDA_LABELS),
        guards=(_above_chance(FONTS), _masks_open("ssda", FONTS)),
    ),
    Claim(
        "one_recipe",
        (Condition("accuracy, AdaMatch - FixMatch+, mean of 4 and 25 labels", semi_supervised_gain, -0.02),),
        arms=tuple(
            f"ssl {FONTS}: {arm}, {labels} labels" for labels in JUDGED_LABELS for arm in ("fixmatch", "adamatch")
        ),
        guards=(_masks_open("ssl", FONTS),),
        shown=(
            Condition(
                "the same with 1 label per class",
                difference("accuracy", _where("ssl", FONTS, "adamatch", 1), _where("ssl", FONTS, "fixmatch", 1)),
                -0.02,
            ),
        ),
    ),
    _ablation_claim("interpolation", "no_interpolation", "without interpolation"),
    _ablation_claim("alignment", "no_alignment", "without alignment"),
    _ablation_claim("predicted_law", "true_law", "aligned to true labels"),
    _ablation_claim("relative_threshold", "fixed_threshold", "fixed threshold 0.9"),
)


def arm_name(part: str, pair: str, arm: str, labels: float) -> str:
    """The arm as the budget table names it."""
    return f"{part} {pair}: {arm}" + (f", {labels:.0f} labels" if labels else "")


def budget(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm: parameters, steps, images handed in and images through the network per step, seconds of CPU."""
    names = [arm_name(*row) for row in frame[["part", "pair", "arm", "labels"]].itertuples(index=False)]
    columns = ["parameters", "steps", "labelled", "unlabelled", "network_images", "tuning_trials", "cpu_seconds"]
    return frame.assign(what=names).groupby("what", sort=False)[columns].mean()


STUDY = Study(
    slug="adamatch",
    scales=SCALES,
    seeds={"smoke": 1, "demo": 1, "laptop": 5, "paper": 5},
    load=load,
    points=points,
    trial=trial,
    claims=CLAIMS,
    figures=views.FIGURES,
    tables=views.TABLES,
    sentences=views.sentences,
    budget=budget,
    equal=("parameters", "steps", "labelled", "unlabelled", "tuning_trials"),
    finish=views.write_own_files,
)
