"""Depth files and folders: round trips, holes, and errors that name the file."""

import io

import numpy as np
import pytest

from paperworks.data.depth import (
    DepthPairs,
    find_images,
    fit_to,
    read_depth,
    read_depth_pairs,
    read_image,
    rgbd_samples,
    write_depth,
)
from paperworks.data.errors import DataCorrupt, DataError, DataMissing
from paperworks.data.float_images import write_exr

Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")


def depths(height=6, width=8, seed=0):
    return np.random.default_rng(seed).uniform(0.5, 9.0, (height, width)).astype(np.float32)


def folder(path, count=3, size=(48, 64), kind=".png"):
    (path / "rgb").mkdir(parents=True)
    (path / "depth").mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path / "rgb" / f"{number:02d}.png")
        write_depth(path / "depth" / f"{number:02d}{kind}", depths(*size, seed=number))
    return path


@pytest.mark.parametrize("kind", [".npy", ".pfm", ".exr"])
def test_metres_come_back_exactly(tmp_path, kind):
    write_depth(tmp_path / f"d{kind}", depths())
    assert np.array_equal(read_depth(tmp_path / f"d{kind}"), depths())


def test_png_holds_millimetres(tmp_path):
    write_depth(tmp_path / "d.png", depths())
    assert np.abs(read_depth(tmp_path / "d.png") - depths()).max() <= 0.00051
    with Image.open(tmp_path / "d.png") as stored:
        assert np.asarray(stored).dtype == np.uint16
    Image.fromarray(np.full((4, 4), 5000, np.uint16)).save(tmp_path / "e.png")
    assert np.allclose(read_depth(tmp_path / "e.png", scale=1 / 5000), 1.0)
    with pytest.raises(ValueError, match=r"reach from 0 to 65\.535 m, got up to 70"):
        write_depth(tmp_path / "f.png", np.full((2, 2), 70.0))
    assert not (tmp_path / "f.png").exists()


@pytest.mark.parametrize("kind", [".npy", ".pfm", ".exr"])
def test_holes_become_zero(tmp_path, kind):
    values = depths()
    values[0, 0], values[1, 1], values[2, 2] = np.nan, np.inf, 0
    write_depth(tmp_path / f"d{kind}", values)
    read = read_depth(tmp_path / f"d{kind}")
    assert read[0, 0] == read[1, 1] == read[2, 2] == 0
    assert (read > 0).sum() == values.size - 3


def test_depth_channel_of_an_exr(tmp_path):
    write_exr(tmp_path / "grey.exr", {"R": depths(), "G": depths(), "B": depths()})
    assert np.array_equal(read_depth(tmp_path / "grey.exr"), depths())
    write_exr(tmp_path / "z.exr", {"Z": depths(), "R": depths(seed=1)})
    assert np.array_equal(read_depth(tmp_path / "z.exr"), depths())
    write_exr(tmp_path / "what.exr", {"R": depths(), "G": depths(seed=1)})
    with pytest.raises(DataError, match=r"what\.exr: which channel is depth\?"):
        read_depth(tmp_path / "what.exr")


