"""What the study shows: F1, recall against distance, costs, and the model that it leaves behind for a user."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from paperworks.lab.study import Figure, Loaded, Table
from paperworks.lab.words import mean_and_half_width
from paperworks.testing import cost_exponent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

NAMES = {
    "window": "window",
    "window_wide": "wide window",
    "poolingformer": "Poolingformer",
    "full": "full attention",
    "mean": "mean pooling",
    "max": "max pooling",
    "stride_2": "stride 2",
    "from_x": "second level reads x",
    "no_residual": "no residual",
}
COLOURS = {"window": "#7f7f7f", "window_wide": "#1f77b4", "poolingformer": "#d62728", "full": "#2ca02c"}
BINS = (8, 16, 32, 64, 128, 256, 512)  # upper ends, as the probe counts them


def _part(frame: pd.DataFrame, part: str) -> pd.DataFrame:
    return frame[frame["part"] == part]


def _timed(frame: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    rows = _part(frame, "cost")
    arms = [name for name in NAMES if f"{name}_ms" in rows and rows[f"{name}_ms"].notna().any()]
    return arms, rows


def f1_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """F1 and cost of training per arm, with an interval over documents within the first seed beside that over seeds."""
    lines = []
    for (arm, rate), cell in _part(frame, "text").groupby(["arm", "rate"], sort=False):
        low, high = documents_interval(cell.sort_values("seed").iloc[0])
        lines.append(
            {
                "arm": NAMES.get(str(arm), str(arm)),
                "rate": f"{rate:g}",
                "seeds": len(cell),
                "micro-F1": mean_and_half_width(cell["micro_f1"]),
                "one seed, over documents": f"{low:.3f} to {high:.3f}",
                "macro-F1": mean_and_half_width(cell["macro_f1"]),
                "dev": f"{cell['dev_micro_f1'].mean():.3f}",
                "test": f"{cell['test_micro_f1'].mean():.3f}",
                "held out": f"{cell['held_micro_f1'].mean():.3f}",
                "tokens a second": f"{cell['tokens_per_second'].mean():,.0f}",
                "parameters": f"{cell['parameters'].iloc[0]:,.0f}",
            }
        )
    return pd.DataFrame(lines) if lines else None


def documents_interval(row: pd.Series, *, draws: int = 1000) -> tuple[float, float]:
    """A 95 % bootstrap interval of micro-F1 over documents, of one trial."""
    right, document = np.asarray(row["labels"] == row["predictions"], dtype=float), np.asarray(row["document"])
    each, size = np.bincount(document, right), np.bincount(document)
    drawn = np.random.default_rng(0).integers(len(size), size=(draws, len(size)))
    scores = each[drawn].sum(1) / size[drawn].sum(1)
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)


def cost_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Milliseconds and MiB of one sublayer, forward and backward, and the exponents from 2,048 tokens on."""
    arms, rows = _timed(frame)
    if not arms:
        return None
    lines = []
    for length, cell in rows.groupby("length"):
        line: dict[str, object] = {"length": f"{length:.0f}"}
        for arm in arms:
            ms, size = cell[f"{arm}_ms"].mean(), cell[f"{arm}_bytes"].mean()
            line[f"{NAMES[arm]}, ms"] = "–" if np.isnan(ms) else f"{ms:.1f}"
            line[f"{NAMES[arm]}, MiB"] = "–" if np.isnan(size) else f"{size / 2**20:.1f}"
        lines.append(line)
    long = rows[rows["length"] >= 2048].groupby("length").mean(numeric_only=True)
    exponents: dict[str, object] = {"length": "exponent"}
    for arm in arms:
        for unit, column in (("ms", f"{arm}_ms"), ("MiB", f"{arm}_bytes")):
            known = long[column].dropna() if len(long) else long
            enough = len(known) > 2
            found = cost_exponent(known.index.tolist(), known.tolist()) if enough else np.nan
            exponents[f"{NAMES[arm]}, {unit}"] = f"{found:.2f}" if enough else "–"
    return pd.DataFrame([*lines, exponents])


