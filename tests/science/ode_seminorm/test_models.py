"""Paths, controlled equations, flows and the acrobot against analytic cases and slow twins."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.science import CNF, HermitePath, LinearPath, NeuralCDE, NeuralODE, Solver, SymplecticODE
from paperworks.science.ode_seminorm import acrobot
from paperworks.science.ode_seminorm.paths import through_data
from paperworks.science.ode_seminorm.tasks import energy_drift

TIGHT = Solver(rtol=1e-8, atol=1e-9)


def integrate(path, low, high, pieces=4000):
    """int X'(t) dt by the midpoint rule, exact enough for cubics."""
    edges = torch.linspace(low, high, pieces + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    return sum(path.derivative(t) for t in middles) * (high - low) / pieces


@pytest.mark.parametrize("kind", [LinearPath, HermitePath])
def test_paths_go_through_their_knots(kind):
    knots = torch.tensor([0.0, 0.7, 1.0, 2.5])
    x = torch.randn(2, 4, 3)
    path = kind(x, knots)
    for i in range(3):
        low, high = float(knots[i]), float(knots[i + 1])
        torch.testing.assert_close(integrate(path, low, high, 40), x[:, i + 1] - x[:, i], rtol=1e-3, atol=1e-3)


def test_a_linear_path_jumps_at_its_inner_knots_and_a_hermite_path_does_not():
    knots, x = torch.tensor([0.0, 1.0, 2.0, 4.0]), torch.randn(2, 4, 3)
    linear, hermite = LinearPath(x, knots), HermitePath(x, knots)
    assert linear.jumps == [1.0, 2.0]
    assert list(hermite.jumps) == []
    for knot in (1.0, 2.0):
        before, after = torch.tensor(knot - 1e-9), torch.tensor(knot + 1e-9)
        assert float((linear.derivative(before) - linear.derivative(after)).abs().max()) > 1e-2
        torch.testing.assert_close(hermite.derivative(before), hermite.derivative(after), rtol=1e-6, atol=1e-7)
    # Backward differences: the slope at a knot is that of the piece before it.
    torch.testing.assert_close(hermite.derivative(torch.tensor(2.0)), x[:, 2] - x[:, 1])
    torch.testing.assert_close(linear.derivative(torch.tensor(1.0)), x[:, 2] - x[:, 1])


@given(
    st.lists(st.booleans(), min_size=3, max_size=7).filter(lambda m: any(m)),
    st.integers(0, 10_000),
)  # fmt: skip
@settings(max_examples=30)
def test_unobserved_values_lie_on_the_line_between_their_neighbours(observed, seed):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.2, 2, size=len(observed)))
    values = rng.normal(size=len(observed))
    mask = np.array(observed)
    hidden = np.where(mask, values, 1e6)
    filled, _ = through_data(
        torch.tensor(hidden).view(1, -1, 1), torch.tensor(times).view(1, -1), torch.tensor(mask).view(1, -1)
    )
    # np.interp holds the ends, as a path does that stands still there.
    seen = np.flatnonzero(mask)
    inside = np.clip(times, times[seen[0]], times[seen[-1]])
    assert filled[0, :, 0].numpy() == pytest.approx(inside)
    assert filled[0, :, 1].numpy() == pytest.approx(np.interp(times, times[mask], values[mask]))


def model(**more):
    torch.manual_seed(0)
    made = NeuralCDE(2, 6, 3, width=8, depth=2, solver=TIGHT, **more)
    # Smooth, so that the tolerance can be met cheaply.
    made.field.net[1] = torch.nn.Tanh()
    made.field.net[3] = torch.nn.Tanh()
    return made


def euler_twin(cde, x, times, steps=4000):
    """z <- z + f(z) dX along the polygon, one series, the midpoint rule within each piece."""
    path = torch.cat([times[:, None], x], dim=1)
    z = cde.initial(path[:1])
    for start, end in itertools.pairwise(path):
        dx = (end - start) / steps
        for _ in range(steps):
            half = z + 0.5 * (cde.field(z) @ dx)
            z = z + cde.field(half) @ dx
    return cde.readout(z)[0]


