"""The benchmark compares equals, and the loss's cost grows as promised, counted in operations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from paperworks.lab import bench as lab
from paperworks.nn.macs import count_macs
from paperworks.representation.ssl_hsic import bench
from paperworks.representation.ssl_hsic.features import FourierFeatures
from paperworks.representation.ssl_hsic.loss import ssl_hsic_loss
from paperworks.testing.cost import cost_exponent, peak_bytes


def unit(*shape):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_quick_workloads_agree_with_their_peers():
    rows = list(lab.measure(bench.workloads(quick=True), rounds=1))
    assert [row.status for row in rows] == ["measured"] * len(rows)


def test_every_promised_row_has_a_target_and_a_way_to_disagree():
    found = bench.workloads()
    assert sum(row.target is not None for row in found) >= 5
    wrong = (torch.tensor(2.0), torch.ones(3))
    assert "loss" in bench._agree(wrong, (torch.tensor(1.0), torch.ones(3)), tolerance=1e-3)
    assert "gradient" in bench._agree(wrong, (torch.tensor(2.0), -torch.ones(3)), tolerance=1e-3)


def test_the_peers_are_the_loss_in_other_forms():
    z = unit(4, 32, 16).double()
    draws = tuple(draw.__class__(*(part.double() for part in draw)) for draw in bench._draws(16, "phase"))
    ours = ssl_hsic_loss(z, gamma=2.0, c=0.8, estimator="features", draws=draws).loss
    assert float(bench.view_by_view(list(z), 2.0, 0.8, draws)) == pytest.approx(float(ours), abs=1e-10)
    exact = ssl_hsic_loss(z, gamma=2.0, c=0.8, estimator="exact").loss
    assert float(bench.textbook(z, 2.0, 0.8)) == pytest.approx(float(exact), abs=1e-10)


@pytest.mark.parametrize(("estimator", "low", "high"), [("features", 0.8, 1.2), ("exact", 1.8, 2.2)])
def test_operations_grow_linearly_by_features_and_quadratically_exactly(estimator, low, high):
    """Forward and backward, B = 256 to 4,096; draws are made beforehand, since their cost is the same for any batch."""
    draws = tuple(FourierFeatures(16, 64).draw(generator=torch.Generator().manual_seed(i)) for i in range(2))
    sizes = (256, 512, 1024) if estimator == "exact" else (256, 1024, 4096, 8192)

    def step(batch):
        z = unit(2, batch, 16).requires_grad_()
        ssl_hsic_loss(z, estimator=estimator, draws=draws if estimator == "features" else None).loss.backward()

    costs = [count_macs(step, size).total for size in sizes]
    assert low <= cost_exponent(sizes, costs) <= high
    memory = [peak_bytes(lambda size=size: step(size)) for size in sizes]
    assert low <= cost_exponent(sizes, memory) <= high
    assert np.all(np.diff(costs) > 0)


def test_growth_is_measured_up_to_large_batches():
    features, exact = bench.growth()
    assert (features.sizes[0], features.sizes[-1], features.limit) == (256, 8192, 1.2)
    assert 2 * exact.sizes[-1] == 4096
    bench._growing("features", 16)()
    bench._growing("exact", 16)()
