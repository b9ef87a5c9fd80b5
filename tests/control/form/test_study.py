"""The study as an instrument: what it trains, when it refuses a verdict, and what its verdicts would be."""

# pyright: reportOptionalSubscript=false, reportArgumentType=false, reportOptionalMemberAccess=false, reportAttributeAccessIssue=false

import numpy as np
import pandas as pd
import pytest
import torch

from paperworks.control.form import arms, study, views
from paperworks.control.form.demonstrations import Demonstrations
from paperworks.control.form.tasks import TASKS, Setting, SideBySide, Task, accept_expert, baseline_return, demonstrate
from paperworks.control.form.tuning import Tuning, tuning
from paperworks.lab.claim import judge
from paperworks.lab.run import Options, run
from paperworks.lab.study import Request
from paperworks.worlds import GymnasiumWorld, PointOrbit, rollout


def smoke(folder, **overrides):
    return run("form", options=Options("smoke", backend="inline", store=folder), **overrides)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paperworks.control.form.experiment.CHECKPOINTS", 2)
        yield smoke(tmp_path_factory.mktemp("run"), dims=(0, 16), ablations=("form_no_imitator",), steps=60)


def test_smoke_study_trains_every_arm_for_every_seed(ran):
    assert not ran.failures
    table = views.tidy(ran.frame)
    assert set(table["seed"]) == {10, 11}
    assert set(table["arm"]) == {"form", "gaifo", "true_reward", "form_no_imitator"}
    assert np.isfinite(table["normalised"]).all()
    shared = table[table["pool"] == "shared"]
    assert set(zip(shared["arm"], shared["dims"], strict=True)) == {("form", 16), ("gaifo", 16)}
    assert set(ran.figures) == {"curves", "levels", "map", "dimensions", "divergence"}
    assert set(ran.tables) == {"scores", "search", "extra"}
    budget = ran.budget
    assert budget["updates"].nunique() == budget["env_steps"].nunique() == 1
    # So short a training teaches nothing: the guard says so, and no verdict is given.
    assert {verdict.state for verdict in ran.verdicts} == {"inconclusive"}
    assert "learner too weak" in ran.verdicts[0].reason


def test_the_reward_s_inner_life_is_recorded(ran):
    form = ran.frame[(ran.frame["arm"] == "form") & (ran.frame["dims"] == 16) & (ran.frame["pool"] == "disjoint")].iloc[
        0
    ]
    assert np.isfinite(form["unseen"]).all()
    assert np.isfinite(form["held_out"]).all()
    # Dimensions that never move carry nothing.
    assert (form["per_dim"][:, 4:] == 0).all()
    assert form["map"].shape == (33, 33)


def invented(form, gaifo, true=0.97, *, dims=(0, 16), seeds=5):
    """A table of trials with these normalised returns."""
    rng = np.random.default_rng(0)
    rows = [{"part": "baseline", "seed": 10 + s, "random_return": 0.0, "expert_return": 1.0} for s in range(seeds)]
    for level in dims:
        for arm, values in (("form", form), ("gaifo", gaifo), ("true_reward", true)):
            value = values[level] if isinstance(values, dict) else values
            rows.append(
                views.LEVEL
                | {
                    "arm": arm,
                    "dims": level,
                    "demos": 100,
                    "setting": 0,
                    "seed": 10,
                    "seeds": np.arange(10, 10 + seeds),
                    "random": np.zeros(seeds),
                    "expert": np.ones(seeds),
                    "returns": value + 0.02 * rng.normal(size=seeds),
                }
            )
    return pd.DataFrame(rows)


@pytest.fixture
def searched(monkeypatch):
    """As if the equal search had been run."""
    settings = study.tuned_settings()
    monkeypatch.setattr(study, "tuning", lambda: Tuning((0, 1), settings))


def states(frame):
    return {verdict.id: verdict.state for verdict in judge(study.CLAIMS, frame)}


def test_claims_can_hold_and_fail(searched):
    good = invented({0: 0.95, 16: 0.9}, {0: 0.93, 16: 0.6})
    assert states(good) == {"C1a": "holds", "C1b": "holds", "C2": "holds"}
    bad = invented({0: 0.6, 16: 0.5}, {0: 0.93, 16: 0.7})
    assert states(bad) == {"C1a": "does not hold", "C1b": "does not hold", "C2": "does not hold"}