def draw_f1(frame: pd.DataFrame) -> Plot | None:
    """Micro-F1 of every seed, and the mean."""
    from matplotlib.figure import Figure as Plot

    rows = _part(frame, "text")
    if rows.empty:
        return None
    plot = Plot(figsize=(6.4, 3.2), layout="constrained")
    axis = plot.subplots()
    arms = list(dict.fromkeys(rows["arm"]))
    for place, arm in enumerate(arms):
        scores = rows.loc[rows["arm"] == arm, "micro_f1"]
        axis.plot([place] * len(scores), scores, ".", color=COLOURS.get(arm, "#9467bd"))
        axis.plot(place, scores.mean(), "_", ms=24, color=COLOURS.get(arm, "#9467bd"))
    axis.axhline(rows["majority"].mean(), ls=":", color="0.5", label="most frequent label")
    axis.set_xticks(range(len(arms)), [NAMES.get(str(arm), str(arm)) for arm in arms])
    axis.set(ylabel="micro-F1, dev and test")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return plot


def draw_recall(frame: pd.DataFrame) -> Plot | None:
    """Share of right answers of the recall probe against the distance of the pair."""
    from matplotlib.figure import Figure as Plot

    rows = _part(frame, "recall")
    if rows.empty:
        return None
    plot = Plot(figsize=(5.4, 3.2), layout="constrained")
    axis = plot.subplots()
    for arm, cell in rows.groupby("arm", sort=False):
        asked = np.ma.masked_invalid(np.stack(list(cell["by_distance"])))
        curve = asked.mean(axis=0).filled(np.nan)
        axis.plot(
            BINS[: len(curve)], curve, "o-", ms=4, color=COLOURS.get(str(arm)), label=NAMES.get(str(arm), str(arm))
        )
    axis.set(xscale="log", xlabel="distance at most, tokens", ylabel="recalled", ylim=(-0.02, 1.02))
    axis.set_xticks(BINS, [str(end) for end in BINS])
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return plot


def draw_cost(frame: pd.DataFrame) -> Plot | None:
    """Time and memory of one sublayer against length, both axes logarithmic."""
    from matplotlib.figure import Figure as Plot

    arms, rows = _timed(frame)
    if not arms:
        return None
    means = rows.groupby("length").mean(numeric_only=True)
    plot = Plot(figsize=(8.4, 3.4), layout="constrained")
    for axis, unit, scale in zip(plot.subplots(1, 2), ("ms", "bytes"), (1, 2**20), strict=True):
        for arm in arms:
            axis.plot(means.index, means[f"{arm}_{unit}"] / scale, "o-", ms=4, color=COLOURS.get(arm), label=NAMES[arm])
        what = "ms, forward + backward" if unit == "ms" else "MiB held at once"
        axis.set(xscale="log", yscale="log", xlabel="tokens", ylabel=what)
        axis.set_xticks(means.index, [f"{length:.0f}" for length in means.index])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    plot.axes[0].legend(frameon=False)
    return plot


def sentences(frame: pd.DataFrame) -> list[str]:
    """What the results rest on."""
    said = [
        "All arms have rotary positions alone; where a sentence stands in its document is worth much of the score to a "
        "model that is told, and here none is.",
        "Models are trained from scratch on some hundred thousand words; the paper's start from pre-trained ones.",
    ]
    if not _part(frame, "recall").empty:
        said.append(
            "Recall at a distance is learnt late and all at once, so a curve near zero may be a short training and not "
            "a short sight; no verdict rests on it."
        )
    return said


def keep_best_model(frame: pd.DataFrame, loaded: Loaded, folder: Path) -> Sequence[Path]:
    """On documents of one's own: the best arm's model of the first seed, as a folder for `SentenceLabeller.load`.

    The arm is chosen on the held-out part.
    """
    rows = _part(frame, "text")
    if rows.empty or not loaded.data["task"].own:
        return ()
    best = rows.groupby("arm")["held_micro_f1"].mean().idxmax()
    first = rows[rows["arm"] == best].sort_values("seed").iloc[0]
    kept, target = folder / f"trial-{first['key']}.files", folder / "model"
    names = ("tokenizer.json", "config.json", "model.safetensors")
    if not all((kept / name).is_file() for name in names):
        return ()
    target.mkdir(exist_ok=True)
    return [Path(shutil.copy2(kept / name, target / name)) for name in names]


FIGURES = (
    Figure("f1", "Micro-F1 over dev and test together, a point a seed.", draw_f1),
    Figure("recall", "Recall of a pair against its distance, one seed.", draw_recall),
    Figure("cost", "One attention sublayer against length, batch 1.", draw_cost),
)
TABLES = (
    Table("f1", "F1 of the labels of sentences.", f1_table),
    Table("cost", "One attention sublayer, forward and backward, batch 1.", cost_table),
)
