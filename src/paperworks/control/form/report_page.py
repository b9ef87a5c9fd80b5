"""The page that `paperworks apply form` writes: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
SHOWN = 40
BLUE, GREY = "#2a6fbb", "#8a9099"


def report_page(
    steps: pd.DataFrame,
    episodes: pd.DataFrame,
    said: Sequence[str],
    warnings: Sequence[str],
    *,
    names: tuple[str, str],
    reference: float,
) -> str:
    """The report as HTML: findings, episodes by score, and where and in which dimensions a log departs."""
    from paperworks.lab import page, report
    from paperworks.lab.facts import table_facts

    worst = str(episodes["episode"].iloc[-1])
    figures = [
        page.figure(
            "episodes",
            "Mean log-ratio of each episode with one standard error; line: demonstrations scored in the same way.",
            _episodes(episodes, reference),
        ),
        page.figure(
            "dimensions",
            "Mean log-ratio of each dimension's marginal by episode (rows by rank).",
            _by_episode(steps, episodes),
        ),
        page.figure(
            "steps",
            f"Episode {worst}, the least like the demonstrations: log-ratios of the dimensions over time.",
            _over_time(steps[steps["episode"].astype(str) == worst]),
        ),
    ]
    return page.render(
        TEMPLATES,
        "report.html",
        title=f"{names[0]} against {names[1]}",
        findings=said,
        warnings=warnings,
        figures=figures,
        episodes=report.table(table_facts(episodes)),
    )


def _dimensions(steps: pd.DataFrame) -> list[str]:
    return [str(name) for name in steps.columns if str(name).startswith("ratio_")]


def _labels(names: Sequence[str]) -> list[str]:
    return [str(name).removeprefix("ratio_").replace("$", r"\$")[:24] for name in names]


def _episodes(episodes: pd.DataFrame, reference: float) -> Figure:
    figure, axes = _axes(5.6, 1.0 + 0.2 * min(len(episodes), 2 * SHOWN))
    shown = _ends(episodes).iloc[::-1]
    place = np.arange(len(shown))
    axes.errorbar(shown["mean"], place, xerr=shown["standard_error"].fillna(0), fmt="o", ms=4, color=BLUE, ecolor=GREY)
    axes.axvline(reference, color="black", lw=0.8)
    axes.set_yticks(place, _labels(shown["episode"].astype(str)), fontsize=8)
    axes.set_xlabel("log-ratio, nats a step")
    return figure


def _ends(episodes: pd.DataFrame) -> pd.DataFrame:
    """All episodes, or the first and last ones of many."""
    if len(episodes) <= 2 * SHOWN:
        return episodes
    return pd.concat([episodes.head(SHOWN), episodes.tail(SHOWN)])


def _by_episode(steps: pd.DataFrame, episodes: pd.DataFrame) -> Figure:
    columns = _dimensions(steps)
    shown = _ends(episodes)["episode"]
    means = steps.groupby("episode", sort=False)[columns].mean().loc[shown]
    figure, axes = _axes(min(9.0, 2.0 + 0.35 * len(columns)), 1.4 + 0.16 * len(shown))
    _image(figure, axes, means.to_numpy(float))
    axes.set_xticks(range(len(columns)), _labels(columns), rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(shown)), _labels(shown.astype(str)), fontsize=7)
    return figure


def _over_time(part: pd.DataFrame) -> Figure:
    columns = _dimensions(part)
    figure, axes = _axes(6.5, 1.4 + 0.25 * len(columns))
    _image(figure, axes, part[columns].to_numpy(float).T)
    axes.set_yticks(range(len(columns)), _labels(columns), fontsize=8)
    axes.set_xlabel("step")
    return figure


def _image(figure: Figure, axes: Any, values: np.ndarray) -> None:
    limit = max(0.5, float(np.quantile(np.abs(values), 0.99)))
    drawn = axes.imshow(values, aspect="auto", cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest")
    figure.colorbar(drawn, ax=axes, label="nats")


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
