"""Tables and figures of the study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperworks.control.form import arms
from paperworks.control.form.tuning import tuning
from paperworks.lab.statistics import t_interval
from paperworks.lab.study import Figure, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

LEVEL: dict[str, Any] = {"part": "arm", "kind": "static_pool", "pool": "disjoint"}
COLOURS = {
    "form": "#2a6fbb",
    "form_ensemble": "#6aa5de",
    "form_no_imitator": "#8fb8a8",
    "form_absolute": "#7a6fbb",
    "form_short_window": "#3f4f9b",
    "gaifo": "#c8501e",
    "bco": "#d9a21b",
    "true_reward": "#3a7d44",
    "bc_actions": "#8a9099",
    "gail_actions": "#b98a7a",
}
PRIVILEGED = ("true_reward", "bc_actions", "gail_actions")


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, level and seed, with `normalised`: 0 random, 1 expert (own data: the true-reward learner)."""
    if "arm" not in frame:
        return pd.DataFrame(columns=["arm", "kind", "pool", "dims", "demos", "setting", "seed", "normalised"])
    trained = frame[frame["part"] == "arm"]
    top = _top_return(frame)
    rows = []
    for record in trained.to_dict("records"):
        fields = {name: record[name] for name in ("arm", "kind", "pool", "dims", "demos", "setting")}
        for index, seed in enumerate(np.asarray(record["seeds"]).tolist()):
            floor, returned = float(record["random"][index]), float(record["returns"][index])
            ceiling = top if not isinstance(record.get("expert"), np.ndarray) else float(record["expert"][index])
            score = np.nan if ceiling is None else (returned - floor) / (ceiling - floor)
            rows.append(fields | {"seed": seed, "returned": returned, "normalised": score})
    return pd.DataFrame(rows)


def _top_return(frame: pd.DataFrame) -> float | None:
    """What stands for the expert where its return is unknown: the learner on the true reward."""
    reference = frame[(frame["part"] == "arm") & (frame["arm"] == "true_reward")]
    return None if reference.empty else float(np.mean(np.concatenate(list(reference["returns"]))))


def _trained(frame: pd.DataFrame, **where: Any) -> pd.DataFrame:
    if "arm" not in frame:
        return pd.DataFrame()
    chosen = frame[frame["part"] == "arm"]
    for name, value in where.items():
        chosen = chosen[chosen[name] == value]
    return chosen


def findings(frame: pd.DataFrame) -> list[str]:
    """What the measurements say beside the verdicts."""
    said = []
    for record in _trained(frame, arm="form", **LEVEL).to_dict("records"):
        clipped, unseen = float(np.mean(record["clipped"])), float(np.mean(record["unseen"]))
        where = f"with {record['dims']:.0f} features"
        text = f"FORM {where}: {clipped:.1%} of the log-ratios are clipped; the demonstrator's model reaches "
        text += f"{float(np.mean(record['held_out'])):.2f} nats a step (normalised units) on held-out episodes"
        said.append(text + (f", {unseen:.2f} on patterns it has not seen." if np.isfinite(unseen) else "."))
    for record in _trained(frame, arm="gaifo", **LEVEL).to_dict("records"):
        share = float(np.mean(record["accuracy"]))
        said.append(f"GAIfO with {record['dims']:.0f} features: its discriminator is right on {share:.0%} at the end.")
    return said


def score_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Normalised return of every arm and level with its t interval over seeds."""
    table = tidy(frame)
    if table.empty:
        return None
    rows = []
    keys = ["dims", "kind", "pool", "demos", "arm"]
    for key, cell in table.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True))
        if cell["normalised"].isna().any():
            rows.append(row | {"normalised return": f"return {cell['returned'].mean():.1f}", "95 % interval": ""})
            continue
        best = cell.groupby("setting")["normalised"].mean().idxmax()
        interval = t_interval(cell.loc[cell["setting"] == best, "normalised"])
        bounds = f"{interval.low:.2f} to {interval.high:.2f}" if interval.count > 1 else ""
        rows.append(row | {"normalised return": f"{interval.estimate:.3f}", "95 % interval": bounds})
    return pd.DataFrame(rows).astype({"dims": int, "demos": int})


def extra_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Area under the curve, divergence, distance of transitions, discriminator's accuracy, clipped share."""
    rows = []
    for record in _trained(frame).to_dict("records"):
        curve, steps = np.asarray(record["curve"]), np.asarray(record["curve_steps"])
        area = np.trapezoid(curve.mean(1), steps) / (steps[-1] - steps[0]) if len(steps) > 1 else np.nan
        floor, top = np.mean(record["random"]), np.mean(record.get("expert", np.nan))
        row = {"dims": int(record["dims"]), "kind": record["kind"], "pool": record["pool"], "arm": record["arm"]}
        row |= {"setting": record["tuned"], "area under curve": _number((area - floor) / (top - floor))}
        row["KL rate, nats"] = _number(np.mean(np.asarray(record["divergence_curve"])[-1]))
        row["energy distance"] = _number(np.mean(record["energy"]))
        row["largest p"] = _number(np.max(record["energy_p"]))
        row["discriminator accuracy"] = _number(_mean(record.get("accuracy")))
        row["clipped share"] = _number(_mean(record.get("clipped")))
        rows.append(row)
    return pd.DataFrame(rows) if rows else None


