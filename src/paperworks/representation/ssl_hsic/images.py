"""Images of the study: invented characters, two real sets, or a folder of one's own; and their random views."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paperworks.data.augment import RECIPES, TwoViews, as_float
from paperworks.data.augment.geometry import affine, compose, rotation, scaling, translation, warp
from paperworks.data.augment.images import chance, uniform
from paperworks.data.benchmarks import benchmark_file, benchmark_members
from paperworks.data.depth import IMAGES, read_image
from paperworks.data.errors import DataError, DataMissing
from paperworks.data.glyphs import glyphs
from paperworks.train.self_supervised import Views

SetName: TypeAlias = Literal["glyphs", "omniglot_small", "cifar10_jpeg", "folder"]
ViewName: TypeAlias = Literal["auto", "affine", "byol"]

TEST_EVERY = 4  # of own images of a class every fourth is kept for the test
_OMNIGLOT_TEST_FROM = 15  # drawers 15 to 20


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, S, S) uint8 and, where there are any, labels (N,), in a training and a test part."""

    train: Tensor
    test: Tensor
    train_labels: Tensor | None
    test_labels: Tensor | None
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for part in (self.train, self.test, self.train_labels, self.test_labels):
            digest.update(b"none" if part is None else part.numpy().tobytes())
        return digest.hexdigest()


def glyph_set(classes: int, per_class: int, test_per_class: int, *, image_size: int, seed: int) -> ImageSet:
    """Invented characters: an alphabet for each seed."""
    train, labels = glyphs(classes, per_class, image_size=image_size, split="train", seed=seed)
    test, test_labels = glyphs(classes, test_per_class, image_size=image_size, split="test", seed=seed)
    return ImageSet(train, test, labels, test_labels)


def benchmark_set(name: SetName, image_size: int) -> ImageSet:
    """`omniglot_small` (242 characters, by drawer) or `cifar10_jpeg` (5,000 training and 2,000 test images).

    Raises:
        ValueError: the registry does not know the set. DataMissing, DataCorrupt: as `benchmark_file`.
    """
    return _omniglot(image_size) if name == "omniglot_small" else _cifar(image_size)


