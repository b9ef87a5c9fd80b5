"""What the study shows: figures, tables, and the files it writes for a user's own data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperworks._files import write_atomic
from paperworks.lab.statistics import bootstrap, t_interval
from paperworks.lab.study import Figure, Loaded, Table
from paperworks.lab.words import mean_and_half_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

COMPARED = ("fourier", "attention")
COLOURS = {
    "attention": "#1f77b4", "fourier": "#d62728", "hybrid": "#9467bd", "linear": "#2ca02c", "random": "#8c564b",
    "ff_only": "#7f7f7f", "bag": "#ff7f0e",
}  # fmt: skip


def _trained(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["part"] == "accuracy"]


def _references(frame: pd.DataFrame) -> dict[Any, float]:
    rows = frame[frame["part"] == "reference"]
    return dict(zip(rows["task"], rows["accuracy"], strict=True))


def accuracy_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Mean test accuracy and 95 % t half-width per task, width and arm, with macro-F1 and TF-IDF beside."""
    rows = []
    for (task, width, arm), cell in _trained(frame).groupby(["task", "width", "arm"], sort=False):
        rows.append(
            {
                "task": task, "width": width, "arm": arm, "seeds": len(cell),
                "accuracy": mean_and_half_width(cell["accuracy"]), "macro F1": f"{cell['macro_f1'].mean():.3f}",
                "dev accuracy": f"{cell['dev_accuracy'].mean():.3f}",
            }
        )  # fmt: skip
    for task, accuracy in _references(frame).items():
        rows.append({"task": task, "arm": "TF-IDF + logistic regression", "accuracy": f"{accuracy:.3f}"})
    if not rows:
        return None
    table = pd.DataFrame(rows, dtype=object)
    return table.where(table.notna(), "")


def search_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Dev accuracy of every arm at every searched rate; None where rates were not searched."""
    trained = _trained(frame)
    if trained.empty or trained.groupby(["task", "width", "arm"])["rate"].nunique().max() < 2:
        return None
    table = trained.pivot_table(index=["width", "arm"], columns="rate", values="dev_accuracy")
    best = table.idxmax(axis=1)
    table = table.map("{:.3f}".format)
    table.columns = [f"rate {rate:g}" for rate in table.columns]
    return table.assign(best=best.map("{:g}".format)).reset_index()


def ratio_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """The accuracy ratio fourier / attention per task and width: paired by seed, and resampled over test texts."""
    trained = _trained(frame)
    cells = trained.pivot_table(index=["task", "width", "seed"], columns="arm", values="accuracy")
    if not set(COMPARED) <= set(cells.columns):
        return None
    rows = []
    for (task, width), cell in (cells["fourier"] / cells["attention"]).dropna().groupby(["task", "width"], sort=False):
        interval = t_interval(cell)
        bounds = "" if len(cell) < 2 else f"{interval.low:.3f} to {interval.high:.3f}"
        row = {"task": task, "width": width, "ratio": f"{interval.estimate:.3f}", "95 % interval over seeds": bounds}
        runs = trained[(trained["task"] == task) & (trained["width"] == width)]
        rows.append(row | {"95 % interval over test texts": _ratio_over_texts(runs)})
    return pd.DataFrame(rows)


def _ratio_over_texts(runs: pd.DataFrame) -> str:
    """What other test texts would have changed, these trained models given: a text keeps all its runs together."""
    if "correct" not in runs or runs["correct"].map(np.size).min() < 20:
        return ""
    shares = [np.mean(np.stack(list(runs.loc[runs["arm"] == arm, "correct"])), axis=0) for arm in COMPARED]
    interval = bootstrap(np.stack(shares, axis=1), lambda means: means[:, 0] / means[:, 1], unit="test texts")
    return f"{interval.low:.3f} to {interval.high:.3f}"


def speed_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Step time and kept activations of one layer, per length."""
    rows = frame[frame["part"] == "speed"]
    if rows.empty:
        return None
    means = rows.groupby("length")[
        ["attention_ms", "fourier_ms", "step_ratio", "attention_bytes", "fourier_bytes"]
    ].mean()
    return pd.DataFrame(
        {
            "length": means.index.astype(int).to_numpy(),
            "attention, ms": means["attention_ms"].map("{:.1f}".format).to_numpy(),
            "fourier, ms": means["fourier_ms"].map("{:.1f}".format).to_numpy(),
            "ratio": means["step_ratio"].map("{:.2f}".format).to_numpy(),
            "attention keeps, MB": (means["attention_bytes"] / 1e6).map("{:.1f}".format).to_numpy(),
            "fourier keeps, MB": (means["fourier_bytes"] / 1e6).map("{:.1f}".format).to_numpy(),
        }
    )


