"""What the study shows: bits, curves, costs, and the model that it leaves behind for a user's own text."""

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

COLOURS = {"attention": "#1f77b4", "local": "#d62728", "simple": "#7f7f7f", "conv": "#2ca02c", "full": "#9467bd"}
NAMES = {"attention": "attention", "local": "AFT-local", "simple": "AFT-simple", "conv": "AFT-conv", "full": "AFT-full"}


def _trained(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["part"].isin(["text", "ablation"])]


def _timed(frame: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    rows = frame[frame["part"] == "cost"]
    arms = [name for name in NAMES if f"{name}_ms" in rows and rows[f"{name}_ms"].notna().any()]
    return arms, rows


def bits_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Bits a character, speed of training and of streaming, per arm."""
    lines = []
    for (_, arm, window, rate), cell in _trained(frame).groupby(["part", "arm", "window", "rate"], sort=False):
        lines.append(
            {
                "mixer": NAMES.get(str(arm), str(arm)),
                "window": f"{window:.0f}" if arm in ("local", "conv") else "–",
                "rate": f"{rate:g}",
                "seeds": len(cell),
                "bits a character": mean_and_half_width(cell["bits"]),
                "bytes a second, training": f"{cell['tokens_per_second'].mean():,.0f}",
                "streaming, ms a byte": f"{cell['streaming_ms'].mean():.2f}",
                "parameters": f"{cell['parameters'].iloc[0]:,.0f}",
            }
        )
    return pd.DataFrame(lines) if lines else None


def cost_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Milliseconds and MiB of one layer, forward and backward, and the exponents from 1,024 positions on."""
    arms, rows = _timed(frame)
    if not arms:
        return None
    lines = []
    for length, cell in rows.groupby("length"):
        line: dict[str, object] = {"length": f"{length:.0f}"}
        for arm in arms:
            line[f"{NAMES[arm]}, ms"] = f"{cell[f'{arm}_ms'].mean():.1f}"
            line[f"{NAMES[arm]}, MiB"] = f"{cell[f'{arm}_bytes'].mean() / 2**20:.1f}"
        lines.append(line)
    exponents: dict[str, object] = {"length": "exponent"}
    long = rows[rows["length"] >= 1024].groupby("length").mean(numeric_only=True)
    if len(long) > 2:
        for arm in arms:
            for unit, column in (("ms", f"{arm}_ms"), ("MiB", f"{arm}_bytes")):
                exponents[f"{NAMES[arm]}, {unit}"] = f"{cost_exponent(long.index.tolist(), long[column].tolist()):.2f}"
        lines.append(exponents)
    return pd.DataFrame(lines)


def draw_bits(frame: pd.DataFrame) -> Plot | None:
    """Bits against steps and against seconds, while training."""
    from matplotlib.figure import Figure as Plot

    rows = frame[frame["part"] == "text"]
    if rows.empty:
        return None
    plot = Plot(figsize=(8.4, 3.4), layout="constrained")
    axes = plot.subplots(1, 2, sharey=True)
    for arm, cell in rows.groupby("arm", sort=False):
        curve = np.mean(np.stack(list(cell["curve"])), axis=0)
        for axis, column in zip(axes, (0, 2), strict=True):
            axis.plot(
                curve[:, column], curve[:, 1], ".-", color=COLOURS.get(str(arm)), label=NAMES.get(str(arm), str(arm))
            )
    axes[0].set(xlabel="steps", ylabel="bits a byte, some validation windows")
    axes[1].set(xlabel="seconds of training")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    return plot


def draw_cost(frame: pd.DataFrame) -> Plot | None:
    """Time and memory of one layer against length, both axes logarithmic."""
    from matplotlib.figure import Figure as Plot

    arms, rows = _timed(frame)
    if not arms:
        return None
    means = rows.groupby("length").mean(numeric_only=True)
    plot = Plot(figsize=(8.4, 3.4), layout="constrained")
    for axis, unit, scale in zip(plot.subplots(1, 2), ("ms", "bytes"), (1, 2**20), strict=True):
        for arm in arms:
            axis.plot(means.index, means[f"{arm}_{unit}"] / scale, "o-", ms=4, color=COLOURS[arm], label=NAMES[arm])
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="positions",
            ylabel="ms, forward + backward" if unit == "ms" else "MiB held at once",
        )
        axis.set_xticks(means.index, [f"{length:.0f}" for length in means.index])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    plot.axes[0].legend(frameon=False)
    return plot


def sentences(frame: pd.DataFrame) -> list[str]:
    """What the results rest on."""
    said = ["All text is scored in windows that start without a past, as all arms were trained; a past would help all."]
    arms, _ = _timed(frame)
    if "attention" in arms:
        said.append(
            "Attention is timed by PyTorch's fused kernel, which holds no matrix of all pairs; the paper compares with "
            "one that does."
        )
    return said


def keep_best_model(frame: pd.DataFrame, loaded: Loaded, folder: Path) -> Sequence[Path]:
    """On a text of one's own: the best arm's model of the first seed, as a folder for `AFTLanguageModel.load`."""
    rows = _trained(frame)
    if rows.empty or not isinstance(loaded.data, dict) or "own" not in loaded.data:
        return ()
    best = rows.groupby("arm")["bits"].mean().idxmin()
    first = rows[rows["arm"] == best].sort_values("seed").iloc[0]
    kept, target = folder / f"trial-{first['key']}.files", folder / "model"
    if not (kept / "model.pt").is_file():
        return ()
    target.mkdir(exist_ok=True)
    names = ("config.json", "model.pt", "tokenizer.json")
    return [Path(shutil.copy2(kept / name, target / name)) for name in names if (kept / name).is_file()]


FIGURES = (
    Figure("bits", "Bits while training, mean over seeds.", draw_bits),
    Figure("cost", "One layer against length, batch 1.", draw_cost),
)
TABLES = (
    Table("bits", "Bits a character over the whole validation text.", bits_table),
    Table("cost", "One layer, forward and backward, batch 1.", cost_table),
)
