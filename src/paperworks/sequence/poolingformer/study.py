"""Does a second level over pooled tokens help a small window, more than a wider window of the same cost does?

Each arm labels the sentences of abstracts, a document being one sequence of tokens: a sentence's role depends on what
stands around it, farther away than a window of 8 tokens reaches. All arms have two levels with projections of their
own, equally many parameters, steps, documents and seeds, and rotary positions alone: positions in the document would
hand part of the answer to every arm. A probe asks for associative recall at every distance, and one sublayer is timed
against length.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro

from paperworks.data.errors import DataMissing
from paperworks.lab.claim import Claim, Condition, Guard, NotMeasurable, difference
from paperworks.lab.study import Loaded, Point, Progress, Request, Study
from paperworks.sequence.poolingformer import views
from paperworks.testing import cost_exponent

ARMS = ("window", "window_wide", "poolingformer", "full")
ABLATIONS = ("mean", "max", "stride_2", "from_x", "no_residual")
SEARCHED_RATES = (1e-3, 3e-3, 1e-2)
LONG = 2048  # the exponent is fitted from here on
FULL_UP_TO = 4096  # beyond, attention to all pairs takes too long to be worth a look
# The window arm less than this above the most frequent label has not learned enough to be compared with.
ABOVE_MAJORITY = 0.1


@cache
def _tuning() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "tuning.toml").read_text(encoding="utf-8"))


def tuned_rates() -> tuple[tuple[str, float], ...]:
    """(arm, learning rate), by the equal search or before it; see `tuning.toml`."""
    return tuple((arm, float(rate)) for arm, rate in _tuning()["rates"].items())


def searched() -> bool:
    """Whether the equal search has been run."""
    return bool(_tuning()["searched"])


@dataclass(frozen=True)
class Config:
    """Every number of the study."""

    text: str = "csabstruct"
    """Documents: csabstruct (benchmark data), switching (generated)."""
    arms: tuple[str, ...] = ARMS
    """Arms to train: window, window_wide, poolingformer, full, and the ablations."""
    dim: int = 64
    """Width."""
    depth: int = 2
    """Blocks."""
    heads: int = 4
    """Heads."""
    ffn_dim: int = 256
    """Width of the feed-forward networks; arms without LDConv have `pool_size` more."""
    window: int = 8
    """w1, tokens to either side at the first level."""
    pooled_window: int = 96
    """w2, tokens to either side at the second level."""
    pool_size: int = 5
    """Tokens of a cell."""
    stride: int = 4
    """Tokens from one cell to the next."""
    length: int = 384
    """Tokens of a document at most."""
    sentence_tokens: int = 32
    """Tokens of a sentence at most."""
    vocabulary: int = 4000
    """Ids of the BPE."""
    epochs: int = 3
    """Times that the training documents are read."""
    tokens: int = 3072
    """Tokens of a batch, padding included; about 16 documents of similar length."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises; it then falls linearly."""
    decay: float = 0.01
    """AdamW's decay of matrices."""
    clip: float = 1.0
    """Largest gradient norm."""
    dropout: float = 0.1
    """Dropout of embeddings and sublayers."""
    token_dropout: float = 0.1
    """Share of the words replaced by [UNK] while training."""
    rates: tuple[float, ...] = ()
    """Learning rates to search; empty: the tuned rate of each arm."""
    tuned: Annotated[tuple[tuple[str, float], ...], tyro.conf.Suppress] = field(default_factory=tuned_rates)
    """The tuned rates, part of every trial's key."""
    ablations: bool = False
    """Also train mean and max pooling, stride 2, a second level that reads x, and no residual."""
    recall_steps: int = 400
    """Steps of the recall probe, in the first seed only; 0: none."""
    recall_length: int = 512
    """Tokens of the probe."""
    recall_batch: int = 8
    """Texts of a step of the probe."""
    symbols: int = 64
    """Keys, values and fillers of the probe, each."""
    cost_lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384)
    """Lengths at which one sublayer is timed, in the first seed only; empty: none."""
    cost_dim: int = 256
    """Width of the timed sublayer, 64 a head."""
    cost_window: int = 128
    """w1 of the timed sublayer."""
    cost_pooled_window: int = 512
    """w2 of the timed sublayer."""
    cost_rounds: int = 5
    """Interleaved timed steps."""

    @property
    def wide(self) -> int:
        """The window at which two windowed levels have as many scores a token as the two-level model."""
        return wide_window(self.window, self.pooled_window, self.stride)


