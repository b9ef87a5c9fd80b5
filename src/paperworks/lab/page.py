"""Pages that `apply` writes: one HTML file each on the skeleton of the reports, light and dark, nothing fetched.

A room keeps a template that begins with `{% extends "page.html" %}`, fills the blocks `title`, `style` (its own rules)
and `body`, and may `{% import "parts.html" as parts with context %}` for the tables of a report.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paperworks.lab import report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render(folder: Path, template: str, **content: Any) -> str:
    """The page from `folder/template`; whatever is put into it is escaped, and a name without a value is an error."""
    return report.jinja(folder).get_template(template).render(css=report.css(), **content)


def figure(name: str, caption: str, plot: Figure, *, wide: bool = False) -> dict[str, Any]:
    """A figure for a template: `name`, `caption`, `svg`, `wide`."""
    from paperworks.lab.drawing import inline, svg

    with warnings.catch_warnings():
        # Words stay text in the page, so it is the reader's fonts that count, not those here.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        drawn = svg(plot)
    return {"name": name, "caption": caption, "svg": inline(drawn, name, caption), "wide": wide}
