"""What is written when the documentation is built: a page per paper, the catalogue, the problems, the commands."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docstrings import prose, reference
from paper_page import SHARED, figures, one_line, page

from paperworks.catalog import AREAS, Card, cards


def setup(app: Any) -> dict[str, Any]:
    app.connect("builder-inited", lambda app: write_all(Path(app.srcdir) / "papers", own_cards()))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def own_cards() -> list[Card]:
    """The cards of this package; rooms that joined from outside have their own documentation."""
    return [card for card in cards() if card.module.startswith("paperworks.")]


def write_all(folder: Path, known: Sequence[Card]) -> None:
    """Write all generated files; what is unchanged is not touched, what is no longer made is removed."""
    files: dict[str, bytes] = {"index.md": catalogue(known).encode()}
    files |= {f"{card.slug}.md": page(card).encode() for card in known}
    files |= {name: path.read_bytes() for card in known for name, path in figures(card).items()}
    files |= {"shared.inc": shared().encode(), "symptoms.inc": symptoms(known).encode()}
    files |= {"commands.inc": commands().encode()}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in files:
            path.unlink()


def catalogue(known: Sequence[Card]) -> str:
    """All papers with the state of their claims, by area."""
    lines = ["# Catalogue", "", "The state is that of the best stored run; programs write it, nobody else.", ""]
    lines += ["| paper | area | claims |", "| --- | --- | --- |"]
    for card in sorted(known, key=lambda card: (AREAS.index(card.area), card.slug)):
        title = f"[{_cell(card.title)}]({card.slug}.md)<br>{_cell(card.title_zh)}"
        lines.append(f"| {title} | {card.area} | {_cell(card.state())} |")
    toctree = ["```{toctree}", ":hidden:", "", *(f"{card.slug} <{card.slug}>" for card in known), "```"]
    return "\n".join([*lines, "", *toctree, ""])


def symptoms(known: Sequence[Card]) -> str:
    """Problems and the papers that answer them, for a page beside the folder."""
    rows = [
        f"| {_cell(symptom)} | [{card.slug}](papers/{card.slug}.md) |" for card in known for symptom in card.symptoms
    ]
    return "\n".join(["| you say | look at |", "| --- | --- |", *rows, ""])


def shared() -> str:
    """The public names of the packages that papers share."""
    parts = []
    for module in SHARED:
        package = importlib.import_module(module)
        public = [name for name in getattr(package, "__all__", ()) if not name.startswith("_")]
        if public:
            parts.append(f"## {module}")
            parts += [reference(f"{module}.{name}", getattr(package, name)) for name in public]
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """The help of every command, as the command line prints it."""
    os.environ["COLUMNS"] = "88"
    from paperworks.cli import build_parser

    parser = build_parser()
    action = next(item for item in parser._actions if isinstance(item, argparse._SubParsersAction))
    return "\n\n".join(
        f"## {name}\n\n```text\n{command.format_help().strip()}\n```" for name, command in action.choices.items()
    )


def _cell(text: str) -> str:
    return prose(one_line(text))
