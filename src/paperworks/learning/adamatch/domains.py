"""Images of two domains with the same classes: embedded, benchmark, and the user's own.

Own data: a folder with class sub-folders, or an `.npz` with `images` (N, H, W) or (N, H, W, 3) uint8 and `labels`. A
target may be flat (no sub-folders) or without `labels`: then it is unlabelled, and no accuracy is known.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from paperworks.data.errors import DataCorrupt, DataError, DataMissing

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
DIGITS = tuple("0123456789")
# scikit-learn's digits and MNIST's 10,000: a fixed split for everybody.
_SPLIT_SEED, _DIGITS_TRAIN, _MNIST_TRAIN = 0, 1197, 8000
StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Domain:
    """Images (N, C, s, s) uint8 of one domain; `labels` (N,) index `classes`, or None; `names` are file names."""

    images: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    name: str
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over images and labels."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(b"" if self.labels is None else self.labels.numpy().tobytes())
        return digest.hexdigest()

    def known(self) -> Tensor:
        """The labels.

        Raises:
            DataError: there are none.
        """
        if self.labels is None:
            raise DataError(f"{self.name}: needs labels; give class sub-folders, or `labels` in the .npz")
        return self.labels

    def take(self, rows: Tensor) -> Domain:
        """Some of the images."""
        names = tuple(self.names[row] for row in rows.tolist()) if self.names else ()
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, images=self.images[rows], labels=labels, names=names)

    def few(self, per_class: int, *, seed: int) -> Domain:
        """`per_class` images of each class, drawn by `seed`; more of them keep the first ones.

        Raises:
            DataError: a class with fewer.
        """
        labels, rows = self.known(), []
        for number, name in enumerate(self.classes):
            members = (labels == number).nonzero()[:, 0]
            if len(members) < per_class:
                raise DataError(f"{self.name}: class {name!r} has {len(members)} images, {per_class} are needed")
            order = np.random.default_rng((seed, number)).permutation(len(members))
            rows.append(members[torch.from_numpy(order)][:per_class])
        return self.take(torch.cat(rows))

    def long_tail(self, ratio: float, *, seed: int) -> Domain:
        """A part in which class k of K has ratio^(-k / (K - 1)) times as many images as class 0.

        Raises:
            ValueError: `ratio` below 1.
        """
        if ratio < 1:
            raise ValueError(f"ratio: expected at least 1, got {ratio}")
        labels = self.known()
        counts = torch.bincount(labels, minlength=len(self.classes)).tolist()
        rng, rows = np.random.default_rng(seed), []
        shares = [ratio ** (-number / (len(self.classes) - 1)) for number in range(len(self.classes))]
        largest = min(count / share for count, share in zip(counts, shares, strict=True))
        for number, share in enumerate(shares):
            members = (labels == number).nonzero()[:, 0].numpy()
            rows.append(rng.permutation(members)[: max(1, int(largest * share))])
        return self.take(torch.from_numpy(np.sort(np.concatenate(rows))))


@dataclass(frozen=True)
class Pair:
    """A source, a target to train on without its labels, and a disjoint target to test on."""

    name: str
    source: Domain
    target: Domain
    test: Domain

    @property
    def fingerprint(self) -> str:
        parts = (self.source.fingerprint, self.target.fingerprint, self.test.fingerprint)
        return hashlib.sha256("".join(parts).encode()).hexdigest()


# Embedded ------------------------------------------------------------------------------------------------------------


def fonts_to_digits(*, per_glyph: int = 12, image_size: int = 16) -> Pair:
    """Digits of 21 fonts -> scikit-learn's handwritten digits: 1,197 to train on without labels, 600 to test."""
    from paperworks.learning.adamatch.fonts import font_digits

    images, labels = font_digits(per_glyph, image_size=image_size)
    source = Domain(images, labels, DIGITS, "fonts")
    train, test = handwritten_digits(image_size=image_size)
    return Pair("fonts_digits", source, train, test)


def handwritten_digits(*, image_size: int = 16) -> tuple[Domain, Domain]:
    """scikit-learn's 1,797 digits, 8 x 8, enlarged bilinearly; a fixed split of 1,197 and 600."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(np.asarray(bunch.images)).float()[:, None] * (255 / 16)  # pyright: ignore
    labels = torch.from_numpy(np.asarray(bunch.target)).long()  # pyright: ignore
    return _split(Domain(resized(small, image_size), labels, DIGITS, "digits"), _DIGITS_TRAIN)


# Benchmark -----------------------------------------------------------------------------------------------------------


def usps_to_mnist(*, image_size: int = 16) -> Pair:
    """USPS's training part -> MNIST, whole frames; see `usps`, `mnist`."""
    return Pair("usps_mnist", usps(image_size=image_size)[0], *mnist(image_size=image_size))


