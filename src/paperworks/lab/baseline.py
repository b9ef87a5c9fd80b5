"""A user's own baseline, named on the command line as `file.py:function`."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any


def baseline_level(spec: str) -> str:
    """The factor level of a baseline: `file.py:function@<hash of the file>`, so that an edited file is a new arm.

    Raises:
        ValueError: not of the form `file.py:function`, no such file, or no such function in it.
    """
    path, name = _split(spec)
    load_baseline(spec)
    return f"{path}:{name}@{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def is_baseline(level: object) -> bool:
    return isinstance(level, str) and ".py:" in level


def load_baseline(level: str) -> Callable[..., Any]:
    """The function that a spec or a level names."""
    path, name = _split(level.split("@")[0])
    specification = importlib.util.spec_from_file_location(f"baseline_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise ValueError(f"baseline: {path} is no Python file")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    if not callable(found := getattr(module, name, None)):
        raise ValueError(f"baseline: {path} has no function {name!r}")
    return found


def _split(spec: str) -> tuple[Path, str]:
    path, separator, name = spec.rpartition(":")
    if not separator or not path.endswith(".py"):
        raise ValueError(f"baseline: expected file.py:function, got {spec!r}")
    if not Path(path).is_file():
        raise ValueError(f"baseline: no file {path}")
    return Path(path).resolve(), name
