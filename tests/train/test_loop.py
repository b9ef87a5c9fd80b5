# ruff: noqa: NPY002 -- the legacy generator is what losses in the wild draw from
"""The loop against plain PyTorch written out, its budgets, its stopping, and its doors."""

import random
import time
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric.strategies.fsdp import FSDPStrategy
from torch import nn

from paperworks.train import (
    Averaging,
    Budget,
    Checkpoint,
    EarlyStopping,
    EpochBatches,
    Evaluation,
    Recipe,
    adamw,
    fit,
    loop,
    make_fabric,
    mixed_precision,
    multiplies_bfloat16,
    sgd,
    warmup_linear,
)
from paperworks.train.devices import precision_of
from paperworks.train.loop import FitResult

CPU = make_fabric(accelerator="cpu")
DOUBLE = make_fabric(accelerator="cpu", precision="64-true")


def network(seed: int = 0, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 3)).to(dtype)


def examples(rows: int = 96, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    return x.to(dtype), (x @ torch.randn(5, 3, generator=generator, dtype=torch.float64)).argmax(1)


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def plain_fit(batches=None, *, model=None, steps=20, recipe=None, fabric=CPU, **options) -> FitResult:
    return fit(
        model or network(),
        options.pop("loss", loss),
        batches or EpochBatches(examples(), size=16, seed=3),
        recipe=recipe or Recipe(partial(adamw, lr=1e-2)),
        budget=options.pop("budget", Budget(steps=steps)),
        seed=options.pop("seed", 0),
        fabric=fabric,
        **options,
    )


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_same_as_the_loop_written_out():
    """Clipping, accumulation, schedule, average and dropout included: same losses and weights, to rounding.

    Not bit for bit: some processors' matrix products round by where tensors lie in memory.
    """
    schedule, steps, accumulate, decay = warmup_linear(25, 5), 25, 2, 0.9
    batches = EpochBatches(examples(), size=16, seed=3)
    recipe = Recipe(partial(adamw, lr=1e-2), schedule, clip=0.5, accumulate=accumulate, average=Averaging(decay))
    ours = network(dropout=0.2)
    result = plain_fit(batches, model=ours, steps=steps, recipe=recipe, seed=7)

    twin = network(dropout=0.2)
    optimizer = torch.optim.AdamW(
        [{"params": [twin[0].weight, twin[3].weight], "weight_decay": 0.01},
         {"params": [twin[0].bias, twin[3].bias], "weight_decay": 0.0}],
        lr=1e-2, fused=True,
    )  # fmt: skip
    average = [parameter.detach().clone() for parameter in twin.parameters()]
    losses, clipped = [], 0
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * schedule(step)
            total = 0.0
            for micro in range(accumulate):
                part = loss(twin, batches(step * accumulate + micro)) / accumulate
                part.backward()
                total = total + part.detach()
            clipped += nn.utils.clip_grad_norm_(twin.parameters(), 0.5) > 0.5
            optimizer.step()
            optimizer.zero_grad()
            for mean, parameter in zip(average, twin.parameters(), strict=True):
                mean.lerp_(parameter.detach(), 1 - decay)
            losses.append(total.item())
    assert 0 < clipped < steps
    np.testing.assert_allclose(result.losses, losses, rtol=2e-6)
    for mine, twin_s in zip(ours.parameters(), average, strict=True):
        torch.testing.assert_close(mine, twin_s, rtol=1e-5, atol=1e-6)


def test_same_seed_same_losses_other_seed_other_losses():
    first, second, third = (plain_fit(model=network(dropout=0.5), seed=seed).losses for seed in (4, 4, 5))
    assert first == second
    assert first != third


def test_generators_of_the_caller_are_left_alone():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = (torch.rand(1), np.random.rand(), random.random())
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    plain_fit(model=network(dropout=0.5))
    assert (torch.rand(1), np.random.rand(), random.random()) == before


def test_loss_that_draws_from_numpy_and_python_is_seeded():
    def noisy(model, batch):
        return loss(model, batch) * (1 + random.random() + np.random.rand())

    np.random.seed(0)
    first = plain_fit(loss=noisy).losses
    np.random.seed(9)
    assert plain_fit(loss=noisy).losses == first


@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_accumulation_equals_a_big_batch(accumulate):
    data = examples(72, torch.float64)
    recipe = partial(Recipe, partial(sgd, lr=0.1), clip=0.7)
    small, big = network(dtype=torch.float64), network(dtype=torch.float64)
    many = EpochBatches(data, size=12 // accumulate, seed=0)
    one = EpochBatches(data, size=12, seed=0)
    a = plain_fit(many, model=small, steps=18, recipe=recipe(accumulate=accumulate), fabric=DOUBLE)
    b = plain_fit(one, model=big, steps=18, recipe=recipe(), fabric=DOUBLE)
    np.testing.assert_allclose(a.losses, b.losses, rtol=0, atol=1e-12)
    for left, right in zip(small.parameters(), big.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


def test_sum_and_count_make_ragged_micro_batches_equal_one_batch():
    x, y = examples(12, torch.float64)
    cuts = [slice(0, 1), slice(1, 8), slice(8, 12)]

    def summed(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])

    ragged, whole, means = (network(dtype=torch.float64) for _ in range(3))
    parts = [(x[cut], y[cut]) for cut in cuts]
    recipe = partial(Recipe, partial(sgd, lr=0.1), clip=0.3)
    a = plain_fit(parts, model=ragged, recipe=recipe(accumulate=3), loss=summed, fabric=DOUBLE)
    b = plain_fit([(x, y)], model=whole, recipe=recipe(), fabric=DOUBLE)
    c = plain_fit(parts, model=means, recipe=recipe(accumulate=3), fabric=DOUBLE)
    np.testing.assert_allclose(a.losses, b.losses, rtol=0, atol=1e-12)
    torch.testing.assert_close(ragged[0].weight, whole[0].weight, rtol=0, atol=1e-12)
    # The mean of unequal means is something else: the test can tell the two apart.
    assert abs(c.losses[0] - b.losses[0]) > 1e-3


def test_clip_bounds_the_step():
    """SGD without momentum: the distance moved is rate x min(norm, clip)."""
    model = network(dtype=torch.float64)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    recipe = Recipe(partial(sgd, lr=1.0, momentum=0.0), clip=0.01)
    plain_fit([examples(dtype=torch.float64)], model=model, steps=1, recipe=recipe, fabric=DOUBLE)
    moved = (nn.utils.parameters_to_vector(model.parameters()) - before).norm()
    assert abs(moved.item() - 0.01) < 1e-6


def test_bf16_autocast_keeps_float32_weights_and_comes_close():
    seen = []

    def spy(model, batch):
        hidden = model[0](batch[0])
        seen.append(hidden.dtype)
        return F.cross_entropy(model[3](model[1](hidden)).float(), batch[1])

    half, full = network(), network()
    mixed = make_fabric(accelerator="cpu", precision="bf16-mixed")
    a = plain_fit(model=half, loss=spy, fabric=mixed, steps=30)
    b = plain_fit(model=full, loss=spy, steps=30)
    assert set(seen[:30]) == {torch.bfloat16}
    assert set(seen[30:]) == {torch.float32}
    assert half[0].weight.dtype == torch.float32
    assert a.losses != b.losses
    np.testing.assert_allclose(a.losses, b.losses, rtol=0.03)
    assert a.losses[-1] < 0.6 * a.losses[0]


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_mixed_precision_is_bfloat16_only_where_it_is_multiplied_in_hardware(monkeypatch, native, precision):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    multiplies_bfloat16.cache_clear()
    try:
        assert multiplies_bfloat16("cpu") is native
        assert precision_of(make_fabric(accelerator="cpu", precision="mixed")) == precision
        with mixed_precision():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if native else torch.float32)
    finally:
        multiplies_bfloat16.cache_clear()
    assert not multiplies_bfloat16("an-unknown-device")


def test_budget_of_seconds_counts_training_alone():
    clock = Clock()

    def slow(model, batch):
        clock.now += 1.0
        return loss(model, batch)

    def evaluate(model):
        clock.now += 100.0
        return 0.0

    budget = Budget(seconds=10.0, clock=clock)
    result = plain_fit(budget=budget, loss=slow, evaluation=Evaluation(evaluate, every=3))
    assert (result.steps, result.seconds, result.stopped_because) == (10, 10.0, "seconds")
    assert [item.step for item in result.evaluations] == [3, 6, 9, 10]
    both = plain_fit(budget=Budget(steps=4, seconds=10.0, clock=clock), loss=slow)
    assert (both.steps, both.stopped_because) == (4, "steps")


def test_early_stopping_restores_the_best_weights():
    scores = iter([1.0, 3.0, 2.0, 2.5, 3.0, 9.0])
    seen = []

    def evaluate(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append([parameter.detach().clone() for parameter in model.parameters()])
        return {"score": next(scores)}

    model = network()
    stopping = EarlyStopping("score", "max", patience=3)
    result = plain_fit(model=model, steps=100, evaluation=Evaluation(evaluate, every=5, stopping=stopping))
    assert (result.steps, result.stopped_because, result.best_step) == (25, "early stopping", 10)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), seen[1], strict=True))
    assert not torch.equal(seen[1][0], seen[2][0])


