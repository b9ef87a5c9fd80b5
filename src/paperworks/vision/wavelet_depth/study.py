"""Do wavelets keep the accuracy of a dense depth decoder at half its multiply-adds, and is that faster?

All arms share encoder, data, order, steps, losses, optimiser and its one setting; nothing was tuned for any of them.
The control `half` asks the sceptic's question: why not decode at half the resolution with narrower layers? Its widths
were fixed beforehand so that it executes a quarter of the baseline's multiply-adds. Pictures are rendered rooms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paperworks.data.errors import DataError
from paperworks.lab.claim import Claim, Condition, Guard, Measure, NotMeasurable
from paperworks.lab.statistics import Interval, t_interval
from paperworks.lab.study import Loaded, Point, Progress, Request, Study
from paperworks.vision.wavelet_depth import views

ARMS = ("baseline", "wavelet", "half")
SMALLEST_SET = 20


@dataclass(frozen=True)
class Config:
    """Every number of the study."""

    size: tuple[int, int] = (96, 128)
    """Height and width of pictures; sides that 32 divides, at least 64."""
    train: int = 2000
    """Rendered rooms to train on."""
    test: int = 300
    """Rendered rooms to test on."""
    rooms_seed: int = 0
    """Which rooms."""
    encoder: str = "compact"
    """`compact`, or a timm backbone with five stages, such as resnet18."""
    widths: tuple[int, ...] = (16, 16, 32, 48, 64)
    """Decoder widths, fine to coarse, of baseline and wavelets."""
    half_widths: tuple[int, ...] = (10, 10, 18, 28, 37)
    """Decoder widths of the half-resolution control: a quarter of the baseline's multiply-adds."""
    steps: int = 1800
    """Optimiser steps."""
    batch: int = 8
    """Pictures per step."""
    rate: float = 1e-3
    """Largest learning rate of AdamW, for all arms; it falls as half a cosine."""
    weight_decay: float = 0.01
    """AdamW's decay of matrices."""
    warmup: int = 30
    """Steps in which the rate rises."""
    clip: float = 1.0
    """Largest gradient norm."""
    min_depth: float = 0.4
    """Metres at disparity 1; own data take theirs from the training pictures."""
    max_depth: float = 12.0
    """Metres at disparity 0."""
    thresholds: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)
    """Thresholds of sparse execution, as shares of the low-pass range."""
    probe: int = 100
    """Training pictures on which thresholds are chosen."""
    rounds: int = 40
    """Rounds of the timing."""
    ablations: bool = False
    """Also train wavelets with direct supervision of the coefficients."""
    depth_scale: float = 0.001
    """Own data: metres per unit of 16-bit depth PNGs."""


SCALES = {
    "smoke": Config(
        size=(64, 64), train=24, test=8, widths=(8, 8, 8, 12, 16), half_widths=(4, 4, 5, 7, 8), steps=6, warmup=1,
        probe=4, rounds=3,
    ),
    "laptop": Config(),
    "paper": Config(
        size=(192, 640), encoder="resnet18", widths=(16, 32, 64, 128, 256), half_widths=(8, 16, 32, 64, 128),
        train=20000, test=1000, steps=40000, batch=12, rate=1e-4, ablations=True,
    ),
}  # fmt: skip


# Data ----------------------------------------------------------------------------------------------------------------


def load(config: Config, request: Request) -> Loaded:
    """Rendered rooms, or a folder of one's own; two benchmark frames beside them where they are on this machine."""
    if request.path is not None:
        return _load_own(config, request)
    from paperworks.data.depth import rgbd_samples
    from paperworks.worlds.rooms import Rooms

    rooms = Rooms(config.size, seed=config.rooms_seed)
    train = _pairs(rooms, range(config.train))
    test = _pairs(rooms, range(config.train, config.train + config.test))
    data = {"train": train, "test": test, "range": (config.min_depth, config.max_depth)}
    notes = [f"rooms: {len(train):,} / {len(test):,} pictures, sha256 {train.fingerprint[:8]}"]
    try:
        data["rgbd_samples"] = rgbd_samples()
    except DataError as missing:
        notes.append(f"left out: {missing}")
    return _loaded(data, notes)


