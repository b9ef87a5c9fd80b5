"""Pictures with depth: folders of pairs, `.npz` archives, single files, and two benchmark frames.

A folder has `rgb/` and `depth/` with files of the same stem; depth is a 16-bit PNG, `.npy`, `.pfm` or `.exr`. Zeros,
NaN and infinities are holes; they become 0 here.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paperworks._files import write_atomic
from paperworks.data.benchmarks import benchmark_file
from paperworks.data.errors import DataCorrupt, DataError
from paperworks.data.float_images import read_exr, read_pfm, write_exr, write_pfm
from paperworks.data.hdf5 import open_hdf5

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
DEPTHS = (".png", ".npy", ".pfm", ".exr")
IMAGE_FOLDERS = ("rgb", "image", "images", "color")
DEPTH_FOLDERS = ("depth", "depths")
BENCHMARK = "rgbd_samples"
BENCHMARK_SCALE = 1 / 5000
StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class DepthPairs:
    """Pictures and their depth.

    Attributes:
        images: (N, 3, H, W) uint8.
        depths: (N, H, W) float32 metres, planar; 0 where there is none.
        names: one a picture.
        fingerprint: SHA-256 over pictures and depth.
        notes: what a reader should know.
    """

    images: NDArray[np.uint8]
    depths: NDArray[np.float32]
    names: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of(
        cls,
        images: NDArray[np.uint8],
        depths: NDArray[np.floating],
        names: Sequence[str] | None = None,
        *,
        notes: Sequence[str] = (),
    ) -> DepthPairs:
        """Check shapes, turn holes into 0 and take the fingerprint.

        Raises:
            DataError: shapes or a dtype that do not fit, a negative depth, or a picture without any depth.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
            raise DataError(f"images: expected (N, 3, H, W) uint8, got {images.shape} {images.dtype}")
        if depths.shape != (len(images), *images.shape[2:]):
            raise DataError(f"depths: expected {(len(images), *images.shape[2:])}, got {depths.shape}")
        names = tuple(names) if names is not None else tuple(f"picture {number}" for number in range(len(images)))
        clean = np.where(np.isfinite(depths), depths, 0).astype(np.float32)
        for number, depth in enumerate(clean):
            if depth.min() < 0:
                raise DataError(f"{names[number]}: has negative depth, {depth.min():g}; expected metres, 0 for holes")
            if not depth.any():
                raise DataError(f"{names[number]}: has no valid depth; leave it out")
        digest = hashlib.sha256(np.ascontiguousarray(images).tobytes())
        digest.update(clean.tobytes())
        return cls(images, clean, names, digest.hexdigest(), tuple(notes))

    def take(self, rows: NDArray[np.integer] | slice) -> DepthPairs:
        """Some of the pictures."""
        names = np.array(self.names, dtype=object)[rows]
        return DepthPairs.of(self.images[rows], self.depths[rows], tuple(names), notes=self.notes)


# Single files ---------------------------------------------------------------------------------------------------------


def read_image(path: StrPath) -> NDArray[np.uint8]:
    """A picture as (3, H, W) uint8 RGB, turned upright as its EXIF says.

    Raises:
        DataError: no such file, or no picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error})") from error
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def read_depth(path: StrPath, *, scale: float = 0.001) -> NDArray[np.float32]:
    """A depth map (H, W) in metres, 0 where there is none.

    Args:
        path: a PNG of whole numbers, `.npy`, `.pfm` or `.exr` (channel Z, or the only one).
        scale: metres per unit of a PNG; the other formats hold metres.

    Raises:
        DataError: unknown format, more than one channel, 8 bits where 16 are needed, or negative depth.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale: expected metres per unit, a positive number, got {scale}")
    kind = path.suffix.lower()
    if kind == ".png":
        depth = _read_png(path) * scale
    elif kind == ".npy":
        depth = _read_npy(path)
    elif kind == ".pfm":
        depth = read_pfm(path)
    elif kind == ".exr":
        depth = _depth_channel(path, read_exr(path))
    else:
        raise DataError(f"{path}: expected depth as one of {', '.join(DEPTHS)}, got {kind or 'no suffix'}")
    if depth.ndim != 2:
        raise DataError(f"{path}: expected one channel, (H, W), got {depth.shape}")
    depth = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
    if depth.size and depth.min() < 0:
        raise DataError(f"{path}: has negative depth, {depth.min():g}; expected metres, 0 for holes")
    return depth


