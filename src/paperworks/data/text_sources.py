"""Texts that do not come as one table: a folder of class folders, and data sets of the Hugging Face hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paperworks.data.errors import DataError, DataMissing

if TYPE_CHECKING:
    import pandas as pd

Part = Literal["train", "dev", "test"]
PARTS: tuple[Part, ...] = ("train", "dev", "test")
PART_NAMES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "testing": "test",
}


def read_folder(folder: Path) -> pd.DataFrame:
    """Texts `folder/<label>/*.txt`, or `folder/<part>/<label>/*.txt`, as a frame whose index is the file.

    Raises:
        DataError: there is no such file, or one is not UTF-8.
    """
    import pandas as pd

    tops = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    divided = bool(tops) and all(path.name in PART_NAMES for path in tops)
    labelled = [(top.name, path) for top in tops for path in sorted(top.iterdir()) if path.is_dir()]
    groups = labelled if divided else [("", path) for path in tops]
    rows = [
        (str(file.relative_to(folder)), _read_text(file), path.name, part)
        for part, path in groups
        for file in sorted(path.glob("*.txt"))
    ]
    if not rows:
        raise DataError(f"{folder}: no texts; expected one folder of .txt files per label, such as {folder}/good/1.txt")
    frame = pd.DataFrame(rows, columns=["file", "text", "label", "split"]).set_index("file")
    return frame if divided else frame.drop(columns="split")


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None


def read_hub(name: str, columns: Mapping[str, str] | None) -> pd.DataFrame:
    """The data set `hf:name` or `hf:name:configuration` by the `datasets` library, as a frame.

    Raises:
        DataMissing: the library is not installed, or the hub does not give the data.
        DataError: a column is missing, or no part has a usual name.
    """
    import pandas as pd

    if importlib.util.find_spec("datasets") is None:
        raise DataMissing(f"{name}: needs the library `datasets`; install it with: pip install 'paperworks[hub]'")
    import datasets  # pyright: ignore[reportMissingImports]

    dataset, _, configuration = name.removeprefix("hf:").partition(":")
    try:
        loaded = datasets.load_dataset(dataset, configuration or None)
    except (OSError, ValueError) as error:
        raise DataMissing(f"{name}: the hub did not give it: {error}") from error
    frames = [_hub_part(part, loaded[part]) for part in loaded if part in PART_NAMES]
    if not frames:
        raise DataError(f"{name}: has the parts {', '.join(map(str, loaded))}; expected train, validation or test")
    frame = pd.concat(frames)
    return _rename(frame.drop(columns="split") if len(frames) == 1 else frame, columns, name)


def _hub_part(part: Any, data: Any) -> pd.DataFrame:
    """One part as a frame; class indices become names, and rows whose label is withheld (-1) are left out."""
    import pandas as pd

    frame: pd.DataFrame = data.to_pandas()
    frame["split"] = part
    frame = frame.set_axis(pd.Index([f"{part}/{row}" for row in range(len(frame))], name="row"))
    for column, feature in data.features.items():
        if names := getattr(feature, "names", None):
            frame = frame.loc[frame[column] >= 0]
            frame = frame.assign(**{column: [names[label] for label in frame[column]]})
    return frame


def _rename(frame: pd.DataFrame, columns: Mapping[str, str] | None, name: str) -> pd.DataFrame:
    for new, old in (columns or {}).items():
        if old not in frame.columns:
            listed = ", ".join(repr(str(other)) for other in frame.columns)
            raise DataError(f"{name}: no column {old!r} (columns: {listed}); correct --columns {new}=<yours>")
        shadowed = [new] if new in frame.columns and new != old else []
        frame = frame.drop(columns=shadowed).rename(columns={old: new})
    return frame
