"""`paperworks apply wavelet_depth photos/ --weights best.pt --out depth/`: depth from photographs.

Writes for each photograph a 16-bit PNG in millimetres and a `.npy` in metres, at the photograph's own size, and
sparsity.csv and report.html for all of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from paperworks._files import write_atomic
from paperworks.data.depth import find_images, read_image, write_depth
from paperworks.data.errors import DataError

if TYPE_CHECKING:
    from paperworks.vision.wavelet_depth.model import WaveletDepthModel

FARTHEST_PNG = 65.535


@dataclass(frozen=True)
class Estimate:
    """One photograph's result. `levels` (h, w): how many levels have coefficients at each pixel of the working size."""

    name: str
    image: np.ndarray
    depth: np.ndarray
    levels: np.ndarray | None
    line: dict[str, object]


def apply(
    photos: Annotated[Path, tyro.conf.Positional],
    *,
    weights: Path | None = None,
    out: Path = Path("depth"),
    threshold: float = 0.05,
    height: int | None = None,
) -> str:
    """Estimate depth from single photographs, with a model trained by `paperworks run wavelet_depth`.

    Args:
        photos: a photograph, or a folder of them.
        weights: the best.pt of a run.
        out: folder to write to.
        threshold: coefficients below this share of the range get no children at the finer levels; 0: all do.
        height: rows to work at; the model's training size where it is not given. Results have the photograph's size.

    Raises:
        ValueError: no weights, unreadable files, or an output that would overwrite an input.
    """
    from paperworks.vision.wavelet_depth.checkpoint import load_model
    from paperworks.vision.wavelet_depth.report_page import report_page

    if weights is None:
        raise ValueError(
            "weights: depth needs a trained model and none is downloaded; train one on your own pictures with depth, "
            "`paperworks run wavelet_depth --data FOLDER`, or on rendered rooms, `paperworks run wavelet_depth`, "
            "and give --weights runs/wavelet_depth/best.pt"
        )
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: expected a value in [0, 1), got {threshold:g}")
    if height is not None and height < 32:
        raise ValueError(f"height: expected at least 32 rows, got {height}")
    files = find_images(photos)
    out = Path(out)
    _keep_inputs(files, out)
    for file in files:
        # Before anything is written: an unreadable photograph leaves no half result behind.
        read_image(file)
    model, blueprint = load_model(weights)
    out.mkdir(parents=True, exist_ok=True)
    rows = height or blueprint.size[0]
    estimates, notes = [], []
    for file in files:
        estimate = estimate_depth(model, file, threshold=threshold, height=rows)
        notes += _write(estimate, out / file.stem)
        estimates.append(estimate)
    _write_table(out / "sparsity.csv", [estimate.line for estimate in estimates])
    notes.append(
        "Metres are those of the training pictures: right for cameras and places like theirs, a guess elsewhere."
    )
    write_atomic(out / "report.html", report_page(estimates, threshold=threshold, notes=notes))
    written = f"written: depth of {len(files)} photograph{'s' if len(files) > 1 else ''} and sparsity.csv in {out}"
    return "\n".join([*(f"note: {note}" for note in notes), written, f"report: {out / 'report.html'}"])


def estimate_depth(model: WaveletDepthModel, file: Path, *, threshold: float, height: int) -> Estimate:
    """Depth of one photograph: resized to `height` rows, estimated, and brought back to its own size."""
    import torch
    from torch.nn import functional as F

    from paperworks.vision.wavelet_depth.decoder import WaveletDepthOutput
    from paperworks.vision.wavelet_depth.training import evaluated_levels, to_images

    picture = read_image(file)
    rows, columns = picture.shape[1:]
    size = (height, max(32, round(columns * height / rows)))
    image = F.interpolate(to_images(picture[None]), size=size, mode="bilinear", antialias=True, align_corners=False)
    dense_depth, dense = model.inspect(image)
    levels, line = None, {"file": file.name, "width": columns, "height": rows, "threshold": threshold}
    if isinstance(dense, WaveletDepthOutput):
        depth, sparse = model.inspect(image, threshold)
        assert isinstance(sparse, WaveletDepthOutput)
        levels = evaluated_levels(sparse.masks, size)
        line |= {f"share_level_{k}": float(mask.float().mean()) for k, mask in enumerate(sparse.masks)}
        line |= {"mmac": sparse.macs / 1e6, "mmac_dense": dense.macs / 1e6}
        line |= {"ms": _milliseconds(lambda: model.inspect(image, threshold))}
    else:
        depth = dense_depth
        line |= {"mmac_dense": dense.macs / 1e6}
    line |= {"ms_dense": _milliseconds(lambda: model.inspect(image))}
    full = F.interpolate(depth, size=(rows, columns), mode="bilinear", align_corners=False)
    metres = full[0, 0].numpy().astype(np.float32)
    line |= {"nearest_m": float(metres.min()), "median_m": float(np.median(metres)), "farthest_m": float(metres.max())}
    shown = torch.round(image[0].clamp(0, 1) * 255).to(torch.uint8).numpy()
    return Estimate(file.name, shown, metres, levels, line)


def _milliseconds(call: object) -> float:
    assert callable(call)
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _write(estimate: Estimate, stem: Path) -> list[str]:
    """`.npy` and `.png`; what a PNG cannot hold becomes a hole in it, and the note says so."""
    write_depth(stem.with_name(stem.name + ".npy"), estimate.depth)
    far = estimate.depth > FARTHEST_PNG
    write_depth(stem.with_name(stem.name + ".png"), np.where(far, 0, estimate.depth))
    if not far.any():
        return []
    return [f"{estimate.name}: {far.mean():.1%} lies beyond 65.535 m and is 0 in the PNG; the .npy has it"]


def _keep_inputs(files: list[Path], out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file; give a folder")
    if any(file.parent.resolve() == out.resolve() for file in files):
        raise ValueError(f"out: depth maps would lie among the photographs in {out}; choose another folder with --out")
    stems: dict[str, Path] = {}
    for file in files:
        if file.stem in stems:
            raise DataError(f"{file}: has the same name as {stems[file.stem].name}; rename one of them")
        stems[file.stem] = file


def _write_table(path: Path, lines: list[dict[str, object]]) -> None:
    import pandas as pd

    write_atomic(path, pd.DataFrame(lines).to_csv(index=False, float_format="%.6g", lineterminator="\n"))
