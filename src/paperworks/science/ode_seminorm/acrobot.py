"""A simulated acrobot: two links under gravity, a motor in each joint. Data for the Hamiltonian experiment.

M(q) q'' + C(q, q') + G(q) = u,  links of length 1, mass 1, centre of mass 1/2, moment of inertia 1, g = 9.8 m/s^2,
q_1 from hanging straight down, q_2 relative to the first link.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# (0, 0), one motor at +-1 and +-2, in N m: the nine controls of the paper.
CONTROLS = (
    (0.0, 0.0),
    (0.0, 1.0),
    (0.0, -1.0),
    (0.0, 2.0),
    (0.0, -2.0),
    (1.0, 0.0),
    (-1.0, 0.0),
    (2.0, 0.0),
    (-2.0, 0.0),
)
LENGTH, MASS, CENTRE, INERTIA, GRAVITY = 1.0, 1.0, 0.5, 1.0, 9.8
WINDOW = 8


def mass_matrix(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """M(q), (..., 2, 2), of q (..., 2)."""
    coupling = MASS * LENGTH * CENTRE * np.cos(q[..., 1])
    second = MASS * CENTRE**2 + INERTIA
    first = second + MASS * CENTRE**2 + INERTIA + MASS * LENGTH**2 + 2 * coupling
    mixed = second + coupling
    return np.stack([np.stack([first, mixed], -1), np.stack([mixed, np.full_like(mixed, second)], -1)], -2)


def energy(q: NDArray[np.float64], velocity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kinetic and potential energy in J, (...,)."""
    kinetic: Any = 0.5 * np.einsum("...i,...ij,...j->...", velocity, mass_matrix(q), velocity)
    first = MASS * GRAVITY * (CENTRE + LENGTH)
    height = first * np.cos(q[..., 0]) + MASS * GRAVITY * CENTRE * np.cos(q[..., 0] + q[..., 1])
    return kinetic - height


def acceleration(q: NDArray[np.float64], velocity: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
    """q'' in rad/s^2, (..., 2)."""
    sine = MASS * LENGTH * CENTRE * np.sin(q[..., 1])
    one, two = velocity[..., 0], velocity[..., 1]
    coriolis = np.stack([-sine * (2 * one * two + two**2), sine * one**2], -1)
    lower = MASS * GRAVITY * CENTRE * np.sin(q[..., 0] + q[..., 1])
    gravity = np.stack([MASS * GRAVITY * (CENTRE + LENGTH) * np.sin(q[..., 0]) + lower, lower], -1)
    solved: Any = np.linalg.solve(mass_matrix(q), (u - coriolis - gravity)[..., None])
    return solved[..., 0]


def simulate(
    q: NDArray[np.float64], velocity: NDArray[np.float64], u: NDArray[np.float64], times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Trajectories of several acrobots at once: (batch, len(times), 4), angles and then velocities.

    q, velocity, u: (batch, 2). Solved to 1e-9 by SciPy's DOP853.
    """
    from scipy.integrate import solve_ivp

    batch = len(q)

    def field(_: float, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        state = flat.reshape(batch, 4)
        change = acceleration(state[:, :2], state[:, 2:], u)
        return np.concatenate([state[:, 2:], change], axis=1).ravel()

    start = np.concatenate([q, velocity], axis=1).ravel()
    span = (float(times[0]), float(times[-1]))
    solution: Any = solve_ivp(field, span, start, method="DOP853", t_eval=times, rtol=1e-9, atol=1e-9)
    return solution.y.T.reshape(len(times), batch, 4).transpose(1, 0, 2)


def acrobot_windows(
    *, trajectories: int, steps: int = 32, dt: float = 0.05, seed: int
) -> dict[str, NDArray[np.float32]]:
    """Training data: `trajectories` per control from random angles and velocities, split 70/15/15 by trajectory, cut
    into windows of 8 points.

    Returns:
        "train", "dev", "test": (windows, 8, 8) of `(cos q, sin q, q', u)`.
    """
    rng = np.random.default_rng(seed)
    count = trajectories * len(CONTROLS)
    u = np.repeat(np.array(CONTROLS), trajectories, axis=0)
    q = rng.uniform(-np.pi / 2, np.pi / 2, size=(count, 2))
    paths = simulate(q, rng.uniform(-1, 1, size=(count, 2)), u, np.arange(steps, dtype=np.float64) * dt)
    order = rng.permutation(count)
    cuts = np.split(order, [round(0.7 * count), round(0.85 * count)])
    observed = observe(paths, u)
    return {name: _windows(observed[rows]) for name, rows in zip(("train", "dev", "test"), cuts, strict=True)}


def observe(paths: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float32]:
    """(batch, T, 4) angles and velocities as (batch, T, 8) `(cos q, sin q, q', u)`."""
    angles, velocity = paths[..., :2], paths[..., 2:]
    forces = np.broadcast_to(u[:, None], velocity.shape)
    return np.concatenate([np.cos(angles), np.sin(angles), velocity, forces], axis=-1).astype(np.float32)


def _windows(paths: NDArray[np.float32]) -> NDArray[np.float32]:
    pieces = paths.shape[1] // WINDOW
    return paths[:, : pieces * WINDOW].reshape(-1, WINDOW, paths.shape[2])