def _read_png(path: Path) -> NDArray[np.float64]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            if picture.mode not in ("I;16", "I;16B", "I", "L"):
                raise DataError(f"{path}: expected one channel of 16 bits, got a {picture.mode} picture")
            if picture.mode == "L":
                raise DataError(f"{path}: has 8 bits, too few for depth; save 16-bit millimetres")
            return np.asarray(picture).astype(np.float64)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as a PNG ({error})") from error


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataCorrupt(f"{path}: cannot be read as .npy ({error})") from error
    if not np.issubdtype(array.dtype, np.number):
        raise DataError(f"{path}: expected numbers, got {array.dtype}")
    return array


def _depth_channel(path: Path, channels: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    for name in ("Z", "depth", "Depth", "Y"):
        if name in channels:
            return channels[name]
    first, *rest = channels.values()
    if any(not np.array_equal(first, other) for other in rest):
        raise DataError(f"{path}: which channel is depth? It has {', '.join(channels)}; name it Z")
    return first


def write_depth(path: StrPath, depth: NDArray[np.floating]) -> None:
    """Write (H, W) metres: 16-bit millimetres as `.png`, metres as `.npy`, `.pfm` or `.exr` (channel Z).

    Raises:
        ValueError: another suffix, another shape, or a depth that 16-bit millimetres cannot hold.
    """
    path, depth = Path(path), np.asarray(depth, dtype=np.float32)
    if depth.ndim != 2:
        raise ValueError(f"depth: expected (H, W), got {depth.shape}")
    kind = path.suffix.lower()
    if kind == ".png":
        write_atomic(path, _png16(depth))
    elif kind == ".npy":
        stream = io.BytesIO()
        np.save(stream, depth)
        write_atomic(path, stream.getvalue())
    elif kind == ".pfm":
        write_pfm(path, depth)
    elif kind == ".exr":
        write_exr(path, {"Z": depth})
    else:
        raise ValueError(f"path: expected one of {', '.join(DEPTHS)}, got {path.name}")


def _png16(depth: NDArray[np.float32]) -> bytes:
    from PIL import Image

    millimetres = np.round(np.where(np.isfinite(depth), depth, 0).astype(np.float64) * 1000)
    if millimetres.size and (millimetres.min() < 0 or millimetres.max() > 65535):
        raise ValueError(f"depth: 16-bit millimetres reach from 0 to 65.535 m, got up to {depth.max():g}; use .npy")
    stream = io.BytesIO()
    Image.fromarray(millimetres.astype(np.uint16)).save(stream, format="PNG")
    return stream.getvalue()


# Collections ----------------------------------------------------------------------------------------------------------


def find_images(path: StrPath) -> list[Path]:
    """The pictures of a folder (or the one picture), by name.

    Raises:
        DataError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES and not file.name.startswith("."))
    if not found:
        raise DataError(f"{path}: no pictures; expected files ending in {', '.join(IMAGES)}")
    return found


def read_depth_pairs(path: StrPath, *, size: tuple[int, int], scale: float = 0.001) -> DepthPairs:
    """Pictures and depth of one's own, brought to one size.

    Args:
        path: a folder with `rgb/` and `depth/`, an `.npz` with `images` (N, H, W, 3) uint8 and `depths` (N, H, W)
            metres, or the labelled part of NYU Depth v2 as published, `nyu_depth_v2_labeled.mat`.
        size: height and width; pictures are cropped in the middle to its proportions and then resized, depth by the
            nearest pixel.
        scale: metres per unit of depth PNGs.

    Raises:
        DataError: no pairs, a picture without its depth, sizes that differ within a pair, unreadable files; the message
            names the file.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, size, scale)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _read_npz(path, size)
    if path.suffix.lower() == ".mat" and path.is_file():
        return _read_mat(path, size)
    raise DataError(f"{path}: expected a folder with rgb/ and depth/, or an .npz or .mat with images and depths")


def pair_files(folder: Path) -> list[tuple[Path, Path]]:
    """Pictures and depth files of a folder, matched by their stem.

    Raises:
        DataError: a folder is missing, or a picture has no depth or several.
    """
    rgb = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    depth = next((folder / name for name in DEPTH_FOLDERS if (folder / name).is_dir()), None)
    if rgb is None or depth is None:
        raise DataError(f"{folder}: expected the folders rgb/ and depth/ with files of the same names")
    depths: dict[str, list[Path]] = {}
    for file in sorted(depth.iterdir()):
        if file.suffix.lower() in DEPTHS and not file.name.startswith("."):
            depths.setdefault(file.stem, []).append(file)
    pairs = []
    for image in find_images(rgb):
        found = depths.get(image.stem, [])
        if len(found) != 1:
            have = "no depth" if not found else f"{len(found)} depth files"
            raise DataError(f"{image}: has {have}; expected one file {depth / image.stem} with {', '.join(DEPTHS)}")
        pairs.append((image, found[0]))
    return pairs


