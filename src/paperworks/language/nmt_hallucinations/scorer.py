"""All detectors over one file: a table with one risk a detector, thresholds, and which detector flags what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from paperworks.data.translations import Translations
from paperworks.language.nmt_hallucinations import ngrams

if TYPE_CHECKING:
    import pandas as pd
    import torch

Custom = Callable[[Sequence[str], Sequence[str]], Any]
BATCH_TOKENS = 8192
FLAG_FRACTION = 0.05
# The heuristics' thresholds are the paper's, whatever the file.
FIXED = {"top_ngram": float(ngrams.FLAG_EXCESS), "repeated_target": float(ngrams.FLAG_SOURCES)}


@dataclass(frozen=True)
class Detector:
    """A detector's name, what it needs, and what a high risk means in words."""

    name: str
    needs: str
    means: str


DETECTORS = {
    detector.name: detector
    for detector in (
        Detector("top_ngram", "", "repeats itself"),
        Detector("repeated_target", "", "several different sources have this output"),
        Detector("length_ratio", "", "much longer or shorter than its source"),
        Detector("chrf2", "reference", "unlike the reference"),
        Detector("chrf++", "reference", "unlike the reference"),
        Detector("bleu", "reference", "unlike the reference"),
        Detector("seq_logprob", "model", "improbable to the model"),
        Detector("seq_logprob_sum", "model", "improbable to the model as a whole"),
        Detector("mc_logprob", "model", "improbable to the model under dropout"),
        Detector("mc_variance", "model", "the model is unsure of it under dropout"),
        Detector("mc_dissimilarity", "model", "translations under dropout disagree"),
        Detector("attention_to_eos", "model", "the decoder looks at the end of the source"),
        Detector("ignored_source", "model", "source words that the decoder never looks at"),
        Detector("alti", "model", "little of it comes from the source"),
        Detector("attention_transport", "model and held_out", "attention unlike that of usual translations"),
    )
}
MODEL_FREE = tuple(name for name, detector in DETECTORS.items() if not detector.needs)
CHEAP = ("seq_logprob", "attention_to_eos", "ignored_source", *MODEL_FREE)