@torch.no_grad()
def test_a_neural_cde_is_its_slow_twin():
    cde, x, times = model(), 0.5 * torch.randn(2, 5, 2), torch.tensor([0.0, 0.5, 1.1, 2.0, 2.2])
    for row in range(2):
        torch.testing.assert_close(cde(x, times)[row], euler_twin(cde, x[row], times, 60), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("interpolation", ["linear", "hermite"])
def test_padding_and_unobserved_values_do_not_matter(interpolation):
    cde, x = model(interpolation=interpolation), torch.randn(3, 6, 2)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1, 4:] = False
    other = torch.where(mask[..., None], x, torch.full_like(x, 99.0))
    torch.testing.assert_close(cde(x, mask=mask), cde(other, mask=mask))
    alone = cde(x[1:2, :4])
    # A cubic remembers the slope before the end; only straight lines stop dead there.
    if interpolation == "linear":
        torch.testing.assert_close(cde(x, mask=mask)[1:2], alone, rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_a_point_on_the_line_changes_nothing_however_its_time_is_given():
    cde = model()
    x, times = torch.randn(2, 3, 2), torch.tensor([0.0, 1.0, 3.0])
    more = torch.stack([x[:, 0], x[:, 1], (x[:, 1] + x[:, 2]) / 2, x[:, 2]], dim=1)
    longer = torch.tensor([0.0, 1.0, 2.0, 3.0])
    shared = cde(x, times)
    torch.testing.assert_close(cde(more, longer), shared, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(cde(x, times.expand(2, 3)), shared, rtol=1e-6, atol=1e-6)
    dropped = torch.tensor([[True, True, False, True]] * 2)
    torch.testing.assert_close(cde(more + (~dropped)[..., None] * 7.0, longer, dropped), shared, rtol=1e-6, atol=1e-6)


def test_a_cde_s_gradients_are_those_of_back_propagation():
    grads = []
    for gradient in ("adjoint", "direct", "checkpointed"):
        cde, x = model(), torch.linspace(-1, 1, 30).view(3, 5, 2).sin()
        cde.solver = Solver(rtol=1e-8, atol=1e-9, gradient=gradient)
        grads.append(torch.autograd.grad(cde(x).square().sum(), list(cde.parameters())))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grads[2], grads[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 3, 5),), r"x: expected \(batch, length, 2\), got \(2, 3, 5\)"),
        ((torch.ones(2, 1, 2),), "length >= 2"),
        ((torch.ones(2, 3, 2), torch.ones(4)), r"times: expected \(3,\) or \(2, 3\), got \(4,\)"),
        ((torch.ones(2, 3, 2), torch.tensor([0.0, 2.0, 1.0])), "times: series 0, place 2: 1 does not increase"),
        ((torch.ones(2, 3, 2), None, torch.ones(2, 3)), "mask"),
        ((torch.ones(2, 3, 2), None, torch.tensor([[True] * 3, [False] * 3])), "mask: series 1 is observed nowhere"),
    ],
)
def test_series_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        model()(*arguments)


def test_constructors_refuse():
    with pytest.raises(ValueError, match="interpolation: expected linear or hermite, got 'cubic'"):
        NeuralCDE(2, 3, 4, interpolation="cubic")
    with pytest.raises(ValueError, match="knots: expected at least two increasing times"):
        LinearPath(torch.ones(1, 2, 1), torch.tensor([1.0, 1.0]))
    with pytest.raises(ValueError, match=r"x: expected \(batch, 2\)"):
        CNF(2).log_prob(torch.ones(3, 5))
    with pytest.raises(ValueError, match=r"state: expected \(batch, 8\)"):
        SymplecticODE(2)(torch.tensor(0.0), torch.ones(3, 4))


def test_a_neural_ode_is_batch_first():
    field = torch.nn.Module()
    field.rate, field.forward = torch.nn.Parameter(torch.tensor(-1.0)), lambda t, y: field.rate * y
    end = NeuralODE(field, solver=TIGHT)(torch.ones(5, 3))
    assert end.shape == (5, 3)
    torch.testing.assert_close(end, torch.full((5, 3), math.exp(-1)), rtol=1e-6, atol=1e-7)
    path = NeuralODE(field, t=(0.0, 1.0, 2.0), solver=TIGHT)(torch.ones(5, 3))
    assert path.shape == (5, 3, 3)
    torch.testing.assert_close(path[:, 2, 0], torch.full((5,), math.exp(-2)), rtol=1e-6, atol=1e-7)


