"""Lazy re-exports, so that importing a package costs nothing until one of its names is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Hooks: TypeAlias = tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]


def attach(package: str, names: Mapping[str, str]) -> Hooks:
    """Return `(__getattr__, __dir__, __all__)` for `package`, whose public `names` live in the given submodules.

    `names` maps a public name to the module that defines it, relative to the package (`"fnet"`, `"fnet.mixing"`), or
    absolute where it starts with `paperworks.`.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = names[name] if names[name].startswith("paperworks.") else f"{package}.{names[name]}"
        value = getattr(importlib.import_module(module), name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted(names)

    return __getattr__, __dir__, sorted(names)


def attach_area(package: str) -> Hooks:
    """Return `(__getattr__, __dir__, __all__)` for an area: the public names of all its rooms.

    A room's `__init__` is itself lazy, so looking through all of them costs little.
    """
    folder = Path(sys.modules[package].__path__[0])
    rooms = sorted(card.parent.name for card in folder.glob("*/card.toml"))
    names: dict[str, str] = {}
    for room in rooms:
        for name in importlib.import_module(f"{package}.{room}").__all__:
            if name in names:
                raise ImportError(f"{package}: both {names[name]} and {room} export {name!r}")
            names[name] = room
    return attach(package, names)
