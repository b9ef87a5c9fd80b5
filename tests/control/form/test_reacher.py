"""The arm is Gymnasium's, and its expert reaches."""

# pyright: reportAttributeAccessIssue=false

import sys
import types

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")

from paperworks.control.form.reacher import Reacher, final_distance, reacher_expert
from paperworks.control.form.tasks import TASKS, accept_expert, demonstrate
from paperworks.worlds import rollout


def test_steps_and_rewards_are_gymnasium_s(monkeypatch):
    # Gymnasium's class imports what it films with; nothing is filmed here.
    monkeypatch.setitem(sys.modules, "imageio", types.ModuleType("imageio"))
    import gymnasium

    theirs = gymnasium.make("Reacher-v5").unwrapped
    theirs.reset(seed=0)
    ours = Reacher(2)
    first = ours.reset(generator=torch.Generator().manual_seed(0))
    theirs.set_state(ours.data[1].qpos.copy(), ours.data[1].qvel.copy())
    np.testing.assert_allclose(first[1], theirs._get_obs(), atol=1e-6)
    for action in torch.rand(30, 2, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1:
        step = ours.step(action)
        obs, reward, *_ = theirs.step(action[1].double().numpy())
        np.testing.assert_allclose(step.obs[1], obs, atol=1e-5)
        assert float(step.reward[1]) == pytest.approx(reward, abs=1e-5)


def test_the_expert_reaches_from_anywhere_and_a_study_may_start():
    done = rollout(Reacher(64), lambda obs: reacher_expert(obs, noise=0.0), generator=torch.Generator().manual_seed(0))
    assert -final_distance(done).mean() < 1e-4
    assert accept_expert(TASKS["reacher"]) > -8.5
    assert done.returns.mean() > -7.5


def test_only_chosen_copies_start_anew_and_the_target_stays():
    world = Reacher(3)
    world.reset(generator=torch.Generator().manual_seed(0))
    moved = world.step(torch.ones(3, 2)).obs
    again = world.reset(where=torch.tensor([True, False, False]))
    assert torch.equal(moved[1:], again[1:])
    assert not torch.equal(moved[0], again[0])
    assert world.time.tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="n: expected at least 1"):
        Reacher(0)


def test_the_target_is_seen_and_outside_of_the_likelihood():
    from paperworks.control.form.statistics import Statistics
    from paperworks.control.form.tasks import Setting

    data, _ = demonstrate(TASKS["reacher"], Setting(), episodes=5, seed=0)
    previous, following, _ = data.transitions()
    moving = Statistics.of([(torch.from_numpy(previous), torch.from_numpy(following))]).moving
    assert moving.tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
