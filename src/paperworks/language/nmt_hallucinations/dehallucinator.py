"""DeHallucinator: where a translation is suspect, draw others under dropout and take the best of them.

1. the risk of each pair, by default Seq-Logprob; 2. pairs at or above the threshold are suspect; 3. for each of these
N = 10 hypotheses by beam search with dropout on, not inside attention weights; 4. the scorer's best of them (and of the
output itself, by option) replaces the output.

The scorer sees source and hypotheses, never a reference. The paper's best is COMET-QE, a poor detector but a good
judge between candidates.

Reference: Guerreiro et al. (2023, arXiv 2208.05309), section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from paperworks.data.translations import Translations
from paperworks.language.nmt_hallucinations.alti_models import alti_risk
from paperworks.language.nmt_hallucinations.logprob import check_pairs, seq_logprob
from paperworks.language.nmt_hallucinations.models import translator
from paperworks.language.nmt_hallucinations.sampling import BEAMS, HYPOTHESES, mc_hypotheses, translate
from paperworks.language.nmt_hallucinations.scorer import HallucinationScorer
from paperworks.language.nmt_hallucinations.scorer import threshold as held_out_threshold

if TYPE_CHECKING:
    import pandas as pd

Scorer = Callable[[Sequence[str], Sequence[str]], Any]


@dataclass(frozen=True, eq=False)
class Repairs:
    """What was changed.

    `table`: a row per pair with `source`, `before`, `after`, `risk`, `flagged`, `score_before` and `score` (of the
    output and of what replaces it; NaN where not flagged), `changed`. `hypotheses`: row -> what was drawn for it.
    """

    table: pd.DataFrame
    hypotheses: dict[int, list[str]]

    @property
    def outputs(self) -> list[str]:
        """All outputs, those replaced included."""
        return self.table["after"].tolist()


class Dehallucinator:
    """Overwrites suspect translations by the best of several drawn under dropout.

    Args:
        model, tokenizer: see `translator`.
        risk: a detector of `HallucinationScorer` by name.
        threshold: pairs with at least this risk are suspect; see `fit_threshold`.
        n, num_beams: hypotheses of each suspect pair, and beams of each.
        scorer: (sources, hypotheses) -> scores, larger = better; None: the model's own log-probability.
        keep_original: whether the output itself is a candidate.
        attention: whether weights of attention are dropped as well.
        source_language, target_language, batch_tokens, generator: as in `mc_hypotheses`.

    Raises:
        ValueError: an unknown detector, or numbers out of range.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        threshold: float,
        risk: str = "seq_logprob",
        n: int = HYPOTHESES,
        num_beams: int = BEAMS,
        scorer: Scorer | None = None,
        keep_original: bool = True,
        attention: bool = False,
        source_language: str | None = None,
        target_language: str | None = None,
        batch_tokens: int = 8192,
        generator: torch.Generator | None = None,
    ) -> None:
        if n < 1 or num_beams < 1:
            raise ValueError(f"n, num_beams: must be at least 1, got {n}, {num_beams}")
        if not threshold == threshold:
            raise ValueError("threshold: is NaN; use fit_threshold on held-out risks")
        self.face = translator(model, tokenizer, source_language=source_language, target_language=target_language)
        self.threshold, self.n, self.num_beams = threshold, n, num_beams
        self.scorer = scorer or log_prob_scorer(self.face, None, batch_tokens=batch_tokens)
        self.keep_original, self.attention, self.batch_tokens = keep_original, attention, batch_tokens
        self.generator = generator
        self._risks = HallucinationScorer(
            model=self.face, tokenizer=(), detectors=(risk,), batch_tokens=batch_tokens, generator=generator
        )
        self.risk = risk

    def fix(
        self,
        sources: Sequence[str],
        outputs: Sequence[str] | None = None,
        *,
        hypotheses: Sequence[Sequence[str]] | None = None,
    ) -> Repairs:
        """Repair translations; without `outputs` the model translates first, by beam search.

        Args:
            hypotheses: `n` draws a source, made before by `mc_hypotheses`; None: drawn for what is suspect.

        Raises:
            ValueError: lengths differ, a text is too long, or the scorer returns something else than a number each.
        """
        import pandas as pd

        if outputs is None:
            outputs = [best[0] for best in translate(self.face, None, sources, num_beams=self.num_beams)]
        check_pairs(sources, outputs)
        risks = self._risks.score(Translations(sources, outputs))[self.risk].to_numpy(float)
        suspect: list[int] = np.flatnonzero(risks >= self.threshold).tolist()
        after = list(outputs)
        before_score, score = np.full(len(after), np.nan), np.full(len(after), np.nan)
        if hypotheses is None:
            drawn = self._draw([sources[row] for row in suspect])
        else:
            drawn = self._given(hypotheses, len(sources), suspect)
        for row, texts, scores in zip(
            suspect, drawn, self._scores([sources[row] for row in suspect], [outputs[row] for row in suspect], drawn),
            strict=True,
        ):  # fmt: skip
            candidates = [outputs[row], *texts]
            first = 0 if self.keep_original else 1
            best = first + int(np.argmax(scores[first:]))
            after[row], before_score[row], score[row] = candidates[best], scores[0], scores[best]
        table = pd.DataFrame(
            {
                "source": list(sources),
                "before": list(outputs),
                "after": after,
                "risk": risks,
                "flagged": risks >= self.threshold,
                "score_before": before_score,
                "score": score,
                "changed": [old != new for old, new in zip(outputs, after, strict=True)],
            }
        )
        return Repairs(table, dict(zip(suspect, drawn, strict=True)))

    def _draw(self, sources: Sequence[str]) -> list[list[str]]:
        if not sources:
            return []
        return mc_hypotheses(
            self.face,
            None,
            sources,
            n=self.n,
            num_beams=self.num_beams,
            attention=self.attention,
            batch_tokens=self.batch_tokens,
            generator=self.generator,
        )

    def _given(self, hypotheses: Sequence[Sequence[str]], rows: int, suspect: list[int]) -> list[list[str]]:
        if len(hypotheses) != rows or any(len(hypotheses[row]) != self.n for row in suspect):
            raise ValueError(f"hypotheses: expected {self.n} for each of {rows} sources")
        return [list(hypotheses[row]) for row in suspect]

    def _scores(self, sources: Sequence[str], outputs: Sequence[str], drawn: list[list[str]]) -> np.ndarray:
        """(suspects, 1 + n): of the output first, then of each hypothesis."""
        width = 1 + self.n
        candidates = [text for output, row in zip(outputs, drawn, strict=True) for text in (output, *row)]
        repeated = [source for source in sources for _ in range(width)]
        scores = np.asarray(self.scorer(repeated, candidates), dtype=np.float64) if candidates else np.zeros(0)
        if scores.shape != (len(candidates),) or np.isnan(scores).any():
            raise ValueError(f"scorer: returned shape {scores.shape}, expected {len(candidates)} numbers without NaN")
        return scores.reshape(-1, width)


def fit_threshold(risks: np.ndarray, **options: Any) -> float:
    """A threshold from the risks of held-out translations: by `flag_fraction`, or by `labels` and `recall`."""
    return held_out_threshold(risks, **options)


def log_prob_scorer(model: Any, tokenizer: Any, *, batch_tokens: int = 8192) -> Scorer:
    """Candidates by the model's own log-probability per token, without dropout."""
    return lambda sources, hypotheses: -seq_logprob(model, tokenizer, sources, hypotheses, batch_tokens=batch_tokens)


def alti_scorer(model: Any, tokenizer: Any, *, batch_tokens: int = 8192) -> Scorer:
    """Candidates by how much of them comes from the source."""
    face = translator(model, tokenizer)
    return lambda sources, hypotheses: 1 - alti_risk(face, sources, hypotheses, batch_tokens=batch_tokens)
