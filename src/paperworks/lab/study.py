"""A study: typed data plus one pure function, `trial`.

Everything else (seeds, parallel trials, resuming, tables, verdicts, the report) is the laboratory's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from paperworks.lab.claim import Claim

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Plot

Point: TypeAlias = Mapping[str, Any]
Values: TypeAlias = Mapping[str, Any]


class Progress(Protocol):
    """What a trial is given to report on itself and to keep files with."""

    folder: Path

    def __call__(self, fraction: float, **fields: Any) -> None: ...


@dataclass(frozen=True)
class Request:
    """What the user asked for in data: nothing (`path` None: embedded or benchmark data), or their own."""

    path: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A plot over the table of trials."""

    name: str
    caption: str
    draw: Callable[[pd.DataFrame], Plot | None]


@dataclass(frozen=True)
class Table:
    """A table of the report, computed from the table of trials."""

    name: str
    caption: str
    build: Callable[[pd.DataFrame], pd.DataFrame | None]


@dataclass(frozen=True)
class Loaded:
    """A study's data: what trials are given, its fingerprint (part of every trial's key) and what to say about it."""

    data: Any
    fingerprint: str
    description: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """One paper's claim, put to the test.

    Attributes:
        slug: the paper.
        scales: name -> Config (a frozen dataclass); `smoke` (<= 20 s), `laptop` (<= 20 minutes), `paper`, maybe `demo`.
        seeds: scale -> number of seeds when the user names none.
        load: (config, request) -> Loaded; called once, by the parent process.
        points: (config, data) -> the points of the grid; their fields become columns.
        trial: (point, seed, config, data, progress) -> scalars and arrays; pure.
        claims, figures, tables: what is made of the trials.
        sentences: frame -> statements printed above the figures (what a result rests on, what it does not show).
        budget: frame -> one row per arm; `equal` names the columns that must agree within a claim's arms.
        alone: points that must run by themselves, since they measure time.
        once: points that no seed changes; they run in the first seed only.
        finish: (frame, loaded, folder) -> files written for the user (predictions, a saved model).
        baseline_factor: the field of a point that `--baseline file.py:name` adds a level to, if it can.
        version: raised when a change of the code changes results.
    """

    slug: str
    scales: Mapping[str, Any]
    seeds: Mapping[str, int]
    load: Callable[[Any, Request], Loaded]
    points: Callable[[Any, Any], Sequence[Point]]
    trial: Callable[[Point, int, Any, Any, Progress], Values]
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    sentences: Callable[[pd.DataFrame], Sequence[str]] | None = None
    budget: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    equal: tuple[str, ...] = ()
    alone: Callable[[Point], bool] = lambda point: False
    once: Callable[[Point], bool] = lambda point: False
    finish: Callable[[pd.DataFrame, Loaded, Path], Sequence[Path]] | None = None
    baseline_factor: str | None = None
    version: int = 1

    def config(self, scale: str, overrides: Mapping[str, Any] | None = None) -> Any:
        """The Config of a scale with some fields replaced.

        Raises:
            ValueError: unknown scale or field.
        """
        if scale not in self.scales:
            raise ValueError(f"scale: expected one of {', '.join(self.scales)}, got {scale!r}")
        config = self.scales[scale]
        known = {item.name for item in dataclasses.fields(config)}
        if unknown := set(overrides or ()) - known:
            raise ValueError(f"{sorted(unknown)[0]!r} is no field of the {self.slug} study; known: {sorted(known)}")
        return dataclasses.replace(config, **(overrides or {}))
