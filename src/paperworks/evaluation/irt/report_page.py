"""The page that `paperworks apply irt` writes: one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from paperworks.evaluation.irt.analysis import Analysis

TEMPLATES = Path(__file__).parent / "templates"
SUSPECTS = 50
SHOWN_GROUPS = 40
SHOWN_CURVES = 8
SHORT = 34
BLUE, ORANGE, GREY = "#2a6fbb", "#c8501e", "#8a9099"


def report_page(found: Analysis) -> str:
    """The report as HTML: findings, suspects, headroom by group, item curves, abilities; names are escaped."""
    from paperworks.evaluation.irt.analysis import findings
    from paperworks.lab import page, report

    facts = dict(zip(found.summary["fact"], found.summary["value"], strict=True))
    return page.render(
        TEMPLATES,
        "report.html",
        title=f"Item response report: {facts['responders']} responders, {facts['items']} items",
        findings=findings(found),
        warnings=found.warnings,
        figures=[page.figure(*drawn) for drawn in _figures(found)],
        suspects=report.table(_suspects(found)),
        groups=report.table(_groups(found)),
        responders=report.table(_responders(found)),
        clustered=found.clustered,
        facts={name: value for name, value in facts.items() if name != "warnings"},
    )


def _suspects(found: Analysis) -> dict[str, Any]:
    flags = dict(zip(zip(found.items["group"], found.items["item"], strict=True), found.items["flag"], strict=True))
    worst = found.suspects.head(SUSPECTS)
    keys = zip(worst["group"], worst["item"], strict=True)
    columns = {
        "rank": worst["rank"],
        "group": worst["group"],
        "item": worst["item"],
        "log-odds of failing": worst["expert_logit"],
        "share right": worst["p_correct"],
        "best third wrong": worst["best_third_error"],
        "correlation with rest": -worst["point_biserial"],
        "n": worst["n"],
        "flag": [flags[key].replace("_", " ") for key in keys],
    }
    return _facts(_frame(columns))


def _groups(found: Analysis) -> dict[str, Any]:
    frame = found.groups
    shown = {
        "rank": frame["rank"],
        "group": frame["group"],
        "items": frame["items"],
        "headroom": frame["leh_q75"],
        "95 % interval": _spans(frame, "leh_q75_low", "leh_q75_high", "{:.3f}"),
        "rank interval": _spans(frame, "rank_low", "rank_high", "{}"),
        "mean log a": frame["log_a"],
        "share right": frame["p_correct"],
        "test information": frame["test_information"],
    }
    return _facts(_frame(shown))


def _responders(found: Analysis) -> dict[str, Any]:
    frame = found.responders.sort_values("theta", ascending=False, kind="stable").reset_index(drop=True)
    frame.insert(0, "rank", np.arange(1, len(frame) + 1))
    return _facts(frame)


def _figures(found: Analysis) -> list[tuple[str, str, Figure]]:
    drawn = [
        (
            "groups",
            "Headroom of each group: the upper quartile of its items' slopes at the ablest responder, with 95 % "
            "bootstrap intervals. Near zero: saturated.",
            _headroom(found),
        ),
        (
            "suspects",
            "Curves of the most suspect items. Ticks are the responders' abilities: where the curve is low at the "
            "right end, the ablest fail too.",
            _curves(found, _positions(found), ORANGE),
        ),
        (
            "informative",
            "Curves of the items with the most headroom: steepest where the ablest responders are.",
            _curves(found, np.argsort(-found.items["leh"].to_numpy(), kind="stable"), BLUE),
        ),
        ("abilities", "Ability against share of right answers, with one standard deviation.", _abilities(found)),
        ("information", "Information of each group's items together, by ability.", _information(found)),
    ]
    return drawn if len(found.groups) > 1 else drawn[1:]


def _headroom(found: Analysis) -> Figure:
    groups = found.groups.head(SHOWN_GROUPS).iloc[::-1]
    figure, axes = _axes(5.6, 1.0 + 0.24 * len(groups))
    place = np.arange(len(groups))
    axes.hlines(place, groups["leh_q75_low"], groups["leh_q75_high"], color=GREY, linewidth=2)
    axes.plot(groups["leh_q75"], place, "o", color=BLUE, markersize=5)
    axes.set_yticks(place, [_short(name) for name in groups["group"]])
    axes.set_ylim(-0.6, len(groups) - 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel("headroom (upper quartile of LEH)")
    return figure


def _curves(found: Analysis, order: np.ndarray, colour: str) -> Figure:
    from paperworks.evaluation.irt.curves import item_curve

    fit = found.fit
    figure, axes = _axes(5.6, 3.6)
    low, high = min(-3.0, float(fit.theta.min())), max(3.0, float(fit.theta.max()))
    theta = np.linspace(low, high, 161)
    chosen = order[:SHOWN_CURVES]
    for number, item in enumerate(chosen):
        shade = 1 - 0.75 * number / max(1, len(chosen) - 1)
        curve = item_curve(theta, fit.a[item], fit.b[item], fit.c[item], fit.d[item])
        axes.plot(theta, curve, color=colour, alpha=shade, linewidth=1.6, label=_short(fit.item_names[item]))
    axes.plot(fit.theta, np.zeros(len(fit.theta)), "|", color="#1c1e21", markersize=9, clip_on=False)
    axes.set_ylim(0, 1)
    axes.set_xlim(low, high)
    axes.set_xlabel("ability")
    axes.set_ylabel("chance of a right answer")
    _legend(axes)
    return figure


def _abilities(found: Analysis) -> Figure:
    fit = found.fit
    figure, axes = _axes(5.6, 4.0)
    style = {"fmt": "o", "color": BLUE, "ecolor": GREY, "markersize": 4, "linewidth": 1}
    axes.errorbar(fit.accuracy, fit.theta, yerr=fit.theta_sd, **style)
    order = np.argsort(-fit.theta, kind="stable").tolist()
    # Two names only: at the top responders crowd, and the table has all.
    for row in (order[0], order[-1]):
        left = np.nanmax(fit.accuracy) - fit.accuracy[row] < 0.5 * (np.nanmax(fit.accuracy) - np.nanmin(fit.accuracy))
        axes.annotate(
            _short(fit.responder_names[row]),
            (fit.accuracy[row], fit.theta[row]),
            xytext=(-7 if left else 7, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=8,
        )
    axes.set_xlabel("share of right answers")
    axes.set_ylabel("ability")
    return figure


def _information(found: Analysis) -> Figure:
    fit = found.fit
    figure, axes = _axes(5.6, 3.6)
    theta = np.linspace(-4, 4, 81)
    groups = [None] if fit.groups is None else found.groups["group"].head(SHOWN_CURVES).tolist()
    for number, group in enumerate(groups):
        line = fit.test_information(group, theta=theta)
        colour = f"C{number}" if len(groups) > 1 else BLUE
        axes.plot(line["theta"], line["information"], color=colour, label=_short(group or "all items"))
    axes.axvline(float(fit.theta.max()), color=GREY, linewidth=1, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.set_xlim(-4, 4)
    axes.set_xlabel("ability (dashed: the ablest responder)")
    axes.set_ylabel("information")
    _legend(axes)
    return figure


def _positions(found: Analysis) -> np.ndarray:
    """Where in the fit the most suspect items are."""
    place = {name: position for position, name in enumerate(found.fit.item_names)}
    return np.array([place[name] for name in found.suspects["item"].tolist()[:SHOWN_CURVES]])


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Any) -> None:
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2)


def _short(name: str) -> str:
    """A name for a figure: not too long, and not read as mathematics."""
    words = " ".join(str(name).split()).replace("$", r"\$")
    return words if len(words) <= SHORT else f"{words[: SHORT - 12]}…{words[-11:]}"


def _spans(frame: pd.DataFrame, low: str, high: str, form: str) -> list[str]:
    pairs = zip(frame[low].tolist(), frame[high].tolist(), strict=True)
    return [f"{form.format(left)} to {form.format(right)}" for left, right in pairs]


def _frame(columns: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns)


def _facts(frame: pd.DataFrame) -> dict[str, Any]:
    from paperworks.lab.facts import table_facts

    return table_facts(frame)
