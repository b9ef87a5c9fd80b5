r"""GATv2 and the two attentions it is compared with, as layers with PyG's constructor and PyG's state dict.

    GATv2      e_ij = a^T LeakyReLU(W_l x_j + W_r x_i + W_e edge_ij)       dynamic: each query has its own ranking
    GAT        e_ij = LeakyReLU(a_s^T W x_j + a_d^T W x_i + a_e^T W_e edge_ij)   static: one ranking for all queries
    dot        e_ij = (W_k x_j)^T (W_q x_i) / sqrt(C) + w_e^T edge_ij      a value matrix of its own

Reference: Brody, Alon and Yahav 2022, "How Attentive are Graph Attention Networks?", arXiv 2105.14491.

Notes:
    1. Attention dropout comes after the softmax, and returned weights are those before dropout (PyG: after).
    2. GATv2's message is the source's `lin_l`, not a third projection.
    3. In the code behind the paper's node and link tables sources and targets share one matrix (`share_weights=True`);
       PyG and DGL, and this library, default to two.
    4. Existing self loops are removed before one per node is added; their features are `fill_value` of the node's
       incoming ones.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from paperworks.graphs.gatv2.attention import Backend, EdgeTerms, attend
from paperworks.graphs.gatv2.graph import CSRGraph, as_graph
from paperworks.graphs.gatv2.sparse_input import SparseFeatures, project

Side: TypeAlias = Tensor | SparseFeatures
Features: TypeAlias = "Side | tuple[Side, Side]"
Fill: TypeAlias = "float | Tensor | Literal['add', 'sum', 'mean', 'min', 'max', 'mul']"
REDUCTIONS = {"add": "sum", "sum": "sum", "mean": "mean", "min": "amin", "max": "amax", "mul": "prod"}


class GraphAttentionLayer(nn.Module, ABC):
    """What the three layers share: checks, self loops and their features, heads, residual and bias."""

    fill_value: Fill
    backend: Backend

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        *,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: Fill = "mean",
        bias: bool = True,
        residual: bool = False,
        backend: Backend = "auto",
    ):
        super().__init__()
        sizes = (in_channels, in_channels) if isinstance(in_channels, int) else tuple(in_channels)
        numbers = {"in_channels": min(sizes), "out_channels": out_channels, "heads": heads}
        if edge_dim is not None:
            numbers["edge_dim"] = edge_dim
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f"{name}: expected at least 1, got {number}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a number in [0, 1), got {dropout}")
        if isinstance(fill_value, str) and fill_value not in REDUCTIONS:
            raise ValueError(f"fill_value: expected a number, a tensor or {', '.join(REDUCTIONS)}, got {fill_value!r}")
        bipartite = not isinstance(in_channels, int)
        if bipartite and add_self_loops:
            warnings.warn(
                "add_self_loops on a bipartite layer joins source i to target i, which is right only where their ids "
                "mean the same node; set add_self_loops=False",
                stacklevel=3,
            )
        self.in_channels, self.sizes, self.out_channels, self.heads = in_channels, sizes, out_channels, heads
        self.concat, self.negative_slope, self.dropout = concat, negative_slope, dropout
        self.add_self_loops, self.edge_dim, self.fill_value, self.backend = (
            add_self_loops,
            edge_dim,
            fill_value,
            backend,
        )
        width = out_channels * (heads if concat else 1)
        self.res = nn.Linear(sizes[1], width, bias=False) if residual else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def reset_parameters(self) -> None:
        """Glorot uniform for matrices and attention vectors, zero for biases."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                bound = (6 / (parameter.shape[-2] + parameter.shape[-1])) ** 0.5
                nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self,
        x: Features,
        graph: Any,
        edge_attr: Tensor | None = None,
        *,
        edge_mask: Tensor | None = None,
        return_attention_weights: bool = False,
    ) -> Any:
        """Attend over in-edges.

        Args:
            x: (N, F), or (x_src (N_src, F_src), x_dst (N_dst, F_dst)); dense, sparse or
                `SparseFeatures`.
            graph: a CSRGraph, an edge_index (2, E), or a sparse matrix (targets, sources) of ones. A tensor is sorted
                once and remembered.
            edge_attr: (E, edge_dim), or (E,) where edge_dim is 1; rows in the order of the given edges.
            edge_mask: (E,) bool, True = keep; a dropped edge is as if it were not there.
            return_attention_weights: also return (edge_index (2, E'), alpha (E', heads)): the given edges in their
                order, self loops at the end, before dropout.

        Returns:
            (N_dst, heads out_channels), or (N_dst, out_channels) with `concat=False`.

        Raises:
            ValueError: features, edges or options that do not fit each other.
        """
        x_src, x_dst = self._sides(x)
        csr = as_graph(graph, num_src=len(x_src), num_dst=len(x_dst), add_self_loops=self.add_self_loops)
        edge_attr, edge_mask = self._edge_inputs(edge_attr, edge_mask, csr)
        out, alpha = self._attend(x_src, x_dst, csr, edge_attr, edge_mask, return_attention_weights)
        out = out.flatten(1) if self.concat else out.mean(1)
        if self.res is not None:
            out = out + project(x_dst, self.res)
        if self.bias is not None:
            out = out + self.bias
        return (out, (csr.edge_index, alpha)) if return_attention_weights else out

    @abstractmethod
    def _attend(
        self, x_src: Side, x_dst: Side, graph: CSRGraph, attr: Tensor | None, mask: Tensor | None, weights: bool
    ) -> tuple[Tensor, Tensor | None]: ...

    def _core(self, *tensors: Tensor, graph: CSRGraph, terms: EdgeTerms, weights: bool, dot: bool = False) -> Any:
        left, right, att, value = tensors
        rate = self.dropout if self.training else 0.0
        return attend(
            left, right, att, value, graph, terms,
            slope=self.negative_slope, dropout=rate, dot=dot, weights=weights, backend=self.backend,
        )  # fmt: skip

    def _split(self, x: Side, linear: nn.Linear) -> Tensor:
        return project(x, linear).view(len(x), self.heads, self.out_channels)

    def _sides(self, x: Features) -> tuple[Side, Side]:
        if isinstance(x, Tensor) and x.layout != torch.strided:
            x = SparseFeatures(x)
        sides = tuple(x) if isinstance(x, tuple) else (x, x)
        if len(sides) != 2 or not all(isinstance(side, Side) for side in sides):
            raise ValueError(f"x: expected a tensor or a pair of tensors, got {type(x).__name__}")
        for name, side, size in zip(("x_src", "x_dst"), sides, self.sizes, strict=True):
            if side.ndim != 2 or side.shape[1] != size:
                raise ValueError(f"{name}: expected (nodes, {size}), got {tuple(side.shape)}")
        return sides[0], sides[1]

    def _edge_inputs(
        self, attr: Tensor | None, mask: Tensor | None, graph: CSRGraph
    ) -> tuple[Tensor | None, Tensor | None]:
        """Features and mask of the graph's edges, self loops included."""
        if (attr is None) != (self.edge_dim is None):
            had = "no edge_attr came" if attr is None else "edge_attr came"
            raise ValueError(f"edge_attr: the layer has edge_dim={self.edge_dim}, but {had}; give both or neither")
        if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != (graph.num_given,)):
            raise ValueError(f"edge_mask: expected bool ({graph.num_given},), got {mask.dtype} {tuple(mask.shape)}")
        if attr is not None:
            attr = attr[:, None] if attr.ndim == 1 else attr
            if tuple(attr.shape) != (graph.num_given, self.edge_dim):
                raise ValueError(f"edge_attr: expected {(graph.num_given, self.edge_dim)}, got {tuple(attr.shape)}")
        if not graph.self_loops:
            return attr, mask
        if graph.kept is not None:
            attr, mask = (None if part is None else part[graph.kept] for part in (attr, mask))
        if attr is not None:
            target = graph.edge_index[1, : len(attr)]
            known, onto = (attr, target) if mask is None else (attr[mask], target[mask])
            attr = torch.cat([attr, _loop_features(known, onto, graph.num_dst, self.fill_value)])
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(graph.num_dst)])
        return attr, mask

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, heads={self.heads}"


