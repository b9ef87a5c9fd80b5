"""What the study shows: figures, tables, sentences, and the files it writes for a user's own images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperworks.lab.statistics import t_interval
from paperworks.lab.study import Figure, Loaded, Table
from paperworks.lab.words import mean_and_half_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

NAMES = {
    "source_only": "source only", "fixmatch": "FixMatch+", "adamatch": "AdaMatch",
    "no_interpolation": "no interpolation", "no_alignment": "no alignment", "true_law": "aligned to true labels",
    "fixed_threshold": "fixed threshold", "oracle": "oracle (target labels)",
    "fixmatch_twice": "FixMatch+, twice the steps",
    "public_ports": "as public ports have it",
}  # fmt: skip
COLOURS = {
    "source_only": "#7f7f7f", "fixmatch": "#d62728", "adamatch": "#1f77b4", "no_interpolation": "#ff7f0e",
    "no_alignment": "#2ca02c", "true_law": "#17becf", "fixed_threshold": "#9467bd", "oracle": "#000000",
    "fixmatch_twice": "#e377c2", "public_ports": "#8c564b",
}  # fmt: skip
PARTS = {
    "uda": "domain adaptation", "reference": "reference", "long_tail": "long-tailed target",
    "ssda": "semi-supervised domain adaptation", "ssl": "semi-supervised learning",
}  # fmt: skip
DIVERGED = 0.15
# With fewer masks open at the end, FixMatch+ is still on its way.
OPEN = 0.5


def _part(frame: pd.DataFrame, *parts: str) -> pd.DataFrame:
    return frame[frame["part"].isin(parts)]


def _first_pair(frame: pd.DataFrame) -> str:
    return str(frame["pair"].iloc[0])


def _lowest_seed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["seed"] == rows["seed"].min()]


def _with_half_width(values: Any) -> str:
    """Mean and half the width of the 95 % t interval, per cent."""
    return mean_and_half_width(100 * np.asarray(values, dtype=float), "{:.1f}")


def _share(values: pd.Series) -> str:
    kept = values.dropna()
    return "" if kept.empty else f"{kept.mean():.2f}"


# Tables --------------------------------------------------------------------------------------------------------------


def accuracy_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Every arm in every setting."""
    if "accuracy" not in frame or frame["accuracy"].dropna().empty:
        return None
    table = []
    for (part, pair, labels, arm), cell in frame.groupby(["part", "pair", "labels", "arm"], sort=False):
        table.append(
            {
                "setting": PARTS[str(part)],
                "data": str(pair).replace("_", " -> "),
                "labels per class": f"{labels:.0f}",
                "arm": NAMES[str(arm)],
                "target accuracy, %": _with_half_width(cell["accuracy"]),
                "masks open at the end": _share(cell["mask_rate"]),
                "of those right": _share(cell["pseudo_accuracy"]),
            }
        )
    return pd.DataFrame(table)


def own_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Own images: what can be said without labels."""
    rows = frame[frame["pair"] == "own"]
    if rows.empty:
        return None
    return pd.DataFrame(
        {
            "setting": PARTS[str(part)],
            "arm": NAMES[str(arm)],
            "masks open at the end": _share(cell["mask_rate"]),
            "views agree": _share(cell["view_agreement"]),
            "distance of class frequencies": _share(cell["law_distance"]),
        }
        for (part, arm), cell in rows.groupby(["part", "arm"], sort=False)
    )


def recipe_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Fingerprints of the hyperparameters: one for all settings, but for the references that are about them."""
    return pd.DataFrame(
        {
            "hyperparameters": str(recipe),
            "settings": ", ".join(PARTS[str(part)] for part in dict.fromkeys(cell["part"])),
            "arms": ", ".join(NAMES[str(arm)] for arm in dict.fromkeys(cell["arm"])),
        }
        for recipe, cell in frame.groupby("recipe", sort=False)
    )


# Sentences -----------------------------------------------------------------------------------------------------------


def sentences(frame: pd.DataFrame) -> list[str]:
    """What a result rests on, and what it does not show."""
    said = [
        "One set of hyperparameters serves all settings, data and arms: the paper's, but for the number of steps and "
        "the momentum of batch norm's running statistics, shortened for all arms alike. None was tuned here.",
        "All arms have CTAugment and the same batches; AdaMatch passes the labelled images through the network twice, "
        "which the budget table counts.",
    ]
    if set(frame["pair"]) & {"usps_mnist", "mnist_usps"}:
        said.append(
            "USPS and MNIST are compared as whole frames. Framing is a large part of that shift: the nearest neighbour "
            "is right in 31 % (USPS to MNIST) and 66 % (back), and in 68 % and 82 % once MNIST is cut to its middle."
        )
    for pair, rows in _part(frame, "uda").groupby("pair", sort=False):
        if "accuracy" not in rows or rows["accuracy"].dropna().empty:
            continue
        means = rows.groupby("arm")["accuracy"].mean()
        if {"fixmatch", "source_only"} <= set(means.index) and means["fixmatch"] <= means["source_only"]:
            said.append(
                f"{str(pair).replace('_', ' -> ')}: FixMatch+ ({means['fixmatch']:.3f}) is not above source-only "
                f"training ({means['source_only']:.3f}), so beating it says little; the other condition decides."
            )
        said += _said_of_masks(str(pair), rows)
    return said + _said_of_tail(frame) + _said_of_own(frame)


