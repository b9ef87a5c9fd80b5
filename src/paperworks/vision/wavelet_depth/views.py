"""What the study shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperworks.lab.statistics import t_interval
from paperworks.lab.study import Figure, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

COLOURS = {"baseline": "#555b63", "wavelet": "#2a6fbb", "half": "#c8501e", "supervised": "#7a4fa3", "oracle": "#2c8a57"}
NAMES = {
    "baseline": "dense baseline", "wavelet": "wavelets", "half": "half resolution",
    "supervised": "wavelets, coefficients supervised",
}  # fmt: skip
HISTOGRAM_EDGES = np.linspace(-6, 0, 49)


def _arm(frame: pd.DataFrame, arm: str) -> pd.DataFrame:
    return frame[frame["arm"] == arm].sort_values("seed")


def _reference(frame: pd.DataFrame) -> Any:
    rows = frame[frame["part"] == "reference"]
    return rows.iloc[0] if len(rows) else None


def _has(row: Any, name: str) -> bool:
    return row is not None and name in row and isinstance(row[name], np.ndarray)


def _mean(rows: pd.DataFrame, column: str) -> np.ndarray:
    return np.mean(np.stack(list(rows[column])), axis=0)


def _axes(width: float, height: float, *, columns: int = 1, rows: int = 1) -> tuple[Plot, Any]:
    from matplotlib.figure import Figure as Drawn

    figure = Drawn(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _plain(axes: Any) -> Any:
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def draw_tradeoff(frame: pd.DataFrame) -> Plot | None:
    """abs_rel against the decoder's multiply-adds, all arms; each seed a faint mark, means in full colour."""
    wavelet = _arm(frame, "wavelet")
    if wavelet.empty:
        return None
    figure, grid = _axes(5.6, 3.8)
    axes = _plain(grid[0, 0])
    for arm, label in NAMES.items():
        rows = _arm(frame, arm)
        if rows.empty:
            continue
        axes.plot(rows["macs"] / 1e6, rows["abs_rel"], ".", color=COLOURS[arm], alpha=0.3)
        axes.plot(rows["macs"].mean() / 1e6, rows["abs_rel"].mean(), "o", color=COLOURS[arm], label=label, markersize=8)
    axes.plot(
        _mean(wavelet, "macs_t") / 1e6, _mean(wavelet, "abs_rel_t"), "-s", color=COLOURS["wavelet"], markersize=4,
        label="wavelets, sparse",
    )  # fmt: skip
    for threshold, x, y in zip(
        wavelet["thresholds"].iloc[0], _mean(wavelet, "macs_t") / 1e6, _mean(wavelet, "abs_rel_t"), strict=True
    ):
        axes.annotate(f"{threshold:g}", (x, y), textcoords="offset points", xytext=(5, 6), fontsize=8)
    axes.set_xlim(left=0)
    axes.set_xlabel("multiply-adds of the decoder per picture, millions")
    axes.set_ylabel("abs_rel (lower is better)")
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_latency(frame: pd.DataFrame) -> Plot | None:
    """Decoder time against the share of the dense multiply-adds that is executed, with the dense time as a line."""
    wavelet = _arm(frame, "wavelet")
    if wavelet.empty:
        return None
    figure, grid = _axes(5.6, 3.4)
    axes = _plain(grid[0, 0])
    for _, row in wavelet.iterrows():
        axes.plot(
            row["macs_t"] / row["macs"], row["decoder_ms_t"], "-s", color=COLOURS["wavelet"], alpha=0.5, markersize=4
        )
    axes.plot([], [], "-s", color=COLOURS["wavelet"], markersize=4, label="wavelets, sparse (a line a seed)")
    axes.axhline(wavelet["decoder_ms"].median(), color=COLOURS["wavelet"], linestyle="--", label="wavelets, dense")
    for arm in ("baseline", "half"):
        rows = _arm(frame, arm)
        if len(rows):
            axes.axhline(rows["decoder_ms"].median(), color=COLOURS[arm], linestyle=":", label=NAMES[arm])
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the dense decoder's multiply-adds executed")
    axes.set_ylabel("milliseconds, one picture, one thread")
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_masks(frame: pd.DataFrame) -> Plot | None:
    """One test picture: what is predicted and how many levels are evaluated at each pixel."""
    wavelet = _arm(frame, "wavelet")
    if wavelet.empty:
        return None
    row = wavelet.iloc[0]
    thresholds = row["example_thresholds"]
    figure, grid = _axes(9.0, 4.6, columns=3, rows=2)
    truth = np.where(row["example_truth"] > 0, row["example_truth"], np.nan)
    low, high = np.nanquantile(truth, [0.01, 0.99])
    panels = [
        (row["example_image"].transpose(1, 2, 0), "picture", {}),
        (truth, "true depth", {"cmap": "viridis_r", "vmin": low, "vmax": high}),
        (row["example_depth"], "predicted, dense", {"cmap": "viridis_r", "vmin": low, "vmax": high}),
    ]
    panels += [
        (levels, f"levels evaluated, threshold {threshold:g}", {"cmap": "magma", "vmin": 0, "vmax": 4})
        for threshold, levels in zip(thresholds, row["example_levels"], strict=True)
    ]
    for axes, (picture, title, options) in zip(grid.flat, panels, strict=False):
        axes.imshow(picture, interpolation="nearest", **options)
        axes.set_title(title, fontsize=9)
    for axes in grid.flat:
        axes.axis("off")
    return figure


