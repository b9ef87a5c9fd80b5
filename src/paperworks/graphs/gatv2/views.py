"""What the study shows: figures, tables, and the file it writes for a user's own graph."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperworks._files import write_atomic
from paperworks.lab.statistics import t_interval
from paperworks.lab.study import Figure, Loaded, Table
from paperworks.lab.words import mean_and_half_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

COLOURS = {
    "gatv2": "#1f77b4", "gatv2_shared": "#17becf", "gat": "#d62728", "gat_8_heads": "#ff7f0e", "dot": "#2ca02c",
    "gcn": "#9467bd", "mlp": "#7f7f7f",
}  # fmt: skip
NAMES = {
    "gatv2": "GATv2", "gatv2_shared": "GATv2, shared matrix", "gat": "GAT", "gat_8_heads": "GAT, 8 heads",
    "dot": "dot product", "gcn": "GCN", "mlp": "MLP, no edges",
}  # fmt: skip


def _part(frame: pd.DataFrame, part: str) -> pd.DataFrame:
    return frame[frame["part"] == part]


def lookup_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """DictionaryLookup: accuracy on unseen and on training graphs, steps to 99 %, parameters."""
    return _lookup_table(_part(frame, "lookup"))


def matched_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """The same with widths that make the arms equally large."""
    return _lookup_table(_part(frame, "matched"))


def _lookup_table(rows: pd.DataFrame) -> pd.DataFrame | None:
    if rows.empty:
        return None
    table = []
    for (k, arm), cell in rows.groupby(["k", "arm"], sort=False):
        reached = cell["steps_to_99"].dropna()
        steps = "never" if reached.empty else f"{reached.median():.0f} ({len(reached)} of {len(cell)} seeds)"
        table.append(
            {
                "k": f"{k:.0f}",
                "arm": NAMES[str(arm)],
                "unseen graphs": mean_and_half_width(cell["accuracy"]),
                "training graphs": mean_and_half_width(cell["train_accuracy"]),
                "steps to 99 %": steps,
                "width": f"{cell['width'].iloc[0]:.0f}",
                "parameters": f"{cell['parameters'].iloc[0]:,.0f}",
                "test graphs": f"{cell['test_graphs'].mean():,.0f}",
            }
        )
    return pd.DataFrame(table)


def noise_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Score by graph, arm and noise, over all runs."""
    rows = _part(frame, "noise")
    if rows.empty:
        return None
    table = []
    for (graph, arm), cell in rows.groupby(["graph", "arm"], sort=False):
        line = {"graph": graph, "arm": NAMES.get(str(arm), str(arm))}
        for ratio, some in cell.groupby("ratio"):
            line[f"p = {ratio:g}"] = mean_and_half_width(np.concatenate(list(some["scores"])))
        table.append(line | {"parameters": f"{cell['parameters'].iloc[0]:,.0f}"})
    return pd.DataFrame(table, dtype=object).fillna("")


def own_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """On own data: all arms without noise, what they chose, and what they cost."""
    rows = _part(frame, "noise")
    rows = rows[(rows["graph"] == "own") & (rows["ratio"] == 0)] if "graph" in rows else rows[:0]
    if rows.empty:
        return None
    table = []
    for arm, cell in rows.groupby("arm", sort=False):
        static = cell["agreement_min"].dropna() if "agreement_min" in cell else pd.Series(dtype=float)
        table.append(
            {
                "arm": NAMES.get(str(arm), str(arm)),
                "test accuracy": mean_and_half_width(np.concatenate(list(cell["scores"]))),
                "validation": f"{cell['val_score'].mean():.3f}",
                "most frequent class": f"{cell['majority'].mean():.3f}",
                "least agreement of queries": "" if static.empty else f"{static.min():.3f}",
                "heads (first seed)": f"{cell['chosen_heads'].iloc[0]:.0f}",
                "dropout (first seed)": f"{cell['chosen_dropout'].iloc[0]:g}",
                "parameters": f"{cell['parameters'].iloc[0]:,.0f}",
                "CPU seconds": f"{cell['cpu_seconds'].mean():.1f}",
                "process peak, MiB": f"{cell['peak_bytes'].max() / 2**20:,.0f}" if "peak_bytes" in cell else "",
            }
        )
    return pd.DataFrame(table)


