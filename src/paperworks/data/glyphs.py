"""Embedded images of invented characters: any number of classes, any number of instances, no files.

A class is two to four quadratic Bezier strokes in [-0.8, 0.8]^2; seven of ten later strokes start on a control point of
the stroke before. An instance moves the control points by N(0, 0.10), then rotates, scales each axis by U(0.65, 1),
shears by U(-0.3, 0.3) and shifts them, and draws strokes of half-width U(0.05, 0.10) with anti-aliasing; ink is high.
A class is a function of the seed and its number, an instance of these, the split and its own number: sets with other
classes, more classes or more instances agree where they overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from paperworks._compiled import has_numba, in_threads, jit

Level = Literal["plain", "wide"]
Split = Literal["train", "test"]

# Straight pieces of a stroke.
PIECES = 11
MOST_STROKES = 4


@dataclass(frozen=True)
class _Spread:
    """How far instances may turn (radians) and move (of half the image)."""

    rotation: float
    shift: float


_LEVELS = {"plain": _Spread(0.6, 0.25), "wide": _Spread(0.8, 0.35)}
_SPLITS = {"train": 0, "test": 1}


def glyphs(
    classes: int | Sequence[int] = 100,
    per_class: int = 40,
    *,
    image_size: int = 24,
    split: Split = "train",
    level: Level = "plain",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Images (n, 1, s, s) uint8, 0 = paper, 255 = ink, and their class numbers (n,), sorted by class.

    Args:
        classes: how many, from number 0 on; or their numbers, for sets that share no class: `range(100, 150)`.
        per_class: instances of each.
        image_size: s, at least 8 pixels.
        split: two disjoint streams of instances of the same classes.
        level: "plain": rotation U(-0.6, 0.6), shift U(-0.25, 0.25); "wide": 0.8 and 0.35.
        seed: of the alphabet.

    Needs numba.

    Raises:
        ValueError: an option out of range, a class given twice.
        ImportError: numba is not installed.
    """
    numbers = _numbers(classes)
    if per_class < 1 or image_size < 8 or seed < 0:
        raise ValueError(
            f"per_class, image_size, seed: expected at least 1, 8 and 0, got {per_class}, {image_size} and {seed}"
        )
    if split not in _SPLITS or level not in _LEVELS:
        raise ValueError(f"split, level: expected train or test, plain or wide, got {split!r}, {level!r}")
    paths, strokes, widths = [], [], []
    for number in numbers:
        strokes_of_class = _class(seed, number)
        points, half_widths = _instances(strokes_of_class, per_class, _LEVELS[level], (seed, number, _SPLITS[split]))
        paths.append(_polylines(points))
        strokes += [len(strokes_of_class)] * per_class
        widths.append(half_widths)
    padded = np.zeros((len(numbers) * per_class, MOST_STROKES, PIECES + 1, 2), np.float32)
    for index, path in enumerate(paths):
        padded[index * per_class : (index + 1) * per_class, : path.shape[1]] = path
    images = np.zeros((len(padded), image_size, image_size), np.uint8)
    arguments = padded, np.array(strokes), np.concatenate(widths).astype(np.float32), images
    draw = _kernel()
    in_threads(lambda thread, threads: draw(*arguments, thread, threads), torch.get_num_threads())
    labels = torch.tensor(numbers).repeat_interleave(per_class)
    return torch.from_numpy(images)[:, None], labels


def _class(seed: int, number: int) -> np.ndarray:
    """(strokes, 3, 2) control points of a class."""
    rng = np.random.default_rng((seed, number))
    strokes = [rng.uniform(-0.8, 0.8, (3, 2))]
    for _ in range(rng.integers(2, MOST_STROKES + 1) - 1):
        following = rng.uniform(-0.8, 0.8, (3, 2))
        if rng.random() < 0.7:
            following[0] = strokes[-1][rng.integers(3)]
        strokes.append(following)
    return np.stack(strokes)


