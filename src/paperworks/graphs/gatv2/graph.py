"""A graph as compressed rows and columns, sorted once and used by every layer and epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

# A row longer than this is cut into pieces, so that a hub does not hold up one thread while the others wait.
SEGMENT = 8192
BLOCKS, BLOCK_COST = 64, 4096
# What a row costs besides its edges, in edges.
ROW_COST = 4


@dataclass(frozen=True, eq=False)
class CSRGraph:
    """Edges j -> i, grouped by target (CSR) for the forward pass and by source (CSC) for the gradients of sources.

    Build it with `from_edge_index`; within a row edges are ordered by source, so that the order in which the edges are
    given does not change a result. Multiple edges stay and count separately.

    Attributes:
        num_src, num_dst: nodes on either side; equal to the number of nodes unless the graph is bipartite.
        edge_index: (2, E) int64: the given edges in their order; with self loops, those that were not loops, then one
            loop per node. Attention weights come in this order.
        num_given: number of edges given; edge features and masks have this many rows.
        kept: ids of the given edges that `edge_index` starts with; None: all.
        self_loops: whether loops were put in.
        rows: row_of, slot_of, start_of (segments), source and edge of each place, split_row, blocks; int32.
        columns: the same by source: column_of, slot_of, start_of, target, place in `rows` and edge, split, blocks.
    """

    num_src: int
    num_dst: int
    edge_index: Tensor
    num_given: int
    kept: Tensor | None
    self_loops: bool
    rows: list[Tensor]
    columns: list[Tensor]
    _variants: dict[str, CSRGraph] = field(default_factory=dict, repr=False)

    @property
    def num_edges(self) -> int:
        """Edges, loops included."""
        return self.edge_index.shape[1]

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,
        *,
        num_nodes: int | tuple[int, int] | None = None,
        add_self_loops: bool = False,
    ) -> CSRGraph:
        """Sort the edges of a (2, E) integer tensor, sources in row 0 and targets in row 1.

        Args:
            num_nodes: N, or (n_src, n_dst) for a bipartite graph; None: the largest id plus 1.
            add_self_loops: remove the loops that are there and put one on each node.

        Raises:
            ValueError: `edge_index` is not (2, E) integer, an id is out of range, or loops are asked for where the two
                sides differ in number.
        """
        check_edges(edge_index)
        edges = edge_index.detach().long()
        n_src, n_dst = _sizes(edges, num_nodes)
        _check_ids(edges[0], n_src, "source")
        _check_ids(edges[1], n_dst, "target")
        given, kept = edges.shape[1], None
        if add_self_loops:
            if n_src != n_dst:
                raise ValueError(f"add_self_loops: expected as many sources as targets, got {n_src} and {n_dst}")
            loop = edges[0] == edges[1]
            if bool(loop.any()):
                kept = torch.nonzero(~loop).flatten()
                edges = edges[:, kept]
            nodes = torch.arange(n_src, device=edges.device)
            edges = torch.cat([edges, torch.stack([nodes, nodes])], dim=1)
        return cls(n_src, n_dst, edges, given, kept, add_self_loops, *_sort(edges, n_src, n_dst))

    def with_self_loops(self) -> CSRGraph:
        """This graph with one loop per node; built at the first call and kept."""
        if self.self_loops:
            return self
        if "loops" not in self._variants:
            self._variants["loops"] = CSRGraph.from_edge_index(
                self.edge_index, num_nodes=(self.num_src, self.num_dst), add_self_loops=True
            )
        return self._variants["loops"]

    def to(self, device: str | torch.device) -> CSRGraph:
        """The graph on another device."""
        kept = None if self.kept is None else self.kept.to(device)
        return CSRGraph(
            self.num_src, self.num_dst, self.edge_index.to(device), self.num_given, kept, self.self_loops,
            [part.to(device) for part in self.rows], [part.to(device) for part in self.columns],
        )  # fmt: skip

    def degree(self) -> Tensor:
        """Number of in-edges of each target, (num_dst,)."""
        return torch.bincount(self.edge_index[1], minlength=self.num_dst)


def as_graph(graph: Any, *, num_src: int, num_dst: int, add_self_loops: bool) -> CSRGraph:
    """A CSRGraph from whatever describes a graph: itself, an edge_index tensor, or a torch sparse matrix.

    A tensor is sorted once: the result is kept for as long as the tensor lives and is not changed in place. A sparse
    matrix is (targets, sources), as in PyG; its values must all be 1.

    Raises:
        ValueError: see `CSRGraph.from_edge_index`; also for a graph of another size than the features.
    """
    if isinstance(graph, CSRGraph):
        if (graph.num_src, graph.num_dst) != (num_src, num_dst):
            raise ValueError(
                f"graph: has {graph.num_src} sources and {graph.num_dst} targets, the features {num_src} and {num_dst}"
            )
        if graph.self_loops and not add_self_loops:
            raise ValueError("graph: has self loops put in, but the layer says add_self_loops=False; build it without")
        return graph.with_self_loops() if add_self_loops else graph
    if not isinstance(graph, Tensor):
        raise ValueError(f"graph: expected a CSRGraph, an edge_index or a sparse tensor, got {type(graph).__name__}")
    return _cached(graph, (num_src, num_dst), add_self_loops)


_CACHE: Any = WeakIdKeyDictionary()


def _sorted_once(tensor: Tensor, sizes: tuple[int, int], loops: bool) -> CSRGraph:
    try:
        version = tensor._version
    except RuntimeError:  # inference tensors do not count their changes
        return _from_tensor(tensor, sizes, loops)
    known_version, graphs = _CACHE.get(tensor, (None, {}))
    if known_version != version:
        graphs = {}
        _CACHE[tensor] = (version, graphs)
    key = (*sizes, loops)
    if key not in graphs:
        graphs[key] = _from_tensor(tensor, sizes, loops)
    return graphs[key]


# Sorting depends on the data, which no compiled graph can; a CSRGraph given instead leaves nothing to sort.
_cached: Any = torch.compiler.disable(_sorted_once)


def _from_tensor(tensor: Tensor, sizes: tuple[int, int], loops: bool) -> CSRGraph:
    if tensor.layout == torch.strided:
        return CSRGraph.from_edge_index(tensor, num_nodes=sizes, add_self_loops=loops)
    matrix = tensor.detach().to_sparse_coo().coalesce()
    if tuple(matrix.shape) != (sizes[1], sizes[0]):
        raise ValueError(f"graph: expected a sparse matrix {(sizes[1], sizes[0])}, got {tuple(matrix.shape)}")
    if not bool((matrix.values() == 1).all()):
        raise ValueError("graph: its values are not all 1 and would be ignored; pass them as edge_attr")
    return CSRGraph.from_edge_index(matrix.indices().flip(0), num_nodes=sizes, add_self_loops=loops)


def check_edges(edge_index: Tensor) -> None:
    """Raise `ValueError` unless it is an integer tensor (2, E)."""
    if not isinstance(edge_index, Tensor) or edge_index.ndim != 2 or edge_index.shape[0] != 2:
        got = tuple(edge_index.shape) if isinstance(edge_index, Tensor) else type(edge_index).__name__
        raise ValueError(f"edge_index: expected an integer tensor (2, E), got {got}")
    if edge_index.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
        raise ValueError(f"edge_index: expected integers, got {edge_index.dtype}")


def _sizes(edges: Tensor, num_nodes: int | tuple[int, int] | None) -> tuple[int, int]:
    if num_nodes is None:
        count = int(edges.max()) + 1 if edges.numel() else 0
        return count, count
    sizes = (num_nodes, num_nodes) if isinstance(num_nodes, int) else num_nodes
    if len(sizes) != 2 or min(sizes) < 0:
        raise ValueError(f"num_nodes: expected a number or (n_src, n_dst), got {num_nodes}")
    return sizes


def _check_ids(ids: Tensor, count: int, side: str) -> None:
    wrong = (ids < 0) | (ids >= count)
    if bool(wrong.any()):
        edge = int(torch.nonzero(wrong)[0])
        raise ValueError(
            f"edge_index: {side} {int(ids[edge])} of edge {edge} is out of range, expected 0 .. {count - 1} "
            f"({count} {side}s)"
        )


def _sort(edges: Tensor, n_src: int, n_dst: int) -> tuple[list[Tensor], list[Tensor]]:
    source, target = edges
    edge_of = torch.argsort(target * max(1, n_src) + source, stable=True)
    col = source[edge_of]
    place_of = torch.argsort(col, stable=True)
    row_of_place, edge_of_place = target[edge_of][place_of], edge_of[place_of]
    rows = _segments(torch.bincount(target, minlength=n_dst), col, edge_of)
    columns = _segments(torch.bincount(source, minlength=n_src), row_of_place, place_of, edge_of_place)
    return rows, columns


def _segments(degree: Tensor, *per_edge: Tensor) -> list[Tensor]:
    """Segments of at most SEGMENT edges, the slot each writes to, and blocks of segments of about equal cost."""
    length = degree.cpu().numpy()
    pieces = np.maximum(1, -(-length // SEGMENT))
    owner = np.repeat(np.arange(len(length)), pieces)
    first = np.cumsum(pieces) - pieces
    within = np.arange(len(owner)) - first[owner]
    start = np.append((np.cumsum(length) - length)[owner] + within * SEGMENT, length.sum())
    extra = within > 0
    slot = np.where(extra, len(length) + np.cumsum(extra) - 1, owner)
    cost = np.append(0, np.cumsum(np.diff(start) + ROW_COST))
    count = int(np.clip(cost[-1] // BLOCK_COST, 1, BLOCKS))
    blocks = np.unique(np.searchsorted(cost, np.linspace(0, cost[-1], count + 1)))
    if len(owner) and len(blocks) < 2:
        blocks = np.array([0, len(owner)])
    parts = [torch.from_numpy(part.astype(np.int32)) for part in (owner, slot, start)]
    tail = [torch.from_numpy(part.astype(np.int32)) for part in (owner[extra], blocks)]
    small = [part.int() for part in per_edge]
    return [part.to(degree.device) for part in (*parts, *small, *tail)]
