"""How good a depth map is: the standard errors, and how well its edges lie."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Array = NDArray[np.float64]
# Rows and columns kept on KITTI, as shares of the picture: top, bottom, left, right.
CROPS = {
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
}
TRUNCATED = 10.0


def depth_metrics(
    pred: ArrayLike,
    gt: ArrayLike,
    *,
    valid: ArrayLike | None = None,
    scaling: Literal["median"] | None = None,
    crop: Literal["eigen", "garg"] | None = None,
    cap: tuple[float, float] = (1e-3, 80.0),
) -> dict[str, float]:
    """Errors of depth maps, each image's mean over its valid pixels, then the mean over images.

    abs_rel = |p - g| / g, sq_rel = (p - g)^2 / g, rmse, rmse_log = rms of ln p - ln g, d1, d2, d3 = share of pixels
    with max(p / g, g / p) < 1.25, 1.25^2, 1.25^3.

    Args:
        pred, gt: (H, W), (B, H, W) or (B, 1, H, W), metres.
        valid: pixels to use; None: all. Pixels without finite depth within `cap` are never used.
        scaling: "median": each prediction is first scaled by median(g) / median(p), for models without a scale.
        crop: KITTI's evaluation windows.
        cap: predictions are clipped to it.

    Raises:
        ValueError: shapes that differ, a prediction that is not positive and finite, or an image without valid pixels.
    """
    truth = _images("gt", gt)
    predicted = _images("pred", pred)
    mask = np.ones(truth.shape, bool) if valid is None else _images("valid", valid).astype(bool)
    for name, array in (("pred", predicted), ("valid", mask)):
        if array.shape != truth.shape:
            raise ValueError(f"{name}: expected {truth.shape} as gt, got {array.shape}")
    if scaling not in (None, "median"):
        raise ValueError(f"scaling: expected 'median' or None, got {scaling!r}")
    if not 0 < cap[0] < cap[1]:
        raise ValueError(f"cap: expected 0 < low < high, got {cap}")
    with np.errstate(invalid="ignore"):
        mask = mask & np.isfinite(truth) & (truth > cap[0]) & (truth < cap[1]) & _window(crop, truth.shape[1:])
    rows = [
        _errors(number, *image, scaling, cap) for number, image in enumerate(zip(predicted, truth, mask, strict=True))
    ]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _images(name: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"{name}: expected (H, W), (B, H, W) or (B, 1, H, W), got {np.shape(values)}")
    return array


def _window(crop: str | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if crop is None:
        return np.ones(shape, bool)
    if crop not in CROPS:
        raise ValueError(f"crop: expected one of {', '.join(CROPS)} or None, got {crop!r}")
    top, bottom, left, right = CROPS[crop]
    window = np.zeros(shape, bool)
    window[int(top * shape[0]) : int(bottom * shape[0]), int(left * shape[1]) : int(right * shape[1])] = True
    return window


def _errors(
    number: int, pred: Array, gt: Array, valid: NDArray[np.bool_], scaling: str | None, cap: tuple[float, float]
) -> dict[str, float]:
    if not valid.any():
        raise ValueError(f"gt: image {number} has no valid pixel within the cap {cap} (and the crop)")
    p, g = pred[valid].astype(np.float64), gt[valid].astype(np.float64)
    if not (np.isfinite(p).all() and (p > 0).all()):
        raise ValueError(f"pred: image {number} has depth that is not positive and finite at valid pixels")
    if scaling == "median":
        p = p * (np.median(g) / np.median(p))
    p = np.clip(p, *cap)
    ratio = np.maximum(p / g, g / p)
    return {
        "abs_rel": float(np.mean(np.abs(p - g) / g)),
        "sq_rel": float(np.mean((p - g) ** 2 / g)),
        "rmse": float(np.sqrt(np.mean((p - g) ** 2))),
        "rmse_log": float(np.sqrt(np.mean((np.log(p) - np.log(g)) ** 2))),
        "d1": float(np.mean(ratio < 1.25)),
        "d2": float(np.mean(ratio < 1.25**2)),
        "d3": float(np.mean(ratio < 1.25**3)),
    }


def depth_edge_error(
    pred: ArrayLike, gt: ArrayLike, *, sigma: float = 1.0, thresholds: tuple[float, float] = (0.05, 0.1)
) -> dict[str, float]:
    """Distance between the depth edges of two maps, in pixels truncated at 10.

    Edges are Canny's, on log depth, so that they do not change with the scale. `accuracy`: from each predicted edge
    pixel to the nearest true one; `completeness`: from each true edge pixel to the nearest predicted one; `edge_error`
    is their mean. A map without edges is 10 pixels off. Means over edge pixels, then over images that have true edges.

    Args:
        pred, gt: (H, W), (B, H, W) or (B, 1, H, W), positive everywhere.
        sigma: of the smoothing, in pixels.
        thresholds: hysteresis: low and high gradient of log depth per pixel.

    Raises:
        ValueError: shapes that differ, depth that is not positive, or no image with a true edge.
    """
    predicted, truth = _images("pred", pred), _images("gt", gt)
    if predicted.shape != truth.shape:
        raise ValueError(f"pred: expected {truth.shape} as gt, got {predicted.shape}")
    rows = []
    for number, (p, g) in enumerate(zip(predicted, truth, strict=True)):
        for name, depth in (("pred", p), ("gt", g)):
            if not (np.isfinite(depth).all() and (depth > 0).all()):
                raise ValueError(f"{name}: image {number} has depth that is not positive and finite")
        own = canny(np.log(p), sigma=sigma, thresholds=thresholds)
        true = canny(np.log(g), sigma=sigma, thresholds=thresholds)
        if true.any():
            rows.append((_distance(own, true), _distance(true, own)))
    if not rows:
        raise ValueError("gt: no image has a depth edge")
    accuracy, completeness = np.mean(rows, axis=0)
    return {
        "edge_error": float((accuracy + completeness) / 2),
        "accuracy": float(accuracy),
        "completeness": float(completeness),
    }


def _distance(start: NDArray[np.bool_], end: NDArray[np.bool_]) -> float:
    if not (start.any() and end.any()):
        return TRUNCATED
    distances: Any = ndimage.distance_transform_edt(~end)
    return float(np.minimum(distances[start], TRUNCATED).mean())


def canny(values: ArrayLike, *, sigma: float, thresholds: tuple[float, float]) -> NDArray[np.bool_]:
    """Canny's edges (H, W): local maxima of the smoothed gradient along its direction, above the low threshold and
    connected to one above the high threshold."""
    smooth = ndimage.gaussian_filter(np.asarray(values, dtype=np.float64), sigma, mode="nearest")
    # Half of the central difference over two pixels: the gradient per pixel.
    down, right = (ndimage.correlate1d(smooth, [-0.5, 0.0, 0.5], axis=axis, mode="nearest") for axis in (0, 1))
    size = np.hypot(down, right)
    ridge = _is_ridge(size, down, right) & (size > thresholds[0])
    labels, _ = ndimage.label(ridge, np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    strong = np.unique(labels[ridge & (size > thresholds[1])])
    return np.isin(labels, strong[strong > 0])


def _is_ridge(size: Array, down: Array, right: Array) -> NDArray[np.bool_]:
    """No smaller than the two interpolated neighbours along the gradient, and larger than one of them."""
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = np.stack((down, right)) / size
    unit = np.nan_to_num(unit)
    grid = np.indices(size.shape).astype(np.float64)
    ahead, behind = (ndimage.map_coordinates(size, grid + sign * unit, order=1, mode="nearest") for sign in (1, -1))
    tiny = 1e-12
    return (size > ahead + tiny) & (size >= behind - tiny)
