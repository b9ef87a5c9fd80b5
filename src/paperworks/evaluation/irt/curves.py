"""Item curves of the 1PL to 4PL models, their scores and information, from one likelihood kernel.

    P(theta) = c + (d - c) sigmoid(z),   z = a (theta - b)

The asymptotes are held as log-odds against the middle class: (c, d - c, 1 - d) = softmax(lower, 0, upper), so that
c < d whatever their values; in the 3PL (upper = -inf) `lower` is just logit c. With k1 = logsigmoid(lower) and
k0 = -logsigmoid(upper), everything that a fit needs is sums of softplus, and every score is a difference of sigmoids:

    log P       = softplus(k1 - z) - softplus(-z) + logsigmoid(lower) - log c
    log (1 - P) = softplus(z - k0) - softplus(z)  + logsigmoid(upper) - log (1 - d)
    d log P / dz       = sigmoid(-z) - sigmoid(k1 - z)  = D1
    d log (1 - P) / dz = sigmoid(-z) - sigmoid(k0 - z)  = D0          Fisher information in z = -D1 D0

(the constants are log1p(e^lower) - log S and log1p(e^upper) - log S, S = 1 + e^lower + e^upper). P is never formed and
then logged: in float32 the plain form gives NaN at step 19 of the paper's own recipe.

Reference: Vania et al. 2021, arXiv 2106.00840, section 3; Barton & Lord 1981 for the 4PL.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Model = Literal["1pl", "2pl", "3pl", "4pl"]
LOG_A, B, LOWER, UPPER = range(4)
# Rows of the (4, M) parameter table that each model estimates; the others stay at log a = 0, lower = upper = -inf.
FREE: dict[str, tuple[int, ...]] = {
    "1pl": (B,),
    "2pl": (LOG_A, B),
    "3pl": (LOG_A, B, LOWER),
    "4pl": (LOG_A, B, LOWER, UPPER),
}
Array = TypeVar("Array", np.ndarray, Tensor)


def free_rows(model: str) -> tuple[int, ...]:
    """The rows of the parameter table that `model` estimates.

    Raises:
        ValueError: no such model.
    """
    if model not in FREE:
        raise ValueError(f"model: expected one of {', '.join(FREE)}, got {model!r}")
    return FREE[model]


class Curve(NamedTuple):
    """One tile of items as the kernels need it, all (M,) or (M, 1): slopes, -ab, k1, k0 and the two constants."""

    a: Tensor
    shift: Tensor
    k1: Tensor
    k0: Tensor
    log_one: Tensor
    log_zero: Tensor
    guesses: bool
    slips: bool

    @classmethod
    def of(cls, params: Tensor, rows: tuple[int, ...]) -> Curve:
        """From a (4, M) parameter table and the rows that the model estimates."""
        a, lower, upper = params[LOG_A].exp(), params[LOWER], params[UPPER]
        guesses, slips, zero = LOWER in rows, UPPER in rows, torch.zeros_like(a)
        # Each of these is a pass over the items in the innermost loop, so what a model lacks is not computed.
        one_low, one_high = softplus(lower) if guesses else zero, softplus(upper) if slips else zero
        total = torch.logaddexp(one_low, upper) if slips else one_low
        k1 = lower - one_low if guesses else torch.full_like(a, -torch.inf)
        k0 = one_high - upper if slips else torch.full_like(a, torch.inf)
        return cls(a, -a * params[B], k1, k0, one_low - total, one_high - total, guesses, slips)


def minus_z(curve: Curve, theta: Tensor, plus: Tensor | None = None) -> Tensor:
    """-a (theta - b), with `plus` (M,) added: one matrix product of rank two, (M, T)."""
    left = torch.stack([-curve.a, -curve.shift if plus is None else plus - curve.shift], dim=1)
    return left @ torch.stack([theta, torch.ones_like(theta)])


def log_curves(curve: Curve, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the chances of a right and of a wrong answer, both (M, T)."""
    odds, wrong = log_odds(curve, theta)
    wrong = wrong.add_(curve.log_zero[:, None])
    return odds.add_((curve.log_one - curve.log_zero)[:, None]).add_(wrong), wrong


def log_odds(curve: Curve, theta: Tensor) -> tuple[Tensor, Tensor]:
    """log P - log (1 - P) and log (1 - P), both (M, T), less each item's constants log_one - log_zero and log_zero.

    This is the inner loop of every fit by EM: two softplus and two sums a cell in the 3PL.
    """
    x = minus_z(curve, theta)
    wrong = x - softplus(x)
    odds = softplus(minus_z(curve, theta, curve.k1)).sub_(x) if curve.guesses else -x
    if curve.slips:
        slip = softplus(minus_z(curve, theta, curve.k0).neg_())
        odds, wrong = odds.sub_(slip), wrong.add_(slip)
    return odds, wrong


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), exact beyond the threshold at which torch's default goes over to the identity."""
    return F.softplus(x, threshold=40.0 if x.dtype == torch.float64 else 20.0)


