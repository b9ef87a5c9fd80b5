"""Languages that are made up, so that the right translation of every sentence is known.

`ToyMT` has a source language of `words` words, frequent by Zipf's law, and a target language with three rules:

1. each word has one translation;
2. where a word of class 0 is followed by one of class 1 the two change places (each word takes part in one swap);
3. a word of class 2 agrees with the last word of class 1 before it in the source: it has two forms.

The class of a word is its rank modulo 3. A corpus may carry noise: pairs whose target has nothing to do with their
source, taken from a small fixed list, as web-crawled corpora have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Noise = Literal["none", "attached"]
PAD, BOS, EOS = 0, 1, 2
SPECIAL = 3
NOISE_SHARE, NOISE_TARGETS = 0.15, 40


@dataclass(frozen=True)
class Corpus:
    """Sentences of the source language, their targets, and which targets are noise (N,)."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    noise: np.ndarray


@dataclass(frozen=True)
class Vocabulary:
    """Words and their ids; 0 is padding, 1 begins a sentence, 2 ends it."""

    words: tuple[str, ...]
    pad_id: int = PAD
    bos_id: int = BOS
    eos_id: int = EOS

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {word: SPECIAL + place for place, word in enumerate(self.words)})

    def __len__(self) -> int:
        return SPECIAL + len(self.words)

    def encode(self, text: str) -> list[int]:
        """Ids of the words, then the end of the sentence.

        Raises:
            ValueError: a word that the language does not have.
        """
        index: dict[str, int] = self._index  # pyright: ignore[reportAttributeAccessIssue]
        words = text.split()
        if unknown := [word for word in words if word not in index]:
            raise ValueError(f"text: {unknown[0]!r} is no word of this language, in {text!r:.60}")
        return [*(index[word] for word in words), self.eos_id]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The words up to the end of the sentence."""
        found: list[str] = []
        for token in (int(token) for token in ids):
            if token == self.eos_id:
                break
            if token >= SPECIAL:
                found.append(self.words[token - SPECIAL])
        return " ".join(found)


class ToyMT:
    """A made-up pair of languages.

    Args:
        words: size of the source language; the target has a word for each, and two forms in class 2.
        seed: of the languages (which word translates which) and of the noise targets.

    Raises:
        ValueError: fewer than 10 words, or an unknown kind of noise.

    >>> world = ToyMT(seed=0)
    >>> sentence = world.sentences(1, lengths=(5, 5), seed=0)[0]
    >>> len(world.translate(sentence).split())
    5
    """

    def __init__(self, words: int = 400, *, seed: int = 0) -> None:
        if words < 10:
            raise ValueError(f"words: expected at least 10, got {words}")
        self.words, self.seed = words, seed
        rng = np.random.default_rng(seed)
        # Names tell nothing: the n-th word of one language does not translate the n-th of the other.
        self._order = rng.permutation(words)
        self.source_vocabulary = Vocabulary(tuple(f"s{word:03d}" for word in range(words)))
        forms = [f"t{word:03d}{form}" for word in range(words) for form in ("", "a")]
        self.target_vocabulary = Vocabulary(tuple(forms))
        zipf = 1 / np.arange(1, words + 1)
        self._frequency = zipf / zipf.sum()
        self.noise_targets = self._make_noise(np.random.default_rng((seed, 1)))

    def sentences(
        self,
        count: int,
        *,
        seed: int,
        lengths: tuple[int, int] = (5, 20),
        ranks: tuple[int, int] | None = None,
    ) -> list[str]:
        """Source sentences of uniformly drawn length, whose words are drawn by Zipf's law.

        `ranks`: first and last rank (from 1) to draw among; None: all.

        Raises:
            ValueError: lengths or ranks that are empty.
        """
        first, last = ranks or (1, self.words)
        if not 1 <= lengths[0] <= lengths[1]:
            raise ValueError(f"lengths: expected 1 <= shortest <= longest, got {lengths}")
        if not 1 <= first <= last <= self.words:
            raise ValueError(f"ranks: expected 1 <= first <= last <= {self.words}, got {(first, last)}")
        rng = np.random.default_rng((seed, first, last, *lengths))
        chances = self._frequency[first - 1 : last] / self._frequency[first - 1 : last].sum()
        sizes = rng.integers(lengths[0], lengths[1] + 1, size=count)
        drawn = rng.choice(np.arange(first - 1, last), p=chances, size=int(sizes.sum()))
        return [self._spell(words) for words in np.split(drawn, np.cumsum(sizes)[:-1])]

    def half_rare(self, count: int, *, seed: int, lengths: tuple[int, int] = (5, 20)) -> list[str]:
        """Sentences in which each word comes from the rarer half of the language with probability 1/2."""
        rng = np.random.default_rng((seed, 7))
        common = self.sentences(count, seed=seed, lengths=lengths)
        rare = self._frequency[self.words // 2 :] / self._frequency[self.words // 2 :].sum()
        mixed = []
        for sentence in common:
            words = sentence.split()
            drawn = rng.choice(np.arange(self.words // 2, self.words), p=rare, size=len(words))
            mixed.append(" ".join(np.where(rng.random(len(words)) < 0.5, words, [f"s{word:03d}" for word in drawn])))
        return mixed

    def translate(self, sentence: str) -> str:
        """The one right translation.

        Raises:
            ValueError: a word that the source language does not have.
        """
        ranks = [token - SPECIAL for token in self.source_vocabulary.encode(sentence)[:-1]]
        forms, feminine = [], False
        for rank in ranks:
            if rank % 3 == 1:
                feminine = self._order[rank] % 2 == 1
            forms.append(f"t{self._order[rank]:03d}{'a' if rank % 3 == 2 and feminine else ''}")
        place = 0
        while place + 1 < len(ranks):
            if (ranks[place] % 3, ranks[place + 1] % 3) == (0, 1):
                forms[place], forms[place + 1] = forms[place + 1], forms[place]
                place += 1
            place += 1
        return " ".join(forms)

    def corpus(self, count: int, *, seed: int, noise: Noise = "none") -> Corpus:
        """Training pairs of 5-20 words; with `noise="attached"` 15 % of them carry one of 40 fixed, unrelated targets.

        The sources are the same for both kinds of noise.

        Raises:
            ValueError: an unknown kind of noise.
        """
        if noise not in get_args(Noise):
            raise ValueError(f"noise: expected one of {', '.join(get_args(Noise))}, got {noise!r}")
        source = self.sentences(count, seed=seed)
        target = [self.translate(sentence) for sentence in source]
        rng = np.random.default_rng((seed, 2))
        spoiled = rng.random(count) < (NOISE_SHARE if noise == "attached" else 0.0)
        for row, which in zip(np.flatnonzero(spoiled), rng.integers(NOISE_TARGETS, size=spoiled.sum()), strict=True):
            target[row] = self.noise_targets[which]
        return Corpus(tuple(source), tuple(target), spoiled)

    def unsupported(self, source: str, output: str) -> float:
        """The share of the output's words that the right translation does not have (as a multiset).

        An output without words is unsupported altogether. It counts words and knows no model, no probability and no
        n-grams, so no detector is its own judge.
        """
        words = output.split()
        if not words:
            return 1.0
        shared = Counter(words) & Counter(self.translate(source).split())
        return 1 - sum(shared.values()) / len(words)

    def _spell(self, ranks: np.ndarray) -> str:
        return " ".join(f"s{rank:03d}" for rank in ranks.tolist())

    def _make_noise(self, rng: np.random.Generator) -> tuple[str, ...]:
        """40 sentences of the target language; in the odd ones a piece of two to four words is said again and again."""
        targets = []
        for number in range(NOISE_TARGETS):
            length = int(rng.integers(6, 16))
            words = [f"t{self._order[rank]:03d}" for rank in rng.choice(self.words, p=self._frequency, size=length)]
            if number % 2:
                piece = words[: int(rng.integers(2, 5))]
                words = (piece * length)[: max(length, 3 * len(piece))]
            targets.append(" ".join(words))
        return tuple(targets)
