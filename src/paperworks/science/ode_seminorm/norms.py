"""How a vector of errors, each divided by its tolerance, becomes one number: a step is accepted where it is at most 1.

The paper is about which norm the *adjoint* solve uses. Its state is the tuple `(a_t, z, a_z, a_th_1, ..., a_th_m)`:

    full        max(|a_t|, N(z), N(a_z), max_m rms(a_th_m))      what libraries do by default
    seminorm_t  max(|a_t|, N(z), N(a_z))                         torchdiffeq's "seminorm"
    seminorm    max(N(z), N(a_z))                                the paper

with N the norm of the forward solve. `a_th` and `a_t` stand on no right-hand side: they are integrals, not an ODE, so
an error in them does not grow, and need not be controlled step by step.

Notes:
    The default takes the *maximum over parameter tensors*; "rms" here is the flat root mean square over everything,
    another norm, under which a large parameter tensor hides a small state.
    Without gradients with respect to times `a_t` is zero, and the two seminorms are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Parts: TypeAlias = Sequence[Tensor]
Norm: TypeAlias = str | Callable[..., Any]

STATE_NORMS = ("rms", "linf", "l2")
ADJOINT_NORMS = ("rms", "linf", "l2", "full", "seminorm", "seminorm_t")
WITHOUT_INTEGRALS = ("seminorm",)


def rms(x: Tensor) -> Tensor:
    """Root mean square of all elements; 0 for an empty tensor."""
    return torch.linalg.vector_norm(x) / math.sqrt(max(1, x.numel()))


def _linf(x: Tensor) -> Tensor:
    return x.abs().amax() if x.numel() else x.sum()


_NORMS: dict[str, Callable[[Tensor], Tensor]] = {"rms": rms, "linf": _linf, "l2": torch.linalg.vector_norm}


def check_state_norm(norm: Norm) -> None:
    """Refuse what is no norm of a forward solve.

    Raises:
        ValueError: unknown name; a seminorm, which belongs to `adjoint_norm`.
    """
    if callable(norm) or norm in STATE_NORMS:
        return
    if norm in ADJOINT_NORMS:
        raise ValueError(f"norm: {norm!r} is a norm of the adjoint state; use adjoint_norm={norm!r}")
    raise ValueError(f"norm: expected one of {', '.join(STATE_NORMS)} or a callable, got {norm!r}")


def check_adjoint_norm(norm: Norm) -> None:
    """Refuse what is no norm of an adjoint solve.

    Raises:
        ValueError: unknown name; lists the known ones.
    """
    if not callable(norm) and norm not in ADJOINT_NORMS:
        raise ValueError(f"adjoint_norm: expected one of {', '.join(ADJOINT_NORMS)} or a callable, got {norm!r}")


def state_norm(norm: Norm, shapes: Sequence[torch.Size] | None) -> Callable[[Tensor], Tensor]:
    """The norm on the flat state: over a tuple state, the largest of its parts' (a callable gets the tuple itself)."""
    if callable(norm):
        return lambda flat: _value(norm(split(flat, shapes)), flat)
    of = _NORMS[norm]
    if shapes is None:
        return of
    return lambda flat: torch.stack([of(part) for part in flat.split([shape.numel() for shape in shapes])]).amax()


def adjoint_norm(
    norm: Norm, state: Callable[[Tensor], Tensor], shapes: Sequence[torch.Size] | None
) -> Callable[[Tensor, Tensor, Tensor, Parts], Tensor]:
    """The norm on `(a_t, z, a_z, a_th)`, with z and a_z flat."""
    if callable(norm):

        def custom(a_t: Tensor, z: Tensor, a_z: Tensor, theta: Parts) -> Tensor:
            parts = [split(z, shapes), split(a_z, shapes)]
            opened = parts if shapes is None else [part for group in parts for part in group]
            return _value(norm((a_t, *opened, *theta)), z)

        return custom
    if norm in _NORMS:
        of = _NORMS[norm]
        return lambda a_t, z, a_z, theta: of(torch.cat([part.reshape(-1) for part in (a_t, z, a_z, *theta)]))

    def named(a_t: Tensor, z: Tensor, a_z: Tensor, theta: Parts) -> Tensor:
        found = [state(z), state(a_z)]
        if norm != "seminorm":
            found.append(a_t.abs())
        if norm == "full":
            found += [rms(part) for part in theta]
        return torch.stack(found).amax()

    return named


def needs_integrals(norm: Norm) -> bool:
    """Whether the norm looks at the integrals beside the state, so that their errors must be known."""
    return callable(norm) or norm not in WITHOUT_INTEGRALS


def split(flat: Tensor, shapes: Sequence[torch.Size] | None) -> Any:
    """The user's view of a flat state: a tensor, or a tuple of tensors."""
    if shapes is None:
        return flat
    parts = flat.split([shape.numel() for shape in shapes])
    return tuple(part.view(shape) for part, shape in zip(parts, shapes, strict=True))


def _value(result: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(result, dtype=like.dtype, device=like.device).abs()
