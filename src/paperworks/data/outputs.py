"""Files that a job on somebody's own files leaves behind; its input is never touched."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paperworks._files import write_atomic

if TYPE_CHECKING:
    import pandas as pd


def check_output_folder(
    out: str | os.PathLike[str], *, inputs: Iterable[str | os.PathLike[str]], writes: Sequence[str]
) -> Path:
    """The folder to write to, after a look that nothing read would be written over.

    Args:
        inputs: the files that are read (`-`, standard input, is none). writes: the names that will be written in `out`.

    Raises:
        ValueError: `out` is a file, or one of the names is an input.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file; give a folder")
    targets = {(out / name).resolve() for name in writes}
    for file in inputs:
        if str(file) != "-" and Path(file).resolve() in targets:
            raise ValueError(f"out: {file} is read and would be written; choose another folder with --out")
    return out


def write_frame(path: Path, frame: pd.DataFrame, *, separator: str = ",") -> None:
    """Write a table, whole or not at all; numbers to eight digits."""
    stream = io.StringIO()
    frame.to_csv(stream, index=False, sep=separator, float_format="%.8g", lineterminator="\n")
    write_atomic(path, stream.getvalue().encode("utf-8", errors="replace"))
