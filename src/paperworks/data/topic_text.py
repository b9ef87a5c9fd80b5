"""Texts from a bag of topics: a classification task that is made in milliseconds and needs no file.

Each topic has its own words and all share the rest; a passage draws each word from its topic with a given chance. The
order of the words means nothing, so that a bag of words is the best classifier there is.
"""

from __future__ import annotations

import itertools

import numpy as np

from paperworks.data.text import TextClassification, hash_split

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


def topic_text(
    *, passages: int = 600, topics: int = 4, words: int = 16, own_share: float = 0.3, seed: int = 0
) -> TextClassification:
    """Passages of invented words, labelled by topic, in equal numbers, split 70/10/20 within each topic.

    Args:
        passages: how many in all; at least 10 a topic.
        topics: how many labels, at least 2.
        words: words in a passage.
        own_share: chance that a word comes from the 20 of the topic and not from the 100 shared ones.
        seed: of the words drawn.

    Raises:
        ValueError: a number is out of range.
    """
    if topics < 2 or passages < 10 * topics:
        raise ValueError(f"passages: expected at least 10 for each of at least 2 topics, got {passages} for {topics}")
    if words < 1 or not 0 <= own_share <= 1:
        raise ValueError(f"words, own_share: expected at least 1 and a share in [0, 1], got {words} and {own_share}")
    rng = np.random.default_rng(seed)
    syllables = [first + second for first, second in itertools.product(CONSONANTS, VOWELS)]
    lexicon = np.array([first + second for first, second in itertools.product(syllables, syllables)])
    if 100 + 20 * topics > len(lexicon):
        raise ValueError(f"topics: expected at most {(len(lexicon) - 100) // 20}, got {topics}")
    lexicon = rng.permutation(lexicon)
    shared, own = lexicon[:100], lexicon[100 : 100 + 20 * topics].reshape(topics, 20)
    topic = np.arange(passages) % topics
    from_topic = rng.random((passages, words)) < own_share
    drawn = np.where(
        from_topic,
        own[topic[:, None], rng.integers(20, size=(passages, words))],
        shared[rng.integers(100, size=(passages, words))],
    )
    texts = [" ".join(row) for row in drawn]
    labels = [f"topic {number + 1}" for number in topic]
    notes = (f"{passages} passages of {words} invented words, {topics} topics, seed {seed}",)
    return TextClassification.build("topic-text", texts, labels, hash_split(texts, labels), notes)
