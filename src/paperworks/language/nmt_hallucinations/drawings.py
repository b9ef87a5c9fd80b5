"""The figures of the study: ROC curves, densities, what repairs did, and risk against length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperworks.lab.study import Figure
from paperworks.language.nmt_hallucinations.views import groups, names_of, whole, word

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

OUTCOMES = ("correct", "other error", "hallucination")
BLUE, ORANGE, GREY, RED = "#2a6fbb", "#c8501e", "#8a9099", "#b3261e"


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Plot

    plot = Plot(figsize=(width, height), layout="constrained")
    axis = plot.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return plot, axis


SHOWN = (
    "seq_logprob",
    "comet",
    "comet_qe",
    "chrf++",
    "alti",
    "labse",
    "mc_dissimilarity",
    "attention_to_eos",
    "ignored_source",
    "attention_transport",
    "top_ngram",
    "repeated_target",
)


def draw_roc(frame: pd.DataFrame) -> Plot | None:
    """ROC curves, averaged over seeds, with the line of 90 % recall."""
    from matplotlib.figure import Figure as Plot

    judged = groups(frame)
    if not judged:
        return None
    plot = Plot(figsize=(4.2 * len(judged), 4.6), layout="constrained")
    for axis, (title, rows) in zip(np.atleast_1d(plot.subplots(1, len(judged))), judged, strict=True):
        for place, name in enumerate(name for name in SHOWN if f"roc_{name}" in rows and whole(rows, f"roc_{name}")):
            curve = np.mean(np.stack(list(rows[f"roc_{name}"])), axis=0)
            wide = name == "seq_logprob"
            axis.plot(
                np.linspace(0, 1, len(curve)),
                curve,
                lw=2.4 if wide else 1.2,
                color="black" if wide else f"C{place % 10}",
                ls="-" if place < 10 else "--",
                label=f"{word(name)} {rows[f'auroc_{name}'].mean():.2f}",
            )
        axis.axhline(0.9, color=GREY, lw=1, ls=":")
        axis.plot([0, 1], [0, 1], color=GREY, lw=0.7)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("false-positive rate")
        axis.set_ylabel("share of hallucinations found")
        axis.legend(fontsize=7, loc="lower right")
        axis.spines[["top", "right"]].set_visible(False)
    return plot


def draw_densities(frame: pd.DataFrame) -> Plot | None:
    """How Seq-Logprob (or the first detector there is) is distributed in each category."""
    from matplotlib.figure import Figure as Plot

    judged = [(title, rows) for title, rows in groups(frame) if "shown_risk" in rows]
    if not judged:
        return None
    plot = Plot(figsize=(4.2 * len(judged), 3.2), layout="constrained")
    for axis, (title, rows) in zip(np.atleast_1d(plot.subplots(1, len(judged))), judged, strict=True):
        row = rows.iloc[0]
        risk, member = row["shown_risk"], row["shown_member"]
        low, high = np.quantile(risk, [0.002, 0.998])
        edges = np.linspace(low, high, 41)
        parts = {"not hallucinated": ~member[0]} | dict(zip(names_of(row, "categories"), member, strict=True))
        for place, (name, rows_of) in enumerate(parts.items()):
            if rows_of.sum() >= 10:
                axis.hist(
                    np.clip(risk[rows_of], edges[0], edges[-1]),
                    bins=edges,
                    density=True,
                    histtype="step",
                    lw=2 if place < 2 else 1.1,
                    color=f"C{place}",
                    label=f"{name} ({rows_of.sum()})",
                )
        axis.set_xlabel(f"risk by {word(str(row['shown']))}")
        axis.set_ylabel("density")
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return plot


def draw_flow(frame: pd.DataFrame) -> Plot | None:
    """Before and after: what people said of the outputs, and what became of the hallucinated ones."""
    human = frame[frame["kind"] == "repairs"]
    if human.empty:
        return None
    plot, axis = _axes(6.2, 2.6)
    row = human.iloc[0]
    bars = [("before", row["flow_comet"].sum(1))]
    bars += [
        (f"{name}", row[f"flow_{system}"].sum(0))
        for system, name in (("comet", "COMET-QE"), ("alti", "ALTI"), ("labse", "LaBSE"))
    ]
    colours = ("#54a24b", "#eeca3b", RED)
    for place, (_, counts) in enumerate(bars):
        left = 0
        for outcome, colour, count in zip(OUTCOMES, colours, counts, strict=True):
            axis.barh(place, count, left=left, color=colour, label=outcome if place == 0 else None, height=0.7)
            axis.text(left + count / 2, place, str(int(count)), ha="center", va="center", fontsize=8)
            left += count
    axis.set_yticks(range(len(bars)), [name for name, _ in bars])
    axis.invert_yaxis()
    axis.set_xlabel("sources")
    axis.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.45, 1.22), frameon=False)
    return plot


def draw_controls(frame: pd.DataFrame) -> Plot | None:
    """The toy language: hallucinations among suspect outputs before repair, after it, and after the controls."""
    toy = frame[frame["kind"] == "toy"]
    if toy.empty or "rate_before" not in toy:
        return None
    plot, axis = _axes(6.2, 3.0)
    names = {
        "before": "before",
        "after": "DeHallucinator",
        "random": "random draw",
        "second": "beam's second",
        "oracle": "best draw there is",
    }
    for shift, (training, rows) in enumerate(toy.groupby("training", sort=False)):
        means = [rows[f"rate_{name}"].mean() for name in names]
        spread = [rows[f"rate_{name}"].std(ddof=0) for name in names]
        axis.bar(
            np.arange(len(names)) + 0.4 * shift,
            means,
            yerr=spread,
            width=0.38,
            label=f"{training} training pairs",
            color=(BLUE, ORANGE)[shift % 2],
        )
    axis.set_xticks(np.arange(len(names)) + 0.2, list(names.values()), fontsize=8)
    axis.set_ylabel("share hallucinated")
    axis.set_ylim(0, 1)
    axis.legend(fontsize=8)
    return plot


def draw_length(frame: pd.DataFrame) -> Plot | None:
    """Risk against the length of the source."""
    from matplotlib.figure import Figure as Plot

    judged = [(title, rows) for title, rows in groups(frame) if "source_length" in rows]
    if not judged:
        return None
    plot = Plot(figsize=(4.2 * len(judged), 3.2), layout="constrained")
    for axis, (title, rows) in zip(np.atleast_1d(plot.subplots(1, len(judged))), judged, strict=True):
        row = rows.iloc[0]
        bad = row["shown_member"][0]
        for chosen, colour, label in ((~bad, GREY, "not hallucinated"), (bad, RED, "hallucinated")):
            axis.plot(
                row["source_length"][chosen],
                row["shown_risk"][chosen],
                ".",
                ms=2.5,
                color=colour,
                label=label,
                alpha=0.6,
            )
        axis.set_xlabel("words of the source")
        axis.set_ylabel(f"risk by {word(str(row['shown']))}")
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return plot


FIGURES = (
    Figure("roc", "ROC of each detector on any hallucination (legend: AUROC); dotted: nine in ten found.", draw_roc),
    Figure("densities", "Risks by category (first seed); the wider apart, the better.", draw_densities),
    Figure("flow", "What three people said of 201 outputs before repair and after reranking ten draws.", draw_flow),
    Figure(
        "controls",
        "Toy language: hallucinations among suspect outputs (bars: standard deviation over seeds).",
        draw_controls,
    ),
    Figure("length", "Risk against length of the source (first seed).", draw_length),
)