def test_rivals_that_were_not_tuned_void_comparisons_with_them(monkeypatch):
    frame = invented({0: 0.95, 16: 0.9}, {0: 0.93, 16: 0.6})
    settings = study.tuned_settings()
    monkeypatch.setattr(study, "tuning", lambda: Tuning((), settings))
    assert states(frame) == {"C1a": "inconclusive", "C1b": "holds", "C2": "inconclusive"}
    assert "has not been run" in Tuning((), settings).words()
    assert "pilot seeds 0, 1" in Tuning((0, 1), settings).words()


def test_the_report_says_which_settings_were_searched_on_which_seeds():
    table = views.search_table(invented(0.5, 0.5))
    assert table is not None
    assert set(table["arm"]) == {"form", "gaifo"}
    assert table["grid"].str.count(";").tolist() == [5] * 4
    expected = ", ".join(map(str, tuning().pilot_seeds)) or "not searched"
    assert set(table["pilot seeds"]) == {expected}
    assert all(seed < 10 for seed in tuning().pilot_seeds)


def test_a_weak_learner_or_other_seeds_void_the_verdict():
    weak = invented(0.95, 0.5, true={0: 0.95, 16: 0.8})
    assert set(states(weak).values()) == {"inconclusive"}
    frame = invented(0.95, 0.5)
    more = pd.concat([frame, pd.DataFrame([{"part": "baseline", "seed": 15, "random_return": 0.0}])])
    verdict = judge(study.CLAIMS, more)[0]
    assert verdict.state == "inconclusive"
    assert "set --together" in verdict.reason


def test_returns_are_normalised_seed_by_seed():
    frame = invented(0.5, 0.5, seeds=2)
    row = frame.index[frame["arm"] == "form"][0]
    frame.at[row, "returns"] = np.array([-10.0, -20.0])
    frame.at[row, "random"] = np.array([-110.0, -120.0])
    frame.at[row, "expert"] = np.array([-10.0, 80.0])
    table = views.tidy(frame)
    assert table[(table["arm"] == "form") & (table["dims"] == 0)]["normalised"].tolist() == [1.0, 0.5]


def test_without_a_known_expert_the_true_reward_s_learner_is_the_measure(searched):
    frame = invented(0.5, 0.25, true=2.0).drop(columns=["expert", "expert_return"])
    table = views.tidy(frame)
    assert table[table["arm"] == "form"]["normalised"].mean() == pytest.approx(0.25, abs=0.02)
    verdicts = {verdict.id: verdict for verdict in judge(study.CLAIMS, frame)}
    assert verdicts["C1b"].state == "not tested"
    assert verdicts["C1a"].state == "holds"


# Arms, points, tasks -------------------------------------------------------------------------------------------------


def test_grids_have_as_many_rows_for_every_rival():
    assert {len(grid) for grid in arms.GRIDS.values()} == {study.SEARCH_TRIALS}
    assert set(arms.GRIDS) == set(arms.RIVALS)
    for arm, dims, row in study.tuned_settings():
        assert 0 <= row < study.SEARCH_TRIALS, (arm, dims)
    config = study.Config(tuned=(("form", 0, 2), ("form", 16, 5), ("gaifo", 0, 1)))
    assert study.tuned_row(config, "form_ensemble", 0) == 2
    assert study.tuned_row(config, "form", 64) == 5
    assert study.tuned_row(config, "gail_actions", 16) == 1
    assert study.tuned_row(config, "true_reward", 16) == 0


def test_search_lists_every_setting_and_a_sweep_every_kind():
    searched = study.points(study.SCALES["search"], {})
    assert len(searched) == 1 + 3 * 2 * study.SEARCH_TRIALS
    swept = study.points(study.Config(sweep=True), {})
    kinds = {(p["kind"], p["dims"], p["pool"]) for p in swept if p["part"] == "arm"}
    assert kinds == {
        *(("static_pool", dims, "disjoint") for dims in (0, 4, 16, 64)),
        ("static_pool", 16, "shared"), ("iid", 16, "disjoint"), ("ar1", 16, "disjoint"),
    }  # fmt: skip
    assert {p["demos"] for p in swept if p["part"] == "arm"} == {5, 20, 100}


