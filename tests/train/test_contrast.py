"""The losses against NumPy, where gradients go, and when BYOL's target moves."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paperworks.nn.small_conv import SmallConvNet
from paperworks.train.contrast import BYOL, SimCLR, byol_loss, cosine_momentum, infonce_loss, unit_rows


def pair(batch: int = 6, dim: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z1, z2 = torch.randn(2, batch, dim, generator=generator, dtype=torch.float64)
    return z1, z2


def slow_infonce(z1: np.ndarray, z2: np.ndarray, temperature: float, negatives: str) -> float:
    """Anchor by anchor, as NT-Xent is written in the paper and computed by lightly."""
    views = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z1, z2)]
    losses = []
    for view, other in ((0, 1), (1, 0)):
        for i, anchor in enumerate(views[view]):
            positive = anchor @ views[other][i] / temperature
            rivals = [anchor @ row / temperature for row in views[other]]
            if negatives == "both":
                rivals += [anchor @ row / temperature for j, row in enumerate(views[view]) if j != i]
            losses.append(math.log(sum(math.exp(rival) for rival in rivals)) - positive)
    return float(np.mean(losses))


def views(batch: int = 8) -> tuple[Tensor, Tensor]:
    view1, view2 = torch.rand(2, batch, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    return view1, view2


def simclr() -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(SmallConvNet(1, (4, 8)), projector=(16, 6), temperature=0.3)


def byol(momentum: float = 0.9) -> BYOL:
    torch.manual_seed(0)
    return BYOL(SmallConvNet(1, (4, 8)), projector=(16, 6), predictor=(12, 6), momentum=momentum)


@pytest.mark.parametrize("negatives", ["both", "across"])
@given(st.integers(2, 7), st.floats(0.05, 3), st.integers(0, 99))
def test_infonce_equals_the_slow_twin(negatives, batch, temperature, seed):
    z1, z2 = pair(batch, seed=seed)
    ours = infonce_loss(z1, z2, temperature=temperature, negatives=negatives)
    assert float(ours) == pytest.approx(slow_infonce(z1.numpy(), z2.numpy(), temperature, negatives), rel=1e-10)


@pytest.mark.parametrize("negatives", ["both", "across"])
def test_infonce_gradient_reaches_both_views(negatives):
    z1, z2 = (z.requires_grad_() for z in pair())
    assert torch.autograd.gradcheck(lambda a, b: infonce_loss(a, b, temperature=0.4, negatives=negatives), (z1, z2))
    infonce_loss(z1, z2, temperature=0.4, negatives=negatives).backward()
    assert z1.grad is not None
    assert z1.grad.abs().sum() > 0
    assert z2.grad is not None
    assert z2.grad.abs().sum() > 0


@pytest.mark.parametrize(("negatives", "rivals"), [("both", 2 * 5 - 2), ("across", 4)])
def test_infonce_in_closed_form(negatives, rivals):
    """Orthogonal images with equal views; and all rows equal."""
    z = torch.eye(5, dtype=torch.float64)
    expected = math.log(math.exp(1 / 0.2) + rivals) - 1 / 0.2
    assert float(infonce_loss(z, z, temperature=0.2, negatives=negatives)) == pytest.approx(expected)
    same = torch.ones(5, 3, dtype=torch.float64)
    assert float(infonce_loss(same, same, temperature=0.2, negatives=negatives)) == pytest.approx(math.log(rivals + 1))


@given(st.floats(0.1, 10), st.permutations(range(6)))
def test_infonce_symmetries(scale, order):
    z1, z2 = pair()
    value = infonce_loss(z1, z2, temperature=0.3)
    torch.testing.assert_close(infonce_loss(z2, z1, temperature=0.3), value)
    torch.testing.assert_close(infonce_loss(scale * z1, z2, temperature=0.3), value)
    torch.testing.assert_close(infonce_loss(z1[list(order)], z2[list(order)], temperature=0.3), value)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    torch.testing.assert_close(infonce_loss(z1 @ rotation, z2 @ rotation, temperature=0.3), value)


def test_infonce_survives_low_temperatures_and_bfloat16():
    z1, z2 = (z.float() for z in pair())
    assert infonce_loss(z1, z2, temperature=1e-3).isfinite()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(infonce_loss(z1, z2, temperature=0.1), infonce_loss(z1, z2, temperature=0.1))
        inside = infonce_loss(z1, z2, temperature=0.1)
    torch.testing.assert_close(inside, infonce_loss(z1, z2, temperature=0.1), rtol=1e-6, atol=1e-6)


@given(st.integers(1, 6), st.integers(0, 99))
def test_byol_is_the_squared_distance_of_unit_rows_and_lightlys_cosine(batch, seed):
    q, k = pair(batch, seed=seed)
    a, b = (z.numpy() / np.linalg.norm(z.numpy(), axis=1, keepdims=True) for z in (q, k))
    value = float(byol_loss(q, k))
    assert value == pytest.approx(((a - b) ** 2).sum(1).mean(), rel=1e-10)
    negative_cosine = -torch.nn.functional.cosine_similarity(q, k).mean()
    assert value == pytest.approx(2 + 2 * float(negative_cosine), rel=1e-10)


def test_byol_gradient_stops_at_the_target():
    q, k = (z.requires_grad_() for z in pair())
    byol_loss(q, k).backward()
    assert k.grad is None
    assert q.grad is not None
    assert q.grad.abs().sum() > 0
    model = byol()
    model(*views()).loss.backward()
    assert all(parameter.grad is None for parameter in model.target.parameters())
    # The backbone has the gradient of both directions through the predictor.
    assert all(parameter.grad is not None for parameter in model.online.parameters())
    assert all(parameter.grad is not None for parameter in model.predictor.parameters())


def test_byol_forward_is_both_directions_written_out():
    model, (view1, view2) = byol(), views()
    with torch.no_grad():
        for parameter in model.target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    twin = copy.deepcopy(model)
    output = model(view1, view2)
    heads = {}
    for name, network in (("online", twin.online), ("target", twin.target.module)):
        for number, view in ((1, view1), (2, view2)):
            heads[name, number] = network["projector"](network["backbone"](view))
    q1, q2 = (unit_rows(twin.predictor(heads["online", number])) for number in (1, 2))
    k1, k2 = (unit_rows(heads["target", number]) for number in (1, 2))
    expected = ((q1 - k2) ** 2).sum(1).mean() + ((q2 - k1) ** 2).sum(1).mean()
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.z1, q1)
    torch.testing.assert_close(model(view2, view1).loss, expected)


def test_simclr_forward_passes_views_apart():
    model, (view1, view2) = simclr(), views()
    twin = copy.deepcopy(model)
    z1 = twin.projector(twin.backbone(view1))
    z2 = twin.projector(twin.backbone(view2))
    torch.testing.assert_close(model(view1, view2).loss, infonce_loss(z1, z2, temperature=0.3))
    together = twin.projector(twin.backbone(torch.cat([view1, view2 * 0.2])))
    apart = torch.cat([twin.projector(twin.backbone(view1)), twin.projector(twin.backbone(view2 * 0.2))])
    assert not torch.allclose(together, apart, atol=1e-2)


@pytest.mark.parametrize("make", [simclr, byol])
def test_forward_moves_nothing_but_batch_norm(make):
    model = make()
    before = copy.deepcopy(model.state_dict())
    model.before_step(0.3)
    model(*views())
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != name.endswith(statistics), name


def test_byol_target_follows_the_moved_weights_after_the_step():
    model = byol(momentum=0.9)
    start = copy.deepcopy(model.target.module)
    output = model(*views())
    output.loss.backward()
    torch.optim.SGD(model.online.parameters(), lr=1.0).step()
    model.after_step(output, 0.25)
    m = 1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2
    for ours, old, new in zip(model.target.parameters(), start.parameters(), model.online.parameters(), strict=True):
        torch.testing.assert_close(ours, m * old + (1 - m) * new.detach())
    assert any(not torch.equal(a, b) for a, b in zip(model.target.parameters(), start.parameters(), strict=True))


def test_byol_targets_statistics_are_its_own():
    model, (view1, view2) = byol(), views()
    model(view1, view2)
    ours, theirs = model.target.module["projector"][1], model.online["projector"][1]
    assert ours.num_batches_tracked == theirs.num_batches_tracked == 2
    model.online["backbone"](view1)
    model.after_step(None, 0.0)
    assert model.target.module["backbone"].blocks[0][1].num_batches_tracked == 2


def test_momentum_schedule():
    values = [cosine_momentum(0.99, step / 100) for step in range(101)]
    assert values[0] == pytest.approx(0.99)
    assert values[50] == pytest.approx(0.995)
    assert values[100] == 1
    assert all(before < after for before, after in pairwise(values))


@pytest.mark.parametrize("make", [simclr, byol])
def test_embed_is_the_backbone_in_any_mode(make):
    model, (view1, _) = make().eval(), views()
    backbone = model.backbone if isinstance(model, SimCLR) else model.online["backbone"]
    assert torch.equal(model.embed(view1), backbone(view1))
    assert model.embed(view1).shape == (8, 8)


@pytest.mark.parametrize("make", [simclr, byol])
def test_bfloat16(make):
    """The loss is float32's but for the networks' own rounding, and there is a gradient."""
    expected = make()(*views()).loss
    with torch.autocast("cpu", torch.bfloat16):
        output = make()(*views())
    assert output.loss.dtype == output.z1.dtype == torch.float32
    torch.testing.assert_close(output.z1.norm(dim=1), torch.ones(8), rtol=0, atol=1e-6)
    torch.testing.assert_close(output.loss, expected, rtol=0.02, atol=0.02)


def test_timm_names():
    pytest.importorskip("timm")
    model = SimCLR("resnet10t", projector=(8,))
    assert model.embed(torch.rand(2, 3, 32, 32)).shape == (2, 512)


@pytest.mark.parametrize(("make", "match"), [
    (lambda: infonce_loss(*pair(1), temperature=0.1), "at least 2"),
    (lambda: infonce_loss(torch.rand(3, 2), torch.rand(3, 4), temperature=0.1), "z1, z2"),
    (lambda: infonce_loss(*pair(), temperature=0.0), "temperature"),
    (lambda: infonce_loss(*pair(), temperature=1.0, negatives="all"), "negatives"),  # pyright: ignore
    (lambda: byol_loss(torch.rand(3, 2), torch.rand(3, 4)), "q, k"),
    (lambda: SimCLR(torch.nn.Flatten()), "feature_dim: Flatten has no num_features"),
    (lambda: SimCLR(3), "backbone: expected a module"),  # pyright: ignore
    (lambda: SimCLR(SmallConvNet(1), temperature=-1), "temperature"),
    (lambda: BYOL(SmallConvNet(1), momentum=1.5), "momentum"),
    (lambda: BYOL(SmallConvNet(1), projector=(8, 4), predictor=(8, 5)), "predictor"),
    (lambda: simclr()(torch.rand(4, 1, 12, 12), torch.rand(3, 1, 12, 12)), "view2: expected the shape of view1"),
    (lambda: SimCLR(torch.nn.Identity(), feature_dim=4).embed(torch.rand(2, 1, 2, 2)), "backbone: output must be"),
])  # fmt: skip
def test_bad_input_is_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()