def label_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """On own data: accuracy per label (recall) of each arm, averaged over seeds: what Fourier mixing loses where."""
    own = _trained(frame)
    own = own[own["task"] == "own"]
    if own.empty or "recalls" not in own:
        return None
    names = str(own["class_names"].iloc[0]).split("\x1f")
    columns = {arm: np.mean(np.stack(list(rows["recalls"])), axis=0) for arm, rows in own.groupby("arm", sort=False)}
    return pd.DataFrame({"label": names} | {arm: [f"{v:.3f}" for v in values] for arm, values in columns.items()})


def draw_accuracy(frame: pd.DataFrame) -> Plot | None:
    """Accuracy per arm with t intervals; the dashed line is TF-IDF."""
    from matplotlib.figure import Figure as Plot

    trained = _trained(frame)
    panels = [key for key, _ in trained.groupby(["task", "width"], sort=False)]
    if not panels:
        return None
    plot = Plot(figsize=(min(12, 2.2 + 2.2 * len(panels)), 3.4), layout="constrained")
    axes = np.atleast_1d(plot.subplots(1, len(panels), sharey=False))
    for axis, (task, width) in zip(axes, panels, strict=True):
        cell = trained[(trained["task"] == task) & (trained["width"] == width)]
        for place, (arm, rows) in enumerate(cell.groupby("arm", sort=False)):
            interval = t_interval(rows["accuracy"])
            spread = interval.high - interval.estimate if len(rows) > 1 else 0.0
            axis.errorbar(
                place, interval.estimate, yerr=spread, fmt="o", capsize=3, color=COLOURS.get(str(arm), "black")
            )
        names = [str(arm).rsplit("/", 1)[-1].split("@")[0] for arm in cell["arm"].unique()]
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
        if task in (references := _references(frame)):
            axis.axhline(references[task], ls="--", lw=1, color="grey")
        axis.set_title(f"{task}, width {width:.0f}", fontsize=9)
    axes[0].set_ylabel("test accuracy")
    return plot


