import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from paperworks.evaluation.irt import fit_irt, simulate_responses
from paperworks.evaluation.irt.curves import FREE, free_rows
from paperworks.evaluation.irt.joint import ability_system, gradient, weighted_loglik
from paperworks.evaluation.irt.priors import Priors
from paperworks.evaluation.irt.table import Table
from paperworks.evaluation.irt.vi import Variational, adamw_ascent, elbo, elbo_gradient, vi_fit

MODELS = tuple(FREE)
MEANS, STDS = (0.0, 0.0, 0.0, -3.0), (0.3, 1.0, 1.0, 1.0)


def setting(model, missing, responders=13, items=17):
    """A table, a variational state away from its start, and one frozen draw, in float64."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    values = (rng.random((responders, items)) < 0.6).astype(np.uint8)
    observed = rng.random(values.shape) < 0.8 if missing else None
    v = rng.uniform(0.1, 1, items)
    rows = free_rows(model)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    state = Variational(0.4 * normal(2, len(rows), items), 0.4 * normal(2, responders))
    state.items[1] -= 1  # steep curves are beyond the plain form that these tests write down
    noise = Variational(normal(1, len(rows), items), normal(1, responders))
    return values, observed, v, Table.of(values, observed, v, merge=False), state, noise, rows


def written(values, observed, v, items, theta, noise, rows):
    """The weighted bound on the frozen draw, as the paper and its code define it, through torch.distributions."""
    normal = torch.distributions.Normal
    x = {row: items[0, k] + items[1, k].exp() * noise.items[0, k] for k, row in enumerate(rows)}
    t = theta[0] + theta[1].exp() * noise.theta[0]
    one = torch.ones(values.shape[1], dtype=torch.float64)
    a = x[0].exp() if 0 in x else one
    low, high = (x[row].exp() if row in x else 0 * one for row in (2, 3))
    p = (low + torch.sigmoid(a * (t[:, None] - x[1]))) / (1 + low + high)
    y, weight = torch.tensor(values, dtype=torch.float64), torch.tensor(v)
    cells = y * p.log() + (1 - y) * (1 - p).log()
    if observed is not None:
        cells = cells * torch.tensor(observed)
    item = cells.sum(0)
    for k, row in enumerate(rows):
        prior = normal(torch.tensor(MEANS[row]).double(), torch.tensor(STDS[row], dtype=torch.float64))
        item = item + prior.log_prob(x[row]) - normal(items[0, k], items[1, k].exp()).log_prob(x[row])
    ability = normal(torch.zeros(1).double(), torch.ones(1).double()).log_prob(t)
    return (weight * item).sum() + (ability - normal(theta[0], theta[1].exp()).log_prob(t)).sum()


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_gradient_is_autograd_s_of_the_written_bound(model, missing):
    values, observed, v, table, state, noise, rows = setting(model, missing)
    items, theta = state.items.clone().requires_grad_(), state.theta.clone().requires_grad_()
    bound = written(values, observed, v, items, theta, noise, rows)
    bound.backward()
    ours = elbo_gradient(table, state, noise, rows, Priors())
    assert float(elbo(table, state, noise, rows, Priors())) == pytest.approx(float(bound.detach()), abs=1e-10)
    torch.testing.assert_close(ours.items, items.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.theta, theta.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("missing", [False, True])
def test_gradient_is_pyro_s_on_the_same_draw(missing):
    pyro = pytest.importorskip("pyro")
    from pyro import distributions as dist
    from pyro import poutine

    values, observed, v, table, state, noise, rows = setting("3pl", missing)
    items, theta = state.items.clone().requires_grad_(), state.theta.clone().requires_grad_()
    y, weight = torch.tensor(values, dtype=torch.float64), torch.tensor(v)
    names = ("log_a", "b", "logit_c")
    draws = {name: items[0, k] + items[1, k].exp() * noise.items[0, k] for k, name in enumerate(names)}
    t = theta[0] + theta[1].exp() * noise.theta[0]
    one = torch.ones((), dtype=torch.float64)

    def model():
        ability = pyro.sample("theta", dist.Normal(0 * one, one).expand(t.shape).to_event(1))
        with poutine.scale(scale=weight):
            a = pyro.sample("log_a", dist.Normal(0 * one, 0.3 * one).expand(weight.shape)).exp()
            b = pyro.sample("b", dist.Normal(0 * one, one).expand(weight.shape))
            c = pyro.sample("logit_c", dist.Normal(0 * one, one).expand(weight.shape)).sigmoid()
            p = c + (1 - c) * torch.sigmoid(a * (ability[:, None] - b))
            mask = True if observed is None else torch.tensor(observed)
            pyro.sample("y", dist.Bernoulli(p, validate_args=False).mask(mask), obs=y)

    def guide():
        pyro.sample("theta", dist.Normal(theta[0], theta[1].exp()).to_event(1))
        with poutine.scale(scale=weight):
            for k, name in enumerate(names):
                pyro.sample(name, dist.Normal(items[0, k], items[1, k].exp()))

    frozen = draws | {"theta": t}
    bound = sum(
        sign * poutine.trace(poutine.condition(program, frozen)).get_trace().log_prob_sum()
        for program, sign in ((model, 1), (guide, -1))
    )
    bound.backward()
    ours = elbo_gradient(table, state, noise, rows, Priors())
    assert float(elbo(table, state, noise, rows, Priors())) == pytest.approx(float(bound.detach()), rel=1e-5)
    torch.testing.assert_close(ours.items, items.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.theta, theta.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_joint_gradient_agrees_with_the_ability_system(model):
    _, _, _, table, state, noise, rows = setting(model, missing=True)
    params, theta = state.draw(noise, rows)
    theta = theta.requires_grad_()
    (slope,) = torch.autograd.grad(weighted_loglik_graph(table, params, theta, rows), theta)
    score, info = ability_system(table, params, theta.detach(), rows)
    torch.testing.assert_close(score, slope)
    torch.testing.assert_close(gradient(table, params, theta.detach(), rows)[1], slope)
    assert (info > 0).all()


def weighted_loglik_graph(table, params, theta, rows):
    from paperworks.evaluation.irt.curves import Curve, log_curves

    log_p, log_q = log_curves(Curve.of(params, rows), theta)
    cells = torch.where(table.right.bool(), log_p, log_q)
    if table.observed is not None:
        cells = cells * table.observed
    total = table.weight @ cells
    torch.testing.assert_close(total.detach(), weighted_loglik(table, params, theta.detach(), rows))
    return total.sum()


def test_starts_as_the_official_code_does():
    state = Variational.start(5, 3, free_rows("3pl"), Priors(), torch.zeros(()))
    assert (state.items[0] == 0).all()
    assert (state.theta == 0).all()
    np.testing.assert_allclose(state.items[1, 0], np.log(0.3), rtol=1e-6)
    assert (state.items[1, 1:] == 0).all()


def test_one_step_moves_every_parameter_by_the_learning_rate_after_decay():
    values, observed, v, *_ = setting("3pl", missing=False)
    fit = vi_fit(values, observed, v, steps=1, seed=3)
    # The first AdamW step is lr x sign of the gradient, after shrinking by lr x weight decay.
    assert np.allclose(np.abs(fit.params[1]), 0.1, atol=1e-4)
    np.testing.assert_allclose(np.abs(np.log(fit.sd[0]) - np.log(0.3) * 0.999), 0.1, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "size", "close"), [(torch.float64, 50, 1e-12), (torch.float32, 50, 1e-5), (torch.float32, 30_001, 1e-5)]
)
def test_optimiser_is_torch_s_adamw(dtype, size, close):
    """In single precision on a CPU the compiled pass serves, by several threads where there is much to update."""
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(3, size, generator=generator, dtype=dtype)
    theirs = ours.clone().requires_grad_()
    optimiser = torch.optim.AdamW([theirs], lr=0.1, maximize=True)
    moments = torch.zeros(2, 3, size, dtype=dtype)
    for step in range(1, 30):
        theirs.grad = torch.randn(3, size, generator=generator, dtype=dtype) + 0.3
        adamw_ascent(ours, theirs.grad, *moments, step=step, lr=0.1, decay=0.01)
        optimiser.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=close, atol=5 * close)


def test_threads_change_no_number_and_are_given_back():
    values, observed, v, *_ = setting("3pl", missing=True)
    before, fits = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            fits.append(vi_fit(values, observed, v, steps=5, seed=1))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert (fits[0].params == fits[1].params).all()
    assert (fits[0].theta == fits[1].theta).all()


def test_point_estimate_of_a_is_the_mean_of_the_lognormal():
    responses, _ = simulate_responses(60, 20, model="3pl", seed=0)
    fit = fit_irt(responses, method="vi", steps=60)
    np.testing.assert_allclose(fit.a, np.exp(fit.params[0] + fit.sd[0] ** 2 / 2))
    np.testing.assert_allclose(fit.c, 1 / (1 + np.exp(-fit.params[2])))


def test_same_seed_same_fit_other_seed_another():
    values, observed, v, *_ = setting("3pl", missing=True)
    one, two, three = (vi_fit(values, observed, v, steps=20, seed=seed) for seed in (1, 1, 2))
    assert (one.params == two.params).all()
    assert np.abs(one.params[1] - three.params[1]).max() > 1e-3


def test_recovers_simulated_abilities_and_difficulties_with_gaps():
    responses, truth = simulate_responses(300, 60, model="2pl", seed=0, missing=0.3)
    fit = fit_irt(responses, model="2pl", method="vi", weights=None)
    assert np.corrcoef(fit.theta, truth.theta)[0, 1] > 0.92
    assert np.corrcoef(fit.b, truth.b)[0, 1] > 0.96
    first = fit_irt(responses, model="2pl", method="vi", weights=None, steps=1).objective[-1]
    assert fit.objective[-1] > first + 1000


def test_cells_that_were_not_observed_do_not_matter():
    values, observed, v, *_ = setting("4pl", missing=True)
    other = np.where(observed, values, 1).astype(np.uint8)
    one, two = (vi_fit(cells, observed, v, model="4pl", steps=5) for cells in (values * observed, other))
    np.testing.assert_array_equal(one.params, two.params)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [101, 0, 1])
def test_the_paper_s_recipe_gives_the_authors_posterior(nlu_irt, seed):
    fit, authors = fit_irt(nlu_irt.responses, method="vi", seed=seed), nlu_irt.authors
    order = [authors.responder_names.index(name) for name in fit.responder_names]

    def pearson(one, two):
        return np.corrcoef(one, two)[0, 1]

    mine, theirs = (each.summary().set_index("group")["leh_q75"] for each in (fit, authors))
    assert pearson(fit.leh(), authors.leh()) >= 0.96
    assert spearmanr(mine.loc[theirs.index], theirs)[0] >= 0.985
    assert pearson(fit.b, authors.b) >= 0.99
    assert pearson(fit.params[2], authors.params[2]) >= 0.985
    assert pearson(fit.theta, authors.theta[order]) >= 0.96
    assert pearson(fit.params[0], authors.params[0]) >= 0.78
    assert fit.best.startswith(("albert-xxlarge", "roberta-large"))
    assert fit.best.endswith(("_best", "_50"))


def test_first_steps_on_the_paper_s_table_follow_the_official_loss(nlu_irt):
    fit = fit_irt(nlu_irt.responses, method="vi", steps=21)
    # Official losses at steps 19 and 20: 1667.6, 1654.0; a draw is worth +-20.
    assert -fit.objective[-1] == pytest.approx(1654, abs=25)
