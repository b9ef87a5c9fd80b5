"""Misfit, suspects, selection and rankings, against loops written from the formulas and brute resampling."""

import numpy as np
import pytest

from paperworks.data.responses import Responses
from paperworks.evaluation.irt.curves import fisher_information, item_curve
from paperworks.evaluation.irt.diagnostics import (
    compare_groups,
    group_draws,
    item_fit,
    resampled_quantile,
    select_items,
    suspect_items,
)
from paperworks.evaluation.irt.fit import fit_irt
from paperworks.evaluation.irt.simulate import simulate_responses


@pytest.fixture(scope="module")
def gaps():
    responses, _ = simulate_responses(60, 40, model="2pl", seed=3, missing=0.15, groups=4)
    return fit_irt(responses, model="2pl", weights=None)


# Misfit ------------------------------------------------------------


def test_misfit_is_what_a_loop_over_cells_gives(gaps):
    table, frame = gaps.responses, item_fit(gaps)
    y = table.to_array()
    for i in range(y.shape[1]):
        standard, squares, variances, right, rest = [], 0.0, 0.0, [], []
        for r in range(y.shape[0]):
            if np.isnan(y[r, i]):
                continue
            p = 1 / (1 + np.exp(-gaps.a[i] * (gaps.theta[r] - gaps.b[i])))
            standard.append((y[r, i] - p) ** 2 / (p * (1 - p)))
            squares, variances = squares + (y[r, i] - p) ** 2, variances + p * (1 - p)
            right.append(y[r, i])
            rest.append(np.nanmean(np.delete(y[r], i)))
        assert frame["outfit"][i] == pytest.approx(np.mean(standard), rel=1e-9)
        assert frame["infit"][i] == pytest.approx(squares / variances, rel=1e-9)
        assert frame["point_biserial"][i] == pytest.approx(np.corrcoef(right, rest)[0, 1], rel=1e-9)


def test_blocks_of_items_do_not_change_the_answer(gaps, monkeypatch):
    whole = item_fit(gaps)
    monkeypatch.setattr("paperworks.evaluation.irt.diagnostics.BLOCK_CELLS", 7 * len(gaps.responses))
    assert item_fit(gaps).equals(whole)


def test_flags_name_constant_reversed_and_unanswered_items():
    responses, _ = simulate_responses(200, 20, model="2pl", seed=1)
    y = responses.to_array()
    y[:, 0], y[:, 1], y[:, 2], y[:, 3] = 1, 0, 1 - y[:, 2], np.nan
    fit = fit_irt(Responses.from_array(y), model="2pl")
    frame = item_fit(fit)
    assert frame["flag"].tolist()[:4] == ["all_right", "all_wrong", "negative_discrimination", "unanswered"]
    assert set(frame["flag"][4:]) == {""}
    assert frame["point_biserial"][:2].isna().all()
    assert frame["point_biserial"][2] < -0.1


def test_a_fit_from_files_needs_its_own_responses(gaps, tmp_path):
    gaps.save(tmp_path / "fit")
    loaded = type(gaps).load(tmp_path / "fit")
    with pytest.raises(ValueError, match="responses: a fit that was loaded"):
        item_fit(loaded)
    with pytest.raises(ValueError, match="responses: expected the table of the fit"):
        item_fit(loaded, gaps.responses.select(items=[0, 1]))
    assert item_fit(loaded, gaps.responses).equals(item_fit(gaps))


# Suspects ------------------------------------------------------------


def test_the_seven_scores_are_their_formulas(gaps):
    frame = suspect_items(gaps).set_index("item").loc[list(gaps.item_names)]
    y = gaps.responses.to_array()
    order = np.argsort(-gaps.theta)
    tenth = gaps.theta[order[9]]
    np.testing.assert_allclose(frame["expert_logit"], -gaps.a * (tenth - gaps.b))
    np.testing.assert_allclose(frame["error_rate"], np.nanmean(1 - y, axis=0))
    np.testing.assert_allclose(frame["difficulty"], gaps.b)
    np.testing.assert_allclose(frame["best_third_error"], np.nanmean(1 - y[order[:20]], axis=0))
    np.testing.assert_allclose(frame["point_biserial"], -item_fit(gaps)["point_biserial"])
    np.testing.assert_allclose(frame["outfit"], item_fit(gaps)["outfit"])
    np.testing.assert_allclose(frame["flatness"], -np.log(gaps.a))


@pytest.mark.parametrize("by", ["expert_logit", "error_rate", "difficulty", "best_third_error", "point_biserial"])
def test_flipped_labels_rise_to_the_top(by):
    responses, truth = simulate_responses(150, 150, model="2pl", seed=5)
    easy = (
        truth.b < 0.5
    )  # a hard item with a wrong label looks like an easy one, and among hard ones nothing stands out
    y = responses.select(items=easy).to_array()
    flipped = np.argsort(truth.b[easy])[:10:2]
    y[:, flipped] = 1 - y[:, flipped]
    fit = fit_irt(Responses.from_array(y), model="2pl")
    top = suspect_items(fit, by=by)["item"].tolist()[:20]
    found = len({f"item_{i}" for i in flipped} & set(top))
    assert found >= 4  # five flipped; twenty drawn at random would find one


def test_unanswered_items_come_last_and_ranks_count():
    y = simulate_responses(50, 10, model="2pl", seed=2)[0].to_array()
    y[:, 4] = np.nan
    frame = suspect_items(fit_irt(Responses.from_array(y), model="2pl"))
    assert frame["item"].iloc[-1] == "item_4"
    assert frame["rank"].tolist() == list(range(1, 11))
    assert frame["expert_logit"].iloc[:9].is_monotonic_decreasing


