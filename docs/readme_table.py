"""The README's table of papers, from the cards and the stored results: `python docs/readme_table.py` writes it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from paperworks._files import write_atomic
from paperworks.catalog import Card, cards

README = Path(__file__).parents[1] / "README.md"
MARKS = re.compile(r"(<!-- papers:[^>]*-->\n).*?(<!-- /papers -->)", re.DOTALL)


def table(known: Sequence[Card]) -> str:
    """One row per paper: what it is, what to type, and what became of its claims."""
    rows = [f"| [{card.title}]({card.link}) | {_doors(card)} | {card.state()} |" for card in known]
    return "\n".join(["| paper | type | its claims, measured |", "| --- | --- | --- |", *rows, ""])


def _doors(card: Card) -> str:
    doors = [
        f"`paperworks {verb} {card.slug}`" for verb, part in (("run", "study"), ("apply", "apply")) if card.has(part)
    ]
    return "<br>".join(doors or [f"`from {card.module} import ...`"])


def filled(text: str) -> str:
    """The README with its table as it should be.

    Raises:
        ValueError: the marks between which the table belongs are missing.
    """
    if not MARKS.search(text):
        raise ValueError(f"{README.name}: expected '<!-- papers: ... -->' and '<!-- /papers -->' around the table")
    own = [card for card in cards() if card.module.startswith("paperworks.")]
    return MARKS.sub(lambda found: found.group(1) + table(own) + found.group(2), text)


def main() -> int:
    text = README.read_text(encoding="utf-8")
    if filled(text) == text:
        return 0
    if "--check" in sys.argv:
        print(f"{README.name} differs from the stored results; run `python docs/readme_table.py`", file=sys.stderr)
        return 1
    write_atomic(README, filled(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
