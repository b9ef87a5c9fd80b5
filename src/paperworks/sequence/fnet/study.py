"""Does Fourier mixing keep the accuracy of attention, and does it train faster?

All arms have equal depth, width, embedding, optimiser, batches, steps and seeds, and the same search for their learning
rate. The control `bag` is feed-forward only with mean pooling: it sees every token and mixes nothing. The speed half
trains nothing: it times one layer at the paper's width, both arms interleaved.
"""

from __future__ import annotations

import hashlib
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro

from paperworks.data.errors import DataMissing
from paperworks.lab.claim import Claim, Condition, Guard, NotMeasurable, difference, value
from paperworks.lab.study import Loaded, Point, Progress, Request, Study
from paperworks.sequence.fnet import views

ARMS = ("attention", "fourier", "hybrid", "linear", "random", "ff_only", "bag")
BENCHMARKS = ("ag_news", "sst2", "subjectivity")
SEARCHED_RATES = (3e-4, 1e-3, 3e-3)


@cache
def tuned_rates() -> tuple[tuple[str, int, float], ...]:
    """(arm, width, learning rate) as the equal search found them; see `tuning.toml`."""
    content = tomllib.loads((Path(__file__).parent / "tuning.toml").read_text())
    return tuple((arm, int(width), rate) for arm, rates in content.items() for width, rate in rates.items())


@dataclass(frozen=True)
class Config:
    """Every number of the study."""

    tasks: tuple[str, ...] = ("stdlib", "sst2", "subjectivity")
    """Data sets: stdlib (embedded), ag_news, sst2, subjectivity (benchmark data; left out where absent), topics."""
    arms: tuple[str, ...] = ("attention", "fourier", "hybrid", "linear", "ff_only", "bag")
    """Arms to train: attention, fourier, hybrid, linear, random, ff_only, bag."""
    widths: tuple[int, ...] = (64, 96)
    """Model widths; the verdict is over their mean."""
    depth: int = 2
    """Layers."""
    head_dim: int = 32
    """Channels per attention head."""
    ffn_ratio: int = 4
    """Feed-forward width over model width."""
    vocabulary: int = 4000
    """Size of the lower-cased BPE vocabulary, trained on the training texts."""
    length: int = 64
    """Tokens that every text is padded or cut to; stdlib uses 48, own data their 95th percentile, at most 256."""
    epochs: float = 6.0
    """Passes over stdlib, topics or own data."""
    benchmark_epochs: float = 2.0
    """Passes over a benchmark task."""
    benchmark_widths: tuple[int, ...] = (96,)
    """Model widths on the benchmark tasks."""
    benchmark_arms: tuple[str, ...] = ("attention", "fourier", "ff_only", "bag")
    """Those of the arms that are trained on the benchmark tasks too."""
    batch: int = 32
    """Texts per step."""
    weight_decay: float = 0.01
    """AdamW's decay of matrices."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises; it then falls linearly to 0."""
    clip: float = 1.0
    """Largest gradient norm."""
    dropout: float = 0.1
    """Dropout of embeddings and feed-forward layers."""
    token_dropout: float = 0.1
    """Share of the input tokens replaced by [UNK] in training."""
    passages: int = 0
    """Use only so many training texts (0: all)."""
    rates: tuple[float, ...] = ()
    """Learning rates to search; empty: the tuned rate of each arm."""
    tuned: Annotated[tuple[tuple[str, int, float], ...], tyro.conf.Suppress] = field(default_factory=tuned_rates)
    """The tuned rates, part of every trial's key."""
    speed_lengths: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096)
    """Lengths at which one layer is timed; empty: none. The claim rests on 512, timed in every seed."""
    speed_dim: int = 768
    """Width of the timed layer (feed-forward four times as wide, 12 heads)."""
    speed_batch: int = 4
    """Sequences per timed step."""
    speed_rounds: int = 20
    """Interleaved timed steps at 512; other lengths take a fifth of them, in the first seed only."""


SCALES = {
    "smoke": Config(
        tasks=("topics",), arms=("attention", "fourier", "ff_only", "bag"), widths=(32,), head_dim=16, epochs=10.0,
        batch=16, rates=(3e-3,), vocabulary=400, length=24, speed_lengths=(512,), speed_dim=64, speed_batch=1,
        speed_rounds=6,
    ),
    "demo": Config(
        tasks=("stdlib",), arms=("attention", "fourier", "ff_only", "bag"), widths=(96,), epochs=3.0,
        speed_lengths=(512,), speed_rounds=8,
    ),
    "search": Config(tasks=("stdlib",), arms=ARMS, rates=SEARCHED_RATES, speed_lengths=()),
    "laptop": Config(),
    "paper": Config(
        tasks=("stdlib", *BENCHMARKS), benchmark_arms=ARMS, widths=(768,),
        benchmark_widths=(768,), depth=12, head_dim=64, vocabulary=32000, length=512,
        epochs=10.0, benchmark_epochs=10.0,
    ),
}  # fmt: skip


