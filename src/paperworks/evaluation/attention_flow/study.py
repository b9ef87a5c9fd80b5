"""Is attention flow a Shapley value, are the others not, and does it tell more than attention weights?

T1 and T2 are about the attention graph; they are tried on random attention and on that of trained models. T3 holds
explanations against what tokens are worth to the model itself: exact Shapley values of the right class's probability
over all 512 sets of nine tokens, and the one token that is the known cause. T4 (a table) says how much of flow the
first layer decides alone. Steps and the embeddings' spread were set on the accuracy of pilot seed 0, nothing else:
1.000 after 300 (lookup) and 600 (agreement).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paperworks.evaluation.attention_flow import views
from paperworks.lab.claim import Claim, Condition, Guard, Measure, NotMeasurable
from paperworks.lab.statistics import Interval, clopper_pearson
from paperworks.lab.study import Loaded, Point, Progress, Request, Study

LEARNED = 0.98
EXACT, DIFFERENT = 1e-6, 1e-3
HUB_MODEL = "distilbert-base-uncased-finetuned-sst-2-english"


@dataclass(frozen=True)
class Config:
    """Every number of the study."""

    tasks: tuple[str, ...] = ("lookup", "agreement")
    """Tasks that readers are trained on; none: random attention alone."""
    sentences: int = 48
    """Sequences explained per task and seed; with a model of your own, texts per seed."""
    graphs: int = 40
    """Random graphs per seed."""
    random_layers: tuple[int, ...] = (2, 3, 6, 12)
    """Depths of the random graphs."""
    random_size: int = 8
    """Tokens of the random graphs."""
    dim: int = 64
    """Width of the readers."""
    depth: int = 6
    """Layers of the readers."""
    heads: int = 4
    """Attention heads of the readers."""
    ffn_ratio: int = 4
    """Feed-forward width over width."""
    rate: float = 1e-3
    """Learning rate of AdamW."""
    warmup: int = 100
    """Steps of linear warm-up."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    batch: int = 64
    """Sequences per step."""
    lookup_steps: int = 400
    """Optimiser steps on lookup."""
    agreement_steps: int = 800
    """Optimiser steps on agreement."""
    speed_sizes: tuple[int, ...] = (8, 16, 32, 64)
    """Tokens of the 12-layer graphs that are timed."""
    model: str = ""
    """Folder or hub name of a transformers model, to repeat T2 to T4 on it; texts come with --data."""
    max_tokens: int = 48
    """Texts of your own are cut there."""
    permutations: int = 64
    """Orders behind the Shapley values of a model of your own, beyond 10 tokens."""


SCALES = {
    "smoke": Config(tasks=(), graphs=8, random_layers=(3,), random_size=6, speed_sizes=(8, 16)),
    "laptop": Config(),
    "paper": Config(model=HUB_MODEL, sentences=100, max_tokens=64, permutations=256),
}


# Data ----------------------------------------------------------------------------------------------------------------


def load(config: Config, request: Request) -> Loaded:
    """Nothing for the generated tasks; texts, where a model is named (SST-2's test part, or one's own)."""
    if request.path is not None and not config.model:
        raise ValueError("model: texts of your own need a model to explain; add --model FOLDER (transformers files)")
    if not config.model:
        description = (
            f"generated sequences of nine tokens ({', '.join(config.tasks) or 'no task'}) and random attention"
        )
        return Loaded({}, "generated", (description,))
    if request.path is None:
        from paperworks.data.text_benchmarks import sst2

        texts, source = sst2().part("test")[0], "SST-2, test part"
    else:
        texts, source = _own_texts(request), str(request.path)
    fingerprint = hashlib.sha256("\x1f".join(texts).encode() + _model_fingerprint(config.model)).hexdigest()
    note = f"{source}: {len(texts):,} texts, explained for {config.model}"
    return Loaded({"texts": texts}, fingerprint, (note,))


def _own_texts(request: Request) -> list[str]:
    from paperworks.data.errors import DataError
    from paperworks.data.tables import read_table, row_name

    frame = read_table(request.path or "", columns=request.columns, required=("text",), text=("text",))
    for row, text in enumerate(frame["text"].tolist()):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{request.path}: {row_name(frame, row)}: 'text' is empty; fill or drop the row")
    return frame["text"].tolist()


