"""What the study shows: figures and tables over the trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperworks.lab.baseline import is_baseline
from paperworks.lab.study import Figure, Table
from paperworks.lab.words import mean_and_half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot

COLOURS = {
    "ssl_hsic": "#1f77b4", "ssl_hsic_target": "#17becf", "simclr": "#d62728", "byol": "#ff7f0e", "gamma0": "#7f7f7f",
}  # fmt: skip
NAMES = {
    "ssl_hsic": "SSL-HSIC", "ssl_hsic_target": "SSL-HSIC, target", "simclr": "SimCLR (InfoNCE)", "byol": "BYOL",
    "gamma0": "SSL-HSIC, gamma = 0", "random_init": "untrained backbone", "pixels": "pixels",
    "blurred_pixels": "blurred pixels", "supervised": "supervised",
}  # fmt: skip


def name_of(arm: object) -> str:
    """An arm in words."""
    return str(arm).rsplit(":", 1)[-1].split("@")[0] if is_baseline(arm) else NAMES.get(str(arm), str(arm))


def _part(frame: pd.DataFrame, part: str, *columns: str) -> pd.DataFrame:
    """The rows of a part that have all of these columns."""
    rows = frame[frame["part"] == part]
    if any(name not in rows for name in columns):
        return rows[:0]
    return rows.dropna(subset=list(columns)) if columns else rows


def _cell(rows: pd.DataFrame, column: str, form: str = "{:.3f}") -> str:
    """Mean and half the width of the 95 % t interval."""
    values = rows[column].dropna() if column in rows else pd.Series(dtype=float)
    return "" if values.empty else mean_and_half_width(values, form)


# Tables --------------------------------------------------------------------------------------------------------------


def results_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Every arm and reference."""
    rows = frame[frame["part"].isin(["train", "reference"])]
    if rows.empty:
        return None
    table = [
        {
            "arm": name_of(arm),
            "linear": _cell(cell, "accuracy"),
            "neighbours": _cell(cell, "knn"),
            "effective rank": _cell(cell, "effective_rank", "{:.1f}"),
            "alignment": _cell(cell, "alignment"),
            "uniformity": _cell(cell, "uniformity", "{:.2f}"),
            "CPU seconds": f"{cell['cpu_seconds'].mean():.1f}",
        }
        for arm, cell in rows.groupby("arm", sort=False)
    ]
    return pd.DataFrame(table)


def tuning_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """All trials of the equal search: of this run, where it is one, else those behind the tuned settings."""
    from paperworks.representation.ssl_hsic.tuning import KNOBS, search_rows

    searched = _part(frame, "search", "search_rates")
    found: list[tuple[str, float, float, np.ndarray]] = []
    for _, row in searched.iterrows():
        numbers = zip(row["search_rates"], row["search_values"], row["search_accuracies"], strict=True)
        found += [(str(row["arm"]), *each) for each in numbers]
    if searched.empty and not _part(frame, "train").empty:
        found = [
            (trial["arm"], trial["rate"], trial[KNOBS[trial["arm"]][0]], np.array(trial["accuracy"]))
            for trial in search_rows()
        ]
    if not found:
        return None
    best = {arm: max(np.mean(scores) for name, *_, scores in found if name == arm) for arm, *_ in found}
    table = [
        {
            "arm": name_of(arm),
            "rate": f"{rate:g}",
            "its own": "" if KNOBS[arm][0] == "rate" else f"{KNOBS[arm][0]} {value:g}",
            "linear, mean": f"{np.mean(scores):.3f}",
            "by pilot seed": ", ".join(f"{score:.3f}" for score in scores),
            "best": "*" if np.mean(scores) == best[arm] else "",
        }
        for arm, rate, value, scores in found
    ]
    return pd.DataFrame(table)


