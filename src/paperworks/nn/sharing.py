"""Modules that several layers share are saved once.

`nn.Module.state_dict` writes a shared tensor under every name it has; safetensors refuses such a dictionary, and a
reader cannot see that the copies are one. Here only the first name is written, and loading fills in the others.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def save_shared_once(module: nn.Module) -> None:
    """Make `module.state_dict()` hold each shared parameter or buffer under its first name only; loading undoes it."""
    module.register_state_dict_post_hook(_drop_copies)
    module.register_load_state_dict_pre_hook(_restore_copies)


def copies(module: nn.Module) -> dict[str, str]:
    """Further names of shared parameters and buffers, each with the first name of the same tensor."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        if first.setdefault(id(tensor), name) != name:
            found[name] = first[id(tensor)]
    return found


def _drop_copies(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in copies(module):
        state.pop(prefix + name, None)


def _restore_copies(module: nn.Module, state: dict[str, Any], prefix: str, *unused: Any) -> None:
    for name, first in copies(module).items():
        if prefix + first in state:
            state.setdefault(prefix + name, state[prefix + first])