def _said_of_masks(pair: str, rows: pd.DataFrame) -> list[str]:
    """A fixed threshold opens late: how much of FixMatch+'s distance is lag."""
    theirs = rows[rows["arm"] == "fixmatch"]
    if theirs.empty or theirs["mask_rate"].mean() >= OPEN:
        return []
    return [
        f"{pair.replace('_', ' -> ')}: at the end {theirs['mask_rate'].mean():.0%} of FixMatch+'s masks are open, so "
        f"its accuracy is that after {theirs['steps'].mean():,.0f} steps and not its last word. `--references "
        "fixmatch_twice` gives it more steps; milder views for all arms, on which it opens earlier: `--strong simple`."
    ]


def _said_of_tail(frame: pd.DataFrame) -> list[str]:
    rows = _part(frame, "long_tail")
    if rows.empty:
        return []
    means = rows.groupby("arm")["accuracy"].mean()
    even = _part(frame, "uda")
    usual = even[(even["arm"] == "adamatch") & (even["pair"] == _first_pair(rows))]["accuracy"].mean()
    words = [f"{NAMES[str(arm)]} {value:.3f}" for arm, value in means.items()]
    return [
        f"Long-tailed target (ten to one; the test part is balanced): {', '.join(words)}; AdaMatch on the even target "
        f"{usual:.3f}. Alignment to the source's frequencies assumes that the target's are alike."
    ]


def _said_of_own(frame: pd.DataFrame) -> list[str]:
    rows = frame[(frame["pair"] == "own") & (frame["arm"] == "adamatch")]
    if rows.empty:
        return []
    distance = rows["law_distance"].mean()
    said = [f"Weak and strong views of your target images get the same label in {rows['view_agreement'].mean():.0%}."]
    if distance > DIVERGED:
        said.append(
            f"Warning: predicted class frequencies differ from the source's by {distance:.0%}; the method assumes that "
            "they are alike."
        )
    return said


# Figures -------------------------------------------------------------------------------------------------------------


def draw_accuracy(frame: pd.DataFrame) -> Plot | None:
    """Target accuracy by arm and pair."""
    from matplotlib.figure import Figure as Plot

    rows = _part(frame, "uda", "reference")
    if "accuracy" not in rows or rows["accuracy"].dropna().empty:
        return None
    pairs = list(rows["pair"].unique())
    plot = Plot(figsize=(min(12, 2 + 3.4 * len(pairs)), 3.6), layout="constrained")
    for axis, pair in zip(np.atleast_1d(plot.subplots(1, len(pairs))), pairs, strict=True):
        cells = list(rows[rows["pair"] == pair].groupby("arm", sort=False))
        for place, (arm, cell) in enumerate(cells):
            found = t_interval(100 * cell["accuracy"])
            axis.barh(place, found.estimate, color=COLOURS[str(arm)])
            if found.count > 1:
                axis.plot([max(0, found.low), min(100, found.high)], [place, place], color="black", lw=1.2)
        axis.set_yticks(range(len(cells)), [NAMES[str(arm)] for arm, _ in cells], fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.set_xlabel("target accuracy, %")
        axis.set_title(str(pair).replace("_", " → "), fontsize=9)
    return plot


def draw_curves(frame: pd.DataFrame) -> Plot | None:
    """Target accuracy against steps, mean over seeds."""
    from matplotlib.figure import Figure as Plot

    rows = _part(frame, "uda", "reference")
    rows = rows[rows["pair"] == _first_pair(rows)] if len(rows) else rows
    if rows.empty or "curve" not in rows or rows["curve"].isna().all():
        return None
    plot = Plot(figsize=(6.4, 3.6), layout="constrained")
    axis = plot.subplots()
    for arm, cell in rows.groupby("arm", sort=False):
        curves = np.stack(list(cell["curve"]))
        axis.plot(
            cell["curve_steps"].iloc[0],
            100 * curves.mean(0),
            "o-",
            ms=3,
            color=COLOURS[str(arm)],
            label=NAMES[str(arm)],
        )
    axis.set_xlabel("steps")
    axis.set_ylabel("target accuracy, %")
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return plot


def draw_labels(frame: pd.DataFrame) -> Plot | None:
    """Accuracy against labelled target images per class."""
    from matplotlib.figure import Figure as Plot

    rows = _part(frame, "ssda", "ssl", "uda")
    rows = rows[(rows["pair"] == _first_pair(rows)) & rows["arm"].isin(["fixmatch", "adamatch"])] if len(rows) else rows
    if rows.empty or rows["labels"].nunique() < 2 or "accuracy" not in rows:
        return None
    plot = Plot(figsize=(7.2, 3.2), layout="constrained")
    axes = plot.subplots(1, 2, sharey=True)
    for axis, parts, title in zip(axes, (("uda", "ssda"), ("ssl",)), ("with a source", "target alone"), strict=True):
        for arm, cell in _part(rows, *parts).groupby("arm", sort=False):
            found = {labels: t_interval(100 * some["accuracy"]) for labels, some in cell.groupby("labels")}
            middle = [item.estimate for item in found.values()]
            half = [item.high - item.estimate if item.count > 1 else 0.0 for item in found.values()]
            axis.errorbar(
                list(found),
                middle,
                yerr=half,
                fmt="o-",
                ms=4,
                capsize=2,
                color=COLOURS[str(arm)],
                label=NAMES[str(arm)],
            )
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("labelled target images per class")
        axis.set_ylim(0, 102)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, frameon=False)
    axes[0].set_ylabel("target accuracy, %")
    return plot


