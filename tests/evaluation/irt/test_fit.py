import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.evaluation.irt import IRTFit, Priors, Responses, eap, fit_irt, score_responders, simulate_responses


@pytest.fixture(scope="module")
def fitted():
    responses, truth = simulate_responses(120, 45, model="3pl", seed=0, missing=0.1, groups=3)
    return responses, truth, fit_irt(responses, weights=None)


def test_tables_hold_what_was_fitted(fitted):
    responses, _, fit = fitted
    items, people = fit.items, fit.responders
    assert list(items["item"]) == list(responses.items)
    assert list(items["group"]) == list(responses.groups)
    np.testing.assert_allclose(items["p_correct"], responses.p_correct())
    np.testing.assert_array_equal(items["n"], responses.observed.sum(0))
    for name in "abc":
        assert (items[f"{name}_low"] < items[name]).all()
        assert (items[name] < items[f"{name}_high"]).all()
        assert (items[f"se_{name}"] > 0).all()
    assert (items["d"] == 1).all()
    np.testing.assert_allclose(people["accuracy"], responses.accuracy())
    assert fit.best == people.loc[people["theta"].idxmax(), "responder"]


def test_headroom_information_and_summary_are_one_another_s(fitted):
    _, _, fit = fitted
    np.testing.assert_allclose(fit.leh(fit.best), fit.leh(float(fit.theta.max())))
    np.testing.assert_allclose(fit.leh("best"), fit.leh())
    step = 1e-5
    up, down = fit.predict(np.array([0.3 + step, 0.3 - step]))
    np.testing.assert_allclose(fit.leh(0.3), (up - down) / (2 * step), atol=1e-6)
    curve = fit.test_information("set_1", theta=np.array([0.3]))
    assert curve["information"][0] == pytest.approx(fit.information(0.3)[fit.groups == "set_1"].sum())
    assert fit.information(np.array([0.0, 1.0])).shape == (2, 45)
    summary = fit.summary()
    assert list(summary["rank"]) == [1, 2, 3]
    row = summary.set_index("group").loc["set_2"]
    assert row["leh_q75"] == pytest.approx(np.quantile(fit.leh()[fit.groups == "set_2"], 0.75))
    assert row["log_a"] == pytest.approx(np.log(fit.a[fit.groups == "set_2"]).mean())
    halves = np.where(np.arange(45) < 20, "first", "second")
    assert dict(zip(*(fit.summary(by=halves)[name] for name in ("group", "items")), strict=True)) == {
        "first": 20,
        "second": 25,
    }


@pytest.mark.parametrize("method", ["mml", "vi", "map"])
@pytest.mark.parametrize("model", ["1pl", "2pl", "3pl", "4pl"])
def test_every_method_fits_every_model_with_gaps(method, model):
    responses, truth = simulate_responses(400, 100, model=model, seed=1, missing=0.2)
    fit = fit_irt(responses, method=method, model=model, steps=300)
    assert np.corrcoef(fit.theta, truth.theta)[0, 1] > 0.85
    assert np.corrcoef(fit.b, truth.b)[0, 1] > 0.8
    assert np.isfinite(fit.items.select_dtypes("number")).all().all()
    assert np.isfinite(fit.loglik)


def test_loglik_is_the_marginal_one_for_every_method():
    responses, _ = simulate_responses(60, 10, model="2pl", seed=2)
    fits = {method: fit_irt(responses, model="2pl", method=method, tol=1e-6) for method in ("mml", "vi", "map")}
    theta = np.linspace(-8, 8, 2001)
    weight = np.exp(-(theta**2) / 2)
    weight /= weight.sum()
    for fit in fits.values():
        p = 1 / (1 + np.exp(-fit.a[:, None] * (theta - fit.b[:, None])))
        likelihood = np.where(responses.values[:, :, None] == 1, p, 1 - p).prod(1)
        assert fit.loglik == pytest.approx(np.log(likelihood @ weight).sum(), abs=1e-3)


def test_scoring_the_fit_s_own_responders_gives_their_abilities(fitted):
    responses, _, fit = fitted
    scores = score_responders(fit, responses)
    np.testing.assert_allclose(scores["theta"], fit.theta, atol=1e-4)
    np.testing.assert_allclose(scores["sd"], fit.theta_sd, atol=1e-4)
    np.testing.assert_allclose(scores["predicted_accuracy"], fit.predict().mean(1))
    order = np.random.default_rng(0).permutation(45)
    shuffled = score_responders(fit, responses.select(items=order))
    np.testing.assert_allclose(shuffled["theta"], scores["theta"], atol=1e-9)


