"""The twin against its equation, its buffers by each rule, and what must not happen to either network."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paperworks.nn.momentum_twin import MomentumTwin


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).double()


def moved(online: nn.Module) -> None:
    """Change everything of a network: weights by hand, buffers by a forward pass."""
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(torch.randn_like(parameter))
    online(torch.randn(16, 4, dtype=torch.float64))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_parameters_follow_the_equation(momenta):
    online = network()
    twin = MomentumTwin(online)
    expected = [parameter.detach().clone() for parameter in online.parameters()]
    for momentum in momenta:
        moved(online)
        twin.update(momentum)
        expected = [
            momentum * old + (1 - momentum) * new for old, new in zip(expected, online.parameters(), strict=True)
        ]
    for ours, theirs in zip(twin.module.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("buffers", ["own", "copy", "ema"])
def test_buffers_follow_their_rule(buffers):
    online = network()
    moved(online)
    twin = MomentumTwin(online, buffers=buffers)
    old = copy.deepcopy(dict(twin.module.named_buffers()))
    moved(online)
    twin.update(0.75)
    new = dict(online.named_buffers())
    for name, buffer in twin.module.named_buffers():
        if buffers == "own":
            expected = old[name]
        elif buffers == "copy" or not buffer.is_floating_point():
            expected = new[name]
        else:
            expected = 0.75 * old[name] + 0.25 * new[name]
        torch.testing.assert_close(buffer, expected, rtol=0, atol=1e-12)
    assert not torch.equal(old["1.running_mean"], new["1.running_mean"])


def test_own_buffers_are_filled_by_the_twins_passes_alone():
    online = network()
    twin = MomentumTwin(online)
    batch = torch.randn(8, 4, dtype=torch.float64)
    twin(batch)
    assert twin.module[1].num_batches_tracked == 1
    assert online[1].num_batches_tracked == 0


def test_twin_is_frozen_apart_and_no_part_of_the_original():
    online = network()
    twin = MomentumTwin(online)
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert all(parameter.requires_grad for parameter in online.parameters())
    assert sum(1 for _ in twin.parameters()) == sum(1 for _ in online.parameters())
    assert not set(map(id, twin.parameters())) & set(map(id, online.parameters()))
    before = copy.deepcopy(online.state_dict())
    moved(twin.module)
    for name, value in online.state_dict().items():
        assert torch.equal(value, before[name])


def test_update_is_outside_of_autograd():
    online = network()
    twin = MomentumTwin(online)
    x = torch.randn(8, 4, dtype=torch.float64)
    loss = (online(x) - twin(x)).square().mean()
    twin.update(0.5)
    moved_twin = [parameter.clone() for parameter in twin.parameters()]
    loss.backward()
    assert all(parameter.grad is None for parameter in twin.parameters())
    for ours, before in zip(twin.parameters(), moved_twin, strict=True):
        assert torch.equal(ours, before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copied_pair_stays_a_pair(copied):
    """In a model that holds both, the copy's twin follows the copy's network."""
    pair = nn.Module()
    pair.online = network()
    pair.twin = MomentumTwin(pair.online)
    clone = copied(pair)
    moved(clone.online)
    clone.twin.update(0.0)
    for ours, theirs in zip(clone.twin.module.parameters(), clone.online.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(clone.twin.module[0].weight, pair.twin.module[0].weight)


def test_follows_after_a_change_of_precision():
    online = network()
    pair = nn.ModuleDict({"online": online, "twin": MomentumTwin(online, buffers="ema")})
    pair.float()
    online[1].running_mean.fill_(3.0)
    pair["twin"].update(0.0)
    assert (pair["twin"].module[1].running_mean == 3).all()


def test_state_dict_holds_the_copy_only():
    names = list(MomentumTwin(network()).state_dict())
    assert names == [f"module.{name}" for name in network().state_dict()]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="buffers"):
        MomentumTwin(network(), buffers="none")  # pyright: ignore
    with pytest.raises(ValueError, match="full precision"):
        MomentumTwin(network().bfloat16())
    with pytest.raises(ValueError, match="momentum"):
        MomentumTwin(network()).update(1.5)
