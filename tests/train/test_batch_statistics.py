"""Frozen running statistics: nothing moves, the batch still normalises, everything is put back."""

import copy

import pytest
import torch
from torch import nn

from paperworks.testing import assert_module_state_restored
from paperworks.train.batch_statistics import frozen_batch_statistics


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def networks():
    yield "batch norm", nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (6, 3, 8, 8)
    yield "cumulative", nn.Sequential(nn.BatchNorm1d(5, momentum=None)), (6, 5)
    yield "sync", nn.SyncBatchNorm(3), (6, 3, 4, 4)
    yield "instance norm", nn.InstanceNorm2d(3, track_running_stats=True), (6, 3, 4, 4)
    yield "without tracking", nn.BatchNorm1d(5, track_running_stats=False), (6, 5)


class Homemade(nn.Module):
    """A batch norm that is nobody's subclass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(5))

    def forward(self, x):
        if self.training:
            self.running_mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - x.mean(0)


def check(model: nn.Module, x: torch.Tensor) -> None:
    """Same output as an ordinary training pass, gradients too, and no statistics moved."""
    twin = copy.deepcopy(model)
    before = statistics(model)
    inputs, twin_inputs = (x.clone().requires_grad_() for _ in range(2))
    torch.manual_seed(0)
    with frozen_batch_statistics(model):
        output = model(inputs)
        model(x + 1)
    torch.manual_seed(0)
    expected = twin(twin_inputs)
    torch.testing.assert_close(output, expected)
    output.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(inputs.grad, twin_inputs.grad)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
    if before:
        assert any(not torch.equal(buffer, before[name]) for name, buffer in twin.named_buffers())
    # Afterwards the model learns its statistics again, exactly as if the block had not been.
    model(x)
    for (name, ours), (_, theirs) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


@pytest.mark.parametrize(("model", "shape"), [(model, shape) for _, model, shape in networks()],
                         ids=[name for name, _, _ in networks()])  # fmt: skip
def test_batches_normalise_and_leave_no_trace(model, shape):
    check(model, torch.randn(shape) * 3 + 1)


def test_homemade_norm():
    check(Homemade(), torch.randn(6, 5) + 1)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_timm_networks(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    check(timm.create_model(name, num_classes=4), torch.randn(2, 3, 32, 32))


def test_not_the_same_as_evaluation_mode():
    model, x = nn.BatchNorm1d(5), torch.randn(6, 5) * 3 + 1
    with frozen_batch_statistics(model):
        output = model(x)
    torch.testing.assert_close(output.mean(0), torch.zeros(5), rtol=0, atol=1e-5)
    assert not torch.allclose(model.eval()(x), output, atol=0.1)


def test_layers_in_evaluation_mode_keep_their_running_statistics():
    model, x = nn.Sequential(nn.BatchNorm1d(5), nn.BatchNorm1d(5)), torch.randn(6, 5) * 3 + 1
    model(x)
    model[1].eval()
    expected = model[1](copy.deepcopy(model[0])(x))
    with frozen_batch_statistics(model):
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("model", [model for _, model, _ in networks()], ids=[name for name, _, _ in networks()])
def test_everything_is_put_back_even_after_an_exception(model):
    assert_module_state_restored(model, frozen_batch_statistics)
