"""CSRGraph: what is sorted, remembered and refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperworks.graphs.gatv2 import graph as graph_module
from paperworks.graphs.gatv2.convs import GATv2Conv
from paperworks.graphs.gatv2.graph import CSRGraph, as_graph


@given(st.integers(1, 15), st.integers(0, 80), st.integers(1, 9), st.integers(0, 10**6))
def test_rows_and_columns_hold_every_edge_once(nodes, count, segment, seed):
    edges = torch.randint(nodes, (2, count), generator=torch.Generator().manual_seed(seed))
    before = graph_module.SEGMENT
    graph_module.SEGMENT = segment
    try:
        graph = CSRGraph.from_edge_index(edges, num_nodes=nodes)
    finally:
        graph_module.SEGMENT = before
    for side, (owner, slot, start, other, *places, split, blocks) in enumerate((graph.rows, graph.columns)):
        edge = places[-1].long()
        assert sorted(edge.tolist()) == list(range(count))
        assert torch.equal(edges[side, edge], other.long())
        per_edge = torch.repeat_interleave(owner.long(), start.diff().long())
        assert torch.equal(edges[1 - side, edge], per_edge)
        assert set(owner.tolist()) == set(range(nodes))
        assert start.diff().max() <= segment
        assert sorted(slot.tolist()) == list(range(len(slot)))
        first = slot < nodes
        assert torch.equal(slot[first], owner[first])
        assert torch.equal(split, owner[~first])
        assert blocks[0] == 0
        assert blocks[-1] == len(owner)
        assert (blocks.diff() > 0).all()
    assert torch.equal(graph.rows[4][graph.columns[4].long()], graph.columns[5])


def test_self_loops_replace_the_ones_that_are_there():
    edges = torch.tensor([[0, 1, 1, 2, 1], [1, 1, 2, 0, 1]])
    graph = CSRGraph.from_edge_index(edges, num_nodes=3, add_self_loops=True)
    assert graph.edge_index.tolist() == [[0, 1, 2, 0, 1, 2], [1, 2, 0, 0, 1, 2]]
    assert graph.kept.tolist() == [0, 2, 3]
    assert graph.num_given == 5
    assert graph.with_self_loops() is graph
    plain = CSRGraph.from_edge_index(edges, num_nodes=3)
    assert torch.equal(plain.with_self_loops().edge_index, graph.edge_index)
    assert plain.with_self_loops() is plain.with_self_loops()


def test_an_unchanged_edge_index_is_sorted_once(monkeypatch, random_edges):
    built = []
    sort = graph_module._sort
    monkeypatch.setattr(graph_module, "_sort", lambda *given: built.append(1) or sort(*given))
    edges, x = random_edges(20, 60), torch.randn(20, 4)
    first, second = GATv2Conv(4, 3), GATv2Conv(4, 3, heads=2)
    for _ in range(3):
        first(x, edges)
        second(x, edges)
    assert len(built) == 1
    edges[0, 0] = (edges[0, 0] + 1) % 20
    changed = first(x, edges)
    assert len(built) == 2
    assert torch.equal(changed, first(x, edges.clone()))
    first(x, edges)
    assert len(built) == 3
    with torch.inference_mode():
        first(x, edges + 0)


def test_a_graph_moves_between_devices(graph):
    assert graph.to("meta").rows[0].device.type == "meta"
    assert torch.equal(graph.to("cpu").edge_index, graph.edge_index)


@pytest.mark.parametrize(
    ("edges", "options", "words"),
    [
        (torch.zeros(3, 4, dtype=torch.int64), {}, r"\(2, E\)"),
        (torch.zeros(2, 4), {}, "integers"),
        (torch.tensor([[0, 5], [1, 1]]), {"num_nodes": 3}, "source 5 of edge 1 is out of range"),
        (torch.tensor([[0, 1], [1, -1]]), {"num_nodes": 3}, "target -1 of edge 1"),
        (torch.tensor([[0], [1]]), {"num_nodes": (2, 3), "add_self_loops": True}, "as many sources as targets"),
        (torch.tensor([[0], [1]]), {"num_nodes": -1}, "num_nodes"),
        ([[0], [1]], {}, "list"),
    ],
)
def test_bad_edges_are_named(edges, options, words):
    with pytest.raises(ValueError, match=words):
        CSRGraph.from_edge_index(edges, **options)


def test_graphs_that_do_not_fit_are_named(graph):
    with pytest.raises(ValueError, match="40 sources and 40 targets, the features 39 and 39"):
        as_graph(graph, num_src=39, num_dst=39, add_self_loops=False)
    with pytest.raises(ValueError, match="add_self_loops=False"):
        as_graph(graph.with_self_loops(), num_src=40, num_dst=40, add_self_loops=False)
    with pytest.raises(ValueError, match="got ndarray"):
        as_graph(np.zeros((2, 3)), num_src=4, num_dst=4, add_self_loops=False)
    weighted = torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.tensor([0.5]), (3, 3))
    with pytest.raises(ValueError, match="not all 1"):
        as_graph(weighted, num_src=3, num_dst=3, add_self_loops=False)
    with pytest.raises(ValueError, match=r"sparse matrix \(4, 4\)"):
        as_graph(weighted, num_src=4, num_dst=4, add_self_loops=False)
