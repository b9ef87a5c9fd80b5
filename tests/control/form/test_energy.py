"""The two-sample test of transitions: level, power, and what it leaves out."""

import numpy as np
import pytest

from paperworks.control.form.energy import transition_test
from paperworks.data.trajectories import Trajectories


def walks(episodes, seed, *, pull=0.8, noise=1.0):
    rng = np.random.default_rng(seed)
    path = [rng.normal(size=(episodes, 2))]
    for _ in range(30):
        path.append(pull * path[-1] + noise * rng.normal(size=path[-1].shape))
    return [episode.astype(np.float32) for episode in np.stack(path, 1)]


def test_one_law_is_not_told_apart_more_often_than_the_level_says():
    p = [transition_test(Trajectories.from_arrays(walks(12, s)), walks(12, 100 + s))[1] for s in range(30)]
    assert np.mean(np.array(p) <= 0.05) <= 0.15
    assert 0.3 < np.mean(p) < 0.7


@pytest.mark.parametrize("change", [{"pull": -0.2}, {"noise": 0.5}])
def test_another_policy_is(change):
    distance, p = transition_test(Trajectories.from_arrays(walks(20, 0)), walks(20, 1, **change))
    assert distance > 0
    assert p <= 0.01


def test_constants_and_units_do_not_count():
    shown, logged = walks(8, 0), walks(8, 1)
    plain = transition_test(Trajectories.from_arrays(shown), logged)
    widened = [[np.c_[e * [1, 100], np.full(len(e), c)] for e in side] for side, c in ((shown, 0), (logged, 5))]
    other = transition_test(Trajectories.from_arrays(widened[0]), [e.astype(np.float32) for e in widened[1]])
    assert plain == pytest.approx(other, abs=1e-4)
    assert np.isnan(transition_test(Trajectories.from_arrays(shown), logged[:1])).all()
