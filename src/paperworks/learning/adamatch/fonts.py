"""Digits drawn with the fonts that come with matplotlib: a labelled source domain without files.

21 named fonts draw 0 to 9; an allow-list, because others of matplotlib's fonts (cmsy10, cmmi10, cmex10, LastResort, the
STIX symbol fonts) draw no digits there, or old-style ones. Each instance is turned and sheared by U(-0.25, 0.25), its
axes are scaled by U(0.75, 1.15), all about the centre at 64 pixels, then boxes of pixels are averaged.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
    "cmr10", "cmb10", "cmss10", "cmti10", "cmtt10",
)  # fmt: skip
CANVAS = 64
# Height of a digit on the canvas: the largest scale and turn still fit.
_HEIGHT = 43
_TURN, _SHEAR, _SCALE = 0.25, 0.25, (0.75, 1.15)


def font_digits(per_glyph: int = 12, *, image_size: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images (210 per_glyph, 1, s, s) uint8, ink = 255, and their digits.

    Args:
        per_glyph: instances of each digit of each font.
        image_size: s, a divisor of 64.
        seed: of the instances; more of them leave the first ones as they are.

    Raises:
        ValueError: an option out of range.
        FileNotFoundError: matplotlib's own fonts are not where it keeps them.
    """
    from paperworks.data.augment import geometry

    if per_glyph < 1 or image_size < 8 or CANVAS % image_size:
        raise ValueError(
            f"per_glyph, image_size: expected at least 1, and 8, 16, 32 or 64, got {per_glyph} and {image_size}"
        )
    rows = [np.random.default_rng((seed, number)).random((len(FONTS) * 10, 4)) for number in range(per_glyph)]
    drawn = torch.from_numpy(np.stack(rows, 1).reshape(-1, 4)).float()
    angle, shear = (2 * drawn[:, 0] - 1) * _TURN, (2 * drawn[:, 1] - 1) * _SHEAR
    wider, taller = (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * drawn[:, 2:]).unbind(1)
    move = geometry.compose(
        geometry.scaling(wider, taller), geometry.affine([[1, shear, 0], [0, 1, 0]], angle), geometry.rotation(angle)
    )
    templates = torch.from_numpy(_templates()).float().div(255)[:, None].repeat_interleave(per_glyph, 0)
    images = geometry.warp(templates, move, fill=0.0)
    reduced = torch.nn.functional.avg_pool2d(images, CANVAS // image_size)
    labels = torch.arange(10).repeat(len(FONTS)).repeat_interleave(per_glyph)
    return (reduced * 255).round().to(torch.uint8), labels


@functools.cache
def _templates() -> NDArray[np.uint8]:
    """(fonts x 10, 64, 64): each digit of each font, centred, all of a font at one size."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    drawn = []
    for name in FONTS:
        path = folder / f"{name}.ttf"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: matplotlib's font {name} is missing; install matplotlib's own fonts")
        font = FT2Font(str(path))
        font.set_size(_size(font), 72)
        drawn += [_centred(_bitmap(font, digit)) for digit in "0123456789"]
    return np.stack(drawn)


def _size(font: object) -> float:
    """Points at which the font's digits are `_HEIGHT` pixels high."""
    trial = 48.0
    font.set_size(trial, 72)  # pyright: ignore[reportAttributeAccessIssue]
    return trial * _HEIGHT / max(_bitmap(font, digit).shape[0] for digit in "0123456789")


def _bitmap(font: object, digit: str) -> NDArray[np.uint8]:
    font.set_text(digit, 0.0)  # pyright: ignore[reportAttributeAccessIssue]
    font.draw_glyphs_to_bitmap()  # pyright: ignore[reportAttributeAccessIssue]
    picture = np.asarray(font.get_image())  # pyright: ignore[reportAttributeAccessIssue]
    rows, columns = np.flatnonzero(picture.max(1)), np.flatnonzero(picture.max(0))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _centred(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    height, width = min(picture.shape[0], CANVAS), min(picture.shape[1], CANVAS)
    top, left = (CANVAS - height) // 2, (CANVAS - width) // 2
    canvas[top : top + height, left : left + width] = picture[:height, :width]
    return canvas
