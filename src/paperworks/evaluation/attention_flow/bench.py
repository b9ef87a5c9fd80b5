"""Workloads of `paperworks bench attention_flow`: exact flows against networkx, igraph and SciPy on the same tensors.

Peers get their graph for nothing. networkx, the official code's solver, needs minutes for all pairs of 12 x 32, so
there it solves four of them while ours solves all, and the promised ratio is divided by as much. SciPy takes whole
numbers: capacities are multiplied by 2^24 there, and a flow may differ by 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from paperworks.evaluation.attention_flow.experiments import random_attentions
from paperworks.evaluation.attention_flow.flow import Network, attention_flow
from paperworks.evaluation.attention_flow.layers import attention_graph
from paperworks.lab.bench import Contender, Growth, Workload

Call = Callable[[], Any]
SOME = 4
WHOLE = 2**24


def workloads(*, quick: bool = False) -> list[Workload]:
    """The rows, with the ratios that are promised."""
    if quick:
        return [
            _pairs(3, 6, target=None, rounds=2),
            _networkx(3, 6, 36, target=None, rounds=2),
            _shapley(8, 16, rounds=2),
        ]
    return [
        _networkx(12, 16, 256, target=1_000.0, rounds=2),
        _networkx(12, 32, SOME, target=30_000.0, rounds=3),
        _pairs(12, 32, target=15.0, rounds=5),
        _shapley(32, 256, rounds=3, target=None),
    ]


def growth() -> list[Growth]:
    """All pairs of a graph with residual connections, by tokens."""
    return [
        Growth("attention_flow, all top pairs, 12 layers x n", (16, 32, 64, 128), _growing, limit=3.5),
        Growth("attention_flow, all layers, 12 layers x n", (8, 16, 32, 64), _growing_layers, limit=3.5),
    ]


def _graph(layers: int, size: int) -> tuple[torch.Tensor, np.ndarray]:
    """Attention (L, 1, n, n) and the capacities of its graph."""
    attention = random_attentions(np.random.default_rng(0), 1, layers, size)[0]
    return attention, attention_graph(attention).layers[0].numpy()


def _pairs(layers: int, size: int, *, target: float | None, rounds: int) -> Workload:
    """All pairs of the top layer."""
    attention, capacity = _graph(layers, size)

    def ours() -> Call:
        return lambda: attention_flow(attention)[0].numpy()

    def agree(mine: np.ndarray, theirs: np.ndarray) -> str | None:
        off = float(np.abs(mine - theirs).max())
        return None if off < 2e-6 else f"flows differ by {off:.2g}"

    return Workload(
        f"all {size**2} top pairs, {layers} layers x {size} tokens",
        Contender("attention_flow", ours),
        (
            Contender("igraph", lambda: _igraph(capacity), requires="igraph"),
            Contender("scipy maximum_flow (Dinic, whole numbers)", lambda: _scipy(capacity), requires="scipy"),
        ),
        agree,
        target=target,
        rounds=rounds,
    )


def _networkx(layers: int, size: int, count: int, *, target: float | None, rounds: int) -> Workload:
    """Ours solves all pairs of the top layer, networkx `count` of them."""
    attention, capacity = _graph(layers, size)
    every = [(output, sink) for output in range(size) for sink in range(size)]
    pairs = every[:: len(every) // count]
    repeats = len(every) // count

    def ours() -> Call:
        def call() -> list[float]:
            found = attention_flow(attention)[0]
            return [float(found[pair]) for pair in pairs]

        return call

    def theirs() -> Call:
        import networkx

        graph = networkx.DiGraph()
        for layer in range(layers):
            for i in range(size):
                for j in range(size):
                    graph.add_edge((layer + 1, i), (layer, j), capacity=float(capacity[layer, i, j]))
        solver = networkx.algorithms.flow.edmonds_karp

        def call() -> list[float]:
            return [
                networkx.maximum_flow_value(graph, (layers, output), (0, sink), flow_func=solver)
                for output, sink in pairs
            ]

        return call

    def agree(mine: list[float], theirs: list[float]) -> str | None:
        off = max(abs(one - two) for one, two in zip(mine, theirs, strict=True))
        return None if off < 1e-9 else f"flows differ by {off:.2g}"

    return Workload(
        f"all {size**2} top pairs, {layers} layers x {size} tokens" + (f"; networkx {count}" if repeats > 1 else ""),
        Contender("attention_flow", ours),
        (Contender("networkx Edmonds-Karp", theirs, requires="networkx"),),
        agree,
        target=None if target is None else target / repeats,
        note=f"pair by pair the ratio is {repeats} times as large" if repeats > 1 else "",
        rounds=rounds,
    )


def _shapley(size: int, permutations: int, *, rounds: int, target: float | None = None) -> Workload:
    """The Shapley value of one output's flow game, against the same orders solved set by set with igraph."""
    capacity = _graph(12, size)[1]
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(size), (permutations, 1)), axis=1)
    network = Network.of(capacity)

    def ours() -> Call:
        return lambda: network.marginals(0, orders)[:2]

    def theirs() -> Call:
        flow = _igraph_sets(capacity)

        def call() -> np.ndarray:
            added = np.zeros((2, size))
            for row in range(2):
                before = 0.0
                for place in range(size):
                    value = flow(0, orders[row, : place + 1].tolist())
                    added[row, orders[row, place]], before = value - before, value
            return added

        return call

    def agree(mine: np.ndarray, theirs: np.ndarray) -> str | None:
        off = float(np.abs(mine - theirs).max())
        return None if off < 1e-8 else f"marginals differ by {off:.2g}"

    return Workload(
        f"flow game of one output, 12 layers x {size}: ours {permutations} orders, igraph 2 of them",
        Contender("Network.marginals", ours),
        (Contender("igraph, set by set", theirs, requires="igraph"),),
        agree,
        target=target,
        note=f"per order the ratio is {permutations // 2} times as large",
        rounds=rounds,
    )