class HallucinationScorer:
    """Risk scores of translations by several detectors; larger = more likely hallucinated, never NaN.

    Args:
        model, tokenizer: of the system that made the translations, or a surrogate; see `translator`. None: the
            detectors that need no model.
        detectors: names from `DETECTORS`. None: all model-free ones, and with a model also seq_logprob,
            attention_to_eos and ignored_source.
        custom: name -> function (sources, outputs) -> risks, for `embedding_similarity` and the like.
        source_language, target_language: codes of multilingual models.
        batch_tokens: most tokens of a batch.
        n, num_beams: draws and beams of the detectors that sample.
        device: where to put the model; None: it stays where it is.
        generator: of the sampling.

    Raises:
        ValueError: a detector that does not exist, or one that lacks what it needs; the message lists what is there.
    """

    def __init__(
        self,
        *,
        model: Any = None,
        tokenizer: Any = None,
        detectors: Sequence[str] | None = None,
        custom: Mapping[str, Custom] | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
        n: int = 10,
        num_beams: int = 5,
        device: Any = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if (model is None) != (tokenizer is None):
            raise ValueError("model, tokenizer: give both or neither")
        self.detectors = tuple(detectors or (MODEL_FREE if model is None else CHEAP))
        self.custom = dict(custom or {})
        _check_names(self.detectors, self.custom, model is not None)
        self.batch_tokens, self.n, self.num_beams, self.generator = batch_tokens, n, num_beams, generator
        self.thresholds: dict[str, float] = {name: FIXED[name] for name in self.detectors if name in FIXED}
        self._reference: Any = None
        self._face: Any = None
        if model is not None:
            from paperworks.language.nmt_hallucinations.models import translator

            if device is not None:
                model = model.to(device)
            self._face = translator(model, tokenizer, source_language=source_language, target_language=target_language)

    def score(self, translations: Translations) -> pd.DataFrame:
        """One column a detector (custom ones last), a row per pair in their order.

        Raises:
            ValueError: a detector needs references, or a held-out set, that are not there; a text is too long.
        """
        import pandas as pd

        found: dict[str, np.ndarray] = {}
        for name in self.detectors:
            if name not in found:
                found |= self._compute(name, translations)
        columns = {name: found[name] for name in self.detectors}
        for name, function in self.custom.items():
            columns[name] = _checked(name, function(translations.source, translations.output), len(translations))
        return pd.DataFrame(columns)

    def fit_thresholds(
        self,
        held_out: Translations,
        *,
        flag_fraction: float = FLAG_FRACTION,
        labels: Sequence[bool] | np.ndarray | None = None,
        recall: float = 0.9,
    ) -> HallucinationScorer:
        """Set the threshold of every detector on translations that are not to be judged.

        Without labels: the quantile that flags `flag_fraction` of them. With labels (True = hallucinated): the largest
        threshold that finds at least `recall` of these. The heuristics keep the paper's fixed thresholds. With
        `attention_transport` among the detectors the held-out pairs also become its reference.

        Raises:
            ValueError: a share out of range, labels of another number, or no positive label.
        """
        if "attention_transport" in self.detectors:
            self.fit_reference(held_out)
        scores = self.score(held_out)
        for name in scores.columns:
            if name not in FIXED:
                self.thresholds[name] = threshold(
                    scores[name].to_numpy(float), flag_fraction=flag_fraction, labels=labels, recall=recall
                )
        return self

    def fit_reference(self, held_out: Translations) -> HallucinationScorer:
        """Take the attention of these translations as what is usual, for `attention_transport`.

        Raises:
            ValueError: there is no model, or fewer than 20 pairs.
        """
        if self._face is None:
            raise ValueError("attention_transport needs model= and tokenizer=")
        from paperworks.language.nmt_hallucinations.attention import attention_risks
        from paperworks.language.nmt_hallucinations.transport import transport_reference

        _, _, marginals, lengths = attention_risks(
            self._face, held_out.source, held_out.output, batch_tokens=self.batch_tokens
        )
        self._reference = transport_reference(marginals, lengths)
        return self

    def flag(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Which detector flags which row (bool), for scores of `score`; those without a threshold flag nothing."""
        import pandas as pd

        return pd.DataFrame({name: scores[name] >= self.thresholds.get(name, np.inf) for name in scores.columns})

    def _compute(self, name: str, translations: Translations) -> dict[str, np.ndarray]:
        """The detector, together with those that the same work yields."""
        sources, outputs = translations.source, translations.output
        if name in MODEL_FREE:
            return {name: _MODEL_FREE[name](sources, outputs)}
        if DETECTORS[name].needs == "reference":
            if translations.reference is None:
                raise ValueError(f"{name}: needs references, {translations.name} has none")
            from paperworks.language.nmt_hallucinations.adapters import reference_risk

            return {name: reference_risk(outputs, translations.reference, metric=name)}  # pyright: ignore
        return self._from_model(name, sources, outputs)

    def _from_model(self, name: str, sources: Sequence[str], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        face, tokens = self._face, self.batch_tokens
        if name in ("seq_logprob", "seq_logprob_sum"):
            from paperworks.language.nmt_hallucinations.logprob import seq_logprob

            normalize = name == "seq_logprob"
            return {name: seq_logprob(face, None, sources, outputs, batch_tokens=tokens, normalize=normalize)}
        if name in ("mc_logprob", "mc_variance"):
            from paperworks.language.nmt_hallucinations.logprob import mc_logprob

            drawn = mc_logprob(face, None, sources, outputs, n=self.n, batch_tokens=tokens, generator=self.generator)
            return {"mc_logprob": drawn.mean, "mc_variance": drawn.variance}
        if name == "mc_dissimilarity":
            from paperworks.language.nmt_hallucinations.sampling import mc_dissimilarity

            risk = mc_dissimilarity(
                face, None, sources, outputs, n=self.n, num_beams=self.num_beams, batch_tokens=tokens,
                generator=self.generator,
            )  # fmt: skip
            return {name: risk}
        if name == "alti":
            from paperworks.language.nmt_hallucinations.alti_models import alti_risk

            return {name: alti_risk(face, sources, outputs, batch_tokens=tokens)}
        return self._from_attention(sources, outputs)

    def _from_attention(self, sources: Sequence[str], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        from paperworks.language.nmt_hallucinations.attention import attention_risks
        from paperworks.language.nmt_hallucinations.transport import attention_transport

        if "attention_transport" in self.detectors and self._reference is None:
            raise ValueError("attention_transport: needs fit_reference or fit_thresholds on held-out pairs first")
        to_end, ignored, marginals, lengths = attention_risks(
            self._face, sources, outputs, batch_tokens=self.batch_tokens
        )
        found = {"attention_to_eos": to_end, "ignored_source": ignored}
        if self._reference is not None:
            found["attention_transport"] = attention_transport(marginals, lengths, self._reference)
        return found


_MODEL_FREE: dict[str, Custom] = {
    "top_ngram": ngrams.top_ngram_excess,
    "repeated_target": ngrams.repeated_targets,
    "length_ratio": ngrams.length_ratio,
}


def threshold(
    risks: np.ndarray,
    *,
    flag_fraction: float = FLAG_FRACTION,
    labels: Sequence[bool] | np.ndarray | None = None,
    recall: float = 0.9,
) -> float:
    """A threshold for "risk >= threshold" from held-out risks: see `HallucinationScorer.fit_thresholds`.

    Raises:
        ValueError: as there.
    """
    values = np.asarray(risks, dtype=np.float64)
    if labels is None:
        if not 0 < flag_fraction < 1:
            raise ValueError(f"flag_fraction: expected a share between 0 and 1, got {flag_fraction}")
        return float(np.quantile(values, 1 - flag_fraction, method="higher"))
    positive = np.asarray(labels, dtype=bool)
    if positive.shape != values.shape or not positive.any():
        raise ValueError(f"labels: expected {len(values)} with at least one True, got {int(positive.sum())} True")
    if not 0 < recall <= 1:
        raise ValueError(f"recall: expected a share in (0, 1], got {recall}")
    ranked = np.sort(values[positive])[::-1]
    # The smallest number of positives that is at least the wanted share, safe against 0.9 * 10 = 9.000...1.
    return float(ranked[int(np.ceil(recall * len(ranked) - 1e-9)) - 1])


def _check_names(names: Sequence[str], custom: Mapping[str, Custom], with_model: bool) -> None:
    listed = "; ".join(
        f"{name} needs {detector.needs}=" if detector.needs else name for name, detector in DETECTORS.items()
    )
    for name in names:
        if name not in DETECTORS:
            raise ValueError(f"detectors: unknown {name!r}; there are: {listed}")
        if "model" in DETECTORS[name].needs and not with_model:
            raise ValueError(f"detectors: {name} needs model= and tokenizer=; without: {', '.join(MODEL_FREE)}")
    if both := set(names) & set(custom):
        raise ValueError(f"custom: {sorted(both)[0]!r} is the name of a detector")


def _checked(name: str, values: Any, rows: int) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (rows,) or np.isnan(found).any():
        raise ValueError(f"custom: {name} returned shape {found.shape}, expected {rows} numbers without NaN")
    return found