def test_a_search_trains_on_pilot_seeds_whichever_it_is_asked_for(monkeypatch):
    from paperworks.control.form import experiment

    asked = []
    monkeypatch.setattr(experiment, "run_trial", lambda trial, own, progress: asked.append(trial.seeds) or {})
    point = study.points(study.SCALES["search"], {})[1]
    for seed in (0, 10):
        study.trial(point, seed, study.SCALES["search"], {}, None)
        study.trial(point, seed, study.SCALES["laptop"], {}, None)
    assert asked == [(0, 1), (0, 1, 2, 3, 4), (0, 1), (10, 11, 12, 13, 14)]


def test_the_best_row_of_a_search_is_named():
    frame = invented(0.5, 0.5, seeds=2)
    form = frame[frame["arm"] == "form"].iloc[0].to_dict()
    better = form | {"setting": 3, "returns": np.array([0.9, 0.9])}
    table = views.search_table(pd.concat([frame, pd.DataFrame([better])], ignore_index=True))
    best = table[(table["arm"] == "form") & (table["dims"] == 0) & (table["best"] == "yes")]
    assert best["row"].tolist() == [3]
    assert best["setting"].tolist() == ["noise 0.1, scale 0.02"]


def test_pools_of_demonstrations_and_imitator_are_disjoint_or_shared():
    for dims in (4, 16):
        setting = Setting(dims=dims)
        shown, _ = demonstrate(TASKS["orbit"], setting, episodes=100, seed=3)
        patterns = {tuple(e[0, 4:]) for e in shown.observations}
        for pool, overlap in (("disjoint", False), ("shared", True)):
            world = Setting(dims=dims, pool=pool).imitator_world(PointOrbit(200), 100, 3, draws=1)
            mine = {tuple(row) for row in world.reset()[:, 4:].tolist()}
            assert bool(patterns & mine) == overlap
            assert len(mine) > 1


def test_demonstrations_are_the_same_for_all_arms_of_a_seed_and_differ_between_seeds():
    first, actions = demonstrate(TASKS["orbit"], Setting(), episodes=4, seed=1)
    again, _ = demonstrate(TASKS["orbit"], Setting(), episodes=4, seed=1)
    other, _ = demonstrate(TASKS["orbit"], Setting(), episodes=4, seed=2)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    # Row i of the actions belongs to transition i.
    previous, following, _ = first.transitions()
    error = following[:, 2:] - 0.9 * previous[:, 2:] - 0.3 * actions.numpy()
    assert np.abs(error).max() < 0.2


def test_worlds_side_by_side_keep_their_own_rows():
    worlds = [PointOrbit(2), PointOrbit(2)]
    both = SideBySide(worlds)
    both.reset(generator=torch.Generator().manual_seed(0))
    action = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    step = both.step(action)
    assert (step.obs[:2, 2] > 0.1).all()
    assert (step.obs[2:, 2] < -0.1).all()
    kept = both.reset(where=torch.tensor([False, False, True, True]))
    assert torch.equal(kept[:2], step.obs[:2])
    assert (kept[2:, 2:] == 0).all()


def test_a_bad_expert_is_not_imitated():
    assert accept_expert(TASKS["orbit"]) > -25
    assert baseline_return(TASKS["orbit"], "random", seed=0) < -400
    lazy = Task("orbit", PointOrbit, lambda obs, generator: torch.zeros(len(obs), 2), least=-25.0)
    with pytest.raises(ValueError, match=r"orbit: the expert reaches .* a study needs at least -25"):
        accept_expert(lazy)


def test_references_have_curves_and_learn_on_equal_budgets(monkeypatch):
    config = study.STUDY.config("smoke", {"references": study.Config.references, "steps": 24, "demos": 4})
    monkeypatch.setattr("paperworks.control.form.experiment.CHECKPOINTS", 3)
    found = {
        point["arm"]: study.trial(point, 10, config, {}, lambda *fraction, **fields: None)
        for point in study.points(config, {})
        if point["part"] == "arm" and point["arm"] in config.references
    }
    assert set(found) == {"true_reward", "bc_actions", "gail_actions"}
    for arm, result in found.items():
        assert len(result["curve"]) == 4
        assert result["curve_steps"][-1] == 24 * 8
        assert result["env_steps"] == (0 if arm == "bc_actions" else 24 * 8)
        assert 0 < result["energy_p"].min() <= result["energy_p"].max() <= 1


