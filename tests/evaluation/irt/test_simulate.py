import numpy as np
import pytest

from paperworks.evaluation.irt import item_curve, simulate_responses


def test_answers_follow_the_curves():
    responses, truth = simulate_responses(4000, 8, model="4pl", seed=0)
    p = item_curve(truth.theta[:, None], truth.a, truth.b, truth.c, truth.d)
    error = np.sqrt((p * (1 - p)).mean(0) / 4000)
    assert (np.abs(responses.values.mean(0) - p.mean(0)) < 4 * error).all()
    strong, weak = truth.theta > 1, truth.theta < -1
    assert (responses.values[strong].mean(0) > responses.values[weak].mean(0) + 0.05).all()


@pytest.mark.parametrize(("model", "fixed"), [("1pl", "acd"), ("2pl", "cd"), ("3pl", "d"), ("4pl", "")])
def test_each_model_frees_its_own_parameters(model, fixed):
    _, truth = simulate_responses(3, 50, model=model, seed=0)
    for name, neutral in (("a", 1), ("c", 0), ("d", 1)):
        assert (getattr(truth, name) == neutral).all() == (name in fixed)


def test_same_seed_same_table_and_gaps_and_groups_as_asked():
    one, two, other = (simulate_responses(50, 40, seed=seed, missing=0.25, groups=3)[0] for seed in (1, 1, 2))
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert one.missing_share == pytest.approx(0.25, abs=0.03)
    assert one.group_names == ("set_0", "set_1", "set_2")
    assert (one.values[~one.observed] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_responders": 0}, "n_responders: expected at least 1"),
        ({"n_items": 0}, "n_items: expected at least 1"),
        ({"groups": 0}, "groups: expected at least 1"),
        ({"missing": 1.0}, "missing: expected a share"),
        ({"model": "5pl"}, "model: expected one of"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_responses(**({"n_responders": 3, "n_items": 4, "seed": 0} | arguments))
