"""Two real processes (gloo, over loopback) give the result of one.

This file is also the program of the two: `torchrun ... test_ddp.py OUTPUT`.
"""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperworks.train import (
    Averaging,
    Budget,
    Checkpoint,
    EarlyStopping,
    EpochBatches,
    Evaluation,
    Recipe,
    fit,
    make_fabric,
    sgd,
    warmup_linear,
)


def job(fabric, *, size=8, accumulate=1, path=None, steps=20, ragged=False, budget=None):
    """A fit, and the weights it ends with; `ragged`: batches of different sizes, summed and counted."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=generator, dtype=torch.float64)
    y = (x[:, 0] > x[:, 1]).long()
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 2)).double()

    def mean(module, batch):
        return F.cross_entropy(module(batch[0]), batch[1])

    def summed(module, batch):
        return F.cross_entropy(module(batch[0]), batch[1], reduction="sum"), len(batch[1])

    def rows(position):
        first = 5 * position % 50
        return x[first : first + 1 + position % 4], y[first : first + 1 + position % 4]

    result = fit(
        model,
        summed if ragged else mean,
        rows if ragged else EpochBatches((x, y), size=size, seed=0),
        recipe=Recipe(
            partial(sgd, lr=0.2), warmup_linear(40, 5), clip=0.2, accumulate=accumulate, average=Averaging(0.8)
        ),
        budget=budget or Budget(steps=steps),
        seed=0,
        evaluation=Evaluation(lambda module: mean(module, (x, y)).item(), 5, EarlyStopping("value", "min", 50)),
        checkpoint=Checkpoint(path, every_steps=6) if path else None,
        fabric=fabric,
    )
    return {
        "losses": torch.tensor(result.losses, dtype=torch.float64),
        "weights": nn.utils.parameters_to_vector(model.parameters()).detach(),
        "evaluations": torch.tensor([item.values["value"] for item in result.evaluations], dtype=torch.float64),
        "steps": (result.steps, result.resumed_from, result.stopped_because, result.best_step),
    }


def everything(fabric, folder):
    """All that is compared; on two processes each clock is its own, so that time alone would part them."""
    ticks = iter(range(0, 10**6, 1 + 2 * fabric.global_rank))
    path = folder + "/state.pt"
    return {
        "plain": job(fabric),
        "accumulated": job(fabric, accumulate=2, size=4),
        "ragged": job(fabric, ragged=True),
        "before": job(fabric, path=path, steps=9),
        "after": job(fabric, path=path, steps=20),
        "timed": job(fabric, budget=Budget(seconds=40.0, clock=lambda: float(next(ticks))))["steps"],
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d",
               "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", __file__, str(folder)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def one():
    return make_fabric(accelerator="cpu", precision="64-true")


def close(left, right) -> None:
    for name in ("losses", "weights", "evaluations"):
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=1e-10)


def test_equals_one_process_with_doubled_batch(two, one):
    close(two[0]["plain"], job(one, size=16))


@pytest.mark.parametrize(("name", "options"), [
    ("plain", {"accumulate": 2}),
    ("accumulated", {"accumulate": 4, "size": 4}),
    ("ragged", {"accumulate": 2, "ragged": True}),
])  # fmt: skip
def test_equals_one_process_with_twice_the_accumulation(two, one, name, options):
    close(two[0][name], job(one, **options))


def test_both_processes_hold_the_same_model(two):
    for name in ("plain", "accumulated", "ragged", "after"):
        for key in ("losses", "weights", "evaluations"):
            assert torch.equal(two[0][name][key], two[1][name][key])


def test_resume_with_two_processes_is_exact(two):
    assert two[0]["after"]["steps"][:2] == (20, 9)
    assert torch.equal(two[0]["after"]["losses"], two[0]["plain"]["losses"])
    assert torch.equal(two[0]["after"]["weights"], two[0]["plain"]["weights"])


def test_processes_stop_together_when_one_runs_out_of_time(two):
    assert two[0]["timed"] == two[1]["timed"]
    assert two[0]["timed"][2] == "seconds"


if __name__ == "__main__":
    torch.set_num_threads(1)
    fabric = make_fabric(accelerator="cpu", devices=2, strategy="ddp", precision="64-true")
    assert fabric.world_size == 2
    torch.save(everything(fabric, sys.argv[1]), f"{sys.argv[1]}/rank{fabric.global_rank}.pt")
