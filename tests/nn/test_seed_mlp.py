"""Networks side by side are the networks one by one: values, gradients, optimiser steps."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paperworks.nn.seed_mlp import SeedMLP


def twins(model):
    """The same networks as torch's own layers."""
    result = []
    for seed in range(model.seeds):
        layers = []
        for weight, bias in zip(model.weights, model.biases, strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[2])
            linear.weight.data = weight.data[seed].T.clone()
            linear.bias.data = bias.data[seed, 0].clone()
            layers += [linear, nn.ELU()]
        result.append(nn.Sequential(*layers[:-1]))
    return result


def test_values_gradients_and_adam_steps_are_those_of_single_networks():
    torch.manual_seed(0)
    model = SeedMLP(3, (4, 8, 8, 2), activation=F.elu)
    single = twins(model)
    x, y = torch.randn(3, 16, 4), torch.randn(3, 16, 2)
    ours = torch.optim.Adam(model.parameters(), lr=1e-2)
    theirs = [torch.optim.Adam(net.parameters(), lr=1e-2) for net in single]
    for _ in range(5):
        ours.zero_grad()
        (model(x) - y).square().mean((1, 2)).sum().backward()
        ours.step()
        for seed, (net, optimizer) in enumerate(zip(single, theirs, strict=True)):
            optimizer.zero_grad()
            (net(x[seed]) - y[seed]).square().mean().backward()
            optimizer.step()
    for seed, net in enumerate(single):
        torch.testing.assert_close(model(x)[seed], net(x[seed]), rtol=1e-4, atol=1e-5)


def test_frozen_passes_gradients_to_the_input_alone():
    model = SeedMLP(2, (3, 5, 1))
    x = torch.randn(2, 4, 3, requires_grad=True)
    model(x, frozen=True).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("init", "bound"), [("torch", 100**-0.5), ("fan_out", 25**-0.5)])
def test_initial_weights_fill_their_bounds(init, bound):
    torch.manual_seed(0)
    model = SeedMLP(4, (100, 25, 2), init=init)
    weight = model.weights[0].detach()
    assert bound * 0.98 < weight.abs().max() <= bound
    assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert bool((model.biases[0] == 0).all()) == (init == "fan_out")


def test_orthogonal_layers_are_orthogonal_and_the_last_is_scaled():
    model = SeedMLP(2, (6, 6, 3), init="orthogonal", last_scale=0.1)
    hidden = model.weights[0].detach()
    torch.testing.assert_close(hidden @ hidden.mT, 2 * torch.eye(6).expand(2, 6, 6), atol=1e-5, rtol=0)
    last = model.weights[1].detach()
    torch.testing.assert_close(last.mT @ last, 0.01 * torch.eye(3).expand(2, 3, 3), atol=1e-5, rtol=0)
    assert not torch.equal(model.weights[0][0], model.weights[0][1])


def test_networks_are_copied_one_to_one():
    model = SeedMLP(3, (2, 4, 1))
    before = [parameter.clone() for parameter in model.parameters()]
    model.copy_network(0, 2)
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(new[2], old[0])
        assert torch.equal(new[:2], old[:2])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, (2, 1)), {}, "seeds: expected at least 1"),
        ((1, (2,)), {}, "sizes: expected"),
        ((1, (2, 0)), {}, "sizes: expected"),
        ((1, (2, 1)), {"init": "xavier"}, "init: expected one of torch"),
    ],
)
def test_unfit_arguments_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        SeedMLP(*arguments, **options)


def test_inputs_of_another_shape_are_refused():
    model = SeedMLP(2, (3, 1))
    for shape in ((4, 3), (1, 4, 3), (2, 4, 2)):
        with pytest.raises(ValueError, match=r"x: expected \(2, B, 3\)"):
            model(torch.zeros(shape))
    assert np.isfinite(model(torch.zeros(2, 0, 3)).detach().numpy()).all()
