"""Does locality help an attention free transformer, does it keep up with attention, and is it cheaper on long text?

All arms are language models over bytes (or byte pairs) with equal embeddings, depth, width, feed-forward networks,
steps, batches and seeds, and the same search for their learning rate; they differ in the mixer alone. The cost half
trains nothing: it times one layer of every arm against length, interleaved, attention by PyTorch's fused kernel.
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
from paperworks.lab.claim import Claim, Condition, Guard, NotMeasurable, difference, value
from paperworks.lab.study import Loaded, Point, Progress, Request, Study
from paperworks.sequence.aft import views
from paperworks.testing import cost_exponent

ARMS = ("attention", "local", "simple", "conv")
SEARCHED_RATES = (1e-3, 3e-3, 1e-2)
LONG = 4096
# Attention above this many bits a character on Tiny Shakespeare has not learned enough to be compared with.
UNDERTRAINED = 3.1


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

    text: str = "shakespeare"
    """Text: shakespeare (Tiny Shakespeare, benchmark data), copies (generated)."""
    tokens: str = "bytes"
    """What is predicted: bytes, or bpe, byte pairs learnt from the training part. Scores are per character for both."""
    vocabulary: int = 2000
    """Byte pairs at most."""
    arms: tuple[str, ...] = ARMS
    """Mixers to train: attention, local, simple, conv, full."""
    dim: int = 96
    """Width."""
    depth: int = 4
    """Blocks."""
    heads: int = 4
    """Heads of attention."""
    length: int = 128
    """Tokens of a window."""
    window: int = 32
    """s of local and conv."""
    steps: int = 1000
    """Optimiser steps."""
    batch: int = 8
    """Windows per step."""
    warmup: int = 50
    """Steps in which the rate rises; it then falls as half a cosine."""
    decay: float = 0.01
    """AdamW's decay of matrices."""
    clip: float = 1.0
    """Largest gradient norm."""
    dropout: float = 0.0
    """Dropout of embeddings and feed-forward networks."""
    looks: int = 10
    """How often bits on some validation windows are noted while training; nothing depends on them."""
    rates: tuple[float, ...] = ()
    """Learning rates to search; empty: the tuned rate of each arm."""
    tuned: Annotated[tuple[tuple[str, float], ...], tyro.conf.Suppress] = field(default_factory=tuned_rates)
    """The tuned rates, part of every trial's key."""
    ablations: bool = False
    """Also train windows of 8 and 128, and full weights."""
    cost_lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    """Lengths at which one layer is timed; empty: none. The claim rests on 4096, timed in every seed."""
    cost_dim: int = 256
    """Width of the timed layer."""
    cost_rounds: int = 7
    """Interleaved timed steps at 4096; other lengths take three, in the first seed only."""


SCALES = {
    "smoke": Config(
        text="copies", arms=("attention", "local", "simple"), dim=32, depth=2, length=64, window=8, steps=60, batch=8,
        rates=(1e-2,), warmup=5, looks=2, cost_lengths=(256, 512, 1024), cost_dim=32, cost_rounds=3,
    ),
    "search": Config(steps=300, rates=SEARCHED_RATES, cost_lengths=()),
    "laptop": Config(),
    "paper": Config(dim=512, depth=12, heads=8, length=1024, steps=100_000, batch=128, warmup=1000),
}  # fmt: skip


# Data ----------------------------------------------------------------------------------------------------------------


def load(config: Config, request: Request) -> Loaded:
    """The text; where the benchmark is not on this machine the generated one stands in, and the report says so."""
    from paperworks.data.running_text import byte_pairs, copying_text, read_running_text, tiny_shakespeare

    if request.columns:
        raise ValueError("columns: running text has none; give a .txt file or a folder of them")
    notes: list[str] = []
    if request.path is not None:
        text = read_running_text(request.path)
    elif config.text == "copies":
        text = copying_text()
    elif config.text == "shakespeare":
        try:
            text = tiny_shakespeare()
        except DataMissing as missing:
            text = copying_text()
            notes.append(f"a generated text stands in: {missing}")
    else:
        raise ValueError(f"text: expected shakespeare or copies, got {config.text!r}")
    if config.tokens not in ("bytes", "bpe"):
        raise ValueError(f"tokens: expected bytes or bpe, got {config.tokens!r}")
    if config.tokens == "bpe":
        text = byte_pairs(text, vocabulary=config.vocabulary)
    notes.insert(0, f"{text!r}, sha256 {text.fingerprint[:8]}" + "".join(f"; {note}" for note in text.notes))
    own = {"own": True} if request.path is not None else {}
    return Loaded({"text": text} | own, text.fingerprint, tuple(notes))


# Trials --------------------------------------------------------------------------------------------------------------


