"""Graphs with features and labels on their nodes: the form every node-classification study takes, and its own doors.

A folder holds `edges.csv` (`source,target` and perhaps numeric columns, the features of the edges) and `nodes.csv`
(`id,label`, numeric features, perhaps `split`). A `.npz` file and a PyG `Data` file are read as well. Nothing is
guessed: an edge to an unknown node, a doubled id or a word among numbers is an error that names file and line.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paperworks.data.errors import DataError, DataMissing
from paperworks.data.tables import read_table, row_name

if TYPE_CHECKING:
    import pandas as pd

TRAIN, VAL, TEST, UNUSED = 0, 1, 2, -1
PART_OF = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL, "test": TEST}
SHARES = (0.6, 0.2)
MIN_PER_CLASS = 5


@dataclass(frozen=True, eq=False)
class GraphData:
    """A graph whose nodes have features and one label each.

    Attributes:
        name: what it is called in reports.
        edges: (2, E) int64, sources in row 0 and targets in row 1.
        features: (N, F) float32, an array or a scipy CSR matrix.
        labels: (N,) int64, an index into `classes`, or -1 where unknown.
        classes: names of the labels.
        splits: (S, N) int8: 0 train, 1 validation, 2 test, -1 unused; one row per split.
        edge_features: (E, D) float32, or None.
        ids: the nodes' own names, or None.
        notes: what was done to the data, in sentences for a report.

    Raises:
        ValueError: sizes that do not fit each other, ids or labels out of range, an empty part of a split.
    """

    name: str
    edges: np.ndarray
    features: Any
    labels: np.ndarray
    classes: tuple[str, ...]
    splits: np.ndarray
    edge_features: np.ndarray | None = None
    ids: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        nodes = self.features.shape[0]
        if self.edges.ndim != 2 or self.edges.shape[0] != 2 or self.edges.dtype != np.int64:
            raise ValueError(f"{self.name}: edges: expected int64 (2, E), got {self.edges.dtype} {self.edges.shape}")
        if self.edges.size and not 0 <= self.edges.min() <= self.edges.max() < nodes:
            raise ValueError(f"{self.name}: edges: ids from 0 to {nodes - 1} expected, got {self.edges.max()}")
        if self.labels.shape != (nodes,) or self.splits.ndim != 2 or self.splits.shape[1] != nodes:
            raise ValueError(
                f"{self.name}: {nodes} nodes have features, labels are {self.labels.shape}, splits {self.splits.shape}"
            )
        if nodes and not -1 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise ValueError(f"{self.name}: labels: expected -1 .. {len(self.classes) - 1}, got {self.labels.max()}")
        if self.edge_features is not None and len(self.edge_features) != self.edges.shape[1]:
            raise ValueError(
                f"{self.name}: {self.edges.shape[1]} edges, {len(self.edge_features)} rows of edge features"
            )
        for number, split in enumerate(self.splits):
            for part, name in ((TRAIN, "train"), (VAL, "validation"), (TEST, "test")):
                if not ((split == part) & (self.labels >= 0)).any():
                    raise ValueError(f"{self.name}: split {number} has no labelled node for {name}")

    def __repr__(self) -> str:
        return (
            f"GraphData({self.name}: {self.num_nodes:,} nodes, {self.edges.shape[1]:,} edges, "
            f"{self.features.shape[1]:,} features, {len(self.classes)} classes, {len(self.splits)} splits)"
        )

    @property
    def num_nodes(self) -> int:
        return self.features.shape[0]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over edges, features, labels and splits."""
        digest = hashlib.sha256()
        dense = hasattr(self.features, "tobytes")
        features = [self.features] if dense else [self.features.data, self.features.indices, self.features.indptr]
        extra = [] if self.edge_features is None else [self.edge_features]
        for part in (self.edges, self.labels, self.splits, *features, *extra):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def nodes(self, split: int, part: int) -> np.ndarray:
        """Ids of the labelled nodes of a part of a split."""
        return np.flatnonzero((self.splits[split % len(self.splits)] == part) & (self.labels >= 0))

    def undirected(self) -> GraphData:
        """With the reverse of every edge that has none; loops stay single, features of an edge go with its reverse."""
        from dataclasses import replace

        codes = self.edges[0] * self.num_nodes + self.edges[1]
        reverse = self.edges[1] * self.num_nodes + self.edges[0]
        new = ~np.isin(reverse, codes)
        edges = np.concatenate([self.edges, self.edges[::-1][:, new]], axis=1)
        features = self.edge_features
        if features is not None:
            features = np.concatenate([features, features[new]])
        note = f"{int(new.sum()):,} reverse edges were added"
        return replace(self, edges=edges, edge_features=features, notes=(*self.notes, note))