def search_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Every arm's grid: what was searched, what each row returned, and which was chosen."""
    table = tidy(frame)
    if table.empty:
        return None
    searched = table.groupby(["arm", "dims"])["setting"].nunique().max() > 1
    means = table[(table["kind"] == "static_pool") & (table["pool"] == "disjoint")].groupby(["dims", "arm", "setting"])
    rows = []
    if not searched:
        for (dims, arm, setting), _ in means:
            if arm in arms.GRIDS:
                grid = "; ".join(arms.words(arm, row) for row in range(len(arms.GRIDS[arm])))
                row = {"dims": int(dims), "arm": arm, "grid": grid, "used": arms.words(arm, int(setting))}
                rows.append(row | {"pilot seeds": ", ".join(map(str, tuning().pilot_seeds)) or "not searched"})
        return pd.DataFrame(rows) if rows else None
    for (dims, arm), cell in means["normalised"].mean().groupby(["dims", "arm"]):
        best = int(cell.idxmax()[2])
        for (_, _, setting), score in cell.items():
            row = {"dims": int(dims), "arm": arm, "row": int(setting), "setting": arms.words(arm, int(setting))}
            rows.append(row | {"normalised return": f"{score:.3f}", "best": "yes" if int(setting) == best else ""})
    return pd.DataFrame(rows)


def _mean(values: Any) -> float:
    return float(np.mean(values)) if isinstance(values, np.ndarray) else np.nan


def _number(value: Any) -> str:
    return f"{float(value):.3f}" if np.isfinite(float(value)) else ""


# Figures -------------------------------------------------------------------------------------------------------------


def _panels(count: int, width: float = 4.2, height: float = 3.4) -> tuple[Plot, list[Any]]:
    from matplotlib.figure import Figure as Plot

    plot = Plot(figsize=(width * count, height), layout="constrained")
    return plot, list(np.atleast_1d(plot.subplots(1, count)))


def _normal(record: dict[str, Any], values: np.ndarray) -> np.ndarray:
    floor = np.asarray(record["random"], float)
    ceiling = record.get("expert")
    return values if not isinstance(ceiling, np.ndarray) else (values - floor) / (ceiling - floor)


def draw_curves(frame: pd.DataFrame) -> Plot | None:
    """Return against environment steps by arm, one panel a level."""
    rows = _trained(frame, kind="static_pool", pool="disjoint")
    if rows.empty:
        return None
    rows = rows[rows["demos"] == rows["demos"].max()]
    levels = sorted(rows["dims"].unique())
    plot, axes = _panels(len(levels), 5.0, 3.8)
    for axis, dims in zip(axes, levels, strict=True):
        for record in rows[rows["dims"] == dims].drop_duplicates("arm").to_dict("records"):
            curve = _normal(record, np.asarray(record["curve"]))
            style = "--" if record["arm"] in PRIVILEGED else "-"
            mean = curve.mean(1)
            colour = COLOURS.get(record["arm"], "black")
            axis.plot(record["curve_steps"], mean, style, color=colour, label=record["arm"], lw=1.5)
            if style == "-":
                axis.fill_between(record["curve_steps"], curve.min(1), curve.max(1), color=colour, alpha=0.12, lw=0)
        if "expert" in rows and rows["expert"].notna().all():
            axis.axhline(1, color="black", lw=0.8, ls=":")
            axis.axhline(0, color="grey", lw=0.8, ls=":")
            axis.set_ylim(-0.6, 1.1)
        axis.set_title(f"{dims:.0f} irrelevant features", fontsize=9)
        axis.set_xlabel("environment steps a seed")
    known = "expert" in rows and rows["expert"].notna().all()
    axes[0].set_ylabel("normalised return" if known else "return")
    axes[-1].legend(fontsize=7, loc="lower right")
    return plot


def draw_levels(frame: pd.DataFrame) -> Plot | None:
    """Final return of every arm against the number of irrelevant features, and against demonstrations in a sweep."""
    table = tidy(frame)
    table = table[(table["kind"] == "static_pool") & (table["pool"] == "disjoint")]
    if table.empty or table["normalised"].isna().any():
        return None
    most = table["demos"].max()
    swept = table["demos"].nunique() > 1
    plot, axes = _panels(2 if swept else 1, 5.0)
    pairs = [("dims", table[table["demos"] == most])] + ([("demos", table[table["dims"] == 0])] if swept else [])
    for axis, (column, part) in zip(axes, pairs, strict=True):
        levels = sorted(part[column].unique())
        names = list(dict.fromkeys(part["arm"]))
        for offset, arm in enumerate(names):
            cell = part[part["arm"] == arm].groupby(column)["normalised"]
            places = np.array([levels.index(level) for level in cell.groups]) + (offset - len(names) / 2) * 0.03
            spread = [t_interval(values).high - values.mean() if len(values) > 1 else 0.0 for _, values in cell]
            marker = "s--" if arm in PRIVILEGED else "o-"
            axis.errorbar(places, cell.mean(), yerr=spread, fmt=marker, ms=4, lw=1, capsize=2,
                          color=COLOURS.get(arm, "black"), label=arm)  # fmt: skip
        axis.axhline(1, color="black", lw=0.8, ls=":")
        axis.axhline(0, color="grey", lw=0.8, ls=":")
        axis.set_xticks(range(len(levels)), [f"{level:.0f}" for level in levels])
        axis.set_xlabel("irrelevant features" if column == "dims" else "demonstrations")
        axis.set_ylim(-0.6, 1.25)
    axes[0].set_ylabel("normalised return")
    axes[0].legend(fontsize=7, ncols=2, loc="lower left")
    return plot


