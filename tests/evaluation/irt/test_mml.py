import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from paperworks.evaluation.irt import fit_irt, simulate_responses
from paperworks.evaluation.irt.abilities import abilities
from paperworks.evaluation.irt.curves import FREE, Curve, free_rows, log_curves, table_of
from paperworks.evaluation.irt.mml import mml_fit
from paperworks.evaluation.irt.nodes import Grid, modes, posterior, refined
from paperworks.evaluation.irt.priors import Priors
from paperworks.evaluation.irt.table import Table, distinct

MODELS = tuple(FREE)


def answers(responders=40, items=12, *, model="2pl", seed=0, missing=0.0):
    responses, _ = simulate_responses(responders, items, model=model, seed=seed, missing=missing)
    return responses.values, responses.observed


def objective(values, observed, v, params, rows, priors, nodes):
    """sum_r log Z_r + sum_i v_i log prior_i with loops over responders, in the plain form."""
    theta = np.linspace(-6, 6, nodes)
    weight = np.exp(-(theta**2) / 2)
    weight /= weight.sum()
    low, high = np.exp(params[2])[:, None], np.exp(params[3])[:, None]
    p = (low + 1 / (1 + np.exp(-np.exp(params[0])[:, None] * (theta - params[1][:, None])))) / (1 + low + high)
    total = 0.0
    for row, answer in enumerate(values):
        seen = np.ones(len(answer), bool) if observed is None else observed[row]
        likelihood = np.where(answer[:, None] == 1, p, 1 - p)[seen] ** v[seen, None]
        total += np.log(likelihood.prod(0) @ weight)
    mean, std = (0, 0, 0, priors.slip_mean), (priors.a_log_std, priors.b_std, priors.logit_c_std, priors.slip_std)
    return total - sum((v * (params[row] - mean[row]) ** 2).sum() / 2 / std[row] ** 2 for row in rows)


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("model", MODELS)
def test_objective_is_the_written_one_and_its_gradient_vanishes_at_the_fit(model, missing):
    values, observed = answers(model=model, missing=missing)
    v = np.random.default_rng(0).uniform(0.2, 2, 12)
    rows, priors = free_rows(model), Priors()
    fit = mml_fit(values, observed, v, model=model, nodes=81, tol=1e-9, steps=3000)
    top = objective(values, observed, v, fit.params, rows, priors, 81)
    assert fit.objective[-1] == pytest.approx(top, abs=1e-8)
    for row in rows:
        for item in (0, 5, 11):
            moved = [fit.params.copy(), fit.params.copy()]
            moved[0][row, item] += 1e-4
            moved[1][row, item] -= 1e-4
            up, down = (objective(values, observed, v, params, rows, priors, 81) for params in moved)
            assert abs(up - down) / 2e-4 < 2e-4
            assert max(up, down) <= top + 1e-9


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("priors", [Priors(), Priors.none()], ids=["priors", "no priors"])
@pytest.mark.parametrize("model", MODELS)
def test_objective_never_falls(model, priors, weighted):
    values, observed = answers(60, 15, model=model, seed=3, missing=0.1)
    v = np.repeat([0.1, 1.0, 0.5], 5) if weighted else None
    for nodes in (41, "auto"):
        fit = mml_fit(values, observed, v, model=model, priors=priors, nodes=nodes, tol=1e-7, steps=100)
        assert len(fit.objective) > 10
        assert np.diff(fit.objective).min() > -1e-9


def test_recovers_a_simulated_2pl():
    responses, truth = simulate_responses(2000, 100, model="2pl", seed=0)
    fit = mml_fit(responses.values, model="2pl")
    assert np.sqrt(np.mean((fit.params[1] - truth.b) ** 2)) < 0.12
    assert np.sqrt(np.mean((fit.params[0] - np.log(truth.a)) ** 2)) < 0.12
    assert np.corrcoef(fit.theta, truth.theta)[0, 1] > 0.96
    inside = np.abs(fit.params[1] - truth.b) < 1.96 * fit.sd[1]
    assert 0.85 < inside.mean() < 0.99


