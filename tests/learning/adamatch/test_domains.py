"""The domains: fonts, digits, benchmark files and the user's own images, and what is refused."""

import gzip
import struct

import numpy as np
import pytest
import torch

from paperworks.data.errors import DataCorrupt, DataError
from paperworks.learning.adamatch import domains
from paperworks.learning.adamatch.domains import Domain, check_domains, read_domain
from paperworks.learning.adamatch.fonts import FONTS, font_digits


def write_images(folder, classes, count=3, side=12, colour=False, seed=0):
    from PIL import Image

    rng = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            shape = (side, side + 2, 3) if colour else (side, side + 2)
            pixels = (rng.random(shape) * 60 + 40 * number).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"bild {index}.png")
    return folder


def test_fonts_draw_every_digit_and_more_instances_keep_the_first():
    images, labels = font_digits(2)
    assert images.shape == (len(FONTS) * 10 * 2, 1, 16, 16)
    assert np.bincount(labels).tolist() == [42] * 10
    assert images.flatten(1).float().std(1).min() > 20
    assert len({image.numpy().tobytes() for image in images}) == len(images)
    more, _ = font_digits(3)
    torch.testing.assert_close(more.view(210, 3, 1, 16, 16)[:, :2], images.view(210, 2, 1, 16, 16))
    other, _ = font_digits(2, seed=1)
    assert not torch.equal(images, other)
    # Upright templates are alike within a digit: the mean over fonts predicts better than chance.
    means = torch.stack([images[labels == digit].float().mean(0) for digit in range(10)])
    nearest = torch.cdist(images.float().flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == labels).float().mean() > 0.5


def test_embedded_pair_has_a_disjoint_test_part():
    pair = domains.fonts_to_digits(per_glyph=1)
    assert (len(pair.source), len(pair.target), len(pair.test)) == (210, 1197, 600)
    train = {image.numpy().tobytes() for image in pair.target.images}
    assert sum(image.numpy().tobytes() in train for image in pair.test.images) < 5
    assert pair.fingerprint == domains.fonts_to_digits(per_glyph=1).fingerprint


def test_few_and_long_tail():
    train, _ = domains.handwritten_digits()
    few = train.few(4, seed=3)
    assert np.bincount(few.known()).tolist() == [4] * 10
    fewer = {image.numpy().tobytes() for image in train.few(1, seed=3).images}
    assert fewer <= {image.numpy().tobytes() for image in few.images}
    counts = np.bincount(train.long_tail(10, seed=0).known())
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.15)
    assert (np.diff(counts) < 0).all()
    with pytest.raises(DataError, match=r"class '0' has .* images, 500 are needed"):
        train.few(500, seed=0)
    with pytest.raises(ValueError, match="ratio"):
        train.long_tail(0.5, seed=0)


def test_idx_files(tmp_path):
    pixels = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)
    places = []
    for name, content in (
        ("images", struct.pack(">iiii", 0x803, 3, 28, 28) + pixels.tobytes()),
        ("labels", struct.pack(">ii", 0x801, 3) + bytes([7, 0, 9])),
    ):
        places.append(tmp_path / name)
        places[-1].write_bytes(gzip.compress(content))
    found = domains.read_mnist(*places, image_size=28)
    assert torch.equal(found.images[:, 0], torch.from_numpy(pixels))
    assert found.known().tolist() == [7, 0, 9]
    assert domains.read_mnist(*places, image_size=16).images.shape == (3, 1, 16, 16)
    places[0].write_bytes(gzip.compress(struct.pack(">iiii", 0x803, 4, 28, 28) + pixels.tobytes()))
    with pytest.raises(DataCorrupt, match="images: expected an IDX file"):
        domains.read_mnist(*places, image_size=28)


def test_usps_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "usps.h5", "w") as file:
        for part, count in (("train", 4), ("test", 2)):
            file[f"{part}/data"] = np.linspace(0, 1, count * 256, dtype=np.float32).reshape(count, 256)
            file[f"{part}/target"] = np.arange(count, dtype=np.int32)
    train, test = domains.read_usps(tmp_path / "usps.h5", image_size=16)
    assert (len(train), len(test)) == (4, 2)
    assert train.images[0, 0, 0, 0] == 0
    assert train.images[-1, 0, -1, -1] == 255
    assert test.known().tolist() == [0, 1]


