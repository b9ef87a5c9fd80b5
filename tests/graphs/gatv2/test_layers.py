"""The layers beyond PyG's own cases: masks, dot products, sparse input, bf16, and what they refuse."""

import numpy as np
import pytest
import torch

from paperworks.graphs.gatv2.convs import DotProductGATConv, GATConv, GATv2Conv
from paperworks.graphs.gatv2.graph import CSRGraph
from paperworks.graphs.gatv2.network import GraphAttentionNet
from paperworks.graphs.gatv2.sparse_input import SparseFeatures, drop, project

LAYERS = [GATv2Conv, GATConv, DotProductGATConv]


def layer_and_input(layer, graph, **options):
    torch.manual_seed(0)
    return layer(6, 4, heads=2, **options).double(), torch.randn(graph.num_src, 6, dtype=torch.float64)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("loops", [False, True])
def test_masked_edges_are_as_if_they_were_not_there(graph, layer, loops):
    """With edge features and self loops: a dropped edge has no share in the features of a loop either."""
    module, x = layer_and_input(layer, graph, edge_dim=3, add_self_loops=loops)
    attr = torch.randn(graph.num_edges, 3, dtype=torch.float64)
    mask = torch.rand(graph.num_edges, generator=torch.Generator().manual_seed(1)) < 0.6
    out, (edges, alpha) = module(x, graph.edge_index, attr, edge_mask=mask, return_attention_weights=True)
    expected = module(x, graph.edge_index[:, mask], attr[mask])
    torch.testing.assert_close(out, expected)
    assert alpha.shape == (edges.shape[1], 2)
    assert (alpha == 0).all(1).sum() == (~mask).sum() if not loops else True


def test_dot_product_equals_its_equation(graph, twin):
    module, x = layer_and_input(DotProductGATConv, graph, edge_dim=3, add_self_loops=False)
    attr = torch.randn(graph.num_edges, 3, dtype=torch.float64)
    with torch.no_grad():
        q, k, v = (getattr(module, name)(x).view(-1, 2, 4).numpy() for name in ("lin_q", "lin_k", "lin_v"))
        bias = module.lin_edge(attr).numpy()
        out, (_, alpha) = module(x, graph, attr, return_attention_weights=True)
    scale = np.full((2, 4), 4**-0.5)
    expected, weights = twin(k, q, scale, v, graph.edge_index.numpy(), bias=bias, dot=True)
    np.testing.assert_allclose(out, expected.reshape(40, 8), atol=1e-12)
    np.testing.assert_allclose(alpha, weights, atol=1e-12)


@pytest.mark.parametrize("layer", LAYERS)
def test_targets_without_edges_give_the_bias(graph, layer):
    module, x = layer_and_input(layer, graph, add_self_loops=False)
    with torch.no_grad():
        module.bias.copy_(torch.arange(8.0))
    out = module(x, graph)
    assert torch.equal(out[37:], module.bias.expand(3, -1))
    out.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("layer", LAYERS)
def test_bf16_autocast_stays_close(graph, layer):
    torch.manual_seed(0)
    module, x = layer(6, 4, heads=2), torch.randn(40, 6)
    exact = module(x, graph)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(x, graph)
        out.float().square().mean().backward()
    assert (out.float() - exact).abs().max() <= 0.03 * exact.abs().max()
    assert all(parameter.grad.dtype == torch.float32 for parameter in module.parameters())


@pytest.mark.parametrize("layer", LAYERS)
def test_sparse_features_give_the_same_outputs_and_gradients(graph, layer):
    module, x = layer_and_input(layer, graph)
    x = x * (x > 0.5)
    forms = [x, x.to_sparse_csr(), x.to_sparse_coo(), SparseFeatures(x)]
    found = []
    for form in forms:
        module.zero_grad()
        out = module(form, graph)
        out.square().sum().backward()
        found.append([out, *(parameter.grad.clone() for parameter in module.parameters())])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, atol=1e-12, rtol=1e-10)


