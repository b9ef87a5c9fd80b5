"""Figures, tables and sentences of the study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperworks._files import write_atomic
from paperworks.lab.study import Figure, Loaded, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

COLOURS = {"full": "#c44e52", "seminorm": "#4c72b0"}
TOLERANCES = ("1e-3", "1e-4", "1e-5")  # of the replays; smoke has the first only
LEAST_NFE = 30


def _part(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    return frame[frame["part"] == name] if "part" in frame else frame.iloc[:0]


def replayed(frame: pd.DataFrame) -> pd.DataFrame:
    """The trials whose checkpoints were replayed."""
    return frame[frame["curve_nfe"].notna()] if "curve_nfe" in frame else frame.iloc[:0]


def _grid(names: Sequence[str], width: float = 2.6) -> tuple[Plot, Any]:
    from matplotlib.figure import Figure as Drawing

    plot = Drawing(figsize=(max(6.6, width * len(names)), 2.9), layout="constrained")
    return plot, np.atleast_1d(plot.subplots(1, len(names)))


def _plain_ticks(axis: Any) -> None:
    """Three whole numbers, evenly spread over a logarithmic axis that spans about a decade."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    low, high = axis.get_xlim()
    places = np.geomspace(low, high, 7)[1::2]
    axis.xaxis.set_major_locator(FixedLocator([float(f"{place:.2g}") for place in places]))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.xaxis.set_minor_locator(NullLocator())


def draw_training(frame: pd.DataFrame) -> Plot | None:
    """Backward evaluations of every step, mean over seeds, at the loosest tolerance."""
    rows = _part(frame, "train")
    rows = rows[rows["arm"].isin(list(COLOURS))] if len(rows) else rows
    if rows.empty:
        return None
    rows = rows[rows["rtol"] == rows["rtol"].max()]
    names = list(dict.fromkeys(rows["task"]))
    plot, axes = _grid(names)
    for axis, name in zip(axes, names, strict=True):
        for arm, colour in COLOURS.items():
            runs = rows[(rows["task"] == name) & (rows["arm"] == arm)]["nfe_per_step"]
            if len(runs):
                axis.plot(np.mean(np.stack(list(runs)), axis=0), color=colour, label=arm, lw=1.2)
        axis.set(title=name, xlabel="training step", ylim=(0, None))
    axes[0].set_ylabel("backward evaluations")
    axes[0].legend(frameon=False)
    return plot


def draw_curves(frame: pd.DataFrame) -> Plot | None:
    """Work against precision, the geometric mean over checkpoints and seeds."""
    rows = replayed(frame)
    if rows.empty:
        return None
    names = list(dict.fromkeys(rows["task"]))
    plot, axes = _grid(names)
    for axis, name in zip(axes, names, strict=True):
        mine = rows[rows["task"] == name]
        nfe, error = (np.concatenate([np.asarray(x) for x in mine[column]]) for column in ("curve_nfe", "curve_error"))
        for row, (arm, colour) in enumerate(COLOURS.items()):
            shown = np.exp(np.log(np.maximum(error[:, row], 1e-16)).mean(0))
            axis.plot(nfe[:, row].mean(0), shown, "o-", ms=3.5, color=colour, label=arm, lw=1.2)
        axis.set(xscale="log", yscale="log", title=name, xlabel="backward evaluations")
        _plain_ticks(axis)
        axis.axvline(nfe[:, 0, 2].mean(), color="0.7", lw=0.8, ls="--", zorder=0)
    axes[0].set_ylabel("relative gradient error")
    axes[0].legend(frameon=False)
    return plot


def draw_steps(frame: pd.DataFrame) -> Plot | None:
    """Where one backward solve accepted and rejected steps; knots as ticks."""
    rows = replayed(frame)
    if rows.empty:
        return None
    row = max((row for _, row in rows.iterrows()), key=lambda row: len(row["times_full"]))
    plot, axes = _grid(("full", "seminorm"), width=3.6)
    edges = np.linspace(min(row["times_full"].min(), 0), row["times_full"].max() + 1e-9, 57)
    for axis, arm in zip(axes, COLOURS, strict=True):
        times, kept = row[f"times_{arm}"], row[f"kept_{arm}"].astype(bool)
        axis.hist(
            [times[kept], times[~kept]], bins=edges, stacked=True, color=["#4c72b0", "#dd8452"],
            label=["accepted", "rejected"],
        )  # fmt: skip
        for knot in row["knots"]:
            axis.axvline(knot, ymax=0.03, color="k", lw=0.7)
        axis.set(title=f"{row['task']}, {arm}", xlabel="time (the solve runs from right to left)")
    top = max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        axis.set_ylim(0, top)
    axes[0].set_ylabel("attempted steps")
    axes[0].legend(frameon=False)
    return plot


