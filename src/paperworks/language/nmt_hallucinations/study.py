"""Do the paper's findings about hallucinations hold: on the annotated corpus, on a toy language, on your translations?

The claims are about natural hallucinations, so a run takes the annotated corpus where it is: text-only detectors and
reference metrics at once, model-based ones where others' scores are there or a surrogate model is named. The toy
language needs nothing: its translator is trained here, on clean and on noisy pairs, its labels are exact, and all
detectors and DeHallucinator run for real. Each claim is judged on each kind of data by itself, never pooled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paperworks.data.errors import DataMissing
from paperworks.lab.claim import Claim, Condition, Guard, Measure, NotMeasurable
from paperworks.lab.statistics import Interval, from_draws
from paperworks.lab.study import Loaded, Point, Progress, Request, Study
from paperworks.language.nmt_hallucinations import drawings, views
from paperworks.worlds.text import Noise

HEURISTICS = ("attention_to_eos", "ignored_source", "top_ngram", "repeated_target")
REFERENCE = ("chrf++", "comet")
NOISES: dict[str, Noise] = {"clean": "none", "noisy": "attached"}
FEW, WEAK = 60, 0.8
MARGIN, FALL = -0.05, 0.4


@dataclass(frozen=True)
class Config:
    """Every number of the study."""

    kinds: tuple[str, ...] = ("corpus", "toy")
    """Which data: corpus (the annotated corpus), toy (the toy language)."""
    scores: str = ""
    """A file of published scores of the corpus (detection_metrics.tsv or its zip); default: beside the corpus."""
    surrogate: str = ""
    """A translation model of the hub with which to force-decode the corpus or your own pairs."""
    bootstrap: int = 1000
    """Resamples of source sentences behind every interval on the corpus."""
    words: int = 400
    """Words of the toy language."""
    pairs: int = 20_000
    """Training pairs of the toy translator."""
    steps: int = 1100
    """Most training steps of the toy translator."""
    target_f1: float = 0.86
    """Training ends where held-out in-domain sentences reach this token F1 (calibrated on right translations only)."""
    test_scale: float = 1.0
    """Size of the toy test set: 1 is 1,400 sentences."""
    draws: int = 10
    """Hypotheses under dropout, for disagreement and for repairs."""
    beams: int = 5
    """Beams of every search."""
    flag_fraction: float = 0.05
    """Share of held-out in-domain outputs beyond the threshold from which an output is suspect."""


SCALES = {
    "smoke": Config(words=30, pairs=1000, steps=40, test_scale=0.04, draws=2, beams=2, bootstrap=100),
    "laptop": Config(),
    "paper": Config(bootstrap=10_000, steps=4000),
}


# Data ----------------------------------------------------------------------------------------------------------------


def load(config: Config, request: Request) -> Loaded:
    """The annotated corpus with what scores there are, the toy language, or translations of one's own."""
    if request.path is not None:
        return _load_own(request)
    data: dict[str, Any] = {}
    notes: list[str] = []
    if unknown := set(config.kinds) - {"corpus", "toy"}:
        raise ValueError(f"kinds: expected corpus, toy or both, got {sorted(unknown)[0]!r}")
    if "corpus" in config.kinds:
        try:
            data |= _load_corpus(config, notes)
        except DataMissing as missing:
            notes.append(f"left out, so C1-C4 on natural hallucinations are not tested: {missing}")
    if "toy" in config.kinds:
        data["toy"] = True
        notes.append(f"synthetic: a toy language of {config.words} words with exact labels, made as it is needed")
    if not data:
        raise ValueError("kinds: nothing to run on: the corpus is not on this machine, and the toy was not asked for")
    digest = hashlib.sha256()
    for name in ("corpus", "own"):
        if name in data:
            digest.update(data[name].fingerprint.encode())
    if "scores" in data:
        digest.update(data["scores"].to_numpy(dtype=np.float64).tobytes())
    return Loaded(data, digest.hexdigest(), tuple(notes))


def _load_corpus(config: Config, notes: list[str]) -> dict[str, Any]:
    from paperworks.language.nmt_hallucinations.corpus import annotated_corpus, mitigation_labels, published_scores

    corpus = annotated_corpus()
    notes.append(f"annotated corpus, German-English: {corpus!r}, sha256 {corpus.fingerprint[:8]}")
    notes.append(
        "the corpus was selected by detectors from a larger pool: its 9.5 % hallucinations and every precision do not "
        "transfer to ordinary output, and the AUROC of a selecting detector is biased"
    )
    data: dict[str, Any] = {"corpus": corpus, "mitigation": mitigation_labels()}
    scores = published_scores(Path(config.scores) if config.scores else None)
    if scores is None:
        notes.append(
            "no published scores (detection_metrics.tsv), so claims about model-based detectors are not tested"
        )
        return data
    notes.append(f"published scores: {', '.join(scores.columns)}")
    return data | {"scores": scores}


