"""The cards: what each paper is, read from the rooms' `card.toml` and `claims.toml`. Imports no torch.

A room is a folder with a `card.toml`, inside an area package of paperworks or inside any package that joins through the
entry-point group `paperworks.papers`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AREAS = (
    "sequence",
    "representation",
    "vision",
    "language",
    "control",
    "science",
    "graphs",
    "learning",
    "evaluation",
)
GROUP = "paperworks.papers"


class UnknownPaper(ValueError):
    """No room has this slug; the message suggests the nearest."""


@dataclass(frozen=True)
class Card:
    """A paper (or a comparison of papers) as the catalogue shows it.

    `symptoms`: short sentences that a person with the problem would say. `mixers`: components offered to comparisons.
    """

    slug: str
    area: str
    module: str
    folder: Path
    title: str
    title_zh: str
    authors: tuple[str, ...]
    year: int
    link: str
    digest: str
    tags: tuple[str, ...]
    symptoms: tuple[str, ...]
    summary: str
    summary_zh: str
    bibtex: str
    kind: str = "paper"
    mixers: tuple[Mapping[str, Any], ...] = ()

    def statements(self) -> list[dict[str, Any]]:
        """The claims in words: `id`, `text`, `source`, `paper` (the paper's number)."""
        path = self.folder / "claims.toml"
        return tomllib.loads(path.read_text())["claim"] if path.exists() else []

    def recorded(self) -> dict[str, dict[str, Any]]:
        """Stored results by scale, as `paperworks run --record` wrote them."""
        files = sorted((self.folder / "recorded").glob("run-*.json"))
        return {path.stem.removeprefix("run-"): json.loads(path.read_text()) for path in files}

    def state(self) -> str:
        """One line: how many claims hold in the best stored run, or that none is stored."""
        runs = self.recorded()
        scale = next((name for name in ("paper", "laptop", "demo") if name in runs), None)
        if scale is None:
            return "no stored run"
        states = [verdict["state"] for verdict in runs[scale]["verdicts"]]
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        return ", ".join(f"{count} {state}" for state, count in counts.items()) + f" ({scale})"

    def part(self, name: str) -> Any:
        """Import a part of the room (`study`, `apply`, `bench`).

        Raises:
            LookupError: the room has no such part.
        """
        if not (self.folder / f"{name}.py").exists():
            raise LookupError(f"{self.slug} has no {name}")
        return importlib.import_module(f"{self.module}.{name}")

    def has(self, name: str) -> bool:
        return (self.folder / f"{name}.py").exists()


def cards() -> list[Card]:
    """All cards, in the order of areas, then by slug."""
    return list(_index().values())


def find(slug: str) -> Card:
    """The card of a slug.

    Raises:
        UnknownPaper: with the nearest slugs.
    """
    index = _index()
    if slug in index:
        return index[slug]
    near = difflib.get_close_matches(slug, index, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`paperworks list` shows all"
    raise UnknownPaper(f"unknown paper {slug!r}; {hint}")


@functools.cache
def _index() -> dict[str, Card]:
    found = {card.slug: card for card in _own_cards()}
    for card in _foreign_cards():
        found.setdefault(card.slug, card)
    return found


def _own_cards() -> Iterator[Card]:
    root = Path(__file__).parent
    for area in AREAS:
        for path in sorted((root / area).glob("*/card.toml")):
            yield read_card(path.parent, module=f"paperworks.{area}.{path.parent.name}")


def _foreign_cards() -> Iterator[Card]:
    for entry in importlib.metadata.entry_points(group=GROUP):
        package = importlib.import_module(entry.value)
        for folder in map(Path, package.__path__):
            if (folder / "card.toml").exists():
                yield read_card(folder, module=entry.value)


def read_card(folder: Path, *, module: str) -> Card:
    """Read one room's card.

    Raises:
        ValueError: a field is missing or unknown; the message names the file.
    """
    path = folder / "card.toml"
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    for name in ("authors", "tags", "symptoms"):
        content[name] = tuple(content.get(name, ()))
    content["mixers"] = tuple(content.pop("mixer", ()))
    try:
        return Card(slug=folder.name, module=module, folder=folder, **content)
    except TypeError as error:
        raise ValueError(f"{path}: {str(error).replace('Card.__init__() ', '')}") from error
