"""chrF of many pairs of texts at once: the same numbers as sacrebleu, several times as many a second.

    chrF = (1 + b^2) P R / (b^2 P + R),  P, R: mean precision and recall over the orders of n-grams, b = 2

Every occurrence of an n-gram becomes a number that depends on the n-gram and on how often it has occurred before in its
text. The clipped matches of two texts are then the numbers that they have in common, which one sort finds for
thousands of pairs.

Notes:

1. Orders that one of the two texts is too short for are left out of the means.
2. n-grams are compared by 64-bit hashes of which 48 bits decide within a pair.

Reference: Popović (2015; 2017 for chrF++, with word uni- and bigrams).
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

CHARACTERS, BETA = 6, 2.0
PUNCTUATION = frozenset(string.punctuation)
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
# Pairs that are sorted together: 16 bits for the pair and the order, 48 for the n-gram.
_BLOCK = 2**12
_SLOTS = 2**4
_HASH = np.uint64(2**48 - 1)


class Grams:
    """The n-grams of some texts, ready to be compared.

    Args:
        texts: the texts.
        words: highest order of word n-grams: 0 for chrF, 2 for chrF++.
    """

    def __init__(self, texts: Sequence[str], *, words: int = 0) -> None:
        self.orders = CHARACTERS + words
        characters = [
            np.frombuffer("".join(text.split()).encode("utf-32-le", "surrogatepass"), "<u4") for text in texts
        ]
        parts = [_occurrences(characters, order) for order in range(1, CHARACTERS + 1)]
        if words:
            index: dict[str, int] = {}
            spelled = [np.array([index.setdefault(w, len(index)) for w in _words(t)], dtype=np.uint32) for t in texts]
            parts += [_occurrences(spelled, order) for order in range(1, words + 1)]
        # Text by text, all orders together.
        self.counts = np.stack([count for _, _, count in parts], axis=1)
        order = np.concatenate([np.full(len(ids), place) for place, (ids, _, _) in enumerate(parts)])
        owner = np.concatenate([text for _, text, _ in parts])
        by_text = np.argsort(owner, kind="stable")
        self.ids = np.concatenate([ids for ids, _, _ in parts])[by_text] & _HASH
        self.order = order[by_text].astype(np.uint64)
        self.start = np.r_[0, np.cumsum(self.counts.sum(1))]


def matches(grams: Grams, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Clipped matches (pairs, orders) between the texts numbered `first` and `second`."""
    found = np.zeros((len(first), grams.orders), dtype=np.int64)
    for begin in range(0, len(first), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        keys = np.concatenate([_keys(grams, first[block]), _keys(grams, second[block])])
        keys.sort()
        common = (keys[1:][keys[1:] == keys[:-1]] >> np.uint64(48)).astype(np.int64)
        size = len(first[block])
        found[block] = np.bincount(common, minlength=size * _SLOTS).reshape(size, _SLOTS)[:, : grams.orders]
    return found


def chrf_pairs(grams: Grams, hypothesis: np.ndarray, reference: np.ndarray, *, both: bool = False) -> np.ndarray:
    """chrF in [0, 1] of pairs of texts, given by their numbers: (pairs,).

    `both`: the mean of the two directions, which is symmetric.
    """
    common = matches(grams, hypothesis, reference)
    one, two = grams.counts[hypothesis], grams.counts[reference]
    score = _f_score(common, one, two)
    return (score + _f_score(common, two, one)) / 2 if both else score


def chrf(hypotheses: Sequence[str], references: Sequence[str], *, words: int = 0, both: bool = False) -> np.ndarray:
    """Sentence chrF (chrF2; chrF2++ with `words=2`) in [0, 1] of each hypothesis against its reference: (rows,).

    100 times it is sacrebleu's `CHRF(word_order=words).sentence_score`.

    Raises:
        ValueError: lengths differ, or `words` is not in 0 to 4.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"references: expected one per hypothesis, {len(hypotheses)}, got {len(references)}")
    if not 0 <= words <= 4:
        raise ValueError(f"words: expected 0 to 4, got {words}")
    if not len(hypotheses):
        return np.zeros(0)
    rows = np.arange(len(hypotheses))
    return chrf_pairs(Grams([*hypotheses, *references], words=words), rows, rows + len(rows), both=both)


def _f_score(common: np.ndarray, hypothesis: np.ndarray, reference: np.ndarray) -> np.ndarray:
    usable = (hypothesis > 0) & (reference > 0)
    orders = np.maximum(usable.sum(1), 1)
    precision = np.where(usable, common / np.maximum(hypothesis, 1), 0).sum(1) / orders
    recall = np.where(usable, common / np.maximum(reference, 1), 0).sum(1) / orders
    below = BETA**2 * precision + recall
    return np.where(below > 0, (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1), 0.0)


def _keys(grams: Grams, texts: np.ndarray) -> np.ndarray:
    """(pair and order in the high bits, n-gram in the low ones) for every n-gram of these texts."""
    sizes = (grams.start[1:] - grams.start[:-1])[texts]
    pair = np.repeat(np.arange(len(texts), dtype=np.uint64), sizes)
    offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = np.repeat(grams.start[:-1][texts], sizes) + offsets
    return ((pair * np.uint64(_SLOTS) + grams.order[place]) << np.uint64(48)) | grams.ids[place]


def _occurrences(symbols: Sequence[np.ndarray], order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All n-grams of one order: a number for each occurrence, the text it is in, and how many each text has."""
    lengths = np.array([len(text) for text in symbols])
    counts = np.maximum(lengths - order + 1, 0)
    owner = np.repeat(np.arange(len(symbols)), counts)
    flat = np.concatenate([*symbols, np.zeros(0, np.uint32)]).astype(np.uint64)
    first = np.repeat(np.cumsum(lengths) - lengths, counts)
    place = first + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    code = np.zeros(len(place), dtype=np.uint64)
    for step in range(order):
        code = _mix(code + flat[place + step] + np.uint64(1))
    # Equal n-grams of a text, brought together, are numbered one after the other. Texts are scrambled twice: small
    # numbers of texts and of symbols must not change places in the sum.
    within = _mix(code + _mix(_mix(owner.astype(np.uint64))))
    together = np.argsort(within, kind="stable")
    ranked = within[together]
    fresh = np.r_[True, ranked[1:] != ranked[:-1]] if len(ranked) else np.zeros(0, bool)
    start = np.maximum.accumulate(np.where(fresh, np.arange(len(ranked)), 0))
    repeat = np.empty(len(ranked), dtype=np.uint64)
    repeat[together] = np.arange(len(ranked)) - start
    return _mix(code + repeat * _SECOND), owner, counts


def _mix(values: np.ndarray) -> np.ndarray:
    """A 64-bit scrambler (splitmix64); overflow is wanted."""
    values = values * _FIRST
    values = (values ^ (values >> np.uint64(30))) * _SECOND
    return values ^ (values >> np.uint64(31))


def _words(text: str) -> list[str]:
    """Words with a punctuation mark at an end split off, as chrF++ has them."""
    found: list[str] = []
    for word in text.split():
        if len(word) > 1 and word[-1] in PUNCTUATION:
            found += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in PUNCTUATION:
            found += [word[0], word[1:]]
        else:
            found.append(word)
    return found