def test_unfit_depth_files_are_named(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "eight.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "rgb.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.save(tmp_path / "three.npy", np.zeros((2, 2, 3)))
    np.save(tmp_path / "minus.npy", np.full((2, 2), -1.0))
    for name, kind, words in (
        ("eight.png", DataError, "has 8 bits"),
        ("rgb.png", DataError, "expected one channel of 16 bits"),
        ("broken.png", DataError, "cannot be read as a PNG"),
        ("broken.npy", DataCorrupt, "cannot be read as .npy"),
        ("words.npy", DataError, "expected numbers"),
        ("three.npy", DataError, r"expected one channel, \(H, W\)"),
        ("minus.npy", DataError, "has negative depth"),
        ("absent.npy", DataError, "no such file"),
    ):
        with pytest.raises(kind, match=f"{name}: {words}"):
            read_depth(tmp_path / name)
    (tmp_path / "depth.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"depth\.jpg: expected depth as one of"):
        read_depth(tmp_path / "depth.jpg")
    with pytest.raises(ValueError, match="scale: expected"):
        read_depth(tmp_path / "eight.png", scale=0)
    with pytest.raises(ValueError, match="path: expected one of"):
        write_depth(tmp_path / "d.tif", depths())


def test_pictures_are_turned_as_their_exif_says(tmp_path):
    values = np.zeros((4, 6, 3), np.uint8)
    values[0, 0] = 255
    exif = Image.Exif()
    exif[274] = 6  # turned a quarter to the right
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    read = read_image(tmp_path / "a.png")
    assert read.shape == (3, 6, 4)
    assert read[:, 0, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", [".png", ".npy", ".exr", ".pfm"])
def test_folder_of_pairs(tmp_path, kind):
    pairs = read_depth_pairs(folder(tmp_path / "set", kind=kind), size=(48, 64))
    assert pairs.images.shape == (3, 3, 48, 64)
    assert pairs.names == ("00.png", "01.png", "02.png")
    assert np.abs(pairs.depths[1] - depths(48, 64, seed=1)).max() < 0.001
    again = read_depth_pairs(tmp_path / "set", size=(48, 64))
    assert again.fingerprint == pairs.fingerprint
    assert read_depth_pairs(tmp_path / "set", size=(24, 32)).fingerprint != pairs.fingerprint


def test_archive_of_pairs(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3), dtype=np.uint8)
    values = np.stack([depths(48, 64), depths(48, 64, seed=1)])
    np.savez(tmp_path / "set.npz", images=images, depths=values)
    pairs = read_depth_pairs(tmp_path / "set.npz", size=(48, 64))
    assert np.array_equal(pairs.images, images.transpose(0, 3, 1, 2))
    assert np.array_equal(pairs.depths, values)
    for content, words in (
        ({"images": images}, "expected the arrays images and depths, got images"),
        ({"images": images[..., 0], "depths": values}, r"images: expected \(N, H, W, 3\) uint8"),
        ({"images": images, "depths": values[:, :-1]}, r"depths: expected \(2, 48, 64\)"),
    ):
        np.savez(tmp_path / "wrong.npz", **content)
        with pytest.raises(DataError, match=rf"wrong\.npz: {words}"):
            read_depth_pairs(tmp_path / "wrong.npz", size=(48, 64))
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    with pytest.raises(DataCorrupt, match=r"broken\.npz"):
        read_depth_pairs(tmp_path / "broken.npz", size=(48, 64))


def published(path, images, depths):
    """As MATLAB writes it: the order of the indices is turned round."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(path, "w") as file:
        file["images"] = np.ascontiguousarray(images.transpose(0, 3, 2, 1))
        file["depths"] = np.ascontiguousarray(depths.transpose(0, 2, 1))
    return path


def test_the_published_archive_of_nyu_depth(tmp_path):
    rng = np.random.default_rng(0)
    images, maps = rng.integers(0, 255, (3, 6, 8, 3), dtype=np.uint8), np.stack([depths(seed=n) for n in range(3)])
    pairs = read_depth_pairs(published(tmp_path / "nyu.mat", images, maps), size=(6, 8))
    np.testing.assert_array_equal(pairs.images, images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(pairs.depths, maps)
    assert pairs.names[2] == "nyu.mat[2]"
    with pytest.raises(DataError, match=r"other\.mat: depths: expected \(3, 8, 6\), got \(2, 8, 6\)"):
        read_depth_pairs(published(tmp_path / "other.mat", images, maps[:2]), size=(6, 8))
    (tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(DataCorrupt, match=r"old\.mat: cannot be read as HDF5"):
        read_depth_pairs(tmp_path / "old.mat", size=(6, 8))


def test_fitting_crops_in_the_middle_and_takes_the_nearest_depth():
    image = np.zeros((3, 8, 16), np.uint8)
    image[:, :, 4:12] = 200
    depth = np.tile(np.arange(16.0), (8, 1))
    small, near = fit_to(image, depth, (4, 4))
    assert (small == 200).all()
    assert near[0].tolist() == [5, 7, 9, 11]
    same, kept = fit_to(image, depth, (8, 16))
    assert np.array_equal(same, image)
    assert np.array_equal(kept, depth)


def test_unfit_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="expected a folder with rgb/ and depth/"):
        read_depth_pairs(tmp_path / "absent", size=(8, 8))
    (tmp_path / "flat").mkdir()
    with pytest.raises(DataError, match=r"flat: expected the folders rgb/ and depth/"):
        read_depth_pairs(tmp_path / "flat", size=(8, 8))
    with pytest.raises(DataError, match="no pictures"):
        find_images(tmp_path / "flat")
    with pytest.raises(DataError, match="no such file or folder"):
        find_images(tmp_path / "absent")
    lonely = folder(tmp_path / "lonely")
    (lonely / "depth" / "01.png").unlink()
    with pytest.raises(DataError, match=r"01\.png: has no depth"):
        read_depth_pairs(lonely, size=(8, 8))
    twice = folder(tmp_path / "twice")
    write_depth(twice / "depth" / "01.npy", depths(48, 64))
    with pytest.raises(DataError, match=r"01\.png: has 2 depth files"):
        read_depth_pairs(twice, size=(8, 8))
    uneven = folder(tmp_path / "uneven")
    write_depth(uneven / "depth" / "02.png", depths(24, 32))
    with pytest.raises(DataError, match=r"02\.png: is 32 x 24, its picture 64 x 48"):
        read_depth_pairs(uneven, size=(8, 8))
    empty = folder(tmp_path / "empty")
    write_depth(empty / "depth" / "00.png", np.zeros((48, 64)))
    with pytest.raises(DataError, match=r"00\.png: has no valid depth"):
        read_depth_pairs(empty, size=(8, 8))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png: cannot be read as a picture"):
        read_image(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"images: expected"):
        DepthPairs.of(np.zeros((1, 3, 4, 4)), np.ones((1, 4, 4)))


def test_benchmark_frames_have_depth_without_holes(benchmark_data):
    benchmark_data("rgbd_samples")
    pairs = rgbd_samples()
    assert pairs.images.shape == (2, 3, 480, 640)
    assert 0.5 < pairs.depths.min() < pairs.depths.max() < 10


def test_absent_benchmark_says_where_to_put_it(tmp_path, monkeypatch):
    import pooch

    def unreachable(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", unreachable)
    monkeypatch.setenv("PAPERWORKS_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataMissing, match=r"rgbd_samples: color_1\.png is not on this machine"):
        rgbd_samples()


def test_writing_goes_through_whole_files(tmp_path):
    stream = io.BytesIO()
    np.save(stream, depths())
    write_depth(tmp_path / "d.npy", depths())
    assert (tmp_path / "d.npy").read_bytes() == stream.getvalue()
    assert [path.name for path in tmp_path.iterdir()] == ["d.npy"]
