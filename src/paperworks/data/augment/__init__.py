"""Augmentation of whole batches of images, on the device where they are, by explicit generators.

An operation is `op(images, level)`, images (B, C, H, W) float in [0, 1], one level in [0, 1] per image. What it returns
tells what can be merged: moves of pixels return (B, 2, 3) matrices, which `warp` applies together in one interpolation;
affine colour changes return (B, 3, 4) matrices, which `recolour` applies together; all others return images.

>>> import torch
>>> from paperworks.data.augment import RandAugment, TwoViews, WeakStrong
>>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
>>> first, second = TwoViews(32, recipe="byol")(images, generator=torch.Generator().manual_seed(0))
>>> weak, strong = WeakStrong(32, strong=RandAugment())(images, generator=torch.Generator().manual_seed(0))
>>> first.shape, strong.shape, strong.dtype
(torch.Size([8, 3, 32, 32]), torch.Size([8, 3, 32, 32]), torch.float32)
"""

from typing import TYPE_CHECKING

from paperworks._lazy import attach

if TYPE_CHECKING:
    from paperworks.data.augment.colour import compose_colour, recolour
    from paperworks.data.augment.geometry import compose, warp
    from paperworks.data.augment.images import as_float
    from paperworks.data.augment.operations import OPERATIONS, Operation
    from paperworks.data.augment.pipeline import apply_operations
    from paperworks.data.augment.pixels import cutout, gaussian_blur
    from paperworks.data.augment.policies import RandAugment, StrongAugment
    from paperworks.data.augment.two_views import RECIPES, TwoViews, ViewRecipe
    from paperworks.data.augment.weak_strong import WeakStrong

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "OPERATIONS": "operations",
        "Operation": "operations",
        "RECIPES": "two_views",
        "RandAugment": "policies",
        "StrongAugment": "policies",
        "TwoViews": "two_views",
        "ViewRecipe": "two_views",
        "WeakStrong": "weak_strong",
        "apply_operations": "pipeline",
        "as_float": "images",
        "compose": "geometry",
        "compose_colour": "colour",
        "cutout": "pixels",
        "gaussian_blur": "pixels",
        "recolour": "colour",
        "warp": "geometry",
    },
)
__all__ = [
    "OPERATIONS",
    "RECIPES",
    "Operation",
    "RandAugment",
    "StrongAugment",
    "TwoViews",
    "ViewRecipe",
    "WeakStrong",
    "apply_operations",
    "as_float",
    "compose",
    "compose_colour",
    "cutout",
    "gaussian_blur",
    "recolour",
    "warp",
]
