"""Pictures of floating-point numbers: PFM and OpenEXR, read and written with NumPy alone.

OpenEXR is a family of formats; here is its plain member: one part, scan lines, channels of half, float or 32-bit
unsigned numbers at full resolution, stored as they are or with ZIP or ZIPS compression. Whatever else a file uses is
named in the error.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paperworks._files import write_atomic
from paperworks.data.errors import DataCorrupt, DataError

Picture = NDArray[np.float32]
StrPath = str | os.PathLike[str]

_MAGIC = 20000630
_PIXELS = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
_COMPRESSIONS = ("none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")
_LINES = {0: 1, 2: 1, 3: 16}
_OTHER_KINDS = {0x200: "tiles", 0x800: "deep pixels", 0x1000: "several parts"}


def read_pfm(path: StrPath) -> Picture:
    """A PFM file as (H, W) or (H, W, 3) float32, top row first.

    Raises:
        DataError: no PFM file.
        DataCorrupt: it ends too early.
    """
    path = Path(path)
    content = path.read_bytes()
    parts = content.split(maxsplit=4)
    if len(parts) < 4 or parts[0] not in (b"Pf", b"PF"):
        raise DataError(f"{path}: no PFM file; it should start with Pf or PF, width, height and scale")
    try:
        width, height, scale = int(parts[1]), int(parts[2]), float(parts[3])
    except ValueError:
        raise DataError(f"{path}: expected width, height and scale in the PFM header, got {parts[1:4]}") from None
    # One white space ends the header; what looks like white space after it is data.
    start = 0
    for word in parts[:4]:
        start = content.index(word, start) + len(word)
    channels = 3 if parts[0] == b"PF" else 1
    data = content[start + 1 :]
    if len(data) != 4 * width * height * channels:
        raise DataCorrupt(f"{path}: {len(data):,} bytes of pixels, expected {4 * width * height * channels:,}")
    order = "<" if scale < 0 else ">"
    picture = np.frombuffer(data, f"{order}f4").reshape(height, width, channels)[::-1].astype(np.float32)
    return picture[..., 0] if channels == 1 else picture


def write_pfm(path: StrPath, picture: NDArray[np.floating]) -> None:
    """Write (H, W) or (H, W, 3) as PFM, little endian.

    Raises:
        ValueError: another shape.
    """
    array = np.asarray(picture, dtype="<f4")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f"picture: expected (H, W) or (H, W, 3), got {array.shape}")
    kind = "Pf" if array.ndim == 2 else "PF"
    head = f"{kind}\n{array.shape[1]} {array.shape[0]}\n-1.0\n".encode()
    write_atomic(path, head + array[::-1].tobytes())


def read_exr(path: StrPath) -> dict[str, Picture]:
    """The channels of an OpenEXR file by name, each (H, W) float32.

    Raises:
        DataError: no OpenEXR file, or one that uses what is not read here; the message says what.
        DataCorrupt: it ends too early or does not unpack.
    """
    path = Path(path)
    content = path.read_bytes()
    if len(content) < 8 or struct.unpack_from("<I", content)[0] != _MAGIC:
        raise DataError(f"{path}: no OpenEXR file")
    flags = struct.unpack_from("<I", content, 4)[0]
    for bit, kind in _OTHER_KINDS.items():
        if flags & bit:
            raise DataError(f"{path}: has {kind}, which is not read here; save it as one part with scan lines")
    try:
        return _read_channels(path, content)
    except (struct.error, IndexError, KeyError, zlib.error) as error:
        raise DataCorrupt(f"{path}: damaged or cut off ({type(error).__name__}: {error})") from error


def _read_channels(path: Path, content: bytes) -> dict[str, Picture]:
    header, position = _header(content)
    channels = _channels(path, header["channels"])
    compression = header["compression"][0]
    if compression not in _LINES:
        name = _COMPRESSIONS[compression] if compression < len(_COMPRESSIONS) else str(compression)
        raise DataError(f"{path}: {name} compression is not read here; save it with ZIP compression")
    left, top, right, bottom = struct.unpack("<4i", header["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    lines = _LINES[compression]
    chunks = -(-height // lines)
    offsets = struct.unpack_from(f"<{chunks}Q", content, position)
    row_bytes = width * sum(dtype.itemsize for _, dtype in channels)
    pictures = {name: np.empty((height, width), np.float32) for name, _ in channels}
    for offset in offsets:
        line, size = struct.unpack_from("<2i", content, offset)
        first = line - top
        rows = min(lines, height - first)
        data = content[offset + 8 : offset + 8 + size]
        if compression and size < rows * row_bytes:
            data = _unpack(data)
        if len(data) != rows * row_bytes:
            raise DataCorrupt(f"{path}: line {line} has {len(data):,} bytes, expected {rows * row_bytes:,}")
        place = 0
        for row in range(first, first + rows):
            for name, dtype in channels:
                pictures[name][row] = np.frombuffer(data, dtype, width, place)
                place += width * dtype.itemsize
    return pictures


def _header(content: bytes) -> tuple[dict[str, bytes], int]:
    """The attributes by name, and where the table of offsets starts."""
    header, position = {}, 8
    while content[position]:
        name, position = _word(content, position)
        _, position = _word(content, position)
        size = struct.unpack_from("<i", content, position)[0]
        header[name] = content[position + 4 : position + 4 + size]
        position += 4 + size
    return header, position + 1


def _channels(path: Path, data: bytes) -> list[tuple[str, np.dtype]]:
    found, position = [], 0
    while data[position]:
        name, position = _word(data, position)
        kind, _, step_x, step_y = struct.unpack_from("<iIii", data, position)
        if (step_x, step_y) != (1, 1):
            raise DataError(f"{path}: channel {name} is subsampled, which is not read here")
        found.append((name, _PIXELS[kind]))
        position += 16
    return found


def _word(data: bytes, position: int) -> tuple[str, int]:
    end = data.index(b"\0", position) if b"\0" in data[position:] else len(data)
    return data[position:end].decode("latin-1"), end + 1


def _unpack(data: bytes) -> bytes:
    """Undo ZIP: inflate, sum the differences, and put the two halves back as even and odd bytes."""
    raw = np.frombuffer(zlib.decompress(data), np.uint8).astype(np.int64)
    raw[1:] -= 128
    whole = np.cumsum(raw).astype(np.uint8)
    half = (len(whole) + 1) // 2
    out = np.empty_like(whole)
    out[::2], out[1::2] = whole[:half], whole[half:]
    return out.tobytes()


def _pack(data: bytes) -> bytes:
    raw = np.frombuffer(data, np.uint8)
    halves = np.concatenate((raw[::2], raw[1::2])).astype(np.int16)
    halves[1:] = np.diff(halves) + 128
    packed = zlib.compress(halves.astype(np.uint8).tobytes())
    return packed if len(packed) < len(data) else data


def write_exr(path: StrPath, channels: Mapping[str, NDArray[np.floating]], *, half: bool = False) -> None:
    """Write channels (H, W) by name (`R`, `G`, `B`, `Z`, ...) as float, or half, with ZIP compression.

    Raises:
        ValueError: no channel, or channels that are not (H, W) of one shape.
    """
    shapes = {np.shape(values) for values in channels.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"channels: expected at least one (H, W), all of one shape, got {sorted(shapes)}")
    height, width = next(iter(shapes))
    names = sorted(channels)
    dtype = _PIXELS[1 if half else 2]
    listed = b"".join(name.encode() + b"\0" + struct.pack("<iIii", 1 if half else 2, 0, 1, 1) for name in names)
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    attributes = (
        ("channels", "chlist", listed + b"\0"),
        ("compression", "compression", b"\x03"),
        ("dataWindow", "box2i", window),
        ("displayWindow", "box2i", window),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1.0)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0.0, 0.0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1.0)),
    )
    head = struct.pack("<II", _MAGIC, 2)
    head += b"".join(
        name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value
        for name, kind, value in attributes
    )
    head += b"\0"
    rows = np.stack([np.asarray(channels[name], dtype=dtype) for name in names], axis=1)
    chunks = []
    for first in range(0, height, 16):
        data = _pack(rows[first : first + 16].tobytes())
        chunks.append(struct.pack("<2i", first, len(data)) + data)
    offset, table = len(head) + 8 * len(chunks), b""
    for chunk in chunks:
        table += struct.pack("<Q", offset)
        offset += len(chunk)
    write_atomic(path, head + table + b"".join(chunks))