def search_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Validation score of every setting of the grid; None where settings were not searched."""
    rows = _part(frame, "noise")
    if rows.empty or "heads" not in rows or rows.groupby(["graph", "arm", "ratio"])["heads"].count().max() < 2:
        return None
    rows = rows.assign(setting=[f"{h:.0f} heads, dropout {d:g}" for h, d in zip(rows["heads"], rows["dropout"])])  # noqa: B905
    if rows["setting"].nunique() < 2:
        return None
    table = rows.pivot_table(index=["graph", "arm", "ratio"], columns="setting", values="val_score")
    # In the grid's order, so that of equals the first counts, whatever the words are.
    table = table[list(dict.fromkeys(rows["setting"]))]
    best = table.idxmax(axis=1)
    return table.map("{:.4f}".format).assign(best=best).reset_index()


def static_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Smallest and largest agreement of queries, over layers, heads and seeds."""
    if "agreement_min" not in frame:
        return None
    rows = frame.dropna(subset=["agreement_min"])
    names = {
        "static": "random weights",
        "lookup": "DictionaryLookup",
        "matched": "DictionaryLookup, matched",
        "noise": "graph",
    }
    table = [
        {
            "layers": names[str(part)],
            "arm": NAMES.get(str(arm), str(arm)),
            "least agreement": f"{cell['agreement_min'].min():.4f}",
            "most agreement": f"{cell['agreement_max'].max():.4f}",
            "trials": len(cell),
        }
        for (part, arm), cell in rows.groupby(["part", "arm"], sort=False)
    ]
    return pd.DataFrame(table)


def said_of_graphs(frame: pd.DataFrame) -> list[str]:
    """Sentences: does the graph help at all (own data), and which of the arms is best."""
    rows = _part(frame, "noise")
    rows = rows[rows["ratio"] == 0] if len(rows) else rows
    said = []
    for _, cell in rows.groupby("graph", sort=False):
        means = cell.groupby("arm")["score"].mean().sort_values(ascending=False)
        if "mlp" in means and len(means) > 1:
            best = next(arm for arm in means.index if arm != "mlp")
            gain = means[best] - means["mlp"]
            word = "helps" if gain > 0 else "does not help"
            said.append(
                f"The graph {word}: {NAMES[best]} reaches {means[best]:.3f}, "
                f"a network without edges {means['mlp']:.3f}."
            )
    return said


def draw_attention(frame: pd.DataFrame) -> Plot | None:
    """Attention of one unseen DictionaryLookup graph per arm: rows are queries, columns keys."""
    from matplotlib.figure import Figure as Plot

    rows = _part(frame, "lookup")
    if rows.empty or "attention" not in rows:
        return None
    rows = rows[(rows["k"] == rows["k"].max()) & (rows["seed"] == rows["seed"].min())]
    plot = Plot(figsize=(min(12, 2.4 * len(rows)), 2.8), layout="constrained")
    axes = np.atleast_1d(plot.subplots(1, len(rows)))
    for axis, (_, row) in zip(axes, rows.iterrows(), strict=True):
        axis.imshow(row["attention"], cmap="viridis", vmin=0, vmax=1)
        axis.set_title(f"{NAMES[row['arm']]}\n{row['accuracy']:.0%} right", fontsize=9)
        axis.set_xlabel("key")
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_ylabel("query")
    return plot


def draw_lookup(frame: pd.DataFrame) -> Plot | None:
    """Accuracy on unseen graphs against k, mean and range over seeds."""
    from matplotlib.figure import Figure as Plot

    rows = _part(frame, "lookup")
    if rows.empty:
        return None
    plot = Plot(figsize=(5.6, 3.6), layout="constrained")
    axis = plot.subplots()
    arms = list(rows["arm"].unique())
    for number, arm in enumerate(arms):
        cells = rows[rows["arm"] == arm].groupby("k")["accuracy"]
        mean, low, high = cells.mean(), cells.min(), cells.max()
        place = mean.index.to_numpy(float) + 0.09 * (number - (len(arms) - 1) / 2)
        axis.errorbar(
            place, mean, yerr=[mean - low, high - mean], fmt="o-", ms=4, capsize=2, color=COLOURS[arm], label=NAMES[arm]
        )
    ticks = sorted(rows["k"].unique())
    axis.plot(ticks, [1 / k for k in ticks], ":", color="grey", label="chance")
    axis.set_xticks(ticks, [f"{k:.0f}" for k in ticks])
    axis.set_ylim(0, 1.03)
    axis.set_xlabel("k (keys per graph)")
    axis.set_ylabel("accuracy on unseen graphs")
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return plot


