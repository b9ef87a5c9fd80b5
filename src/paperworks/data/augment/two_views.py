"""Two random views of each image, as self-supervised methods compare them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from paperworks.data.augment import colour, geometry, pixels
from paperworks.data.augment.images import as_float, both_sides, chance, uniform

Range: TypeAlias = tuple[float, float]
Name: TypeAlias = Literal["byol", "moco", "glyph", "mim"]

_TRIES = 10
# The parts of a jitter, in the order of `ViewRecipe.jitter`.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@dataclass(frozen=True)
class ViewRecipe:
    """The distribution of one view, in the order of application.

    Attributes:
        area: of the crop, as a share of the image; uniform.
        aspect: width / height of the crop; log-uniform.
        rotation: largest angle either way, radians.
        flip: probability to swap left and right.
        jitter: how far brightness, contrast, saturation (factors 1 +- that) and hue (parts of a full circle) may go;
            in random order.
        jitter_chance: probability of the jitter.
        grey: probability to lose all colour.
        blur: standard deviation of the Gaussian blur in pixels of the view; uniform.
        blur_chance: probability of the blur.
        solarize: probability to invert what is not below 1/2.
        invert: probability to invert everything.
        fill: grey value around the image, which only rotated views see.
    """

    area: Range = (0.08, 1.0)
    aspect: Range = (3 / 4, 4 / 3)
    rotation: float = 0.0
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_chance: float = 0.8
    grey: float = 0.0
    blur: Range = (0.1, 2.0)
    blur_chance: float = 0.0
    solarize: float = 0.0
    invert: float = 0.0
    fill: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area: expected 0 < low <= high <= 1, got {self.area}")
        for name, (low, high) in (("aspect", self.aspect), ("blur", self.blur)):
            if not 0 < low <= high:
                raise ValueError(f"{name}: expected 0 < low <= high, got {(low, high)}")
        for name in ("flip", "jitter_chance", "grey", "blur_chance", "solarize", "invert", "fill"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number in [0, 1], got {getattr(self, name)}")
        if min(self.jitter) < 0 or max(self.jitter[:3]) > 1 or self.jitter[3] > 0.5:
            raise ValueError(f"jitter: expected three numbers in [0, 1] and one in [0, 0.5], got {self.jitter}")


_BYOL = ViewRecipe(jitter=(0.4, 0.4, 0.2, 0.1), grey=0.2, blur_chance=1.0)
_MOCO = ViewRecipe(area=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grey=0.2, blur_chance=0.5)
_GLYPH = ViewRecipe(
    area=(0.5, 1.0), rotation=0.35, flip=0.0, jitter=(0.4, 0.0, 0.0, 0.0), blur=(0.1, 0.8), blur_chance=1.0, fill=0.0
)
_MIM = ViewRecipe()

RECIPES: dict[str, tuple[ViewRecipe, ViewRecipe]] = {
    # Grill et al. 2020, arXiv 2006.07733, table 6.
    "byol": (_BYOL, replace(_BYOL, blur_chance=0.1, solarize=0.2)),
    # Chen et al. 2020 (MoCo v2), arXiv 2003.04297: both views alike.
    "moco": (_MOCO, _MOCO),
    # Characters: no mirroring, which would change them, and no colour.
    "glyph": (_GLYPH, replace(_GLYPH, blur_chance=0.1, invert=0.2)),
    # Masked image modelling: crop and mirror alone.
    "mim": (_MIM, _MIM),
}


class TwoViews:
    """`views(images, generator=g) -> (view1, view2)`, floats in [0, 1] of `image_size`.

    Crop, rotation and mirroring are one interpolation (bilinear, without antialiasing); jitter and loss of colour are
    one affine map of RGB with one clamp, where torchvision clamps after each of its operations.

    Args:
        image_size: height and width of the views, or one number for both.
        recipe: a name in `RECIPES`, or two `ViewRecipe`s: `replace(RECIPES["byol"][0], blur=(0.1, 0.5))`. The named
            recipes' blurs are in pixels, meant for views of 224 (`glyph`: of 20 to 28).
        hue: "yiq" rotates the colour plane, as part of the affine map; "hsv" shifts the hue as torchvision does, which
            takes a pass over the pixels for each part of the jitter.

    Raises:
        ValueError: an unknown recipe or hue; when called, images of another form.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        *,
        recipe: Name | tuple[ViewRecipe, ViewRecipe] = "byol",
        hue: Literal["yiq", "hsv"] = "yiq",
    ):
        if isinstance(recipe, str) and recipe not in RECIPES:
            raise ValueError(f"recipe: expected {', '.join(RECIPES)} or two ViewRecipes, got {recipe!r}")
        if hue not in ("yiq", "hsv"):
            raise ValueError(f"hue: expected yiq or hsv, got {hue!r}")
        self.size = both_sides(image_size)
        self.recipes = RECIPES[recipe] if isinstance(recipe, str) else recipe
        if len(self.recipes) != 2:
            raise ValueError(f"recipe: expected two recipes, got {len(self.recipes)}")
        self.hue = hue

    def __call__(self, images: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Two views of uint8 or float images (B, C, H, W); C is 1 or 3."""
        images = as_float(images)
        first, second = (self.view(images, recipe, generator=generator) for recipe in self.recipes)
        return first, second

    def view(self, images: Tensor, recipe: ViewRecipe, *, generator: torch.Generator | None = None) -> Tensor:
        """One view of float images."""
        padding = "fill" if recipe.rotation else "edge"
        move = crop_matrix(images, self.size, recipe, generator=generator)
        view = geometry.warp(images, move, size=self.size, padding=padding, fill=recipe.fill)
        view = self._recolour(view, recipe, generator)
        if recipe.blur_chance:
            view = _blur(view, recipe, generator)
        if recipe.solarize:
            rows = _some(view, recipe.solarize, generator)
            view[rows] = pixels.solarized(view[rows], view.new_full((len(rows),), 0.5))
        if recipe.invert:
            rows = _some(view, recipe.invert, generator)
            view[rows] = 1 - view[rows]
        return view

    def _recolour(self, view: Tensor, recipe: ViewRecipe, generator: torch.Generator | None) -> Tensor:
        amounts, order = draw_jitter(view, recipe, generator=generator)
        lost = uniform((len(view),), 0, 1, like=view, generator=generator) < recipe.grey
        fades = bool(recipe.grey) and view.shape[1] == 3
        fading = [colour.saturation(1 - lost.to(view))] if fades else []
        if self.hue == "hsv" and HUE in active_parts(view, recipe):
            view, change = jitter_in_steps(view, amounts, order), fading
        else:
            change = [jitter_matrix(view, amounts, order), *fading] if order.shape[1] else fading
        return colour.recolour(view, colour.compose_colour(*change)) if change else view


def crop_matrix(
    images: Tensor, size: tuple[int, int], recipe: ViewRecipe, *, generator: torch.Generator | None = None
) -> Tensor:
    """The matrices (B, 2, 3) of random resized crops, rotated about their centres, and mirrored.

    Area and aspect are drawn until the crop fits, at most ten times; then the largest crop in the middle of the nearest
    possible aspect is taken, as in torchvision. Unlike there, sides and places are not rounded to pixels.
    """
    count, (height, width) = len(images), images.shape[2:]
    area = uniform((count, _TRIES), *recipe.area, like=images, generator=generator) * (height * width)
    logs = uniform((count, _TRIES), *(math.log(end) for end in recipe.aspect), like=images, generator=generator)
    wide, tall = (area * logs.exp()).sqrt(), (area / logs.exp()).sqrt()
    fits = (wide <= width) & (tall <= height)
    found, first = fits.any(1), fits.to(torch.uint8).argmax(1, keepdim=True)
    ratio = min(max(width / height, recipe.aspect[0]), recipe.aspect[1])
    wide = torch.where(found, wide.gather(1, first)[:, 0], min(width, height * ratio))
    tall = torch.where(found, tall.gather(1, first)[:, 0], min(height, width / ratio))
    place = uniform((2, count), -0.5, 0.5, like=images, generator=generator) * found
    x, y = place[0] * (width - wide), place[1] * (height - tall)
    move = geometry.affine([[wide / size[1], 0, x], [0, tall / size[0], y]], wide)
    if recipe.rotation:
        angle = uniform((count,), -recipe.rotation, recipe.rotation, like=images, generator=generator)
        move = geometry.compose(move, geometry.rotation(angle))
    if recipe.flip:
        flags = chance(count, recipe.flip, like=images, generator=generator)
        move = geometry.compose(move, geometry.mirror(flags, wide))
    return move


def active_parts(view: Tensor, recipe: ViewRecipe) -> list[int]:
    """The parts of the jitter that change such images at all."""
    coloured = view.shape[1] == 3
    return [part for part, reach in enumerate(recipe.jitter) if reach and (coloured or part in (BRIGHTNESS, CONTRAST))]


def draw_jitter(view: Tensor, recipe: ViewRecipe, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """(B, 4) factors of brightness, contrast, saturation and the turn of hue; (B, active parts) their order."""
    count, active = len(view), active_parts(view, recipe)
    amounts = view.new_tensor(recipe.jitter) * uniform((count, 4), -1, 1, like=view, generator=generator)
    amounts = amounts * chance(count, recipe.jitter_chance, like=view, generator=generator)[:, None]
    ranks = uniform((count, 4), 0, 1, like=view, generator=generator)[:, active].argsort(1)
    order = torch.tensor(active, device=view.device, dtype=torch.long)[ranks]
    return amounts + view.new_tensor([1.0, 1.0, 1.0, 0.0]), order


def jitter_matrix(view: Tensor, amounts: Tensor, order: Tensor) -> Tensor:
    """The whole jitter as (B, 3, 4), hue in YIQ; contrast uses the mean as mapped by what came before, unclamped.

    `amounts` (B, 4); `order` (B, slots) says which part each image gets first, second, ...
    """
    count = len(view)
    contrasts = bool((order == CONTRAST).any())
    mean = colour.mean_colour(view) if contrasts else view.new_zeros(count, 3)
    parts = [colour.brightness(amounts[:, 0]), mean, colour.saturation(amounts[:, 2]), colour.hue(amounts[:, 3])]
    total = colour.unchanged(mean)
    for slot in range(order.shape[1]):
        if contrasts:
            now = (total[:, :, :3] @ mean[:, :, None])[:, :, 0] + total[:, :, 3]
            parts[CONTRAST] = colour.contrast(amounts[:, 1], now)
        else:
            parts[CONTRAST] = total
        chosen = torch.stack(parts, 1)[torch.arange(count, device=view.device), order[:, slot]]
        total = colour.compose_colour(total, chosen)
    return total


def jitter_in_steps(view: Tensor, amounts: Tensor, order: Tensor) -> Tensor:
    """The jitter one part after the other, clamped after each, hue in HSV: what torchvision computes."""
    view = view.clone()
    for slot in range(order.shape[1]):
        for part in order[:, slot].unique().tolist():
            rows = (order[:, slot] == part).nonzero()[:, 0]
            view[rows] = _jitter_part(view[rows], amounts[rows, part], part)
    return view


def _jitter_part(view: Tensor, amount: Tensor, part: int) -> Tensor:
    if part == HUE:
        return colour.hsv_hue(view, amount)
    if part == CONTRAST:
        return colour.recolour(view, colour.contrast(amount, colour.mean_colour(view)))
    return colour.recolour(view, (colour.brightness if part == BRIGHTNESS else colour.saturation)(amount))


def _blur(view: Tensor, recipe: ViewRecipe, generator: torch.Generator | None) -> Tensor:
    sigma = uniform((len(view),), *recipe.blur, like=view, generator=generator)
    rows = _some(view, recipe.blur_chance, generator)
    if len(rows) == len(view):
        return pixels.gaussian_blur(view, sigma, largest=recipe.blur[1])
    view[rows] = pixels.gaussian_blur(view[rows], sigma[rows], largest=recipe.blur[1])
    return view


def _some(view: Tensor, probability: float, generator: torch.Generator | None) -> Tensor:
    """Numbers of images drawn with `probability` each."""
    return chance(len(view), probability, like=view, generator=generator).nonzero()[:, 0]
