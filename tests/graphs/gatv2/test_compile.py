"""`torch.compile`: one graph around the operator, outputs and gradients as without."""

import pytest
import torch

from paperworks.graphs.gatv2.attention import gatv2_attention
from paperworks.graphs.gatv2.convs import DotProductGATConv, GATConv, GATv2Conv
from paperworks.graphs.gatv2.ops import graph_attention
from paperworks.testing import assert_compiles


@pytest.mark.parametrize("layer", [GATv2Conv, GATConv, DotProductGATConv])
def test_layers_have_no_graph_break(graph, layer):
    torch.manual_seed(0)
    module, x = layer(6, 4, heads=2, edge_dim=3, dropout=0.3), torch.randn(40, 6)
    explained = torch._dynamo.explain(module)(x, graph.with_self_loops(), torch.randn(200, 3))
    assert explained.graph_break_count == 0, explained.break_reasons
    assert explained.graph_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("layer", [GATv2Conv, GATConv, DotProductGATConv])
def test_compiled_layers_give_the_same(graph, layer):
    torch.manual_seed(0)
    assert_compiles(layer(6, 4, heads=2), torch.randn(40, 6), graph=graph.with_self_loops())


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_operator_is_registered_soundly(graph, dropout):
    """Schema, fake tensors, autograd and ahead-of-time autograd, by PyTorch's own check."""
    torch.manual_seed(0)
    left, right = (torch.randn(40, 6, requires_grad=True) for _ in range(2))
    att = torch.randn(2, 3, requires_grad=True)
    value = torch.randn(40, 8, requires_grad=True)
    attr, lin = torch.randn(200, 2, requires_grad=True), torch.randn(2, 6, requires_grad=True)
    bias, mask = torch.randn(200, 2, requires_grad=True), torch.rand(200) < 0.7
    arguments = (left, right, att, value, attr, lin, bias, mask, torch.tensor(7), graph.rows, graph.columns)
    torch.library.opcheck(graph_attention, (*arguments, 0.2, dropout, False, True))


def test_a_second_derivative_is_refused_by_the_fused_and_given_by_the_plain_backend(graph):
    left, right = (torch.randn(40, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    att = torch.randn(2, 3, dtype=torch.float64)

    def slope(backend):
        out = gatv2_attention(left, right, att, graph, backend=backend)
        (gradient,) = torch.autograd.grad(out.square().sum(), left, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), right)[0]

    assert slope("torch").abs().sum() > 0
    with pytest.raises(RuntimeError):
        slope("numba")