@pytest.mark.parametrize(
    ("mode", "margin", "values", "stopped"),
    [
        ("min", 0.0, [3, 2, 2, 2], 4),
        ("min", 0.5, [3, 2.6, 2.6, 0], 3),
        ("max", 0.0, [1, float("nan"), 2, float("nan"), float("nan")], 5),
    ],
)
def test_patience_counts_evaluations_without_improvement(mode, margin, values, stopped):
    values = iter([*values, *values])
    stopping = EarlyStopping("value", mode, patience=2, margin=margin)
    result = plain_fit(evaluation=Evaluation(lambda model: next(values), every=1, stopping=stopping))
    assert (result.steps, result.stopped_because) == (stopped, "early stopping")


def test_evaluation_changes_nothing_and_sees_the_average():
    recipe = Recipe(partial(adamw, lr=1e-2), average=Averaging(0.5))
    model, seen = network(dropout=0.5), []

    def evaluate(module):
        torch.rand(3), np.random.rand(), random.random()
        seen.append(module[0].weight.detach().clone())
        return 0.0

    without = plain_fit(model=network(dropout=0.5), recipe=recipe)
    watched = plain_fit(model=model, recipe=recipe, evaluation=Evaluation(evaluate, every=1))
    assert watched.losses == without.losses
    assert torch.equal(model[0].weight, seen[-1])


