"""Stored results: what is kept, and which runs are refused."""

import dataclasses
import importlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from paperworks.lab import record as module
from paperworks.lab.environment import changed
from paperworks.lab.facts import plain
from paperworks.lab.record import record

CLEAN = {"commit": "abc123", "paperworks": "0.1.0", "python": "3.11", "cpu": "a processor"}


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fake"))
    monkeypatch.setattr("paperworks.lab.trials.environment", lambda: CLEAN)
    monkeypatch.setattr(module, "environment", lambda: CLEAN)
    return importlib.import_module("fake_room")


def test_a_result_is_kept_with_all_that_it_rests_on(fake, tmp_path):
    run = fake.make_run(tmp_path)
    path = record(run)
    assert path == tmp_path / "fake" / "recorded" / "run-laptop.json"
    kept = json.loads(path.read_text())
    assert kept["command"] == "paperworks run fake --scale laptop --seeds 6"
    assert kept["seeds"] == [10, 11, 12, 13, 14, 15]
    assert kept["commit"] == "abc123"
    assert kept["environment"] == CLEAN
    assert kept["data"] == {"description": ["two <numbers>"], "fingerprint": "f1n9e4"}
    assert kept["config"] == {"arms": ["a", "b"], "effect": 0.1, "points_on_a_figure": 3, "careful": True}
    assert kept["budget"]["columns"] == ["arm", "steps", "seconds"]
    assert kept["tables"]["arms"]["rows"][1][1] == pytest.approx(run.frame.query("arm == 'b'")["accuracy"].mean())
    assert kept["sentences"] == ["The result rests on `a` and b."]


def test_verdicts_are_kept_number_by_number(fake, tmp_path):
    run = fake.make_run(tmp_path)
    kept = {verdict["id"]: verdict for verdict in json.loads(record(run).read_text())["verdicts"]}
    assert {name: verdict["state"] for name, verdict in kept.items()} == {
        "better": "holds",
        "much_better": "does not hold",
        "both": "inconclusive",
        "without_words": "not tested",
    }
    given = next(verdict for verdict in run.verdicts if verdict.id == "both")
    finding, interval = kept["both"]["findings"][1], given.findings[1].interval
    assert (finding["estimate"], finding["low"], finding["high"]) == (interval.estimate, interval.low, interval.high)
    assert (finding["count"], finding["unit"], finding["method"]) == (6, "seeds", "t")
    assert (finding["at_least"], finding["refuting"]) == (1.3, 1.1)
    assert kept["both"]["p"] == given.p
    assert kept["both"]["post_hoc"] is True
    assert kept["both"]["shown"][0]["name"] == "a - b"


def test_the_card_reads_what_was_kept(fake, tmp_path):
    run = fake.make_run(tmp_path)
    record(run)
    assert run.card.state() == "1 holds, 1 does not hold, 1 inconclusive, 1 not tested (laptop)"


def test_figures_are_kept_small_and_old_ones_go(fake, tmp_path):
    run = fake.make_run(tmp_path)
    run.study = dataclasses.replace(run.study, figures=(*run.study.figures, fake.CLOUD))
    del run.__dict__["figures"]
    folder = record(run).parent
    (folder / "run-laptop-gone.svg").write_text("<svg/>")
    (folder / "run-paper-stays.svg").write_text("<svg/>")
    record(run)
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.svg")}
    assert sorted(sizes) == ["run-laptop-accuracy.svg", "run-laptop-cloud.svg", "run-paper-stays.svg"]
    assert max(sizes.values()) < 300_000


def test_the_same_run_is_kept_as_the_same_bytes(fake, tmp_path):
    run = fake.make_run(tmp_path)
    files = sorted(record(run).parent.iterdir())
    before = [path.read_bytes() for path in files]
    record(run)
    assert [path.read_bytes() for path in files] == before


def test_infinite_bounds_are_valid_json(fake, tmp_path):
    text = record(fake.make_run(tmp_path, seeds=1)).read_text()
    finding = json.loads(text, parse_constant=lambda name: pytest.fail(name))["verdicts"][0]["findings"][0]
    assert (finding["low"], finding["high"]) == (None, None)


def refused(run, words):
    with pytest.raises(ValueError, match=words):
        record(run)
    assert not (run.card.folder / "recorded").exists()


def test_failed_trials_are_refused(fake, tmp_path):
    refused(fake.make_run(tmp_path, config=fake.Config(arms=("a", "b", "raises"))), "6 trials failed")


def test_missing_trials_are_refused(fake, tmp_path):
    run = fake.make_run(tmp_path)
    run.store.path(run.plan.tasks[0].key).unlink()
    del run.__dict__["frame"]
    refused(run, "1 trials are not finished")


def test_data_of_ones_own_are_refused(fake, tmp_path):
    refused(fake.make_run(tmp_path, data="mine.csv"), "user's own .mine.csv.")


def test_a_baseline_of_ones_own_is_refused(fake, tmp_path):
    refused(fake.make_run(tmp_path, baseline="mine.py:build"), "baseline is the user's own")


@pytest.mark.parametrize("first", [0, 9])
def test_pilot_seeds_are_refused(fake, tmp_path, first):
    refused(fake.make_run(tmp_path, first_seed=first), f"seed {first} is a pilot seed")


def test_stored_results_are_no_change_of_the_code(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    room = tmp_path / "src" / "area" / "room"
    room.mkdir(parents=True)
    (room / "study.py").write_text("1")
    git("init")
    git("add", "-A")
    git("commit", "-m", "one")
    (room / "recorded").mkdir()
    (room / "recorded" / "run-laptop.json").write_text("{}")
    assert not changed(tmp_path)
    (room / "study.py").write_text("2")
    assert changed(tmp_path)


def test_uncommitted_changes_are_refused(fake, tmp_path, monkeypatch):
    run = fake.make_run(tmp_path)
    monkeypatch.setattr(module, "environment", lambda: CLEAN | {"commit": "abc123+"})
    refused(run, "not committed")


def test_trials_of_uncommitted_code_are_refused_even_from_a_clean_checkout(fake, tmp_path, monkeypatch):
    monkeypatch.setattr("paperworks.lab.trials.environment", lambda: CLEAN | {"commit": "abc123+"})
    refused(fake.make_run(tmp_path), "new --store")


def test_trials_of_two_commits_name_both(fake, tmp_path, monkeypatch):
    fake.make_run(tmp_path, seeds=5)
    monkeypatch.setattr("paperworks.lab.trials.environment", lambda: CLEAN | {"commit": "def456"})
    assert json.loads(record(fake.make_run(tmp_path, seeds=6)).read_text())["commit"] == "abc123, def456"


def test_a_figure_that_stays_too_large_is_refused(fake, tmp_path, monkeypatch):
    run = fake.make_run(tmp_path)
    monkeypatch.setattr(module, "svg", lambda plot: "x" * 300_000)
    with pytest.raises(ValueError, match="figure 'accuracy' has 300000 bytes"):
        record(run)
    assert not list((run.card.folder / "recorded").glob("*.json"))


def test_a_setting_of_any_kind_can_be_kept():
    @dataclasses.dataclass
    class Odd:
        nested: dict
        folder: Path

    odd = Odd({"a": (1, np.float32(0.5), float("nan"))}, Path("x"))
    assert plain(odd) == {"nested": {"a": [1, 0.5, None]}, "folder": "x"}