# Data ----------------------------------------------------------------------------------------------------------------


def load(config: Config, request: Request) -> Loaded:
    """The tasks, encoded once; benchmark tasks that are not on this machine are left out, and the report says so."""
    if request.path is not None:
        return _load_own(config, request)
    tasks, notes = {}, []
    for name in config.tasks:
        try:
            tasks[name] = _load_task(name, config)
        except DataMissing as missing:
            notes.append(f"left out: {missing}")
    if not tasks:
        raise DataMissing(f"tasks: none of {', '.join(config.tasks)} is on this machine; {notes[0]}")
    notes[:0] = [_describe(task) for task in tasks.values()]
    return _loaded(tasks, notes)


def _load_task(name: str, config: Config) -> Any:
    from paperworks.data import text_benchmarks
    from paperworks.data.stdlib_text import stdlib_text
    from paperworks.data.topic_text import topic_text
    from paperworks.sequence.fnet.texts import encode_task

    builders = {
        "stdlib": stdlib_text,
        "topics": partial(topic_text, own_share=0.6),
        "ag_news": text_benchmarks.ag_news,
        "sst2": text_benchmarks.sst2,
        "subjectivity": text_benchmarks.subjectivity,
    }
    if name not in builders:
        raise ValueError(f"tasks: expected some of {', '.join(builders)}, got {name!r}")
    length = min(48, config.length) if name == "stdlib" else config.length
    return encode_task(builders[name](), vocabulary=config.vocabulary, length=length)


def _load_own(config: Config, request: Request) -> Loaded:
    from paperworks.data.text import read_text_classification
    from paperworks.sequence.fnet.texts import encode_task

    source = read_text_classification(request.path or "", columns=request.columns or None)
    task = encode_task(source, vocabulary=config.vocabulary, length=None, own=True)
    cut = f"texts are padded to {task.length} tokens (95th percentile, at most 256); {task.cut:.1%} are cut"
    return _loaded({"own": task}, [_describe(task), cut])


def _describe(task: Any) -> str:
    sizes = f"{len(task.train):,} / {len(task.dev):,} / {len(task.test):,} texts"
    notes = "".join(f"; {note}" for note in task.source.notes)
    return f"{task.name}: {sizes}, sha256 {task.source.fingerprint[:8]}{notes}"


def _loaded(tasks: Mapping[str, Any], notes: Sequence[str]) -> Loaded:
    together = "".join(f"{name}:{task.fingerprint}" for name, task in sorted(tasks.items()))
    return Loaded(dict(tasks), hashlib.sha256(together.encode()).hexdigest(), tuple(notes))


# Trials --------------------------------------------------------------------------------------------------------------


