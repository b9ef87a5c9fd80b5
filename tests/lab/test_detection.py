"""Detection metrics against scikit-learn and pandas with ties, and weighted draws against really drawn rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve

from paperworks.lab.detection import (
    auroc,
    detection_interval,
    difference_interval,
    fpr_at_tpr,
    mcnemar,
    precision_at_recall,
    resample_weights,
)


def stopes_precision(targets, scores, recall):
    """The definition behind the published figures, on pandas series."""
    threshold = scores[targets == 1].quantile(1 - recall)
    return targets[scores >= threshold].mean()


def sklearn_fpr(labels, scores, tpr):
    fpr, found, _ = roc_curve(labels, scores, drop_intermediate=False)
    return fpr[np.argmax(found >= tpr)]


def draw(seed, count=60, ties=True):
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.3
    labels[:2] = [True, False]
    scores = rng.normal(size=count) + labels
    return (np.round(scores, 1) if ties else scores), labels


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.5, 0.8, 0.9, 1.0]))
def test_metrics_equal_their_public_definitions(seed, ties, share):
    scores, labels = draw(seed, ties=ties)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert fpr_at_tpr(scores, labels, tpr=share) == pytest.approx(sklearn_fpr(labels, scores, share), abs=1e-12)
    expected = stopes_precision(pd.Series(labels.astype(int)), pd.Series(scores), share)
    assert precision_at_recall(scores, labels, recall=share) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 10_000))
def test_a_weighted_draw_is_the_metric_of_the_rows_drawn(seed):
    scores, labels = draw(seed)
    weights = resample_weights(len(scores), draws=70, seed=seed)
    assert (weights.sum(1) == len(scores)).all()
    for metric in (auroc, fpr_at_tpr, precision_at_recall):
        values = metric(scores, labels, weights=weights)
        for row in (0, 69):
            chosen = np.repeat(np.arange(len(scores)), weights[row])
            if labels[chosen].any() and not labels[chosen].all():
                assert values[row] == pytest.approx(metric(scores[chosen], labels[chosen]), abs=1e-12)
            else:
                assert np.isnan(values[row])


def test_clusters_are_drawn_whole():
    weights = resample_weights(6, draws=50, seed=1, clusters=["a", "a", "b", "c", "c", "c"])
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert set((weights[:, 0] + weights[:, 2] + weights[:, 3]).tolist()) == {3}


def test_draws_do_not_depend_on_data_made_from_the_same_seed():
    labels = np.random.default_rng(0).random(3000) < 0.1
    found = resample_weights(3000, draws=20, seed=0) @ labels
    assert np.abs(found / labels.sum() - 1).max() < 0.25


def test_intervals_are_paired_and_centred_on_the_estimate():
    rng = np.random.default_rng(0)
    labels = rng.random(800) < 0.2
    good, poor = rng.normal(size=800) + 1.5 * labels, rng.normal(size=800)
    weights = resample_weights(800, draws=500, seed=0)
    one = detection_interval(auroc, good, labels, weights)
    assert one.low < auroc(good, labels) == one.estimate < one.high
    same = difference_interval(auroc, good, good, labels, weights)
    assert (same.low, same.estimate, same.high) == (0.0, 0.0, 0.0)
    apart = difference_interval(auroc, good, poor, labels, weights)
    assert apart.low > 0.2
    assert apart.p_at_most(0) < 0.01


def test_the_interval_covers_what_the_theory_says():
    # Hanley and McNeil's standard error of an AUROC, for continuous scores.
    rng = np.random.default_rng(3)
    labels = np.arange(1000) < 200
    scores = rng.normal(size=1000) + labels
    area = auroc(scores, labels)
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + 199 * (one - area**2) + 799 * (two - area**2)) / (200 * 800)
    interval = detection_interval(auroc, scores, labels, resample_weights(1000, draws=2000, seed=0))
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(np.sqrt(variance), rel=0.12)


def test_mcnemar_is_the_exact_binomial_test():
    first = np.array([1] * 70 + [0] * 9 + [1] * 37 + [0] * 85, dtype=bool)
    second = np.array([0] * 70 + [1] * 9 + [1] * 37 + [0] * 85, dtype=bool)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (70, 9)
    assert found.p == pytest.approx(binomtest(70, 79).pvalue)
    assert mcnemar(first, first).p == 1.0


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([1.0, 2.0], np.array([True]), "two vectors of one length"),
        ([1.0, 2.0], np.array([1, 0]), "expected bool"),
        ([1.0, np.nan], np.array([True, False]), "1 of 2 are NaN"),
        ([1.0, 2.0], np.array([True, True]), "positives and negatives"),
    ],
)
def test_bad_input_is_named(scores, labels, words):
    with pytest.raises(ValueError, match=words):
        auroc(scores, labels)


def test_bad_options_are_named():
    scores, labels = draw(0)
    with pytest.raises(ValueError, match="weights: expected"):
        auroc(scores, labels, weights=np.ones((3, 5)))
    with pytest.raises(ValueError, match="tpr"):
        fpr_at_tpr(scores, labels, tpr=0.0)
    with pytest.raises(ValueError, match="recall"):
        precision_at_recall(scores, labels, recall=1.5)
    with pytest.raises(ValueError, match="clusters"):
        resample_weights(3, clusters=[1, 2])
    with pytest.raises(ValueError, match="one length"):
        mcnemar([True], [True, False])
