"""Distances of attention by optimal transport against scipy and slow twins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from paperworks.language.nmt_hallucinations import attention_transport, transport_reference
from paperworks.language.nmt_hallucinations.transport import distance_to_data, distance_to_uniform


def draw(rng, count, longest=12):
    sizes = rng.integers(2, longest, size=count)
    return [rng.dirichlet(np.ones(size)) for size in sizes], rng.integers(3, 30, size=count)


def slow_to_data(marginal, length, references, lengths, smallest):
    near = [r for r, other in zip(references, lengths, strict=True) if abs(other - length) <= 0.1 * length]
    if not near:
        closest = min(abs(other - length) for other in lengths)
        near = [r for r, other in zip(references, lengths, strict=True) if abs(other - length) == closest]
    distances = sorted(wasserstein_distance(np.arange(len(marginal)), np.arange(len(r)), marginal, r) for r in near)
    return np.mean(distances[:smallest])


@given(st.integers(0, 10_000))
def test_distance_to_data_is_scipys_wasserstein(seed):
    rng = np.random.default_rng(seed)
    references, lengths = draw(rng, 40)
    rows, own = draw(rng, 4, longest=20)
    found = distance_to_data(rows, own, transport_reference(references, lengths))
    expected = [slow_to_data(a, n, references, lengths, 4) for a, n in zip(rows, own, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_distance_to_uniform_by_hand():
    found = distance_to_uniform([np.full(5, 0.2), np.array([0.0, 0, 0, 1]), np.array([0.5, 0.5, 0, 0])])
    assert found.tolist() == pytest.approx([0.0, 0.75, 0.5])


def test_at_most_a_thousand_references_are_drawn_repeatably():
    rng = np.random.default_rng(0)
    references, _ = draw(rng, 1500)
    reference = transport_reference(references, np.full(1500, 10))
    rows, _ = draw(rng, 3)
    few = distance_to_data(rows, np.full(3, 10), reference, count=30)
    assert (few == distance_to_data(rows, np.full(3, 10), reference, count=30)).all()
    assert (few >= distance_to_data(rows, np.full(3, 10), reference, count=1500) - 1e-12).all()


def test_the_extremely_uneven_is_judged_by_its_distance_to_uniform():
    rng = np.random.default_rng(1)
    references = [rng.dirichlet(np.full(10, 20.0)) for _ in range(300)]
    reference = transport_reference(references, np.full(300, 10))
    peaked = np.zeros(10)
    peaked[-1] = 1.0
    usual = references[0]
    risk = attention_transport([usual, peaked], np.array([10, 10]), reference)
    low, high = reference.uniform_range
    to_low, to_high = reference.data_range
    assert risk[1] == pytest.approx(to_low + (0.9 - low) * (to_high - to_low) / (high - low))
    assert risk[0] == pytest.approx(distance_to_data([usual], np.array([10]), reference)[0])
    assert risk[1] > to_high > risk[0]


def test_a_reference_is_not_compared_with_itself():
    rng = np.random.default_rng(2)
    references, lengths = draw(rng, 30)
    reference = transport_reference(references, lengths)
    assert reference.data_range[0] > 0
    assert distance_to_data(references, lengths, reference, smallest=1).max() == pytest.approx(0.0, abs=1e-12)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least 20 references"):
        transport_reference([np.ones(1)] * 3, np.ones(3))
    with pytest.raises(ValueError, match="row 2 is no distribution"):
        distance_to_uniform([np.ones(1), np.array([0.5, 0.2])])
