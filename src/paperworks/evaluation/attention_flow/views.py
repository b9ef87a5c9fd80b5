"""What the study shows: explanations side by side, the intervals of flow, depth, time, and what to use instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperworks.lab.study import Figure, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

ARMS = {
    "raw": "attention weights, last layer",
    "raw_mean": "attention weights, mean of layers",
    "rollout": "attention rollout",
    "flow": "attention flow",
    "shapley": "Shapley value of the flow game",
    "flow_loo": "leave-one-out of the flow game",
    "model_loo": "leave-one-out of the model",
    "gradient": "input × gradient",
    "random": "random",
    "model_shapley": "Shapley values of the model (yardstick)",
}
METRICS = {
    "spearman": "Spearman with the yardstick",
    "auc": "AUC of the cause",
    "top1": "cause on top",
    "deletion": "deletion area (lower is better)",
}
CHEAP = ("raw", "raw_mean", "rollout", "flow", "shapley")
GREY, BLUE, ORANGE = "#8a9099", "#2a6fbb", "#c8501e"


def _rows(frame: pd.DataFrame, *parts: str) -> pd.DataFrame:
    return frame[frame["part"].isin(parts)]


def arms_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """T3: every explanation by task; mean (standard deviation) over seeds."""
    rows = []
    trials = _rows(frame, "task", "own")
    if trials.empty:
        return None
    where = trials["task"].fillna("own texts") if "task" in trials else pd.Series("own texts", index=trials.index)
    for task, group in trials.groupby(where, sort=False):
        for arm, words in ARMS.items():
            cells = {
                label: _cell(group[f"{metric}_{arm}"])
                for metric, label in METRICS.items()
                if f"{metric}_{arm}" in group and group[f"{metric}_{arm}"].notna().all()
            }
            if cells:
                rows.append({"task": task, "explanation": words} | cells)
    return pd.DataFrame(rows)


def _cell(values: pd.Series) -> str:
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{values.mean():.2f} ({spread:.2f})"


def depth_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """T4: share of pairs whose flow is just a column sum of the first layer, by depth."""
    rows = []
    for name, trivial, variation in _depths(frame):
        for number, residual in enumerate(("0.5", "none")):
            cells = {f"{layer + 1}": f"{trivial[number, layer]:.0%}" for layer in range(trivial.shape[1])}
            spread = f"{variation[number, -1]:.3f}"
            rows.append({"attention": name, "residual": residual} | cells | {"variation over outputs, deepest": spread})
    return pd.DataFrame(rows).fillna("") if rows else None


def _depths(frame: pd.DataFrame) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, trivial share (2, L), variation (2, L)) of each kind of attention, mean over seeds."""
    found = []
    if "depth_trivial" not in frame:
        return found
    for part, name in (("task", None), ("random", "random attention")):
        rows = _rows(frame, part)
        kinds = rows.groupby("task", sort=False) if part == "task" and len(rows) else [(name, rows)]
        for kind, group in kinds:
            if len(group):
                means = [np.mean(np.stack(list(group[column])), 0) for column in ("depth_trivial", "depth_variation")]
                found.append((str(kind), *means))
    return found


def graphs_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """T1, T2 by kind of graph."""
    if "residual" not in frame:
        return None
    rows = []
    for _, trial in _rows(frame, "task", "random").iterrows():
        layers = trial["layers"] if isinstance(trial.get("layers"), np.ndarray) else None
        kinds = [trial["task"]] * len(trial["residual"]) if layers is None else [f"random, {n} layers" for n in layers]
        rows += [{"graphs": kind, **{name: trial[name][place] for name in FACTS}} for place, kind in enumerate(kinds)]
    facts = pd.DataFrame(rows)
    out = []
    for kind, group in facts.groupby("graphs", sort=False):
        out.append(
            {
                "graphs": kind,
                "number": len(group),
                "largest residual": f"{group['residual'].max():.1e}",
                "sum of leave-one-out": f"{group['loo_sum'].mean():.3f}",
                "weights to Shapley (total variation)": f"{group['raw_distance'].mean():.3f}",
                "rollout to Shapley": f"{group['rollout_distance'].mean():.3f}",
                "weights are a maximum flow": f"{(group['raw_excess'] < 1e-6).mean():.0%}",
                "rollout is a maximum flow": f"{(group['rollout_excess'] < 1e-6).mean():.0%}",
            }
        )
    return pd.DataFrame(out)


