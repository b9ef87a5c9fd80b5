import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from paperworks.lab import statistics as ours

samples = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12).filter(lambda v: np.std(v) > 1e-6)


@given(samples, st.floats(-10, 10))
def test_t_interval_and_its_p_values_are_scipys(values, margin):
    interval = ours.t_interval(values)
    theirs = stats.ttest_1samp(values, margin)
    low, high = theirs.confidence_interval(0.95)
    assert interval.estimate == pytest.approx(np.mean(values))
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))
    assert interval.p_at_most(margin) == pytest.approx(
        stats.ttest_1samp(values, margin, alternative="greater").pvalue, abs=1e-12
    )
    assert interval.p_at_least(margin) == pytest.approx(
        stats.ttest_1samp(values, margin, alternative="less").pvalue, abs=1e-12
    )


def test_one_seed_has_no_interval_and_equal_seeds_have_a_point():
    alone = ours.t_interval([0.3])
    assert (alone.low, alone.high, alone.p_at_most(-5)) == (-np.inf, np.inf, 1.0)
    equal = ours.t_interval([0.3, 0.3, 0.3])
    assert (equal.low, equal.high) == (equal.estimate, equal.estimate)
    assert (equal.p_at_most(0.2), equal.p_at_most(0.4)) == (0.0, 1.0)


def test_resampled_t_is_nadeau_and_bengios_formula():
    values = np.array([0.1, 0.2, 0.15, 0.3, 0.22])
    interval = ours.resampled_t(values, test_size=20, train_size=80)
    error = np.sqrt(values.var(ddof=1) * (1 / 5 + 20 / 80))
    half = stats.t(4).ppf(0.975) * error
    assert interval.high - interval.estimate == pytest.approx(half)


def test_clopper_pearson_is_scipys_exact_interval():
    interval = ours.clopper_pearson(7, 10)
    low, high = stats.binomtest(7, 10).proportion_ci(method="exact")
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))
    assert interval.p_at_most(0.5) == pytest.approx(stats.binomtest(7, 10, 0.5, alternative="greater").pvalue)


def test_holm_against_hand_computed_values():
    assert ours.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert ours.holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert ours.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_monotone_and_never_below_the_raw_value(p_values):
    adjusted = ours.holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_interquartile_mean_ignores_a_failed_seed():
    assert ours.interquartile_mean([0.0, 0.9, 0.9, 0.9]) == pytest.approx(0.9)


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    values = np.random.default_rng(0).normal(size=2000)
    interval = ours.bootstrap(values, draws=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_over_clusters_is_wider_when_items_of_a_cluster_agree():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 20)
    values = rng.normal(size=30)[clusters] + 0.1 * rng.normal(size=600)
    wide, narrow = ours.bootstrap(values, clusters=clusters), ours.bootstrap(values)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def _share_covered(make_interval, truth, repeats):
    return np.mean([interval.low <= truth <= interval.high for interval in map(make_interval, range(repeats))])


def test_coverage_of_the_t_interval_over_five_seeds():
    def interval(repeat):
        return ours.t_interval(np.random.default_rng(repeat).normal(0.3, 2.0, size=5))

    covered = _share_covered(interval, 0.3, 4000)
    assert 0.94 < covered < 0.96


def test_coverage_of_the_bootstrap_over_many_items():
    def interval(repeat):
        return ours.bootstrap(np.random.default_rng(repeat).exponential(size=200), draws=500, seed=repeat)

    assert 0.91 < _share_covered(interval, 1.0, 1000) < 0.97


@pytest.mark.slow
def test_corrected_resampled_t_keeps_its_promise_where_the_plain_interval_does_not():
    from sklearn.linear_model import RidgeClassifier

    def differences(repeat, rows=300):
        rng = np.random.default_rng(repeat)
        features = rng.normal(size=(rows, 10))
        labels = features.sum(axis=1) + rng.normal(size=rows) > 0
        found = []
        for _ in range(5):
            order = rng.permutation(rows)
            train, test = order[: rows * 4 // 5], order[rows * 4 // 5 :]
            scores = [
                RidgeClassifier().fit(half[train], labels[train]).score(half[test], labels[test])
                for half in (features[:, :5], features[:, 5:])
            ]
            found.append(scores[0] - scores[1])
        return found

    found = [differences(repeat) for repeat in range(300)]
    false_calls = [
        np.mean([not interval.low <= 0 <= interval.high for interval in intervals])
        for intervals in (
            [ours.resampled_t(values, test_size=60, train_size=240) for values in found],
            [ours.t_interval(values) for values in found],
        )
    ]
    assert false_calls[0] <= 0.08
    assert false_calls[1] > 1.5 * false_calls[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ours.t_interval([]), "non-empty"),
        (lambda: ours.t_interval([1.0, np.nan]), "1 of 2 are not finite"),
        (lambda: ours.t_interval([[1.0]]), "shape"),
        (lambda: ours.bootstrap([1.0, 2.0]), "at least 20"),
        (lambda: ours.resampled_t([1.0, 2.0], test_size=0, train_size=5), "expected positive"),
        (lambda: ours.clopper_pearson(3, 2), "3 of 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