def mnist_to_usps(*, image_size: int = 16) -> Pair:
    """MNIST -> USPS, whole frames; see `usps`, `mnist`."""
    return Pair("mnist_usps", mnist(image_size=image_size)[0], *usps(image_size=image_size))


def usps(*, image_size: int = 16) -> tuple[Domain, Domain]:
    """USPS: 7,291 images to train on, 2,007 to test.

    Raises:
        DataMissing: the file is not here and cannot be fetched, or h5py is not installed.
    """
    return read_usps(_benchmark("usps", "usps.h5"), image_size=image_size)


def mnist(*, image_size: int = 16) -> tuple[Domain, Domain]:
    """MNIST's test file of 10,000, in a fixed split of 8,000 and 2,000. Whole frames: cutting out the middle 20 x 20
    pixels would take away much of the shift to USPS.

    Raises:
        DataMissing: the files are not here and cannot be fetched.
    """
    images, labels = (_benchmark("mnist_t10k", f"t10k-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1"))
    return _split(read_mnist(images, labels, image_size=image_size), _MNIST_TRAIN)


def read_usps(path: Path, *, image_size: int) -> tuple[Domain, Domain]:
    """Both parts of USPS from HDF5: groups train and test with `data` (N, 256) in [0, 1] and `target` (N,)."""
    try:
        import h5py
    except ImportError as error:
        raise DataMissing(f"{path}: reading HDF5 needs h5py: pip install h5py") from error
    parts = []
    file: Any
    with h5py.File(path) as file:
        for part in ("train", "test"):
            pixels = torch.from_numpy(np.asarray(file[part]["data"], np.float32)).reshape(-1, 1, 16, 16) * 255
            labels = torch.from_numpy(np.asarray(file[part]["target"], np.int64))
            parts.append(Domain(resized(pixels, image_size), labels, DIGITS, "usps"))
    return parts[0], parts[1]


def read_mnist(images: Path, labels: Path, *, image_size: int) -> Domain:
    """MNIST's files of IDX format, gzipped.

    Raises:
        DataCorrupt: they are not that, or do not belong together.
    """
    pixels = _read_idx(images, dimensions=3)
    digits = _read_idx(labels, dimensions=1)
    if len(pixels) != len(digits):
        raise DataCorrupt(f"{labels}: {len(digits)} labels for {len(pixels)} images")
    small = resized(torch.from_numpy(pixels).float()[:, None], image_size)
    return Domain(small, torch.from_numpy(digits.astype(np.int64)), DIGITS, "mnist")


def _read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    with gzip.open(path) as stream:
        content = stream.read()
    head: list[int] = np.frombuffer(content[: 4 + 4 * dimensions], ">i4").tolist()
    # The first number: two zero bytes, 8 for unsigned bytes, and how many dimensions follow.
    if not head or head[0] != 0x800 + dimensions or len(content) != 4 + 4 * dimensions + np.prod(head[1:]):
        raise DataCorrupt(f"{path}: expected an IDX file of bytes with {dimensions} dimensions")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(head[1:]).copy()


def _benchmark(dataset: str, file: str) -> Path:
    from paperworks.data.benchmarks import benchmark_file, list_benchmarks

    if dataset not in {benchmark.name for benchmark in list_benchmarks()}:
        raise DataMissing(f"{dataset}: is not in the registry of benchmark files")
    return benchmark_file(dataset, file)


# Own -----------------------------------------------------------------------------------------------------------------


def read_domain(path: StrPath, *, image_size: int, channels: int | None = None, labelled: bool | None = None) -> Domain:
    """A folder of images, or an `.npz`, resized to squares.

    Args:
        path: where.
        image_size: s.
        channels: 1 or 3; None: 1 where all images are grey.
        labelled: whether there must be labels; None: as it comes.

    Raises:
        DataError: nothing there, an unreadable image, no labels where there must be; names folder, file and class.
    """
    path = Path(path)
    if image_size < 8:
        raise ValueError(f"image_size: expected at least 8 pixels, got {image_size}")
    if path.suffix == ".npz":
        domain = _read_npz(path, image_size)
    elif path.is_dir():
        domain = _read_folder(path, image_size)
    else:
        raise DataError(f"{path}: expected a folder of images or an .npz file, and there is none")
    if labelled and domain.labels is None:
        domain.known()
    return as_channels(domain, channels or (1 if _is_grey(domain.images) else 3))


def as_channels(domain: Domain, channels: int) -> Domain:
    """The domain with 1 (the mean of red, green and blue) or 3 channels."""
    have = domain.images.shape[1]
    if have == channels:
        return domain
    images = domain.images.expand(-1, 3, -1, -1) if channels == 3 else domain.images.float().mean(1, keepdim=True)
    return replace(domain, images=images.round().to(torch.uint8) if channels == 1 else images.contiguous())