def test_dropout_of_sparse_features_is_of_their_values():
    torch.manual_seed(0)
    x = SparseFeatures(torch.eye(2000))
    linear = torch.nn.Linear(2000, 1, bias=False)
    torch.nn.init.ones_(linear.weight)
    out = project(drop(x, 0.3, True), linear)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert abs((out > 0).float().mean() - 0.7) < 0.05
    assert drop(x, 0.3, False) is x
    out.sum().backward()
    torch.testing.assert_close(linear.weight.grad.flatten(), out.detach().flatten())


def test_bipartite_layers_warn_when_loops_are_asked_for():
    with pytest.warns(UserWarning, match="add_self_loops"):
        GATv2Conv((3, 4), 2)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 0}, "heads"),
        ({"dropout": 1.0}, "dropout"),
        ({"edge_dim": 0}, "edge_dim"),
        ({"fill_value": "median"}, "fill_value"),
    ],
)
def test_bad_options_are_named(layer, options, words):
    with pytest.raises(ValueError, match=words):
        layer(6, 4, **options)


def test_shared_weights_need_equal_widths():
    with pytest.raises(ValueError, match="sources have 6 features, targets 5"):
        GATv2Conv((6, 5), 4, share_weights=True, add_self_loops=False)


@pytest.mark.parametrize("layer", LAYERS)
def test_bad_input_is_named(graph, layer):
    plain, x = layer_and_input(layer, graph)
    featured, _ = layer_and_input(layer, graph, edge_dim=3)
    attr = torch.randn(graph.num_edges, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x_src: expected \(nodes, 6\)"):
        plain(x[:, :5], graph)
    with pytest.raises(ValueError, match="x_src: expected"):
        plain(x[None], graph)
    with pytest.raises(ValueError, match="x_dst: expected"):
        plain((x, x[:, :5]), graph)
    with pytest.raises(ValueError, match="edge_dim=None, but edge_attr came"):
        plain(x, graph, attr)
    with pytest.raises(ValueError, match="edge_dim=3, but no edge_attr came"):
        featured(x, graph)
    with pytest.raises(ValueError, match=r"edge_attr: expected \(200, 3\)"):
        featured(x, graph, attr[:-1])
    with pytest.raises(ValueError, match="edge_mask: expected bool"):
        plain(x, graph, edge_mask=torch.ones(200))
    with pytest.raises(ValueError, match="source 39 of edge"):
        plain(x[:20], torch.tensor([[39], [0]]))


@pytest.mark.parametrize("conv", ["gatv2", "gat", "dot"])
def test_network_is_its_layers_one_after_the_other(graph, conv):
    torch.manual_seed(0)
    net = GraphAttentionNet(6, 8, 3, layers=3, heads=4, conv=conv, norm="layer", residual=True, dropout=0.5).eval()
    x = torch.randn(40, 6)
    y = x
    for layer in range(2):
        y = torch.nn.functional.elu(net.norms[layer](net.convs[layer](y, graph)))
    assert torch.equal(net(x, graph), net.convs[2](y, graph))
    found = net.attention(x, graph)
    assert [alpha.shape[1] for _, alpha in found] == [4, 4, 1]
    net.train()
    assert not torch.equal(net(x, graph), net(x, graph))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": 0}, "layers"),
        ({"heads": 3}, "heads"),
        ({"conv": "gcn"}, "conv"),
        ({"norm": "batch"}, "norm"),
        ({"conv": "gat", "share_weights": True}, "share_weights"),
    ],
)
def test_bad_network_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        GraphAttentionNet(6, 8, 3, **options)


def test_graph_with_loops_serves_edge_features_of_the_given_edges():
    edges = torch.tensor([[0, 1, 1, 2], [1, 1, 2, 1]])
    looped = CSRGraph.from_edge_index(edges, num_nodes=3, add_self_loops=True)
    torch.manual_seed(0)
    layer, x, attr = GATv2Conv(4, 2, edge_dim=1), torch.randn(3, 4), torch.randn(4, 1)
    assert torch.equal(layer(x, looped, attr), layer(x, edges, attr))