FACTS = ("residual", "loo_sum", "raw_distance", "rollout_distance", "raw_excess", "rollout_excess")


def sentences(frame: pd.DataFrame) -> list[str]:
    """How degenerate flow is here, and which explanation to use instead."""
    said = []
    for name, trivial, variation in _depths(frame):
        said.append(
            f"Degeneracy on {name}: at {trivial.shape[1]} layers with residual connections {trivial[0, -1]:.0%} of "
            f"flows are column sums of the first layer, and between outputs a flow differs by {variation[0, -1]:.3f}."
        )
    own = _rows(frame, "own")
    if len(own):
        share, spread = own["trivial_share"].mean(), own["variation"].mean()
        said.append(
            f"Degeneracy on your texts: {share:.0%} of flows are column sums of the first layer, and between outputs a "
            f"flow differs by {spread:.3f}."
        )
    trials = _rows(frame, "task", "own")
    if len(trials):
        means = {arm: float(trials[f"spearman_{arm}"].mean()) for arm in ARMS if f"spearman_{arm}" in trials}
        cheap = max((arm for arm in CHEAP if arm in means), key=means.__getitem__)
        said.append(
            "What to use instead: the model's own Shapley values, sampled where 2^n forward passes are too many, or "
            f"its leave-one-out (n + 1 passes; Spearman {means['model_loo']:.2f} with them). Of what needs no further "
            f"pass, {ARMS[cheap]} comes closest here (Spearman {means[cheap]:.2f}; attention flow {means['flow']:.2f})."
        )
    return said


def draw_arms(frame: pd.DataFrame) -> Plot | None:
    """Every explanation: rank correlation with the yardstick, and AUC of the cause."""
    from matplotlib.figure import Figure as Plot

    trials = _rows(frame, "task", "own")
    if trials.empty:
        return None
    metrics = [name for name in ("spearman", "auc") if f"{name}_flow" in trials]
    arms = [arm for arm in ARMS if f"spearman_{arm}" in trials and arm != "model_shapley"]
    where = trials["task"].fillna("own texts") if "task" in trials else pd.Series("own texts", index=trials.index)
    plot = Plot(figsize=(4.4 * len(metrics) + 1.6, 3.4), layout="constrained")
    for axis, metric in zip(plot.subplots(1, len(metrics), sharey=True, squeeze=False)[0], metrics, strict=True):
        for shift, (task, group) in enumerate(trials.groupby(where, sort=False)):
            place = np.arange(len(arms))[::-1] + 0.14 - 0.28 * shift
            values = np.stack([group[f"{metric}_{arm}"].to_numpy(float) for arm in arms])
            colour = (BLUE, ORANGE)[shift % 2]
            axis.plot(values, np.repeat(place[:, None], values.shape[1], 1), ".", color=colour, alpha=0.35)
            axis.plot(values.mean(1), place, "D", color=colour, markersize=6, label=task)
        axis.set_yticks(np.arange(len(arms))[::-1], [ARMS[arm] for arm in arms])
        axis.axvline(0.5 if metric == "auc" else 0.0, color=GREY, linewidth=1)
        axis.set_xlabel(METRICS[metric])
        axis.spines[["top", "right"]].set_visible(False)
    plot.axes[0].legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return plot


