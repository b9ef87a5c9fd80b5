"""The trainer: when the hooks run, against the loop written out, through a kill, and on two processes.

This file is also the program of the two: `torchrun ... test_self_supervised.py OUTPUT`.
"""

import os
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paperworks.data.augment import TwoViews
from paperworks.nn.momentum_twin import MomentumTwin
from paperworks.nn.small_conv import SmallConvNet
from paperworks.train import Checkpoint, EpochBatches, adamw, make_fabric, sgd, warmup_cosine
from paperworks.train.contrast import BYOL, SimCLR, cosine_momentum
from paperworks.train.lars import lars
from paperworks.train.self_supervised import SelfSupervised, fit_self_supervised

STEPS = 12


def images(count: int = 64) -> Tensor:
    return torch.randint(256, (count, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def simclr() -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(SmallConvNet(1, (4, 8)), projector=(16, 6))


def byol() -> BYOL:
    torch.manual_seed(0)
    return BYOL(SmallConvNet(1, (4, 8)), projector=(16, 6), predictor=(12, 6), momentum=0.9)


def train(model: nn.Module, **options: Any):
    defaults = {"views": TwoViews(12, recipe="glyph"), "steps": STEPS, "learning_rate": 1e-2, "batch_size": 16,
                "seed": 3, "fabric": make_fabric(accelerator="cpu")}  # fmt: skip
    return fit_self_supervised(model, options.pop("images", images()), **{**defaults, **options})


class Said(NamedTuple):
    loss: Tensor
    number: int


class Recorder(nn.Module):
    """A method that notes what happens to it, and a twin that moves before the step."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(144, 3)
        self.twin = MomentumTwin(self.layer)
        self.events: list[tuple[Any, ...]] = []
        self.seen: list[tuple[Tensor, Tensor]] = []

    def before_step(self, progress: float) -> None:
        self.events.append(("before", progress, self.layer.weight.detach().clone()))
        self.twin.update(0.5)

    def forward(self, view1: Tensor, view2: Tensor) -> Said:
        self.seen.append((view1, view2))
        self.events.append(("forward", torch.is_grad_enabled(), self.layer.weight.detach().clone()))
        return Said(self.layer(view1.flatten(1)).square().mean(), len(self.seen))

    def after_step(self, output: Any, progress: float) -> None:
        self.events.append(("after", progress, self.layer.weight.detach().clone()))
        assert output.number == len(self.seen)
        assert not torch.is_grad_enabled()

    def embed(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def test_hooks_run_once_a_step_around_the_optimiser():
    model = Recorder()
    train(model)
    assert isinstance(model, SelfSupervised)
    assert [event[0] for event in model.events] == ["before", "forward", "after"] * STEPS
    for step in range(STEPS):
        before, forward, after = model.events[3 * step : 3 * step + 3]
        assert before[1] == after[1] == step / STEPS
        assert forward[1]
        assert torch.equal(before[2], forward[2])
        assert not torch.equal(forward[2], after[2])


def test_a_target_that_moves_before_the_step_needs_no_other_trainer():
    model = Recorder()
    expected = model.twin.module.weight.detach().clone()
    train(model)
    for event in model.events:
        if event[0] == "before":
            expected = 0.5 * expected + 0.5 * event[2]
    torch.testing.assert_close(model.twin.module.weight, expected)


def test_views_are_new_each_step_and_a_function_of_the_seed():
    first, again, other = Recorder(), Recorder(), Recorder()
    train(first)
    train(again)
    train(other, seed=4)
    for (a1, a2), (b1, b2) in zip(first.seen, again.seen, strict=True):
        assert torch.equal(a1, b1)
        assert torch.equal(a2, b2)
    assert not torch.equal(first.seen[0][0], other.seen[0][0])
    # The same four batches of 16 come round in other orders, seen anew.
    assert len({float(view.sum()) for view, _ in first.seen}) == STEPS


def test_same_as_the_loop_written_out():
    """BYOL with clipping, schedule, decay: same losses and weights, bit for bit."""
    model, expected, views = byol(), byol(), TwoViews(12, recipe="glyph")
    result = train(model, weight_decay=0.1, clip_norm=0.05, warmup=0.25)
    optimizer = adamw(expected, lr=1e-2, weight_decay=0.1)
    factor, batches = warmup_cosine(STEPS, 3), EpochBatches(images(), size=16, seed=3, drop_last=True)
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * factor(step)
        state = np.random.SeedSequence((3, step)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
        output = expected(*views(batches(step), generator=generator))
        optimizer.zero_grad()
        output.loss.backward()
        # In the optimiser's order: that of a sum decides its last bit.
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 0.05)
        optimizer.step()
        expected.target.update(cosine_momentum(0.9, step / STEPS))
        losses.append(output.loss.item())
    assert list(result.losses) == losses
    for (name, ours), theirs in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7, msg=name)


def test_a_killed_fit_continues_bit_for_bit(tmp_path):
    class Killed(Exception):
        pass

    whole, halved = byol(), byol()
    train(whole)
    views, calls = TwoViews(12, recipe="glyph"), []

    def dying(batch, *, generator):
        calls.append(1)
        if len(calls) == 8:
            raise Killed
        return views(batch, generator=generator)

    checkpoint = Checkpoint(tmp_path / "state.pt", every_steps=3)
    with pytest.raises(Killed):
        train(halved, views=dying, checkpoint=checkpoint)
    fresh = byol()
    result = train(fresh, checkpoint=tmp_path / "state.pt")
    assert result.resumed_from == 6
    for (name, ours), theirs in zip(fresh.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    with pytest.raises(ValueError, match="another file"):
        train(simclr(), checkpoint=tmp_path / "state.pt")


@pytest.mark.parametrize("optimizer", ["adamw", "lars", sgd])
def test_optimisers_learn(optimizer):
    if optimizer == "lars":
        pytest.importorskip("timm")
    model = simclr()
    rate = {"adamw": 1e-2, "lars": 30.0}.get(optimizer, 0.3)
    losses = train(model, steps=60, learning_rate=rate, optimizer=optimizer, weight_decay=1e-4).losses
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.1


def test_lars_is_its_equation():
    """One step by hand: rows adapt by |w| / |g + decay w|, vectors are plain SGD without decay."""
    pytest.importorskip("timm")
    model = nn.Linear(4, 3).double()
    optimizer = lars(model, lr=2.0, weight_decay=0.1, trust=0.01)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    model(torch.randn(5, 4, dtype=torch.float64)).square().mean().backward()
    gradient = {name: value.grad.clone() for name, value in model.named_parameters()}
    optimizer.step()
    adapted = gradient["weight"] + 0.1 * before["weight"]
    trust = 0.01 * before["weight"].norm() / (gradient["weight"].norm() + 0.1 * before["weight"].norm())
    torch.testing.assert_close(model.weight.detach(), before["weight"] - 2.0 * trust * adapted, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(model.bias.detach(), before["bias"] - 2.0 * gradient["bias"])


def test_bfloat16_is_the_default_and_views_stay_in_full_precision():
    model = Recorder()
    fit_self_supervised(model, images(), views=TwoViews(12, recipe="glyph"), steps=2, learning_rate=1e-2, seed=3,
                        batch_size=16, fabric=make_fabric(accelerator="cpu", precision="bf16-mixed"))  # fmt: skip
    reference = Recorder()
    train(reference, steps=2)
    for ours, theirs in zip(model.seen[0], reference.seen[0], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("options", "match"), [
    ({"batch_size": 65}, "size"),
    ({"steps": 0}, "steps"),
    ({"warmup": 1.0}, "warmup"),
    ({"optimizer": "adam"}, "optimizer"),
    ({"images": torch.zeros(8, 12, 12)}, "images"),
])  # fmt: skip
def test_bad_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        train(simclr(), **options)


def test_a_model_without_the_protocol_is_refused():
    with pytest.raises(ValueError, match="without before_step, after_step, embed"):
        train(nn.Linear(2, 2))


# Two processes


def flipped(batch: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Views that do not depend on how batches are divided."""
    return batch.double() / 255, batch.double().flip(3) / 255


def job(fabric: Any, size: int) -> dict[str, Any]:
    """SimCLR and BYOL without batch norm, whose statistics would be each process's own."""
    found = {}
    for name, make in (
        ("simclr", lambda net: SimCLR(net, projector=(6,), temperature=0.3)),
        ("byol", lambda net: BYOL(net, projector=(6,), predictor=(6,), momentum=0.9)),
    ):
        torch.manual_seed(0)
        model = make(SmallConvNet(1, (4, 8), norm="group")).double()
        result = train(model, views=flipped, batch_size=size, fabric=fabric, clip_norm=0.5, optimizer=sgd)
        found[name] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        found[f"{name} losses"] = torch.tensor(result.losses, dtype=torch.float64)
    return found


@pytest.mark.slow
def test_two_processes_equal_one_with_the_joint_batch(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d",
               "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", __file__, str(tmp_path)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    two = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    one = job(make_fabric(accelerator="cpu", precision="64-true"), 16)
    for name, expected in one.items():
        torch.testing.assert_close(two[0][name], expected, rtol=0, atol=1e-9, msg=name)
        assert torch.equal(two[0][name], two[1][name])


if __name__ == "__main__":
    torch.set_num_threads(1)
    processes = make_fabric(accelerator="cpu", devices=2, strategy="ddp", precision="64-true")
    assert processes.world_size == 2
    torch.save(job(processes, 8), f"{sys.argv[1]}/rank{processes.global_rank}.pt")
