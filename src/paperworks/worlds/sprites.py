"""Flat shapes with smooth edges, and pictures put together from them.

Coordinates are pixels, x to the right and y down; the pixel in row i and column j covers [j, j + 1) x [i, i + 1), so a
picture's middle is (W / 2, H / 2). Shapes may lie anywhere, also between pixels and over the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.float32]


def _cross(arm: float) -> list[tuple[float, float]]:
    """Twelve corners of a plus sign whose bars are 2 `arm` wide."""
    quarter = [(arm, -0.5), (arm, -arm), (0.5, -arm)]
    return [corner for turn in range(4) for corner in _turned(quarter, turn)]


def _turned(corners: list[tuple[float, float]], quarters: int) -> list[tuple[float, float]]:
    for _ in range(quarters):
        corners = [(-y, x) for x, y in corners]
    return corners


# Corners around (0, 0), in units of the side.
POLYGONS = {
    "square": [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)],
    "triangle": [(0.0, -(3**-0.5)), (0.5, 3**-0.5 / 2), (-0.5, 3**-0.5 / 2)],
    "bar": [(-0.5, -0.125), (0.5, -0.125), (0.5, 0.125), (-0.5, 0.125)],
    "cross": _cross(0.15),
}
ROUND = ("disc", "ring")
RING = 0.5  # inner over outer radius
SHAPES = (*ROUND, *POLYGONS)


@dataclass(frozen=True)
class Layer:
    """A thing in a picture: `mask` (H, W) in [0, 1], and `colour` (C,) or (C, H, W) where it is not uniform."""

    mask: Mask
    colour: NDArray[np.float32]


@dataclass(frozen=True)
class Composite:
    """A picture of n layers.

    Attributes:
        image: (C, H, W) float32.
        visible: (n, H, W) float32, each layer's share of each pixel; with the background's they add up to 1.
        boxes: (n, 4) float32, x and y of the first and behind the last pixel of which a layer has at least half; zeros
            for a layer that is nowhere seen.
    """

    image: NDArray[np.float32]
    visible: Mask
    boxes: NDArray[np.float32]


def shape_mask(
    kind: str | ArrayLike, centre: tuple[float, float], side: float, angle: float, size: tuple[int, int]
) -> Mask:
    """How much of each pixel a shape covers, (H, W) in [0, 1].

    Edges are a pixel wide, by the distance from the outline; a straight edge along the pixels is exact.

    Args:
        kind: "disc" and "ring" (diameter `side`), "square", "bar" (a quarter as wide as long), "cross" (length `side`),
            "triangle" (equilateral, edge `side`); or (n, 2) corners of a polygon around (0, 0), in units of the side.
        centre: x and y.
        side: pixels.
        angle: radians, clockwise on the screen.
        size: height and width of the picture.

    Raises:
        ValueError: an unknown shape, fewer than three corners, or a side that is not positive.
    """
    if not (side > 0 and np.isfinite([side, angle, *centre]).all()):
        raise ValueError(f"centre, side, angle: expected finite numbers, side above 0, got {centre}, {side}, {angle}")
    x, y = _pixels(centre, size)
    if isinstance(kind, str) and kind in ROUND:
        distance = np.hypot(x, y) - side / 2
        if kind == "ring":
            distance = np.maximum(distance, RING * side / 2 - np.hypot(x, y))
    else:
        distance = _polygon_distance(_corners(kind) * side @ _rotation(angle).T, x, y)
    return np.clip(0.5 - distance, 0, 1).astype(np.float32)


def cut_out(
    picture: ArrayLike, mask: ArrayLike, centre: tuple[float, float], side: float, angle: float, size: tuple[int, int]
) -> Layer:
    """A piece of another picture as a layer, bilinearly resampled.

    Args:
        picture: (C, h, w).
        mask: (h, w), what of it belongs to the piece.
        centre: where its middle comes to lie, x and y.
        side: pixels that the longer of h and w comes to span; far below it the result is aliased.
        angle: radians, clockwise on the screen.
        size: height and width of the new picture.

    Raises:
        ValueError: a mask of another form than the picture, or a side that is not positive.
    """
    source, weights = np.asarray(picture, dtype=np.float64), np.asarray(mask, dtype=np.float64)
    if source.ndim != 3 or source.shape[1:] != weights.shape:
        raise ValueError(f"picture, mask: expected (C, h, w) and (h, w), got {source.shape} and {weights.shape}")
    if not side > 0:
        raise ValueError(f"side: expected a positive number of pixels, got {side}")
    height, width = weights.shape
    x, y = _pixels(centre, size)
    zoom = max(height, width) / side
    u, v = np.tensordot(_rotation(-angle) * zoom, np.stack(np.broadcast_arrays(x, y)), 1)
    u, v = u + width / 2 - 0.5, v + height / 2 - 0.5
    # The border fades over one source pixel instead of repeating.
    share = _bilinear(np.pad(weights, 1), u + 1, v + 1)
    colours = np.stack([_bilinear(channel, u, v) for channel in source])
    return Layer(share.astype(np.float32), colours.astype(np.float32))


def composite(background: ArrayLike, layers: Sequence[Layer]) -> Composite:
    """Put layers on a background (C, H, W), the first one farthest away.

    Raises:
        ValueError: a layer of another form than the background.
    """
    image = np.array(background, dtype=np.float32)
    if image.ndim != 3:
        raise ValueError(f"background: expected (C, H, W), got {image.shape}")
    visible = np.zeros((len(layers), *image.shape[1:]), dtype=np.float32)
    for number, layer in enumerate(layers):
        colour = np.asarray(layer.colour, dtype=np.float32)
        flat = colour.shape == image.shape[:1]
        if layer.mask.shape != image.shape[1:] or not (flat or colour.shape == image.shape):
            raise ValueError(
                f"layers[{number}]: expected a mask {image.shape[1:]} and a colour {image.shape[:1]} or {image.shape}, "
                f"got {layer.mask.shape} and {colour.shape}"
            )
        visible[:number] *= 1 - layer.mask
        visible[number] = layer.mask
        image += layer.mask * ((colour[:, None, None] if flat else colour) - image)
    return Composite(image, visible, boxes_of(visible >= 0.5))


def boxes_of(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The smallest box around what is true in each of (n, H, W) masks: (n, 4) x, y of its corners; zeros if nothing."""
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _pixels(centre: tuple[float, float], size: tuple[int, int]) -> tuple[Array, Array]:
    """Where the pixels' middles are as seen from the shape's: (1, W) and (H, 1)."""
    across, down = (np.arange(count, dtype=np.float64) + 0.5 for count in size[::-1])
    return across[None] - centre[0], down[:, None] - centre[1]