class GATv2Conv(GraphAttentionLayer):
    r"""The dynamic attention of Brody et al.: $e_{ij} = a^\top \mathrm{LeakyReLU}(W_l x_j + W_r x_i + W_e e_{ij})$.

    Arguments, initial values and state dict are those of PyG's `GATv2Conv`: `load_state_dict(strict=True)` works in
    both directions. A pair `in_channels` makes a bipartite layer; set `add_self_loops=False` there.

    Args:
        in_channels: F, or (F_src, F_dst).
        out_channels: C, channels per head.
        heads: H; outputs are concatenated, or averaged with `concat=False`.
        negative_slope: of LeakyReLU.
        dropout: share of attention weights dropped in training.
        add_self_loops: replace the graph's loops by one per node.
        edge_dim: features per edge; None: none.
        fill_value: features of the loops: a number, a tensor (edge_dim,), or a reduction of the node's incoming ones.
        bias: of the two projections and of the output.
        share_weights: one matrix for sources and targets, the setting of the paper's node and link tables.
        residual: add a linear map of the target's input.
        backend: see `gatv2_attention`.

    Raises:
        ValueError: numbers out of range, shared weights between inputs of unequal width.
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        *,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: Fill = "mean",
        bias: bool = True,
        share_weights: bool = False,
        residual: bool = False,
        backend: Backend = "auto",
    ):
        super().__init__(
            in_channels, out_channels, heads=heads, concat=concat, negative_slope=negative_slope, dropout=dropout,
            add_self_loops=add_self_loops, edge_dim=edge_dim, fill_value=fill_value, bias=bias, residual=residual,
            backend=backend,
        )  # fmt: skip
        if share_weights and self.sizes[0] != self.sizes[1]:
            raise ValueError(f"share_weights: sources have {self.sizes[0]} features, targets {self.sizes[1]}")
        self.share_weights = share_weights
        width = heads * out_channels
        self.att = nn.Parameter(torch.empty(1, heads, out_channels))
        self.lin_l = nn.Linear(self.sizes[0], width, bias=bias)
        self.lin_r = self.lin_l if share_weights else nn.Linear(self.sizes[1], width, bias=bias)
        self.lin_edge = None if edge_dim is None else nn.Linear(edge_dim, width, bias=False)
        self.reset_parameters()

    def _attend(self, x_src, x_dst, graph, attr, mask, weights):
        left = self._split(x_src, self.lin_l)
        right = left if self.share_weights and x_dst is x_src else self._split(x_dst, self.lin_r)
        lin = None
        if self.lin_edge is not None:
            lin = self.lin_edge.weight.t().reshape(-1, self.heads, self.out_channels)
        terms = EdgeTerms(attr, lin, None, mask)
        return self._core(left, right, self.att[0], left, graph=graph, terms=terms, weights=weights)


class GATConv(GraphAttentionLayer):
    r"""The static attention of Velickovic et al.: $e_{ij} = \mathrm{LeakyReLU}(a_s^\top W x_j + a_d^\top W x_i)$.

    LeakyReLU is monotone, so the sources are ranked by $a_s^\top W x_j$ for every query alike. Runs on the kernels of
    GATv2 as its case of one score channel. Arguments and state dict as in PyG's `GATConv`; see `GATv2Conv`.
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        *,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: Fill = "mean",
        bias: bool = True,
        residual: bool = False,
        backend: Backend = "auto",
    ):
        super().__init__(
            in_channels, out_channels, heads=heads, concat=concat, negative_slope=negative_slope, dropout=dropout,
            add_self_loops=add_self_loops, edge_dim=edge_dim, fill_value=fill_value, bias=bias, residual=residual,
            backend=backend,
        )  # fmt: skip
        width = heads * out_channels
        self.att_src = nn.Parameter(torch.empty(1, heads, out_channels))
        self.att_dst = nn.Parameter(torch.empty(1, heads, out_channels))
        self.att_edge = None if edge_dim is None else nn.Parameter(torch.empty(1, heads, out_channels))
        if isinstance(in_channels, int):
            self.lin = nn.Linear(in_channels, width, bias=False)
        else:
            self.lin_src = nn.Linear(self.sizes[0], width, bias=False)
            self.lin_dst = nn.Linear(self.sizes[1], width, bias=False)
        self.lin_edge = None if edge_dim is None else nn.Linear(edge_dim, width, bias=False)
        self.reset_parameters()

    def _attend(self, x_src, x_dst, graph, attr, mask, weights):
        if isinstance(self.in_channels, int):
            source = self._split(x_src, self.lin)
            target = source if x_dst is x_src else self._split(x_dst, self.lin)
        else:
            source, target = self._split(x_src, self.lin_src), self._split(x_dst, self.lin_dst)
        left = (source * self.att_src).sum(-1, keepdim=True)
        right = (target * self.att_dst).sum(-1, keepdim=True)
        lin = None
        if self.lin_edge is not None and self.att_edge is not None:
            wide = self.lin_edge.weight.view(self.heads, self.out_channels, -1)
            lin = (wide * self.att_edge[0, :, :, None]).sum(1).t()[..., None]
        ones = left.new_ones(self.heads, 1)
        return self._core(
            left, right, ones, source, graph=graph, terms=EdgeTerms(attr, lin, None, mask), weights=weights
        )


