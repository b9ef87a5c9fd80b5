"""Progress of a fit: how far, how fast, how long still, how much memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

import torch
from lightning_fabric import Fabric
from torch import Tensor

# Weight of the newest rate in the running one: about the last ten reports count.
_NEWEST = 0.2


class Progress(Protocol):
    """Called now and then with the part done, 0 to 1, and numbers or short texts by name."""

    def __call__(self, fraction: float, /, **fields: Any) -> None: ...


@dataclass(frozen=True)
class Report:
    """How progress is reported.

    Attributes:
        to: called as `to(fraction, step=, loss=, rate=, unit=, eta=, memory=, **last evaluation)`; `rate` in units per
            second over all processes, `eta` in seconds, `memory` in bytes (of the device, or resident on a CPU).
        count: batch -> how many units it holds; None: its examples, the rows of its first tensor.
        unit: what is counted.
        every: seconds between reports.

    Raises:
        ValueError: `to` is no function, or `every` is negative.
    """

    to: Progress
    count: Callable[[Any], int] | None = None
    unit: str = "examples"
    every: float = 0.5

    def __post_init__(self) -> None:
        if not callable(self.to):
            raise ValueError(f"progress: expected a function (fraction, **fields), got {type(self.to).__name__}")
        if not self.every >= 0:
            raise ValueError(f"every: expected seconds that are not negative, got {self.every}")


@dataclass
class ProgressLine:
    """Progress as one line of the terminal, rewritten in place; silent where `stream` is no terminal."""

    label: str = ""
    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def __call__(self, fraction: float, /, **fields: Any) -> None:
        if self.stream.isatty():
            end = "\n" if fraction >= 1 else ""
            self.stream.write(f"\r{format_line(fraction, fields, label=self.label)}\x1b[K{end}")
            self.stream.flush()


def format_line(fraction: float, fields: Mapping[str, Any], *, label: str = "") -> str:
    """`label  42 %  step 420  loss 0.512  1.3k tokens/s  312 MB  1:05 left  accuracy 0.81`."""
    fields = dict(fields)
    parts = [label] if label else []
    parts.append(f"{100 * fraction:3.0f} %")
    if "step" in fields:
        parts.append(f"step {fields.pop('step'):,.0f}")
    if "loss" in fields:
        parts.append(f"loss {fields.pop('loss'):.4g}")
    unit = fields.pop("unit", "examples")
    if "rate" in fields:
        parts.append(f"{_short(fields.pop('rate'))} {unit}/s")
    if "memory" in fields:
        parts.append(f"{_short(fields.pop('memory'))}B")
    if "eta" in fields:
        parts.append(f"{_clock(fields.pop('eta'))} left")
    parts += [f"{name} {value if isinstance(value, str) else format(value, '.4g')}" for name, value in fields.items()]
    return "  ".join(parts)


class Reporter:
    """Counts what the steps of one process see, and reports at the pace that was asked for."""

    def __init__(self, progress: Progress | Report | None, fabric: Fabric, clock: Callable[[], float]):
        self.report = progress if isinstance(progress, Report) or progress is None else Report(progress)
        self.fabric, self.clock = fabric, clock
        self.active = self.report is not None and fabric.global_rank == 0
        self._units = 0
        self._rate, self._from = 0.0, 0.0
        self._start = self._last = clock()

    def start(self, fraction: float) -> None:
        """The first step comes now, with so much done already: what is left is judged by what is done from here."""
        self._from = fraction
        self._start = self._last = self.clock()

    def watch(self, batch: Any) -> None:
        """Count a batch."""
        if self.active and self.report is not None:
            self._units += (self.report.count or count_examples)(batch)

    def due(self) -> bool:
        return self.active and self.report is not None and self.clock() - self._last >= self.report.every

    def __call__(self, fraction: float, fields: Mapping[str, Any]) -> None:
        if not self.active or self.report is None:
            return
        now = self.clock()
        elapsed, self._last = now - self._last, now
        own = dict(fields)
        if elapsed > 0 and self._units:
            rate = self._units * self.fabric.world_size / elapsed
            self._rate = rate if self._rate == 0 else self._rate + _NEWEST * (rate - self._rate)
            own |= {"rate": self._rate, "unit": self.report.unit}
        self._units = 0
        if fraction > self._from:
            own["eta"] = (now - self._start) * (1 - fraction) / (fraction - self._from)
        own["memory"] = memory_bytes(self.fabric.device)
        self.report.to(fraction, **own)


def count_examples(batch: Any) -> int:
    """Rows of the first tensor in a tensor, tuple or mapping; 1 where there is none."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim else 1
    if isinstance(batch, Mapping):
        batch = tuple(batch.values())
    if isinstance(batch, (tuple, list)):
        for part in batch:
            if isinstance(part, (Tensor, Mapping, tuple, list)):
                return count_examples(part)
    return 1


def memory_bytes(device: torch.device) -> int:
    """Peak bytes of the device's tensors, or what the process holds in memory now where the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import psutil

    return psutil.Process().memory_info().rss


def _short(value: float) -> str:
    for factor, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{suffix}" if suffix == "k" or value < 1e15 else f"{value:.3g}"
    return f"{value:.3g}"


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
