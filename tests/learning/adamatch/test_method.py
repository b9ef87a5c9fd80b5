"""The two passes, running statistics and steps of SGD against plain functional code; the settings; the baselines."""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paperworks.learning import AdaMatch, FixMatch, Rules, SourceOnly, cnn5, mu_schedule, wide_resnet
from paperworks.learning.adamatch.method import has_batch_norm, interleave
from paperworks.train import frozen_batch_statistics

_spec = importlib.util.spec_from_file_location("adamatch_twin", Path(__file__).with_name("twin.py"))
assert _spec is not None
assert _spec.loader is not None
twin = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(twin)
CLASSES = 3


def net(seed=0) -> Any:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4, momentum=0.1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)).double()


def views(count, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(shift + torch.rand(count, 1, 7, 7, generator=generator, dtype=torch.float64) for _ in range(2))


def labels_of(count, seed):
    return torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(seed))


def forward(weights, images, running=None):
    """The small net by formulas: batch statistics always; the running ones, if given, take in this batch."""
    x = F.conv2d(images, weights["0.weight"], stride=2)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    if running is not None:
        count = x.numel() / x.shape[1]
        running["mean"] = 0.9 * running["mean"] + 0.1 * mean.detach()
        running["var"] = 0.9 * running["var"] + 0.1 * variance.detach() * count / (count - 1)
    x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    x = F.leaky_relu(x * weights["1.weight"][:, None, None] + weights["1.bias"][:, None, None], 0.1)
    return x.mean((2, 3)) @ weights["5.weight"].T + weights["5.bias"]


