"""Explained texts as a page: tokens coloured by each method, and the interval of all maximum flows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from paperworks.evaluation.attention_flow.report import MODEL_METHODS, NAMES, FlowReport
from paperworks.lab import page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
TRIVIAL = 0.9
NOTES = {
    "flow": "each token by itself",
    "model_shapley": "share of the prediction's probability",
    "model_loo": "fall of the prediction's probability",
    "gradient": "of the prediction's probability",
}
INTERVAL, PHI, ROLLOUT = "#b9bfc7", "#2a6fbb", "#c8501e"


def render(
    reports: Sequence[FlowReport],
    *,
    title: str,
    headings: Sequence[str] = (),
    findings: Sequence[str] = (),
    facts: Mapping[str, str] | None = None,
) -> str:
    """A page about some texts; `findings` are said at its top, `facts` (how it was made) at its end."""
    return page.render(
        TEMPLATES,
        "report.html",
        title=title,
        findings=findings,
        facts=facts or {},
        legend=_legend(reports),
        texts=[_text(report, number, headings[number] if headings else "") for number, report in enumerate(reports)],
        tokens_css=_asset("tokens.css"),
        script=_asset("tokens.js"),
    )


def fragment(report: FlowReport) -> str:
    """One text without a page around it, for notebooks."""
    return page.render(TEMPLATES, "fragment.html", text=_text(report, 0, ""), tokens_css=_asset("tokens.css"))


def _asset(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def draw_intervals(report: FlowReport) -> Figure:
    """Every token's interval [LOO, flow] over all maximum flows; dots: Shapley value and rollout."""
    from matplotlib.figure import Figure

    count = len(report.tokens)
    figure = Figure(figsize=(6.4, 1.1 + 0.23 * count), layout="constrained")
    axes = figure.subplots()
    place = np.arange(count)[::-1]
    axes.hlines(place, report.low, report.high, color=INTERVAL, linewidth=6, label="every maximum flow")
    if "shapley" in report.values:
        axes.plot(report.values["shapley"], place, "o", color=PHI, markersize=5, label="Shapley value")
    if "rollout" in report.values:
        axes.plot(report.values["rollout"], place, "D", color=ROLLOUT, markersize=4, label="rollout")
    axes.set_yticks(place, [plain(token) for token in report.tokens], fontsize=8)
    axes.set_ylim(-0.7, count - 0.3)
    axes.set_xlim(left=min(0.0, float(report.low.min())) - 0.01)
    axes.set_xlabel("flow that arrives at the token (all tokens together: 1)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3)
    return figure


def plain(token: str) -> str:
    """A token for a figure: short, visible, and not read as mathematics."""
    words = (token.strip() or "␣").replace("$", r"\$")
    return words if len(words) <= 18 else f"{words[:17]}…"


def _text(report: FlowReport, number: int, heading: str) -> dict[str, Any]:
    trivial = float(report.degeneracy.trivial_share.mean())
    caption = "Every maximum flow gives a token something within its bar; Shapley value and rollout are two of them."
    name = f"intervals-{number}"
    return {
        "heading": heading,
        "label": report.label,
        "probability": None if math.isnan(report.probability) else f"{report.probability:.3f}",
        "cut": report.cut,
        "degeneracy": str(report.degeneracy),
        "trivial": trivial >= TRIVIAL,
        "strips": [_strip(report, method) for method in report.values],
        "rows": [
            [token.strip() or "␣", *(f"{values[place]:.4f}" for values in report.values.values()),
             f"{report.low[place]:.4f}", f"{report.high[place]:.4f}"]
            for place, token in enumerate(report.tokens)
        ],
        "columns": ["token", *(NAMES[method] for method in report.values), "least in a maximum flow", "most"],
        "correlations": [
            (NAMES[name], "ranks nothing" if math.isnan(value) else f"{value:.2f}")
            for name, value in report.correlations().items()
        ],
        "svg": page.figure(name, caption, draw_intervals(report))["svg"],
        "caption": caption,
    }  # fmt: skip


def _strip(report: FlowReport, method: str) -> dict[str, Any]:
    """Tokens with the strength of their colour, 0 to 1, relative to the strongest of the method."""
    values = report.values[method]
    counted = values if method not in MODEL_METHODS else values[report.players]
    largest = float(np.abs(counted).max()) or 1.0
    stderr = report.stderr if method == "model_shapley" else None
    tokens = []
    for place, token in enumerate(report.tokens):
        error = f" ± {stderr[place]:.4f}" if stderr is not None and stderr[place] > 0 else ""
        tokens.append(
            {
                "words": token.strip() or "␣",
                "space": token.startswith(" "),
                "strength": f"{min(1.0, abs(values[place]) / largest):.3f}",
                "sign": "minus" if values[place] < 0 else "plus",
                "said": f"{token.strip()}: {values[place]:.4f}{error}",
                "place": place,
            }
        )
    note = f"{NOTES.get(method, 'shares of 1')}, strongest {largest:.3f}"
    return {"name": NAMES[method], "note": note, "tokens": tokens}


def _legend(reports: Sequence[FlowReport]) -> bool:
    """Whether some method has signs."""
    return any(method in report.values for report in reports for method in MODEL_METHODS)
