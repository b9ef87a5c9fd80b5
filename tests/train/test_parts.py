"""Schedules, optimisers and averages against their formulas."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paperworks.train import (
    Averaging,
    Budget,
    ExponentialAverage,
    Recipe,
    adamw,
    constant,
    decay_groups,
    fit,
    make_fabric,
    sgd,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
)


def test_schedules_at_points_worked_out_by_hand():
    linear = warmup_linear(10, 4)
    assert [linear(step) for step in range(12)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0, 0.0]
    )
    cosine = warmup_cosine(9, 1, floor=0.1)
    assert [cosine(step) for step in (0, 1, 5, 9, 50)] == pytest.approx([0.5, 1.0, 0.55, 0.1, 0.1])
    assert cosine(3) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert [warmup_constant(3)(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert constant()(7) == 1.0


@given(total=st.integers(1, 300), part=st.floats(0, 0.99), floor=st.floats(0, 1), make=st.sampled_from([0, 1]))
def test_schedules_rise_to_one_then_fall_to_the_floor(total, part, floor, make):
    warmup = int(part * total)
    factor = (warmup_linear, warmup_cosine)[make](total, warmup, floor=floor)
    values = [factor(step) for step in range(total + 3)]
    assert values[warmup] == pytest.approx(1.0)
    assert all(a < b for a, b in pairwise(values[: warmup + 1]))
    assert all(a >= b - 1e-12 for a, b in pairwise(values[warmup:]))
    assert values[total] == pytest.approx(floor)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_fit_follows_the_schedule(accumulate):
    """With SGD on a linear loss the weight moves by the rate of each step."""
    model = nn.Linear(1, 1, bias=False).double()
    start, factor = model.weight.item(), warmup_cosine(7, 2)
    fit(
        model,
        lambda module, batch: module(batch).mean(),
        [torch.ones(2, 1)],
        recipe=Recipe(partial(sgd, lr=0.3, momentum=0.0), factor, accumulate=accumulate),
        budget=Budget(steps=5),
        seed=0,
        fabric=make_fabric(accelerator="cpu", precision="64-true"),
    )
    assert start - model.weight.item() == pytest.approx(0.3 * sum(factor(step) for step in range(5)), abs=1e-12)


def test_biases_norms_and_named_parameters_do_not_decay():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(7, 4)
            self.norm = nn.LayerNorm((3, 4))
            self.linear = nn.Linear(4, 4)
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.head = nn.Linear(4, 7)
            self.head.weight = self.embedding.weight
            self.scale = nn.Parameter(torch.ones(()))
            self.position = nn.Parameter(torch.ones(3, 4))

    model = Net()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, kept = decay_groups(model, 0.1, no_decay=lambda name, parameter: name == "position")
    assert [names[id(p)] for p in decayed["params"]] == ["embedding.weight", "linear.weight"]
    assert {names[id(p)] for p in kept["params"]} == {
        "norm.weight", "norm.bias", "linear.bias", "head.bias", "scale", "position"
    }  # fmt: skip
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert len(decay_groups(nn.LayerNorm(3), 0.1)) == 1


def test_adamw_is_torchs_and_decays_only_weights():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    optimizer = adamw(model, lr=0.1, weight_decay=0.5)
    assert optimizer.defaults["fused"]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight, weight * (1 - 0.1 * 0.5))
    torch.testing.assert_close(model.bias, bias, rtol=0, atol=0)


@given(decay=st.floats(0, 0.999), steps=st.integers(0, 12))
def test_average_closed_form(decay, steps):
    """d^T w_0 + (1 - d) sum_t d^(T - t) w_t."""
    weights = np.random.default_rng(0).normal(size=(steps + 1, 2, 3))
    model = nn.Linear(3, 2, bias=False).double()
    model.weight.data = torch.from_numpy(weights[0].copy())
    average = ExponentialAverage(model, Averaging(decay))
    for weight in weights[1:]:
        model.weight.data = torch.from_numpy(weight.copy())
        average.update()
    expected = decay**steps * weights[0]
    for step in range(1, steps + 1):
        expected = expected + (1 - decay) * decay ** (steps - step) * weights[step]
    with average.applied():
        np.testing.assert_allclose(model.weight.detach(), expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(model.weight.detach(), weights[-1])


def test_average_warm_up_and_target_network():
    model, target = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = ExponentialAverage(model, Averaging(0.99, warmup=True))
    model.weight.data.fill_(1.0)
    average.update()
    average.copy_to(target)
    assert target.weight.item() == pytest.approx(1 - 2 / 11)
    assert Averaging(0.99, warmup=True).at(10**6) == 0.99
    with pytest.raises(ValueError, match="its parameters differ"):
        average.copy_to(nn.Linear(2, 1))


def test_average_of_bfloat16_weights_is_not_rounded_away():
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    model.weight.data.fill_(1.0)
    average = ExponentialAverage(model, Averaging(0.999))
    model.weight.data.fill_(2.0)
    for _ in range(1000):
        average.update()
    with average.applied():
        assert model.weight.item() == pytest.approx(2 - 0.999**1000, abs=0.01)
    assert model.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: warmup_linear(0), "total: expected"),
        (lambda: warmup_linear(10, 10), "warmup: expected a whole number of steps from 0 to 9"),
        (lambda: warmup_cosine(10, -1), "warmup: expected"),
        (lambda: warmup_cosine(10, floor=2.0), "floor: expected"),
        (lambda: warmup_constant(-1), "warmup: expected"),
        (lambda: adamw(nn.Linear(1, 1), lr=-1.0), "lr: expected"),
        (lambda: adamw(nn.Linear(1, 1), lr=1.0, weight_decay=math.inf), "weight_decay: expected"),
        (lambda: sgd(nn.Linear(1, 1), lr=math.nan), "lr: expected"),
        (lambda: decay_groups(nn.ReLU(), 0.1), "model: no parameter is trainable"),
        (lambda: Averaging(1.0), "decay: expected"),
    ],
)
def test_bad_input_is_refused_at_the_door(make, message):
    with pytest.raises(ValueError, match=message):
        make()