@pytest.mark.parametrize("semi", [False, True])
def test_steps_of_sgd_equal_plain_formulas(semi):
    model = net()
    method = AdaMatch(model, CLASSES)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    weights = {name: item.detach().clone().requires_grad_() for name, item in model.named_parameters()}
    speed = {name: torch.zeros_like(item) for name, item in weights.items()}
    running = {"mean": torch.zeros(4, dtype=torch.float64), "var": torch.ones(4, dtype=torch.float64)}
    averages = twin.Averages(CLASSES)
    for step in range(3):
        source, target, few = views(4, step), views(12, 50 + step, 0.5), views(4, 80 + step, 0.4)
        y, y_few = labels_of(4, step), labels_of(4, 90 + step)
        progress = 0.2 + 0.1 * step
        output = method.training_step(
            (*source, y), target, (*few, y_few) if semi else None, progress=progress,
            generator=torch.Generator().manual_seed(step),
        )  # fmt: skip
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()

        known = torch.cat([interleave(*source), interleave(*few)]) if semi else interleave(*source)
        alone = forward(weights, known)
        together = forward(weights, torch.cat([known, interleave(*target)]), running)
        lam = torch.rand(alone.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        targets = torch.cat([y, y_few]) if semi else y
        expected = twin.loss(
            alone.detach().numpy(), together.detach().numpy(), targets.numpy(), 4, lam.numpy(), averages,
            mu=mu_schedule(progress), tau=0.9,
        )  # fmt: skip
        assert output.loss.item() == pytest.approx(expected["loss"], abs=1e-10)
        assert output.threshold.item() == pytest.approx(expected["threshold"], abs=1e-10)

        mixed = lam * alone + (1 - lam) * together[: len(known)]
        both = [F.cross_entropy(mixed[k::2], targets, reduction="none") for k in (0, 1)]
        supervised = sum((both[0][part].mean() + both[1][part].mean()) / 2 for part in _parts(semi))
        strong = together[len(known) + 1 :: 2]
        guesses, mask = torch.from_numpy(expected["pseudo_labels"]), torch.from_numpy(expected["mask"])
        unsupervised = (F.cross_entropy(strong, guesses, reduction="none") * mask).mean()
        gradients = torch.autograd.grad(supervised + mu_schedule(progress) * unsupervised, list(weights.values()))
        for (name, item), gradient in zip(weights.items(), gradients, strict=True):
            speed[name] = 0.9 * speed[name] + gradient
            item.data -= 0.1 * speed[name]
        for name, item in model.named_parameters():
            torch.testing.assert_close(item.data, weights[name].data, rtol=0, atol=1e-10)
        torch.testing.assert_close(model[1].running_mean, running["mean"], rtol=0, atol=1e-12)
        torch.testing.assert_close(model[1].running_var, running["var"], rtol=0, atol=1e-12)
    assert model[1].num_batches_tracked == 3


def _parts(semi):
    return (slice(0, 4), slice(4, 8)) if semi else (slice(0, 4),)


def test_the_first_pass_uses_its_own_batch_statistics():
    """Where the target shifts the joint statistics, logits alone and together differ; running statistics do neither."""
    model = net()
    method = AdaMatch(model, CLASSES, rules=Rules(interpolate=lambda alone, together, g: alone))
    source, target, y = views(4, 0), views(12, 1, 5.0), labels_of(4, 0)
    loss = method.training_step((*source, y), target, progress=0.0).supervised
    reference = net()
    logits = reference(interleave(*source))
    expected = (F.cross_entropy(logits[::2], y) + F.cross_entropy(logits[1::2], y)) / 2
    torch.testing.assert_close(loss, expected)
    wrong = AdaMatch(net(), CLASSES, first_pass="running", rules=Rules(interpolate=lambda alone, together, g: alone))
    assert abs(wrong.training_step((*source, y), target, progress=0.0).supervised - expected) > 1e-3


def test_gradient_reaches_weak_target_images_through_the_batch_statistics():
    method, (weak, strong) = AdaMatch(net(), CLASSES), views(12, 1, 1.0)
    weak.requires_grad_()
    output = method.training_step((*views(4, 0), labels_of(4, 0)), (weak, strong), progress=0.5)
    (gradient,) = torch.autograd.grad(output.loss, weak)
    assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize(
    "build", [cnn5, lambda classes, channels: wide_resnet(classes, channels=1, repeat=1, widths=4)]
)
def test_a_shared_stem_gives_what_two_whole_passes_give(build):
    torch.manual_seed(0)
    model = build(CLASSES, channels=1).double()
    plain = copy.deepcopy(model)
    method = AdaMatch(model, CLASSES)
    images = torch.rand(20, 1, 16, 16, dtype=torch.float64)
    alone, together = method._two_passes(images, 8)
    with frozen_batch_statistics(plain):
        torch.testing.assert_close(alone, plain(images[:8]))
    torch.testing.assert_close(together, plain(images))
    for (name, ours), theirs in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_sizes_of_the_networks():
    assert sum(item.numel() for item in cnn5(10).parameters()) == pytest.approx(70_000, rel=0.02)
    assert sum(item.numel() for item in wide_resnet(10).parameters()) == pytest.approx(1.47e6, rel=0.01)
    for model, side in ((wide_resnet(4, stages=4, repeat=1, widths=4), 64), (cnn5(4, channels=3), 32)):
        assert model(torch.rand(2, 3, side, side)).shape == (2, 4)
        assert model.features(torch.rand(2, 3, side, side)).shape == (2, model.num_features)


# Baselines -----------------------------------------------------------------------------------------------------------


def test_fixmatch_by_formulas():
    model, source, target, y = net(), views(4, 0), views(12, 1, 0.3), labels_of(4, 0)
    # Surer predictions, so that some masks open and some do not.
    model[5].weight.data *= 20
    reference = copy.deepcopy(model)
    output = FixMatch(model, CLASSES, threshold=0.9).training_step((*source, y), target, progress=0.0)
    logits = reference(torch.cat([interleave(*source), interleave(*target)])).detach()
    weak, strong = logits[::2].numpy(), logits[1::2].numpy()
    law = 0.999 / 3 + 0.001 * np.bincount(y, minlength=CLASSES) / 4
    means = twin.Averages(CLASSES).update(np.bincount(y, minlength=CLASSES) / 4, twin.softmax(weak).mean(0))
    np.testing.assert_allclose(means[0], law)
    aligned = twin.pseudo_labels(weak, *means)
    mask, guesses = aligned.max(1) >= 0.9, aligned.argmax(1)
    # Over labelled and unlabelled images, without a warm-up; the strong labelled view has no label.
    expected = twin.cross_entropy(weak[:4], y).mean() + (mask * twin.cross_entropy(strong, guesses)).sum() / 16
    assert output.loss.item() == pytest.approx(expected, abs=1e-6)
    assert 0 < mask.sum() < 16
    assert output.mask.tolist() == mask[4:].tolist()


def test_fixmatch_takes_labelled_target_images_as_labelled_images_like_others():
    """One mean over both, and frequencies over both; AdaMatch keeps them apart."""
    model, source, target, few = net(), views(4, 0), views(12, 1), views(4, 2)
    y, y_few = torch.tensor([0, 0, 0, 1]), torch.tensor([2, 2, 1, 1])
    reference, method = copy.deepcopy(model), FixMatch(model, CLASSES)
    output = method.training_step((*source, y), target, (*few, y_few), progress=0.0)
    logits = reference(torch.cat([interleave(*pair) for pair in (source, few, target)]))
    torch.testing.assert_close(output.supervised, F.cross_entropy(logits[:16:2], torch.cat([y, y_few])))
    law = 0.999 / 3 + 0.001 * torch.tensor([3.0, 3.0, 2.0]) / 8
    torch.testing.assert_close(method.averages.source, law)
    assert output.mask.shape == (12,)


def test_source_only_learns_from_both_views_and_lets_the_target_pass_batch_norm():
    model, source, target, y = net(), views(4, 0), views(12, 1, 2.0), labels_of(4, 0)
    reference = copy.deepcopy(model)
    output = SourceOnly(model, CLASSES).training_step((*source, y), target, progress=0.5)
    logits = reference(torch.cat([interleave(*source), interleave(*target)]))[:8]
    torch.testing.assert_close(output.loss, (F.cross_entropy(logits[::2], y) + F.cross_entropy(logits[1::2], y)) / 2)
    torch.testing.assert_close(model[1].running_mean, reference[1].running_mean)
    assert not output.mask.any()
    few, y_few = views(4, 2), labels_of(4, 2)
    output = SourceOnly(net(), CLASSES).training_step((*source, y), target, (*few, y_few), progress=0.5)
    known = net()(torch.cat([interleave(*pair) for pair in (source, few, target)]))[:16]
    both = torch.cat([y, y_few])
    torch.testing.assert_close(
        output.loss, (F.cross_entropy(known[::2], both) + F.cross_entropy(known[1::2], both)) / 2
    )


# Backbones -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_timm_models_keep_the_combined_statistics(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES, in_chans=1, drop_rate=0.0).train()
    plain = copy.deepcopy(model)
    method = AdaMatch(model, CLASSES)
    images = torch.rand(10, 1, 32, 32)
    method._two_passes(images, 4)
    plain(images)
    for (key, ours), theirs in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=key)