def draw_speed(frame: pd.DataFrame) -> Plot | None:
    """Step time and kept activations of one layer against length, with fitted slopes."""
    from matplotlib.figure import Figure as Plot

    rows = frame[frame["part"] == "speed"]
    if rows.empty or rows["length"].nunique() < 3:
        return None
    means = rows.groupby("length")[["attention_ms", "fourier_ms", "attention_bytes", "fourier_bytes"]].mean()
    plot = Plot(figsize=(8, 3.4), layout="constrained")
    for axis, unit, scale in zip(plot.subplots(1, 2), ("ms", "bytes"), (1, 1e-6), strict=True):
        for arm in ("attention", "fourier"):
            values = means[f"{arm}_{unit}"] * scale
            upper = means.index[len(means) // 2 :]
            slope = np.polyfit(np.log(upper.to_numpy(float)), np.log(values[upper]), 1)[0]
            label = f"{arm}, slope {slope:.2f}"
            axis.loglog(means.index, values, "o-", color=COLOURS[arm], label=label)
        axis.set_xticks(means.index, [f"{length:.0f}" for length in means.index], fontsize=8)
        axis.minorticks_off()
        axis.set_xlabel("length (tokens)")
        axis.set_ylabel("forward + backward, ms" if unit == "ms" else "kept for backward, MB")
        axis.legend(fontsize=8)
    return plot


def draw_curves(frame: pd.DataFrame) -> Plot | None:
    """Dev accuracy against CPU seconds of training, mean over seeds."""
    from matplotlib.figure import Figure as Plot

    trained = _trained(frame)
    if trained.empty:
        return None
    (task, width), cell = next(iter(trained.groupby(["task", "width"], sort=False)))
    plot = Plot(figsize=(5.5, 3.4), layout="constrained")
    axis = plot.subplots()
    for arm, rows in cell.groupby("arm", sort=False):
        curves = np.stack([curve[:, 1] for curve in rows["curve"]]).mean(0)
        seconds = rows["cpu_seconds"].mean() * rows["curve"].iloc[0][:, 0]
        axis.plot(seconds, curves, "o-", ms=3, color=COLOURS.get(str(arm), "black"), label=str(arm).rsplit("/", 1)[-1])
    axis.set_xlabel("CPU seconds of training")
    axis.set_ylabel("dev accuracy")
    axis.set_title(f"{task}, width {width:.0f}", fontsize=9)
    axis.legend(fontsize=8)
    return plot


def draw_mixing(frame: pd.DataFrame) -> Plot:
    """One example before and after mixing: every output depends on every input, and half of the outputs repeat."""
    import torch
    from matplotlib.figure import Figure as Plot

    from paperworks.sequence.fnet.mixing import fourier_mix

    x = torch.zeros(1, 32, 48)
    x[0, 5, 10] = 1.0
    plot = Plot(figsize=(7, 2.8), layout="constrained")
    images = (x[0], fourier_mix(x)[0])
    for axis, image, title in zip(plot.subplots(1, 2), images, ("one token, one channel", "after mixing"), strict=True):
        axis.imshow(image.numpy(), cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("channel")
        axis.set_ylabel("position")
    return plot


def write_own_files(frame: pd.DataFrame, loaded: Loaded, folder: Path) -> Sequence[Path]:
    """On own data: `predictions.csv` of all arms and the best model as a folder (chosen on dev)."""
    if set(loaded.data) != {"own"}:
        return ()
    from paperworks.sequence.fnet.classifier import copy_folder

    task, trained = loaded.data["own"], _trained(frame)
    texts, labels = task.source.part("test")
    table = {"text": texts, "label": [task.classes[label] for label in labels]}
    for arm, rows in trained.groupby("arm", sort=False):
        # One seed's answers per arm: those of the first, not of the best.
        table[str(arm)] = [task.classes[index] for index in rows.sort_values("seed")["predictions"].iloc[0]]
    write_atomic(folder / "predictions.csv", pd.DataFrame(table).to_csv(index=False))
    means = trained.groupby("arm")["dev_accuracy"].mean()
    best = trained[trained["arm"] == means.idxmax()].sort_values("dev_accuracy").iloc[-1]
    copy_folder(folder / f"trial-{best['key']}.files", folder / "best")
    return (folder / "predictions.csv", folder / "best")


FIGURES = (
    Figure(
        "accuracy",
        "Test accuracy per arm with 95 % t intervals; dashed: TF-IDF with logistic regression.",
        draw_accuracy,
    ),
    Figure("speed", "One layer at the paper's width, forward and backward, against length (log-log).", draw_speed),
    Figure("curves", "Dev accuracy against CPU seconds of training, mean over seeds.", draw_curves),
    Figure("mixing", "A single non-zero input, and what the transform makes of it.", draw_mixing),
)
TABLES = (
    Table("accuracy", "Test accuracy per task, width and arm.", accuracy_table),
    Table("ratio", "Accuracy ratio fourier / attention, paired by seed; the same over test texts.", ratio_table),
    Table("speed", "One layer, forward and backward.", speed_table),
    Table("search", "Dev accuracy at each searched learning rate.", search_table),
    Table("labels", "Your data: share of each label's texts that an arm labels right.", label_table),
)
