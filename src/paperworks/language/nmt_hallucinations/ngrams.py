"""Detectors that need nothing but the texts: repetitions, outputs given to several sources, and odd lengths.

Notes:

1. An n-gram is of whitespace tokens, case kept. What counts is how often the commonest one of the output occurs beyond
   the commonest one of the source, so that a repetition in the source is no sign of anything.
2. An output is repeated if *different* sources received it; the same pair twice in a file is not.

Reference: Raunak et al. (2021, arXiv 2104.06683) for both heuristics; Guerreiro et al. (2023, arXiv 2208.05309),
section 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

NGRAM = 4
# From here on the paper's heuristics flag a pair.
FLAG_EXCESS, FLAG_SOURCES = 2, 2


def top_ngram_excess(sources: Sequence[str], outputs: Sequence[str], *, n: int = NGRAM) -> np.ndarray:
    """Count of the output's commonest n-gram minus that of the source's commonest: (rows,) float64.

    A text shorter than n tokens has no n-gram and counts 0. The paper flags pairs from 2 on.

    Raises:
        ValueError: lengths differ, or `n` is below 1.
    """
    _same(sources, outputs)
    if n < 1:
        raise ValueError(f"n: must be at least 1, got {n}")
    pairs = zip(sources, outputs, strict=True)
    return np.array([_commonest(output, n) - _commonest(source, n) for source, output in pairs], dtype=np.float64)


def repeated_targets(sources: Sequence[str], outputs: Sequence[str]) -> np.ndarray:
    """How many different sources of this corpus received each row's output: (rows,) float64, at least 1.

    White space is normalised, case kept. The paper flags outputs of 2 and more sources. It depends on the corpus: score
    all pairs at once.

    Raises:
        ValueError: lengths differ.
    """
    _same(sources, outputs)
    output = _numbered(" ".join(text.split()) for text in outputs)
    source = _numbered(sources)
    if not len(output):
        return np.zeros(0)
    different = np.unique(output * (source.max() + 1) + source)
    receivers = np.bincount(different // (source.max() + 1))
    return receivers[output].astype(np.float64)


def length_ratio(sources: Sequence[str], outputs: Sequence[str]) -> np.ndarray:
    """`|log((1 + characters of the output) / (1 + characters of the source))|`: (rows,) float64; ours, a baseline.

    Raises:
        ValueError: lengths differ.
    """
    _same(sources, outputs)
    ratios = [(1 + len(output)) / (1 + len(source)) for source, output in zip(sources, outputs, strict=True)]
    return np.abs(np.log(np.array(ratios, dtype=np.float64)))


def _numbered(texts: Iterable[str]) -> np.ndarray:
    """A number for each different text. (Sets of texts, one an output, would keep the garbage collector busy.)"""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)


def _commonest(text: str, n: int) -> int:
    words = text.split()
    if len(words) < n:
        return 0
    # An n-gram that occurs again brings a repeated word, at least: most texts have none, and a set of words is cheap.
    if len(set(words)) == len(words):
        return 1
    grams = list(zip(*(words[start:] for start in range(n)), strict=False))
    return 1 if len(set(grams)) == len(grams) else max(Counter(grams).values())


def _same(sources: Sequence[str], outputs: Sequence[str]) -> None:
    for name, texts in (("sources", sources), ("outputs", outputs)):
        if isinstance(texts, str):
            raise ValueError(f"{name}: expected a list of texts, got one text")
    if len(sources) != len(outputs):
        raise ValueError(f"outputs: expected one per source, {len(sources)}, got {len(outputs)}")
