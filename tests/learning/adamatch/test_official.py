"""Three steps of SGD against the official code run by its own library; `make_official.py` beside this made the numbers.

Both in float32: batch statistics, two passes, loss, threshold, mask, averages, decay, momentum and schedules at once.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from paperworks.learning import AdaMatch, FixMatch, Rules, mu_schedule, quarter_cosine
from paperworks.train.optim import sgd

STORED = np.load(Path(__file__).with_name("official.npz"))
PROGRESS, RATE, DECAY, KEPT = (0.1, 0.2, 0.3), 0.03, 0.001, 0.9


def network(name):
    layers = [nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4, eps=1e-6, momentum=1 - KEPT)]
    model = nn.Sequential(*layers, nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    before = {key: torch.from_numpy(STORED[f"{name}_before_{key}"].copy()) for key in KEYS}
    assert not model.load_state_dict(before, strict=False).unexpected_keys
    return model.train()


KEYS = ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "5.weight", "5.bias")


@pytest.mark.parametrize("name", ["AdaMatch", "FixMatchDA"])
def test_steps_equal_those_of_the_official_code(name):
    model, step = network(name), iter(range(3))
    rules = Rules(interpolate=lambda alone, together, _: together + (alone - together) * lam[next(step)])
    method = AdaMatch(model, 3, rules=rules) if name == "AdaMatch" else FixMatch(model, 3, threshold=0.9)
    source, target, lam = (torch.from_numpy(STORED[key]) for key in ("source", "target", "lam"))
    labels = torch.from_numpy(STORED["labels"])
    optimiser, factor = sgd(model, lr=RATE, momentum=0.9, weight_decay=DECAY), quarter_cosine(1000)
    counted = []
    for number, progress in enumerate(PROGRESS):
        output = method.training_step(
            (source[number, :, 0], source[number, :, 1], labels[number]),
            (target[number, :, 0], target[number, :, 1]),
            progress=progress,
        )
        supervised, unsupervised, squares, threshold, mask, rate = STORED[f"{name}_monitors"][number]
        assert output.supervised.item() == pytest.approx(supervised, abs=1e-5, rel=1e-5)
        assert output.unsupervised.item() == pytest.approx(unsupervised, abs=1e-5, rel=1e-5)
        assert output.threshold.item() == pytest.approx(threshold, abs=1e-6)
        ours = sum((layer.weight**2).sum().item() for layer in (model[0], model[5])) / 2
        assert ours == pytest.approx(squares, rel=1e-5)
        mu = mu_schedule(progress) if name == "AdaMatch" else 1.0
        assert output.loss.item() == pytest.approx(supervised + mu * unsupervised, abs=1e-5, rel=1e-5)
        if name == "AdaMatch":
            assert output.mask.float().mean().item() == pytest.approx(mask)
        counted.append(mask)
        for group in optimiser.param_groups:
            group["lr"] = RATE * factor(round(1000 * progress))
        assert optimiser.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-5)
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
    assert any(0 < mask < 1 for mask in counted)
    for key in KEYS:
        expected = torch.from_numpy(STORED[f"{name}_after_{key}"])
        if key == "1.running_var":
            # torch takes in unbiased variances; the first value fades as it does there.
            values, first = 32 * 3 * 3, KEPT**3
            expected = first + (expected - first) * values / (values - 1)
        torch.testing.assert_close(model.state_dict()[key], expected, rtol=0, atol=1e-5, msg=lambda m, key=key: key + m)
    averages = method.averages
    np.testing.assert_allclose(averages.source.numpy(), STORED[f"{name}_source_mean"], atol=1e-6)
    np.testing.assert_allclose(averages.target.numpy(), STORED[f"{name}_target_mean"], atol=1e-6)
