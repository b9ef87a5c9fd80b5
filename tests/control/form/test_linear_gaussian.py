"""The linear-Gaussian oracle: a system whose effect densities and whose divergence are known in closed form."""

# pyright: reportCallIssue=false

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from paperworks.control.form.effect_model import EffectModel
from paperworks.control.form.reward import form_reward
from paperworks.data.trajectories import Trajectories


@dataclass(frozen=True)
class Linear:
    """x' = A x + B a + w, a = K x + e, w ~ N(0, q I), e ~ N(0, s I)."""

    a: np.ndarray
    b: np.ndarray
    k_demo: np.ndarray
    k_imit: np.ndarray
    q: float
    s: float

    @property
    def noise(self):
        return self.s * self.b @ self.b.T + self.q * np.eye(len(self.a))

    def mean(self, gain):
        return self.a + self.b @ gain

    def stationary(self, gain):
        return solve_discrete_lyapunov(self.mean(gain), self.noise)

    def kl(self, *, diagonal=False):
        """Exact KL of the effects a step under the imitator's stationary law, or what a diagonal class finds."""
        metric = np.diag(np.diag(self.noise)) if diagonal else self.noise
        d = self.b @ (self.k_imit - self.k_demo)
        return 0.5 * np.trace(np.linalg.inv(metric) @ d @ self.stationary(self.k_imit) @ d.T)

    def log_density(self, gain, previous, following):
        residual = following - previous @ self.mean(gain).T
        whitened = np.linalg.solve(np.linalg.cholesky(self.noise), residual.reshape(-1, len(self.a)).T)
        determinant = np.linalg.slogdet(2 * np.pi * self.noise)[1]
        return (-0.5 * np.sum(whitened**2, 0) - 0.5 * determinant).reshape(residual.shape[:-1])

    def simulate(self, gain, chains, steps, seed):
        """(chains, steps + 1, d), started from the stationary law; actions are drawn and thrown away."""
        rng = np.random.default_rng(seed)
        d, m = self.b.shape
        x = rng.multivariate_normal(np.zeros(d), self.stationary(gain), size=chains)
        path = [x]
        for _ in range(steps):
            action = x @ gain.T + rng.normal(0, self.s**0.5, (chains, m))
            x = x @ self.a.T + action @ self.b.T + rng.normal(0, self.q**0.5, (chains, d))
            path.append(x)
        return np.stack(path, 1)


def diagonal_system():
    """B picks coordinates, so the effects' noise is diagonal; KL about .1."""
    a = np.array([[0.9, 0.1, 0.0], [-0.1, 0.85, 0.05], [0.0, 0.05, 0.8]])
    b = np.eye(3)[:, :2] * 0.5
    # The imitator stays where the demonstrator goes: what a network says elsewhere is no matter of algebra.
    demo, imit = np.array([[-0.2, 0.25, 0.05], [0.1, -0.1, 0.1]]), np.array([[-0.5, 0.05, 0.0], [0.0, -0.4, 0.2]])
    return Linear(a, b, demo, imit, q=0.02, s=0.2)


def correlated_system():
    """One action moves all three observations: the noise is far from diagonal."""
    base = diagonal_system()
    b = np.array([[0.5], [0.4], [-0.6]])
    return Linear(base.a, b, np.array([[-0.2, -0.1, 0.1]]), np.array([[-0.5, 0.0, 0.4]]), q=0.02, s=0.2)


def chain_interval(values):
    """Mean and standard error over chains: steps of one chain are not independent."""
    means = values.mean(1)
    return means.mean(), means.std(ddof=1) / len(means) ** 0.5


class Exact:
    """The system's own density behind the interface of an effect model."""

    def __init__(self, system, gain, statistics):
        self.system, self.gain, self.statistics = system, gain, statistics

    def log_prob(self, x_prev, x):
        return torch.from_numpy(self.system.log_density(self.gain, x_prev.numpy(), x.numpy()))


@pytest.mark.parametrize("build", [diagonal_system, correlated_system])
def test_the_mean_reward_of_exact_densities_is_minus_the_divergence(build):
    system = build()
    path = torch.from_numpy(system.simulate(system.k_imit, chains=1000, steps=200, seed=0))
    shared = object()
    demo, imit = Exact(system, system.k_demo, shared), Exact(system, system.k_imit, shared)
    reward = form_reward(demo, imit, path[:, :-1], path[:, 1:], clip=float("inf"), scale=1.0).numpy()
    mean, error = chain_interval(reward)
    assert abs(mean + system.kl()) < 3 * error
    assert error < 0.03 * system.kl()


def fitted_divergence(system, *, chains=500, epochs=10, **options):
    """-E[r] of fitted models on fresh imitator data."""
    torch.manual_seed(0)
    models = []
    for gain, seed in ((system.k_demo, 1), (system.k_imit, 2)):
        data = Trajectories.from_arrays(system.simulate(gain, chains=chains, steps=200, seed=seed))
        model = EffectModel(3, noise=0.0, **options)
        if models:
            model.set_statistics(models[0].statistics)
        model.fit(data, epochs=epochs, lr=5e-3, batch=1000, generator=torch.Generator().manual_seed(seed))
        models.append(model)
    path = torch.from_numpy(system.simulate(system.k_imit, chains=1000, steps=400, seed=3)).float()
    flat = path[:, :-1].reshape(-1, 3), path[:, 1:].reshape(-1, 3)
    return -float(form_reward(*models, *flat, clip=float("inf"), scale=1.0).double().mean())


def test_fitted_models_find_the_divergence():
    system = diagonal_system()
    assert fitted_divergence(system, hidden=(32,)) == pytest.approx(system.kl(), rel=0.05)


def test_a_diagonal_class_counts_correlated_noise_twice_and_the_full_one_does_not():
    system = correlated_system()
    wrong, exact = system.kl(diagonal=True), system.kl()
    assert wrong > 2 * exact
    diagonal = fitted_divergence(system, hidden=(32,), components=1)
    assert diagonal == pytest.approx(wrong, rel=0.06)
    full = fitted_divergence(system, hidden=(32,), components=1, covariance="full")
    assert full == pytest.approx(exact, rel=0.05)


def test_climbing_the_reward_drives_the_policy_to_the_demonstrator_s():
    """The gradient through r goes to the actions alone: the imitator's density is that of the moment, held fixed."""
    system = diagonal_system()
    gain = torch.from_numpy(system.k_imit.copy()).requires_grad_()
    a, b, target = (torch.from_numpy(part) for part in (system.a, system.b, system.k_demo))
    inverse = torch.linalg.inv(torch.from_numpy(system.noise))
    optimizer = torch.optim.Adam([gain], lr=0.02)
    generator = torch.Generator().manual_seed(0)
    start = torch.from_numpy(system.simulate(system.k_demo, chains=400, steps=1, seed=5)[:, 0])

    def log_density(k, x, y):
        residual = y - x @ (a + b @ k).T
        return -0.5 * torch.einsum("ni,ij,nj->n", residual, inverse, residual)

    first = float((gain - target).detach().norm())
    for _ in range(150):
        x, reward = start, torch.zeros(())
        fixed = gain.detach().clone()
        for _ in range(5):
            action = x @ gain.T + system.s**0.5 * torch.randn(len(x), 2, dtype=x.dtype, generator=generator)
            y = x @ a.T + action @ b.T + system.q**0.5 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
            reward = reward + (log_density(target, x, y) - log_density(fixed, x, y)).mean()
            x = y
        optimizer.zero_grad()
        (-reward).backward()
        optimizer.step()
    assert float((gain - target).detach().norm()) < 0.1 * first
