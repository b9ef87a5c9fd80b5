import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperworks.evaluation.irt import fisher_information, item_curve, leh_score
from paperworks.evaluation.irt.curves import FREE, Curve, free_rows, log_curves, shares, table_of
from paperworks.evaluation.irt.newton import fisher_system, solve, standard_errors
from paperworks.evaluation.irt.priors import Priors

MODELS = tuple(FREE)
finite = st.floats(-4, 4)


def random_items(model, count=11, seed=0):
    rng = np.random.default_rng(seed)
    params = np.full((4, count), -np.inf)
    params[0] = 0
    for row in free_rows(model):
        params[row] = rng.normal(0, 0.7, count)
    return torch.from_numpy(params)


def chance(params, theta):
    """The curve as the paper writes it."""
    low, high = params[2].exp()[:, None], params[3].exp()[:, None]
    total = 1 + low + high
    c, d = low / total, 1 - high / total
    return c + (d - c) * torch.sigmoid(params[0].exp()[:, None] * (theta - params[1][:, None]))


@pytest.mark.parametrize("model", MODELS)
def test_log_curves_are_the_logarithms_of_the_curve(model):
    params, theta = random_items(model), torch.linspace(-5, 5, 23, dtype=torch.float64)
    log_p, log_q = log_curves(Curve.of(params, free_rows(model)), theta)
    p = chance(params, theta)
    torch.testing.assert_close(log_p, p.log(), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(log_q, (1 - p).log(), atol=1e-9, rtol=1e-9)  # the plain form cancels


@pytest.mark.parametrize("model", MODELS)
def test_scores_are_the_derivatives_of_the_log_curves(model):
    params = random_items(model)
    theta = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    curve = Curve.of(params, free_rows(model))
    below, guess, slip = shares(curve, theta.detach())
    expected = (below if guess is None else below - guess, below - 1 if slip is None else below - 1 + slip)
    for log, score in zip(log_curves(curve, theta), expected, strict=True):
        (slope,) = torch.autograd.grad(log.sum(), theta, retain_graph=True)
        torch.testing.assert_close(slope, (score * curve.a[:, None]).sum(0))


@pytest.mark.parametrize("model", MODELS)
def test_float32_is_finite_and_right_where_the_plain_form_is_not(model):
    params = random_items(model)
    theta = torch.tensor([-90.0, -30.0, 30.0, 90.0], dtype=torch.float64)
    exact = log_curves(Curve.of(params, free_rows(model)), theta)
    single = log_curves(Curve.of(params.float(), free_rows(model)), theta.float())
    for wide, narrow in zip(exact, single, strict=True):
        assert torch.isfinite(narrow).all()
        torch.testing.assert_close(narrow.double(), wide, rtol=2e-6, atol=5e-5)


@pytest.mark.parametrize("model", MODELS)
def test_fisher_system_is_the_gradient_and_the_expected_information(model):
    rows, priors, params = free_rows(model), Priors(), random_items(model)
    theta = torch.linspace(-2, 2, 7, dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    right = 3 * torch.rand(11, 7, generator=rng, dtype=torch.float64)
    counts = right + torch.rand(11, 7, generator=rng, dtype=torch.float64)
    stds = torch.tensor([0.3, 1, 1, 1], dtype=torch.float64)[list(rows)]
    means = torch.tensor([0, 0, 0, -3], dtype=torch.float64)[list(rows)]

    def curve_of(free):
        full = list(params)
        for position, row in enumerate(rows):
            full[row] = free[position]
        return chance(torch.stack(full), theta)

    free = params[list(rows)].clone().requires_grad_()
    p = curve_of(free)
    objective = (right * p.log() + (counts - right) * (1 - p).log()).sum()
    objective = objective - (0.5 * ((free - means[:, None]) / stds[:, None]) ** 2).sum()
    (gradient,) = torch.autograd.grad(objective, free)
    score, info = fisher_system(params, theta, right, counts, rows, priors)
    torch.testing.assert_close(torch.stack(score), gradient, rtol=1e-10, atol=1e-10)

    slopes = torch.autograd.functional.jacobian(curve_of, free.detach())  # (M, Q, K, M)
    slopes = torch.stack([slopes[item, :, :, item] for item in range(11)])
    p = p.detach()
    wanted = torch.einsum("mqk,mql,mq->mkl", slopes, slopes, counts / (p * (1 - p)))
    wanted += torch.diag(stds**-2 + 1e-5)
    torch.testing.assert_close(torch.stack([torch.stack(row) for row in info]).permute(2, 0, 1), wanted)
    step = torch.stack(solve(info, score), dim=1)
    torch.testing.assert_close(step, torch.linalg.solve(wanted, torch.stack(score, dim=1)))
    errors = torch.stack(standard_errors(info), dim=1)
    torch.testing.assert_close(errors, torch.linalg.inv(wanted).diagonal(dim1=1, dim2=2).sqrt())


def test_one_row_of_counts_is_the_same_as_equal_counts_for_every_item():
    params, theta = random_items("4pl"), torch.linspace(-2, 2, 7, dtype=torch.float64)
    counts = torch.rand(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1
    right = 0.4 * counts.expand(11, 7).contiguous()
    one = fisher_system(params, theta, right, counts, free_rows("4pl"), Priors())
    many = fisher_system(params, theta, right, counts.expand(11, 7).contiguous(), free_rows("4pl"), Priors())
    torch.testing.assert_close(torch.stack(one[0]), torch.stack(many[0]))
    torch.testing.assert_close(torch.stack(one[1][0]), torch.stack(many[1][0]))


@given(finite, st.floats(0.05, 5), finite, st.floats(0, 0.6), st.floats(0.7, 1))
def test_headroom_and_information_are_slopes_of_the_curve(theta, a, b, c, d):
    step = 1e-5
    up, down = (float(item_curve(np.array(theta + move), a, b, c, d)) for move in (step, -step))
    slope, p = (up - down) / (2 * step), float(item_curve(np.array(theta), a, b, c, d))
    headroom = float(leh_score(np.array(theta), a, b, c, d))
    assert 0 <= headroom <= a / 4 + 1e-12
    assert headroom == pytest.approx(slope, abs=1e-7)
    if 1e-3 < p < 1 - 1e-3:
        assert float(fisher_information(np.array(theta), a, b, c, d)) == pytest.approx(slope**2 / p / (1 - p), abs=1e-5)


def test_information_matches_the_3pl_formula_and_survives_the_tails():
    theta, a, b, c = np.linspace(-3, 3, 13), 1.7, 0.4, 0.2
    p = item_curve(theta, a, b, c)
    formula = a**2 * (p - c) ** 2 * (1 - p) / ((1 - c) ** 2 * p)
    np.testing.assert_allclose(fisher_information(theta, a, b, c), formula, rtol=1e-12)
    assert np.isfinite(fisher_information(np.array([-900.0, 900.0]), a, b, c)).all()
    assert fisher_information(np.array(b), a, b, 0.0) == pytest.approx(a**2 / 4)


def test_tensors_stay_tensors_and_asymptotes_survive_the_round_trip():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
    c, d = torch.tensor([0.1, 0.3]), torch.tensor([0.95, 1.0])
    theta = torch.tensor([[-1.0], [1.5]])
    assert torch.is_tensor(leh_score(theta, a, b, c, d))
    back = chance(table_of(a, b, c, d), theta[:, 0])
    torch.testing.assert_close(back.T, item_curve(theta, a, b, c, d))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, -1.0, 0.0), "a: expected discriminations > 0"),
        ((0.0, 1.0, 0.0, 0.5, 0.5), "c, d: expected"),
        ((0.0, 1.0, 0.0, -1.1), "c, d: expected"),
    ],
)
def test_impossible_curves_are_refused(arguments, message):
    for function in (item_curve, leh_score, fisher_information):
        with pytest.raises(ValueError, match=message):
            function(*(np.array(value) for value in arguments))