def read_graph(source: str | os.PathLike[str], *, seed: int = 0) -> GraphData:
    """A graph from a folder with edges.csv and nodes.csv, an .npz file, or a PyG `Data` file (.pt, .pth).

    Without a given split, each class is divided 60 / 20 / 20 by `seed`.

    Args:
        source: the folder or file. An .npz holds `edges` (E, 2) or (2, E), `node_features`, `node_labels`, and perhaps
            `train_masks`, `val_masks`, `test_masks` (N,) or (S, N) and `edge_features`. A .pt file holds a PyG `Data`
            object or its dictionary: `x`, `edge_index`, `y`, and perhaps `edge_attr` and masks.

    Raises:
        DataMissing: no such file or folder, or a file of the folder is not there.
        DataError: what is read is not such a graph; names file, line and what to do.
    """
    path = Path(source)
    if not path.exists():
        raise DataMissing(f"{path}: no such file or folder (the current folder is {Path.cwd()})")
    if path.is_dir():
        return _read_folder(path, seed)
    if path.suffix == ".npz":
        return _read_npz(path, seed)
    if path.suffix in (".pt", ".pth"):
        return _read_pyg(path, seed)
    raise DataError(f"{path}: expected a folder with edges.csv and nodes.csv, an .npz or a .pt file")


def stratified_split(labels: np.ndarray, *, seed: int, name: str = "labels") -> np.ndarray:
    """Parts of the labelled nodes, 60 % train, 20 % validation, 20 % test of each class: (N,) int8.

    Raises:
        DataError: a class has fewer than 5 nodes, so that a part would lack it.
    """
    rng = np.random.default_rng(seed)
    split = np.full(len(labels), UNUSED, dtype=np.int8)
    for label in np.unique(labels[labels >= 0]):
        nodes = rng.permutation(np.flatnonzero(labels == label))
        if len(nodes) < MIN_PER_CLASS:
            raise DataError(
                f"{name}: label {label} has {len(nodes)} nodes; a split needs {MIN_PER_CLASS}. Leave its nodes "
                f"unlabelled, join it with another, or give a split"
            )
        train, val = round(SHARES[0] * len(nodes)), max(1, round(SHARES[1] * len(nodes)))
        split[nodes[:train]], split[nodes[train : train + val]], split[nodes[train + val :]] = TRAIN, VAL, TEST
    return split


# A folder ------------------------------------------------------------------------------------------------------------


def _read_folder(folder: Path, seed: int) -> GraphData:
    edges_file, nodes_file = folder / "edges.csv", folder / "nodes.csv"
    for file, form in ((edges_file, "source,target"), (nodes_file, "id,label and numeric features")):
        if not file.is_file():
            raise DataMissing(f"{file}: no such file; a graph's folder has edges.csv and nodes.csv (columns {form})")
    nodes = read_table(nodes_file, required=("id", "label"), text=("id", "label", "split"))
    edges = read_table(edges_file, required=("source", "target"), text=("source", "target"))
    ids = _ids(nodes_file, nodes)
    columns = [name for name in nodes.columns if name not in ("id", "label", "split")]
    if not columns:
        raise DataError(f"{nodes_file}: has no feature column; give at least one numeric column besides id and label")
    features = _numbers(nodes_file, nodes, columns)
    labels, classes = _labels(nodes["label"])
    split, note = _split(nodes_file, nodes, labels, seed)
    extra = [name for name in edges.columns if name not in ("source", "target")]
    ends = [_places(edges_file, edges, column, ids) for column in ("source", "target")]
    return _build(
        folder, str(folder), edges=np.stack(ends), features=features, labels=labels, classes=classes,
        splits=split[None], edge_features=_numbers(edges_file, edges, extra) if extra else None, ids=tuple(ids),
        notes=(note,),
    )  # fmt: skip


