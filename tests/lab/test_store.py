import errno
import json
import multiprocessing
import os

import numpy as np
import pytest

from paperworks import _files as module
from paperworks._files import write_atomic
from paperworks.lab.store import Record, Store, canonical_json, trial_key


def record(key="k", **values):
    return Record(key=key, slug="toy", point={"arm": "a"}, seed=10, values=values, seconds=1.5)


def test_a_record_comes_back_as_it_was_with_scalars_and_arrays(tmp_path):
    store = Store(tmp_path)
    store.save(record(accuracy=np.float64(0.25), note="x", curve=np.arange(4), nothing=None))
    back = store.load("k")
    assert (back.values["accuracy"], back.values["note"], back.values["nothing"]) == (0.25, "x", None)
    assert np.array_equal(back.values["curve"], np.arange(4))
    assert (back.point, back.seed, back.seconds) == ({"arm": "a"}, 10, 1.5)


def test_an_unfinished_or_damaged_file_counts_as_not_finished(tmp_path):
    store = Store(tmp_path)
    assert store.load("k") is None
    store.save(record(curve=np.arange(4)))
    store.path("k", ".npz").unlink()
    assert store.load("k") is None
    store.path("k").write_text('{"key": "k"')
    assert store.load("k") is None


def test_values_that_cannot_be_kept_are_named(tmp_path):
    with pytest.raises(TypeError, match="'model'"):
        Store(tmp_path).save(record(model=object()))


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_key_depends_on_content_not_on_spelling():
    assert trial_key(a=1, b=(1, 2)) == trial_key(b=[1, 2], a=np.int64(1))
    assert trial_key(a=1) != trial_key(a=1.5)
    assert json.loads(canonical_json({"b": np.float32(0.5)})) == {"b": 0.5}
    with pytest.raises(TypeError, match="cannot be part"):
        trial_key(a=object())


def _hold(folder, log):
    with Store(folder).lock("k"):
        with open(log, "a") as stream:
            stream.write("in\n")
            stream.flush()
            os.fsync(stream.fileno())
        content = log.read_text().split()
        assert content.count("in") - content.count("out") == 1
        with open(log, "a") as stream:
            stream.write("out\n")


def test_one_process_at_a_time_holds_a_trial(tmp_path):
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    workers = [context.Process(target=_hold, args=(tmp_path, log)) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 8
    assert log.read_text().split() == ["in", "out"] * 8
    assert not list(tmp_path.glob("*.lock"))
