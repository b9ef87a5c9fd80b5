"""Responses drawn from known item curves, for tests of recovery and for trying things out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paperworks.data.responses import Responses
from paperworks.evaluation.irt.curves import LOWER, UPPER, Model, free_rows, item_curve


@dataclass(frozen=True)
class Truth:
    """What the responses were drawn from: abilities (R,) and item parameters (M,)."""

    theta: np.ndarray
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    d: np.ndarray


def simulate_responses(
    n_responders: int, n_items: int, *, model: Model = "2pl", seed: int, missing: float = 0.0, groups: int = 1
) -> tuple[Responses, Truth]:
    """Draw abilities and items from the priors of the paper, and answers from their curves.

        theta, b ~ N(0, 1);  log a ~ N(0, .3^2);  c ~ U(.05, .35) (3PL, 4PL);  d ~ U(.85, .99) (4PL)

    Args:
        missing: this share of the cells is not administered, at random.
        groups: items are dealt in turn to so many groups, named set_0, set_1, ...

    Returns:
        The responses and the truth behind them; the same for the same seed.

    Raises:
        ValueError: no such model, fewer than one responder, item or group, or a share outside [0, 1).
    """
    rows = free_rows(model)
    for name, count in (("n_responders", n_responders), ("n_items", n_items), ("groups", groups)):
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")
    if not 0 <= missing < 1:
        raise ValueError(f"missing: expected a share in [0, 1), got {missing}")
    rng = np.random.default_rng(seed)
    theta, b = rng.standard_normal(n_responders), rng.standard_normal(n_items)
    log_a = 0.3 * rng.standard_normal(n_items)
    c, d = rng.uniform(0.05, 0.35, n_items), rng.uniform(0.85, 0.99, n_items)
    a = np.ones(n_items) if model == "1pl" else np.exp(log_a)
    c = c if LOWER in rows else np.zeros(n_items)
    d = d if UPPER in rows else np.ones(n_items)
    values = rng.random((n_responders, n_items)) < item_curve(theta[:, None], a, b, c, d)
    observed = rng.random(values.shape) >= missing if missing else None
    if observed is not None:
        values &= observed
    responses = Responses(
        values.astype(np.uint8),
        observed,
        tuple(f"responder_{number}" for number in range(n_responders)),
        tuple(f"item_{number}" for number in range(n_items)),
        np.array([f"set_{number % groups}" for number in range(n_items)]) if groups > 1 else None,
    )
    return responses, Truth(theta, a, b, c, d)