def _model_fingerprint(model: str) -> bytes:
    """The weights' bytes of a local folder; a hub name stands for itself."""
    digest = hashlib.sha256(model.encode())
    if Path(model).is_dir():
        for path in sorted(Path(model).glob("*")):
            if path.is_file():
                digest.update(path.name.encode() + path.read_bytes())
    return digest.digest()


# Trials --------------------------------------------------------------------------------------------------------------


def points(config: Config, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One trained reader per task, random graphs, and timing; with a model of one's own that alone, and timing."""
    speed = [{"part": "speed"}] if config.speed_sizes else []
    if config.model:
        return [{"part": "own"}, *speed]
    from paperworks.evaluation.attention_flow.tasks import TASKS

    for name in config.tasks:
        if name not in TASKS:
            raise ValueError(f"tasks: expected some of {', '.join(TASKS)}, got {name!r}")
    return [*({"part": "task", "task": name} for name in config.tasks), {"part": "random"}, *speed]


def is_speed(point: Point) -> bool:
    """Timing runs once, and alone."""
    return point["part"] == "speed"


def trial(point: Point, seed: int, config: Config, data: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """One part of the study."""
    from paperworks.evaluation.attention_flow import experiments as run
    from paperworks.evaluation.attention_flow.tasks import Training

    if point["part"] == "speed":
        return run.run_speed(config.speed_sizes, seed=seed)
    if point["part"] == "random":
        return run.run_random(config.graphs, layers=config.random_layers, size=config.random_size, seed=seed)
    if point["part"] == "own":
        from paperworks.evaluation.attention_flow.explain import load_model

        chosen = np.random.default_rng(seed).permutation(len(data["texts"]))[: config.sentences]
        texts = [data["texts"][row] for row in sorted(chosen.tolist())]
        model, tokenizer = load_model(config.model)
        return run.run_own(
            model, tokenizer, texts, max_tokens=config.max_tokens, permutations=config.permutations, seed=seed
        )
    training = Training(
        dim=config.dim,
        depth=config.depth,
        heads=config.heads,
        ffn_ratio=config.ffn_ratio,
        rate=config.rate,
        warmup=config.warmup,
        clip=config.clip,
        batch=config.batch,
        steps=config.lookup_steps if point["task"] == "lookup" else config.agreement_steps,
    )
    return run.run_task(point["task"], training, sentences=config.sentences, seed=seed, progress=progress)


# Claims --------------------------------------------------------------------------------------------------------------


def graphs(frame: pd.DataFrame, column: str) -> np.ndarray:
    """A fact of all graphs of all trials together.

    Raises:
        NotMeasurable: no trial has it.
    """
    if column not in frame or not (found := [values for values in frame[column] if isinstance(values, np.ndarray)]):
        raise NotMeasurable(f"no trial measured {column!r} (on texts of your own only T2 and T3 are repeated)")
    return np.concatenate(found)


def share_of_graphs(column: str, *, above: float | None = None, below: float | None = None) -> Measure:
    """Share of graphs whose fact lies above or below a number, with its Clopper-Pearson interval."""

    def measure(frame: pd.DataFrame) -> Interval:
        values = graphs(frame, column)
        hits = values > above if above is not None else values < below
        return clopper_pearson(int(np.sum(hits)), len(values), unit="graphs")

    return measure


def gain(metric: str, better: str, worse: str, *, own: str | None = None) -> Measure:
    """Metric of one explanation minus another's, mean of the tasks, one value per seed.

    `own`: on texts of one's own, where no cause is known, this metric takes its place (a lower value being better).
    """

    def measure(frame: pd.DataFrame) -> np.ndarray:
        rows = frame[frame["part"] == "own"]
        if len(rows):
            name, sign = (metric, 1.0) if own is None else (own, -1.0)
            return sign * (rows[f"{name}_{better}"] - rows[f"{name}_{worse}"]).to_numpy(float)
        rows = frame[frame["part"] == "task"]
        if rows.empty:
            raise NotMeasurable("needs a trained model, and this scale has none")
        _learned(rows)
        differences = rows.assign(gain=rows[f"{metric}_{better}"] - rows[f"{metric}_{worse}"])
        # Only seeds that have every task: a mean over one task is another quantity.
        whole = differences.groupby("seed")["gain"].agg(["mean", "count"])
        whole = whole[whole["count"] == rows["task"].nunique()]
        return whole["mean"].sort_index().to_numpy(float)

    return measure


def _learned(rows: pd.DataFrame) -> None:
    worst = rows.loc[rows["accuracy"].idxmin()]
    if worst["accuracy"] < LEARNED:
        raise NotMeasurable(
            f"model did not learn the task: accuracy {worst['accuracy']:.3f} on {worst['task']}, seed {worst['seed']}; "
            f"needs {LEARNED}"
        )


def yardstick_finds_cause(frame: pd.DataFrame) -> str | None:
    """The model's own Shapley values must point at the known cause, or they are no yardstick."""
    rows = frame[frame["part"] == "task"]
    if rows.empty:
        return None
    lowest = float(rows["auc_model_shapley"].min())
    return None if lowest > 0.9 else f"the model's Shapley values find the cause with AUC {lowest:.2f} only"


def yardstick_orders_chance(frame: pd.DataFrame) -> str | None:
    """Random values must not correlate with the yardstick, and leaving tokens out must."""
    rows = frame[frame["part"].isin(["task", "own"])]
    if rows.empty:
        return None
    loo, chance = float(rows["spearman_model_loo"].mean()), float(rows["spearman_random"].mean())
    return None if loo > chance + 0.2 else f"the model's leave-one-out correlates {loo:.2f}, chance {chance:.2f}"


CLAIMS = (
    Claim(
        "T1",
        (
            Condition(
                f"share of graphs with all residuals below {EXACT:g}",
                share_of_graphs("residual", below=EXACT),
                1.0,
                rule="point",
            ),
        ),
        family="exact",
        shown=(
            Condition(
                "share of graphs where rollout is a maximum flow too, so as much a Shapley value by the same proof",
                share_of_graphs("rollout_excess", below=EXACT),
                1.0,
                rule="point",
            ),
        ),
    ),
    Claim(
        "T2",
        (
            Condition(
                "share of graphs where leave-one-out sums to less than all flow",
                share_of_graphs("loo_sum", below=1 - EXACT),
                0.95,
            ),
            Condition(
                f"share of graphs where last-layer weights are over {DIFFERENT:g} from the Shapley value",
                share_of_graphs("raw_distance", above=DIFFERENT),
                0.95,
            ),
        ),
        shown=(
            Condition(
                "share of graphs where the weights nevertheless are the token values of a maximum flow",
                share_of_graphs("raw_excess", below=EXACT),
                0.5,
            ),
        ),
    ),
    Claim(
        "T3",
        (
            Condition("Spearman with the model's Shapley values, flow - weights", gain("spearman", "flow", "raw"), 0.0),
            Condition(
                "finding the known cause (AUC; own texts: area under the deletion curve), flow - weights",
                gain("auc", "flow", "raw", own="deletion"),
                0.0,
            ),
        ),
        guards=(
            Guard("the yardstick finds the cause", yardstick_finds_cause),
            Guard("the yardstick is more than chance", yardstick_orders_chance),
        ),
        shown=(
            Condition("Spearman, flow - rollout", gain("spearman", "flow", "rollout"), 0.0),
            Condition("AUC, flow - rollout", gain("auc", "flow", "rollout", own="deletion"), 0.0),
            Condition("Spearman, Shapley value of flow - weights", gain("spearman", "shapley", "raw"), 0.0),
            Condition("Spearman, leave-one-out of the model - weights", gain("spearman", "model_loo", "raw"), 0.0),
        ),
    ),
)

STUDY = Study(
    slug="attention_flow",
    scales=SCALES,
    seeds={"smoke": 2, "laptop": 5, "paper": 5},
    load=load,
    points=points,
    trial=trial,
    claims=CLAIMS,
    figures=views.FIGURES,
    tables=views.TABLES,
    sentences=views.sentences,
    alone=is_speed,
    once=is_speed,
)