def test_modes_of_modules_are_put_back():
    model = network(dropout=0.5)
    model.eval()
    model[0].train()
    modes, during = [module.training for module in model.modules()], []

    def spy(module, batch):
        during.append(module.training and module[2].training)
        return loss(module, batch)

    plain_fit(model=model, loss=spy, evaluation=Evaluation(lambda module: 0.0, every=2))
    assert all(during)
    assert [module.training for module in model.modules()] == modes


def test_divergence_ends_the_fit_with_a_warning():
    def explode(model, batch):
        return loss(model, batch) * (float("inf") if batch[2] == 3 else 1.0)

    x, y = examples(16)
    with pytest.warns(RuntimeWarning, match="not finite"):
        result = plain_fit(lambda position: (x, y, position), loss=explode)
    assert (result.steps, result.stopped_because) == (4, "diverged")


@pytest.mark.parametrize("bad", [3, 7])
def test_divergence_is_seen_where_losses_come_in_late(bad, monkeypatch):
    """As on a GPU: losses are fetched together, and a bad one may be followed by good ones or by the end."""
    monkeypatch.setattr(loop._Run, "_collects", lambda self: False)
    x, y = examples(16)

    def explode(model, batch):
        value = loss(model, batch)
        return value if batch[2] != bad else value + torch.tensor(float("nan"))

    with pytest.warns(RuntimeWarning, match="not finite"):
        result = plain_fit(lambda position: (x, y, position), loss=explode, steps=8)
    assert (result.steps, result.stopped_because) == (8, "diverged")


def test_optimiser_given_as_an_object():
    model = network()
    optimizer = adamw(model, lr=1e-2)
    assert plain_fit(model=model, recipe=Recipe(optimizer)).losses == plain_fit().losses


