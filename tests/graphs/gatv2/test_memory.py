"""Memory and time grow with edges, never with edges x heads x channels."""

import warnings

import pytest
import torch

from paperworks.data.graph_benchmarks import heterophilous
from paperworks.graphs.gatv2.convs import GATv2Conv
from paperworks.graphs.gatv2.graph import CSRGraph
from paperworks.testing import assert_linear_cost, assert_peak_memory, measure_bytes, peak_bytes


def both(layer, x, graph, attr=None):
    def step():
        layer(x, graph, attr).sum().backward()

    step()
    return step


@pytest.mark.parametrize("edge_dim", [None, 2])
def test_peak_is_far_below_one_tensor_of_edges_by_channels(random_edges, edge_dim):
    nodes, edges, heads, channels = 300, 60_000, 8, 32
    layer = GATv2Conv(4, channels, heads=heads, add_self_loops=False, edge_dim=edge_dim)
    attr = None if edge_dim is None else torch.randn(edges, edge_dim)
    graph = CSRGraph.from_edge_index(random_edges(nodes, edges), num_nodes=nodes)
    full = 4 * edges * heads * channels
    assert_peak_memory(both(layer, torch.randn(nodes, 4), graph, attr), full // 4)


def test_memory_does_not_grow_with_channels_times_edges(random_edges):
    graph = CSRGraph.from_edge_index(random_edges(100, 50_000), num_nodes=100)
    peaks = [
        peak_bytes(both(GATv2Conv(4, channels, heads=4, add_self_loops=False), torch.randn(100, 4), graph))
        for channels in (8, 64)
    ]
    # Sixteen more tensors of nodes x channels and gradients per block, nothing per edge.
    assert peaks[1] - peaks[0] < 0.1 * 4 * 50_000 * 4 * 56


def build(edges):
    generator = torch.Generator().manual_seed(0)
    graph = CSRGraph.from_edge_index(torch.randint(500, (2, edges), generator=generator), num_nodes=500)
    return both(GATv2Conv(8, 16, heads=4, add_self_loops=False), torch.randn(500, 8), graph)


def test_memory_is_linear_in_edges():
    assert_linear_cost(build, (20_000, 40_000, 80_000, 160_000), limit=1.05, measure=measure_bytes)


@pytest.mark.slow
def test_time_is_linear_in_edges():
    assert_linear_cost(build, (40_000, 80_000, 160_000, 320_000), limit=1.15)


@pytest.fixture(scope="module")
def tolokers(benchmark_data):
    benchmark_data("heterophilous_graphs")
    data = heterophilous("tolokers")
    return CSRGraph.from_edge_index(torch.from_numpy(data.edges), num_nodes=data.num_nodes)


@pytest.mark.slow
def test_tolokers_with_512_channels_runs_in_less_than_three_gibibytes(tolokers):
    """One tensor of edges x 8 x 64 has 2.1 GB."""
    layer = GATv2Conv(10, 64, heads=8, add_self_loops=False)
    assert_peak_memory(both(layer, torch.randn(11_758, 10), tolokers), 1_038_000 * 8 * 64)


@pytest.mark.slow
def test_tolokers_peak_is_at_most_an_eighth_of_pyg(tolokers):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pyg = pytest.importorskip("torch_geometric.nn", reason="the peer torch-geometric is not installed")
    x = torch.randn(11_758, 10)
    mine = peak_bytes(both(GATv2Conv(10, 16, heads=4, add_self_loops=False), x, tolokers))
    peer = pyg.GATv2Conv(10, 16, heads=4, add_self_loops=False)
    theirs = peak_bytes(lambda: peer(x, tolokers.edge_index).sum().backward())
    assert mine <= theirs / 8, (mine / 2**20, theirs / 2**20)