def wide_window(window: int, pooled_window: int, stride: int) -> int:
    """w with 2 (2 w + 1) = (2 w1 + 1) + (2 w2 + 1) / stride, rounded."""
    scores = 2 * window + 1 + (2 * pooled_window + 1) / stride
    return round((scores / 2 - 1) / 2)


SCALES = {
    "smoke": Config(
        text="switching", arms=("window", "window_wide", "poolingformer"), dim=32, heads=2, ffn_dim=64, window=2,
        pooled_window=24, length=96, sentence_tokens=12, vocabulary=300, epochs=3, tokens=1024, dropout=0.0,
        token_dropout=0.0, rates=(1e-2,), recall_steps=3, recall_length=64, recall_batch=4, symbols=8,
        cost_lengths=(256, 512, 1024), cost_dim=64, cost_window=16, cost_pooled_window=64, cost_rounds=1,
    ),
    "search": Config(rates=SEARCHED_RATES, recall_steps=0, cost_lengths=()),
    "laptop": Config(),
    "paper": Config(
        dim=768, depth=12, heads=12, ffn_dim=3072, window=128, pooled_window=512, length=4096, epochs=20, tokens=65536,
        ablations=True,
    ),
}  # fmt: skip


# Data ----------------------------------------------------------------------------------------------------------------


def load(config: Config, request: Request) -> Loaded:
    """The documents; where the benchmark is not on this machine generated ones stand in, and the report says so."""
    from paperworks.data.sentence_labels import csabstruct, read_sentence_labels, switching_text
    from paperworks.sequence.poolingformer.texts import encode_task

    notes: list[str] = []
    if request.path is not None:
        source = read_sentence_labels(request.path, columns=request.columns)
    elif request.columns:
        raise ValueError("columns: given without --data; they name the fields of your file")
    elif config.text == "switching":
        source = switching_text()
    elif config.text == "csabstruct":
        try:
            source = csabstruct()
        except DataMissing as missing:
            source = switching_text()
            notes.append(f"generated documents stand in: {missing}")
    else:
        raise ValueError(f"text: expected csabstruct or switching, got {config.text!r}")
    task = encode_task(
        source, vocabulary=config.vocabulary, length=config.length, sentence_tokens=config.sentence_tokens,
        own=request.path is not None,
    )  # fmt: skip
    notes = [f"{source!r}, sha256 {source.fingerprint[:8]}", *source.notes, *notes]
    notes.append(f"{task.cut:.0%} of the training sentences are cut to {config.sentence_tokens} tokens")
    if task.left_out:
        notes.append(f"{task.left_out:.1%} of all sentences are not judged: they lie beyond {config.length} tokens")
    return Loaded({"task": task}, source.fingerprint, tuple(notes))


# Trials --------------------------------------------------------------------------------------------------------------


