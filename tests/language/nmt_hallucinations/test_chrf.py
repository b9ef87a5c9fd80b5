"""Bulk chrF is sacrebleu's chrF, pair by pair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.language.nmt_hallucinations.chrf import Grams, chrf, chrf_pairs, matches

TEXT = st.text(alphabet=st.sampled_from("ab,. (é\u00a0\u4e2d\U0001f600"), max_size=14)


def sacrebleu_scores(hypotheses, references, words):
    metrics = pytest.importorskip("sacrebleu.metrics")
    metric = metrics.CHRF(word_order=words)
    return [metric.sentence_score(a, [b]).score / 100 for a, b in zip(hypotheses, references, strict=True)]


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=30), st.sampled_from([0, 1, 2]))
def test_equals_sacrebleu(pairs, words):
    hypotheses, references = [a for a, _ in pairs], [b for _, b in pairs]
    expected = sacrebleu_scores(hypotheses, references, words)
    np.testing.assert_allclose(chrf(hypotheses, references, words=words), expected, atol=1e-12)


def test_thousands_of_short_texts_do_not_disturb_one_another():
    # Small codes of texts and of letters must not be mistaken for one another.
    texts = [f"(Applause {number}) and {'x' * (number % 7)}" for number in range(3000)]
    assert (chrf(texts, texts) == 1.0).all()
    assert (chrf(texts, texts[1:] + texts[:1]) < 1.0).all()


def test_pairs_are_compared_across_blocks_and_in_both_directions():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["red", "blue", "house", "tree"], size=rng.integers(1, 9))) for _ in range(150)]
    first, second = rng.integers(150, size=9000), rng.integers(150, size=9000)
    both = chrf_pairs(Grams(texts), first, second, both=True)
    np.testing.assert_allclose(both, chrf_pairs(Grams(texts), second, first, both=True), atol=1e-15)
    left, right = [texts[i] for i in first[-50:]], [texts[i] for i in second[-50:]]
    one, two = sacrebleu_scores(left, right, 0), sacrebleu_scores(right, left, 0)
    np.testing.assert_allclose(both[-50:], (np.array(one) + np.array(two)) / 2, atol=1e-12)


def test_matches_are_clipped():
    grams = Grams(["aaa", "aaaaa"])
    assert matches(grams, np.array([0]), np.array([1]))[0].tolist() == [3, 2, 1, 0, 0, 0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="one per hypothesis, 2, got 1"):
        chrf(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="words: expected 0 to 4"):
        chrf(["a"], ["c"], words=5)
    assert chrf([], []).tolist() == []