# The user's own ------------------------------------------------------------------------------------------------------


def test_own_demonstrations_run_with_one_command(tmp_path, command, monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.setattr("paperworks.control.form.experiment.CHECKPOINTS", 1)
    monkeypatch.setattr("paperworks.control.form.experiment.EVALUATION_EPISODES", 3)
    demos, _ = demonstrate(TASKS["pendulum"], Setting(), episodes=4, seed=0)
    demos.save(tmp_path / "demos.npz")
    answer = command(
        "run", "form", "--data", "demos.npz", "--env", "Pendulum-v1", "--scale", "smoke", "--backend", "inline",
        "--steps", "30", "--copies", "2", check=0,
    )  # fmt: skip
    assert "NOT TESTED C1b" in answer.stdout
    assert "4 episodes, 800 transitions of dimension 3" in (tmp_path / "runs" / "form" / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--task", "maze"), "task: expected one of orbit, pendulum, reacher"),
        (("--learner", "ppo"), "learner: expected sac or mpo"),
        (("--data", "demos.npz"), "own need --env"),
        (
            ("--data", "demos.npz", "--env", "MountainCarContinuous-v0"),
            "observation dimension 3, environment expects 2",
        ),
    ],
)
def test_unfit_requests_are_refused_at_the_door(options, message, tmp_path, command):
    pytest.importorskip("gymnasium")
    demonstrate(TASKS["pendulum"], Setting(), episodes=2, seed=0)[0].save(tmp_path / "demos.npz")
    answer = command("run", "form", "--scale", "smoke", *options)
    assert answer.returncode == 2
    assert message in answer.stderr


def test_where_episodes_can_end_an_absorbing_state_follows(tmp_path):
    gymnasium = pytest.importorskip("gymnasium")

    class Ledge(gymnasium.Env):
        """A point on a line that falls off beyond 1."""

        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
        action_space = gymnasium.spaces.Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.x = self.np_random.normal(0, 0.1, 1)
            return self.x.astype(np.float32), {}

        def step(self, action):
            self.x = self.x + 0.5 * action + self.np_random.normal(0, 0.05, 1)
            return self.x.astype(np.float32), 1.0, bool(abs(self.x[0]) > 1), False, {}

    gymnasium.register("Ledge-v0", Ledge, max_episode_steps=15)
    generator = torch.Generator().manual_seed(0)
    done = rollout(GymnasiumWorld("Ledge-v0", 4), lambda obs: obs.sign(), generator=generator)
    assert done.terminal.all()
    assert (done.returns == done.alive.sum(0)).all()
    assert done.alive.sum(0).unique().numel() > 1
    rng = np.random.default_rng(0)
    shown = np.cumsum(0.05 * rng.normal(size=(6, 16, 1)), 1)
    Demonstrations.from_arrays(shown).save(tmp_path / "demos.npz")
    config = study.STUDY.config("smoke", {"env": "Ledge-v0", "steps": 24, "copies": 2})
    loaded = study.load(config, Request(str(tmp_path / "demos.npz")))
    assert loaded.data["absorbing"]
    assert loaded.data["own"].dim == 2
    assert "absorbing state" in loaded.description[-1]
    for point in study.points(config, loaded.data):
        result = study.trial(point, 10, config, loaded.data, lambda *fraction, **fields: None)
        if point["part"] == "arm":
            # One point of reward a step in life, and none after it.
            assert (result["returns"] <= 15).all()
            assert result["random"].max() < 15
    steady = study.load(study.STUDY.config("smoke", {"env": "Pendulum-v1"}), Request(str(saved_pendulum(tmp_path))))
    assert not steady.data["absorbing"]


def saved_pendulum(folder):
    path = folder / "pendulum.npz"
    demonstrate(TASKS["pendulum"], Setting(), episodes=2, seed=0)[0].save(path)
    return path
