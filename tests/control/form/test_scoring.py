"""Scores of logs: cross-fitted, ordered by likeness, attributed to dimensions; the files and pages of the command."""

import numpy as np
import pandas as pd
import pytest
import torch

from paperworks.control.form.apply import OUTPUTS, apply, findings, overall
from paperworks.control.form.demonstrations import Demonstrations
from paperworks.control.form.scoring import moving_constants, score_episodes, score_trajectories
from paperworks.worlds import PointOrbit, orbit_expert, rollout

FAST = {"epochs": 20, "hidden": (32,), "components": 2, "folds": 3}


def orbit(copies, seed, noise=0.2, lag=0.0):
    """Episodes of the expert; `lag` slows its second action."""
    generator = torch.Generator().manual_seed(seed)

    def act(obs):
        action = orbit_expert(obs, noise=noise, generator=generator)
        action[:, 1] *= 1 - lag
        return action

    done = rollout(PointOrbit(copies), act, generator=generator)
    return Demonstrations.from_arrays(done.episodes(), columns=["px", "py", "vx", "vy"])


@pytest.fixture(scope="module")
def demos():
    return orbit(24, seed=1)


@pytest.fixture(scope="module")
def mixed():
    """Six episodes like the demonstrations, six without the second action."""
    good, bad = orbit(6, seed=2), orbit(6, seed=3, lag=1.0)
    labels = [f"good{i}" for i in range(6)] + [f"bad{i}" for i in range(6)]
    return Demonstrations.from_arrays([*good.observations, *bad.observations], columns=good.columns, labels=labels)


@pytest.fixture(scope="module")
def scored(demos, mixed):
    return score_trajectories(demos, mixed, **FAST)


def test_episodes_that_move_otherwise_come_last_and_the_dimension_is_named(scored, mixed):
    assert len(scored) == mixed.steps
    ranked = score_episodes(scored)
    assert ranked["rank"].tolist() == list(range(1, 13))
    score = ranked.set_index("episode")["mean"]
    right = sum(score[f"good{i}"] > score[f"bad{j}"] for i in range(6) for j in range(6))
    assert right >= 32, f"{right} of 36 pairs in order"
    means = scored[scored["episode"].str.startswith("bad")].filter(like="ratio_").mean()
    assert means.idxmin() == "ratio_vy"
    assert "dimension vy differs most" in findings(scored, ranked)[2]


def test_more_of_the_demonstrations_give_no_evidence(demos):
    ranked = score_episodes(score_trajectories(demos, orbit(24, seed=9), **FAST))
    interval = overall(ranked)
    assert abs(interval.estimate) < 0.1
    unlike = score_episodes(score_trajectories(demos, orbit(24, seed=9, lag=0.7), **FAST))
    assert overall(unlike).high < 0
    assert "moves unlike the demonstrations: mean" in findings(pd.DataFrame({"ratio_a": [0.0]}), unlike)[0]


def test_scores_are_cross_fitted(demos, monkeypatch):
    """No model of the log has seen the episode it scores."""
    from paperworks.control.form import scoring

    seen, scoring_calls = [], []
    original_fit = scoring.EffectModel.fit

    def fit(self, trajectories, **options):
        if isinstance(trajectories, list):
            seen.extend(set(part.labels) for part in trajectories)
        return original_fit(self, trajectories, **options)

    original_episode = scoring._one_episode

    def one(demonstrator, own, fold, logs, index):
        scoring_calls.append((fold, logs.labels[index]))
        return original_episode(demonstrator, own, fold, logs, index)

    monkeypatch.setattr(scoring.EffectModel, "fit", fit)
    monkeypatch.setattr(scoring, "_one_episode", one)
    logs = orbit(7, seed=4)
    score_trajectories(demos, logs, **(FAST | {"epochs": 1}))
    assert sorted(label for _, label in scoring_calls) == sorted(logs.labels)
    assert all(label not in seen[fold] for fold, label in scoring_calls)


def test_a_repeat_gives_the_same_scores(demos, mixed, scored):
    pd.testing.assert_frame_equal(score_trajectories(demos, mixed, **FAST), scored)