def test_folders_with_and_without_classes(tmp_path):
    folder = write_images(tmp_path / "a", ("katze", "hund"))
    found = read_domain(folder, image_size=8)
    assert found.classes == ("hund", "katze")
    assert found.known().tolist() == [0] * 3 + [1] * 3
    assert found.images.shape == (6, 1, 8, 8)
    assert found.names[0] == "hund/bild 0.png"
    assert read_domain(folder, image_size=8, channels=3).images.shape == (6, 3, 8, 8)
    flat = read_domain(folder / "hund", image_size=8)
    assert flat.labels is None
    assert flat.names == ("bild 0.png", "bild 1.png", "bild 2.png")
    coloured = read_domain(write_images(tmp_path / "b", ("x",), colour=True), image_size=8)
    assert coloured.images.shape == (3, 3, 8, 8)


def test_npz_with_and_without_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([3, 10, 3, 10, 3]))
    found = read_domain(tmp_path / "a.npz", image_size=9)
    assert found.classes == ("3", "10")
    assert found.known().tolist() == [0, 1, 0, 1, 0]
    assert torch.equal(found.images, torch.from_numpy(images).permute(0, 3, 1, 2))
    np.savez(tmp_path / "b.npz", images=images[..., 0])
    assert read_domain(tmp_path / "b.npz", image_size=8).labels is None
    # The same names in another order, as folders have them.
    other = domains.renumbered(found, ("10", "3"))
    assert other.known().tolist() == [1, 0, 1, 0, 1]


def test_errors_name_folder_and_class(tmp_path):
    source = read_domain(write_images(tmp_path / "source", ("hund", "katze")), image_size=8)
    target = read_domain(write_images(tmp_path / "target", ("hund", "maus")), image_size=8)
    with pytest.raises(DataError, match=r"target: its classes differ .*\['katze'\].*\['maus'\]"):
        check_domains(source, target)
    single = read_domain(write_images(tmp_path / "single", ("hund", "katze"), count=1), image_size=8)
    with pytest.raises(DataError, match="single: class 'hund', 'katze' has fewer than two images"):
        check_domains(single, source)
    with pytest.raises(DataError, match="one class"):
        check_domains(read_domain(write_images(tmp_path / "one", ("hund",)), image_size=8), source)
    (tmp_path / "source" / "leer").mkdir()
    with pytest.raises(DataError, match="class 'leer' has no images"):
        read_domain(tmp_path / "source", image_size=8)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="has no images"):
        read_domain(tmp_path / "nothing", image_size=8)
    with pytest.raises(DataError, match="needs labels"):
        read_domain(tmp_path / "one" / "hund", image_size=8, labelled=True)
    (tmp_path / "one" / "los.png").write_bytes((tmp_path / "one" / "hund" / "bild 0.png").read_bytes())
    with pytest.raises(DataError, match="images beside class folders"):
        read_domain(tmp_path / "one", image_size=8)
    (tmp_path / "nothing" / "kaputt.png").write_text("no image")
    with pytest.raises(DataError, match=r"kaputt\.png"):
        read_domain(tmp_path / "nothing", image_size=8)
    with pytest.raises(DataError, match="expected a folder"):
        read_domain(tmp_path / "nowhere", image_size=8)
    np.savez(tmp_path / "bad.npz", images=np.zeros((3, 4, 4)))
    with pytest.raises(DataError, match="expected `images`"):
        read_domain(tmp_path / "bad.npz", image_size=8)
    np.savez(tmp_path / "bad.npz", images=np.zeros((3, 4, 4), np.uint8), labels=np.zeros(2))
    with pytest.raises(DataError, match=r"expected `labels` \(3,\)"):
        read_domain(tmp_path / "bad.npz", image_size=8)
    with pytest.raises(ValueError, match="image_size"):
        read_domain(tmp_path / "one", image_size=4)
    with pytest.raises(ValueError, match="per_glyph, image_size"):
        font_digits(1, image_size=10)


def test_a_domain_without_labels_says_so():
    domain = Domain(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), None, (), "photos")
    with pytest.raises(DataError, match="photos: needs labels"):
        domain.known()
