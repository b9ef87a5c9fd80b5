import numpy as np
import pytest

from paperworks.evaluation.irt import fit_irt, simulate_responses
from paperworks.evaluation.irt.curves import FREE, free_rows
from paperworks.evaluation.irt.map import map_fit

MODELS = tuple(FREE)


def height(values, observed, v, params, theta, rows):
    """The joint log posterior with the curve in its plain form."""
    low, high = np.exp(params[2]), np.exp(params[3])
    p = (low + 1 / (1 + np.exp(-np.exp(params[0]) * (theta[:, None] - params[1])))) / (1 + low + high)
    cells = np.where(values == 1, np.log(p), np.log(1 - p)) * (1 if observed is None else observed)
    mean, std = (0, 0, 0, -3), (0.3, 1, 1, 1)
    prior = sum((v * (params[row] - mean[row]) ** 2).sum() / 2 / std[row] ** 2 for row in rows)
    return (cells * v).sum() - prior - (theta**2).sum() / 2


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("model", MODELS)
def test_objective_is_the_joint_posterior_rises_and_ends_where_no_step_helps(model, missing):
    responses, _ = simulate_responses(25, 12, model=model, seed=1, missing=missing)
    v, rows = np.random.default_rng(0).uniform(0.3, 2, 12), free_rows(model)
    values, observed = responses.values, responses.observed
    fit = map_fit(values, observed, v, model=model, tol=1e-6, steps=5000)
    top = height(values, observed, v, fit.params, fit.theta, rows)
    assert fit.objective[-1] == pytest.approx(top, abs=1e-8)
    assert np.diff(fit.objective).min() > -1e-9

    def moved(row, place, step):
        params, theta = fit.params.copy(), fit.theta.copy()
        (theta if row == "theta" else params[row])[place] += step
        return height(values, observed, v, params, theta, rows)

    for row, place in [(row, item) for row in rows for item in range(12)] + [("theta", r) for r in range(25)]:
        up, down = moved(row, place, 1e-4), moved(row, place, -1e-4)
        assert abs(up - down) / 2e-4 < 5e-3
        assert (up + down) / 2 < top


def test_recovers_a_large_table_with_gaps():
    responses, truth = simulate_responses(600, 300, model="2pl", seed=0, missing=0.5)
    fit = fit_irt(responses, model="2pl", method="map")
    # Joint MAP shrinks the common scale of abilities and difficulties; their places it finds.
    assert np.corrcoef(fit.b, truth.b)[0, 1] > 0.98
    assert 0.75 < np.polyfit(truth.b, fit.b, 1)[0] < 1.0
    assert np.corrcoef(fit.theta, truth.theta)[0, 1] > 0.97
    assert fit.converged


def test_agrees_with_the_marginal_fit_where_abilities_are_well_known():
    responses, _ = simulate_responses(200, 800, model="2pl", seed=2)
    joint, marginal = (fit_irt(responses, model="2pl", method=method, tol=1e-4) for method in ("map", "mml"))
    assert np.corrcoef(joint.theta, marginal.theta)[0, 1] > 0.9995
    assert np.abs(joint.b - marginal.b).mean() < 0.03


def test_missing_cells_equal_a_fit_on_the_complete_subset():
    responses, _ = simulate_responses(30, 10, model="3pl", seed=3)
    block = np.zeros((33, 14), np.uint8)
    block[:30, :10] = responses.values
    seen = np.zeros(block.shape, bool)
    seen[:30, :10] = True
    whole, part = map_fit(responses.values), map_fit(block, seen)
    np.testing.assert_allclose(part.params[:3, :10], whole.params[:3], atol=1e-9)
    np.testing.assert_allclose(part.theta[:30], whole.theta, atol=1e-9)
    np.testing.assert_allclose(part.theta[30:], 0, atol=1e-9)