def test_a_few_items_place_new_responders():
    responses, truth = simulate_responses(400, 60, model="2pl", seed=3)
    old, new = responses.select(responders=np.arange(300)), responses.select(responders=np.arange(300, 400))
    fit = fit_irt(old, model="2pl")
    for method in ("eap", "map", "ml"):
        scores = score_responders(fit, new.select(items=np.arange(25)), method=method)
        inner = np.isfinite(scores["sd"]).to_numpy()
        assert np.corrcoef(scores["theta"][inner], truth.theta[300:][inner])[0, 1] > 0.8
        error = (scores["theta"] - truth.theta[300:])[inner] / scores["sd"][inner]
        assert 0.7 < error.std() < 1.3
    whole = score_responders(fit, new.select(items=np.arange(25)))
    assert np.abs(whole["predicted_accuracy"] - new.accuracy()).mean() < 0.08


def test_weights_of_the_fit_can_be_left_out_of_scoring():
    responses, _ = simulate_responses(80, 30, model="2pl", seed=4, groups=3)
    fit = fit_irt(responses, model="2pl")
    weighted, plain = score_responders(fit, responses), score_responders(fit, responses, weighted=False)
    np.testing.assert_allclose(weighted["theta"], fit.theta, atol=1e-6)
    assert plain["sd"].mean() < 0.7 * weighted["sd"].mean()


def test_eap_against_direct_integration():
    a, b, c = np.array([1.0, 2.0, 0.5]), np.array([-1.0, 0.0, 1.0]), np.array([0.2, 0.0, 0.1])
    values = np.array([[1, 0, 1], [np.nan, 1, 0], [np.nan] * 3])
    weights = np.array([1.0, 0.5, 2.0])
    theta = np.linspace(-8, 8, 4001)
    p = c[:, None] + (1 - c[:, None]) / (1 + np.exp(-a[:, None] * (theta - b[:, None])))
    mean, sd = eap(values, a, b, c, weights=weights)
    for row, answer in enumerate(values):
        density = np.exp(-(theta**2) / 2)
        for item in np.flatnonzero(~np.isnan(answer)):
            density = density * (p[item] if answer[item] else 1 - p[item]) ** weights[item]
        density /= density.sum()
        assert mean[row] == pytest.approx(density @ theta, abs=1e-5)
        assert sd[row] == pytest.approx(np.sqrt(density @ theta**2 - (density @ theta) ** 2), abs=1e-5)


def test_saved_fits_come_back_and_score_alike(fitted, tmp_path):
    responses, _, fit = fitted
    fit.save(tmp_path / "deep" / "fit")
    back = IRTFit.load(tmp_path / "deep")
    pd.testing.assert_frame_equal(back.items, fit.items)
    pd.testing.assert_frame_equal(back.responders, fit.responders)
    assert (back.model, back.method, back.loglik, back.priors) == (fit.model, fit.method, fit.loglik, fit.priors)
    pd.testing.assert_frame_equal(score_responders(back, responses), score_responders(fit, responses))


def test_infinite_priors_survive_saving(tmp_path):
    responses, _ = simulate_responses(60, 8, model="2pl", seed=0)
    fit = fit_irt(responses, model="2pl", priors=Priors.none())
    fit.save(tmp_path / "x")
    assert IRTFit.load(tmp_path / "x.json").priors == Priors.none()


def test_torn_foreign_or_missing_files_are_refused(fitted, tmp_path):
    _, _, fit = fitted
    with pytest.raises(ValueError, match="no such file"):
        IRTFit.load(tmp_path / "none")
    fit.save(tmp_path / "fit")
    arrays = tmp_path / "fit.safetensors"
    content = arrays.read_bytes()
    arrays.write_bytes(content[:-8] + b"\0" * 8)
    with pytest.raises(ValueError, match="not the arrays that fit"):
        IRTFit.load(tmp_path / "fit")
    arrays.write_bytes(content)
    described = json.loads((tmp_path / "fit.json").read_text())
    (tmp_path / "fit.json").write_text(json.dumps(described | {"version": 9}))
    with pytest.raises(ValueError, match="expected a fit of version 1, got 9"):
        IRTFit.load(tmp_path / "fit")
    (tmp_path / "fit.json").write_text("{")
    with pytest.raises(ValueError, match="not the JSON of a fit"):
        IRTFit.load(tmp_path / "fit")


