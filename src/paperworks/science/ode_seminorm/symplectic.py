"""A Hamiltonian learned from motion: Symplectic ODE-Net for bodies with angles and forces.

    H(q, p) = p^T M^{-1}(q) p / 2 + V(q)      q' = dH/dp      p' = -dH/dq + g(q) u

The state is what a camera and a tachometer see, `(cos q, sin q, q', u)`, each of `dof` numbers; u stays as it is.

Reference: Y. D. Zhong, B. Dey, A. Chakraborty, Symplectic ODE-Net, ICLR 2020, arXiv 1909.12077.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paperworks.science.ode_seminorm.fields import perceptron

MASS_FLOOR = 0.1


class SymplecticODE(nn.Module):
    """The field `(t, state) -> d state/dt`; use it with `NeuralODE` or `odeint_adjoint`.

    `M^{-1} = L L^T + 0.1 I` with L lower triangular, from four softplus layers; V and g from two layers each. All three
    see q through its cosine and sine. The field differentiates H, so its gradient is of second order.

    Args:
        dof: number of angles, and of forces.
        mass_width, width: hidden layers of M^{-1}, and of V and g.

    Shapes: (batch, 4 dof) -> (batch, 4 dof).
    """

    def __init__(self, dof: int = 2, *, mass_width: int = 400, width: int = 300):
        super().__init__()
        self.dof = dof
        inputs = 2 * dof
        entries = dof * (dof + 1) // 2
        self.mass = perceptron((inputs, *[mass_width] * 3, entries), nn.Softplus)
        self.potential = perceptron((inputs, width, 1), nn.Tanh)
        self.force = perceptron((inputs, width, dof * dof), nn.Tanh)
        self.register_buffer("places", torch.tril_indices(dof, dof), persistent=False)
        self.places: Tensor

    def inverse_mass(self, angles: Tensor) -> Tensor:
        """M^{-1} at (cos q, sin q), (batch, dof, dof): symmetric and positive definite."""
        lower = angles.new_zeros(len(angles), self.dof, self.dof)
        batch = torch.arange(len(angles), device=angles.device)[:, None]
        lower = lower.index_put((batch, self.places[0], self.places[1]), self.mass(angles))
        return lower @ lower.mT + MASS_FLOOR * torch.eye(self.dof, dtype=angles.dtype, device=angles.device)

    def energy(self, state: Tensor) -> Tensor:
        """H of a state, (batch,)."""
        angles, velocity = state[:, : 2 * self.dof], state[:, 2 * self.dof : 3 * self.dof]
        inverse = self.inverse_mass(angles)
        momentum = torch.linalg.solve(inverse, velocity)
        return 0.5 * (momentum * velocity).sum(dim=1) + self.potential(angles)[:, 0]

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            rate = self._rate(state, recorded)
        return rate if recorded else rate.detach()

    def _rate(self, state: Tensor, recorded: bool) -> Tensor:
        if state.ndim != 2 or state.shape[1] != 4 * self.dof:
            raise ValueError(f"state: expected (batch, {4 * self.dof}), got {tuple(state.shape)}")
        angles, velocity, u = state.split([2 * self.dof, self.dof, self.dof], dim=1)
        if not angles.requires_grad:
            angles = angles.detach().requires_grad_()
        cosine, sine = angles.split(self.dof, dim=1)
        inverse = self.inverse_mass(angles)
        momentum = torch.linalg.solve(inverse, velocity)
        # Row i of dM^{-1}/d(angles) at the p of now, which these derivatives must take as given.
        rows = [self._mass_slope(inverse, angles, momentum, row, recorded) for row in range(self.dof)]
        (slope,) = torch.autograd.grad(self.potential(angles).sum(), angles, create_graph=recorded)
        for row, along in enumerate(rows):
            slope = slope + 0.5 * momentum[:, row : row + 1] * along
        by_cosine, by_sine = slope.split(self.dof, dim=1)
        force = torch.bmm(self.force(angles).view(-1, self.dof, self.dof), u[..., None])[..., 0]
        change = sine * by_cosine - cosine * by_sine + force
        turning = torch.cat([-sine * velocity, cosine * velocity], dim=1)
        drift = torch.stack([(along * turning).sum(dim=1) for along in rows], dim=1)
        acceleration = torch.bmm(inverse, change[..., None])[..., 0] + drift
        return torch.cat([turning, acceleration, torch.zeros_like(u)], dim=1)

    @staticmethod
    def _mass_slope(inverse: Tensor, angles: Tensor, momentum: Tensor, row: int, recorded: bool) -> Tensor:
        seed = torch.zeros_like(inverse)
        seed = seed.index_copy(1, torch.tensor([row], device=seed.device), momentum[:, None])
        return torch.autograd.grad(inverse, angles, seed, create_graph=recorded, retain_graph=True)[0]