def test_standard_errors_are_the_spread_over_samples():
    rng = np.random.default_rng(0)
    _, truth = simulate_responses(1, 12, model="2pl", seed=1)
    estimates, errors = [], []
    for _ in range(60):
        theta = rng.standard_normal(400)
        p = 1 / (1 + np.exp(-truth.a * (theta[:, None] - truth.b)))
        fit = mml_fit((rng.random(p.shape) < p).astype(np.uint8), model="2pl", priors=Priors.none())
        estimates.append(fit.params[1])
        errors.append(fit.sd[1])
    ratio = np.mean(errors, axis=0) / np.std(estimates, axis=0)
    # Complete-data information takes abilities as known up to their posterior, so it promises a little too much.
    assert 0.6 < np.median(ratio) < 1.1


def test_number_of_nodes_hardly_matters():
    responses, _ = simulate_responses(500, 60, model="2pl", seed=0)
    few, many = (mml_fit(responses.values, model="2pl", nodes=nodes, tol=1e-6) for nodes in (41, 161))
    assert np.abs(few.params[1] - many.params[1]).max() < 1e-3


@pytest.mark.parametrize("model", ["2pl", "3pl"])
def test_auto_nodes_agree_with_very_many_where_posteriors_are_narrow(model):
    responses, _ = simulate_responses(30, 600, model="2pl", seed=5)
    auto = mml_fit(responses.values, model=model, tol=1e-5)
    many = mml_fit(responses.values, model=model, tol=1e-5, nodes=641)
    adaptive = mml_fit(responses.values, model=model, tol=1e-5, nodes="adaptive")
    coarse = mml_fit(responses.values, model=model, tol=1e-5, nodes=41)
    assert auto.grid.points > 5 * auto.grid.knots
    for fit in (auto, adaptive):
        assert np.abs(fit.params[1] - many.params[1]).max() < 2e-3
        np.testing.assert_allclose(fit.theta, many.theta, atol=1e-3)
        assert len(np.unique(fit.theta)) == 30
    assert np.abs(coarse.theta - many.theta).max() > 0.02  # what the rule protects from


def test_merging_equal_items_and_responders_changes_nothing():
    rng = np.random.default_rng(0)
    values, observed = answers(25, 8, missing=0.2)
    columns, rows = rng.integers(0, 8, 30), rng.integers(0, 25, 60)
    values, observed, v = values[rows][:, columns], observed[rows][:, columns], rng.uniform(0.5, 1, 30)
    table = Table.of(values, observed, v)
    assert table.shape == (8, len(np.unique(rows)))
    assert float(table.weight.sum()) == pytest.approx(v.sum())
    assert float(table.copies.sum()) == 60
    fit = mml_fit(values, observed, v, nodes=41, tol=1e-7)
    loops = objective(values, observed, v, fit.params, free_rows("3pl"), Priors(), 41)
    assert fit.objective[-1] == pytest.approx(loops, abs=1e-7)
    for column in range(8):
        same = np.flatnonzero(columns == column)
        assert (fit.params[:, same] == fit.params[:, same[:1]]).all()


@given(st.integers(1, 40), st.integers(1, 150), st.integers(0, 1000))
def test_distinct_rows_are_found_exactly(count, width, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 2, (count, width), dtype=np.uint8)[rng.integers(0, count, count)]
    first, which = distinct(rows, None)
    assert (rows[first][which] == rows).all()
    assert len(first) == len(np.unique(rows, axis=0))
    assert (np.diff(first) > 0).all()


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.sampled_from(["2pl", "3pl"]))
def test_permuted_tables_give_permuted_answers(seed, model):
    values, observed = answers(20, 9, seed=seed, missing=0.2)
    rng = np.random.default_rng(seed)
    rows, columns, v = rng.permutation(20), rng.permutation(9), rng.uniform(0.5, 2, 9)
    one = mml_fit(values, observed, v, model=model, tol=1e-5)
    two = mml_fit(values[rows][:, columns], observed[rows][:, columns], v[columns], model=model, tol=1e-5)
    np.testing.assert_allclose(two.params, one.params[:, columns], atol=1e-9)
    np.testing.assert_allclose(two.theta, one.theta[rows], atol=1e-9)