class Affine(torch.nn.Module):
    """dz/dt = A z + b: the flow of a normal density is a normal density."""

    def __init__(self, dim):
        super().__init__()
        torch.manual_seed(dim)
        self.A, self.b = torch.nn.Parameter(0.4 * torch.randn(dim, dim)), torch.nn.Parameter(torch.randn(dim))

    def forward(self, t, z):
        return z @ self.A.T + self.b

    def density(self, dim):
        """Of z(1) for z(0) ~ N(0, I): mean and covariance from the matrix exponential of the affine system."""
        block = torch.zeros(dim + 1, dim + 1)
        block[:dim, :dim], block[:dim, dim] = self.A, self.b
        flow = torch.matrix_exp(block)
        return torch.distributions.MultivariateNormal(flow[:dim, dim], flow[:dim, :dim] @ flow[:dim, :dim].T)


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_a_linear_flow_has_the_density_of_its_matrix_exponential(dim):
    """Up to 8 dimensions the trace is exact; Hutchinson's estimate has the right mean."""
    field = Affine(dim)
    flow = CNF(dim, field=field, solver=TIGHT)
    x = torch.randn(4, dim)
    truth = field.density(dim).log_prob(x)
    if dim <= 8:
        found = flow.log_prob(x)
        torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-6)
        mine, other = (torch.autograd.grad(value.sum(), [field.A, field.b]) for value in (found, truth))
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    else:
        many = x[:1].expand(4000, dim)
        with torch.no_grad():
            estimate = flow.log_prob(many, generator=torch.Generator().manual_seed(0))
        assert float(estimate.std()) > 0
        assert float((estimate.mean() - truth[0]).abs()) < 4 * float(estimate.std()) / math.sqrt(4000)


def test_samples_have_the_flow_s_moments_and_its_seed():
    field = Affine(2)
    flow = CNF(2, field=field, solver=TIGHT)
    points = flow.sample(20_000, generator=torch.Generator().manual_seed(0))
    truth = field.density(2)
    torch.testing.assert_close(points.mean(0), truth.mean.detach(), rtol=0, atol=0.05)
    torch.testing.assert_close(points.T.cov(), truth.covariance_matrix.detach(), rtol=0.06, atol=0.06)
    assert torch.equal(flow.sample(3, generator=torch.Generator().manual_seed(1)),
                       flow.sample(3, generator=torch.Generator().manual_seed(1)))  # fmt: skip


@torch.no_grad()
def test_a_density_integrates_to_one():
    torch.manual_seed(0)
    flow = CNF(2, width=16, solver=Solver(rtol=1e-5, atol=1e-6))
    side = torch.linspace(-6, 6, 121)
    grid = torch.cartesian_prod(side, side)
    assert float(flow.log_prob(grid).exp().sum() * 0.1**2) == pytest.approx(1.0, abs=2e-3)


# The acrobot ----------------------------------------------------------------------------------------------------


def test_the_simulator_conserves_energy_and_gains_what_the_motors_put_in():
    rng = np.random.default_rng(0)
    q, velocity = rng.uniform(-1, 1, (5, 2)), rng.uniform(-1, 1, (5, 2))
    times = np.linspace(0, 2, 201)
    free = acrobot.simulate(q, velocity, np.zeros((5, 2)), times)
    energy = acrobot.energy(free[..., :2], free[..., 2:])
    assert np.ptp(energy, axis=1).max() < 1e-6
    u = np.tile([[1.0, -2.0]], (5, 1))
    driven = acrobot.simulate(q, velocity, u, times)
    gained = acrobot.energy(driven[:, -1, :2], driven[:, -1, 2:]) - acrobot.energy(q, velocity)
    power = np.einsum("bti,bi->bt", driven[..., 2:], u)
    assert gained == pytest.approx(np.trapezoid(power, times, axis=1), abs=1e-3)