def _load_own(request: Request) -> Loaded:
    from paperworks.data.translations import Translations

    own = Translations.read(request.path or "", columns=request.columns)
    notes = [f"{request.path}: {own!r}, sha256 {own.fingerprint[:8]}"]
    if own.labels is None:
        notes.append("no labels (columns of 0 and 1), so no claim is tested; agreement and thresholds are shown")
    return Loaded({"own": own}, own.fingerprint, tuple(notes))


# Trials --------------------------------------------------------------------------------------------------------------


def points(config: Config, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One point a kind of data; the toy language once for each training corpus."""
    grid: list[dict[str, Any]] = [{"kind": kind} for kind in ("own", "corpus") if kind in data]
    if config.surrogate:
        grid = [point | {"surrogate": config.surrogate} for point in grid]
    if "mitigation" in data:
        grid.append({"kind": "repairs"})
    if "toy" in data:
        grid += [{"kind": "toy", "training": training} for training in NOISES]
    return grid


def trial(point: Point, seed: int, config: Config, data: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Score one kind of data by all detectors that it allows."""
    from paperworks.language.nmt_hallucinations import experiments as run

    kind = point["kind"]
    if kind == "toy":
        return run.toy(NOISES[point["training"]], seed=seed, config=config, progress=progress)
    if kind == "repairs":
        return run.repairs(data["mitigation"], draws=config.bootstrap, seed=seed)
    if kind == "corpus":
        return run.corpus(data["corpus"], data.get("scores"), seed=seed, config=config)
    return run.own(data["own"], seed=seed, config=config)


# Claims --------------------------------------------------------------------------------------------------------------


def _rows(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    rows = frame[frame["kind"] == kind].sort_values("seed")
    if rows.empty:
        what = {"corpus": "the annotated corpus", "repairs": "the human labels of repairs", "own": "your translations"}
        raise NotMeasurable(f"needs {what.get(kind, 'the toy language')}")
    return rows


def advantage(kind: str, rival: str) -> Measure:
    """AUROC of Seq-Logprob minus that of a rival on any hallucination, over resamples of pairs (of every seed)."""

    def measure(frame: pd.DataFrame) -> Interval:
        rows = _rows(frame, kind)
        for name in ("seq_logprob", rival):
            if f"auroc_{name}" not in rows or rows[f"auroc_{name}"].isna().all():
                raise NotMeasurable(_missing(kind, name, rows))
        if rows["positives"].iloc[0] < FEW:
            raise NotMeasurable(f"{int(rows['positives'].iloc[0])} hallucinations; needs {FEW}")
        draws = np.concatenate([row["draws_seq_logprob"] - row[f"draws_{rival}"] for _, row in rows.iterrows()])
        estimate = float((rows["auroc_seq_logprob"] - rows[f"auroc_{rival}"]).iloc[0])
        count = int(rows["pairs"].iloc[0])
        return from_draws(draws, estimate=estimate, count=count, unit="pairs")

    return measure


def _missing(kind: str, name: str, rows: pd.DataFrame) -> str:
    if "positives" not in rows or rows["positives"].isna().all():
        return "the pairs have no labels (columns of 0 and 1)"
    if kind == "corpus":
        return f"no scores of {name}: put detection_metrics.tsv beside the corpus, or run with --surrogate MODEL"
    return f"no scores of {name}: add a column risk_{name}, or run with --surrogate MODEL"


def toy_advantage(training: str, rival: str) -> Measure:
    """The same difference on the toy language, one value per seed."""

    def measure(frame: pd.DataFrame) -> np.ndarray:
        rows = _toy(frame, training)
        if "auroc_seq_logprob" not in rows or rows["auroc_seq_logprob"].isna().any():
            raise NotMeasurable("a seed has no hallucination, or nothing else")
        return (rows["auroc_seq_logprob"] - rows[f"auroc_{rival}"]).to_numpy(float)

    return measure


def toy_fall(training: str, by: str = "after") -> Measure:
    """By which share hallucinations among suspect outputs became fewer, one value per seed."""

    def measure(frame: pd.DataFrame) -> np.ndarray:
        rows = _toy(frame, training)
        if (rows["rate_before"] == 0).any():
            raise NotMeasurable("a seed has no hallucination among its suspect outputs")
        return 1 - (rows[f"rate_{by}"] / rows["rate_before"]).to_numpy(float)

    return measure


def toy_control(training: str, control: str) -> Measure:
    """Share of hallucinations that a control leaves minus the share that DeHallucinator leaves, one value per seed."""

    def measure(frame: pd.DataFrame) -> np.ndarray:
        rows = _toy(frame, training)
        return (rows[f"rate_{control}"] - rows["rate_chosen"]).to_numpy(float)

    return measure


def _toy(frame: pd.DataFrame, training: str) -> pd.DataFrame:
    rows = _rows(frame, "toy")
    rows = rows[rows["training"] == training]
    if rows.empty:
        raise NotMeasurable(f"no toy translator with {training} training pairs")
    return rows


def human_fall(system: str) -> Measure:
    """By which share hallucinations became fewer by people's judgement, over resamples of sources."""

    def measure(frame: pd.DataFrame) -> Interval:
        rows = _rows(frame, "repairs")
        draws = np.concatenate(list(rows[f"fall_draws_{system}"]))
        return from_draws(draws, estimate=float(rows[f"fall_{system}"].iloc[0]), count=201, unit="sources")

    return measure


def _strong_enough(training: str) -> Guard:
    def check(frame: pd.DataFrame) -> str | None:
        worst = float(_toy(frame, training)["f1_in_domain"].min())
        return None if worst >= WEAK else f"in-domain token F1 {worst:.2f}, needs {WEAK}"

    return Guard("translator too weak", check)


def _enough(training: str) -> Guard:
    def check(frame: pd.DataFrame) -> str | None:
        fewest = int(_toy(frame, training)["positives"].min())
        return None if fewest >= FEW else f"{fewest} hallucinations in a seed, needs {FEW}"

    return Guard("too few hallucinations", check)


def _on_pairs(prefix: str, kind: str, family: str) -> tuple[Claim, ...]:
    """C1-C3 on pairs that are given."""

    def ahead(rival: str, margin: float) -> Condition:
        return Condition(f"AUROC, Seq-Logprob minus {views.word(rival)}", advantage(kind, rival), margin)

    return (
        Claim(f"{prefix}1", tuple(ahead(rival, 0.0) for rival in HEURISTICS), family=family),
        Claim(f"{prefix}2", tuple(ahead(rival, MARGIN) for rival in REFERENCE), family=family),
        Claim(f"{prefix}3", (ahead("comet_qe", 0.0),), family=family),
    )


def _on_toy(training: str) -> tuple[Claim, ...]:
    guards = (_strong_enough(training), _enough(training))
    family = f"toy, {training}"
    return (
        Claim(
            f"C1_{training}",
            tuple(
                Condition(f"AUROC, Seq-Logprob minus {views.word(rival)}", toy_advantage(training, rival), 0.0)
                for rival in HEURISTICS
            ),
            family=family,
            guards=guards,
        ),
        Claim(
            f"C4a_{training}",
            (Condition("share of hallucinations among suspect outputs that is gone", toy_fall(training), FALL),),
            family=family,
            guards=guards,
            shown=(Condition("the same if the best draw could be known", toy_fall(training, "oracle"), FALL),),
        ),
        Claim(
            f"C4b_{training}",
            (
                Condition(
                    "share left by a random choice minus by DeHallucinator", toy_control(training, "random"), 0.0
                ),
                Condition(
                    "share left by beam search's second minus by DeHallucinator", toy_control(training, "second"), 0.0
                ),
            ),
            family=family,
            guards=guards,
        ),
    )


CLAIMS = (
    *_on_pairs("C", "corpus", "corpus"),
    Claim(
        "C4a",
        tuple(
            Condition(f"share of hallucinations gone, reranked by {words}", human_fall(system), FALL)
            for system, words in (("comet", "COMET-QE"), ("alti", "ALTI"), ("labse", "LaBSE"))
        ),
        family="corpus",
    ),
    *_on_toy("clean"),
    *_on_toy("noisy"),
    *_on_pairs("O", "own", "own"),
)


def once(point: Point) -> bool:
    """Force-decoding with a surrogate takes minutes and knows no chance; cheap points are resampled by every seed."""
    return "surrogate" in point


STUDY = Study(
    slug="nmt_hallucinations",
    scales=SCALES,
    seeds={"smoke": 1, "laptop": 5, "paper": 10},
    load=load,
    points=points,
    trial=trial,
    claims=CLAIMS,
    figures=drawings.FIGURES,
    tables=views.TABLES,
    sentences=views.sentences,
    once=once,
)