class DotProductGATConv(GraphAttentionLayer):
    r"""The paper's dot-product variant (DPGAT): $e_{ij} = (W_k x_j)^\top (W_q x_i) / \sqrt{C}$, values $W_v x_j$.

    Three matrices where GATv2 has one or two. Edge features add $w_h^\top e_{ij}$ to the score of head h. For other
    arguments see `GATv2Conv`; `negative_slope` has no part in it.
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        *,
        heads: int = 1,
        concat: bool = True,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: Fill = "mean",
        bias: bool = True,
        residual: bool = False,
        backend: Backend = "auto",
    ):
        super().__init__(
            in_channels, out_channels, heads=heads, concat=concat, dropout=dropout, add_self_loops=add_self_loops,
            edge_dim=edge_dim, fill_value=fill_value, bias=bias, residual=residual, backend=backend,
        )  # fmt: skip
        width = heads * out_channels
        self.lin_q = nn.Linear(self.sizes[1], width, bias=bias)
        self.lin_k = nn.Linear(self.sizes[0], width, bias=bias)
        self.lin_v = nn.Linear(self.sizes[0], width, bias=bias)
        self.lin_edge = None if edge_dim is None else nn.Linear(edge_dim, heads, bias=False)
        self.reset_parameters()

    def _attend(self, x_src, x_dst, graph, attr, mask, weights):
        keys, values = self._split(x_src, self.lin_k), self._split(x_src, self.lin_v)
        queries = self._split(x_dst, self.lin_q)
        bias = None if self.lin_edge is None else self.lin_edge(attr)
        scale = queries.new_full((self.heads, self.out_channels), self.out_channels**-0.5)
        terms = EdgeTerms(None, None, bias, mask)
        return self._core(keys, queries, scale, values, graph=graph, terms=terms, weights=weights, dot=True)


def _loop_features(attr: Tensor, target: Tensor, count: int, fill: Fill) -> Tensor:
    """Features of one loop per node, (count, D)."""
    shape = (count, attr.shape[1])
    if isinstance(fill, Tensor):
        return fill.to(attr).expand(shape)
    if not isinstance(fill, str):
        return attr.new_full(shape, fill)
    place = target[:, None].expand_as(attr)
    start = torch.ones if fill == "mul" else torch.zeros
    empty = start(shape, dtype=attr.dtype, device=attr.device)
    return empty.scatter_reduce(0, place, attr, REDUCTIONS[fill], include_self=fill == "mul")
