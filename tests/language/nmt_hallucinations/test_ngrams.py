"""Text-only detectors: by hand, against slow twins, and on the annotated corpus."""

import sys
from collections import Counter
from subprocess import run

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.language.nmt_hallucinations import length_ratio, repeated_targets, top_ngram_excess

WORDS = st.lists(st.sampled_from(["a", "b", "A"]), max_size=12).map(" ".join)


def slow_commonest(text, n):
    words = text.split()
    return max(Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)).values(), default=0)


@given(st.lists(st.tuples(WORDS, WORDS), max_size=6), st.integers(1, 5))
def test_excess_is_the_difference_of_the_commonest_counts(pairs, n):
    sources, outputs = [a for a, _ in pairs], [b for _, b in pairs]
    expected = [slow_commonest(output, n) - slow_commonest(source, n) for source, output in pairs]
    assert top_ngram_excess(sources, outputs, n=n).tolist() == expected


def test_repetition_in_the_source_is_no_sign():
    again = "la la la la la la la la"
    assert top_ngram_excess(["one two three four", again], [again, again]).tolist() == [4.0, 0.0]


def test_a_repeated_output_counts_different_sources():
    sources = ["x", "x", "y", "z", "u"]
    outputs = ["Thank you", "Thank  you ", "Thank you", "thank you", "No"]
    assert repeated_targets(sources, outputs).tolist() == [2, 2, 2, 1, 1]


def test_length_ratio_is_symmetric_and_counts_characters():
    assert length_ratio(["abc"], ["abcdefg"])[0] == pytest.approx(np.log(2))
    assert length_ratio(["abcdefg"], ["abc"])[0] == pytest.approx(np.log(2))
    assert length_ratio(["abc"], [""])[0] == pytest.approx(np.log(4))


@pytest.mark.parametrize("detector", [top_ngram_excess, repeated_targets, length_ratio])
def test_bad_input_is_named(detector):
    with pytest.raises(ValueError, match="one per source, 2, got 1"):
        detector(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="expected a list of texts"):
        detector("ab", ["c", "d"])


def test_n_is_checked():
    with pytest.raises(ValueError, match="n: must be at least 1"):
        top_ngram_excess(["a"], ["b"], n=0)


def test_model_free_detectors_import_no_torch():
    code = (
        "import sys; from paperworks.language import HallucinationScorer, Translations; "
        "frame = HallucinationScorer().score(Translations(['a b'], ['c d'])); assert list(frame) ; "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    assert run([sys.executable, "-c", code], check=False).returncode == 0
