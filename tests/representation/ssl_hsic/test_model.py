"""The method under the trainer's protocol: what it compares, what moves when, and two processes.

This file is also the program of the two: `torchrun ... test_model.py OUTPUT`.
"""

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperworks.data.augment import TwoViews
from paperworks.nn.small_conv import SmallConvNet
from paperworks.representation.ssl_hsic.loss import ssl_hsic_loss
from paperworks.representation.ssl_hsic.model import SSLHSIC
from paperworks.representation.ssl_hsic.width import KernelWidth
from paperworks.train import Checkpoint, make_fabric, sgd
from paperworks.train.contrast import cosine_momentum
from paperworks.train.probes import embed_images
from paperworks.train.self_supervised import SelfSupervised, fit_self_supervised

HEADS = {"projector": (16, 6), "predictor": (12, 6)}
BY_FEATURES = partial(ssl_hsic_loss, estimator="features", features=32)


def made(**options):
    torch.manual_seed(0)
    target = options.get("target", True)
    heads = HEADS if target else {"projector": HEADS["projector"]}
    return SSLHSIC(SmallConvNet(1, (4, 8)), **{**heads, **options})


def images(count=64):
    return torch.randint(256, (count, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def views(count=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(count, 1, 12, 12, generator=generator) for _ in range(2)]


def train(model, **options):
    defaults = {"views": TwoViews(12, recipe="glyph"), "steps": 6, "learning_rate": 1e-2, "batch_size": 16, "seed": 3,
                "fabric": make_fabric(accelerator="cpu")}  # fmt: skip
    return fit_self_supervised(model, images(), **{**defaults, **options})


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before, model):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


# What it compares ----------------------------------------------------------------------------------------------------


def test_four_views_in_the_official_order():
    """Predictions of both views, then the target's projections of views 2 and 1."""
    model = made().eval()
    first, second = views()
    output = model(first, second)
    online, target = model.online, model.target.module
    expected = [
        *(model.predictor(online["projector"](online["backbone"](view))) for view in (first, second)),
        *(target["projector"](target["backbone"](view)) for view in (second, first)),
    ]
    expected = torch.stack([view / view.norm(dim=1, keepdim=True) for view in expected])
    torch.testing.assert_close(output.views, expected)
    torch.testing.assert_close(output.loss, ssl_hsic_loss(expected, gamma=3.0, c=1.0, estimator="exact").loss)
    torch.testing.assert_close(output.loss, 3 * output.hsic_zz.sqrt() - output.hsic_zy)
    assert isinstance(model, SelfSupervised)


def test_two_views_without_a_target_and_no_predictor_unless_asked_for():
    model = made(target=False, gamma=0.5).eval()
    assert model.target is None
    assert model.predictor is None
    output = model(*views())
    expected = [F.normalize(model.online["projector"](model.online["backbone"](view)), dim=1) for view in views()]
    torch.testing.assert_close(output.views, torch.stack(expected))
    torch.testing.assert_close(output.loss, 0.5 * output.hsic_zz.sqrt() - output.hsic_zy)
    assert made(target=False, predictor=(9, 6)).predictor.dims == (6, 9, 6)
    assert made(predictor=()).predictor is None
    torch.manual_seed(0)
    assert SSLHSIC(SmallConvNet(1, (4,)), projector=(5, 7)).predictor.dims == (7, 4096, 7)


def test_no_gradient_reaches_the_target_or_the_width():
    """The gradient is that of the loss with the target's projections as constants."""
    model = made().eval()
    output = model(*views())
    output.loss.backward()
    assert all(parameter.grad is None for parameter in model.target.parameters())
    assert not model.width.width.requires_grad
    held = output.views[2:].detach()
    weight = model.online["projector"][0].weight
    found = weight.grad.clone()
    model.zero_grad()
    live = [model.predictor(model.online["projector"](model.online["backbone"](view))) for view in views()]
    both = torch.cat([torch.stack([F.normalize(view, dim=1) for view in live]), held])
    ssl_hsic_loss(both, estimator="exact").loss.backward()
    torch.testing.assert_close(found, weight.grad)
    assert found.abs().max() > 0


def test_the_target_starts_with_weights_of_its_own():
    model = made()
    pairs = list(zip(model.target.module.parameters(), model.online.parameters(), strict=True))
    assert all(not torch.equal(ours, theirs) for ours, theirs in pairs if ours.ndim > 1)
    spreads = [(float(ours.detach().std()), float(theirs.detach().std())) for ours, theirs in pairs if ours.ndim > 1]
    for ours, theirs in spreads:
        assert ours == pytest.approx(theirs, rel=0.5)
    assert not any(parameter.requires_grad for parameter in model.target.parameters())


# What moves when -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [ssl_hsic_loss, BY_FEATURES])
def test_forward_changes_nothing_but_batch_norm(objective):
    model = made(objective=objective, average=0.9)
    before = copied(model)
    losses = [model(*views()).loss for _ in range(2)]
    model.before_step(0.5)
    parts = ("running_mean", "running_var", "num_batches_tracked")
    assert all(name.endswith(parts) for name in changed(before, model))
    assert any(name.startswith("target") for name in changed(before, model))  # statistics of its own
    assert torch.equal(*losses)  # batches alone normalise, and a step has one draw
    model.eval()
    before = copied(model)
    model(*views())
    assert changed(before, model) == set()


@pytest.mark.parametrize("rule", ["adam", "solve"])
def test_target_and_width_move_after_the_optimiser_s_step(rule):
    model = made(width=rule, momentum=0.8)
    optimizer = sgd(model, lr=0.1)
    output = model(*views())
    output.loss.backward()
    before = copied(model)
    optimizer.step()
    assert not any(name.startswith(("target", "width")) for name in changed(before, model))
    model.after_step(output, 0.25)
    momentum = cosine_momentum(0.8, 0.25)
    for name, value in model.target.module.named_parameters():
        online = dict(model.online.named_parameters())[name]
        expected = momentum * before[f"target.module.{name}"] + (1 - momentum) * online
        torch.testing.assert_close(value, expected)
    # (Biases before batch norm have no gradient.)
    assert all(
        f"online.{name}" in changed(before, model) for name in ("projector.0.weight", "backbone.blocks.0.0.weight")
    )
    solved = KernelWidth().solve(output.views.detach().flatten(0, 1))
    moved = float(model.width.width)
    assert moved == pytest.approx(1 + 3e-4 * (1 if solved > 1 else -1), abs=1e-6) if rule == "adam" else moved == solved


def test_in_a_fit_the_hooks_run_after_the_weights_have_changed():
    model, seen = made(width="solve"), []
    original, start = model.after_step, copied(model)

    def watched(output, progress):
        seen.append((progress, changed(start, model)))
        original(output, progress)

    model.after_step = watched
    train(model, steps=3)
    assert [progress for progress, _ in seen] == pytest.approx([0, 1 / 3, 2 / 3])
    first = seen[0][1]
    assert "online.projector.0.weight" in first
    assert "target.module.projector.0.weight" not in first
    assert "target.module.projector.0.weight" in seen[1][1]
    assert {"width.width", "updates"} <= seen[1][1]


def test_the_width_is_solved_at_the_first_and_every_tenth_step_and_a_number_stays():
    model, fixed = made(target=False, width="solve"), made(target=False, width=0.7)
    found = []
    for step in range(12):
        output = model(*views(seed=step))
        model.after_step(output, 0.0)
        found.append(float(model.width.width))
    assert found[0] != 1.0
    assert len(set(found[:10])) == 1
    assert found[10] == found[11] != found[9]
    fixed.after_step(fixed(*views()), 0.0)
    assert float(fixed.width.width) == pytest.approx(0.7)
    losses = [float(network(*views()).loss.detach()) for network in (model, made(target=False))]
    assert losses[0] != pytest.approx(losses[1])


def test_draws_are_the_step_s_own_whatever_else_is_drawn():
    model = made(objective=BY_FEATURES)
    first = model(*views()).loss
    torch.manual_seed(99)
    assert torch.equal(model(*views()).loss, first)
    model.updates += 1
    assert not torch.equal(model(*views()).loss, first)
    torch.manual_seed(1)
    other = SSLHSIC(SmallConvNet(1, (4, 8)), **HEADS, objective=BY_FEATURES)
    assert int(other.draw_seed) != int(model.draw_seed)


def test_the_average_is_what_is_embedded_in_evaluation():
    model = made(average=0.75)
    before = copied(model)
    train(model, steps=1)
    for name, value in model.average.module.named_parameters():
        online = dict(model.online["backbone"].named_parameters())[name]
        torch.testing.assert_close(value, 0.75 * before[f"average.module.{name}"] + 0.25 * online)
    pixels = images(8)
    averaged = embed_images(model, pixels)
    torch.testing.assert_close(averaged, model.average.module.eval()(pixels.float() / 255))
    assert not torch.allclose(averaged, model.online["backbone"].eval()(pixels.float() / 255))
    plain = made().eval()
    torch.testing.assert_close(embed_images(plain, pixels), plain.online["backbone"](pixels.float() / 255))


# Fits ----------------------------------------------------------------------------------------------------------------


def test_half_precision_changes_little():
    model = made(width="solve").eval()
    first, second = views()
    exact = model(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(first, second)
    assert output.views.dtype == output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, exact.loss, rtol=0.02, atol=0)
    torch.testing.assert_close(output.views.norm(dim=-1), torch.ones(4, 16), rtol=0, atol=1e-5)
    output.loss.backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


@pytest.mark.parametrize("target", [False, True])
def test_it_learns_which_image_a_view_is_of(target):
    """Images of 3 x 3 patches, views with noise: the dependence on identity grows, at one width."""
    patches = torch.rand(64, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    pixels = (255 * F.interpolate(patches, (12, 12))).to(torch.uint8)

    def noisy(batch, *, generator):
        noise = [0.1 * torch.randn(batch.shape, generator=generator) for _ in range(2)]
        return tuple(batch.float() / 255 + part for part in noise)

    def dependence(model):
        output = model(*noisy(pixels, generator=torch.Generator().manual_seed(7)))
        return float(ssl_hsic_loss(output.views[:2].detach(), estimator="exact").hsic_zy)

    model = made(target=target, width="solve", momentum=0.9)
    start = dependence(model)
    options = {"steps": 60, "batch_size": 32, "learning_rate": 1e-2, "seed": 3}
    fit_self_supervised(model, pixels, views=noisy, fabric=make_fabric(accelerator="cpu"), **options)
    assert dependence(model) > start + 0.05


def test_a_killed_fit_continues_bit_for_bit(tmp_path):
    """Target, width with its Adam's moments, and the draws of frequencies."""

    class Killed(Exception):
        pass

    options = {"objective": BY_FEATURES, "momentum": 0.9, "average": 0.9}
    whole, halved, fresh = (made(**options) for _ in range(3))
    train(whole, steps=8)
    two, calls = TwoViews(12, recipe="glyph"), []

    def dying(batch, *, generator):
        calls.append(1)
        if len(calls) == 6:
            raise Killed
        return two(batch, generator=generator)

    with pytest.raises(Killed):
        train(halved, steps=8, views=dying, checkpoint=Checkpoint(tmp_path / "state.pt", every_steps=2))
    assert train(fresh, steps=8, checkpoint=tmp_path / "state.pt").resumed_from == 4
    for (name, ours), theirs in zip(fresh.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -1.0}, "gamma: must be >= 0, got -1"),
        ({"gamma": float("nan")}, "gamma: must be >= 0"),
        ({"width": "sgd"}, "width: expected adam, solve or a positive number, got 'sgd'"),
        ({"width": 0.0}, "width: expected adam, solve or a positive number, got 0"),
        ({"momentum": 1.5}, r"momentum: expected a number in \[0, 1\], got 1\.5"),
        ({"average": -0.1}, "average: expected a number in"),
        ({"predictor": (12, 7)}, "predictor: must end in the projector's width 6, got 7"),
        ({"projector": ()}, "dims: expected at least two"),
        ({"backbone": nn.Linear(2, 2)}, "feature_dim: Linear has no num_features"),
    ],
)
def test_bad_arguments(options, message):
    backbone = options.pop("backbone", SmallConvNet(1, (4, 8)))
    with pytest.raises((ValueError, IndexError), match=message):
        SSLHSIC(backbone, **{**HEADS, **options})