@settings(max_examples=8)
@given(st.integers(0, 10_000))
def test_a_responder_without_answers_has_the_prior_and_moves_nobody(seed):
    values, observed = answers(20, 9, seed=seed, missing=0.2)
    more = np.vstack([values, np.zeros((1, 9), np.uint8)])
    seen = np.vstack([observed, np.zeros((1, 9), bool)])
    one, two = mml_fit(values, observed, model="2pl", nodes=61), mml_fit(more, seen, model="2pl", nodes=61)
    assert two.theta[-1] == pytest.approx(0, abs=1e-9)
    assert two.theta_sd[-1] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(two.theta[:-1], one.theta, atol=1e-9)


def test_constant_items_leave_the_others_unchanged_when_nobody_learns_from_them():
    values, _ = answers(80, 20, seed=2)
    v = np.ones(20)
    more = np.hstack([values, np.ones((80, 3), np.uint8)])
    one = mml_fit(values, None, v, model="2pl", tol=1e-6)
    # An item that everybody answers rightly still says a little about ability, unless it weighs nothing.
    two = mml_fit(more, None, np.concatenate([v, np.full(3, 1e-9)]), model="2pl", tol=1e-6)
    np.testing.assert_allclose(two.params[:, :20], one.params, atol=1e-4)


def test_more_parameters_never_fit_worse():
    values, _ = answers(300, 15, model="3pl", seed=4)
    heights = [
        mml_fit(values, model=model, priors=Priors.none(), tol=1e-6, steps=3000, nodes=61).objective[-1]
        for model in MODELS
    ]
    assert heights == sorted(heights)


def test_missing_cells_equal_a_fit_on_the_complete_subset():
    values, _ = answers(30, 10, seed=6)
    block = np.vstack([np.hstack([values, np.zeros((30, 4), np.uint8)]), np.zeros((5, 14), np.uint8)])
    seen = np.zeros(block.shape, bool)
    seen[:30, :10] = True
    whole, part = mml_fit(values, nodes=61), mml_fit(block, seen, nodes=61)
    np.testing.assert_allclose(part.params[:3, :10], whole.params[:3], atol=1e-9)
    np.testing.assert_allclose(part.theta[:30], whole.theta, atol=1e-9)


def test_what_is_written_in_unobserved_cells_does_not_matter():
    values, observed = answers(30, 10, missing=0.4)
    other = np.where(observed, values, 1).astype(np.uint8)
    np.testing.assert_array_equal(mml_fit(values, observed).params, mml_fit(other, observed).params)


def test_modes_against_direct_maximisation():
    params = table_of(
        *(torch.tensor(x, dtype=torch.float64) for x in ([1.0, 2.0, 0.7], [-1.0, 0.0, 1.0], [0.1] * 3, [1.0] * 3))
    )
    values = np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=np.uint8)
    theta = torch.linspace(-6, 6, 240001, dtype=torch.float64)
    log_p, log_q = log_curves(Curve.of(params, free_rows("3pl")), theta)
    height = torch.where(torch.from_numpy(values).bool()[:, :, None], log_p, log_q).sum(1)
    found, error, _ = abilities(values, None, None, params.numpy(), method="map")
    top = (height - theta**2 / 2).argmax(1)
    np.testing.assert_allclose(found, theta[top], atol=1e-4)
    curve = (height - theta**2 / 2).diff(n=2)[torch.arange(4), top - 1] / (theta[1] - theta[0]) ** 2
    np.testing.assert_allclose(error, (-curve).rsqrt(), rtol=1e-3)
    ml, ml_error, _ = abilities(values, None, None, params.numpy(), method="ml")
    np.testing.assert_allclose(ml[:2], theta[height.argmax(1)][:2], atol=1e-4)
    assert ml[3] == 6
    assert np.isinf(ml_error[3])


def test_refinement_makes_the_points_finer_than_the_narrowest_posteriors():
    grid = Grid(61, 61)
    sharp = -0.5 * ((grid.theta - torch.tensor([[0.313], [-1.27]])) / 0.01) ** 2
    finer, state = refined(grid, sharp, posterior(grid, sharp))
    assert finer.spacing < 0.75 * 0.011
    np.testing.assert_allclose(state.theta, [0.313, -1.27], atol=2e-3)
    np.testing.assert_allclose(state.sd, 0.01, rtol=1e-2)
    np.testing.assert_allclose(state.counts.sum(1), 1)
    np.testing.assert_allclose(modes(finer, sharp, prior=False)[0], [0.313, -1.27], atol=1e-4)


