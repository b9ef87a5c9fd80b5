"""Layers against PyG: weights copied, outputs, attention weights and all gradients."""

import warnings

import pytest
import torch

from paperworks.graphs.gatv2.convs import GATConv, GATv2Conv

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pyg = pytest.importorskip("torch_geometric.nn", reason="the peer torch-geometric is not installed")

NODES, WIDTH, CHANNELS = 30, 6, 4
LAYERS = {"gatv2": (GATv2Conv, pyg.GATv2Conv), "gat": (GATConv, pyg.GATConv)}
FILLS = ["mean", "add", "max", "min", "mul", 1.5, torch.tensor([0.5, -1.0, 2.0])]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def random_edges(nodes, count, *, targets=None):
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(side, (count,), generator=generator) for side in (nodes, targets or nodes)])


def edges():
    """120 edges: double ones, loops (one of them double), nodes without edges."""
    found = random_edges(NODES - 3, 120)
    found[:, :5] = found[:, 5:10]
    found[0, 20:24] = found[1, 20:24]
    found[:, 24] = found[:, 23]
    return found


def pair(kind, dtype, size=WIDTH, **options):
    torch.manual_seed(1)
    mine, theirs = (layer(size, CHANNELS, **options).to(dtype) for layer in LAYERS[kind])
    mine.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        for parameter in mine.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.load_state_dict(mine.state_dict(), strict=True)
    return mine, theirs


def assert_same(mine, theirs, x, edge_index, edge_attr, tolerance):
    """Outputs, attention and gradients of every parameter and input, relative to the largest entry."""
    found = []
    for layer in (mine, theirs):
        inputs = [part.detach().clone().requires_grad_() for part in (x if isinstance(x, tuple) else (x,))]
        attr = None if edge_attr is None else edge_attr.detach().clone().requires_grad_()
        features = tuple(inputs) if isinstance(x, tuple) else inputs[0]
        out, (_, alpha) = layer(features, edge_index, attr, return_attention_weights=True)
        generator = torch.Generator().manual_seed(2)
        direction = torch.randn(out.shape, generator=generator, dtype=out.dtype)
        other = torch.randn(alpha.shape, generator=generator, dtype=out.dtype)
        leaves = inputs + ([] if attr is None else [attr])
        names = [name for name, _ in layer.named_parameters()]
        loss = (out * direction).sum() + (alpha * other).sum()
        gradients = torch.autograd.grad(loss, leaves + [p for _, p in layer.named_parameters()], allow_unused=True)
        labels = [f"input {i}" for i in range(len(leaves))] + names
        found.append({"out": out, "alpha": alpha} | dict(zip(labels, gradients, strict=True)))
    assert found[0].keys() == found[1].keys()
    for name, ours in found[0].items():
        other = found[1][name]
        ours = torch.zeros_like(other) if ours is None else ours
        gap = (ours - other).detach().abs().max() if other.numel() else 0.0
        assert gap <= tolerance * max(1.0, other.detach().abs().max() if other.numel() else 1.0), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["gatv2", "gat"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"heads": 3},
        {"heads": 3, "concat": False, "residual": True},
        {"heads": 2, "bias": False, "add_self_loops": False},
        {"heads": 2, "negative_slope": 0.5},
    ],
)
def test_plain_options(kind, dtype, options):
    mine, theirs = pair(kind, dtype, **options)
    x = torch.randn(NODES, WIDTH, dtype=dtype)
    assert_same(mine, theirs, x, edges(), None, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("residual", [False, True])
def test_shared_weights(dtype, residual):
    mine, theirs = pair("gatv2", dtype, heads=2, share_weights=True, residual=residual)
    assert {"lin_l.weight", "lin_r.weight"} <= set(mine.state_dict())
    assert_same(mine, theirs, torch.randn(NODES, WIDTH, dtype=dtype), edges(), None, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", ["gatv2", "gat"])
@pytest.mark.parametrize("fill", FILLS, ids=str)
def test_edge_features_with_every_fill(kind, fill):
    mine, theirs = pair(kind, torch.float64, heads=3, edge_dim=3, fill_value=fill)
    attr = torch.randn(120, 3, dtype=torch.float64)
    assert_same(mine, theirs, torch.randn(NODES, WIDTH, dtype=torch.float64), edges(), attr, 1e-10)


@pytest.mark.parametrize("kind", ["gatv2", "gat"])
def test_one_edge_feature_as_a_vector(kind):
    mine, theirs = pair(kind, torch.float32, heads=2, edge_dim=1)
    assert_same(mine, theirs, torch.randn(NODES, WIDTH), edges(), torch.randn(120), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["gatv2", "gat"])
@pytest.mark.parametrize("edge_dim", [None, 2])
def test_bipartite(kind, dtype, edge_dim):
    mine, theirs = pair(kind, dtype, (WIDTH, 5), heads=2, add_self_loops=False, edge_dim=edge_dim, residual=True)
    x = torch.randn(NODES, WIDTH, dtype=dtype), torch.randn(11, 5, dtype=dtype)
    attr = None if edge_dim is None else torch.randn(90, edge_dim, dtype=dtype)
    assert_same(mine, theirs, x, random_edges(NODES, 90, targets=11), attr, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", ["gatv2", "gat"])
@pytest.mark.parametrize("loops", [False, True])
def test_no_edges_at_all(kind, loops):
    mine, theirs = pair(kind, torch.float64, heads=2, add_self_loops=loops)
    x = torch.randn(NODES, WIDTH, dtype=torch.float64)
    none = torch.zeros(2, 0, dtype=torch.int64)
    assert_same(mine, theirs, x, none, None, 1e-10)
    if not loops:
        assert torch.equal(mine(x, none), mine.bias.expand(NODES, -1))


def test_int32_ids_and_sparse_matrices_give_the_same():
    layer, _ = pair("gatv2", torch.float32, heads=2)
    x, found = torch.randn(NODES, WIDTH), torch.unique(edges(), dim=1)
    expected = layer(x, found)
    assert torch.equal(layer(x, found.int()), expected)
    matrix = torch.sparse_coo_tensor(found.flip(0), torch.ones(found.shape[1]), (NODES, NODES))
    assert torch.equal(layer(x, matrix), expected)
    assert torch.equal(layer(x, matrix.to_sparse_csr()), expected)
