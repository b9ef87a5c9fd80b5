"""What is done to a module for a while must be undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Interruption(Exception):
    """Raised on purpose inside the context under test."""


def assert_module_state_restored(module: nn.Module, act: Callable[[nn.Module], Any]) -> None:
    """After `act(module)` the module is as it was: modes, parameters, gradients, buffers, hooks, plain settings.

    Args:
        act: does its work and returns; or returns a context manager, which is entered and left twice: once in the
            ordinary way, and once by an exception, which must come out again.

    Both are tried with a module of mixed modes (its first part in training, the others in evaluation), since
    "module.train() afterwards" restores only the simplest case. The modes you gave are put back at the end.

    Raises:
        AssertionError: naming what differs.
    """
    modes = [(part, part.training) for part in module.modules()]
    try:
        for number, (part, _) in enumerate(modes):
            part.training = number % 2 == 0
        _check(module, act)
    finally:
        for part, training in modes:
            part.training = training


def _check(module: nn.Module, act: Callable[[nn.Module], Any]) -> None:
    before = _snapshot(module)
    context = act(module)
    if not hasattr(context, "__enter__"):
        _expect_same(before, _snapshot(module), "after the call")
        return
    with context:
        pass
    _expect_same(before, _snapshot(module), "after the block")
    came_out = False
    try:
        with act(module):
            raise _Interruption
    except _Interruption:
        came_out = True
    if not came_out:
        raise AssertionError("an exception inside the block did not come out of it")
    _expect_same(before, _snapshot(module), "after an exception in the block")


def _snapshot(module: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, part in module.named_modules():
        label = name or "the module"
        found[f"{label}: class"] = type(part)
        for key, value in vars(part).items():
            if isinstance(value, bool | int | float | str | type(None)):
                found[f"{label}: {key}"] = value
            elif key.endswith("hooks"):
                found[f"{label}: {key}"] = list(value)
    for name, parameter in module.named_parameters():
        found[f"{name}: identity"] = id(parameter)
        found[f"{name}: requires_grad"] = parameter.requires_grad
        found[f"{name}: gradient"] = None if parameter.grad is None else parameter.grad.clone()
        found[f"{name}: values"] = parameter.detach().clone()
    for name, buffer in module.named_buffers():
        found[f"{name}: values"] = buffer.clone()
    return found


def _expect_same(before: dict[str, Any], after: dict[str, Any], when: str) -> None:
    for name in sorted(set(before) | set(after)):
        if not _same(before.get(name), after.get(name)):
            raise AssertionError(f"{when}, {name} is not as it was")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
    return type(a) is type(b) and a == b