def _edges(capacity: np.ndarray) -> list[tuple[int, int]]:
    layers, size = capacity.shape[:2]
    return [
        ((layer + 1) * size + i, layer * size + j) for layer in range(layers) for i in range(size) for j in range(size)
    ]


def _igraph(capacity: np.ndarray) -> Call:
    import igraph

    layers, size = capacity.shape[:2]
    graph = igraph.Graph((layers + 1) * size, _edges(capacity), directed=True)
    graph.es["capacity"] = capacity.reshape(-1).tolist()

    def call() -> np.ndarray:
        top = layers * size
        values = [[graph.maxflow_value(top + o, i, "capacity") for i in range(size)] for o in range(size)]
        return np.array(values)

    return call


def _igraph_sets(capacity: np.ndarray) -> Callable[[int, list[int]], float]:
    import igraph

    layers, size = capacity.shape[:2]
    sink = (layers + 1) * size
    graph = igraph.Graph(sink + 1, _edges(capacity) + [(i, sink) for i in range(size)], directed=True)
    inner = capacity.reshape(-1).tolist()

    def flow(source: int, chosen: list[int]) -> float:
        outer = [0.0] * size
        for player in chosen:
            outer[player] = 10.0
        return graph.maxflow_value(layers * size + source, sink, inner + outer)

    return flow


def _scipy(capacity: np.ndarray) -> Call:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    layers, size = capacity.shape[:2]
    matrix = np.zeros(((layers + 1) * size,) * 2, dtype=np.int32)
    for layer in range(layers):
        rows, columns = slice((layer + 1) * size, (layer + 2) * size), slice(layer * size, (layer + 1) * size)
        matrix[rows, columns] = np.round(capacity[layer] * WHOLE)
    sparse: Any = csr_array(matrix)

    def call() -> np.ndarray:
        top = layers * size
        values = [[maximum_flow(sparse, top + o, i).flow_value for i in range(size)] for o in range(size)]
        return np.array(values) / WHOLE

    return call


def _growing(size: int) -> Call:
    attention, _ = _graph(12, size)
    return lambda: attention_flow(attention)


def _growing_layers(size: int) -> Call:
    attention, _ = _graph(12, size)
    return lambda: attention_flow(attention, source_layer="all")
