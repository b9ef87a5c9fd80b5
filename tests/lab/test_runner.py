"""Runs that are disturbed in every way must end as if nothing had happened, or say clearly what did."""

import collections
import errno
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from paperworks.lab.run import Options, recall, remember, run
from paperworks.lab.trials import Limits

VALUES = ["arm", "seed", "accuracy"]


def toy_run(folder, **arguments):
    options = {"scale": "smoke", "store": folder} | arguments.pop("options", {})
    return run("toy_paper", options=Options(**options), **arguments)


def statuses(result):
    return {outcome.key: outcome.message for outcome in result.failures.values()}


@pytest.mark.parametrize("backend", ["inline", "processes"])
def test_backends_give_the_same_table(toy, tmp_path, backend):
    result = toy_run(tmp_path, options={"backend": backend, "seeds": 5})
    assert not result.failures
    assert len(result.frame) == 10
    assert result.verdicts[0].state == "holds"
    expected = toy_run(tmp_path / "again", options={"backend": "inline", "seeds": 5})
    assert result.frame[VALUES].equals(expected.frame[VALUES])
    assert np.array_equal(result.frame["curve"].iloc[0], [10, 11, 12])


def test_the_same_study_runs_on_a_local_ray_cluster(toy, tmp_path):
    pytest.importorskip("ray", reason="the cluster extra is not installed")
    result = toy_run(tmp_path, options={"backend": "ray", "jobs": 2})
    expected = toy_run(tmp_path / "again", options={"backend": "inline"})
    assert not result.failures
    assert result.frame[VALUES].equals(expected.frame[VALUES])