def test_views_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="view2: expected the shape of view1"):
        made()(views()[0], views(8)[1])


# Two processes -------------------------------------------------------------------------------------------------------


def job(fabric, size):
    """Without batch norm, whose statistics would be each process's own: losses, weights and widths of four fits."""
    found = {}
    for target in (False, True):
        for name, objective in (("exact", partial(ssl_hsic_loss, estimator="exact")), ("features", BY_FEATURES)):
            torch.manual_seed(0)
            heads = {"projector": (6,), "predictor": (6,) if target else ()}
            model = SSLHSIC(
                SmallConvNet(1, (4, 8), norm="group"), target=target, momentum=0.9, objective=objective, **heads
            ).double()
            result = train(model, views=flipped, batch_size=size, steps=5, fabric=fabric, optimizer=sgd, clip_norm=0.5)
            key = f"{name}, {'target' if target else 'no target'}"
            found[f"{key}: losses"] = torch.tensor(result.losses, dtype=torch.float64)
            found[f"{key}: weights"] = torch.cat([value.detach().flatten() for value in model.parameters()])
            found[f"{key}: width"] = model.width.width.detach().clone()
    return found


def flipped(batch, *, generator):
    """Views without random numbers, which would differ with the batches' sizes."""
    whole = batch.double() / 255 if batch.dtype == torch.uint8 else batch
    return whole, whole.flip(-1)


@pytest.mark.slow
def test_two_processes_equal_one_with_the_joint_batch(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d",
               "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", __file__, str(tmp_path)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    two = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    one = job(make_fabric(accelerator="cpu", precision="64-true"), 16)
    for name, expected in one.items():
        torch.testing.assert_close(two[0][name], expected, rtol=0, atol=1e-7 if "width" in name else 1e-9, msg=name)
        assert torch.equal(two[0][name], two[1][name]), name
    alone = job(make_fabric(accelerator="cpu", precision="64-true"), 8)
    losses = "exact, target: losses"
    assert not np.allclose(alone[losses], one[losses], atol=1e-4)  # a process's own half would be another loss


if __name__ == "__main__":
    torch.set_num_threads(1)
    processes = make_fabric(accelerator="cpu", devices=2, strategy="ddp", precision="64-true")
    assert processes.world_size == 2
    torch.save(job(processes, 8), f"{sys.argv[1]}/rank{processes.global_rank}.pt")