def ablation_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """SSL-HSIC with one thing changed."""
    rows = _part(frame, "ablation")
    if rows.empty:
        return None
    table = [
        {
            "changed": "" if factor == "none" else str(factor),
            "to": str(level),
            "linear": _cell(cell, "accuracy"),
            "neighbours": _cell(cell, "knn"),
            "effective rank": _cell(cell, "effective_rank", "{:.1f}"),
        }
        for (factor, level), cell in rows.groupby(["factor", "level"], sort=False)
    ]
    return pd.DataFrame(table)


# Figures -------------------------------------------------------------------------------------------------------------


def _figure(columns: int = 1, *, width: float = 4.4, height: float = 3.2) -> tuple[Plot, Sequence[Axes]]:
    from matplotlib.figure import Figure as Plot

    plot = Plot(figsize=(width * columns + (1.2 if columns == 1 else 0), height), layout="constrained")
    axes = np.atleast_1d(plot.subplots(1, columns))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return plot, list(axes)


def _mean_curve(axis: Axes, cell: pd.DataFrame, column: str, *, style: str = "-", label: str | None = None) -> None:
    """Mean over seeds against images seen, with the range."""
    curves = np.stack(list(cell[column]))
    if not np.isfinite(curves).any():
        return
    known = np.isfinite(curves).any(axis=0)
    x, arm, curves = cell["curve_images"].iloc[0][known], str(cell["arm"].iloc[0]), curves[:, known]
    colour = COLOURS.get(arm, "black")
    axis.plot(x, np.nanmean(curves, axis=0), style, color=colour, label=label, marker="o", ms=3)
    if len(curves) > 1:
        axis.fill_between(x, np.nanmin(curves, 0), np.nanmax(curves, 0), color=colour, alpha=0.15, linewidth=0)


def draw_accuracy(frame: pd.DataFrame) -> Plot | None:
    """Neighbours' accuracy against images seen; the untrained backbone as a line."""
    rows = _part(frame, "train", "curve_knn")
    if rows.empty:
        return None
    plot, (axis,) = _figure()
    for arm, cell in rows.groupby("arm", sort=False):
        _mean_curve(axis, cell, "curve_knn", label=name_of(arm))
    for name, style in (("random_init", ":"), ("blurred_pixels", "--")):
        level = frame[(frame["part"] == "reference") & (frame["arm"] == name)]
        if len(level) and "knn" in level:
            axis.axhline(float(level["knn"].mean()), ls=style, color="grey", lw=1, label=NAMES[name])
    axis.set_xlabel("images seen")
    axis.set_ylabel("neighbours' accuracy, part of the images")
    axis.legend(fontsize=7, frameon=False)
    return plot


def draw_terms(frame: pd.DataFrame) -> Plot | None:
    """Both HSIC terms of every arm, and SSL-HSIC's width beside the batch's optimum."""
    rows = _part(frame, "train", "curve_hsic_zy")
    if rows.empty:
        return None
    plot, axes = _figure(3, width=3.6)
    for arm, cell in rows.groupby("arm", sort=False):
        _mean_curve(axes[0], cell, "curve_hsic_zy", label=name_of(arm))
        _mean_curve(axes[1], cell, "curve_root_hsic_zz")
        if arm in ("ssl_hsic", "ssl_hsic_target", "gamma0"):
            _mean_curve(axes[2], cell, "curve_width", label=f"{name_of(arm)}, used")
            _mean_curve(axes[2], cell, "curve_best_width", style=":")
    for axis, words in zip(
        axes, ("HSIC(Z, Y)", "root of HSIC(Z, Z)", "kernel width c; dotted: the optimum"), strict=True
    ):
        axis.set_xlabel("images seen")
        axis.set_title(words, fontsize=9)
    axes[0].legend(fontsize=6, frameon=False)
    return plot


