"""HDF5 files; h5py comes with the extras that need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paperworks.data.errors import DataCorrupt, DataError


def open_hdf5(path: Path) -> Any:
    """An `h5py.File` for reading; use it in a `with` statement.

    Raises:
        DataError: h5py is not installed.
        DataCorrupt: the file is not HDF5, or cut short.
    """
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(f"{path}: reading HDF5 needs h5py; install it with `pip install h5py`") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataCorrupt(f"{path}: cannot be read as HDF5 ({error})") from error
