"""The static theorem, a constructed dynamic attention, and the measure that tells one from the other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.graphs.gatv2.attention import gatv2_attention
from paperworks.graphs.gatv2.convs import GATConv, GATv2Conv
from paperworks.graphs.gatv2.graph import CSRGraph
from paperworks.graphs.gatv2.staticity import attention_staticity


def bipartite(sources, targets):
    edges = torch.cartesian_prod(torch.arange(sources), torch.arange(targets)).t().contiguous()
    return CSRGraph.from_edge_index(edges, num_nodes=(sources, targets))


def matrix(alpha, graph):
    """alpha (E, H) of a complete bipartite graph as (targets, sources, H)."""
    full = alpha.new_zeros(graph.num_dst, graph.num_src, alpha.shape[1])
    full[graph.edge_index[1], graph.edge_index[0]] = alpha
    return full


@settings(max_examples=25)
@given(st.integers(2, 8), st.integers(2, 8), st.floats(0.01, 30), st.floats(0.01, 1.0), st.integers(0, 10**6))
def test_gat_ranks_sources_alike_for_every_query_with_any_weights(sources, targets, scale, slope, seed):
    torch.manual_seed(seed)
    layer = GATConv((3, 4), 2, heads=3, negative_slope=slope, add_self_loops=False).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    graph = bipartite(sources, targets)
    x = torch.randn(sources, 3, dtype=torch.float64), torch.randn(targets, 4, dtype=torch.float64)
    with torch.no_grad():
        _, (edges, alpha) = layer(x, graph, return_attention_weights=True)
        key = (layer._split(x[0], layer.lin_src) * layer.att_src).sum(-1)
    full = matrix(alpha, graph)
    for head in range(3):
        ordered = full[:, key[:, head].argsort(), head]
        assert (ordered.diff(dim=1) >= -1e-12 * ordered[:, 1:]).all()
    assert (attention_staticity(alpha, edges)["agreement"] == 1).all()
    assert (attention_staticity(alpha, graph)["distinct_argmax"] == 1).all()


@given(st.lists(st.integers(0, 4), min_size=5, max_size=5))
def test_gatv2_has_weights_for_any_table_of_favourites(table):
    """e_ij = sum_c LeakyReLU(l_jc + r_ic) with one-hot l, and r = 0 at the favourite and -2 elsewhere: the favourite's
    unit counts in full, those of others through the slope."""
    graph = bipartite(5, 5)
    left = torch.eye(5, dtype=torch.float64)[:, None]
    right = torch.full((5, 1, 5), -2.0, dtype=torch.float64)
    right[torch.arange(5), 0, torch.tensor(table)] = 0.0
    att = 100 * torch.ones(1, 5, dtype=torch.float64)
    out = gatv2_attention(left, right, att, graph)
    assert out[:, 0].argmax(1).tolist() == table
    assert (out[:, 0].max(1).values > 0.999).all()


def test_a_layer_with_those_weights_is_told_from_a_static_one():
    graph = bipartite(5, 5)
    layer = GATv2Conv((5, 5), 5, add_self_loops=False, bias=True)
    with torch.no_grad():
        layer.lin_l.weight.copy_(torch.eye(5))
        layer.lin_r.weight.copy_(2 * torch.eye(5))
        layer.lin_r.bias.fill_(-2)
        layer.att.fill_(50)
    _, (_, alpha) = layer((torch.eye(5), torch.eye(5)), graph, return_attention_weights=True)
    found = attention_staticity(alpha, graph)
    assert found["distinct_argmax"].tolist() == [5]
    assert found["agreement"].tolist() == [0.0]
    assert found["pairs"].tolist() == [10]
    assert found["kendall_w"][0] < 0.5


def test_measures_on_a_table_worked_out_by_hand():
    """Three queries, three sources; rankings 123, 123 and 321: correlations 1, -1, -1: W = (1 + 2 (-1/3)) / 3 = 1/9."""
    rows = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    graph = bipartite(3, 3)
    alpha = rows[graph.edge_index[1], graph.edge_index[0]][:, None]
    found = attention_staticity(alpha, graph)
    assert found["agreement"][0] == pytest.approx(1 / 3)
    assert found["kendall_w"][0] == pytest.approx(1 / 9)
    ranks = np.array([[3, 2, 1], [3, 2, 1], [1, 2, 3]])
    spread = ((ranks.sum(0) - ranks.sum(0).mean()) ** 2).sum()
    assert found["kendall_w"][0] == pytest.approx(12 * spread / (3**2 * (3**3 - 3)))
    assert found["distinct_argmax"][0] == 2


def test_ties_agree_and_what_cannot_be_compared_is_nan():
    graph = bipartite(3, 2)
    equal = torch.full((6, 1), 1 / 3)
    assert attention_staticity(equal, graph)["agreement"] == [1.0]
    lonely = CSRGraph.from_edge_index(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
    found = attention_staticity(torch.ones(2, 1), lonely)
    assert np.isnan(found["agreement"]).all()
    assert found["pairs"] == [0]
    assert np.isnan(found["kendall_w"]).all()
    empty = attention_staticity(torch.zeros(0, 2), torch.zeros(2, 0, dtype=torch.int64))
    assert empty["pairs"].tolist() == [0, 0]


def test_multiple_edges_count_once_and_pairs_are_limited(random_edges):
    graph = CSRGraph.from_edge_index(random_edges(60, 3000), num_nodes=60)
    torch.manual_seed(0)
    _, (edges, alpha) = GATConv(4, 3, heads=2, add_self_loops=False)(
        torch.randn(60, 4), graph, return_attention_weights=True
    )
    found = attention_staticity(alpha, edges, max_pairs=50)
    assert found["pairs"][0] <= 50
    assert found["agreement"].tolist() == [1.0, 1.0]
    same = attention_staticity(alpha, edges, max_pairs=50)
    assert all(np.array_equal(found[name], same[name]) for name in found)


def test_alpha_of_another_graph_is_refused(graph):
    with pytest.raises(ValueError, match="alpha: expected"):
        attention_staticity(torch.ones(199, 2), graph)