def draw_histogram(frame: pd.DataFrame) -> Plot | None:
    """How large coefficients are, by level: the model's, and those of the true maps."""
    wavelet = _arm(frame, "wavelet")
    if wavelet.empty:
        return None
    counts = np.sum(np.stack(list(wavelet["histogram"])), axis=0)
    figure, grid = _axes(9.0, 2.8, columns=4)
    middle = (HISTOGRAM_EDGES[1:] + HISTOGRAM_EDGES[:-1]) / 2
    for level, axes in enumerate(grid[0]):
        for kind, (label, colour) in enumerate((("model", COLOURS["wavelet"]), ("true map", COLOURS["oracle"]))):
            total = counts[kind, level].sum()
            if total:
                _plain(axes).step(middle, counts[kind, level] / total, where="mid", color=colour, label=label)
        axes.set_title(f"level {level} ({'finest' if level == 0 else f'stride {2 ** (level + 1)}'})", fontsize=9)
        axes.axvline(np.log10(0.05), color="#999", linestyle=":", linewidth=1)
        axes.set_xlabel("log10 of coefficient / range", fontsize=8)
    grid[0, 0].set_ylabel("share of positions", fontsize=8)
    grid[0, 0].legend(frameon=False, fontsize=8)
    return figure


def draw_error(frame: pd.DataFrame) -> Plot | None:
    """Where the error of the example sits: relative error of the dense prediction."""
    wavelet = _arm(frame, "wavelet")
    if wavelet.empty:
        return None
    row = wavelet.iloc[0]
    truth = np.where(row["example_truth"] > 0, row["example_truth"], np.nan)
    figure, grid = _axes(5.6, 3.2)
    axes = grid[0, 0]
    shown = axes.imshow(np.abs(row["example_depth"] - truth) / truth, cmap="inferno", vmin=0, vmax=0.5)
    axes.axis("off")
    figure.colorbar(shown, ax=axes, label="relative error", shrink=0.8)
    return figure