def test_unknown_models_and_priors_are_refused():
    with pytest.raises(ValueError, match="model: expected one of 1pl, 2pl, 3pl, 4pl, got '5pl'"):
        free_rows("5pl")
    with pytest.raises(ValueError, match="priors: b_std must be > 0"):
        Priors(b_std=0)


def test_the_paper_s_headroom_from_the_authors_parameters(nlu_irt):
    fit = nlu_irt.authors
    headroom = fit.leh()
    assert headroom.mean() == pytest.approx(0.118537, abs=5e-7)
    assert fit.best == "albert-xxlarge-v2_50"
    assert fit.theta.max() == pytest.approx(1.6106, abs=5e-5)
    quartiles = fit.summary().set_index("group")["leh_q75"]
    printed = {
        "quoref": 0.2609,
        "hellaswag": 0.2596,
        "mctaco": 0.2563,
        "newsqa": 0.2458,
        "commonsenseqa": 0.2391,
        "quail": 0.2367,
        "arc-challenge": 0.2244,
        "boolq": 0.1262,
        "mnli": 0.1209,
        "cb": 0.1026,
        "snli": 0.0508,
        "wic": 0.1461,
        "wsc": 0.1423,
        "winogrande": 0.1661,
    }
    assert {name: round(quartiles[name], 4) for name in printed} == printed
    assert list(quartiles.index[:7]) == list(printed)[:7]
    log_a = fit.summary().set_index("group")["log_a_q75"].nlargest(5)
    assert log_a.round(3).to_dict() == {
        "qamr": 0.609,
        "mrqa-nq": 0.527,
        "newsqa": 0.520,
        "quoref": 0.495,
        "squad_v2": 0.487,
    }
