"""The common way of training: what decides it, what does not, the averaged network, and two processes."""

import copy
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing, nn

from paperworks.learning import AdaMatch, FixMatch, Rules, cnn5
from paperworks.learning.adamatch.training import Adapter, EndlessRows, Images, Training, predict, train

SHORT = Training(steps=4, batch=4)


def some_images(seed=0, target_labelled=False):
    rng = torch.Generator().manual_seed(seed)

    def draw(count):
        return torch.randint(256, (count, 1, 16, 16), generator=rng, dtype=torch.uint8)

    return Images(draw(9), torch.arange(9) % 3, draw(30), (draw(3), torch.arange(3)) if target_labelled else None)


def trained(images, *, training=SHORT, seed=11, **options):
    torch.manual_seed(seed)
    return train(AdaMatch(cnn5(3), 3), images, training, seed=seed, **options)


def weights(adapter):
    return torch.cat([item.flatten().double() for item in adapter.state_dict().values()])


def test_same_seed_same_bits_other_seed_other_bits():
    one, two = (trained(some_images())[0] for _ in range(2))
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(trained(some_images(), seed=12)[0]))


def test_the_whole_state_is_finite_and_everything_moves():
    adapter, result = trained(some_images(target_labelled=True))
    assert np.isfinite(result.losses).all()
    assert torch.isfinite(weights(adapter)).all()
    torch.manual_seed(11)
    for name, before in cnn5(3).named_parameters():
        assert not torch.equal(before, adapter.method.model.get_parameter(name)), name
    assert (adapter.augment.table[adapter.augment.valid] < 1).any()


def test_the_averaged_network_follows_by_the_warmed_up_decay_with_its_statistics():
    torch.manual_seed(0)
    method = AdaMatch(cnn5(3), 3)
    adapter = Adapter(method, SHORT, (16, 16), seed=0)
    name = "body.0.0.running_mean"
    expected = method.model.state_dict()[name].clone(), method.model.state_dict()["stem.weight"].clone()
    for step in range(1, 4):
        with torch.no_grad():
            method.model.get_parameter("stem.weight").add_(1.0)
            method.model.get_buffer(name).add_(2.0)
        adapter.made += 1
        adapter.catch_up()
        adapter.catch_up()
        decay = min(0.999, (1 + step) / (10 + step))
        now = method.model.state_dict()
        expected = decay * expected[0] + (1 - decay) * now[name], decay * expected[1] + (1 - decay) * now["stem.weight"]
        averaged = adapter.classifier.state_dict()
        torch.testing.assert_close(averaged[name], expected[0])
        torch.testing.assert_close(averaged["stem.weight"], expected[1])


def test_rate_ends_at_a_quarter_and_only_matrices_decay():
    seen = []
    adapter, _ = trained(some_images(), training=Training(steps=3, batch=2, rate=0.1))
    from paperworks.learning.adamatch.training import _optimizer

    groups = _optimizer(adapter, training=Training()).param_groups
    decayed = {id(item) for group in groups if group["weight_decay"] == 1e-3 for item in group["params"]}
    for module in adapter.method.model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            seen.append(id(module.weight) in decayed)
        elif isinstance(module, nn.BatchNorm2d):
            assert id(module.weight) not in decayed
    assert all(seen)
    assert not {id(item) for item in adapter.twin.parameters()} & {id(i) for group in groups for i in group["params"]}


def test_views_differ_and_the_probe_raises_no_gradient():
    """A strong view equal to the weak one would be no method."""
    torch.manual_seed(0)
    adapter = Adapter(AdaMatch(cnn5(3), 3), SHORT, (16, 16), seed=0)
    images = some_images()
    batch = {"source": images.source[:4], "labels": images.labels[:4], "target": images.target[:12]}
    weak, strong = adapter._views(batch, torch.Generator().manual_seed(0))
    assert weak.shape == strong.shape == (16, 1, 16, 16)
    assert ((weak - strong).abs().flatten(1).max(1).values > 0.1).all()
    # Weak views are shifts: whole pixels of the image, none mirrored.
    pixels = images.source[0].float() / 255
    assert torch.isin(weak[0], pixels).all()
    assert adapter.twin.module.training == adapter.training


def test_watching_and_evaluating_change_nothing():
    plain, _ = trained(some_images())
    steps = []
    watched, result = trained(
        some_images(), watch=lambda step, output, rows: steps.append((step, len(rows), output.mask.shape)),
        evaluation=lambda model: {"mean": predict(model, some_images().target).mean().item()}, every=2,
    )  # fmt: skip
    assert torch.equal(weights(plain), weights(watched))
    assert steps == [(step, 12, (12,)) for step in range(4)]
    assert [item.step for item in result.evaluations] == [2, 4]