def accuracy_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Errors and costs of every arm, the sparse executions and the references, means over seeds."""
    rows = []
    for arm, label in NAMES.items():
        cell = _arm(frame, arm)
        if cell.empty:
            continue
        rows.append(_line(label, "dense", {name: cell[name].to_numpy(float) for name in _COLUMNS}))
        if arm not in ("wavelet", "supervised"):
            continue
        for place, threshold in enumerate(cell["thresholds"].iloc[0]):
            values = {name: np.stack(list(cell[f"{name}_t"]))[:, place] for name in _COLUMNS}
            rows.append(_line(label, f"{threshold:g}", values))
    reference = _reference(frame)
    if reference is not None:
        errors = {name: np.array([reference[name]]) for name in _COLUMNS[:4]}
        rows.append(_line("best map that ignores the picture", "", errors))
        if _has(reference, "abs_rel_t"):
            for threshold, error in zip(reference["thresholds"], reference["abs_rel_t"], strict=True):
                rows.append(_line("true map's own coefficients", f"{threshold:g}", {"abs_rel": np.array([error])}))
    return pd.DataFrame(rows) if rows else None


_COLUMNS = ("abs_rel", "rmse", "d1", "edge_error", "macs", "decoder_ms")


def _line(label: str, threshold: str, values: dict[str, np.ndarray]) -> dict[str, str]:
    line = {"arm": label, "threshold": threshold}
    for name in _COLUMNS:
        found = values.get(name)
        title = {"macs": "MMAC", "edge_error": "edge error", "decoder_ms": "decoder ms"}.get(name, name)
        if found is None or not np.isfinite(found).all():
            line[title] = ""
            continue
        scaled = found / 1e6 if name == "macs" else found
        half = "" if len(scaled) < 2 or name in ("macs", "decoder_ms") else _half_width(scaled)
        line[title] = f"{scaled.mean():.4f}{half}" if name in ("abs_rel", "d1") else f"{scaled.mean():.3g}{half}"
    return line


def _half_width(values: np.ndarray) -> str:
    interval = t_interval(values)
    return f" ± {interval.high - interval.estimate:.2g}"


def share_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Share of positions evaluated, by level, fine to coarse."""
    rows = []
    wavelet, reference = _arm(frame, "wavelet"), _reference(frame)
    if len(wavelet):
        shares = _mean(wavelet, "shares_t")
        rows += [_shares("model", t, line) for t, line in zip(wavelet["thresholds"].iloc[0], shares, strict=True)]
    if _has(reference, "shares_t"):
        rows += [
            _shares("true map", t, line) for t, line in zip(reference["thresholds"], reference["shares_t"], strict=True)
        ]
    return pd.DataFrame(rows) if rows else None


def _shares(label: str, threshold: float, line: np.ndarray) -> dict[str, str]:
    return {"coefficients": label, "threshold": f"{threshold:g}"} | {
        f"level {level}": f"{share:.1%}" for level, share in enumerate(line)
    }


def sparsity_table(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Positions of true depth maps whose coefficients exceed 5 % of the range: how sparse depth is in this basis."""
    reference = _reference(frame)
    rows = []
    for name, label in (("sparsity_data", "test pictures"), ("sparsity_rgbd_samples", "rgbd_samples, 480 x 640")):
        if _has(reference, name):
            line = {f"level {level}": f"{share:.1%}" for level, share in enumerate(reference[name])}
            rows.append({"true depth of": label} | line)
    return pd.DataFrame(rows) if rows else None


def sentences(frame: pd.DataFrame) -> list[str]:
    """What the verdicts rest on."""
    said = [
        "Times are the decoder's alone, for one picture on one thread, in processor time; at this size the bookkeeping "
        "of sparse execution weighs more than on large pictures (see `paperworks bench wavelet_depth`).",
        "Sparse execution is used here wherever it saves multiply-adds; alone the decoder takes the faster way.",
        "All arms are trained from scratch on depth; the paper's rows are for pre-trained encoders.",
        "The authors state that a patent application on the method is pending.",
    ]
    wavelet = _arm(frame, "wavelet")
    if len(wavelet) and len(_arm(frame, "baseline")):
        limit = 0.5 * _arm(frame, "baseline")["macs"].mean()
        reach = [
            t
            for t, macs in zip(wavelet["thresholds"].iloc[0], _mean(wavelet, "macs_probe_t"), strict=True)
            if macs <= limit
        ]
        said.insert(
            0,
            f"Half of the baseline's multiply-adds is reached from the threshold {reach[0]:g} on."
            if reach
            else "No threshold reaches half of the baseline's multiply-adds; the largest is used.",
        )
    return said


FIGURES = (
    Figure("tradeoff", "Error against the decoder's multiply-adds; numbers are thresholds.", draw_tradeoff),
    Figure("latency", "Decoder time against executed multiply-adds.", draw_latency),
    Figure("masks", "One test picture, and where finer levels are evaluated at three thresholds.", draw_masks),
    Figure("coefficients", "Sizes of coefficients by level; dotted: 5 % of the range.", draw_histogram),
    Figure("error", "Relative error of the dense wavelet prediction: it sits at depth edges.", draw_error),
)
TABLES = (
    Table("accuracy", "Errors on test pictures, multiply-adds and time of the decoder.", accuracy_table),
    Table("shares", "Share of positions evaluated at each level.", share_table),
    Table("sparsity", "How sparse true depth is: positions above 5 % of the range.", sparsity_table),
)