def test_sync_batch_norm_counts_as_batch_norm_and_is_frozen():
    model: Any = nn.SyncBatchNorm.convert_sync_batchnorm(net())
    assert has_batch_norm(model)
    with frozen_batch_statistics(model):
        assert not model[1].track_running_stats
    assert model[1].track_running_stats


def test_a_model_without_batch_norm_is_warned_about():
    model = nn.Sequential(nn.Flatten(), nn.Linear(49, CLASSES)).double()
    with pytest.warns(UserWarning, match="interpolation does nothing"):
        method = AdaMatch(model, CLASSES)
    outputs = [
        method.training_step((*views(4, 0), labels_of(4, 0)), views(12, 1), progress=0.5).supervised for _ in range(2)
    ]
    torch.testing.assert_close(outputs[0], outputs[1])


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unlabelled": views(11, 1)}, r"unlabelled: expected 3 x 4 images, got 11"),
        ({"unlabelled": (views(12, 1)[0], views(11, 1)[0])}, "unlabelled: expected a weak and a strong view"),
        ({"labelled": (*views(4, 0), labels_of(3, 0))}, "labelled: expected one label for each of 4"),
        ({"labelled": (*views(4, 0), torch.full((4,), 7))}, "class indices below 3"),
        ({"target_labelled": (*views(3, 0), labels_of(3, 0))}, "target_labelled: expected 4 images"),
        ({"progress": 2.0}, "progress"),
        ({"labelled": (*(torch.zeros(4, 1, 7, 7, dtype=torch.uint8),) * 2, labels_of(4, 0))}, "expected floats"),
    ],
)
def test_bad_batches_are_refused(change, message):
    given = {"labelled": (*views(4, 0), labels_of(4, 0)), "unlabelled": views(12, 1), "progress": 0.1}
    with pytest.raises(ValueError, match=message):
        AdaMatch(net(), CLASSES).training_step(**(given | change))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="tau"):
        AdaMatch(net(), CLASSES, tau=0.0)
    with pytest.raises(ValueError, match="n_classes"):
        AdaMatch(net(), 1)
    with pytest.raises(ValueError, match="align_to"):
        AdaMatch(net(), CLASSES, align_to="target")
    with pytest.raises(ValueError, match="first_pass"):
        AdaMatch(net(), CLASSES, first_pass="eval")
    with pytest.raises(ValueError, match="unlabelled_ratio"):
        SourceOnly(net(), CLASSES, unlabelled_ratio=0)
    with pytest.raises(ValueError, match="threshold"):
        FixMatch(net(), CLASSES, threshold=1.5)
    with pytest.raises(ValueError, match="n_classes, channels"):
        cnn5(10, channels=2)
    with pytest.raises(ValueError, match="stages"):
        wide_resnet(10, stages=0)