def _pairs(rooms: Any, indices: range) -> Any:
    from paperworks.data.depth import DepthPairs

    images = np.empty((len(indices), 3, *rooms.size), np.uint8)
    depths = np.empty((len(indices), *rooms.size), np.float32)
    for place, index in enumerate(indices):
        frame = rooms.render(rooms.scene(index))
        images[place] = np.round(frame.image * 255)
        depths[place] = frame.depth
    return DepthPairs.of(images, depths, [f"room {index}" for index in indices])


def _load_own(config: Config, request: Request) -> Loaded:
    from paperworks.data.depth import read_depth_pairs

    if request.columns:
        raise ValueError("columns: pictures have none; give a folder with rgb/ and depth/")
    pairs = read_depth_pairs(request.path or "", size=config.size, scale=config.depth_scale)
    if len(pairs) < SMALLEST_SET:
        raise DataError(f"{request.path}: has {len(pairs)} pictures with depth, too few; give at least {SMALLEST_SET}")
    cut = len(pairs) - max(4, len(pairs) // 5)
    train, test = pairs.take(slice(0, cut)), pairs.take(slice(cut, None))
    near, far = np.quantile(train.depths[train.depths > 0], [0.001, 0.999]).tolist()
    notes = [
        f"{request.path}: {len(train):,} / {len(test):,} pictures, sha256 {pairs.fingerprint[:8]}",
        "the last fifth, by name, is the test part: neighbouring frames of a video fall on one side",
        f"disparity covers {0.8 * near:.3g} to {1.25 * far:.3g} m",
    ]
    return _loaded({"train": train, "test": test, "range": (0.8 * near, 1.25 * far), "own": True}, notes)


def _loaded(data: dict[str, Any], notes: Sequence[str]) -> Loaded:
    prints = [data[name].fingerprint for name in ("train", "test", "rgbd_samples") if name in data]
    return Loaded(data, hashlib.sha256("".join(prints).encode()).hexdigest(), tuple(notes))


# Trials --------------------------------------------------------------------------------------------------------------


def points(config: Config, data: dict[str, Any]) -> list[dict[str, Any]]:
    """The trained arms, and what needs no training."""
    arms = (*ARMS, "supervised") if config.ablations else ARMS
    return [{"part": "arm", "arm": arm} for arm in arms] + [{"part": "reference", "arm": "untrained"}]


def trial(point: Point, seed: int, config: Config, data: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Train and measure one arm, or measure what needs no training."""
    from paperworks.vision.wavelet_depth import training

    near, far = data["range"]
    if point["part"] == "reference":
        found: dict[str, Any] = training.best_constant_map(data["train"], data["test"])
        found |= training.oracle(data["test"], config.thresholds, near, far)
        found["sparsity_data"] = training.haar_sparsity(data["test"])
        if "rgbd_samples" in data:
            found["sparsity_rgbd_samples"] = training.haar_sparsity(data["rgbd_samples"])
        return found
    settings = training.Training(
        steps=config.steps, batch=config.batch, rate=config.rate, weight_decay=config.weight_decay,
        warmup=config.warmup, clip=config.clip, thresholds=config.thresholds, probe=config.probe,
        rounds=config.rounds, keep=point["arm"] == "wavelet", supervise=point["arm"] == "supervised",
    )  # fmt: skip
    blueprint = _blueprint(point["arm"], config, near, far)
    return training.train_and_test(blueprint, settings, data["train"], data["test"], seed=seed, progress=progress)


def _blueprint(arm: str, config: Config, near: float, far: float) -> Any:
    from paperworks.vision.wavelet_depth.checkpoint import Blueprint

    half = arm == "half"
    return Blueprint(
        encoder=config.encoder,
        decoder="dense" if arm in ("baseline", "half") else "wavelet",
        widths=config.half_widths if half else config.widths,
        finest=1 if half else 0,
        min_depth=near,
        max_depth=far,
        size=config.size,
    )


# Claims --------------------------------------------------------------------------------------------------------------


def arm_rows(frame: pd.DataFrame, *arms: str) -> list[pd.DataFrame]:
    """The trials of some arms at the seeds that all of them have, in the order of seeds.

    Raises:
        NotMeasurable: there are none.
    """
    found = [frame[frame["arm"] == arm].set_index("seed") for arm in arms]
    seeds = sorted(set.intersection(*(set(rows.index) for rows in found)))
    if not seeds:
        raise NotMeasurable(f"no seed has the arms {', '.join(arms)}")
    return [rows.loc[seeds] for rows in found]


def ratio_interval(ratios: Any) -> Interval:
    """Student-t on the logarithms of ratios paired by seed, as an interval of the ratio.

    Raises:
        NotMeasurable: a ratio is not finite; pictures whose depth has holes have no edge error, for instance.
    """
    values = np.asarray(ratios, dtype=float)
    if not np.isfinite(values).all():
        raise NotMeasurable("not defined on these pictures")
    inner = t_interval(np.log(values))

    def log(margin: float) -> float:
        return float(np.log(margin)) if margin > 0 else -np.inf

    estimate, low, high = (float(np.exp(bound)) for bound in (inner.estimate, inner.low, inner.high))
    return Interval(
        estimate,
        low,
        high,
        inner.count,
        inner.unit,
        "t on logarithms",
        lambda margin: inner.p_at_most(log(margin)),
        lambda margin: inner.p_at_least(log(margin)),
    )


def chosen(wavelet: pd.DataFrame, limits: Sequence[float]) -> list[int]:
    """For each seed the place of the smallest threshold whose multiply-adds on training pictures keep to the limit; the
    largest threshold where none does."""
    places = []
    for counts, limit in zip(wavelet["macs_probe_t"], limits, strict=True):
        fit = np.flatnonzero(np.asarray(counts) <= limit)
        places.append(int(fit[0]) if len(fit) else len(counts) - 1)
    return places


def at(rows: pd.DataFrame, column: str, places: Sequence[int]) -> np.ndarray:
    """A column's value at each seed's chosen threshold."""
    return np.array([values[place] for values, place in zip(rows[column], places, strict=True)])


def against(other: str, share: float, column: str, *, dense: bool = False) -> Measure:
    """Ratio of a column: of `other` (or of the dense execution) over the sparse one, at the smallest threshold with at
    most `share` of `other`'s multiply-adds."""

    def measure(frame: pd.DataFrame) -> Interval:
        wavelet, rival = arm_rows(frame, "wavelet", other)
        places = chosen(wavelet, (share * rival["macs"]).tolist())
        above = wavelet[column] if dense else rival[column]
        return ratio_interval(above.to_numpy(float) / at(wavelet, f"{column}_t", places))

    return measure


def reached(other: str, share: float) -> Measure:
    """Whether some threshold keeps to `share` of `other`'s multiply-adds on training pictures, one value a seed."""

    def measure(frame: pd.DataFrame) -> np.ndarray:
        wavelet, rival = arm_rows(frame, "wavelet", other)
        least = np.array([np.min(counts) for counts in wavelet["macs_probe_t"]])
        return (least <= share * rival["macs"].to_numpy(float)).astype(float)

    return measure


def between(column: str, above: str, below: str) -> Measure:
    """Ratio of a column of two arms."""

    def measure(frame: pd.DataFrame) -> Interval:
        one, two = arm_rows(frame, above, below)
        return ratio_interval(one[column].to_numpy(float) / two[column].to_numpy(float))

    return measure


def _something_is_learned(frame: pd.DataFrame) -> str | None:
    reference = frame[frame["part"] == "reference"]
    trained = frame[frame["arm"] == "baseline"]
    if reference.empty or trained.empty:
        return "the best constant map or the baseline is missing"
    floor, reached = float(reference["abs_rel"].iloc[0]), float(trained["abs_rel"].mean())
    if reached > 0.7 * floor:
        return f"nothing learned: abs_rel {reached:.3f}, the best map that ignores the picture {floor:.3f}"
    return None


GUARD = Guard("the baseline learns", _something_is_learned)
CLAIMS = (
    Claim(
        "C1",
        (Condition("abs_rel, baseline / wavelet", between("abs_rel", "baseline", "wavelet"), 1 / 1.05),),
        arms=("baseline", "wavelet"),
        guards=(GUARD,),
        shown=(
            Condition("edge error, baseline / wavelet", between("edge_error", "baseline", "wavelet"), 1.0),
            Condition("rmse, baseline / wavelet", between("rmse", "baseline", "wavelet"), 1.0),
            Condition("abs_rel, baseline / half", between("abs_rel", "baseline", "half"), 1.0),
        ),
    ),
    Claim(
        "C2",
        (
            Condition("abs_rel, dense / sparse", against("baseline", 0.5, "abs_rel", dense=True), 1 / 1.014),
            Condition(
                "share of seeds at half of the baseline's multiply-adds", reached("baseline", 0.5), 1.0, rule="point"
            ),
        ),
        arms=("baseline", "wavelet"),
        guards=(GUARD,),
        shown=(
            Condition("multiply-adds on test pictures, baseline / sparse", against("baseline", 0.5, "macs"), 2.0),
            Condition("edge error, dense / sparse", against("baseline", 0.5, "edge_error", dense=True), 1.0),
        ),
    ),
    Claim(
        "C3",
        (
            Condition("abs_rel, half / sparse", against("half", 1.0, "abs_rel"), 1.0),
            Condition("share of seeds at the multiply-adds of half", reached("half", 1.0), 1.0, rule="point"),
        ),
        arms=("half", "wavelet"),
        guards=(GUARD,),
        shown=(
            Condition("multiply-adds on test pictures, half / sparse", against("half", 1.0, "macs"), 1.0),
            Condition("edge error, half / sparse", against("half", 1.0, "edge_error"), 1.0),
        ),
    ),
    Claim(
        "C4",
        (Condition("time, dense / sparse", against("baseline", 0.5, "decoder_ms", dense=True), 1.0),),
        arms=("wavelet",),
        guards=(GUARD,),
        shown=(Condition("time, baseline / dense wavelets", between("decoder_ms", "baseline", "wavelet"), 1.0),),
    ),
)


def budget(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm: decoder parameters, multiply-adds of a dense picture, steps, pictures seen, tuning trials, seconds."""
    trained = frame[frame["part"] == "arm"]
    columns = ["parameters", "macs", "steps", "examples", "cpu_seconds"]
    table = trained.groupby("arm", sort=False)[columns].mean()
    table.insert(4, "tuning_trials", 1)
    return table


def write_model(frame: pd.DataFrame, loaded: Loaded, folder: Path) -> Sequence[Path]:
    """`best.pt`, for `paperworks apply wavelet_depth`: the wavelet model of the first seed."""
    from paperworks._files import write_atomic

    rows = frame[frame["arm"] == "wavelet"].sort_values("seed")
    for key in rows["key"]:
        kept = folder / f"trial-{key}.files" / "model.pt"
        if kept.exists():
            write_atomic(folder / "best.pt", kept.read_bytes())
            return (folder / "best.pt",)
    return ()


STUDY = Study(
    slug="wavelet_depth",
    scales=SCALES,
    seeds={"smoke": 2, "laptop": 5, "paper": 5},
    load=load,
    points=points,
    trial=trial,
    claims=CLAIMS,
    figures=views.FIGURES,
    tables=views.TABLES,
    sentences=views.sentences,
    budget=budget,
    equal=("steps", "examples", "tuning_trials"),
    once=lambda point: point["part"] == "reference",
    finish=write_model,
)