def test_the_simulator_is_lagrange_s_equations():
    """q'' from the kinetic and potential energy by automatic differentiation."""

    def lagrangian(q, v):
        mass, length, centre, inertia, g = 1.0, 1.0, 0.5, 1.0, 9.8
        first = torch.stack([centre * q[0].sin(), -centre * q[0].cos()])
        joint = torch.stack([length * q[0].sin(), -length * q[0].cos()])
        second = joint + torch.stack([centre * (q[0] + q[1]).sin(), -centre * (q[0] + q[1]).cos()])
        speed = [torch.stack([torch.autograd.grad(x, q, create_graph=True, allow_unused=True)[0] @ v for x in point])
                 for point in (first, second)]  # fmt: skip
        kinetic = 0.5 * mass * sum(s @ s for s in speed) + 0.5 * inertia * (v[0] ** 2 + (v[0] + v[1]) ** 2)
        return kinetic - mass * g * (first[1] + second[1])

    q, v = torch.tensor([0.4, -0.9], requires_grad=True), torch.tensor([0.7, -1.3], requires_grad=True)
    u = np.array([0.5, -1.5])
    value = lagrangian(q, v)
    (momentum,) = torch.autograd.grad(value, v, create_graph=True)
    (force,) = torch.autograd.grad(value, q, create_graph=True)
    mass = torch.stack([torch.autograd.grad(p, v, retain_graph=True)[0] for p in momentum])
    along = torch.stack([torch.autograd.grad(p, q, retain_graph=True)[0] @ v for p in momentum])
    truth = torch.linalg.solve(mass, force - along + torch.tensor(u)).detach().numpy()
    assert acrobot.mass_matrix(q.detach().numpy()) == pytest.approx(mass.detach().numpy())
    assert acrobot.acceleration(q.detach().numpy(), v.detach().numpy(), u) == pytest.approx(truth)


def test_windows_are_cut_by_trajectory():
    parts = acrobot.acrobot_windows(trajectories=4, seed=0)
    assert [len(parts[name]) for name in ("train", "dev", "test")] == [25 * 4, 6 * 4, 5 * 4]
    for x in parts.values():
        assert x.shape[1:] == (8, 8)
        assert np.square(x[..., :2]) + np.square(x[..., 2:4]) == pytest.approx(1, abs=1e-5)
        assert (np.ptp(x[..., 6:], axis=1) == 0).all()


def test_the_hamiltonian_field_is_hamilton_s_equations():
    """q'' against a finite difference of M^{-1} p along the motion, p' = -dH/dq + g u by autograd at fixed p."""
    torch.manual_seed(0)
    field = SymplecticODE(2, mass_width=12, width=12)
    q, v, u = torch.randn(3, 2), torch.randn(3, 2), torch.randn(3, 2)

    def angles(q):
        return torch.cat([q.cos(), q.sin()], 1)

    state = torch.cat([angles(q), v, u], 1)
    rate = field(torch.tensor(0.0), state).detach()
    torch.testing.assert_close(rate[:, :4], torch.cat([-q.sin() * v, q.cos() * v], 1))
    assert torch.equal(rate[:, 6:], torch.zeros(3, 2))

    momentum = torch.linalg.solve(field.inverse_mass(angles(q)), v).detach()
    moving = q.clone().requires_grad_()
    inverse = field.inverse_mass(angles(moving))
    energy = 0.5 * (momentum[:, None] @ inverse @ momentum[..., None]).sum() + field.potential(angles(moving)).sum()
    (slope,) = torch.autograd.grad(energy, moving)
    push = (field.force(angles(q)).view(3, 2, 2) @ u[..., None])[..., 0]
    change = (push - slope).detach()
    h = 1e-6
    ahead, behind = (
        (field.inverse_mass(angles(q + s * h * v)) @ (momentum + s * h * change)[..., None])[..., 0] for s in (1, -1)
    )
    torch.testing.assert_close(rate[:, 4:6], ((ahead - behind) / (2 * h)).detach(), rtol=1e-6, atol=1e-7)


def test_the_learned_energy_is_conserved_without_forces():
    torch.manual_seed(0)
    field = SymplecticODE(2, mass_width=12, width=12)
    q = torch.randn(4, 2)
    start = torch.cat([q.cos(), q.sin(), torch.randn(4, 4)], 1)
    assert energy_drift(field, start) < 1e-4