def test_per_group_weights_are_one_over_the_group_s_size():
    responses, _ = simulate_responses(30, 14, seed=0, groups=4)
    sizes = {name: int((responses.groups == name).sum()) for name in responses.group_names}
    fit = fit_irt(responses)
    np.testing.assert_allclose(fit.weights, [1 / sizes[name] for name in responses.groups])
    np.testing.assert_allclose(fit.weights, fit_irt(responses, weights="per_group").weights)
    assert (fit_irt(responses, weights=None).weights == 1).all()
    single, _ = simulate_responses(30, 14, seed=0)
    assert (fit_irt(single).weights == 1).all()


@settings(max_examples=10)
@given(st.integers(0, 1000), st.sampled_from(["mml", "map"]))
def test_headroom_is_bounded_and_equal_items_get_equal_curves(seed, method):
    responses, _ = simulate_responses(25, 7, model="3pl", seed=seed, missing=0.1)
    doubled = np.hstack([responses.to_array(), responses.to_array()[:, :1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = fit_irt(doubled, method=method, steps=60)
    assert (fit.leh() >= 0).all()
    assert (fit.leh() <= fit.a / 4).all()
    assert (fit.point[:, 0] == fit.point[:, -1]).all()


def test_arrays_tensors_and_frames_are_taken_as_they_are():
    responses, _ = simulate_responses(30, 6, seed=0, missing=0.2)
    y = responses.to_array()
    reference = fit_irt(responses, model="2pl")
    for same in (y, torch.tensor(y), pd.DataFrame(y)):
        np.testing.assert_array_equal(fit_irt(same, model="2pl").theta, reference.theta)


def test_warns_by_name_of_hopeless_responders_and_of_no_convergence():
    responses, _ = simulate_responses(40, 50, model="2pl", seed=0)
    y = responses.to_array()
    y[7] = 0
    with pytest.warns(UserWarning, match="edge of .*responder_7;"):
        fit_irt(y, model="2pl", weights=np.full(50, 300.0))
    with pytest.warns(UserWarning, match="no convergence within 2 iterations"):
        fit_irt(responses, steps=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "5pl"}, "model: expected one of"),
        ({"method": "em"}, "method: expected one of mml, vi, map"),
        ({"nodes": 3}, "nodes: expected"),
        ({"nodes": "many"}, "nodes: expected"),
        ({"steps": 0}, "steps: expected a number > 0"),
        ({"tol": -1.0}, "tol: expected a number > 0"),
        ({"weights": "per_group"}, "weights: per_group needs responses with groups"),
        ({"weights": "equal"}, "weights: expected"),
        ({"weights": np.ones(3)}, "weights: expected 6 positive numbers"),
        ({"weights": np.zeros(6)}, "weights: expected 6 positive numbers"),
    ],
)
def test_bad_options_are_refused(arguments, message):
    responses, _ = simulate_responses(10, 6, seed=0)
    with pytest.raises(ValueError, match=message):
        fit_irt(responses, **arguments)


def test_bad_tables_and_questions_are_refused(fitted):
    responses, _, fit = fitted
    with pytest.raises(ValueError, match="at least two responders"):
        fit_irt(responses.select(responders=[0]))
    with pytest.raises(ValueError, match="expected values in"):
        fit_irt(np.array([[0.5, 1], [0, 1]]))
    with pytest.raises(ValueError, match="at: expected"):
        fit.leh("nobody")
    with pytest.raises(ValueError, match="group: expected one of set_0, set_1, set_2"):
        fit.test_information("none")
    with pytest.raises(ValueError, match="by: expected 45 labels"):
        fit.summary(by=np.array(["x"]))
    with pytest.raises(ValueError, match=r"new: item 'other' \(one of 1\) is not in the fit"):
        score_responders(fit, Responses.from_array([[1.0]], items=["other"]))
    with pytest.raises(ValueError, match="method: expected eap"):
        score_responders(fit, responses, method="mean")
    with pytest.raises(ValueError, match="values: expected 0, 1 and NaN"):
        eap(np.array([[0.5]]), np.ones(1), np.zeros(1))
    with pytest.raises(ValueError, match="a: expected one value per item"):
        eap(np.array([[1.0, 0.0]]), np.ones(1), np.zeros(1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["mml", "map"])
def test_cpu_and_gpu_give_the_same_fit(method):
    responses, _ = simulate_responses(200, 100, model="3pl", seed=0, missing=0.1)
    one, two = (fit_irt(responses, method=method, device=device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(two.point[:3], one.point[:3], atol=1e-4)
    np.testing.assert_allclose(two.theta, one.theta, atol=1e-4)
