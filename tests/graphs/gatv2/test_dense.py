"""The dense form against the sparse layers, with copied weights."""

import pytest
import torch

from paperworks.graphs.gatv2.convs import DotProductGATConv, GATConv, GATv2Conv
from paperworks.graphs.gatv2.dense import DenseGATv2

SPARSE = {"gatv2": GATv2Conv, "gat": GATConv, "dot": DotProductGATConv}


@pytest.mark.parametrize("conv", SPARSE)
@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_sparse_layer_graph_by_graph(conv, bias):
    torch.manual_seed(0)
    dense = DenseGATv2(12, 3, in_channels=5, conv=conv, bias=bias).double()
    sparse = SPARSE[conv](5, 4, heads=3, add_self_loops=False, bias=bias).double()
    sparse.load_state_dict(dense.state_dict(), strict=True)
    x = torch.randn(4, 7, 5, dtype=torch.float64)
    mask = torch.rand(4, 7, 7) < 0.4
    mask[0, 2] = False
    out, alpha = dense(x, mask, return_attention_weights=True)
    for graph in range(4):
        target, source = torch.nonzero(mask[graph]).t()
        expected, (_, weights) = sparse(x[graph], torch.stack([source, target]), return_attention_weights=True)
        torch.testing.assert_close(out[graph], expected)
        torch.testing.assert_close(alpha[graph, target, source], weights)
        assert not alpha[graph][~mask[graph]].any()
    assert out.isfinite().all()


@pytest.mark.parametrize("conv", ["gatv2", "dot"])
def test_attention_between_two_sets(conv):
    torch.manual_seed(0)
    dense = DenseGATv2(8, 2, in_channels=(5, 3), conv=conv).double()
    sparse = SPARSE[conv]((5, 3), 4, heads=2, add_self_loops=False).double()
    sparse.load_state_dict(dense.state_dict())
    targets, sources = torch.randn(2, 6, 3, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    out = dense((targets, sources))
    edges = torch.cartesian_prod(torch.arange(4), torch.arange(6)).t()
    for graph in range(2):
        torch.testing.assert_close(out[graph], sparse((sources[graph], targets[graph]), edges))


@pytest.mark.parametrize("conv", SPARSE)
def test_a_row_without_edges_gives_the_bias_and_finite_gradients(conv):
    layer = DenseGATv2(4, 2, conv=conv)
    x = torch.randn(1, 3, 4, requires_grad=True)
    out = layer(x, torch.zeros(1, 3, 3, dtype=torch.bool))
    assert torch.equal(out, layer.bias.expand(1, 3, -1))
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_weights_are_shared_where_asked():
    shared, separate = DenseGATv2(8, share_weights=True), DenseGATv2(8)
    assert shared.lin_r is shared.lin_l
    counts = [sum(parameter.numel() for parameter in layer.parameters()) for layer in (shared, separate)]
    assert counts[1] - counts[0] == 8 * 8 + 8


@pytest.mark.parametrize(
    ("options", "words"),
    [({"heads": 3}, "heads"), ({"conv": "cat"}, "conv"), ({"dropout": -0.1}, "dropout"),
     ({"in_channels": (3, 4), "conv": "gat"}, "in_channels")],
)  # fmt: skip
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        DenseGATv2(8, **options)


def test_bad_input_is_named():
    layer = DenseGATv2(8, 2)
    with pytest.raises(ValueError, match="sources: expected"):
        layer(torch.randn(3, 8))
    with pytest.raises(ValueError, match="2 batches of targets, 3 of sources"):
        layer((torch.randn(2, 4, 8), torch.randn(3, 4, 8)))
    with pytest.raises(ValueError, match="mask: expected bool"):
        layer(torch.randn(2, 4, 8), torch.ones(2, 4, 3, dtype=torch.bool))