def draw_map(frame: pd.DataFrame) -> Plot | None:
    """Where the demonstrator's model prefers the expert's move to its opposite, with paths on top."""
    rows = _trained(frame, **LEVEL)
    rows = rows[rows["arm"].isin(("form", "form_ensemble"))] if not rows.empty else rows
    rows = rows[rows["map"].notna()] if "map" in rows else rows.iloc[:0]
    if rows.empty:
        return None
    plot, axes = _panels(len(rows), 3.4, 3.6)
    drawn = None
    for axis, record in zip(axes, rows.to_dict("records"), strict=True):
        drawn = axis.imshow(np.clip(record["map"], -40, 40), extent=(-2.5, 2.5, -2.5, 2.5), origin="lower",
                            cmap="RdBu", vmin=-40, vmax=40)  # fmt: skip
        for path in np.asarray(record["shown_paths"]):
            axis.plot(path[:, 0], path[:, 1], color="black", lw=0.7)
        for path in np.moveaxis(np.asarray(record["paths"]), 1, 0):
            axis.plot(path[:, 0], path[:, 1], color="#f2b705", lw=0.9)
        axis.set_title(f"{record['arm']}, {record['dims']:.0f} features", fontsize=9)
        axis.set_xlim(-2.5, 2.5)
        axis.set_ylim(-2.5, 2.5)
    assert drawn is not None
    plot.colorbar(drawn, ax=axes, shrink=0.7, label="nats")
    return plot


def draw_dimensions(frame: pd.DataFrame) -> Plot | None:
    """Each dimension's log-ratio over an episode of the final policy."""
    rows = _trained(frame, arm="form", **LEVEL)
    if rows.empty:
        return None
    plot, axes = _panels(len(rows), 4.6, 3.2)
    drawn = None
    limit = max(1.0, max(float(np.abs(values).max()) for values in rows["per_dim"]))
    for axis, record in zip(axes, rows.to_dict("records"), strict=True):
        drawn = axis.imshow(np.asarray(record["per_dim"]).T, aspect="auto", cmap="PuOr", vmin=-limit, vmax=limit)
        axis.set_title(f"{record['dims']:.0f} features", fontsize=9)
        axis.set_xlabel("step")
    axes[0].set_ylabel("dimension")
    assert drawn is not None
    plot.colorbar(drawn, ax=axes, label="nats")
    return plot


def draw_divergence(frame: pd.DataFrame) -> Plot | None:
    """The estimated divergence over training; 0 is a demonstrator's twin."""
    rows = _trained(frame, **LEVEL)
    rows = rows[rows["arm"].isin(("form", "form_ensemble"))] if not rows.empty else rows
    if rows.empty:
        return None
    plot, axes = _panels(1, 5.2, 3.4)
    for record in rows.to_dict("records"):
        line = np.asarray(record["divergence_curve"]).mean(1)
        style = "-" if record["dims"] == 0 else "--"
        label = f"{record['arm']}, {record['dims']:.0f} features"
        axes[0].plot(record["curve_steps"], line, style, color=COLOURS[record["arm"]], label=label)
    axes[0].axhline(0, color="black", lw=0.8)
    axes[0].set_yscale("symlog", linthresh=1)
    axes[0].set_xlabel("environment steps a seed")
    axes[0].set_ylabel("estimated KL rate, nats a step")
    axes[0].legend(fontsize=7)
    return plot


FIGURES = (
    Figure("curves", "Return by arm (mean; band: smallest to largest seed); dotted: expert and random.", draw_curves),
    Figure("levels", "Final return by arm with 95 % t intervals; squares: arms that see more.", draw_levels),
    Figure(
        "map",
        "log p of the expert's move minus that of the opposite, a body at rest (blue: the reward leads right); black: "
        "demonstrations, yellow: the imitator.",
        draw_map,
    ),
    Figure("dimensions", "Each dimension's log-ratio over time; irrelevant features should be white.", draw_dimensions),
    Figure("divergence", "The estimated divergence from the demonstrator while learning.", draw_divergence),
)
TABLES = (
    Table("scores", "Normalised return: 0 random, 1 expert.", score_table),
    Table("search", "Every rival's grid and the setting used.", search_table),
    Table("extra", "Other measurements, means over seeds.", extra_table),
)