def test_no_warning_and_no_output(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain_fit()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plain_fit(model=F.relu), "model: expected a torch module"),
        (lambda: plain_fit(model=nn.ReLU()), "model: no parameter is trainable"),
        (lambda: plain_fit(loss=3), "loss: expected a function"),
        (lambda: plain_fit(loss=nn.Linear(2, 2)), "loss: has parameters of its own"),
        (lambda: plain_fit(loss=lambda model, batch: model(batch[0])), r"loss: .* tensor of shape \(16, 3\)"),
        (lambda: plain_fit(loss=lambda model, batch: 1.0), "loss: .* got float"),
        (lambda: plain_fit(loss=lambda model, batch: torch.tensor(1.0)), "loss: the value does not depend"),
        (lambda: plain_fit(seed=-1), "seed: expected"),
        (lambda: plain_fit(seed=1.5), "seed: expected"),
        (lambda: plain_fit(7), "batches: expected a function"),
        (lambda: plain_fit(iter([examples()])), "batches: ended after 1 batches"),
        (lambda: plain_fit([()][:0] or iter(())), "batches: ended after 0 batches"),
        (lambda: Budget(), "budget: expected steps, seconds or both"),
        (lambda: Budget(steps=0), "budget: steps must be"),
        (lambda: Budget(seconds=-1.0), "budget: seconds must be"),
        (lambda: Recipe(3), "optimizer: expected a function"),
        (lambda: Recipe(adamw, clip=0.0), "clip: expected a positive number"),
        (lambda: Recipe(adamw, accumulate=0), "accumulate: expected at least 1"),
        (lambda: plain_fit(recipe=Recipe(lambda model: 3)), "optimizer: expected the function to return"),
        (lambda: plain_fit(recipe=Recipe(adamw(network(), lr=1.0))), "optimizer: 4 of its parameters are not"),
        (lambda: EarlyStopping("a", "best"), "mode: expected"),
        (lambda: EarlyStopping("a", "min", patience=0), "patience: expected"),
        (lambda: EarlyStopping("a", "min", margin=-1.0), "margin: expected"),
        (lambda: Evaluation(lambda model: 0.0, every=0), "every: expected"),
        (lambda: Evaluation(3), "function: expected"),
        (lambda: plain_fit(evaluation=Evaluation(lambda model: "good")), "evaluation: expected a number"),
        (
            lambda: plain_fit(evaluation=Evaluation(lambda model: {"b": 1}, stopping=EarlyStopping("a", "min"))),
            r"metric: the evaluation returned \['b'\], not 'a'",
        ),
        (lambda: make_fabric(precision="16-mixed"), "precision: expected one of"),
        (lambda: make_fabric(devices=0), "devices: expected"),
        (lambda: plain_fit(progress=3), "progress: expected a function"),
    ],
)
def test_bad_input_is_refused_at_the_door(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": Checkpoint("never-written.pt")}, "checkpoint: needs whole weights, which FSDPStrategy"),
        ({"recipe": Recipe(adamw, average=Averaging())}, "average: needs whole weights"),
        (
            {"evaluation": Evaluation(lambda model: 0.0, stopping=EarlyStopping("value", "min"))},
            "stopping: needs whole weights",
        ),
    ],
)
def test_sharded_weights_are_refused_where_whole_ones_are_needed(options, message):
    sharded = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(ValueError, match=message):
        plain_fit(fabric=sharded, **options)


def test_precision_that_needs_loss_scaling_is_refused():
    scaled = SimpleNamespace(strategy=SimpleNamespace(precision=SimpleNamespace(precision="16-mixed")))
    with pytest.raises(ValueError, match=r"fabric: expected precision 32-true.* got 16-mixed"):
        plain_fit(fabric=scaled)


def test_loop_costs_less_than_two_milliseconds_a_step():
    """What the loop adds to the work itself, in CPU time, on a model that costs next to nothing."""
    model = nn.Linear(2, 1)
    x = torch.ones(4, 2)
    result = plain_fit(
        lambda position: x,
        model=model,
        loss=lambda module, batch: module(batch).mean(),
        recipe=Recipe(partial(sgd, lr=1e-3), clip=1.0),
        budget=Budget(steps=300, clock=time.process_time),
    )
    assert result.seconds / result.steps < 2e-3
