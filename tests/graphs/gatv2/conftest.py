"""Graphs and a slow, obvious twin of the attention: dense NumPy over all pairs, from the equations."""

import numpy as np
import pytest
import torch

from paperworks.graphs.gatv2.graph import CSRGraph


def random_edges(nodes, edges, *, seed=0, targets=None):
    generator = torch.Generator().manual_seed(seed)
    sides = [torch.randint(count, (edges,), generator=generator) for count in (nodes, targets or nodes)]
    return torch.stack(sides)


def twin(left, right, att, value, edges, *, slope=0.2, shift=None, bias=None, keep=None, dot=False):
    """Out (N_dst, H, C) and alpha (E, H): loops over targets and heads, multiple edges one by one."""
    (heads, _), source, target = att.shape, *edges
    out = np.zeros((right.shape[0], heads, value.shape[2]))
    alpha = np.zeros((len(source), heads))
    for i in range(right.shape[0]):
        into = [e for e in range(len(source)) if target[e] == i and (keep is None or keep[e])]
        for h in range(heads):
            scores = []
            for e in into:
                base = right[i, h] + (0 if shift is None else shift[e, h])
                z = left[source[e], h] + base
                inner = left[source[e], h] * base if dot else np.where(z > 0, z, slope * z)
                scores.append(att[h] @ inner + (0 if bias is None else bias[e, h]))
            if into:
                mass = np.exp(np.array(scores) - max(scores))
                alpha[into, h] = mass / mass.sum()
                out[i, h] = sum(alpha[e, h] * value[source[e], h] for e in into)
    return out, alpha


@pytest.fixture(name="twin")
def twin_fixture():
    return twin


@pytest.fixture(name="random_edges")
def random_edges_fixture():
    return random_edges


@pytest.fixture
def graph():
    """40 nodes, 200 edges, some double, some loops, nodes 37 to 39 without edges."""
    edges = random_edges(37, 200)
    edges[:, :8] = edges[:, 8:16]
    edges[0, 20:25] = edges[1, 20:25]
    return CSRGraph.from_edge_index(edges, num_nodes=40)
