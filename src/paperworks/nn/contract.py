"""What a token mixer is: the contract that encoders read, and the checks at their door.

A mixer is any `nn.Module` with `forward(x (B, N, D), *, mask=None, **context) -> (B, N, D)` whose first constructor
argument is `dim`. It states what it can do as attributes, read with these defaults where absent:

    causal = False          output t depends on inputs 0..t only; fixed at construction
    supports_mask = True    outputs at kept positions do not depend on masked inputs
    min_length = None       shortest input (set only where the length is exact, then equal to max_length)
    max_length = None       longest input
    context_names = ()      optional tensors that it takes per call, by keyword

and as methods, where it has them: `flops(length) -> int` for one sequence (a multiply-add counts two), and for
streaming `init_state(batch) -> state` and `step(x (B, D), state) -> (y (B, D), state)`, which return a new state and
leave the old one as it was. Outputs at masked positions are finite for finite input, otherwise unspecified, and a row
whose mask is all False is legal. `paperworks.testing.check_mixer` tests all of this for a mixer of your own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Encoded(NamedTuple):
    """What every encoder returns: states (B, M, D) and their mask (B, M) or None; M may be less than the tokens."""

    states: Tensor
    mask: Tensor | None


class PaddingMixedIn(UserWarning):
    """A mask was given to a mixer that cannot honour it: padding takes part in its outputs."""


@dataclass(frozen=True)
class Traits:
    """What a mixer, or a stack of them, can do."""

    causal: bool = False
    supports_mask: bool = True
    min_length: int | None = None
    max_length: int | None = None
    context_names: tuple[str, ...] = ()


def traits_of(mixer: nn.Module) -> Traits:
    """Read what a mixer states about itself.

    Raises:
        ValueError: `context_names` is a bare string, or the lengths contradict each other.
    """
    names = getattr(mixer, "context_names", ())
    if isinstance(names, str):
        raise ValueError(f'context_names: expected a tuple of names, got the string {names!r}; write ("{names}",)')
    traits = Traits(
        causal=bool(getattr(mixer, "causal", False)),
        supports_mask=bool(getattr(mixer, "supports_mask", True)),
        min_length=getattr(mixer, "min_length", None),
        max_length=getattr(mixer, "max_length", None),
        context_names=tuple(names),
    )
    _check_limits(traits)
    return traits


def combine(traits: Iterable[Traits]) -> Traits:
    """What a stack can do: it is causal, or honours masks, if all its layers do; the narrowest lengths win.

    Raises:
        ValueError: no length suits all layers.
    """
    layers = list(traits)
    shortest = [layer.min_length for layer in layers if layer.min_length is not None]
    longest = [layer.max_length for layer in layers if layer.max_length is not None]
    names = dict.fromkeys(name for layer in layers for name in layer.context_names)
    combined = Traits(
        causal=all(layer.causal for layer in layers),
        supports_mask=all(layer.supports_mask for layer in layers),
        min_length=max(shortest, default=None),
        max_length=min(longest, default=None),
        context_names=tuple(names),
    )
    _check_limits(combined)
    return combined


def _check_limits(traits: Traits) -> None:
    low, high = traits.min_length, traits.max_length
    if low is not None and high is not None and low > high:
        raise ValueError(f"min_length: no input suits, at least {low} tokens are needed and at most {high} allowed")


def check_tokens(x: Tensor, *, dim: int, traits: Traits, name: str) -> None:
    """Refuse an input of another shape, or of a length outside the traits' limits.

    Raises:
        ValueError: naming `x`, or `name` where the length is outside.
    """
    if x.ndim != 3:
        raise ValueError(f"x: expected (batch, length, dim), got shape {tuple(x.shape)}")
    if x.shape[2] != dim:
        raise ValueError(f"x: expected (batch, length, {dim}), got shape {tuple(x.shape)}")
    length, low, high = x.shape[1], traits.min_length, traits.max_length
    if low is not None and low == high and length != low:
        raise ValueError(f"{name}: built for length {low}, got {length}; pad or cut the input")
    if high is not None and length > high:
        raise ValueError(
            f"{name}: length {length} exceeds the {high} it was built for; cut the input or build it longer"
        )
    if length < (low or 1):
        raise ValueError(f"{name}: expected at least {low or 1} tokens, got {length}; pad the input")


def check_mask(mask: Tensor | None, shape: tuple[int, int] | torch.Size, *, name: str = "mask") -> None:
    """Refuse a mask that is not (batch, length) of bool.

    Raises:
        ValueError: naming the mask.
    """
    if mask is None:
        return
    if mask.dtype != torch.bool or tuple(mask.shape) != tuple(shape):
        kind = str(mask.dtype).removeprefix("torch.")
        hint = "" if mask.dtype == torch.bool else "; pass mask.bool(), True = keep"
        raise ValueError(
            f"{name}: expected (batch, length) bool = {tuple(shape)}, got {tuple(mask.shape)} {kind}{hint}"
        )


def check_context(context: Mapping[str, Any] | None, names: tuple[str, ...]) -> None:
    """Refuse a context with a name that nothing takes.

    Raises:
        ValueError: naming the stranger and what would be taken.
    """
    for name in context or ():
        if name not in names:
            known = ", ".join(names) or "no context at all"
            raise ValueError(f"context: no layer takes {name!r}; the layers take {known}")


def zero_masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` with zeros where the mask is False, so that nothing there, not even NaN, can reach another position."""
    return x if mask is None else x.masked_fill(~mask[..., None], 0)


_warned: set[type] = set()


def warn_padding_mixed_in(mixer: nn.Module) -> None:
    """Say once per class of mixer that its outputs depend on the padding."""
    if torch.compiler.is_compiling() or type(mixer) in _warned:
        return
    _warned.add(type(mixer))
    warnings.warn(
        f"{type(mixer).__name__} does not honour masks: padding is mixed into every output, so results depend on how "
        "far a batch is padded. Pad to one fixed length, as in training.",
        PaddingMixedIn,
        stacklevel=3,
    )