def _ids(file: Path, nodes: pd.DataFrame) -> dict[str, int]:
    ids: dict[str, int] = {}
    for place, name in enumerate(nodes["id"].tolist()):
        if not isinstance(name, str):
            raise DataError(f"{file}: {row_name(nodes, place)}: has no id")
        if name in ids:
            raise DataError(f"{file}: {row_name(nodes, place)}: id {name!r} stands a second time; ids must differ")
        ids[name] = place
    return ids


def _places(file: Path, edges: pd.DataFrame, column: str, ids: dict[str, int]) -> np.ndarray:
    names = edges[column].tolist()
    places = np.array([ids.get(name, -1) for name in names], dtype=np.int64)
    if (places < 0).any():
        at = int(np.flatnonzero(places < 0)[0])
        raise DataError(
            f"{file}: {row_name(edges, at)}: {column} {names[at]!r} is no id of nodes.csv "
            f"({int((places < 0).sum())} such cells in this column); add the node or take the edge out"
        )
    return places


def _numbers(file: Path, frame: pd.DataFrame, columns: list[str]) -> np.ndarray:
    found = np.empty((len(frame), len(columns)), dtype=np.float32)
    for place, column in enumerate(columns):
        import pandas as pd

        values = pd.to_numeric(frame[column], errors="coerce").to_numpy(np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            cell = frame[column].iloc[bad[0]]
            raise DataError(
                f"{file}: {row_name(frame, int(bad[0]))}: column {column!r}: {str(cell)!r} is no finite number; "
                f"fill or encode it, or take the column out"
            )
        found[:, place] = values
    return found


def _labels(column: pd.Series) -> tuple[np.ndarray, tuple[str, ...]]:
    names = [name if isinstance(name, str) else None for name in column.tolist()]
    known = {name for name in names if name is not None}
    whole = all(name.lstrip("-").isdigit() for name in known)
    classes = tuple(sorted(known, key=int if whole else str))
    index = {name: place for place, name in enumerate(classes)}
    return np.array([-1 if name is None else index[name] for name in names], dtype=np.int64), classes


def _split(file: Path, nodes: pd.DataFrame, labels: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    if "split" not in nodes.columns:
        return stratified_split(labels, seed=seed, name=str(file)), f"no split is given: 60 / 20 / 20, seed {seed}"
    names = nodes["split"].tolist()
    split = np.full(len(names), UNUSED, dtype=np.int8)
    for place, name in enumerate(names):
        if isinstance(name, str):
            if name.strip().lower() not in PART_OF:
                raise DataError(f"{file}: {row_name(nodes, place)}: split {name!r}: expected train, val, test or empty")
            split[place] = PART_OF[name.strip().lower()]
    return split, "the given split"


# One file ------------------------------------------------------------------------------------------------------------


def _read_npz(path: Path, seed: int) -> GraphData:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable .npz of plain arrays ({error})") from None
    missing = {"edges", "node_features", "node_labels"} - set(arrays)
    if missing:
        raise DataError(f"{path}: no array {sorted(missing)[0]!r} (arrays: {', '.join(sorted(arrays))})")
    edges = arrays["edges"]
    if edges.ndim == 2 and edges.shape[1] == 2 and edges.shape[0] != 2:
        edges = edges.T
    masks = [arrays.get(f"{part}_masks", arrays.get(f"{part}_mask")) for part in ("train", "val", "test")]
    return from_arrays(
        path, edges, arrays["node_features"], arrays["node_labels"], masks, arrays.get("edge_features"), seed=seed
    )


def _read_pyg(path: Path, seed: int) -> GraphData:
    content = _load_torch(path)
    content = content.to_dict() if hasattr(content, "to_dict") else content
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a PyG Data object or its dictionary, got {type(content).__name__}")
    if missing := [name for name in ("x", "edge_index", "y") if content.get(name) is None]:
        raise DataError(f"{path}: has no {missing[0]!r} (it has {', '.join(sorted(map(str, content)))})")
    arrays = {name: value.cpu().numpy() for name, value in content.items() if hasattr(value, "cpu")}
    masks = [arrays.get(f"{part}_mask") for part in ("train", "val", "test")]
    masks = [None if mask is None else mask.T if mask.ndim == 2 else mask for mask in masks]
    return from_arrays(
        path, arrays["edge_index"], arrays["x"], arrays["y"].reshape(-1), masks, arrays.get("edge_attr"), seed=seed
    )


def _load_torch(path: Path) -> Any:
    """The file's content without running code that it might hold; PyG's own classes are allowed where installed."""
    import pickle

    import torch

    allowed: list[Any] = []
    with contextlib.suppress(ImportError):
        from torch_geometric.data import Data
        from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
        from torch_geometric.data.storage import EdgeStorage, GlobalStorage, NodeStorage

        allowed = [Data, DataEdgeAttr, DataTensorAttr, GlobalStorage, NodeStorage, EdgeStorage]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{path}: cannot be read safely ({reason}); install torch-geometric, or save the dictionary instead: "
            f"torch.save(data.to_dict(), path)"
        ) from None


def from_arrays(
    source: Path,
    edges: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    masks: list[np.ndarray | None],
    edge_features: np.ndarray | None = None,
    *,
    name: str | None = None,
    seed: int = 0,
) -> GraphData:
    """A graph from arrays and boolean masks (train, val, test), each (N,) or (S, N), or None for a stratified split.

    Raises:
        DataError: names `source` and what does not fit.
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{source}: labels: expected whole numbers, got {labels.dtype}")
    if not np.issubdtype(edges.dtype, np.integer) or edges.ndim != 2 or edges.shape[0] != 2:
        raise DataError(f"{source}: edges: expected whole numbers (2, E) or (E, 2), got {edges.dtype} {edges.shape}")
    values = np.unique(labels[labels >= 0])
    index = np.searchsorted(values, labels).astype(np.int64)
    index[labels < 0] = -1
    given = [mask for mask in masks if mask is not None]
    if not given:
        splits, note = stratified_split(index, seed=seed, name=str(source))[None], f"60 / 20 / 20, seed {seed}"
    elif len(given) < 3:
        raise DataError(f"{source}: has some of the masks train, val and test; give all three or none")
    else:
        splits, note = _masks(source, given, len(labels)), "the given splits"
    if edge_features is not None and edge_features.ndim == 1:
        edge_features = edge_features[:, None]
    return _build(
        source, name or source.stem, edges=edges.astype(np.int64), features=_finite(source, features), labels=index,
        classes=tuple(str(value) for value in values), splits=splits,
        edge_features=None if edge_features is None else edge_features.astype(np.float32), notes=(note,),
    )  # fmt: skip


def _masks(source: Path, masks: list[np.ndarray], nodes: int) -> np.ndarray:
    stacked = [np.atleast_2d(mask).astype(bool) for mask in masks]
    shapes = {mask.shape for mask in stacked}
    if len(shapes) > 1 or stacked[0].shape[1] != nodes:
        raise DataError(f"{source}: masks: expected one shape (splits, {nodes}), got {sorted(shapes)}")
    if (np.sum(stacked, axis=0) > 1).any():
        at = np.argwhere(np.sum(stacked, axis=0) > 1)[0]
        raise DataError(f"{source}: masks: node {at[1]} is in two parts of split {at[0]}")
    splits = np.full(stacked[0].shape, UNUSED, dtype=np.int8)
    for part, mask in zip((TRAIN, VAL, TEST), stacked, strict=True):
        splits[mask] = part
    return splits


def _finite(source: Path, features: Any) -> Any:
    if not hasattr(features, "tobytes"):
        return features
    if features.ndim != 2:
        raise DataError(f"{source}: features: expected (nodes, features), got {features.shape}")
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise DataError(f"{source}: features: node {row}, feature {column} is {features[row, column]}")
    return features.astype(np.float32)


def _build(source: Path, name: str, **parts: Any) -> GraphData:
    try:
        return GraphData(name, **parts)
    except ValueError as error:
        raise DataError(f"{source}: {error}") from None