def test_a_second_run_repeats_nothing_and_more_seeds_add_only_theirs(toy, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("TOY_LOG", str(log))
    for seeds in (2, 2, 3):
        toy_run(tmp_path, options={"backend": "inline", "seeds": seeds})
    assert sorted(log.read_text().split()) == ["a-10", "a-11", "a-12", "b-10", "b-11", "b-12"]


def test_config_data_and_seed_are_part_of_a_trial(toy, tmp_path):
    inline = {"backend": "inline"}
    keys = [
        set(toy_run(tmp_path, options=inline, **arguments).frame["key"])
        for arguments in ({}, {"effect": 0.2}, {"data": "other.csv"})
    ]
    keys.append(set(toy_run(tmp_path, options=inline | {"first_seed": 50}).frame["key"]))
    assert all(not (keys[i] & keys[j]) for i in range(4) for j in range(i))


def test_a_trial_that_raises_hangs_hogs_or_dies_does_not_stop_the_others(toy, tmp_path):
    arms = ("a", "raises", "hangs", "hogs", "dies", "b")
    limits = Limits(seconds=5, gigabytes=1)
    result = toy_run(tmp_path, options={"seeds": 1, "jobs": 2, "limits": limits}, arms=arms)
    said = {result.task(key).point["arm"]: message for key, message in statuses(result).items()}
    assert said == {
        "raises": "RuntimeError: this arm always raises",
        "hangs": "exceeded 5 seconds",
        "hogs": "out of memory (limit 1 GiB)",
        "dies": "the worker process died (killed, or out of memory)",
    }
    assert sorted(result.frame["arm"]) == ["a", "b"]
    assert "this arm always raises" in result.report.read_text()


def test_a_trial_may_not_use_the_laboratory_s_own_columns(toy, tmp_path):
    result = toy_run(tmp_path, options={"seeds": 1, "backend": "inline"}, arms=("a", "takes a name"))
    (message,) = statuses(result).values()
    assert message.endswith("are the laboratory's own, got 'seconds'")
    assert list(result.frame["arm"]) == ["a"]


def test_a_full_disk_is_said_and_the_run_can_be_continued(toy, tmp_path, monkeypatch):
    from paperworks.lab import store

    real = store.os.fsync

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        # The trials' files meet a full disk; the parent's own (the report) come after it was emptied.
        patch.setattr(store.Store, "save", lambda self, record: full(0))
        result = toy_run(tmp_path, options={"backend": "inline"})
    assert set(statuses(result).values()) == {"the disk is full; the result could not be kept"}
    assert store.os.fsync is real
    assert not toy_run(tmp_path, options={"backend": "inline"}).failures


def test_an_unwritable_folder_is_a_clear_error(toy, tmp_path, command):
    blocked = tmp_path / "file"
    blocked.write_text("")
    answer = command("run", "toy_paper", "--scale", "smoke", "--store", blocked / "runs")
    assert answer.returncode == 2
    assert "paperworks:" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_recall_reads_a_run_without_being_told_how_it_was_made(toy, tmp_path):
    result = toy_run(tmp_path, options={"backend": "inline", "seeds": 3}, effect=0.3)
    remember(result, {"effect": 0.3})
    assert recall("toy_paper", tmp_path).frame[VALUES].equals(result.frame[VALUES])
    with pytest.raises(ValueError, match="holds no run of toy_paper"):
        recall("toy_paper", tmp_path / "elsewhere")


def test_a_baseline_of_ones_own_joins_the_arms(toy, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("def build():\n    return 1\n")
    result = toy_run(tmp_path, options={"backend": "inline", "baseline": f"{mine}:build"})
    assert any(".py:build@" in arm for arm in result.frame["arm"])
    for spec, message in [("mine.py", "file.py:function"), ("none.py:f", "no file"), (f"{mine}:absent", "no function")]:
        with pytest.raises(ValueError, match=message):
            toy_run(tmp_path, options={"baseline": spec})


def _start(tmp_path, store, log):
    command = [
        sys.executable,
        "-m",
        "paperworks",
        "run",
        "toy_paper",
        "--store",
        str(store),
        "--jobs",
        "2",
        "--seeds",
        "4",
    ]
    environment = os.environ | {"TOY_LOG": str(log)}
    return subprocess.Popen(
        [*command, "--pause", "0.3"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _masked(report):
    import re

    return re.sub(r'(class="[^"]*\btime\b[^>]*>)[^<]*', r"\1", report)


def test_kill_9_at_random_moments_loses_and_repeats_nothing(toy, tmp_path):
    log, store = tmp_path / "log", tmp_path / "store"
    rng = random.Random(0)
    for _ in range(4):
        process = _start(tmp_path, store, log)
        time.sleep(rng.uniform(0.8, 3.0))
        finished = {path.stem for path in store.glob("trial-*.json")} if store.exists() else set()
        with_group = os.getpgid(process.pid)
        os.killpg(with_group, signal.SIGKILL)
        process.wait()
        assert finished <= {path.stem for path in store.glob("trial-*.json")}
    assert _start(tmp_path, store, log).wait(400) == 0
    undisturbed = tmp_path / "undisturbed"
    assert _start(tmp_path, undisturbed, tmp_path / "log2").wait(400) == 0
    names = [sorted(path.name for path in folder.glob("trial-*.json")) for folder in (store, undisturbed)]
    assert names[0] == names[1]
    assert len(names[0]) == 8
    reports = [_masked((folder / "report.html").read_text()) for folder in (store, undisturbed)]
    assert reports[0].replace("/store", "/undisturbed") == reports[1]
    # A trial may start again only if it was cut off: at most two were under way at each kill.
    starts = collections.Counter(log.read_text().split())
    assert sum(starts.values()) <= 8 + 2 * 4


def test_two_runs_at_once_share_the_work(toy, tmp_path):
    log, store = tmp_path / "log", tmp_path / "store"
    processes = [_start(tmp_path, store, log) for _ in range(2)]
    assert [process.wait(400) for process in processes] == [0, 0]
    assert len(list(store.glob("trial-*.json"))) == 8
    assert sorted(collections.Counter(log.read_text().split()).values()) == [1] * 8