def draw_noise(frame: pd.DataFrame) -> Plot | None:
    """Score against noise, means over runs with 95 % t intervals."""
    from matplotlib.figure import Figure as Plot

    rows = _part(frame, "noise")
    if rows.empty or rows["ratio"].nunique() < 2:
        return None
    graphs = list(rows["graph"].unique())
    plot = Plot(figsize=(min(12, 1.2 + 3.4 * len(graphs)), 3.2), layout="constrained")
    for axis, graph in zip(np.atleast_1d(plot.subplots(1, len(graphs))), graphs, strict=True):
        for arm, cell in rows[rows["graph"] == graph].groupby("arm", sort=False):
            found = {r: t_interval(np.concatenate(list(some["scores"]))) for r, some in cell.groupby("ratio")}
            place, middle = list(found), [interval.estimate for interval in found.values()]
            colour, name = COLOURS.get(str(arm), "black"), NAMES.get(str(arm), str(arm))
            axis.plot(place, middle, "o-", ms=4, color=colour, label=name)
            if all(interval.count > 1 for interval in found.values()):
                low, high = zip(*((interval.low, interval.high) for interval in found.values()), strict=True)
                axis.fill_between(place, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_title(str(graph).replace("_", " "), fontsize=9)
        axis.set_xlabel("noise edges per edge, p")
        axis.set_ylabel("test score")
        axis.legend(fontsize=8, frameon=False)
    return plot


def draw_depth(frame: pd.DataFrame) -> Plot | None:
    """Agreement of queries by layer of the networks trained without noise."""
    from matplotlib.figure import Figure as Plot

    rows = _part(frame, "noise")
    if rows.empty or "agreement_layers" not in rows:
        return None
    rows = rows[(rows["ratio"] == 0) & rows["agreement_layers"].notna()]
    plot = Plot(figsize=(5.6, 3.2), layout="constrained")
    axis = plot.subplots()
    marks = dict(zip(rows["graph"].unique(), "os^Dvx", strict=False))
    for (graph, arm), cell in rows.groupby(["graph", "arm"], sort=False):
        layers = np.mean(np.stack(list(cell["agreement_layers"])), axis=0)
        label = f"{NAMES.get(str(arm), str(arm))}, {str(graph).replace('_', ' ')}"
        axis.plot(np.arange(1, len(layers) + 1), layers, f"{marks[graph]}-", color=COLOURS[str(arm)], label=label)
    axis.set_xticks(range(1, len(rows["agreement_layers"].iloc[0]) + 1))
    axis.set_xlabel("layer")
    axis.set_ylabel("queries that agree")
    axis.set_ylim(top=1.02)
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return plot


def write_own_files(frame: pd.DataFrame, loaded: Loaded, folder: Path) -> Sequence[Path]:
    """On own data: `predictions.csv`, every node's label, part and what each arm says (first seed, first run)."""
    if set(loaded.data) != {"own"}:
        return ()
    graph, rows = loaded.data["own"], _part(frame, "noise")
    classes = np.array([*graph.classes, ""], dtype=object)
    parts = np.array(["train", "val", "test", ""], dtype=object)
    table: dict[str, Any] = {
        "id": graph.ids or np.arange(graph.num_nodes),
        "label": classes[graph.labels],
        "split": parts[graph.splits[0]],
    }
    for arm, cell in rows[rows["ratio"] == 0].groupby("arm", sort=False):
        table[str(arm)] = classes[cell.sort_values("seed")["predictions"].iloc[0]]
    stream = io.StringIO()
    pd.DataFrame(table).to_csv(stream, index=False, lineterminator="\n")
    write_atomic(folder / "predictions.csv", stream.getvalue())
    return (folder / "predictions.csv",)


FIGURES = (
    Figure(
        "attention",
        "DictionaryLookup, one unseen graph: whom each query attends to (first head). Equal rows: static.",
        draw_attention,
    ),
    Figure("lookup", "DictionaryLookup: accuracy on unseen graphs, mean and range over seeds.", draw_lookup),
    Figure("noise", "Score against added noise edges, mean over runs with 95 % t intervals.", draw_noise),
    Figure(
        "depth",
        "Staticity by layer after training without noise: the share of pairs of queries that agree on their best "
        "common source. GAT is at 1 whatever it learned.",
        draw_depth,
    ),
)
TABLES = (
    Table("lookup", "DictionaryLookup, equal width.", lookup_table),
    Table("matched", "DictionaryLookup, widths that give all arms as many parameters, within 3 %.", matched_table),
    Table("noise", "Test score by noise, mean over runs and half width of the 95 % t interval.", noise_table),
    Table("static", "Agreement of queries on their best common source.", static_table),
    Table("own", "Your graph: every arm, tuned by the same grid on validation.", own_table),
    Table("search", "Validation score at each searched setting.", search_table),
)  # fmt: skip
