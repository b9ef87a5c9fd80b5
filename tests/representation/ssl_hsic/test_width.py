from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperworks.representation.ssl_hsic.kernels import squared_distances
from paperworks.representation.ssl_hsic.width import KernelWidth, slope_objective

OFFICIAL = np.load(Path(__file__).parent / "official.npz")


def batch(rows=64, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator), dim=1)


@pytest.mark.parametrize("count", [2, 4])
def test_objective_and_slope_of_the_official_code(count):
    z = torch.tensor(OFFICIAL[f"z{count}"]).flatten(0, 1)
    c = torch.tensor(0.8, requires_grad=True)
    value = KernelWidth().objective(z, c)
    value.backward()
    assert float(value.detach()) == pytest.approx(float(OFFICIAL[f"width{count}"]), rel=1e-6)
    assert float(c.grad) == pytest.approx(float(OFFICIAL[f"width_slope{count}"]), abs=1e-5)


def test_objective_is_the_log_of_the_kernel_s_slope():
    squared = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    k = 0.7 / (0.49 + squared).sqrt()
    (slope,) = torch.autograd.grad(k.sum(), squared)
    assert float(slope_objective(squared.detach(), 0.7)) == pytest.approx(float(slope.abs().log().mean()), abs=1e-12)


def test_one_pair_at_distance_root_two():
    """c = 1 at |z - z'|^2 = 2, were there no pairs of a row with itself: enough rows make those rare."""
    z = torch.eye(400, dtype=torch.float64)
    assert KernelWidth().solve(z) == pytest.approx(1, abs=0.01)


def test_solve_is_the_maximum_and_step_climbs_to_it():
    z = batch()
    width = KernelWidth(lr=0.02)
    best = width.solve(z)
    values = [float(width.objective(z, best * factor)) for factor in (0.97, 1.0, 1.03)]
    assert values[1] == max(values)
    climbing = KernelWidth(init=2.0, lr=0.02)
    for _ in range(400):
        climbing.step(z)
    assert float(climbing.width) == pytest.approx(best, rel=0.01)
    condition = 3 * best**2 / (squared_distances(z, z) + best**2)
    assert float(condition.mean()) == pytest.approx(1, abs=1e-4)


def test_first_step_of_adam_has_the_size_of_the_rate():
    width = KernelWidth(init=2.0)
    assert width.step(batch()) == pytest.approx(2.0 - 3e-4, abs=1e-6)


def test_identical_pairs_leave_no_optimum():
    z = torch.ones(6, 3)
    width = KernelWidth()
    with pytest.warns(UserWarning, match="a third or more of the pairs are identical"):
        assert width.solve(z) == pytest.approx(1e-3)


def test_the_main_optimiser_cannot_reach_it():
    model = nn.Sequential(nn.Linear(2, 2), KernelWidth())
    assert len(list(model.parameters())) == 2
    other = nn.Sequential(nn.Linear(2, 2), KernelWidth(init=3.0))
    other[1].step(batch())
    model.load_state_dict(other.state_dict())
    assert model[1].step(batch()) == other[1].step(batch())


def test_large_batches_are_sampled():
    z = batch(rows=3000)
    exact = slope_objective(squared_distances(z, z), 1.0)
    sampled = KernelWidth().objective(z, 1.0, generator=torch.Generator().manual_seed(0))
    assert float(sampled) == pytest.approx(float(exact), abs=0.01)
    assert float(sampled) != float(exact)


def test_bad_arguments():
    with pytest.raises(ValueError, match="init, lr: must be positive"):
        KernelWidth(init=0.0)
