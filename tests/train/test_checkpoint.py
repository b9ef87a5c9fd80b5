"""Exact resume: a process is killed with SIGKILL in the middle of a fit, and the next one gives the same losses.

This file is also the program that is killed: `python test_checkpoint.py CHECKPOINT`.
"""
# ruff: noqa: NPY002 -- the legacy generator is what losses in the wild draw from

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from paperworks.train import (
    Averaging,
    Budget,
    Checkpoint,
    EarlyStopping,
    Evaluation,
    FitResult,
    Recipe,
    TokenBatches,
    adamw,
    fit,
    make_fabric,
    warmup_cosine,
)
from paperworks.train.checkpoint import read_torch, write_torch

STEPS = 60


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Dropout(0.3), nn.Linear(12, 2))


def job(path: Path | str | None, *, model=None, wait=0.0, steps=STEPS, seed=5, batches=None, **changes) -> FitResult:
    """A fit in which everything that could be forgotten matters."""
    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(1))
    y = (x.sum(1) > 0).long()
    model = model or network()
    options = {"clip": 0.5, "accumulate": 2, "average": Averaging(0.9, warmup=True), "rate": 1e-2} | changes

    def loss(module, batch):
        time.sleep(wait)
        # Twice: BatchNorm takes no batch of one.
        noise = torch.from_numpy(np.random.rand(2 * len(batch[0]), 4)).float()
        return F.cross_entropy(module(batch[0].repeat(2, 1) + noise), batch[1].repeat(2))

    def evaluate(module):
        return {"accuracy": (module(x).argmax(1) == y).float().mean().item()}

    return fit(
        model,
        loss,
        batches or TokenBatches((x, y), torch.arange(90) % 9 + 1, tokens=40, seed=2, pool=30),
        recipe=Recipe(partial(adamw, lr=options.pop("rate")), warmup_cosine(STEPS, 10), **options),
        budget=Budget(steps=steps),
        seed=seed,
        evaluation=Evaluation(evaluate, every=8, stopping=EarlyStopping("accuracy", "max", patience=6)),
        checkpoint=Checkpoint(path, every_steps=5) if path else None,
        fabric=make_fabric(accelerator="cpu"),
    )


def same(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def wait_until(condition, process) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_fit_continues_exactly(tmp_path):
    path = tmp_path / "folder" / "state.pt"
    undisturbed, resumed = network(), network()
    expected = job(None, model=undisturbed)
    process = subprocess.Popen([sys.executable, __file__, str(path)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_until(lambda: path.exists() and len(read_torch(path)["losses"]) >= 15, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    result = job(path, model=resumed)
    assert 15 <= result.resumed_from < expected.steps
    assert result.losses == expected.losses
    assert result.evaluations == expected.evaluations
    assert (result.stopped_because, result.best_step) == (expected.stopped_because, expected.best_step)
    assert same(resumed, undisturbed)


def test_a_finished_fit_is_not_repeated_and_can_be_extended(tmp_path):
    path = tmp_path / "state.pt"
    first, again, longer, whole = (network() for _ in range(4))
    done = job(path, model=first, steps=24)
    repeated = job(path, model=again, steps=24)
    assert (repeated.resumed_from, repeated.losses) == (24, done.losses)
    assert repeated.evaluations == done.evaluations
    assert same(again, first)
    extended, direct = job(path, model=longer, steps=40), job(None, model=whole, steps=40)
    assert (extended.resumed_from, extended.losses) == (24, direct.losses)
    assert same(longer, whole)


def test_iterables_are_wound_forward(tmp_path):
    items = [(torch.full((3, 4), float(i)), torch.tensor([0, 1, i % 2])) for i in range(7)]
    expected = job(None, batches=items, steps=24).losses
    job(tmp_path / "state.pt", batches=items, steps=11)
    assert job(tmp_path / "state.pt", batches=items, steps=24).losses == expected


def test_time_triggers_saves_and_is_carried_over(tmp_path):
    now, saved = [0.0], []
    path = tmp_path / "state.pt"

    def loss(model, batch):
        now[0] += 1.0
        saved.append(len(read_torch(path)["losses"]) if path.exists() else 0)
        return model(batch).mean()

    def run(seconds):
        return fit(
            nn.Linear(1, 1), loss, [torch.ones(1, 1)], recipe=Recipe(partial(adamw, lr=0.1)), seed=0,
            budget=Budget(seconds=seconds, clock=lambda: now[0]), checkpoint=Checkpoint(path, every_seconds=4.0),
            fabric=make_fabric(accelerator="cpu"),
        )  # fmt: skip

    assert run(10.0).steps == 10
    assert saved == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    result = run(13.0)
    assert (result.steps, result.seconds, result.resumed_from) == (13, 13.0, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 6}, "a fit with seed 5, this one has 6"),
        ({"clip": 0.7}, "clip 0.5, this one has 0.7"),
        ({"accumulate": 4}, "batches per step 2, this one has 4"),
        ({"rate": 0.5}, "learning rate"),
        ({"average": None}, "average"),
        ({"model": nn.Linear(4, 2)}, "model"),
        ({"batches": [(torch.ones(2, 4), torch.ones(2).long())]}, "batches"),
        ({"batches": DataLoader([1, 2], shuffle=True)}, "shuffling DataLoader"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path, changes, message):
    job(tmp_path / "state.pt", steps=2)
    with pytest.raises(ValueError, match=message):
        job(tmp_path / "state.pt", steps=4, **changes)


def test_a_damaged_file_is_refused_and_a_failed_write_leaves_the_old_one(tmp_path):
    path = tmp_path / "state.pt"
    job(path, steps=2)
    good = path.read_bytes()
    with pytest.raises(Exception, match="pickle"):
        write_torch(path, {"x": lambda: 0})
    assert path.read_bytes() == good
    assert [item.name for item in tmp_path.iterdir()] == ["state.pt"]
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        job(path, steps=4)
    write_torch(path, {"some": "thing"})
    with pytest.raises(ValueError, match="no checkpoint of this version"):
        job(path, steps=4)


class Evil:
    """What runs when an ordinary pickle is opened."""

    def __reduce__(self):
        return os.system, ("true",)


def test_opening_a_checkpoint_runs_no_code(tmp_path):
    torch.save({"format": 1, "x": Evil()}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        job(tmp_path / "state.pt", steps=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: Checkpoint(folder / "a", every_steps=0), "every_steps: expected"),
        (lambda folder: Checkpoint(folder / "a", every_seconds=0.0), "every_seconds: expected"),
        (lambda folder: Checkpoint(folder), "path: expected a file"),
    ],
)
def test_bad_input_is_refused_at_the_door(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(tmp_path)


if __name__ == "__main__":
    job(sys.argv[1], wait=0.02)
