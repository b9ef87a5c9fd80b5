"""The page that `paperworks apply wavelet_depth` writes: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

    from paperworks.vision.wavelet_depth.apply import Estimate

TEMPLATES = Path(__file__).parent / "templates"
SHOWN = 12


def report_page(estimates: Sequence[Estimate], *, threshold: float, notes: Sequence[str]) -> str:
    """Photographs, depth and evaluated levels; the table of all photographs. File names are escaped."""
    from paperworks.lab import page, report

    figures = []
    for number, estimate in enumerate(estimates[:SHOWN]):
        caption = f"{estimate.name}: photograph, depth in metres" + (
            "" if estimate.levels is None else ", and how many of the four levels have coefficients at each pixel"
        )
        figures.append(page.figure(f"photo-{number}", caption, _draw(estimate)))
    return page.render(
        TEMPLATES,
        "report.html",
        title=f"Depth of {len(estimates)} photograph{'s' if len(estimates) > 1 else ''}",
        findings=_findings(estimates, threshold),
        notes=notes,
        figures=figures,
        left_out=max(0, len(estimates) - SHOWN),
        table=report.table(_facts(estimates)),
    )


def _findings(estimates: Sequence[Estimate], threshold: float) -> list[str]:
    lines: list[dict[str, Any]] = [estimate.line for estimate in estimates]
    if any("mmac" not in line for line in lines):
        return ["This model's decoder is dense: it has no coefficients to leave out."]

    def total(name: str) -> float:
        return float(np.sum([line[name] for line in lines]))

    share, speed = total("mmac") / total("mmac_dense"), total("ms_dense") / total("ms")
    finest = float(np.mean([line["share_level_0"] for line in lines]))
    faster = f"{speed:.2f} times as fast as dense" if speed >= 1 else f"slower than dense ({speed:.2f} of its speed)"
    return [
        f"At the threshold {threshold:g} the decoder executed {share:.0%} of its dense multiply-adds; the finest level "
        f"has coefficients at {finest:.1%} of its positions.",
        f"Encoder and decoder together were {faster} (one call each, wall time). A level is computed densely where "
        "that is the faster way, on small pictures for instance.",
    ]


def _draw(estimate: Estimate) -> Plot:
    from matplotlib.figure import Figure

    panels = 2 if estimate.levels is None else 3
    figure = Figure(
        figsize=(3.4 * panels, 3.4 * estimate.image.shape[1] / estimate.image.shape[2]), layout="constrained"
    )
    grid: Any = figure.subplots(1, panels)
    grid[0].imshow(estimate.image.transpose(1, 2, 0))
    height, width = estimate.image.shape[1:]
    step = max(1, estimate.depth.shape[0] // height)
    shown = grid[1].imshow(estimate.depth[::step, ::step], cmap="viridis_r", extent=(0, width, height, 0))
    figure.colorbar(shown, ax=grid[1], shrink=0.8)
    if estimate.levels is not None:
        grid[2].imshow(estimate.levels, cmap="magma", vmin=0, vmax=4, interpolation="nearest")
    for axes in grid:
        axes.axis("off")
    return figure


def _facts(estimates: Sequence[Estimate]) -> dict[str, Any]:
    columns = list(estimates[0].line)
    rows = [[estimate.line.get(name, "") for name in columns] for estimate in estimates]
    return {"columns": [name.replace("_", " ") for name in columns], "rows": rows}