def _rotation(angle: float) -> Array:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _corners(kind: str | ArrayLike) -> Array:
    if isinstance(kind, str):
        if kind not in POLYGONS:
            raise ValueError(f"kind: expected one of {', '.join(SHAPES)} or corners (n, 2), got {kind!r}")
        return np.array(POLYGONS[kind])
    corners = np.asarray(kind, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(f"kind: expected at least three corners, (n, 2), got {corners.shape}")
    return corners


def _polygon_distance(corners: Array, x: Array, y: Array) -> Array:
    """Distance from a polygon's outline, negative inside (by the parity of crossings)."""
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    nearest = np.full(inside.shape, np.inf)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        dx, dy = x2 - x1, y2 - y1
        along = ((x - x1) * dx + (y - y1) * dy) / max(dx * dx + dy * dy, 1e-300)
        along = np.clip(along, 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - x1 - along * dx, y - y1 - along * dy))
        if dy:
            inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * dx / dy)
    return np.where(inside, -nearest, nearest)


def _bilinear(values: Array, u: Array, v: Array) -> Array:
    """(h, w) at columns u and rows v, border values repeated."""
    height, width = values.shape
    u, v = np.clip(u, 0, width - 1), np.clip(v, 0, height - 1)
    left, top = np.minimum(u.astype(int), max(width - 2, 0)), np.minimum(v.astype(int), max(height - 2, 0))
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    s, t = u - left, v - top
    above = values[top, left] * (1 - s) + values[top, right] * s
    below = values[bottom, left] * (1 - s) + values[bottom, right] * s
    return above * (1 - t) + below * t
