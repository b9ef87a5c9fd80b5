"""Drawings for pages: matplotlib figures as reproducible SVG, and the bar that shows an interval and its margin."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from paperworks.lab.words import number, span

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

LARGEST_SVG = 300_000
_STYLE: dict[Any, Any] = {"svg.hashsalt": "paperworks", "svg.fonttype": "none"}
_METADATA = {"Date": None, "Creator": None}
_REFERENCES = re.compile(r'(\bid="|\bhref="#|url\(#)')


def svg(plot: Plot, *, limit: int = LARGEST_SVG) -> str:
    """The figure as an SVG element: the same text for the same figure, whenever and wherever it is drawn.

    Beyond `limit` characters its marks become a bitmap inside the SVG; axes and words stay text.
    """
    drawn = _draw(plot)
    if len(drawn) <= limit:
        return drawn
    marks = [artist for axes in plot.axes for artist in (*axes.collections, *axes.lines, *axes.patches)]
    before = [artist.get_rasterized() for artist in marks]
    try:
        for artist in marks:
            artist.set_rasterized(True)
        return _draw(plot)
    finally:
        for artist, value in zip(marks, before, strict=True):
            artist.set_rasterized(value)


def _draw(plot: Plot) -> str:
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context(_STYLE):
        plot.savefig(stream, format="svg", bbox_inches="tight", dpi=150, metadata=_METADATA)
    text = stream.getvalue()
    return re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def inline(drawn: str, name: str, caption: str) -> Markup:
    """An SVG for use inside a page: fluid, described, and with ids of its own, since a page has several."""
    head, rest = drawn.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    width = re.search(r'viewBox="0 0 ([\d.]+)', head)
    style = f' style="max-width:{float(width.group(1)) * 96 / 72:.0f}px"' if width else ""
    words = f'{head}{style} role="img" aria-label="{escape(caption)}">'
    prefix = re.sub(r"\W", "-", name) + "-"
    return Markup(words) + Markup(_REFERENCES.sub(rf"\g<1>{prefix}", rest))


def interval_bar(finding: Mapping[str, Any], *, decides: bool = True) -> Markup:
    """An interval with its estimate and margins as a fluid SVG: positions in per cent, so that words keep their size.

    Green: where the condition holds; red: where it is refuted. An infinite bound (None) ends in an arrow; an infinite
    margin, which nothing can cross, is not drawn.
    """
    low, high, estimate = finding["low"], finding["high"], finding["estimate"]
    margin, refuting = finding["at_least"], finding["refuting"]
    place = _scale([value for value in (low, high, estimate, margin, refuting) if value is not None])
    left = 1.0 if low is None else place(low)
    right = 99.0 if high is None else place(high)
    two_margins = decides and refuting is not None and refuting != margin
    parts = [_line(0, 100, "axis")]
    if decides and margin is not None:
        parts.append(_zone("zone-holds", place(margin), 100))
    if decides and refuting is not None:
        parts.append(_zone("zone-refuted", 0, place(refuting)))
    if margin is not None:
        parts += _margin(place(margin), 9, f"holds from {number(margin)}" if decides else number(margin))
    if two_margins and refuting is not None:
        parts += _margin(place(refuting), 46, f"refuted below {number(refuting)}")
    parts += [
        _line(left, right, "interval"),
        _end(left, low is None, "left"),
        _end(right, high is None, "right"),
        f'<circle class="estimate" cx="{place(estimate):.2f}%" cy="24" r="4.5"/>',
    ]
    words = f"{number(estimate)}, 95 % interval {span(low, high)}, margin {number(margin)}"
    size = f'width="100%" height="{50 if two_margins else 38}"'
    return Markup(f'<svg class="bar" {size} role="img" aria-label="{escape(words)}">{"".join(parts)}</svg>')


def _scale(values: list[float]) -> Callable[[float], float]:
    """Maps values to per cent of the width, with room at both sides."""
    low, high = min(values), max(values)
    spread = (high - low) or max(abs(high) * 0.2, 1e-9)
    middle = (high + low) / 2
    return lambda value: 50 + 76 * (value - middle) / spread


def _zone(name: str, left: float, right: float) -> str:
    return f'<rect class="{name}" x="{left:.2f}%" y="13" width="{right - left:.2f}%" height="22"/>'


def _margin(x: float, y: float, text: str) -> list[str]:
    """A dashed tick with its words at height `y`."""
    anchor = "start" if x < 30 else "end" if x > 70 else "middle"
    label = f'<text x="{x:.2f}%" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
    return [_tick(x, 13, 35, "margin"), label]


def _line(left: float, right: float, name: str) -> str:
    return f'<line class="{name}" x1="{left:.2f}%" x2="{right:.2f}%" y1="24" y2="24"/>'


def _tick(x: float, top: float, bottom: float, name: str) -> str:
    return f'<line class="{name}" x1="{x:.2f}%" x2="{x:.2f}%" y1="{top}" y2="{bottom}"/>'


def _end(x: float, infinite: bool, side: str) -> str:
    if not infinite:
        return _tick(x, 19, 29, "interval")
    # An SVG nested at a percentage gives the arrow a fixed size in pixels.
    points = "0,0 9,-5 9,5" if side == "left" else "0,0 -9,-5 -9,5"
    return f'<svg x="{x:.2f}%" y="24" overflow="visible"><polygon class="estimate" points="{points}"/></svg>'