def test_agrees_with_girth_on_a_large_sample():
    girth = pytest.importorskip("girth")
    responses, _ = simulate_responses(3000, 10, model="2pl", seed=8)
    theirs = girth.twopl_mml(responses.values.T.astype(int), {"max_iteration": 60})
    ours = mml_fit(responses.values, model="2pl", priors=Priors.none(), tol=1e-6, steps=2000)
    # girth sets each b so that the item's marginal is met, ours maximises the likelihood: equal up to sampling noise.
    np.testing.assert_allclose(np.exp(ours.params[0]), theirs["Discrimination"], atol=0.08)
    np.testing.assert_allclose(ours.params[1], theirs["Difficulty"], atol=0.08)


def test_is_mirt_s_fit_of_the_law_school_test():
    """Slopes, intercepts and log-likelihood that mirt 1.47.5 (R) prints for its LSAT7 (Bock and Lieberman, 1970)."""
    counts = "12 19 1 7 3 19 3 17 10 5 3 7 7 23 8 28 7 39 11 34 14 51 15 90 6 25 7 35 18 136 32 308"
    patterns = np.array([[int(answer) for answer in f"{number:05b}"] for number in range(32)], dtype=np.uint8)
    answers = np.repeat(patterns, [int(count) for count in counts.split()], axis=0)
    fit = mml_fit(answers, model="2pl", priors=Priors.none(), tol=1e-6)
    a, b = np.exp(fit.params[0]), fit.params[1]
    np.testing.assert_allclose(a, [0.988, 1.081, 1.706, 0.765, 0.736], atol=1.5e-3)
    np.testing.assert_allclose(-a * b, [1.856, 0.808, 1.804, 0.486, 1.855], atol=1.5e-3)
    assert fit.objective[-1] == pytest.approx(-2658.805, abs=6e-4)


def test_is_more_likely_than_girth_on_rte(nlu_irt):
    girth = pytest.importorskip("girth")
    rte = nlu_irt.responses.select(items=nlu_irt.responses.groups == "rte")
    p = rte.p_correct()
    values = np.ascontiguousarray(rte.values[:, (p > 0.2) & (p < 0.9)][:, :30])
    theirs = girth.twopl_mml(
        values.T.astype(int), {"max_iteration": 60, "quadrature_n": 61, "quadrature_bounds": (-6, 6)}
    )
    ours = mml_fit(values, model="2pl", priors=Priors.none(), tol=1e-5, steps=2000, nodes=61)
    table = np.full((4, values.shape[1]), -np.inf)
    table[0], table[1] = np.log(theirs["Discrimination"]), theirs["Difficulty"]
    none = Priors(*(np.inf,) * 3, 0, np.inf)
    assert ours.objective[-1] > objective(values, None, np.ones(30), table, (), none, 61)
    assert spearmanr(ours.params[1], theirs["Difficulty"])[0] > 0.85


def test_weighted_3pl_on_the_paper_s_table(nlu_irt):
    fit = fit_irt(nlu_irt.responses)
    authors = nlu_irt.authors
    mine, theirs = (each.summary().set_index("group")["leh_q75"] for each in (fit, authors))
    assert spearmanr(mine.loc[theirs.index], theirs)[0] >= 0.98
    assert set(mine.index[:3]) == {"hellaswag", "quoref", "mctaco"}
    order = [authors.responder_names.index(name) for name in fit.responder_names]
    assert np.corrcoef(fit.theta, authors.theta[order])[0, 1] > 0.98
    assert np.corrcoef(fit.b, authors.b)[0, 1] > 0.99
    assert np.corrcoef(fit.leh(), authors.leh())[0, 1] > 0.965
    assert len(np.unique(fit.theta.round(6))) == 90
    assert fit.converged
    # In float32 sums over 82,756 items the objective is exact to about 1e-7 of itself.
    assert np.diff(fit.objective).min() > -1e-6 * abs(fit.objective[-1])


@pytest.mark.slow
def test_unweighted_fit_of_the_paper_s_table_keeps_abilities_apart(nlu_irt):
    with pytest.warns(UserWarning, match="abilities at the edge"):
        fit = fit_irt(nlu_irt.responses, weights=None, nodes="adaptive")
    assert len(np.unique(fit.theta.round(6))) == 90
    assert fit.theta_sd.min() > 1e-4