def draw_saving(frame: pd.DataFrame) -> Plot | None:
    """The replayed reduction against tolerance, and against the number of parameters."""
    rows = replayed(frame)
    if rows.empty:
        return None
    plot, (left, right) = _grid(("tolerance", "parameters"), width=3.6)
    for name, mine in rows.groupby("task", sort=False):
        totals = np.concatenate([np.asarray(x) for x in mine["replay_nfe"]]).sum(0)
        saved = 1 - totals[1] / totals[0]
        left.plot(TOLERANCES[: len(saved)], saved, "o-", ms=3.5, lw=1.2, label=name)
        right.plot(mine["parameters"].mean(), saved[-1 if len(saved) < 2 else 1], "o", label=name)
        right.annotate(
            str(name),
            (mine["parameters"].mean(), saved[-1 if len(saved) < 2 else 1]),
            (4, 4),
            textcoords="offset points",
            fontsize=8,
        )
    left.set(xlabel="relative tolerance", ylabel="share of evaluations saved")
    right.set(xlabel="parameters", xscale="log")
    right.margins(x=0.25)
    for axis in (left, right):
        axis.axhline(0, color="0.7", lw=0.8, zorder=0)
        axis.axhline(0.2, color="0.7", lw=0.8, ls="--", zorder=0)
    left.legend(frameon=False, fontsize=8)
    return plot


def replay_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Per task: evaluations and errors of both norms on the same checkpoints, and whether the task is judged."""
    rows = replayed(frame)
    if rows.empty:
        return None
    found = []
    for name, mine in rows.groupby("task", sort=False):
        nfe, error = (np.concatenate([np.asarray(x) for x in mine[f"replay_{kind}"]]) for kind in ("nfe", "error"))
        for place, tolerance in enumerate(TOLERANCES[: nfe.shape[2]]):
            full, semi = nfe[:, 0, place].mean(), nfe[:, 1, place].mean()
            found.append(
                {
                    "task": name,
                    "tolerance": tolerance,
                    "nfe full": full,
                    "nfe seminorm": semi,
                    "saved": 1 - semi / full,
                    "error full": float(np.exp(np.log(np.maximum(error[:, 0, place], 1e-300)).mean())),
                    "error seminorm": float(np.exp(np.log(np.maximum(error[:, 1, place], 1e-300)).mean())),
                    "judged": "yes" if mine["default_nfe"].mean() >= LEAST_NFE else "no, too short",
                }
            )
    return pd.DataFrame(found)


def training_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Every arm as it was trained."""
    rows = _part(frame, "train")
    if rows.empty:
        return None
    columns = ["metric", "floor", "forward_nfe", "backward_nfe", "accepted", "rejected", "train_seconds", "peak_mib"]
    return rows.groupby(["task", "rtol", "arm"], sort=False)[columns].mean().reset_index()


def field_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """A field of one's own: every norm and tolerance."""
    from paperworks.science.ode_seminorm.own_field import NORMS, TOLERANCES

    rows = _part(frame, "field")
    if rows.empty:
        return None
    row = rows.iloc[0]
    return pd.DataFrame(
        [
            {
                "norm": norm,
                "rtol": rtol,
                "atol": atol,
                "backward evaluations": row["nfe"][i, j],
                "seconds": row["solve_seconds"][i, j],
                "MiB": row["mib"][i, j],
                "gradient error": row["error"][i, j],
                "recommended": "yes" if row["best"] == i * len(TOLERANCES) + j else "",
            }
            for i, norm in enumerate(NORMS)
            for j, (rtol, atol) in enumerate(TOLERANCES)
        ]
    )


def sentences(frame: pd.DataFrame) -> list[str]:
    """What the verdicts rest on."""
    if (own := field_table(frame)) is not None:
        best = own[own["recommended"] == "yes"]
        if best.empty:
            return ["No setting brings the gradient within 0.1 % of the reference: use odeint or odeint_checkpointed."]
        row = best.iloc[0]
        return [
            f"Use adjoint_norm={row['norm']!r} with rtol={row['rtol']:g}, atol={row['atol']:g}: the fewest backward "
            f"evaluations ({row['backward evaluations']:g}) with a gradient error of at most 0.1 % "
            f"({row['gradient error']:.1e})."
        ]
    said = []
    table = replay_table(frame)
    if table is not None:
        short = sorted(set(table.loc[table["judged"] != "yes", "task"]))
        if short:
            said.append(
                f"Listed but not judged, since the default needs fewer than {LEAST_NFE} evaluations at (1e-4, 1e-6), "
                f"and steps of six are too coarse to compare: {', '.join(short)}."
            )
    rows = replayed(frame)
    if "energy_drift" in rows and rows["energy_drift"].notna().any():
        drift = rows["energy_drift"].mean()
        said.append(f"The learned Hamiltonian drifts by {drift:.1e} of itself over 5 s without forces.")
    said.append(
        "Both norms here leave out the adjoint of time unless gradients of times are asked for (so seminorm_t would be "
        "seminorm). torchdiffeq 0.2.5 carries it along, and in its norm, whenever the field depends on time."
    )
    return said


def write_field_table(frame: pd.DataFrame, loaded: Loaded, folder: Path) -> list[Path]:
    """`field.csv`, for a field of one's own."""
    table = field_table(frame)
    if table is None:
        return []
    write_atomic(folder / "field.csv", table.to_csv(index=False))
    return [folder / "field.csv"]


FIGURES = (
    Figure("training", "Backward evaluations of every training step, each arm on its own.", draw_training),
    Figure("curves", "Work and precision on the same checkpoints; errors are compared at the dashes.",
           draw_curves),
    Figure("steps", "Steps that one backward solve accepts and rejects; ticks: knots of the data.", draw_steps),
    Figure("saving", "Share of backward evaluations saved; dashed: the claimed 20 %.", draw_saving),
)  # fmt: skip
TABLES = (
    Table("replay", "The same checkpoints under both norms.", replay_table),
    Table("training", "Every arm as it was trained, mean over seeds.", training_table),
    Table("field", "Your field under every norm and tolerance.", field_table),
)