def _instances(
    strokes: np.ndarray, count: int, spread: _Spread, stream: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(count, strokes, 3, 2) control points and (count,) half-widths."""
    # A generator for each array: drawn row by row, more instances leave the first ones as they are.
    rows = np.random.default_rng((*stream, 1)).random((count, 7))
    noise = np.random.default_rng((*stream, 2)).standard_normal((count, *strokes.shape))
    angle, shear = (2 * rows[:, 0] - 1) * spread.rotation, (2 * rows[:, 3] - 1) * 0.3
    scales, shift = 0.65 + 0.35 * rows[:, 1:3], (2 * rows[:, 4:6] - 1) * spread.shift
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    slant = np.tile(np.eye(2), (count, 1, 1))
    slant[:, 0, 1] = shear
    matrix = slant @ (scales[:, :, None] * turn)
    moved = np.einsum("nij,nskj->nski", matrix, strokes + 0.10 * noise) + shift[:, None, None]
    return moved, 0.05 + 0.05 * rows[:, 6]


def _polylines(points: np.ndarray) -> np.ndarray:
    """(..., 3, 2) control points -> (..., PIECES + 1, 2) points on the curves."""
    t = np.linspace(0, 1, PIECES + 1)
    weights = np.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], -1)
    return weights @ points


@cache
def _kernel() -> Any:
    """Draws all images: ink = clamp((half-width - distance) / pixel + 1/2), pixel = 2 / s."""
    if not has_numba():
        raise ImportError("glyphs: needs numba: pip install 'paperworks[representation]'")

    # Not numba's own threads: its OpenMP layer changes how many torch uses, for the rest of the process.
    @jit()
    def draw(paths, strokes, widths, images, thread, threads):
        side = images.shape[1]
        pixel = np.float32(2.0 / side)
        for n in range(thread, len(images), threads):
            # Squared distance to the nearest piece, over the pixels that this piece can darken.
            nearest = np.full((side, side), np.float32(1e9))
            reach = widths[n] + np.float32(0.5) * pixel
            for s in range(strokes[n]):
                for piece in range(paths.shape[2] - 1):
                    x0, y0 = paths[n, s, piece, 0], paths[n, s, piece, 1]
                    dx, dy = paths[n, s, piece + 1, 0] - x0, paths[n, s, piece + 1, 1] - y0
                    length = max(dx * dx + dy * dy, np.float32(1e-12))
                    left = max(0, int((min(x0, x0 + dx) - reach + 1) / pixel))
                    right = min(side, int((max(x0, x0 + dx) + reach + 1) / pixel) + 1)
                    top = max(0, int((min(y0, y0 + dy) - reach + 1) / pixel))
                    bottom = min(side, int((max(y0, y0 + dy) + reach + 1) / pixel) + 1)
                    for i in range(top, bottom):
                        y = (np.float32(i) + np.float32(0.5)) * pixel - np.float32(1) - y0
                        for j in range(left, right):
                            x = (np.float32(j) + np.float32(0.5)) * pixel - np.float32(1) - x0
                            t = min(max((x * dx + y * dy) / length, np.float32(0)), np.float32(1))
                            ex, ey = x - t * dx, y - t * dy
                            nearest[i, j] = min(nearest[i, j], ex * ex + ey * ey)
            for i in range(side):
                for j in range(side):
                    if nearest[i, j] < np.float32(1e8):
                        ink = (widths[n] - np.sqrt(nearest[i, j])) / pixel + np.float32(0.5)
                        images[n, i, j] = np.uint8(min(max(ink, np.float32(0)), np.float32(1)) * 255 + 0.5)

    return draw


def _numbers(classes: int | Sequence[int]) -> list[int]:
    numbers = list(range(classes)) if isinstance(classes, int) else [int(number) for number in classes]
    if not numbers or min(numbers) < 0:
        raise ValueError(f"classes: expected a positive number, or class numbers from 0 on, got {classes}")
    if len(set(numbers)) < len(numbers):
        raise ValueError("classes: a class number is given twice")
    return numbers
