"""The toy languages follow their stated rules, and what is known about a translation is exact."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.worlds.text import NOISE_TARGETS, ToyMT

WORLD = ToyMT(seed=0)


def slow_translate(world, sentence):
    """The three rules, one after the other, on (rank, text) pairs."""
    ranks = [int(word[1:]) for word in sentence.split()]
    words = []
    for place, rank in enumerate(ranks):
        text = f"t{world._order[rank]:03d}"
        before = [other for other in ranks[:place] if other % 3 == 1]
        if rank % 3 == 2 and before and world._order[before[-1]] % 2 == 1:
            text += "a"
        words.append((rank, text))
    out, place = [], 0
    while place < len(words):
        pair = words[place : place + 2]
        if len(pair) == 2 and pair[0][0] % 3 == 0 and pair[1][0] % 3 == 1:
            out += [pair[1][1], pair[0][1]]
            place += 2
        else:
            out.append(pair[0][1])
            place += 1
    return " ".join(out)


@given(st.lists(st.integers(0, 399), min_size=1, max_size=25))
def test_translation_follows_the_three_rules(ranks):
    sentence = " ".join(f"s{rank:03d}" for rank in ranks)
    assert WORLD.translate(sentence) == slow_translate(WORLD, sentence)


def test_all_rules_are_at_work():
    sentences = WORLD.sentences(300, seed=1)
    plain = [" ".join(f"t{WORLD._order[int(word[1:])]:03d}" for word in sentence.split()) for sentence in sentences]
    right = [WORLD.translate(sentence) for sentence in sentences]
    forms = np.mean([any(word.endswith("a") for word in text.split()) for text in right])
    swaps = np.mean([a.split() != b.replace("a", "").split() for a, b in zip(plain, right, strict=True)])
    assert forms > 0.3
    assert swaps > 0.5


def test_words_follow_zipf_and_lengths_are_uniform():
    sentences = WORLD.sentences(4000, seed=2)
    counts = Counter(word for sentence in sentences for word in sentence.split())
    total = sum(counts.values())
    harmonic = (1 / np.arange(1, 401)).sum()
    for rank in (1, 2, 10):
        assert counts[f"s{rank - 1:03d}"] / total == pytest.approx(1 / rank / harmonic, rel=0.1)
    lengths = np.bincount([len(sentence.split()) for sentence in sentences])
    assert (lengths[:5] == 0).all()
    assert len(lengths) == 21
    assert lengths[5:].min() > 180


def test_slices_are_what_they_say():
    rare = WORLD.sentences(50, seed=3, ranks=(201, 400))
    assert all(int(word[1:]) >= 200 for sentence in rare for word in sentence.split())
    assert {len(sentence.split()) for sentence in WORLD.sentences(200, seed=3, lengths=(21, 30))} == set(range(21, 31))
    half = [int(word[1:]) >= 200 for sentence in WORLD.half_rare(300, seed=3) for word in sentence.split()]
    # Half of the words are drawn from the rare half, and a few of the others are rare anyway.
    anyway = (1 / np.arange(201, 401)).sum() / (1 / np.arange(1, 401)).sum()
    assert np.mean(half) == pytest.approx(0.5 + 0.5 * anyway, abs=0.03)


def test_noise_is_attached_to_the_stated_share_and_changes_nothing_else():
    clean, noisy = WORLD.corpus(4000, seed=4), WORLD.corpus(4000, seed=4, noise="attached")
    assert clean.source == noisy.source
    assert not clean.noise.any()
    assert noisy.noise.mean() == pytest.approx(0.15, abs=0.02)
    for row, spoiled in enumerate(noisy.noise):
        expected = WORLD.noise_targets if spoiled else (clean.target[row],)
        assert noisy.target[row] in expected
    assert len(set(WORLD.noise_targets)) == NOISE_TARGETS
    repeated = [max(Counter(itertools.pairwise(words)).values()) for words in map(str.split, WORLD.noise_targets)]
    assert np.mean(np.array(repeated)[1::2] >= 2) == 1.0


@given(st.integers(0, 200), st.data())
def test_unsupported_counts_words_of_the_output(seed, data):
    source = WORLD.sentences(1, seed=seed)[0]
    right = WORLD.translate(source).split()
    assert WORLD.unsupported(source, " ".join(data.draw(st.permutations(right)))) == 0.0
    wrong = data.draw(st.integers(0, len(right)))
    spoiled = ["nothing"] * wrong + right[wrong:]
    assert WORLD.unsupported(source, " ".join(spoiled)) == pytest.approx(wrong / len(right))
    # Saying everything twice: half of it is one time too many.
    assert WORLD.unsupported(source, " ".join(right * 2)) == pytest.approx(0.5)
    assert WORLD.unsupported(source, "") == 1.0


def test_vocabularies_go_there_and_back():
    source = WORLD.sentences(1, seed=9)[0]
    for vocabulary, text in ((WORLD.source_vocabulary, source), (WORLD.target_vocabulary, WORLD.translate(source))):
        ids = vocabulary.encode(text)
        assert ids[-1] == vocabulary.eos_id
        assert max(ids) < len(vocabulary)
        assert vocabulary.decode([vocabulary.bos_id, *ids, 5, 6]) == text


def test_worlds_differ_by_seed_and_only_by_it():
    assert ToyMT(seed=0).corpus(20, seed=1).target == WORLD.corpus(20, seed=1).target
    assert ToyMT(seed=1).corpus(20, seed=1).target != WORLD.corpus(20, seed=1).target


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="'hello' is no word"):
        WORLD.translate("s001 hello")
    with pytest.raises(ValueError, match="noise: expected one of none, attached"):
        WORLD.corpus(3, seed=0, noise="some")
    with pytest.raises(ValueError, match="lengths"):
        WORLD.sentences(1, seed=0, lengths=(5, 4))
    with pytest.raises(ValueError, match="ranks"):
        WORLD.sentences(1, seed=0, ranks=(201, 401))
    with pytest.raises(ValueError, match="words"):
        ToyMT(3)