def points(config: Config, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every arm on every task and width, TF-IDF beside them, and the timed layer."""
    grid: list[dict[str, Any]] = []
    for task in data:
        widths = config.benchmark_widths if task in BENCHMARKS else config.widths
        arms = [arm for arm in config.arms if task not in BENCHMARKS or arm in config.benchmark_arms]
        for width in widths:
            for arm in arms:
                rates = config.rates or (tuned_rate(config, arm, width),)
                grid += [{"part": "accuracy", "task": task, "arm": arm, "width": width, "rate": r} for r in rates]
        grid.append({"part": "reference", "task": task, "arm": "tfidf"})
    grid += [{"part": "speed", "length": length, "mode": "no dropout"} for length in config.speed_lengths]
    return grid


def tuned_rate(config: Config, arm: str, width: int) -> float:
    """The arm's tuned rate at this width, or at the nearest width that was searched; attention's for unknown arms."""
    found = {width: rate for name, width, rate in config.tuned if name == arm}
    found = found or {width: rate for name, width, rate in config.tuned if name == "attention"}
    return found[min(found, key=lambda searched: abs(searched - width))] if found else 1e-3


def once(point: Point) -> bool:
    """Points that no seed changes: the reference, and the lengths that only draw the curve."""
    return point["part"] == "reference" or (point["part"] == "speed" and point["length"] != 512)


def trial(point: Point, seed: int, config: Config, data: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Train and test one arm, fit the reference, or time one layer."""
    if point["part"] == "speed":
        from paperworks.sequence.fnet.speed import time_layers

        rounds = config.speed_rounds if point["length"] == 512 else max(3, config.speed_rounds // 5)
        return time_layers(
            length=point["length"],
            dim=config.speed_dim,
            batch=config.speed_batch,
            rounds=rounds,
            seed=seed,
        )
    task = data[point["task"]]
    if point["part"] == "reference":
        return _tfidf(task)
    return _train(point, seed, config, task, progress)


def _tfidf(task: Any) -> dict[str, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    (train, labels), (test, truth) = task.source.part("train"), task.source.part("test")
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        OneVsRestClassifier(LogisticRegression(C=10, max_iter=1000)),
    )
    predicted = model.fit(train, labels).predict(test)
    return {"accuracy": float(np.mean(predicted == truth)), "majority": task.majority()}


def _train(point: Point, seed: int, config: Config, task: Any, progress: Progress) -> dict[str, Any]:
    from paperworks.sequence.fnet import training

    epochs = config.benchmark_epochs if point["task"] in BENCHMARKS else config.epochs
    arm = training.Arm(
        arm=point["arm"], width=point["width"], depth=config.depth, heads=max(1, point["width"] // config.head_dim),
        ffn_ratio=config.ffn_ratio, dropout=config.dropout, token_dropout=config.token_dropout, rate=point["rate"],
        weight_decay=config.weight_decay, warmup=config.warmup, clip=config.clip, batch=config.batch, epochs=epochs,
        passages=config.passages,
    )  # fmt: skip
    with warnings.catch_warnings():
        # Arms that cannot use a mask say so; here all texts have one length, the paper's own practice.
        warnings.filterwarnings("ignore", message=".*mask.*")
        return training.train_and_test(arm, task, seed=seed, progress=progress)


# Claims --------------------------------------------------------------------------------------------------------------


def accuracy_ratio(frame: pd.DataFrame) -> np.ndarray:
    """Fourier over attention, the mean over tasks and widths, one value per seed."""
    chosen = frame[frame["part"] == "accuracy"]
    cells = chosen.pivot_table(index=["seed", "task", "width"], columns="arm", values="accuracy")
    if not {"fourier", "attention"} <= set(cells.columns):
        raise NotMeasurable("the arms fourier and attention were not both trained")
    return (cells["fourier"] / cells["attention"]).dropna().groupby("seed").mean().to_numpy()


def _attention_learns(frame: pd.DataFrame) -> str | None:
    trained = frame[(frame["part"] == "accuracy") & (frame["arm"] == "attention")]
    floors = {"stdlib": 0.50, "ag_news": 0.75}
    for task, rows in trained.groupby("task"):
        majority = float(rows["majority"].iloc[0])
        floor = floors.get(str(task), majority)
        if rows["accuracy"].mean() <= floor:
            return (
                f"baseline undertrained: attention reaches {rows['accuracy'].mean():.3f} on {task}, floor {floor:.2f}"
            )
    return None


ACCURACY = {"part": "accuracy"}
CLAIM = Claim(
    "accuracy_and_speed",
    conditions=(
        Condition("accuracy ratio fourier / attention", accuracy_ratio, 0.92),
        Condition(
            "step-time ratio attention / fourier at length 512",
            value("step_ratio", {"part": "speed", "length": 512}),
            1.3,
            refuted_below=1.1,
        ),
        Condition(
            "accuracy fourier - ff_only",
            difference("accuracy", ACCURACY | {"arm": "fourier"}, ACCURACY | {"arm": "ff_only"}),
            0.20,
            # Only the first two conditions refute the claim: that mixing is needed is true by construction.
            refuted_below=-np.inf,
        ),
    ),
    arms=("attention", "fourier", "ff_only"),
    guards=(Guard("the baseline learns", _attention_learns),),
    shown=(
        Condition(
            "accuracy fourier - bag (does mixing help on these data at all?)",
            difference("accuracy", ACCURACY | {"arm": "fourier"}, ACCURACY | {"arm": "bag"}),
            0.0,
        ),
        Condition(
            "accuracy attention - bag",
            difference("accuracy", ACCURACY | {"arm": "attention"}, ACCURACY | {"arm": "bag"}),
            0.0,
        ),
    ),
)


def budget(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm: parameters, MACs per text, steps, texts seen, tuning trials, seconds of CPU."""
    trained = frame[frame["part"] == "accuracy"]
    columns = ["parameters", "macs", "steps", "examples", "cpu_seconds"]
    table = trained.groupby("arm", sort=False)[columns].mean()
    table.insert(4, "tuning_trials", len(SEARCHED_RATES))
    return table


def _sentences(frame: pd.DataFrame) -> list[str]:
    trained = frame[frame["part"] == "accuracy"]
    references = frame[frame["part"] == "reference"].set_index("task")["accuracy"]
    said = []
    for task, rows in trained.groupby("task", sort=False):
        best = rows.groupby("arm")["accuracy"].mean().sort_values(ascending=False)
        if task in references and references[task] >= best.iloc[0]:
            said.append(
                f"On {task}, TF-IDF with logistic regression reaches {references[task]:.3f}; "
                f"no trained arm does better (best: {best.index[0]}, {best.iloc[0]:.3f})."
            )
    return [*said, "All arms are trained from scratch; the paper's figures are for pre-trained models."]


STUDY = Study(
    slug="fnet",
    scales=SCALES,
    seeds={"smoke": 5, "demo": 3, "search": 1, "laptop": 5, "paper": 5},
    load=load,
    points=points,
    trial=trial,
    claims=(CLAIM,),
    figures=views.FIGURES,
    tables=views.TABLES,
    sentences=_sentences,
    budget=budget,
    equal=("steps", "examples", "tuning_trials"),
    alone=lambda point: point["part"] == "speed",
    once=once,
    finish=views.write_own_files,
    baseline_factor="arm",
)