def points(config: Config, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every arm at its rate, the recall probe of each, and the timed sublayers."""
    arms = config.arms + (ABLATIONS if config.ablations else ())
    grid: list[dict[str, Any]] = [
        {"part": "text", "arm": arm, "rate": rate}
        for arm in arms
        for rate in config.rates or (tuned_rate(config, arm),)
    ]
    if config.recall_steps:
        grid += [{"part": "recall", "arm": arm, "rate": tuned_rate(config, arm)} for arm in config.arms]
    return grid + [{"part": "cost", "length": length} for length in config.cost_lengths]


def tuned_rate(config: Config, arm: str) -> float:
    """The arm's tuned rate; that of the two-level model for arms that were not searched."""
    found = dict(config.tuned)
    return found.get(arm, found["poolingformer"])


def once(point: Point) -> bool:
    """What only draws a curve."""
    return point["part"] != "text"


def alone(point: Point) -> bool:
    """Points that measure time."""
    return point["part"] == "cost"


def trial(point: Point, seed: int, config: Config, data: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Train and score one arm, probe its recall, or time one sublayer of each."""
    from paperworks.sequence.poolingformer import training

    if point["part"] == "cost":
        sizes = _sizes(
            config, dim=config.cost_dim, heads=max(1, config.cost_dim // 64), window=config.cost_window,
            pooled_window=config.cost_pooled_window, length=point["length"],
            wide=wide_window(config.cost_window, config.cost_pooled_window, config.stride),
        )  # fmt: skip
        arms = tuple(arm for arm in config.arms if arm != "full" or point["length"] <= FULL_UP_TO)
        return training.time_sublayers(arms, sizes, rounds=config.cost_rounds, seed=seed)
    schooling = training.Schooling(
        point["rate"], config.epochs, config.tokens, config.warmup, config.decay, config.clip, config.token_dropout
    )
    if point["part"] == "recall":
        return training.train_and_probe(
            point["arm"], _sizes(config, length=config.recall_length, dropout=0.0), schooling, symbols=config.symbols,
            steps=config.recall_steps, batch=config.recall_batch, seed=seed, progress=progress,
        )  # fmt: skip
    return training.train_and_score(point["arm"], _sizes(config), schooling, data["task"], seed=seed, progress=progress)


def _sizes(config: Config, **changes: Any) -> Any:
    from paperworks.sequence.poolingformer.variants import Sizes

    named = ("dim", "depth", "heads", "ffn_dim", "window", "pooled_window", "pool_size", "stride", "wide", "length",
             "dropout")  # fmt: skip
    return Sizes(**({name: getattr(config, name) for name in named} | changes))


# Claims --------------------------------------------------------------------------------------------------------------


def _text(arm: str) -> dict[str, Any]:
    return {"part": "text", "arm": arm}


def _growth(frame: pd.DataFrame) -> np.ndarray:
    """1.15 minus the exponent with which the two-level sublayer's time grows from 2,048 tokens on."""
    column = "poolingformer_ms"
    rows = frame[(frame["part"] == "cost") & (frame["length"] >= LONG)] if column in frame else frame[:0]
    means = rows.groupby("length")[column].mean() if len(rows) else pd.Series(dtype=float)
    if len(means) < 3:
        raise NotMeasurable("fewer than three lengths from 2,048 on were timed")
    return np.array([1.15 - cost_exponent(means.index.tolist(), means.tolist())])


def _baseline_learns(frame: pd.DataFrame) -> str | None:
    rows = frame[(frame["part"] == "text") & (frame["arm"] == "window")]
    if rows.empty:
        return "the window arm was not trained"
    gain = float((rows["micro_f1"] - rows["majority"]).mean())
    return (
        None
        if gain >= ABOVE_MAJORITY
        else f"baseline undertrained: window is {gain:.3f} above the most frequent label, needs {ABOVE_MAJORITY}"
    )


def _rates_searched(frame: pd.DataFrame) -> str | None:
    return None if searched() else "the equal search of learning rates (--scale search) has not been run"


def _gain(arm: str, other: str, score: str = "micro_f1") -> Any:
    return difference(score, _text(arm), _text(other))


CLAIMS = (
    Claim(
        "pooled_second_level",
        (
            Condition("micro-F1, poolingformer - window", _gain("poolingformer", "window"), 0.0),
            Condition("micro-F1, poolingformer - window_wide", _gain("poolingformer", "window_wide"), 0.0),
            # Cost does not refute that context helps; it is needed to hold.
            Condition("1.15 - exponent of time", _growth, 0.0, -np.inf, rule="point"),
        ),
        arms=("window", "window_wide", "poolingformer"),
        guards=(Guard("the baseline learns", _baseline_learns), Guard("rates not searched", _rates_searched)),
        shown=(
            Condition("micro-F1, poolingformer - full", _gain("poolingformer", "full"), 0.0),
            Condition("macro-F1, poolingformer - window", _gain("poolingformer", "window", "macro_f1"), 0.0),
            Condition("macro-F1, poolingformer - window_wide", _gain("poolingformer", "window_wide", "macro_f1"), 0.0),
            Condition("test micro-F1, poolingformer - window", _gain("poolingformer", "window", "test_micro_f1"), 0.0),
            Condition("dev micro-F1, poolingformer - window", _gain("poolingformer", "window", "dev_micro_f1"), 0.0),
            Condition("micro-F1, poolingformer - mean pooling", _gain("poolingformer", "mean"), 0.0),
        ),
    ),
)


def budget(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm: parameters, steps, documents read, tuning trials, seconds of CPU."""
    trained = frame[frame["part"] == "text"]
    table = trained.groupby("arm", sort=False)[["parameters", "steps", "examples", "cpu_seconds"]].mean()
    table.insert(3, "tuning_trials", len(SEARCHED_RATES) if searched() else 0)
    return table


STUDY = Study(
    slug="poolingformer",
    scales=SCALES,
    seeds={"smoke": 2, "search": 1, "laptop": 5, "paper": 5},
    load=load,
    points=points,
    trial=trial,
    claims=CLAIMS,
    figures=views.FIGURES,
    tables=views.TABLES,
    sentences=views.sentences,
    budget=budget,
    equal=("parameters", "steps", "examples", "tuning_trials"),
    alone=alone,
    once=once,
    finish=views.keep_best_model,
)