def points(config: Config, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every arm at its rate, and the timed layers."""
    grid: list[dict[str, Any]] = [
        {"part": "text", "arm": arm, "window": config.window, "rate": rate}
        for arm in config.arms
        for rate in config.rates or (tuned_rate(config, arm),)
    ]
    if config.ablations:
        rate = tuned_rate(config, "local")
        grid += [{"part": "ablation", "arm": "local", "window": window, "rate": rate} for window in (8, 128)]
        grid.append({"part": "ablation", "arm": "full", "window": config.window, "rate": rate})
    return grid + [{"part": "cost", "length": length} for length in config.cost_lengths]


def tuned_rate(config: Config, arm: str) -> float:
    """The arm's tuned rate; that of local for arms that were not searched."""
    found = dict(config.tuned)
    return found.get(arm, found["local"])


def once(point: Point) -> bool:
    """Lengths that only draw the curve."""
    return point["part"] == "cost" and point["length"] != LONG


def alone(point: Point) -> bool:
    """Points that measure time."""
    return point["part"] == "cost"


def trial(point: Point, seed: int, config: Config, data: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Train and score one arm, or time one layer of each."""
    from paperworks.sequence.aft import training

    if point["part"] == "cost":
        rounds = config.cost_rounds if point["length"] == LONG else 3
        return training.time_layers(
            config.arms, length=point["length"], dim=config.cost_dim, heads=max(1, config.cost_dim // 64),
            window=config.window, rounds=rounds, seed=seed,
        )  # fmt: skip
    lesson = training.Lesson(
        point["arm"], config.dim, config.depth, config.heads, config.length, point["window"], point["rate"],
        config.steps, config.batch, config.warmup, config.decay, config.clip, config.dropout, config.looks,
    )  # fmt: skip
    return training.train_and_score(lesson, data["text"], seed=seed, progress=progress, keep="own" in data)


# Claims --------------------------------------------------------------------------------------------------------------


def _text(arm: str) -> dict[str, Any]:
    return {"part": "text", "arm": arm}


def growth(what: str) -> Any:
    """1.1 minus the exponent with which local's time or memory grows from 1,024 to 8,192 positions."""

    def measure(frame: pd.DataFrame) -> np.ndarray:
        column = f"local_{what}"
        rows = frame[(frame["part"] == "cost") & (frame["length"] >= 1024)] if column in frame else frame[:0]
        means = rows.groupby("length")[column].mean()
        if len(means) < 3:
            raise NotMeasurable("fewer than three lengths from 1,024 on were timed")
        return np.array([1.1 - cost_exponent(means.index.tolist(), means.tolist())])

    return measure


def _attention_learns(frame: pd.DataFrame) -> str | None:
    rows = frame[(frame["part"] == "text") & (frame["arm"] == "attention")]
    if rows.empty:
        return "attention was not trained"
    bits = float(rows["bits"].mean())
    return (
        None
        if bits <= UNDERTRAINED
        else f"baseline undertrained: attention reaches {bits:.2f} bits, needs {UNDERTRAINED}"
    )


def _rates_searched(frame: pd.DataFrame) -> str | None:
    return None if searched() else "the equal search of learning rates (--scale search) has not been run"


CLAIMS = (
    Claim(
        "local_language_model",
        (
            Condition("bits a character, simple - local", difference("bits", _text("simple"), _text("local")), 0.0),
            Condition(
                "bits a character, attention - local", difference("bits", _text("attention"), _text("local")), -0.1
            ),
            Condition(
                f"time of a layer at {LONG} positions, attention / local",
                value("ratio_local", {"part": "cost", "length": LONG}),
                1.0,
                # Cost does not refute what the text says; it is needed to hold.
                refuted_below=-np.inf,
            ),
            Condition("1.1 - exponent of time, local", growth("ms"), 0.0, -np.inf, rule="point"),
            Condition("1.1 - exponent of memory, local", growth("bytes"), 0.0, -np.inf, rule="point"),
        ),
        arms=("attention", "local", "simple"),
        guards=(Guard("the baseline learns", _attention_learns), Guard("rates not searched", _rates_searched)),
        shown=(
            Condition("bits a character, simple - conv", difference("bits", _text("simple"), _text("conv")), 0.0),
            Condition(
                "bits a character, attention - conv", difference("bits", _text("attention"), _text("conv")), -0.1
            ),
        ),
    ),
)  # fmt: skip


def budget(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm: parameters, steps, bytes read, tuning trials, seconds of CPU."""
    trained = frame[frame["part"] == "text"]
    table = trained.groupby("arm", sort=False)[["parameters", "steps", "examples", "cpu_seconds"]].mean()
    table.insert(3, "tuning_trials", len(SEARCHED_RATES) if searched() else 0)
    return table


STUDY = Study(
    slug="aft",
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
    equal=("steps", "examples", "tuning_trials"),
    alone=alone,
    once=once,
    finish=views.keep_best_model,
)
