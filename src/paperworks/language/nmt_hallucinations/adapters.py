"""Scores that need something from elsewhere: references, sentence encoders, quality estimators, token classifiers.

None of them is a dependency. What is not installed is named together with how to get it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from paperworks.language.nmt_hallucinations.chrf import chrf
from paperworks.language.nmt_hallucinations.logprob import check_pairs

ReferenceMetric = Literal["chrf2", "chrf++", "bleu"]
Encoder: TypeAlias = Callable[[Sequence[str]], Any]
Scorer: TypeAlias = Callable[[Sequence[str], Sequence[str]], np.ndarray]

COMET_QE, COMET = "wmt20-comet-qe-da-v2", "Unbabel/wmt22-comet-da"
LABSE = "sentence-transformers/LaBSE"


def reference_risk(
    outputs: Sequence[str], references: Sequence[str], *, metric: ReferenceMetric = "chrf2"
) -> np.ndarray:
    """One minus a reference-based metric in [0, 1]: (rows,). Needs the right translation, so it is an oracle.

    chrF2 and chrF2++ are sacrebleu's sentence scores; BLEU is its sentence BLEU (needs sacrebleu).

    Raises:
        ValueError: lengths differ or an unknown metric.
    """
    if metric not in get_args(ReferenceMetric):
        raise ValueError(f"metric: expected one of {', '.join(get_args(ReferenceMetric))}, got {metric!r}")
    if metric != "bleu":
        return 1 - chrf(outputs, references, words=2 if metric == "chrf++" else 0)
    if len(outputs) != len(references):
        raise ValueError(f"references: expected one per output, {len(outputs)}, got {len(references)}")
    _need("sacrebleu", "pip install 'paperworks[language]'")
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(effective_order=True)
    scores = [bleu.sentence_score(o, [r]).score / 100 for o, r in zip(outputs, references, strict=True)]
    return 1 - np.array(scores, dtype=np.float64)


def embedding_similarity(
    sources: Sequence[str], outputs: Sequence[str], *, encoder: Encoder | None = None
) -> np.ndarray:
    """One minus the cosine of the two sentences' embeddings: (rows,) in [0, 2].

    Args:
        encoder: texts -> (rows, dim), multilingual; None: LaBSE from the hub (needs `sentence-transformers`).

    Raises:
        ValueError: lengths differ, or embeddings of another shape.
    """
    check_pairs(sources, outputs)
    embed = labse_encoder() if encoder is None else encoder
    left, right = (np.asarray(embed(list(texts)), dtype=np.float64) for texts in (sources, outputs))
    if left.ndim != 2 or left.shape != right.shape or len(left) != len(sources):
        raise ValueError(f"encoder: expected ({len(sources)}, dim) twice, got {left.shape} and {right.shape}")
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return 1 - (left * right).sum(1) / np.maximum(lengths, 1e-12)


def labse_encoder(name: str = LABSE) -> Encoder:
    """A sentence encoder of the hub.

    Raises:
        ValueError: sentence-transformers is not installed.
    """
    _need("sentence_transformers", "pip install sentence-transformers")
    from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]

    model = SentenceTransformer(name)
    return lambda texts: model.encode(list(texts), convert_to_numpy=True)


def comet_qe(name: str = COMET_QE, *, gpus: int = 0, batch_size: int = 32) -> Scorer:
    """(sources, hypotheses) -> quality, larger = better, by COMET-QE or CometKiwi: the paper's scorer for repairs.

    Raises:
        ValueError: unbabel-comet is not installed.
    """
    model = _comet(name)

    def score(sources: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        rows = [{"src": source, "mt": hypothesis} for source, hypothesis in zip(sources, hypotheses, strict=True)]
        return np.asarray(model.predict(rows, batch_size=batch_size, gpus=gpus).scores, dtype=np.float64)

    return score


def comet_reference(
    sources: Sequence[str], outputs: Sequence[str], references: Sequence[str], *, name: str = COMET, gpus: int = 0
) -> np.ndarray:
    """One minus reference-based COMET: (rows,).

    Raises:
        ValueError: unbabel-comet is not installed, or lengths differ.
    """
    model = _comet(name)
    rows = [{"src": s, "mt": o, "ref": r} for s, o, r in zip(sources, outputs, references, strict=True)]
    return 1 - np.asarray(model.predict(rows, batch_size=32, gpus=gpus).scores, dtype=np.float64)


def token_hallucination(
    sources: Sequence[str],
    outputs: Sequence[str],
    *,
    classifier: Callable[[Sequence[str], Sequence[str]], Sequence[Sequence[float]]],
) -> np.ndarray:
    """The share of the output's tokens that a token classifier holds for hallucinated (TokHal-Model): (rows,).

    Args:
        classifier: (sources, outputs) -> for each output the probability of each of its tokens; from .5 on it counts.

    An output without tokens has the risk 1. Raises `ValueError` for another number of rows.
    """
    check_pairs(sources, outputs)
    found = classifier(sources, outputs)
    if len(found) != len(outputs):
        raise ValueError(f"classifier: expected one row per output, {len(outputs)}, got {len(found)}")
    return np.array([np.mean(np.asarray(row) >= 0.5) if len(row) else 1.0 for row in found], dtype=np.float64)


def _comet(name: str) -> Any:
    _need("comet", "pip install unbabel-comet")
    from comet import download_model, load_from_checkpoint  # pyright: ignore[reportMissingImports]

    return load_from_checkpoint(download_model(name))


def _need(module: str, how: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"needs the package {module}; install it with: {how}")
