"""The 19 operations of CTAugment (Berthelot et al., ReMixMatch, 2020, arXiv 1911.09785), on batches.

`op(images, level)` returns, by its kind, a (B, 2, 3) matrix (`geometry`), a (B, 3, 4) matrix (`colour`) or images
(`pixels`). Levels l in [0, 1] mean:

- enhancers (brightness, color, contrast, sharpness): the factor 0.1 + 1.9 l;
- blends (autocontrast, blur, equalize, invert, smooth): (1 - l) x + l op(x);
- rotate: 45 (2 l - 1) degrees counter-clockwise; shear: 0.3 (2 l - 1) about the upper left corner; translate:
  0.3 (2 l - 1) of the side, the picture to the left or up for l > 1/2;
- rescale: enlarge the middle, without 0.25 l of the side at each edge; a second level chooses the filter;
- posterize: 1 + floor(7.999 l) bits; solarize: invert from the value floor(255.999 l) on;
- cutout: a grey square of side 2 floor((1 + floor(0.499 l side)) / 2) anywhere.

Differences to the published code, which works by PIL on 8 bits: no rounding between operations; bilinear interpolation
where PIL's default is the nearest pixel; angles are not rounded to degrees; its translation moves by 0.3 *pixels*,
which does nothing: `translate_x(..., unit="pixel")` for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from paperworks.data.augment import colour, geometry, pixels
from paperworks.data.augment.images import check_level, check_shape, uniform

Kind: TypeAlias = Literal["geometry", "colour", "pixels"]
Strength: TypeAlias = Literal["rising", "falling", "two-sided", "none"]


def identity(images: Tensor, level: Tensor) -> Tensor:
    return colour.unchanged(level)


def rotate(images: Tensor, level: Tensor) -> Tensor:
    return geometry.rotation((2 * level - 1) * math.radians(45))


def shear_x(images: Tensor, level: Tensor) -> Tensor:
    amount = 0.3 * (2 * level - 1)
    return geometry.affine([[1, amount, amount * (images.shape[2] / 2)], [0, 1, 0]], level)


def shear_y(images: Tensor, level: Tensor) -> Tensor:
    amount = 0.3 * (2 * level - 1)
    return geometry.affine([[1, 0, 0], [amount, 1, amount * (images.shape[3] / 2)]], level)


def translate_x(images: Tensor, level: Tensor, *, unit: Literal["side", "pixel"] = "side") -> Tensor:
    amount = 0.3 * (2 * level - 1) * (images.shape[3] if unit == "side" else 1)
    return geometry.translation(-amount, torch.zeros_like(amount))


def translate_y(images: Tensor, level: Tensor, *, unit: Literal["side", "pixel"] = "side") -> Tensor:
    amount = 0.3 * (2 * level - 1) * (images.shape[2] if unit == "side" else 1)
    return geometry.translation(torch.zeros_like(amount), -amount)


def rescale(images: Tensor, level: Tensor) -> Tensor:
    factor = 1 / (1 - 0.5 * level)
    return geometry.scaling(factor, factor)


def autocontrast(images: Tensor, level: Tensor) -> Tensor:
    low, high = images.amin((2, 3)).expand(-1, 3), images.amax((2, 3)).expand(-1, 3)
    flat = high <= low
    gain = torch.where(flat, 1, 1 / torch.where(flat, 1, high - low))
    offset = torch.where(flat, 0, -low * gain)
    return colour.blend(torch.cat([torch.diag_embed(gain), offset[..., None]], -1), 1 - level)


def brightness(images: Tensor, level: Tensor) -> Tensor:
    return colour.brightness(_factor(level))


def color(images: Tensor, level: Tensor) -> Tensor:
    return colour.saturation(_factor(level))


def contrast(images: Tensor, level: Tensor) -> Tensor:
    return colour.contrast(_factor(level), colour.mean_colour(images))


def invert(images: Tensor, level: Tensor) -> Tensor:
    unchanged = colour.unchanged(level)
    return colour.blend(torch.cat([-unchanged[:, :, :3], torch.ones_like(unchanged[:, :, 3:])], -1), 1 - level)


def blur(images: Tensor, level: Tensor) -> Tensor:
    return pixels.blurred(images, level)


def smooth(images: Tensor, level: Tensor) -> Tensor:
    return pixels.smoothed(images, level)


def sharpness(images: Tensor, level: Tensor) -> Tensor:
    return pixels.smoothed(images, 1 - _factor(level)).clamp_(0, 1)


def equalize(images: Tensor, level: Tensor) -> Tensor:
    return torch.lerp(images, pixels.equalized(images), level[:, None, None, None])


def posterize(images: Tensor, level: Tensor) -> Tensor:
    return pixels.posterized(images, 1 + (level * 7.999).floor())


def solarize(images: Tensor, level: Tensor) -> Tensor:
    return pixels.solarized(images, (level * 255.999).floor() / 255)


def cutout(images: Tensor, level: Tensor, *, generator: torch.Generator | None = None, fill: float = 0.5) -> Tensor:
    """A square of side about half the image times `level`, anywhere; see `pixels.cutout` for one at a given place."""
    centre = uniform((len(images), 2), 0, 1, like=images, generator=generator)
    return pixels.cutout(images, level, centre, fill=fill)


def rescale_filter(level: Tensor) -> Tensor:
    """The filter, an index into `geometry.FILTERS`, that the second level of `rescale` chooses."""
    return (level * 5.99).floor().long()


def _factor(level: Tensor) -> Tensor:
    return 0.1 + 1.9 * level


@dataclass(frozen=True)
class Operation:
    """An operation with what a policy must know of it.

    Attributes:
        name: its key in `OPERATIONS`.
        kind: what `function` returns: "geometry" (B, 2, 3), "colour" (B, 3, 4), or "pixels", images.
        function: (images, level) -> that; what `geometry` returns must depend on the images' size alone.
        bins: into how many parts CTAugment cuts the range of each parameter; empty: there is none.
        strength: whether the change grows with the level, falls, or grows to both sides of 1/2.
    """

    name: str
    kind: Kind
    function: Callable[[Tensor, Tensor], Tensor]
    bins: tuple[int, ...] = (17,)
    strength: Strength = "rising"

    def __call__(self, images: Tensor, level: Tensor) -> Tensor:
        """What `function` says of float images and one level in [0, 1] for each.

        Raises:
            ValueError: images or levels of another form.
        """
        check_shape(images)
        return self.function(images, check_level(images, level))

    def apply(self, images: Tensor, level: Tensor, *, fill: float = 0.5) -> Tensor:
        """The changed images, whatever the kind."""
        change = self(images, level)
        if self.kind == "geometry":
            return geometry.warp(images, change, fill=fill)
        return colour.recolour(images, change) if self.kind == "colour" else change


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation("autocontrast", "colour", autocontrast),
        Operation("blur", "pixels", blur),
        Operation("brightness", "colour", brightness),
        Operation("color", "colour", color),
        Operation("contrast", "colour", contrast),
        Operation("cutout", "pixels", cutout),
        Operation("equalize", "pixels", equalize),
        Operation("identity", "colour", identity, bins=(), strength="none"),
        Operation("invert", "colour", invert),
        Operation("posterize", "pixels", posterize, bins=(8,), strength="falling"),
        Operation("rescale", "geometry", rescale, bins=(17, 6)),
        Operation("rotate", "geometry", rotate, strength="two-sided"),
        Operation("sharpness", "pixels", sharpness),
        Operation("shear_x", "geometry", shear_x, strength="two-sided"),
        Operation("shear_y", "geometry", shear_y, strength="two-sided"),
        Operation("smooth", "pixels", smooth),
        Operation("solarize", "pixels", solarize, strength="falling"),
        Operation("translate_x", "geometry", translate_x, strength="two-sided"),
        Operation("translate_y", "geometry", translate_y, strength="two-sided"),
    )
}
