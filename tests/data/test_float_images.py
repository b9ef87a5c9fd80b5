"""PFM and OpenEXR: round trips, an independent library where it is installed, and errors that name the file."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.data.errors import DataCorrupt, DataError
from paperworks.data.float_images import read_exr, read_pfm, write_exr, write_pfm


def picture(height, width, seed=0):
    return np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)


def test_pfm_is_rows_from_the_bottom(tmp_path):
    path = tmp_path / "a.pfm"
    path.write_bytes(b"Pf\n2 2\n-1.0\n" + struct.pack("<4f", 1, 2, 3, 4))
    assert np.array_equal(read_pfm(path), [[3, 4], [1, 2]])
    path.write_bytes(b"Pf 2 1 1.0\n" + struct.pack(">2f", 9, 2))
    assert np.array_equal(read_pfm(path), [[9, 2]])
    # Data that looks like white space.
    path.write_bytes(b"Pf\n1 2\n-1\n" + b"\n \n " + struct.pack("<f", 5))
    assert read_pfm(path).shape == (2, 1)
    assert read_pfm(path)[0, 0] == 5


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 3)])
def test_pfm_round_trip(tmp_path, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    write_pfm(tmp_path / "a.pfm", values)
    assert np.array_equal(read_pfm(tmp_path / "a.pfm"), values)


@given(height=st.integers(1, 40), width=st.integers(1, 9), seed=st.integers(0, 9))
def test_exr_round_trip(tmp_path_factory, height, width, seed):
    path = tmp_path_factory.mktemp("exr") / "a.exr"
    channels = {"Z": picture(height, width, seed), "R": np.zeros((height, width), np.float32)}
    write_exr(path, channels)
    back = read_exr(path)
    assert set(back) == {"R", "Z"}
    for name, values in channels.items():
        assert np.array_equal(back[name], values)


def test_half_keeps_eleven_bits(tmp_path):
    values = np.abs(picture(20, 30)) + 0.01
    write_exr(tmp_path / "a.exr", {"Y": values}, half=True)
    assert np.max(np.abs(read_exr(tmp_path / "a.exr")["Y"] / values - 1)) <= 2**-11


def test_openexr_reads_what_we_write_and_we_what_it_writes(tmp_path):
    theirs = pytest.importorskip("OpenEXR", reason="the OpenEXR wheel is not installed")
    values = picture(33, 17)
    write_exr(tmp_path / "a.exr", {"Z": values})
    with theirs.File(str(tmp_path / "a.exr"), separate_channels=True) as file:
        assert np.array_equal(file.channels()["Z"].pixels, values)
    for compression in (theirs.NO_COMPRESSION, theirs.ZIPS_COMPRESSION, theirs.ZIP_COMPRESSION):
        for dtype in (np.float32, np.float16):
            header = {"compression": compression, "type": theirs.scanlineimage}
            theirs.File(header, {"Z": values.astype(dtype)}).write(str(tmp_path / "b.exr"))
            assert np.array_equal(read_exr(tmp_path / "b.exr")["Z"], values.astype(dtype))
    theirs.File({"compression": theirs.PIZ_COMPRESSION}, {"Z": values}).write(str(tmp_path / "c.exr"))
    with pytest.raises(DataError, match=r"c\.exr: PIZ compression is not read here"):
        read_exr(tmp_path / "c.exr")


def test_what_is_no_picture_is_refused(tmp_path):
    text = tmp_path / "text.exr"
    text.write_text("not a picture at all")
    with pytest.raises(DataError, match=r"text\.exr: no OpenEXR file"):
        read_exr(text)
    with pytest.raises(DataError, match=r"text\.exr: no PFM file"):
        read_pfm(text)
    write_exr(tmp_path / "cut.exr", {"Z": picture(40, 9)})
    content = (tmp_path / "cut.exr").read_bytes()
    (tmp_path / "cut.exr").write_bytes(content[:-300])
    with pytest.raises(DataCorrupt, match=r"cut\.exr: "):
        read_exr(tmp_path / "cut.exr")
    tiled = bytearray(content)
    tiled[5] |= 0x02
    (tmp_path / "tiled.exr").write_bytes(bytes(tiled))
    with pytest.raises(DataError, match=r"tiled\.exr: has tiles"):
        read_exr(tmp_path / "tiled.exr")
    (tmp_path / "cut.pfm").write_bytes(b"Pf\n4 4\n-1.0\n1234")
    with pytest.raises(DataCorrupt, match=r"cut\.pfm: 4 bytes of pixels, expected 64"):
        read_pfm(tmp_path / "cut.pfm")
    with pytest.raises(ValueError, match="channels: expected"):
        write_exr(tmp_path / "x.exr", {"R": np.zeros((2, 2)), "G": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="picture: expected"):
        write_pfm(tmp_path / "x.pfm", np.zeros((2, 2, 2)))
