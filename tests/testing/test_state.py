"""What a context or a call must put back."""

from contextlib import contextmanager, suppress

import pytest
import torch
from torch import nn

from paperworks.nn.modes import evaluating
from paperworks.testing import assert_module_state_restored


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2)))


def test_accepts() -> None:
    assert_module_state_restored(model(), evaluating)
    assert_module_state_restored(model(), lambda m: m.state_dict())


@contextmanager
def train_afterwards(module: nn.Module):
    module.eval()
    try:
        yield
    finally:
        module.train()


@contextmanager
def forgets_after_an_exception(module: nn.Module):
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    yield
    for part, training in before:
        part.training = training


@contextmanager
def swallows(module: nn.Module):
    with suppress(Exception):
        yield


@contextmanager
def leaves_a_hook(module: nn.Module):
    module.register_forward_hook(lambda *_: None)
    yield


def freezes(module: nn.Module) -> None:
    module[0].weight.requires_grad_(False)


def moves_statistics(module: nn.Module) -> None:
    module[1].train()
    module[1](torch.randn(4, 3))
    module[1].eval()


def leaves_gradients(module: nn.Module) -> None:
    module[0](torch.ones(1, 3)).sum().backward()


def replaces(module: nn.Module) -> None:
    module[0].weight = nn.Parameter(module[0].weight.detach().clone())


def changes_a_setting(module: nn.Module) -> None:
    module[2][0].p = 0.9


def casts(module: nn.Module) -> None:
    module.double()


def nudges(module: nn.Module) -> None:
    with torch.no_grad():
        module[2][1].bias.add_(1e-3)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (train_afterwards, "after the block, .*training is not as it was"),
        (forgets_after_an_exception, "after an exception in the block, .*training"),
        (swallows, "an exception inside the block did not come out"),
        (leaves_a_hook, "the module: _forward_hooks"),
        (freezes, "0.weight: requires_grad"),
        (moves_statistics, r"1.num_batches_tracked|1.running_mean|1: training"),
        (leaves_gradients, "0.*gradient"),
        (replaces, "0.weight: identity"),
        (changes_a_setting, "2.0: p is not as it was"),
        (casts, "values is not as it was"),
        (nudges, "2.1.bias: values"),
        (lambda m: m.eval(), "after the call, .*training"),
        (lambda m: m.add_module("more", nn.ReLU()), "more"),
    ],
)
def test_rejects(act, message: str) -> None:
    module = model()
    before = [part.training for part in module.modules()]
    with pytest.raises(AssertionError, match=message):
        assert_module_state_restored(module, act)
    assert [part.training for part in module.modules()][: len(before)] == before