def draw_spread(frame: pd.DataFrame) -> Plot | None:
    """Bias and spread of the estimate of HSIC(Z, Z) against the number of features."""
    rows = _part(frame, "estimators", "spread_features")
    if rows.empty:
        return None
    row: Any = rows.iloc[0]
    plot, axes = _figure(2)
    labels = ("two draws, sines and cosines (ours)", "two draws, phases (the paper's)", "one draw for both factors")
    exact = float(row["spread_exact"][0])
    for index, (label, colour) in enumerate(zip(labels, ("#1f77b4", "#2ca02c", "#d62728"), strict=True)):
        axes[0].plot(row["spread_features"], row["spread_bias"][index] / exact, "o-", ms=3, color=colour, label=label)
        axes[1].plot(row["spread_features"], row["spread_zz"][index] / exact, "o-", ms=3, color=colour)
    axes[0].axhline(0, color="grey", lw=0.8)
    axes[1].set_yscale("log")
    for axis, words in zip(axes, ("bias", "standard deviation"), strict=True):
        axis.set_xscale("log", base=2)
        axis.set_xlabel("random features")
        axis.set_title(f"{words} of HSIC(Z, Z), relative", fontsize=9)
    axes[0].legend(fontsize=7, frameon=False)
    return plot


def draw_infonce(frame: pd.DataFrame) -> Plot | None:
    """InfoNCE less log B and its second-order expansion on trained features, against the temperature."""
    from paperworks.representation.ssl_hsic.training import TEMPERATURES

    rows = _part(frame, "train", "infonce")
    rows = rows[rows["arm"].isin(["simclr", "ssl_hsic"])]
    if rows.empty:
        return None
    plot, (axis,) = _figure()
    for arm, cell in rows.groupby("arm", sort=False):
        exact, expansion = np.mean(np.stack(list(cell["infonce"])), axis=0)
        axis.plot(TEMPERATURES, exact, "o-", ms=3, color=COLOURS[str(arm)], label=f"{name_of(arm)}: InfoNCE - log B")
        axis.plot(TEMPERATURES, expansion, "s:", ms=3, color=COLOURS[str(arm)], label=f"{name_of(arm)}: second order")
    axis.set_xscale("log")
    axis.set_yscale("symlog", linthresh=1)
    axis.set_xlabel("temperature")
    axis.set_ylabel("loss")
    axis.legend(fontsize=7, frameon=False)
    return plot


def draw_mmd(frame: pd.DataFrame) -> Plot | None:
    """MMD^2 between the views of test images, first seed: what HSIC(Z, Y) is the mean of."""
    rows = _part(frame, "train", "mmd")
    rows = rows[rows["arm"].isin(["ssl_hsic", "gamma0", "simclr"])]
    if rows.empty:
        return None
    rows = rows[rows["seed"] == rows["seed"].min()]
    plot, axes = _figure(len(rows), width=3.0, height=2.9)
    most = max(float(gaps.max()) for gaps in rows["mmd"])
    for axis, (_, row) in zip(axes, rows.iterrows(), strict=True):
        shown = axis.imshow(row["mmd"], vmin=0, vmax=most, cmap="viridis")
        axis.set_title(name_of(row["arm"]), fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    plot.colorbar(shown, ax=list(axes), label="squared MMD")  # pyright: ignore[reportPossiblyUnboundVariable]
    return plot


FIGURES = (
    Figure("accuracy", "Accuracy of neighbours during training, mean and range over seeds.", draw_accuracy),
    Figure(
        "terms",
        "The loss terms on two views of the same images, at each arm's own width (others: the batch's optimum), and "
        "the width of the kernel.",
        draw_terms,
    ),
    Figure("spread", "Random features in place of the exact terms: bias and spread over 60 draws.", draw_spread),
    Figure("infonce", "InfoNCE and its expansion, which is a dependence with a penalty on variance.", draw_infonce),
    Figure(
        "mmd",
        "Each cell: squared MMD between the views of two test images. Half the mean over all pairs is N HSIC(Z, Y).",
        draw_mmd,
    ),
)
TABLES = (
    Table("results", "Frozen features: mean over seeds and half width of the 95 % t interval.", results_table),
    Table("tuning", "The equal search on pilot seeds.", tuning_table),
    Table("ablation", "SSL-HSIC with one thing changed.", ablation_table),
)
