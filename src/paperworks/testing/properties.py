"""What a change of the input may change in the output: nothing earlier, nothing kept, only what a group says.

All functions take a module or function of a tensor (B, N, D), put modules in evaluation mode for the time of the check
and accept a result that is a tensor or a tuple that starts with one. `tolerance` is relative to the largest output, or
absolute where that is below 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from paperworks.testing.compare import difference, in_evaluation, output_of, probe, repeatable

Module = Callable[..., Any]
Action = Callable[[Tensor], Tensor]

# How many places are tried, at most, in a long sequence.
_PLACES = 16


@torch.no_grad()
def assert_causal(module: Module, x: Tensor, *, tolerance: float = 1e-5) -> None:
    """Outputs before position t do not change when the inputs from t on do.

    Args:
        x: (B, N, D) with N >= 2. Up to 16 positions t are tried, first and last among them.

    Raises:
        AssertionError: naming the position from which on inputs were seen too early.
    """
    length = x.shape[1]
    if length < 2:
        raise ValueError(f"x: causality needs at least 2 positions, got {length}")
    with in_evaluation(module):
        before = repeatable(lambda: output_of(module(x)), tolerance=tolerance)
        _expect_length(before, length)
        for place in sorted(set(torch.linspace(1, length - 1, _PLACES).round().int().tolist())):
            changed = x.clone()
            changed[:, place:] = _noise(x[:, place:], seed=place)
            after = output_of(module(changed))
            if (gap := difference(before[:, :place], after[:, :place])) > tolerance:
                raise AssertionError(f"not causal: inputs from position {place} on change earlier outputs by {gap:.2g}")


def assert_mask_respected(module: Module, x: Tensor, mask: Tensor | None = None, *, tolerance: float = 1e-5) -> None:
    """Outputs at kept positions do not depend on masked inputs, whatever stands there.

    The masked inputs are replaced by other numbers, by huge ones and by NaN; outputs at masked positions must be finite
    where the input is; the gradient of kept outputs must vanish at masked inputs and be finite elsewhere; a row whose
    mask is all False must be legal and leave the other rows alone.

    Args:
        module: called as `module(x, mask=mask)`; its output has a position per input.
        mask: (B, N) bool, True = keep, with some True and some False; None: several are tried, a prefix among them.

    Raises:
        AssertionError: saying what got through.
    """
    masks = _example_masks(x) if mask is None else [mask]
    with in_evaluation(module):
        for tried in masks:
            _check_one_mask(module, x, tried, tolerance)
        _check_empty_row(module, x, masks[0], tolerance)


def _check_one_mask(module: Module, x: Tensor, mask: Tensor, tolerance: float) -> None:
    if not bool(mask.any()) or bool(mask.all()):
        raise ValueError("mask: needs both True and False to say anything")
    with torch.no_grad():
        before = repeatable(lambda: output_of(module(x, mask=mask)), tolerance=tolerance)
    _expect_length(before, x.shape[1])
    poisons = {"other numbers": _noise(x, seed=0), "huge numbers": 1e4 * _noise(x, seed=1)}
    for name, poison in [*poisons.items(), ("NaN", torch.full_like(x, float("nan")))]:
        with torch.no_grad():
            after = output_of(module(torch.where(mask[..., None], x, poison), mask=mask))
        if difference(before[mask], after[mask]) > tolerance:
            raise AssertionError(f"mask: {name} at masked inputs change kept outputs")
        if name in poisons and not bool(after.isfinite().all()):
            raise AssertionError(f"mask: outputs at masked positions are not finite for {name} there")
    _check_gradient(module, x, mask)


def _check_gradient(module: Module, x: Tensor, mask: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        out = output_of(module(leaf, mask=mask))
        if not out.requires_grad:
            return
        (gradient,) = torch.autograd.grad(probe(out[mask]), leaf, allow_unused=True)
    if gradient is None:
        return
    if not bool(gradient.isfinite().all()):
        raise AssertionError("mask: the gradient of kept outputs is not finite")
    if bool(gradient[~mask].any()):
        raise AssertionError("mask: kept outputs have a gradient at masked inputs")


@torch.no_grad()
def _check_empty_row(module: Module, x: Tensor, mask: Tensor, tolerance: float) -> None:
    before = output_of(module(x, mask=mask))
    emptied = mask.clone()
    emptied[-1] = False
    after = output_of(module(x, mask=emptied))
    if not bool(after.isfinite().all()):
        raise AssertionError("mask: a row that is all False gives NaN or infinity")
    others = mask[:-1]
    if difference(before[:-1][others], after[:-1][others]) > tolerance:
        raise AssertionError("mask: a row that is all False changes other rows")


def _example_masks(x: Tensor) -> list[Tensor]:
    batch, length = x.shape[:2]
    if length < 2:
        raise ValueError(f"x: a mask needs at least 2 positions, got {length}")
    generator = torch.Generator().manual_seed(0)
    counts = 1 + torch.arange(batch) * max(1, length // max(2, batch)) % (length - 1)
    prefix = torch.arange(length) < counts[:, None]
    scattered = torch.rand(batch, length, generator=generator) < 0.5
    scattered[:, -1], scattered[:, 0] = True, False
    return [mask.to(x.device) for mask in (prefix, scattered)]


@torch.no_grad()
def assert_equivariant(
    module: Module, x: Tensor, group: Iterable[tuple[Action, Action]], *, tolerance: float = 1e-5
) -> None:
    """`module(g x) = g module(x)` for each element g of a group.

    Args:
        x: any tensor that the module takes.
        group: pairs: how an element acts on the input, and how on the output (the identity there states invariance).

    Raises:
        AssertionError: naming the element by its number; ValueError for an empty group.
    """
    elements = list(group)
    if not elements:
        raise ValueError("group: is empty, so nothing would be checked")
    with in_evaluation(module):
        before = repeatable(lambda: output_of(module(x)), tolerance=tolerance)
        for number, (on_input, on_output) in enumerate(elements):
            gap = difference(on_output(before), output_of(module(on_input(x))))
            if gap > tolerance:
                raise AssertionError(f"not equivariant: group element {number} differs by {gap:.2g}")


def assert_permutation_equivariant(module: Module, x: Tensor, *, tolerance: float = 1e-5) -> None:
    """Permuting the positions of x (B, N, D) permutes the outputs; reversal, a swap and three random orders are tried.

    Raises:
        AssertionError: order matters to the module.
    """
    length = x.shape[1]
    if length < 2:
        raise ValueError(f"x: a permutation needs at least 2 positions, got {length}")
    generator = torch.Generator().manual_seed(0)
    swap = torch.arange(length)
    swap[:2] = swap[:2].flip(0)
    orders = [torch.arange(length).flip(0), swap, *(torch.randperm(length, generator=generator) for _ in range(3))]
    assert_equivariant(module, x, [(_reorder(order), _reorder(order)) for order in orders], tolerance=tolerance)


def _reorder(order: Tensor) -> Action:
    return lambda x: x[:, order.to(x.device)]


def _noise(x: Tensor, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(x.shape, generator=generator).to(x)
    return noise * (1 + x.abs().max())


def _expect_length(out: Tensor, length: int) -> None:
    if out.ndim < 2 or out.shape[1] != length:
        raise AssertionError(f"expected an output per position, (batch, {length}, ..), got shape {tuple(out.shape)}")