def _read_folder(folder: Path, size: tuple[int, int], scale: float) -> DepthPairs:
    images, depths, names = [], [], []
    for image_file, depth_file in pair_files(folder):
        image, depth = read_image(image_file), read_depth(depth_file, scale=scale)
        _same_size(image, depth, str(depth_file))
        fitted = fit_to(image, depth, size)
        images.append(fitted[0])
        depths.append(fitted[1])
        names.append(image_file.name)
    return DepthPairs.of(np.stack(images), np.stack(depths), names)


def _read_npz(path: Path, size: tuple[int, int]) -> DepthPairs:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not {"images", "depths"} <= set(archive.files):
                raise DataError(f"{path}: expected the arrays images and depths, got {', '.join(archive.files)}")
            images, depths = archive["images"], archive["depths"]
    except (ValueError, OSError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataCorrupt(f"{path}: cannot be read as .npz ({error})") from error
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise DataError(f"{path}: images: expected (N, H, W, 3) uint8, got {images.shape} {images.dtype}")
    if depths.shape != images.shape[:3]:
        raise DataError(f"{path}: depths: expected {images.shape[:3]} as the images, got {depths.shape}")
    fitted = [fit_to(image.transpose(2, 0, 1), depth, size) for image, depth in zip(images, depths, strict=True)]
    names = [f"{path.name}[{number}]" for number in range(len(images))]
    return DepthPairs.of(np.stack([f[0] for f in fitted]), np.stack([f[1] for f in fitted]), names)


def _read_mat(path: Path, size: tuple[int, int]) -> DepthPairs:
    """MATLAB keeps the first index fastest: HDF5 sees images as (N, 3, W, H) and depth as (N, W, H)."""
    with open_hdf5(path) as file:
        if not {"images", "depths"} <= set(file):
            raise DataError(f"{path}: expected the arrays images and depths, got {', '.join(sorted(file))}")
        images, depths = file["images"], file["depths"]
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
            raise DataError(f"{path}: images: expected (N, 3, W, H) uint8, got {images.shape} {images.dtype}")
        if depths.shape != (len(images), *images.shape[2:]):
            raise DataError(f"{path}: depths: expected {(len(images), *images.shape[2:])}, got {depths.shape}")
        # One at a time: the published file holds almost three gigabytes.
        fitted = [fit_to(images[row].transpose(0, 2, 1), depths[row].T, size) for row in range(len(images))]
    names = [f"{path.name}[{number}]" for number in range(len(fitted))]
    return DepthPairs.of(np.stack([f[0] for f in fitted]), np.stack([f[1] for f in fitted]), names)


def _same_size(image: NDArray[np.uint8], depth: NDArray[np.float32], name: str) -> None:
    if image.shape[1:] != depth.shape:
        raise DataError(
            f"{name}: is {depth.shape[1]} x {depth.shape[0]}, its picture {image.shape[2]} x {image.shape[1]}"
        )


def fit_to(
    image: NDArray[np.uint8], depth: NDArray[np.floating], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Crop a picture (3, H, W) and its depth (H, W) in the middle to the proportions of `size`, then resize them."""
    from PIL import Image

    height, width = size
    rows, columns = depth.shape
    cut = min(rows / height, columns / width)
    tall, wide = max(1, round(cut * height)), max(1, round(cut * width))
    top, left = (rows - tall) // 2, (columns - wide) // 2
    window = image[:, top : top + tall, left : left + wide].transpose(1, 2, 0)
    small = Image.fromarray(np.ascontiguousarray(window)).resize((width, height), Image.Resampling.BILINEAR)
    y = top + ((np.arange(height) + 0.5) * tall / height).astype(int)
    x = left + ((np.arange(width) + 0.5) * wide / width).astype(int)
    return np.asarray(small).transpose(2, 0, 1), depth[np.ix_(y, x)].astype(np.float32)


def rgbd_samples(*, size: tuple[int, int] = (480, 640)) -> DepthPairs:
    """Two rendered frames of a living room, 640 x 480, with depth without holes.

    Raises:
        DataMissing, DataCorrupt: see `benchmark_file`.
    """
    images, depths = [], []
    for number in (1, 5):
        image = read_image(benchmark_file(BENCHMARK, f"color_{number}.png"))
        depth = read_depth(benchmark_file(BENCHMARK, f"depth_{number}.png"), scale=BENCHMARK_SCALE)
        fitted = fit_to(image, depth, size)
        images.append(fitted[0])
        depths.append(fitted[1])
    return DepthPairs.of(np.stack(images), np.stack(depths), ("frame 1", "frame 5"))
