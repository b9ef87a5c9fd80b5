"""Texts that say nearly the same: groups by Jaccard similarity of their words and word pairs, exactly and fast.

Two sets of sizes n >= m have J = |A and B| / |A or B| >= t only if they share one of the n - ceil(t n) + 1 rarest
elements of each (the prefix filter of Chaudhuri, Ganti, Kaushik, 2006, and Bayardo, Ma, Srikant, 2007). Only such
pairs are compared, so that nothing is approximate.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

Shingles = frozenset[str | tuple[str, str]]


def shingles(text: str) -> Shingles:
    """The set of lower-cased words and pairs of neighbouring words of a text."""
    words = re.findall(r"\w+", text.lower())
    return frozenset(words) | frozenset(itertools.pairwise(words))


def jaccard(first: Shingles, second: Shingles) -> float:
    """|A and B| / |A or B|, 0 for two empty sets."""
    common = len(first & second)
    union = len(first) + len(second) - common
    return common / union if union else 0.0


def near_duplicate_groups(texts: Sequence[str], *, threshold: float = 0.5) -> list[list[int]]:
    """Indices of texts in groups: linked are texts with Jaccard similarity >= `threshold`, directly or by others.

    Every index is in one group; groups and their members are in order of first appearance.

    Raises:
        ValueError: `threshold` is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: expected a number in (0, 1], got {threshold}")
    sets = [shingles(text) for text in texts]
    parent = list(range(len(sets)))
    for first, second in similar_pairs(sets, threshold):
        parent[_root(parent, second)] = _root(parent, first)
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(sets)):
        groups[_root(parent, index)].append(index)
    return list(groups.values())


def similar_pairs(sets: Sequence[Shingles], threshold: float) -> list[tuple[int, int]]:
    """All pairs of indices whose sets have Jaccard similarity >= `threshold`; empty sets are like nothing."""
    frequency = Counter(element for each in sets for element in each)
    holders: dict[str | tuple[str, str], list[int]] = defaultdict(list)
    pairs: list[tuple[int, int]] = []
    # From small to large: the sizes of what is already indexed then bound the similarity from one side only.
    for index in sorted(range(len(sets)), key=lambda index: (len(sets[index]), index)):
        own = sets[index]
        rarest = sorted(own, key=lambda element: (frequency[element], str(element)))
        candidates: set[int] = set()
        for element in rarest[: len(own) - math.ceil(threshold * len(own)) + 1]:
            candidates.update(holders[element])
            holders[element].append(index)
        pairs += [
            (other, index)
            for other in sorted(candidates)
            if len(sets[other]) >= threshold * len(own) and jaccard(sets[other], own) >= threshold
        ]
    return pairs


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index
