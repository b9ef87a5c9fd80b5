"""Public graphs with their public splits, and a random one that needs no file."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from paperworks.data.benchmarks import benchmark_file, cache_folder
from paperworks.data.errors import DataCorrupt, DataMissing
from paperworks.data.graphs import TEST, TRAIN, UNUSED, VAL, GraphData, from_arrays, stratified_split

PLANETOID = {"cora": (2708, 7), "citeseer": (3327, 6)}
PLANETOID_VAL, PLANETOID_PARTS = 500, ("x", "y", "tx", "ty", "allx", "ally", "graph", "test.index")
HETEROPHILOUS = ("tolokers", "minesweeper", "chameleon_filtered", "squirrel_filtered")
# All that those pickles are made of; anything else might run code.
ALLOWED = {
    ("collections", "defaultdict"),
    ("__builtin__", "list"),
    ("builtins", "list"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("scipy.sparse.csr", "csr_matrix"),
    ("scipy.sparse._csr", "csr_matrix"),
}


def planetoid(name: str) -> GraphData:
    """Cora or Citeseer with the public split: 20 training nodes a class, 500 for validation, 1,000 for test.

    Undirected, in both directions, without loops and double edges. Features are sparse, each row divided by its sum.
    The 15 nodes of Citeseer that the files lack have no feature, no edge and no label.

    Raises:
        ValueError: another name.
        DataMissing, DataCorrupt: see `benchmark_file`.
    """
    import scipy.sparse as sp

    if name not in PLANETOID:
        raise ValueError(f"name: expected cora or citeseer, got {name!r}")
    parts = {part: _unpickle(benchmark_file("planetoid", f"ind.{name}.{part}")) for part in PLANETOID_PARTS[:-1]}
    test = np.loadtxt(benchmark_file("planetoid", f"ind.{name}.test.index"), dtype=np.int64)
    nodes, classes = PLANETOID[name]
    known = parts["allx"].shape[0]
    features = sp.lil_matrix((nodes, parts["allx"].shape[1]), dtype=np.float32)
    features[:known], features[test] = parts["allx"], parts["tx"]
    onehot = np.zeros((nodes, classes))
    onehot[:known], onehot[test] = parts["ally"], parts["ty"]
    labels = np.where(onehot.any(1), onehot.argmax(1), -1).astype(np.int64)
    pairs = np.array([(i, j) for i, row in parts["graph"].items() for j in row if i != j], dtype=np.int64)
    if pairs.max() >= nodes or len(parts["graph"]) != nodes:
        raise DataCorrupt(f"planetoid: {name} has {len(parts['graph'])} nodes, expected {nodes}")
    edges = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0).T
    split = np.full((1, nodes), UNUSED, dtype=np.int8)
    train = len(parts["y"])
    split[0, :train], split[0, train : train + PLANETOID_VAL], split[0, test] = TRAIN, VAL, TEST
    sums = np.asarray(features.sum(1)).ravel()
    matrix: Any = sp.csr_matrix(sp.diags(1 / np.maximum(sums, 1)) @ features.tocsr()).astype(np.float32)
    matrix.sort_indices()
    names = tuple(str(label) for label in range(classes))
    return GraphData(name, np.ascontiguousarray(edges), matrix, labels, names, split, notes=("the public split",))


def heterophilous(name: str) -> GraphData:
    """Tolokers, Minesweeper, Chameleon or Squirrel (both filtered), undirected, with their ten splits.

    Those of Tolokers and Minesweeper are 50 / 25 / 25, those of the other two about 48 / 32 / 20.

    Raises:
        ValueError: another name.
        DataMissing, DataCorrupt: see `benchmark_file`.
    """
    if name not in HETEROPHILOUS:
        raise ValueError(f"name: expected one of {', '.join(HETEROPHILOUS)}, got {name!r}")
    path = benchmark_file("heterophilous_graphs", f"{name}.npz")
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    masks: list[np.ndarray | None] = [arrays[f"{part}_masks"] for part in ("train", "val", "test")]
    found = from_arrays(
        path, arrays["edges"].T, _sparse(arrays["node_features"]), arrays["node_labels"], masks, name=name
    )
    return found.undirected()


def ogbn_arxiv() -> GraphData:
    """ogbn-arxiv, undirected, with its split by year, as the library `ogb` downloads it (80 MB).

    Raises:
        DataMissing: the library is not installed, or cannot reach its server.
    """
    try:
        from ogb.nodeproppred import NodePropPredDataset  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataMissing("ogbn_arxiv: needs the library ogb, which downloads it; pip install ogb") from None
    folder = cache_folder() / "ogb"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        dataset = NodePropPredDataset("ogbn-arxiv", root=str(folder))
    except OSError as error:
        raise DataMissing(f"ogbn_arxiv: could not be downloaded to {folder} ({error})") from error
    graph, labels = dataset[0]
    parts = dataset.get_idx_split()
    split = np.full((1, len(labels)), UNUSED, dtype=np.int8)
    for part, name in ((TRAIN, "train"), (VAL, "valid"), (TEST, "test")):
        split[0, parts[name]] = part
    names = tuple(str(label) for label in range(int(labels.max()) + 1))
    x, edges = graph["node_feat"].astype(np.float32), graph["edge_index"].astype(np.int64)
    found = GraphData("ogbn_arxiv", edges, x, labels.ravel().astype(np.int64), names, split, notes=("split by year",))
    return found.undirected()


def block_graph(
    *, nodes: int = 600, classes: int = 4, degree: float = 8.0, homophily: float = 0.8, features: int = 16, seed: int
) -> GraphData:
    """A stochastic block model whose nodes have noisy features of their class: embedded, for tests and a first look.

    Args:
        degree: mean number of neighbours.
        homophily: share of a node's neighbours that are of its class.

    Raises:
        ValueError: numbers out of range.
    """
    if classes < 2 or nodes < 10 * classes or not 0 <= homophily <= 1 or degree <= 0:
        raise ValueError(f"block_graph: expected classes >= 2, nodes >= 10 classes, got {classes}, {nodes}")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(nodes) % classes)
    same = labels[:, None] == labels[None]
    inside, outside = same.sum(1).mean() - 1, (~same).sum(1).mean()
    chance = np.where(same, homophily * degree / inside, (1 - homophily) * degree / outside)
    pairs = np.argwhere(np.triu(rng.random((nodes, nodes)) < chance, 1))
    edges = np.concatenate([pairs, pairs[:, ::-1]]).T.astype(np.int64)
    centres = rng.normal(size=(classes, features))
    x = (centres[labels] + 2.0 * rng.normal(size=(nodes, features))).astype(np.float32)
    split = stratified_split(labels.astype(np.int64), seed=seed)[None]
    names = tuple(str(label) for label in range(classes))
    note = f"a stochastic block model, seed {seed}"
    return GraphData("blocks", np.ascontiguousarray(edges), x, labels.astype(np.int64), names, split, notes=(note,))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise DataCorrupt(f"pickle: holds {module}.{name}, which no such file should")
        if name == "csr_matrix":
            import scipy.sparse

            return scipy.sparse.csr_matrix
        if name == "_reconstruct":
            module = "numpy._core.multiarray"
        return super().find_class("builtins" if module == "__builtin__" else module, name)


def _unpickle(path: Path) -> Any:
    return _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()


def _sparse(features: np.ndarray) -> Any:
    """A CSR matrix where most entries are zero."""
    import scipy.sparse as sp

    return sp.csr_matrix(features.astype(np.float32)) if (features != 0).mean() < 0.1 else features
