"""Random attention, and a slow obvious twin of everything that flows."""

import itertools
import math

import numpy as np
import pytest
import torch


def random_attention(seed, layers, size, *, temperature=2.0, heads=1, batch=None, causal=False):
    """Softmax of normal logits: (L, H, n, n), or (B, L, H, n, n)."""
    rng = np.random.default_rng(seed)
    shape = (layers, heads, size, size) if batch is None else (batch, layers, heads, size, size)
    logits = temperature * rng.normal(size=shape)
    if causal:
        logits = np.where(np.tril(np.ones((size, size), bool)), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return torch.from_numpy(weights / weights.sum(-1, keepdims=True))


def capacities(attention, residual=0.5):
    """(L, H, n, n) -> (L, n, n): heads averaged, residual added."""
    mean = attention.mean(1).numpy()
    return (1 - residual) * mean + residual * np.eye(mean.shape[-1])


def networkx_flow(layers, source, sinks, prompt=None):
    """Edmonds-Karp on an explicit graph."""
    networkx = pytest.importorskip("networkx")
    graph = networkx.DiGraph()
    top, size = len(layers), layers.shape[-1]
    for layer, i, j in itertools.product(range(top), range(size), range(size)):
        if layers[layer, i, j] > 0:
            graph.add_edge((layer + 1, i), (layer, j), capacity=float(layers[layer, i, j]))
    for position in range(size if prompt is None else prompt, size):
        graph.add_edge((0, position), (top, position - 1))
    for sink in sinks:
        graph.add_edge((0, sink), "sink")
    solver = networkx.algorithms.flow.edmonds_karp
    return networkx.maximum_flow_value(graph, (top, source), "sink", flow_func=solver)


def igraph_flow(layers, source, sinks):
    """The same by igraph, which is fast enough for enumeration."""
    igraph = pytest.importorskip("igraph")
    top, size = len(layers), layers.shape[-1]
    edges = [
        ((layer + 1) * size + i, layer * size + j)
        for layer, i, j in itertools.product(range(top), range(size), range(size))
    ]
    capacity = layers.reshape(-1).tolist()
    sink = (top + 1) * size
    graph = igraph.Graph(sink + 1, edges + [(i, sink) for i in sinks], directed=True)
    return graph.maxflow_value(top * size + source, sink, capacity + [10.0] * len(sinks))


def enumerated_shapley(value, players):
    """The formula, set by set."""
    phi = np.zeros(players)
    for player in range(players):
        others = [other for other in range(players) if other != player]
        for count in range(players):
            weight = math.factorial(count) * math.factorial(players - count - 1) / math.factorial(players)
            for chosen in itertools.combinations(others, count):
                phi[player] += weight * (value((*chosen, player)) - value(chosen))
    return phi