class Shares(NamedTuple):
    """The sigmoids of which every score consists, (M, T): sigmoid(-z), sigmoid(k1 - z), sigmoid(z - k0).

    With them d log P / dz = below - guess and d log (1 - P) / dz = below - 1 + slip; a right answer was guessed with
    probability c1 + (1 - c1) guess, c1 = e^k1, and a wrong one is a slip with d1 + (1 - d1) slip, d1 = e^-k0.
    """

    below: Tensor
    guess: Tensor | None
    slip: Tensor | None


def shares(curve: Curve, theta: Tensor) -> Shares:
    """The sigmoids of all items at all abilities."""
    return Shares(
        minus_z(curve, theta).sigmoid_(),
        minus_z(curve, theta, curve.k1).sigmoid_() if curve.guesses else None,
        minus_z(curve, theta, curve.k0).neg_().sigmoid_() if curve.slips else None,
    )


def table_of(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The (4, M) parameter table of curves given by a, b and their asymptotes c < d."""
    gap = (d - c).log()
    return torch.stack([a.log(), b, c.log() - gap, (1 - d).log() - gap])


def item_curve(theta: Array, a: Array, b: Array, c: Array | float = 0.0, d: Array | float = 1.0) -> Array:
    """The chance of a right answer, c + (d - c) sigmoid(a (theta - b)).

    All arguments broadcast against each other; NumPy arrays give a NumPy array, tensors a tensor.

    Raises:
        ValueError: an `a` that is not positive, or asymptotes outside 0 <= c < d <= 1.
    """
    args = _Arguments.of(theta, a, b, c, d)
    return args.back(args.c + (args.d - args.c) * torch.sigmoid(args.z))


def leh_score(theta: Array, a: Array, b: Array, c: Array | float = 0.0, d: Array | float = 1.0) -> Array:
    """Locally estimated headroom: the slope of the item's curve at ability theta.

        LEH = (d - c) a s (1 - s),   s = sigmoid(a (theta - b))

    The paper takes theta of the strongest responder. Arguments broadcast. 0 <= LEH <= a / 4.

    Raises:
        ValueError: an `a` that is not positive, or asymptotes outside 0 <= c < d <= 1.

    Reference: Vania et al. 2021, section 3.2.
    """
    args = _Arguments.of(theta, a, b, c, d)
    return args.back((args.d - args.c) * args.a * torch.sigmoid(args.z) * torch.sigmoid(-args.z))


def fisher_information(theta: Array, a: Array, b: Array, c: Array | float = 0.0, d: Array | float = 1.0) -> Array:
    """What one answer tells about theta: (dP/dtheta)^2 / (P (1 - P)), for the 3PL a^2 (P-c)^2 (1-P) / ((1-c)^2 P).

    Arguments broadcast. Not in the paper; for the design of tests.

    Raises:
        ValueError: an `a` that is not positive, or asymptotes outside 0 <= c < d <= 1.
    """
    args = _Arguments.of(theta, a, b, c, d)
    above, below = (args.d - args.c) * torch.sigmoid(args.z), (args.d - args.c) * torch.sigmoid(-args.z)
    one = torch.ones_like(above)
    # P = c + above and 1 - P = (1 - d) + below are sums of positive terms; each takes its own share of the slope.
    right = torch.where(args.c > 0, above / (args.c + above), one)
    wrong = torch.where(args.d < 1, below / (1 - args.d + below), one)
    return args.back(args.a**2 * right * wrong * torch.sigmoid(args.z) * torch.sigmoid(-args.z))


class _Arguments(NamedTuple):
    """The arguments of a curve as tensors of one shape, and whether the caller uses NumPy."""

    z: Tensor
    a: Tensor
    c: Tensor
    d: Tensor
    numpy: bool

    @classmethod
    def of(cls, *values: Any) -> _Arguments:
        kind = next((value for value in values if isinstance(value, Tensor)), torch.zeros((), dtype=torch.float64))
        theta, a, b, c, d = torch.broadcast_tensors(
            *(value if isinstance(value, Tensor) else torch.tensor(np.asarray(value)).to(kind) for value in values)
        )
        if bool((a <= 0).any()):
            raise ValueError(f"a: expected discriminations > 0, got {float(a.min()):g}; give a, not log a")
        if bool(((c < 0) | (d > 1) | (c >= d)).any()):
            raise ValueError("c, d: expected asymptotes 0 <= c < d <= 1; give c, not logit c")
        return cls(a * (theta - b), a, c, d, not any(isinstance(value, Tensor) for value in values))

    def back(self, value: Tensor) -> Any:
        return value.numpy() if self.numpy else value
