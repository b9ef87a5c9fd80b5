"""Checkpoints: one file with everything that decides how a fit goes on, written atomically.

The file holds weights, optimiser, average, losses, evaluations, the best weights, the step (which is the position in
the data and in the schedule) and the states of the random generators of every process. It is a torch archive of tensors
and plain values, read with `weights_only=True`: opening one runs no code.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from paperworks._files import atomic_file
from paperworks.train.devices import agree
from paperworks.train.random import generator_states, set_generator_states

_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often to keep the state of a fit; it is always kept when the fit ends.

    Attributes:
        path: the file; its folder is made if it is missing. If the file exists, `fit` continues from it.
        every_steps: steps between saves; None: by time alone.
        every_seconds: seconds between saves; None: by steps alone.

    Raises:
        ValueError: an interval that is not positive, or a path that is a folder.
    """

    path: str | os.PathLike[str]
    every_steps: int | None = None
    every_seconds: float | None = field(default=60.0)

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise ValueError(f"every_steps: expected at least 1 or None, got {self.every_steps}")
        if self.every_seconds is not None and not self.every_seconds > 0:
            raise ValueError(f"every_seconds: expected a positive number or None, got {self.every_seconds}")
        if Path(self.path).is_dir():
            raise ValueError(f"path: expected a file, got the folder {os.fspath(self.path)!r}")


class Keeper:
    """Saves and finds the state of one fit.

    `identity` names what must be the same for the losses to be the same; a file that differs in it is refused.
    """

    def __init__(
        self, checkpoint: Checkpoint | None, fabric: Fabric, clock: Callable[[], float], identity: Mapping[str, str]
    ):
        self.checkpoint, self.fabric, self.clock, self.identity = checkpoint, fabric, clock, dict(identity)
        self._last = clock()

    def due(self, step: int) -> bool:
        if self.checkpoint is None:
            return False
        by_step, by_time = self.checkpoint.every_steps, self.checkpoint.every_seconds
        if by_step is not None and step % by_step == 0:
            return True
        return by_time is not None and agree(self.fabric, self.clock() - self._last >= by_time)

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep `state` and the generators of all processes; process 0 writes.

        Raises:
            OSError: the file cannot be written; the one before it is untouched then.
        """
        if self.checkpoint is None:
            return
        generators = _gather(generator_states(self.fabric.device), self.fabric)
        if self.fabric.global_rank == 0:
            content = {"format": _FORMAT, "identity": self.identity, "generators": generators, **state}
            write_torch(self.checkpoint.path, content)
        self._last = self.clock()

    def load(self) -> dict[str, Any] | None:
        """The kept state, or None where there is none yet; puts the generators where they were.

        Raises:
            ValueError: the file is damaged, is no checkpoint, or belongs to another fit.
        """
        if self.checkpoint is None or not Path(self.checkpoint.path).exists():
            return None
        path = os.fspath(self.checkpoint.path)
        state = read_torch(path)
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise ValueError(f"checkpoint: {path} is no checkpoint of this version; remove it or choose another file")
        for name, ours in self.identity.items():
            if (theirs := state["identity"].get(name)) != ours:
                raise ValueError(
                    f"checkpoint: {path} is of a fit with {name} {theirs}, this one has {ours}; "
                    "use the same settings to continue it, or another file to start anew"
                )
        set_generator_states(state["generators"][self.fabric.global_rank], self.fabric.device)
        return state


def write_torch(path: str | os.PathLike[str], content: Any) -> None:
    """`torch.save` so that a reader sees the old file or the new one, never a part of either.

    Raises:
        OSError: the disk is full or the folder not writable.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        torch.save(content, stream)


def read_torch(path: str | os.PathLike[str]) -> Any:
    """What `write_torch` wrote, on the CPU, without running code from the file.

    Raises:
        ValueError: the file is damaged or holds more than tensors and plain values.
    """
    try:
        return torch.load(io.BytesIO(Path(path).read_bytes()), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, pickle.UnpicklingError, EOFError, KeyError) as error:
        raise ValueError(f"checkpoint: {os.fspath(path)} cannot be read ({error}); remove it to start anew") from error


def _gather(value: Any, fabric: Fabric) -> list[Any]:
    if fabric.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, value)
    return gathered