def test_unknown_scores_are_refused(gaps):
    with pytest.raises(ValueError, match="by: expected one of expert_logit"):
        suspect_items(gaps, by="luck")


# Selection ------------------------------------------------------------


def test_the_chosen_items_are_the_most_informative(gaps):
    for at, theta in (("best", [gaps.theta.max()]), (0.3, [0.3]), ([-1.0, 1.0], [-1.0, 1.0])):
        total = sum(fisher_information(np.array(t), gaps.a, gaps.b) for t in theta)
        chosen = select_items(gaps, 7, at=at)
        assert chosen == tuple(gaps.item_names[i] for i in np.argsort(-total)[:7])
    for k in (0, 41):
        with pytest.raises(ValueError, match="k: expected 1 to 40"):
            select_items(gaps, k)
    with pytest.raises(ValueError, match="at: expected"):
        select_items(gaps, 3, at="nobody")
    with pytest.raises(ValueError, match="at: expected"):
        select_items(gaps, 3, at=[])


# Rankings ------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 28, 101])
def test_quantiles_of_resamples_have_the_law_of_brute_resampling(n):
    rng = np.random.default_rng(n)
    values = rng.exponential(size=n)
    fast = resampled_quantile(values, 40_000, rng)
    slow = np.quantile(values[rng.integers(0, n, (40_000, n))], 0.75, axis=1)
    assert fast.mean() == pytest.approx(slow.mean(), abs=5 * (slow.std() + 1e-12) / 200)
    assert fast.std() == pytest.approx(slow.std(), rel=0.03, abs=1e-12)
    # Two samples of 40,000: the largest gap between their distributions stays under .0122 in all but one of 200 cases.
    places = np.sort(np.concatenate([fast, slow]))
    gap = np.abs(np.searchsorted(np.sort(fast), places, "right") - np.searchsorted(np.sort(slow), places, "right"))
    assert gap.max() / 40_000 < 0.0122


def sets_of_different_headroom():
    """Set `hard` lies at the best responders' ability, `easy` far below it, `middle` between."""
    rng = np.random.default_rng(0)
    theta = rng.standard_normal(80)
    b = np.concatenate([np.full(40, -2.5), np.full(40, 0.5), np.full(40, 2.0)])
    y = rng.random((80, 120)) < item_curve(theta[:, None], np.ones(120), b)
    groups = np.repeat(["easy", "middle", "hard"], 40)
    return Responses.from_array(y, groups=groups, families=[f"family_{r % 8}" for r in range(80)])


def test_ranks_and_intervals_follow_the_headroom():
    fit = fit_irt(sets_of_different_headroom(), model="2pl", weights=None)
    frame = compare_groups(fit).set_index("group")
    assert frame.index.tolist() == ["hard", "middle", "easy"]
    assert frame["rank"].tolist() == [1, 2, 3]
    assert frame.loc["easy", "rank_low"] == 3
    for name in frame.index:
        assert frame.loc[name, "q75"] == pytest.approx(np.quantile(fit.leh()[fit.groups == name], 0.75))
        assert frame.loc[name, "low"] <= frame.loc[name, "q75"] <= frame.loc[name, "high"]
    assert (frame["top3"] == 1).all()
    draws = group_draws(fit, bootstrap=200, statistic="log_a")
    assert draws.values.shape == draws.ranks.shape == (200, 3)
    assert (np.sort(draws.ranks, axis=1) == [1, 2, 3]).all()
    np.testing.assert_allclose(draws.estimate[0], np.quantile(fit.log_a[fit.groups == "easy"], 0.75))
    assert compare_groups(fit, seed=1).equals(compare_groups(fit, seed=1))


def test_resampled_families_widen_intervals_and_refit():
    fit = fit_irt(sets_of_different_headroom(), model="2pl", weights=None)
    items = compare_groups(fit, bootstrap=400)
    both = compare_groups(fit, bootstrap=400, clusters="families", refits=10)
    assert ((both["high"] - both["low"]) > (items["high"] - items["low"])).all()
    labels = fit.families.tolist()
    assert compare_groups(fit, bootstrap=400, clusters=labels, refits=10).equals(both)


def test_draws_are_shared_out_over_the_refits(monkeypatch):
    fit = fit_irt(sets_of_different_headroom(), model="2pl", weights=None)
    seen = []

    def refit(table, **options):
        seen.append((table.responders, options["model"]))
        return fit

    monkeypatch.setattr("paperworks.evaluation.irt.fit.fit_irt", refit)
    draws = group_draws(fit, bootstrap=25, clusters="families", refits=10)
    assert draws.values.shape == (25, 3)
    assert len(seen) == 10
    for responders, model in seen:
        rows = [int(name.split(" ")[0].removeprefix("responder_")) for name in responders]
        drawn = [row % 8 for row in rows]
        assert all(drawn.count(family) % 10 == 0 for family in range(8))  # whole families of ten, once or more
        assert (len(rows), model) == (80, "2pl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bootstrap": 0}, "bootstrap, refits: expected at least 1"),
        ({"statistic": "mean"}, "statistic: expected one of leh, log_a"),
        ({"clusters": ["x"]}, "clusters: expected 60 labels"),
        ({"clusters": ["x"] * 60}, "at least two different labels"),
        ({"clusters": "families"}, "needs responses with families"),
    ],
)
def test_unfit_options_are_refused(gaps, options, message):
    with pytest.raises(ValueError, match=message):
        compare_groups(gaps, **options)