def renumbered(domain: Domain, classes: Sequence[str]) -> Domain:
    """The same images with labels that index `classes`; a folder's order of names may be another one's."""
    if domain.labels is None or domain.classes == tuple(classes):
        return domain
    places = torch.tensor([list(classes).index(name) for name in domain.classes])
    return replace(domain, labels=places[domain.labels], classes=tuple(classes))


def check_domains(source: Domain, target: Domain, target_labelled: Domain | None = None) -> None:
    """Refuse what cannot be adapted: other classes on one side, or classes of one image.

    Raises:
        DataError: naming the folder and the classes.
    """
    labels = source.known()
    counts = Counter(labels.tolist())
    single = [name for number, name in enumerate(source.classes) if counts[number] < 2]
    if single:
        raise DataError(f"{source.name}: class {', '.join(map(repr, single))} has fewer than two images; add some")
    if len(source.classes) < 2:
        raise DataError(f"{source.name}: has one class, {', '.join(source.classes)!r}; at least two are needed")
    for other in (target, target_labelled):
        if other is None or other.labels is None:
            continue
        only_here = sorted(set(source.classes) - set(other.classes))
        only_there = sorted(set(other.classes) - set(source.classes))
        if only_here or only_there:
            raise DataError(
                f"{other.name}: its classes differ from those of {source.name}: only in the source "
                f"{only_here or 'none'}, only here {only_there or 'none'}; open label sets are not supported"
            )


def resized(images: Tensor, image_size: int) -> Tensor:
    """(N, C, H, W) floats in [0, 255] -> (N, C, s, s) uint8; bilinear, with antialiasing where it gets smaller."""
    if tuple(images.shape[2:]) != (image_size, image_size):
        shrinks = min(images.shape[2:]) > image_size
        images = F.interpolate(
            images, size=(image_size, image_size), mode="bilinear", align_corners=False, antialias=shrinks
        )
    return images.round().clamp(0, 255).to(torch.uint8)


def _read_folder(folder: Path, image_size: int) -> Domain:
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    flat = _images_in(folder)
    if classes and flat:
        raise DataError(f"{folder}: has images beside class folders ({flat[0].name}); move them into a class")
    if not classes and not flat:
        raise DataError(f"{folder}: has no images ({', '.join(SUFFIXES)}) and no class folders")
    if not classes:
        return Domain(_read_images(flat, image_size), None, (), str(folder), tuple(file.name for file in flat))
    files, labels = [], []
    for number, name in enumerate(classes):
        members = _images_in(folder / name)
        if not members:
            raise DataError(f"{folder / name}: class {name!r} has no images ({', '.join(SUFFIXES)})")
        files += members
        labels += [number] * len(members)
    names = tuple(str(file.relative_to(folder)) for file in files)
    return Domain(_read_images(files, image_size), torch.tensor(labels), tuple(classes), str(folder), names)


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())


def _read_images(files: Sequence[Path], image_size: int) -> Tensor:
    from paperworks.data.depth import read_image

    return torch.cat([resized(torch.from_numpy(read_image(file))[None].float(), image_size) for file in files])


def _read_npz(path: Path, image_size: int) -> Domain:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as .npz ({error})") from error
    images = arrays.get("images")
    if (
        images is None
        or images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or images.shape[3:] not in ((), (1,), (3,))
    ):
        got = "none" if images is None else f"{images.shape} {images.dtype}"
        raise DataError(f"{path}: expected `images` (N, H, W) or (N, H, W, 3) uint8, got {got}")
    pixels = torch.from_numpy(images if images.ndim == 4 else images[..., None]).permute(0, 3, 1, 2).float()
    names = tuple(f"image {number}" for number in range(len(images)))
    if "labels" not in arrays:
        return Domain(resized(pixels, image_size), None, (), str(path), names)
    given = arrays["labels"]
    if given.shape != (len(images),):
        raise DataError(f"{path}: expected `labels` ({len(images)},), got {given.shape}")
    classes, labels = np.unique(given, return_inverse=True)
    words = tuple(str(name) for name in classes)
    return Domain(resized(pixels, image_size), torch.from_numpy(labels).long(), words, str(path), names)


def _is_grey(images: Tensor) -> bool:
    return images.shape[1] == 1 or bool((images[:, :1] == images).all())


def _split(domain: Domain, train: int) -> tuple[Domain, Domain]:
    order = torch.from_numpy(np.random.default_rng(_SPLIT_SEED).permutation(len(domain)))
    return domain.take(order[:train]), domain.take(order[train:])
