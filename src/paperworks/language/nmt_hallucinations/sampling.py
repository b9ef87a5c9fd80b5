"""Translations drawn with dropout on, and how much they disagree (MC-DSim).

    risk = 1 - mean similarity over pairs of N hypotheses

Notes:

1. The recipe drops out in embeddings and layers of encoder and decoder, but not inside attention weights; beam 5.
2. The pairs are the N (N - 1) / 2 unordered pairs of hypotheses, as in the unsupervised-quality script that the paper's
   repository points to; `pairs="output"` compares the given output with each hypothesis instead.
3. The similarity there is METEOR with alpha .5, which is nearly symmetric; here chrF, averaged over both directions.

Reference: Fomicheva et al. (2020, arXiv 2005.10608); Guerreiro et al. (2023, arXiv 2208.05309), section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch

from paperworks.language.nmt_hallucinations.batching import BATCH_TOKENS, seeded, source_batches
from paperworks.language.nmt_hallucinations.chrf import Grams, chrf_pairs
from paperworks.language.nmt_hallucinations.logprob import check_pairs
from paperworks.language.nmt_hallucinations.models import Translator, translator
from paperworks.nn.modes import evaluating
from paperworks.train.dropout import mc_dropout

HYPOTHESES, BEAMS = 10, 5
Pairs = Literal["hypotheses", "output"]
Similarity = Callable[[Sequence[str], Sequence[str]], np.ndarray]


def translate(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    *,
    num_beams: int = BEAMS,
    num_return: int = 1,
    batch_tokens: int = BATCH_TOKENS,
    source_language: str | None = None,
    target_language: str | None = None,
) -> list[list[str]]:
    """The `num_return` best translations of each source by beam search, without dropout."""
    face = translator(model, tokenizer, source_language=source_language, target_language=target_language)
    with torch.no_grad(), evaluating(face.model):
        return _generate(face, sources, num_beams=num_beams, num_return=num_return, copies=1, tokens=batch_tokens)


def mc_hypotheses(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    *,
    n: int = HYPOTHESES,
    num_beams: int = BEAMS,
    attention: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    generator: torch.Generator | None = None,
    source_language: str | None = None,
    target_language: str | None = None,
) -> list[list[str]]:
    """`n` translations of each source, each the best of a beam search with its own dropout.

    The n copies of a source are rows of one batch. The model is afterwards in the modes it came with.

    Args:
        n: hypotheses a source.
        num_beams: beams of each.
        attention: whether weights of attention are dropped as well.
        generator: of the dropout; None: torch's global generator.

    Raises:
        ValueError: `n` or `num_beams` below 1, or a source longer than the model takes.
    """
    if n < 1 or num_beams < 1:
        raise ValueError(f"n, num_beams: must be at least 1, got {n}, {num_beams}")
    face = translator(model, tokenizer, source_language=source_language, target_language=target_language)
    with torch.no_grad(), seeded(generator, face.device), mc_dropout(face.model, attention=attention):
        return _generate(face, sources, num_beams=num_beams, num_return=1, copies=n, tokens=batch_tokens)


def mc_dissimilarity(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    outputs: Sequence[str],
    *,
    n: int = HYPOTHESES,
    num_beams: int = BEAMS,
    pairs: Pairs = "hypotheses",
    similarity: Similarity | None = None,
    attention: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    generator: torch.Generator | None = None,
    source_language: str | None = None,
    target_language: str | None = None,
) -> np.ndarray:
    """One minus the mean similarity of translations drawn with dropout: (rows,).

    Args:
        pairs: "hypotheses" with one another, or the "output" with each of them.
        similarity: (texts, texts) -> (rows,) in [0, 1]; None: symmetric chrF.
        others: as in `mc_hypotheses`.

    Raises:
        ValueError: as `mc_hypotheses`; a single hypothesis has nothing to be compared with.
    """
    check_pairs(sources, outputs)
    hypotheses = mc_hypotheses(
        model,
        tokenizer,
        sources,
        n=n,
        num_beams=num_beams,
        attention=attention,
        batch_tokens=batch_tokens,
        generator=generator,
        source_language=source_language,
        target_language=target_language,
    )
    return dissimilarity(hypotheses, outputs, pairs=pairs, similarity=similarity)


def dissimilarity(
    hypotheses: Sequence[Sequence[str]],
    outputs: Sequence[str] | None = None,
    *,
    pairs: Pairs = "hypotheses",
    similarity: Similarity | None = None,
) -> np.ndarray:
    """The risk from hypotheses that are there already: (rows,). Arguments as for `mc_dissimilarity`.

    Raises:
        ValueError: unequal numbers of hypotheses, fewer than two for `pairs="hypotheses"`, no outputs for "output".
    """
    if pairs not in get_args(Pairs):
        raise ValueError(f"pairs: expected one of {', '.join(get_args(Pairs))}, got {pairs!r}")
    counts = {len(row) for row in hypotheses}
    if len(counts) != 1:
        raise ValueError(f"hypotheses: expected equally many for each source, got {sorted(counts)}")
    n = counts.pop()
    if n < (2 if pairs == "hypotheses" else 1):
        raise ValueError(f"n: {n} hypotheses have no pair to compare; draw at least 2")
    if pairs == "output" and (outputs is None or len(outputs) != len(hypotheses)):
        raise ValueError(f"outputs: expected one per source, {len(hypotheses)}")
    if pairs == "output":
        assert outputs is not None
        table = [[output, *row] for output, row in zip(outputs, hypotheses, strict=True)]
        left, right = np.zeros(n, dtype=int), np.arange(1, n + 1)
    else:
        table = [list(row) for row in hypotheses]
        left, right = np.triu_indices(n, 1)
    width = len(table[0])
    begin = np.repeat(np.arange(len(table)) * width, len(left))
    first, second = begin + np.tile(left, len(table)), begin + np.tile(right, len(table))
    texts = [text for row in table for text in row]
    if similarity is None:
        found = chrf_pairs(Grams(texts), first, second, both=True)
    else:
        found = np.asarray(similarity([texts[row] for row in first], [texts[row] for row in second]), dtype=np.float64)
    return 1 - found.reshape(len(table), -1).mean(1)


def _generate(
    face: Translator, sources: Sequence[str], *, num_beams: int, num_return: int, copies: int, tokens: int
) -> list[list[str]]:
    """For each source `copies * num_return` translations, in whatever mode the model is."""
    tokenized = face.sources(sources)
    found: list[list[str]] = [[]] * len(tokenized)
    rows_of = copies * num_beams
    for rows, ids, mask in source_batches(tokenized, tokens=tokens, pad=face.pad, device=face.device, copies=rows_of):
        repeated = ids.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
        texts = face.generate(*repeated, num_beams=num_beams, num_return=num_return)
        for place, row in enumerate(rows):
            found[row] = [text for each in texts[place * copies : (place + 1) * copies] for text in each]
    return found
