"""Squashed Gaussians have the densities they claim; twin critics are two critics."""

import math

import pytest
import torch
from torch.distributions import AffineTransform, Independent, Normal, TanhTransform, TransformedDistribution

from paperworks.train.rl import ObservationNormalizer, TanhGaussian, TwinQ


def policy(**options):
    torch.manual_seed(0)
    return TanhGaussian(3, 2, hidden=(8,), seeds=2, low=-1.0, high=3.0, **options).double()


def reference(model, obs):
    mean, log_std = model.gaussian(obs)
    base = Independent(Normal(mean, log_std.exp()), 1)
    return TransformedDistribution(base, [TanhTransform(cache_size=1), AffineTransform(1.0, 2.0)])


def test_densities_are_those_of_the_transformed_distribution():
    model = policy()
    obs = torch.randn(2, 5, 3, dtype=torch.float64)
    action, log_prob = model(obs, generator=torch.Generator().manual_seed(0))
    assert ((action > -1) & (action < 3)).all()
    expected = reference(model, obs).log_prob(action)
    torch.testing.assert_close(log_prob, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(model.log_prob(obs, action), expected, rtol=1e-7, atol=1e-7)


def test_densities_integrate_to_one():
    torch.manual_seed(1)
    model = TanhGaussian(1, 1, hidden=(4,), low=-2.0, high=2.0).double()
    grid = torch.linspace(-2, 2, 40_001, dtype=torch.float64)[1:-1]
    obs = torch.zeros(1, len(grid), 1, dtype=torch.float64)
    mass = model.log_prob(obs, grid[None, :, None]).exp().sum() * (grid[1] - grid[0])
    assert float(mass.detach()) == pytest.approx(1.0, abs=1e-3)


def test_saturated_actions_have_finite_densities_and_gradients():
    model = policy()
    model.network.biases[-1].data[..., :2] = 40.0
    obs = torch.zeros(2, 4, 3, dtype=torch.float64)
    action, log_prob = model(obs)
    assert torch.isfinite(log_prob).all()
    log_prob.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert torch.isfinite(model.log_prob(obs, action)).all()


def test_the_mode_is_the_squashed_mean_and_bounds_clamp_the_spread():
    model = policy(log_std_bounds=(-1.0, -0.5))
    obs = 10 * torch.randn(2, 50, 3, dtype=torch.float64)
    mean, log_std = model.gaussian(obs)
    assert log_std.min() >= -1.0
    assert log_std.max() <= -0.5
    torch.testing.assert_close(model.mode(obs), torch.tanh(mean) * 2 + 1)
    with pytest.raises(ValueError, match="expected low < high"):
        policy(log_std_bounds=(1.0, 0.0))


def test_twin_critics_are_two_networks_a_seed():
    torch.manual_seed(0)
    critic = TwinQ(3, 2, hidden=(8,), seeds=2)
    obs, action = torch.randn(2, 6, 3), torch.randn(2, 6, 2)
    q = critic(obs, action)
    assert q.shape == (2, 2, 6)
    x = torch.cat([obs, action], -1)
    for twin in range(2):
        for seed in range(2):
            row = 2 * twin + seed
            hidden = torch.relu(x[seed] @ critic.network.weights[0][row] + critic.network.biases[0][row])
            expected = (hidden @ critic.network.weights[1][row] + critic.network.biases[1][row]).squeeze(-1)
            torch.testing.assert_close(q[twin, seed], expected)


def test_running_statistics_are_those_of_all_batches_together():
    torch.manual_seed(0)
    parts = [torch.randn(2, size, 3) * 4 + 7 for size in (5, 1, 20)]
    normalizer = ObservationNormalizer(3, seeds=2)
    for part in parts:
        normalizer.update(part)
    together = torch.cat(parts, 1)
    torch.testing.assert_close(normalizer.mean, together.mean(1, keepdim=True))
    torch.testing.assert_close(normalizer.variance, together.var(1, keepdim=True, correction=0), rtol=1e-4, atol=1e-4)
    z = normalizer(together)
    assert z.mean().abs() < 1e-4
    assert z.std(correction=0).item() == pytest.approx(1, abs=1e-2)


def test_fixed_statistics_do_not_move_and_constants_stay_finite():
    normalizer = ObservationNormalizer(2, statistics="fixed", clip=1.5)
    normalizer.set(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 0.0]]))
    assert normalizer(torch.tensor([[[9.0, 2.5]]])).tolist() == [[[1.5, 0.5]]]
    with pytest.raises(ValueError, match="fixed"):
        normalizer.update(torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match="statistics: expected"):
        ObservationNormalizer(2, statistics="moving")
    assert math.isfinite(float(normalizer(torch.zeros(1, 1, 2)).sum()))