def test_what_no_score_sees_is_named():
    still = [np.c_[e, np.zeros(len(e))] for e in orbit(3, seed=0).observations]
    demos = Demonstrations.from_arrays(still, columns=["px", "py", "vx", "vy", "door"])
    moved = [e + np.linspace(0, 1, len(e))[:, None] * np.eye(5)[4] for e in still]
    assert moving_constants(demos, Demonstrations.from_arrays(moved)) == ["door"]
    assert moving_constants(demos, demos) == []


def test_the_command_reads_csv_and_npz_and_writes_all_files(demos, mixed, tmp_path, command):
    demos.save(tmp_path / "demos.npz")
    parts = [
        pd.DataFrame(e, columns=mixed.columns).assign(episode=label, action_0=np.nan)
        for label, e in zip(mixed.labels, mixed.observations, strict=True)
    ]
    pd.concat(parts).to_csv(tmp_path / "logs.csv", index=False)
    before = (tmp_path / "logs.csv").read_bytes()
    answer = command("apply", "form", "logs.csv", "--demos", "demos.npz", "--epochs", "6", "--out", "scores", check=0)
    folder = tmp_path / "scores"
    assert {path.name for path in folder.iterdir()} == set(OUTPUTS)
    steps, episodes = (pd.read_csv(folder / f"{name}.csv") for name in ("steps", "episodes"))
    assert list(steps.columns[:3]) == ["episode", "step", "log_ratio"]
    assert list(steps.columns[3:]) == [f"ratio_{name}" for name in mixed.columns]
    assert len(steps) == mixed.steps
    means = steps.groupby("episode")["log_ratio"].mean()
    np.testing.assert_allclose(episodes["mean"], means.loc[episodes["episode"]], rtol=1e-5, atol=1e-6)
    assert set(episodes.columns) == {"rank", "episode", "steps", "mean", "standard_error", "sum"}
    assert "written: steps.csv" in answer.stdout
    page = (folder / "report.html").read_text()
    assert page.count("<figure") == 3
    assert "<script" not in page
    assert (tmp_path / "logs.csv").read_bytes() == before


def test_names_cannot_break_the_page(scored):
    from paperworks.control.form.report_page import report_page

    renamed = scored.rename(columns={"ratio_px": "ratio_<b>$x"}).replace({"good0": "<script>alert(1)</script>"})
    page = report_page(renamed, score_episodes(renamed), ["a < b"], ["x & y"], names=("<i>", "demos"))
    assert "<script" not in page
    assert "a &lt; b" in page


def test_unfit_files_are_refused_before_anything_is_written(demos, tmp_path):
    demos.save(tmp_path / "demos.npz")
    one = demos.select([0])
    one.save(tmp_path / "one.npz")
    other = Demonstrations.from_arrays([e[:, :3] for e in demos.observations])
    other.save(tmp_path / "other.npz")
    swapped = Demonstrations.from_arrays(
        [e[:, [1, 0, 2, 3]] for e in demos.observations], columns=["py", "px", "vx", "vy"]
    )
    swapped.save(tmp_path / "swapped.npz")
    cases = {
        "one.npz": "logs: expected at least 2 episodes, got 1",
        "other.npz": "logs: episode 0 has observation dimension 3, the demonstrations' model expects 4",
        "swapped.npz": "columns come in another order",
        "absent.npz": "no such file",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            apply(tmp_path / name, demos=tmp_path / "demos.npz", out=tmp_path / "out")
    with pytest.raises(ValueError, match="is a file"):
        apply(tmp_path / "demos.npz", demos=tmp_path / "demos.npz", out=tmp_path / "one.npz")
    (tmp_path / "steps.csv").write_text("episode,a\n")
    with pytest.raises(ValueError, match="is read and would be written"):
        apply(tmp_path / "steps.csv", demos=tmp_path / "demos.npz", out=tmp_path)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="folds: expected at least 2"):
        score_trajectories(demos, demos, folds=1)