def test_endless_rows_go_through_every_epoch_once():
    rows = EndlessRows(5, 3, seed=0)
    drawn = torch.cat([rows(position) for position in range(10)])
    for epoch in range(6):
        assert sorted(drawn[5 * epoch : 5 * epoch + 5].tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(rows(3), EndlessRows(5, 3, seed=0)(3))
    assert len(EndlessRows(2, 7, seed=0)(1)) == 7


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"rate": 0.0}, {"average": 1.0}, {"optimizer": "lion"}, {"batch": 0}]
)
def test_bad_hyperparameters_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Training(**settings)


def test_bad_images_are_refused():
    images = some_images()
    for changed, message in (
        (Images(images.source.float(), images.labels, images.target), "source: expected"),
        (Images(images.source, images.labels, images.target[..., :8]), "target: expected images"),
        (Images(images.source, images.labels + 5, images.target), "labels: expected class indices"),
    ):
        with pytest.raises(ValueError, match=message):
            trained(changed)
    with pytest.raises(ValueError, match="count, size"):
        EndlessRows(0, 3, seed=0)


# Two processes -------------------------------------------------------------------------------------------------------


class Together(torch.autograd.Function):
    """The sum over processes, whose gradient is summed too."""

    @staticmethod
    def forward(ctx, values):
        values = values.clone()
        distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gradient = gradients[0].clone()
        distributed.all_reduce(gradient)
        return gradient


class SyncNorm(nn.BatchNorm2d):
    """Batch norm over all processes; torch's own needs a GPU."""

    def forward(self, input):
        x = input
        count = x.numel() / x.shape[1] * distributed.get_world_size()
        mean = Together.apply(x.sum((0, 2, 3))) / count
        variance = Together.apply(((x - mean[:, None, None]) ** 2).sum((0, 2, 3))) / count
        normal = (x - mean[:, None, None]) / (variance[:, None, None] + self.eps).sqrt()
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


def small_net(norm):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, bias=False), norm(4), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 3)).double()


def halfway(alone, together, generator):
    return (alone + together) / 2


def one_batch():
    generator = torch.Generator().manual_seed(4)
    draw = [torch.rand(count, 1, 7, 7, generator=generator, dtype=torch.float64) for count in (4, 4, 12, 12)]
    return draw[:2], torch.tensor([0, 1, 2, 1]), draw[2:]


def step_on(rank, world, place):
    """This process's part of the batch; the gradients are averaged over processes as DDP does."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    distributed.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=world)
    source, labels, target = one_batch()
    method = AdaMatch(small_net(SyncNorm), 3, rules=Rules(interpolate=halfway))
    part, more = slice(2 * rank, 2 * rank + 2), slice(6 * rank, 6 * rank + 6)
    known = (*(view[part] for view in source), labels[part])
    for _ in range(2):
        method.zero_grad()
        output = method.training_step(known, tuple(view[more] for view in target), progress=0.4)
        output.loss.backward()
    gradients = torch.cat([item.grad.flatten() for item in method.parameters()])
    distributed.all_reduce(gradients)
    if rank == 0:
        torch.save((gradients / world, method.averages.state_dict()), f"{place}/found.pt")
    distributed.destroy_process_group()


def test_two_processes_equal_one_with_the_joint_batch(tmp_path):
    """The threshold is each process's own, as in the paper's code; here all masks are open either way."""
    start: Any = multiprocessing
    start.start_processes(step_on, (2, str(tmp_path)), nprocs=2, start_method="fork")
    gradients, averages = torch.load(tmp_path / "found.pt", weights_only=True)
    source, labels, target = one_batch()
    method = AdaMatch(small_net(nn.BatchNorm2d), 3, rules=Rules(interpolate=halfway))
    for _ in range(2):
        method.zero_grad()
        output = method.training_step((*source, labels), tuple(target), progress=0.4)
        output.loss.backward()
        assert output.mask.all()
    expected = torch.cat([item.grad.flatten() for item in method.parameters()])
    torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-5)
    for name, value in averages.items():
        torch.testing.assert_close(value, method.averages.state_dict()[name], rtol=0, atol=1e-6, msg=name)


def test_fixmatch_trains_by_the_same_way():
    torch.manual_seed(0)
    model: Any = cnn5(3)
    before = copy.deepcopy(model.state_dict())
    _, result = train(FixMatch(model, 3), some_images(), SHORT, seed=0)
    assert result.steps == 4
    assert not torch.equal(before["stem.weight"], model.stem.weight)


@pytest.mark.parametrize("strong", ["simple", "cutout"])
def test_other_strong_views_learn_no_rates(strong):
    images = some_images(target_labelled=True)
    adapter, result = trained(images, training=replace(SHORT, strong=strong))
    assert adapter.augment is None
    assert np.isfinite(result.losses).all()
    batch = {"source": images.source[:4], "target": images.target[:12]}
    weak, shown = adapter._views(batch, torch.Generator().manual_seed(0))
    assert weak.shape == shown.shape == (16, 1, 16, 16)
    assert ((weak - shown).abs().flatten(1).max(1).values > 0.1).all()
    with pytest.raises(ValueError, match="strong: expected one of ctaugment"):
        Training(strong="autoaugment")  # pyright: ignore
