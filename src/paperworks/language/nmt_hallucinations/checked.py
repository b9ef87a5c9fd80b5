"""Checking a file of translations: risks, thresholds, an order of suspicion with reasons, a report, repairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from paperworks.data.translations import Translations
from paperworks.language.nmt_hallucinations.scorer import (
    CHEAP,
    DETECTORS,
    FIXED,
    MODEL_FREE,
    HallucinationScorer,
    threshold,
)

if TYPE_CHECKING:
    import pandas as pd

    from paperworks.language.nmt_hallucinations.dehallucinator import Repairs
    from paperworks.language.nmt_hallucinations.detection import DetectionReport


@dataclass(frozen=True, eq=False)
class Checked:
    """A file of translations, checked.

    Attributes:
        scores: one risk a detector. flags: which flags what. thresholds: from which risk on.
        suspicion: (rows,) the largest share of pairs that some detector holds for less risky than this one.
        rank: (rows,) from 1, the most suspect pair first.
        report: detection quality, where there are labels. repairs: where they were asked for.
        findings: sentences for the reader. missing: what other detectors would need, or nothing.
    """

    translations: Translations
    scores: pd.DataFrame
    flags: pd.DataFrame
    thresholds: dict[str, float]
    suspicion: np.ndarray
    rank: np.ndarray
    report: DetectionReport | None
    repairs: Repairs | None
    findings: tuple[str, ...]
    missing: str

    def reasons(self, row: int) -> list[str]:
        """Why a pair is flagged, in words."""
        words = []
        for name in self.scores.columns:
            if self.flags[name].iloc[row]:
                means = DETECTORS[name].means if name in DETECTORS else "risky by your own score"
                words.append(f"{means} ({name} {self.scores[name].iloc[row]:.3g})")
        return words


def check(
    translations: Translations,
    *,
    model: Any = None,
    tokenizer: Any = None,
    languages: tuple[str | None, str | None] = (None, None),
    detectors: Sequence[str] | None = None,
    held_out: Translations | None = None,
    flag_fraction: float = 0.05,
    repair: bool = False,
    n: int = 10,
    num_beams: int = 5,
    batch_tokens: int = 8192,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Checked:
    """Score, order, flag, judge (with labels) and repair (on request). Arguments as for `apply`.

    Raises:
        ValueError: as `HallucinationScorer` and `Dehallucinator`; `flag_fraction` out of range.
    """
    if not 0 < flag_fraction < 1:
        raise ValueError(f"flag_fraction: expected a share between 0 and 1, got {flag_fraction}")
    scorer = HallucinationScorer(
        model=model,
        tokenizer=tokenizer,
        detectors=detectors or _chosen(translations, model is not None),
        source_language=languages[0],
        target_language=languages[1],
        batch_tokens=batch_tokens,
        n=n,
        num_beams=num_beams,
        generator=_generator(seed) if model is not None else None,
    )
    if held_out is not None:
        scorer.fit_thresholds(held_out, flag_fraction=flag_fraction)
    scores = scorer.score(translations)
    for name in scores.columns:
        fitted = threshold(scores[name].to_numpy(float), flag_fraction=flag_fraction)
        scorer.thresholds.setdefault(str(name), _beyond(scores[name].to_numpy(float), fitted))
    if translations.risks is not None:
        for name in translations.risks.columns:
            column = name if name not in scores else f"{name}_given"
            values = translations.risks[name].to_numpy(float)
            scores[column] = values
            scorer.thresholds[column] = _beyond(values, threshold(values, flag_fraction=flag_fraction))
    flags = scorer.flag(scores)
    suspicion, rank = order(scores, flags)
    report = _report(scores, translations, bootstrap, seed)
    repairs = None
    if repair:
        repairs = _repair(scorer, scores, translations, model, tokenizer, languages, n, num_beams, batch_tokens, seed)
    return Checked(
        translations,
        scores,
        flags,
        scorer.thresholds,
        suspicion,
        rank,
        report,
        repairs,
        tuple(_findings(scores, flags, scorer.thresholds, translations, report, repairs, held_out is not None)),
        _missing(scores, model is not None),
    )


def order(scores: pd.DataFrame, flags: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """How suspect each pair is, and its rank.

    Suspicion is the largest share of pairs that some detector holds for strictly less risky. Flagged pairs come first,
    those that more detectors flag before others; then suspicion decides, then its mean over detectors.
    """
    shares = np.stack(
        [(scores[name].rank(method="min").to_numpy() - 1) / len(scores) for name in scores.columns], axis=1
    )
    suspicion = shares.max(axis=1)
    keys = (-shares.mean(axis=1), -suspicion, -flags.to_numpy().sum(axis=1))
    rank = np.empty(len(scores), dtype=np.int64)
    rank[np.lexsort(keys)] = np.arange(1, len(scores) + 1)
    return suspicion, rank


def _generator(seed: int) -> Any:
    import torch

    return torch.Generator().manual_seed(seed)


def _chosen(translations: Translations, with_model: bool) -> tuple[str, ...]:
    names = CHEAP if with_model else MODEL_FREE
    return (*names, "chrf++") if translations.reference is not None else tuple(names)


def _beyond(values: np.ndarray, at: float) -> float:
    """A quantile that is the smallest risk of all would flag everything: then nothing stands out."""
    return float(np.inf) if at <= values.min() else at


def _report(scores: pd.DataFrame, translations: Translations, bootstrap: int, seed: int) -> DetectionReport | None:
    if translations.labels is None:
        return None
    from paperworks.language.nmt_hallucinations.detection import detection_report

    rows = len(translations)
    usable = [name for name in translations.categories if 0 < translations.labels[name].sum() < rows]
    wrong = translations.any_of(translations.categories)
    categories: dict[str, tuple[str, ...]] = {name: (name,) for name in usable}
    if len(translations.categories) > 1 and 0 < wrong.sum() < rows:
        categories = {"any label": translations.categories} | categories
    if not categories:
        return None
    return detection_report(scores, translations.labels, categories=categories, bootstrap=bootstrap, seed=seed)


def _repair(
    scorer: HallucinationScorer,
    scores: pd.DataFrame,
    translations: Translations,
    model: Any,
    tokenizer: Any,
    languages: tuple[str | None, str | None],
    n: int,
    num_beams: int,
    batch_tokens: int,
    seed: int,
) -> Repairs:
    from paperworks.language.nmt_hallucinations.dehallucinator import Dehallucinator

    if "seq_logprob" not in scores:
        raise ValueError("repair: needs seq_logprob among the detectors, whose threshold says what is suspect")
    repairing = Dehallucinator(
        model,
        tokenizer,
        threshold=scorer.thresholds["seq_logprob"],
        n=n,
        num_beams=num_beams,
        source_language=languages[0],
        target_language=languages[1],
        batch_tokens=batch_tokens,
        generator=_generator(seed + 1),
    )
    return repairing.fix(list(translations.source), list(translations.output))


def _findings(
    scores: pd.DataFrame,
    flags: pd.DataFrame,
    thresholds: dict[str, float],
    translations: Translations,
    report: DetectionReport | None,
    repairs: Repairs | None,
    held_out: bool,
) -> list[str]:
    said = []
    for name in scores.columns:
        count = int(flags[name].sum())
        at = thresholds[name]
        where = "fixed by the paper" if name in FIXED else "held-out pairs" if held_out else "quantile of these pairs"
        if np.isfinite(at):
            said.append(f"{name}: flags {count:,} pairs with risk >= {at:.4g} ({where})")
        else:
            said.append(f"{name}: flags nothing, too many pairs share its highest risk")
    if report is not None:
        best = report.table[(report.table["metric"] == "auroc") & (report.table["negatives"] == "rest")]
        for category, rows in best.groupby("category", sort=False):
            top = rows.loc[rows["value"].idxmax()]
            few = "; too few to conclude from" if top["few"] else ""
            said.append(
                f"{category}: found best by {top['detector']}, AUROC {top['value']:.3f} "
                f"[{top['low']:.3f}, {top['high']:.3f}] on {top['positives']} of {len(translations):,} pairs{few}"
            )
    if repairs is not None:
        changed, suspect = int(repairs.table["changed"].sum()), int(repairs.table["flagged"].sum())
        said.append(f"repair: {suspect:,} suspect pairs, {changed:,} replaced; read them before you use them")
    return said


def _missing(scores: pd.DataFrame, with_model: bool) -> str:
    if with_model:
        absent = [name for name in DETECTORS if name not in scores and DETECTORS[name].needs.startswith("model")]
        return f"not run: {', '.join(absent)} (name them with --detectors)" if absent else ""
    absent = [name for name in DETECTORS if DETECTORS[name].needs.startswith("model")]
    return f"without --model these detectors are missing: {', '.join(absent)}"