def draw_tokens(frame: pd.DataFrame) -> Plot | None:
    """One sequence of each task, its tokens coloured by every explanation."""
    from matplotlib.figure import Figure as Plot

    trials = _rows(frame, "task")
    if trials.empty:
        return None
    firsts = [group.sort_values("seed").iloc[0] for _, group in trials.groupby("task", sort=False)]
    plot = Plot(figsize=(9, 0.8 + 3.3 * len(firsts)), layout="constrained")
    for axis, trial in zip(plot.subplots(len(firsts), 1, squeeze=False)[:, 0], firsts, strict=True):
        names, tokens = trial["example_arms"].split("\x1f"), trial["example_tokens"].split("\x1f")
        values: Any = trial["example_values"]
        scaled = values / np.abs(values).max(1, keepdims=True).clip(1e-12)
        axis.imshow(scaled, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        for row in range(len(names)):
            for column in range(len(tokens)):
                dark = abs(scaled[row, column]) > 0.65
                number = f"{values[row, column]:.2f}".replace("-0.00", "0.00")
                axis.text(column, row, number, ha="center", va="center", fontsize=7, color="w" if dark else "k")
        axis.set_yticks(range(len(names)), [ARMS[name] for name in names], fontsize=8)
        axis.set_xticks(range(len(tokens)), tokens)
        axis.get_xticklabels()[int(trial["example_cause"])].set_fontweight("bold")
        axis.set_title(f"{trial['task']}: the cause is {tokens[int(trial['example_cause'])]}", fontsize=9)
    return plot


def draw_intervals(frame: pd.DataFrame) -> Plot | None:
    """The same sequences: every token's interval over all maximum flows, Shapley value and rollout."""
    from matplotlib.figure import Figure as Plot

    trials = _rows(frame, "task")
    if trials.empty:
        return None
    firsts = [group.sort_values("seed").iloc[0] for _, group in trials.groupby("task", sort=False)]
    plot = Plot(figsize=(4.2 * len(firsts), 3.2), layout="constrained")
    for axis, trial in zip(plot.subplots(1, len(firsts), squeeze=False)[0], firsts, strict=True):
        names, tokens = trial["example_arms"].split("\x1f"), trial["example_tokens"].split("\x1f")
        given: Any = trial["example_values"]
        values = dict(zip(names, given, strict=True))
        place = np.arange(len(tokens))[::-1]
        axis.hlines(place, values["flow_loo"], values["flow"], color="#b9bfc7", linewidth=6, label="every maximum flow")
        axis.plot(values["shapley"], place, "o", color=BLUE, label="Shapley value")
        axis.plot(values["rollout"], place, "D", color=ORANGE, markersize=4, label="rollout")
        axis.set_yticks(place, tokens)
        axis.set_xlabel(f"flow from the last token ({trial['task']})")
        axis.spines[["top", "right"]].set_visible(False)
    plot.axes[0].legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return plot


def draw_depth(frame: pd.DataFrame) -> Plot | None:
    """T4 as curves."""
    from matplotlib.figure import Figure as Plot
    from matplotlib.ticker import MaxNLocator

    found = _depths(frame)
    if not found:
        return None
    plot = Plot(figsize=(5.6, 3.4), layout="constrained")
    axis = plot.subplots()
    for number, (name, trivial, _) in enumerate(found):
        layers = np.arange(1, trivial.shape[1] + 1)
        axis.plot(layers, trivial[0], "o-", color=f"C{number}", markersize=4, label=f"{name}, residual 0.5")
        axis.plot(layers, trivial[1], "o--", color=f"C{number}", markersize=4, label=f"{name}, no residual")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("layers below the output")
    axis.set_ylabel("share of flows that are column sums")
    axis.set_ylim(-0.03, 1.03)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return plot


def draw_speed(frame: pd.DataFrame) -> Plot | None:
    """Seconds for all pairs of a 12-layer graph, by number of tokens, on logarithmic axes."""
    from matplotlib.figure import Figure as Plot

    rows = _rows(frame, "speed")
    if rows.empty:
        return None
    sizes, seconds = rows.iloc[0]["sizes"], rows.iloc[0]["solve_seconds"]
    plot = Plot(figsize=(4.6, 3.4), layout="constrained")
    axis = plot.subplots()
    for column, (name, colour) in enumerate((("attention flow, all pairs", BLUE), ("rollout, all pairs", ORANGE))):
        half = len(sizes) // 2
        slope = np.polyfit(np.log(sizes[half:]), np.log(seconds[half:, column]), 1)[0] if len(sizes) > 3 else np.nan
        words = "" if np.isnan(slope) else f" (grows as n^{slope:.1f})"
        axis.loglog(sizes, seconds[:, column], "o-", color=colour, label=name + words)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()
    axis.set_xlabel("tokens")
    axis.set_ylabel("seconds, 12 layers")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    return plot


FIGURES = (
    Figure("arms", "Explanations against the model's own Shapley values and the known cause; dots: seeds.", draw_arms),
    Figure("tokens", "One sequence of each task; colours relative to the strongest of a row.", draw_tokens),
    Figure("intervals", "The same sequences: what a token gets in any maximum flow.", draw_intervals),
    Figure("depth", "With depth, flow becomes a column sum of the first layer.", draw_depth),
    Figure("speed", "Time for all pairs of outputs and inputs.", draw_speed),
)
TABLES = (
    Table("arms", "Explanations by task; mean (standard deviation) over seeds.", arms_table),
    Table(
        "depth", "T4: share of flows that are a column sum of the first layer, by layers below the output.", depth_table
    ),
    Table("graphs", "T1, T2: the axioms by kind of graph.", graphs_table),
)