def read_image_folder(folder: str, image_size: int) -> ImageSet:
    """Pictures in a folder, nested at will; with at least two folders in it and nothing beside them, those are classes.

    Each is cut to its largest middle square and resized; every fourth of a class (or of all), by name, is for the test.
    Pictures that are all grey get one channel.

    Raises:
        DataMissing: no such folder. DataError: too few pictures, or one that cannot be read, which is named.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataMissing(f"{folder}: no such folder of pictures")
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGES and path.is_file())
    if len(paths) < 2 * TEST_EVERY:
        raise DataError(
            f"{folder}: holds {len(paths)} pictures ({', '.join(IMAGES)}); expected {2 * TEST_EVERY} or more"
        )
    tops = [path.relative_to(root).parts[0] for path in paths]
    labelled = len(set(tops)) > 1 and all(len(path.relative_to(root).parts) > 1 for path in paths)
    names, codes = np.unique(tops if labelled else [""] * len(paths), return_inverse=True)
    counts = np.bincount(codes)
    if counts.min() < TEST_EVERY:
        few = names[counts.argmin()]
        raise DataError(f"{folder}/{few}: holds {counts.min()} pictures; expected {TEST_EVERY} or more of each class")
    pictures = [read_image(path) for path in paths]
    small = sum(min(picture.shape[1:]) < image_size for picture in pictures)
    images = torch.stack([_square(torch.from_numpy(picture), image_size) for picture in pictures])
    if bool((images == images[:, :1]).all()):
        images = images[:, :1].contiguous()
    order = np.empty(len(codes), int)
    for code in range(len(names)):
        order[codes == code] = np.arange(counts[code])
    notes = [f"{len(paths)} pictures" + (f" of {len(names)} classes" if labelled else " without classes")]
    notes += [f"{small} pictures are smaller than {image_size} pixels and were enlarged"] if small else []
    return _split(images, codes if labelled else None, order % TEST_EVERY == TEST_EVERY - 1, notes)


def make_views(name: ViewName, images: Tensor) -> Views:
    """`affine` for characters and other grey images, `byol` for colour; "auto" decides by the channels.

    Raises:
        ValueError: an unknown name.
    """
    if name not in ("auto", "affine", "byol"):
        raise ValueError(f"views: expected auto, affine or byol, got {name!r}")
    size = images.shape[-1]
    if name == "affine" or (name == "auto" and images.shape[1] == 1):
        return AffineViews()
    # The published blur is in pixels of images of 224.
    blur = (0.1, max(0.2, 2.0 * size / 224))
    return TwoViews(size, recipe=(replace(RECIPES["byol"][0], blur=blur), replace(RECIPES["byol"][1], blur=blur)))


@dataclass(frozen=True)
class AffineViews:
    """`views(images, generator=g) -> (view1, view2)` of characters, both from one distribution; nothing is mirrored.

    Attributes:
        rotation: largest angle, radians. scale: of each axis. shear: largest.
        shift: largest, of half the side.
        blur: probability of a mean over 3 x 3 pixels.
        gain: factor of the brightness. noise: standard deviation of what is added to each pixel.
    """

    rotation: float = 0.35
    scale: tuple[float, float] = (0.8, 1.25)
    shear: float = 0.2
    shift: float = 0.2
    blur: float = 0.5
    gain: tuple[float, float] = (0.6, 1.4)
    noise: float = 0.1

    def __call__(self, images: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Two float views of uint8 or float images (B, C, H, W)."""
        images = as_float(images)
        return self._view(images, generator), self._view(images, generator)

    def _view(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        count, half = len(images), images.shape[-1] / 2

        def draw(low: float, high: float) -> Tensor:
            return uniform((count,), low, high, like=images, generator=generator)

        move = compose(
            translation(*(half * draw(-self.shift, self.shift) for _ in range(2))),
            affine([[1, draw(-self.shear, self.shear), 0], [0, 1, 0]], images),
            scaling(*(draw(*self.scale) for _ in range(2))),
            rotation(draw(-self.rotation, self.rotation)),
        )
        view = warp(images, move, fill=0.0)
        blurred = chance(count, self.blur, like=images, generator=generator)
        view = torch.where(blurred[:, None, None, None], F.avg_pool2d(view, 3, stride=1, padding=1), view)
        device = images.device if generator is None else generator.device
        noise = torch.randn(view.shape, generator=generator, device=device).to(view)
        return view * draw(*self.gain)[:, None, None, None] + self.noise * noise


def _split(images: Tensor, codes: np.ndarray | None, test: np.ndarray, notes: Sequence[str]) -> ImageSet:
    rows = [torch.from_numpy(np.flatnonzero(part)) for part in (~test, test)]
    labels = [None if codes is None else torch.from_numpy(codes.astype(np.int64))[part] for part in rows]
    return ImageSet(images[rows[0]], images[rows[1]], labels[0], labels[1], tuple(notes))


def _square(image: Tensor, size: int) -> Tensor:
    """The largest square in the middle of a picture (C, H, W) uint8, resized."""
    side = min(image.shape[1:])
    top, left = ((length - side) // 2 for length in image.shape[1:])
    square = image[None, :, top : top + side, left : left + side].float()
    resized = F.interpolate(square, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def _omniglot(size: int) -> ImageSet:
    from PIL import Image

    found: dict[tuple[str, str, int], bytes] = {}
    for part in (1, 2):
        members = benchmark_members("omniglot_small", f"images_background_small{part}.zip", "*.png")
        for name, content in members.items():
            alphabet, character, file = name.split("/")[-3:]
            # Greek and Latin are in both files.
            found[alphabet, character, int(file.removesuffix(".png").split("_")[1])] = content
    keys = sorted(found)
    inks = [np.asarray(Image.open(io.BytesIO(found[key])).convert("L")) for key in keys]
    images = torch.stack([_square(torch.from_numpy(255 - ink)[None], size) for ink in inks])
    characters = np.unique([f"{alphabet}/{character}" for alphabet, character, _ in keys], return_inverse=True)[1]
    test = np.array([drawer >= _OMNIGLOT_TEST_FROM for *_, drawer in keys])
    return _split(images, characters, test, [f"omniglot_small, {len(set(characters))} characters, split by drawer"])


def _cifar(size: int) -> ImageSet:
    import pandas as pd
    from PIL import Image

    frame = pd.read_parquet(benchmark_file("cifar10_jpeg", "cifar10_jpeg_25000.parquet"))
    place = frame.groupby(["split", "label"]).cumcount()
    frame = frame[place < np.where(frame["split"] == "train", 500, 200)]
    pixels = [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in frame["image"]]
    images = torch.stack([_square(torch.from_numpy(pixel.copy()).permute(2, 0, 1), size) for pixel in pixels])
    return _split(
        images, frame["label"].to_numpy(), (frame["split"] == "test").to_numpy(), ["cifar10_jpeg, 7,000 images"]
    )
