"""Workloads of `paperworks bench gatv2`: the layer against PyG and DGL, same weights, on one real and one random graph.

Tolokers (11,758 nodes, 1,038,000 directed edges) where it is on this machine, else a random graph of its size. Graphs
are sorted before the clock starts, as a training run does once; the sort has a
row of its own, against PyG's. Peak memory is a test (`test_memory.py`).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks.data.errors import DataError
from paperworks.graphs.gatv2.convs import GATConv, GATv2Conv
from paperworks.graphs.gatv2.graph import CSRGraph
from paperworks.lab.bench import Contender, Growth, Workload

Call = Callable[[], Any]
TOLOKERS_SIZE = (11_758, 1_038_000)
RANDOM_SIZE = (100_000, 1_000_000)


def workloads(*, quick: bool = False) -> list[Workload]:
    """The rows, with the ratios that are promised."""
    if quick:
        return [_layer("random 1,000 nodes", partial(_random, 1_000, 20_000), 16, 4, 16, backward=True, rounds=3)]
    tolokers, random = ("Tolokers", _tolokers), ("random 100,000 nodes", partial(_random, *RANDOM_SIZE))
    return [
        _layer(*tolokers, 10, 4, 16, backward=False, target=8.0, rounds=7),
        _layer(*tolokers, 10, 4, 16, backward=True, target=6.0, rounds=5),
        _layer(*random, 64, 4, 16, backward=False, target=5.0, rounds=7),
        _layer(*random, 64, 4, 16, backward=True, target=4.0, rounds=5),
        _layer(*tolokers, 10, 4, 16, backward=True, rounds=3, kind="gat"),
        _sorting(),
    ]


def growth() -> list[Growth]:
    """Linear in the edges and in heads x channels, forward and backward."""
    return [
        Growth(
            "forward + backward, E edges, 4 x 16",
            (80_000, 160_000, 320_000, 640_000, 1_280_000),
            _growing_edges,
            limit=1.15,
        ),
        Growth("forward + backward, 8 x C channels", (8, 16, 32, 64, 128), _growing_channels, limit=1.15),
    ]


@functools.cache
def _tolokers() -> tuple[int, Tensor]:
    from paperworks.data.graph_benchmarks import heterophilous

    try:
        return TOLOKERS_SIZE[0], torch.from_numpy(heterophilous("tolokers").edges)
    except DataError:
        return _random(*TOLOKERS_SIZE)


@functools.cache
def _random(nodes: int, edges: int) -> tuple[int, Tensor]:
    return nodes, torch.randint(nodes, (2, edges), generator=torch.Generator().manual_seed(0))


def _layer(
    name: str,
    graph: Callable[[], tuple[int, Tensor]],
    inputs: int,
    heads: int,
    channels: int,
    *,
    backward: bool,
    target: float | None = None,
    rounds: int,
    kind: str = "gatv2",
) -> Workload:
    """One layer without self loops, so that both sides see the same edges."""

    def ours() -> Call:
        nodes, edges = graph()
        layer = _ours(kind, inputs, heads, channels)
        return _run(layer, _features(nodes, inputs), CSRGraph.from_edge_index(edges, num_nodes=nodes), backward)

    def pyg() -> Call:
        nodes, edges = graph()
        layer = _pyg(kind)(inputs, channels, heads=heads, add_self_loops=False)
        layer.load_state_dict(_ours(kind, inputs, heads, channels).state_dict())
        return _run(layer, _features(nodes, inputs), edges, backward)

    def dgl() -> Call:
        return _dgl(graph, _ours(kind, inputs, heads, channels), inputs, heads, channels, backward)

    what = "forward + backward" if backward else "forward"
    peers = [Contender(f"PyG {'GATv2Conv' if kind == 'gatv2' else 'GATConv'}", pyg, requires="torch_geometric")]
    if kind == "gatv2":
        peers.append(Contender("DGL GATv2Conv", dgl, requires="dgl"))
    return Workload(
        f"{kind}, {name}, {inputs} -> {heads} x {channels}, {what}",
        Contender("GATv2Conv" if kind == "gatv2" else "GATConv", ours),
        tuple(peers),
        _agree,
        target=target,
        rounds=rounds,
    )


def _ours(kind: str, inputs: int, heads: int, channels: int) -> torch.nn.Module:
    torch.manual_seed(0)
    layer = GATv2Conv if kind == "gatv2" else GATConv
    return layer(inputs, channels, heads=heads, add_self_loops=False)


def _pyg(kind: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_geometric import nn

        return nn.GATv2Conv if kind == "gatv2" else nn.GATConv


def _dgl(
    graph: Callable[[], tuple[int, Tensor]],
    layer: Any,
    inputs: int,
    heads: int,
    channels: int,
    backward: bool,
) -> Call:
    import dgl  # pyright: ignore[reportMissingImports]

    nodes, edges = graph()
    structure = dgl.graph((edges[0], edges[1]), num_nodes=nodes)
    peer = dgl.nn.GATv2Conv(inputs, channels, heads, allow_zero_in_degree=True)
    state = layer.state_dict()
    with torch.no_grad():
        for mine, theirs in (("lin_l", "fc_src"), ("lin_r", "fc_dst")):
            getattr(peer, theirs).weight.copy_(state[f"{mine}.weight"])
            getattr(peer, theirs).bias.copy_(state[f"{mine}.bias"])
        peer.attn.copy_(state["att"])
    return _run(lambda x, g: peer(g, x).flatten(1), _features(nodes, inputs), structure, backward)


def _run(layer: Any, x: Tensor, graph: Any, backward: bool) -> Call:
    leaf = x.clone().requires_grad_(backward)

    def step() -> tuple[Tensor, ...]:
        if not backward:
            with torch.no_grad():
                return (layer(leaf, graph),)
        out = layer(leaf, graph)
        return out.detach(), torch.autograd.grad(out.square().mean(), leaf)[0]

    return step


def _sorting() -> Workload:
    def ours() -> Call:
        nodes, edges = _tolokers()
        return lambda: CSRGraph.from_edge_index(edges, num_nodes=nodes)

    def pyg() -> Call:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch_geometric.utils import sort_edge_index

        nodes, edges = _tolokers()

        def call() -> Any:
            return sort_edge_index(edges, num_nodes=nodes, sort_by_row=False), sort_edge_index(edges, num_nodes=nodes)

        return call

    return Workload(
        "sorting Tolokers by target and by source (once per graph)",
        Contender("CSRGraph.from_edge_index", ours),
        (Contender("PyG sort_edge_index, twice", pyg, requires="torch_geometric"),),
        _same_order,
        rounds=5,
    )


def _same_order(ours: CSRGraph, theirs: Any) -> str | None:
    by_target = torch.stack([ours.rows[3].long(), ours.edge_index[1][ours.rows[4].long()]])
    return None if torch.equal(by_target, theirs[0]) else "the edges are in another order"


def _growing_edges(edges: int) -> Call:
    return _growing(*_random(4_000, edges), 4, 16)


def _growing_channels(channels: int) -> Call:
    return _growing(*_random(2_000, 60_000), 8, channels)


def _growing(nodes: int, edges: Tensor, heads: int, channels: int) -> Call:
    from paperworks.graphs.gatv2.attention import gatv2_attention

    graph = CSRGraph.from_edge_index(edges, num_nodes=nodes)
    generator = torch.Generator().manual_seed(0)
    shapes = ((nodes, heads, channels), (nodes, heads, channels), (heads, channels))
    left, right, att = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)

    def step() -> Any:
        return torch.autograd.grad(gatv2_attention(left, right, att, graph).sum(), (left, right, att))

    return step


def _agree(ours: Any, theirs: Any) -> str | None:
    for name, mine, other in zip(("output", "gradient"), ours, theirs, strict=False):
        error = float((mine - other).norm() / other.norm())
        if not error <= 1e-4:
            return f"{name}: relative difference {error:.1e}"
    return None


def _features(nodes: int, inputs: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(nodes, inputs)).astype(np.float32))