def draw_masks(frame: pd.DataFrame) -> Plot | None:
    """Threshold, mask rate and accuracy of what the mask lets through, over training."""
    from matplotlib.figure import Figure as Plot

    rows = _part(frame, "uda")
    rows = rows[(rows["pair"] == _first_pair(rows)) & (rows["arm"] != "source_only")] if len(rows) else rows
    if rows.empty:
        return None
    columns = {
        "threshold_curve": "threshold",
        "mask_curve": "share of masks open",
        "pseudo_accuracy_curve": "of those right",
    }
    plot = Plot(figsize=(10, 3.0), layout="constrained")
    for axis, (column, words) in zip(plot.subplots(1, 3), columns.items(), strict=True):
        for arm, cell in rows.groupby("arm", sort=False):
            curve = np.ma.masked_invalid(np.stack(list(cell[column]))).mean(0)
            axis.plot(cell["trace_steps"].iloc[0], curve, color=COLOURS[str(arm)], label=NAMES[str(arm)])
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlabel("steps")
        axis.set_title(words, fontsize=9)
    plot.axes[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return plot


def draw_confusion(frame: pd.DataFrame) -> Plot | None:
    """Confusion before (source only) and after adaptation, all seeds."""
    from matplotlib.figure import Figure as Plot

    rows = _part(frame, "uda")
    rows = (
        rows[(rows["pair"] == _first_pair(rows)) & rows["arm"].isin(["source_only", "adamatch"])] if len(rows) else rows
    )
    if rows.empty or "confusion" not in rows or rows["confusion"].isna().any():
        return None
    cells = list(rows.groupby("arm", sort=False))
    plot = Plot(figsize=(3.4 * len(cells), 3.4), layout="constrained")
    for axis, (arm, cell) in zip(np.atleast_1d(plot.subplots(1, len(cells))), cells, strict=True):
        total = np.sum(np.stack(list(cell["confusion"])), axis=0).astype(float)
        axis.imshow(total / total.sum(1, keepdims=True).clip(1), cmap="Blues", vmin=0, vmax=1)
        axis.set_title(NAMES[str(arm)], fontsize=9)
        axis.set_xlabel("predicted")
    plot.axes[0].set_ylabel("class")
    return plot


def draw_reliability(frame: pd.DataFrame) -> Plot | None:
    """How often predictions of each confidence are right on the target."""
    from matplotlib.figure import Figure as Plot

    rows = _part(frame, "uda")
    rows = rows[rows["pair"] == _first_pair(rows)] if len(rows) else rows
    if rows.empty or "reliability" not in rows or rows["reliability"].isna().any():
        return None
    plot = Plot(figsize=(5.4, 3.4), layout="constrained")
    axis = plot.subplots()
    for arm, cell in rows.groupby("arm", sort=False):
        counts, hits, sums = np.sum(np.stack(list(cell["reliability"])), axis=0)
        some = counts > 0
        axis.plot(
            sums[some] / counts[some],
            hits[some] / counts[some],
            "o-",
            ms=3,
            color=COLOURS[str(arm)],
            label=NAMES[str(arm)],
        )
    axis.plot([0, 1], [0, 1], ":", color="grey")
    axis.set_xlabel("confidence")
    axis.set_ylabel("right")
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return plot


def draw_features(frame: pd.DataFrame) -> Plot | None:
    """Principal components of features, by domain, of the lowest seed."""
    from matplotlib.figure import Figure as Plot

    rows = _part(frame, "uda")
    if rows.empty or "features" not in rows:
        return None
    rows = _lowest_seed(rows[(rows["pair"] == _first_pair(rows)) & rows["arm"].isin(["source_only", "adamatch"])])
    rows = rows[rows["features"].notna()]
    if rows.empty:
        return None
    plot = Plot(figsize=(3.6 * len(rows), 3.2), layout="constrained")
    for axis, (_, row) in zip(np.atleast_1d(plot.subplots(1, len(rows))), rows.iterrows(), strict=True):
        places = np.asarray(row["features"])
        for number, words in ((0, "source"), (1, "target")):
            some = places[places[:, 2] == number]
            colours = np.where(some[:, 3] < 0, 0, some[:, 3]) % 10
            axis.scatter(
                some[:, 0], some[:, 1], c=colours, cmap="tab10", vmin=0, vmax=9, s=8, marker="o+"[number], label=words
            )
        axis.set_title(NAMES[str(row["arm"])], fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    plot.axes[0].legend(fontsize=8, frameon=False)
    return plot


def draw_rates(frame: pd.DataFrame) -> Plot | None:
    """CTAugment's rates at the end of AdaMatch's training, mean over seeds."""
    from matplotlib.figure import Figure as Plot

    from paperworks.learning.adamatch.ctaugment import DEFAULT_OPS

    rows = _part(frame, "uda")
    rows = rows[(rows["arm"] == "adamatch") & (rows["pair"] == _first_pair(rows))] if len(rows) else rows
    if rows.empty or "augment_rates" not in rows or rows["augment_rates"].isna().any():
        return None
    table = np.stack([np.asarray(item, dtype=float) for item in rows["augment_rates"]]).mean(0)
    plot = Plot(figsize=(6.4, 4.4), layout="constrained")
    axis = plot.subplots()
    shown = axis.imshow(np.ma.masked_invalid(table), aspect="auto", cmap="viridis", vmin=0, vmax=1)
    axis.set_yticks(range(len(DEFAULT_OPS)), DEFAULT_OPS, fontsize=7)
    axis.set_xlabel("bin, weakest level first")
    plot.colorbar(shown, ax=axis, label="rate")
    return plot


# Files ---------------------------------------------------------------------------------------------------------------


def write_own_files(frame: pd.DataFrame, loaded: Loaded, folder: Path) -> Sequence[Path]:
    """On own images: `predictions.csv`, what each arm says of the target's training images (lowest seed)."""
    from paperworks.data.outputs import write_frame

    rows = frame[frame["pair"] == "own"]
    if rows.empty:
        return ()
    pair = loaded.data["own"]
    classes = np.array(pair.source.classes, dtype=object)
    names = pair.target.names or tuple(f"image {number}" for number in range(len(pair.target)))
    table: dict[str, Any] = {"file": names}
    for (part, arm), cell in rows.groupby(["part", "arm"], sort=False):
        one = cell.sort_values("seed").iloc[0]
        label = str(arm) if part == "uda" else f"{arm}_{part}"
        table[label] = classes[np.asarray(one["predictions"], dtype=int)]
        table[f"{label}_confidence"] = np.asarray(one["confidences"])
    write_frame(folder / "predictions.csv", pd.DataFrame(table))
    return (folder / "predictions.csv",)


FIGURES = (
    Figure("accuracy", "Accuracy on the target's test part, mean and 95 % t interval over seeds.", draw_accuracy),
    Figure("curves", "Accuracy of the averaged network against training steps, mean over seeds.", draw_curves),
    Figure("labels", "Accuracy against labelled target images per class.", draw_labels),
    Figure("masks", "Threshold, masks that are open, and how many of those pseudo-labels are right.", draw_masks),
    Figure("confusion", "Confusion on the target's test part, rows sum to one.", draw_confusion),
    Figure("reliability", "Confidence against accuracy on the target's test part, all seeds.", draw_reliability),
    Figure("features", "Two principal components of the features, colours are classes, lowest seed.", draw_features),
    Figure("rates", "CTAugment: how well the averaged network knows images at each strength.", draw_rates),
)
TABLES = (
    Table("accuracy", "Target accuracy, mean and half width of the 95 % t interval over seeds.", accuracy_table),
    Table("own", "Your images, mean over seeds.", own_table),
    Table("recipe", "Which settings and arms share their hyperparameters.", recipe_table),
)
