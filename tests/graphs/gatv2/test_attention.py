"""The fused attention against a slow twin, by finite differences, and in its invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperworks.graphs.gatv2 import graph as graph_module
from paperworks.graphs.gatv2 import numba_kernels
from paperworks.graphs.gatv2.attention import EdgeTerms, attend, choose_backend, gatv2_attention
from paperworks.graphs.gatv2.graph import CSRGraph
from paperworks.graphs.gatv2.plain import dropout_factors

HEADS, WIDTH, CHANNELS, FEATURES = 3, 5, 4, 2
BACKENDS = ["numba", "torch"]


def tensors(graph, *, dtype=torch.float64, seed=0, same=False):
    """left, right, att, value, and edge attr, lin, bias."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (graph.num_src, HEADS, WIDTH), (graph.num_dst, HEADS, WIDTH), (HEADS, WIDTH), (graph.num_src, HEADS, CHANNELS),
        (graph.num_edges, FEATURES), (FEATURES, HEADS, WIDTH), (graph.num_edges, HEADS),
    ]  # fmt: skip
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def kept(graph, share=0.7):
    return torch.rand(graph.num_edges, generator=torch.Generator().manual_seed(3)) < share


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("terms", [(), ("attr",), ("bias",), ("mask",), ("attr", "bias", "mask")])
def test_equals_the_twin(graph, twin, backend, dot, terms):
    left, right, att, value, attr, lin, bias = tensors(graph)
    mask = kept(graph)
    chosen = EdgeTerms(
        attr if "attr" in terms else None,
        lin if "attr" in terms else None,
        bias if "bias" in terms else None,
        mask if "mask" in terms else None,
    )
    out, alpha = attend(left, right, att, value, graph, chosen, slope=0.3, dot=dot, weights=True, backend=backend)
    shift = np.einsum("ed,dhw->ehw", attr.numpy(), lin.numpy()) if "attr" in terms else None
    expected, weights = twin(
        *(part.numpy() for part in (left, right, att, value, graph.edge_index)),
        slope=0.3,
        shift=shift,
        bias=bias.numpy() if "bias" in terms else None,
        keep=mask.numpy() if "mask" in terms else None,
        dot=dot,
    )
    np.testing.assert_allclose(out, expected, atol=1e-12)
    np.testing.assert_allclose(alpha, weights, atol=1e-12)


@pytest.mark.parametrize("dot", [False, True])
def test_gradients_equal_finite_differences(dot):
    edges = torch.tensor([[0, 1, 2, 3, 0, 0, 2, 4], [1, 1, 1, 0, 0, 0, 2, 2]])
    graph = CSRGraph.from_edge_index(edges, num_nodes=5)
    inputs = [part.requires_grad_() for part in tensors(graph)]
    mask = torch.tensor([True, True, False, True, True, True, True, True])

    def function(left, right, att, value, attr, lin, bias):
        terms = EdgeTerms(attr, lin, bias, mask)
        return attend(left, right, att, value, graph, terms, dot=dot, weights=True, backend="numba")

    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dot", [False, True])
def test_backends_agree_with_dropout_in_forward_and_backward(graph, dtype, dot):
    found = []
    for backend in BACKENDS:
        inputs = [part.requires_grad_() for part in tensors(graph, dtype=dtype)]
        left, right, att, value, attr, lin, bias = inputs
        torch.manual_seed(11)
        terms = EdgeTerms(attr, lin, bias, kept(graph))
        out, alpha = attend(left, right, att, value, graph, terms, dropout=0.4, dot=dot, weights=True, backend=backend)
        generator = torch.Generator().manual_seed(2)
        loss = (out * torch.randn(out.shape, generator=generator, dtype=dtype)).sum() + alpha.square().sum()
        found.append([out, alpha, *torch.autograd.grad(loss, inputs)])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for one, two in zip(*found, strict=True):
        assert (one - two).abs().max() <= tolerance * max(1, two.abs().max())


def test_half_precision_is_computed_in_float32(graph):
    left, right, att, *_ = (part.bfloat16() for part in tensors(graph))
    out = gatv2_attention(left, right, att, graph)
    exact = gatv2_attention(left.float(), right.float(), att.float(), graph)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, exact.bfloat16())


def test_shared_left_collects_both_gradients(graph):
    left, right, att, *_ = (part.requires_grad_() for part in tensors(graph))
    fused = gatv2_attention(left, right, att, graph, backend="numba")
    plain = gatv2_attention(left, right, att, graph, backend="torch")
    direction = torch.randn(fused.shape, generator=torch.Generator().manual_seed(1), dtype=fused.dtype)
    for one, two in zip(
        *(torch.autograd.grad((out * direction).sum(), (left, right, att)) for out in (fused, plain)), strict=True
    ):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=1e-10)


# Invariances ---------------------------------------------------------------------------------------------------------


def small_graphs():
    return st.tuples(st.integers(1, 12), st.integers(0, 60), st.integers(0, 10**6))


@given(small_graphs(), st.sampled_from(BACKENDS))
def test_weights_sum_to_one_and_a_constant_per_row_changes_nothing(case, backend):
    nodes, count, seed = case
    generator = torch.Generator().manual_seed(seed)
    graph = CSRGraph.from_edge_index(torch.randint(nodes, (2, count), generator=generator), num_nodes=nodes)
    left, right, att, value, _, _, bias = tensors(graph, seed=seed)
    out, alpha = attend(left, right, att, value, graph, EdgeTerms(bias=bias), weights=True, backend=backend)
    target = graph.edge_index[1]
    sums = torch.zeros(nodes, HEADS, dtype=alpha.dtype).index_add(0, target, alpha)
    torch.testing.assert_close(sums, (graph.degree() > 0).double()[:, None].expand(-1, HEADS))
    shift = 50 * torch.randn(nodes, HEADS, dtype=alpha.dtype, generator=generator)
    moved, _ = attend(left, right, att, value, graph, EdgeTerms(bias=bias + shift[target]), backend=backend)
    torch.testing.assert_close(moved, out, atol=1e-10, rtol=1e-10)


@given(small_graphs())
def test_permuting_the_nodes_permutes_the_output(case):
    nodes, count, seed = case
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(nodes, (2, count), generator=generator)
    order = torch.randperm(nodes, generator=generator)
    graph = CSRGraph.from_edge_index(edges, num_nodes=nodes)
    other = CSRGraph.from_edge_index(order.argsort()[edges], num_nodes=nodes)
    left, right, att, *_ = tensors(graph, seed=seed)
    out = gatv2_attention(left, right, att, graph)
    torch.testing.assert_close(gatv2_attention(left[order], right[order], att, other), out[order])


def test_the_order_of_edges_does_not_matter_bit_for_bit(graph):
    left, right, att, *_ = tensors(graph, dtype=torch.float32)
    expected = gatv2_attention(left, right, att, graph)
    order = torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(0))
    shuffled = CSRGraph.from_edge_index(graph.edge_index[:, order], num_nodes=40)
    assert torch.equal(gatv2_attention(left, right, att, shuffled), expected)


def test_a_masked_edge_is_as_if_it_were_not_there(graph):
    mask = kept(graph)
    left, right, att, *_ = (part.requires_grad_() for part in tensors(graph))
    rest = CSRGraph.from_edge_index(graph.edge_index[:, mask], num_nodes=40)
    masked = gatv2_attention(left, right, att, graph, edge_mask=mask)
    fewer = gatv2_attention(left, right, att, rest)
    torch.testing.assert_close(masked, fewer)
    for one, two in zip(
        *(torch.autograd.grad(out.square().sum(), (left, right, att)) for out in (masked, fewer)), strict=True
    ):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("backend", BACKENDS)
def test_minus_infinity_as_a_bias_drops_the_edge(graph, backend):
    mask = kept(graph, 0.4)
    left, right, att, *_ = (part.requires_grad_() for part in tensors(graph))
    bias = torch.zeros(graph.num_edges, HEADS, dtype=torch.float64).masked_fill(~mask[:, None], -torch.inf)
    by_bias = gatv2_attention(left, right, att, graph, edge_bias=bias, backend=backend)
    by_mask = gatv2_attention(left, right, att, graph, edge_mask=mask, backend=backend)
    torch.testing.assert_close(by_bias, by_mask)
    for one, two in zip(
        *(torch.autograd.grad(out.square().sum(), (left, right, att)) for out in (by_bias, by_mask)), strict=True
    ):
        torch.testing.assert_close(one, two)


def test_huge_scores_neither_overflow_nor_vanish(graph):
    left, right, att, *_ = tensors(graph, dtype=torch.float32)
    out = gatv2_attention(1e4 * left, 1e4 * right, att, graph)
    exact = gatv2_attention(1e4 * left.double(), 1e4 * right.double(), att.double(), graph)
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-1)


def test_nan_in_a_source_reaches_its_targets_and_no_other(graph):
    left, right, att, *_ = tensors(graph)
    left[0] = torch.nan
    out = gatv2_attention(left, right, att, graph)
    hit = torch.zeros(40, dtype=torch.bool)
    hit[graph.edge_index[1, graph.edge_index[0] == 0]] = True
    assert torch.equal(out.isnan().any(2).any(1), hit)


# Dropout -------------------------------------------------------------------------------------------------------------


def test_dropout_is_unbiased():
    graph = CSRGraph.from_edge_index(torch.tensor([[0, 1, 2, 3, 1], [0, 0, 0, 1, 1]]), num_nodes=4)
    left, right, att, *_ = tensors(graph)
    expected = gatv2_attention(left, right, att, graph)
    torch.manual_seed(0)
    draws = torch.stack([gatv2_attention(left, right, att, graph, dropout=0.3, training=True) for _ in range(2000)])
    error = draws.std(0) / 2000**0.5
    assert ((draws.mean(0) - expected).abs() <= 4 * error + 1e-12).all()
    assert draws.std(0)[:2].min() > 0
    assert torch.equal(gatv2_attention(left, right, att, graph, dropout=0.3, training=False), expected)


def test_dropout_follows_the_seed_and_the_edge_not_the_order(graph):
    left, right, att, value, *_ = tensors(graph)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(attend(left, right, att, value, graph, dropout=0.5)[0])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_dropout_numbers_are_spread_evenly_and_agree_with_the_kernel():
    seed = torch.tensor(2**61 + 12345)
    factors = dropout_factors(seed, (5000, 4), 0.25, torch.float64)
    assert abs((factors > 0).double().mean() - 0.75) < 4 * (0.75 * 0.25 / 20000) ** 0.5
    assert set(factors.unique().tolist()) == {0.0, 1 / 0.75}
    flat = factors.flatten() > 0
    threshold = round(0.25 * 2**24)
    assert [bool(numba_kernels._kept(int(seed), i, threshold)) for i in range(300)] == flat[:300].tolist()
    neighbours = np.corrcoef(flat[:-1], flat[1:])[0, 1]
    assert abs(neighbours) < 4 / 20000**0.5


# Hubs, threads, memory, time -----------------------------------------------------------------------------------------


def star(leaves):
    """A hub with many in- and out-edges, and a ring."""
    nodes = torch.arange(1, leaves + 1)
    hub = torch.zeros_like(nodes)
    edges = torch.stack([torch.cat([nodes, hub, nodes]), torch.cat([hub, nodes, nodes.roll(1)])])
    return CSRGraph.from_edge_index(edges, num_nodes=leaves + 1)


def both(graph, backend, dtype=torch.float32, **options):
    left, right, att, *_ = (part.requires_grad_() for part in tensors(graph, dtype=dtype))
    out = gatv2_attention(left, right, att, graph, backend=backend, **options)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return [out, *torch.autograd.grad((out * direction).sum(), (left, right, att))]


def test_a_hub_of_a_hundred_thousand_edges():
    graph = star(100_000)
    assert int(graph.rows[5].numel()) == 100_000 // graph_module.SEGMENT
    cost = np.diff(graph.rows[2].numpy())[::1]
    assert cost.max() == graph_module.SEGMENT
    for one, two in zip(both(graph, "numba", torch.float64), both(graph, "torch", torch.float64), strict=True):
        assert (one - two).abs().max() <= 1e-9 * max(1, two.abs().max())


def test_split_rows_equal_whole_ones(graph, monkeypatch):
    whole = both(graph, "numba", torch.float64)
    monkeypatch.setattr(graph_module, "SEGMENT", 3)
    split = CSRGraph.from_edge_index(graph.edge_index, num_nodes=40)
    assert split.rows[5].numel() > 10
    for one, two in zip(both(split, "numba", torch.float64), whole, strict=True):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=1e-10)


def test_blocks_share_the_work_of_skewed_degrees():
    rng = np.random.default_rng(0)
    targets = (rng.pareto(1.0, 200_000) * 10).astype(np.int64) % 2000
    edges = torch.stack([torch.from_numpy(rng.integers(0, 2000, 200_000)), torch.from_numpy(targets)])
    graph = CSRGraph.from_edge_index(edges, num_nodes=2000)
    start, blocks = graph.rows[2].numpy(), graph.rows[6].numpy()
    cost = np.diff(start[blocks]) + graph_module.ROW_COST * np.diff(blocks)
    assert len(cost) > 20
    assert cost.max() <= cost.mean() + graph_module.SEGMENT + graph_module.ROW_COST


@pytest.mark.slow
def test_the_same_result_from_any_number_of_threads(random_edges):
    """To rounding: bits were once seen to differ, right after the kernels had been compiled."""
    graph = CSRGraph.from_edge_index(random_edges(500, 100_000), num_nodes=500)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            runs.append(both(graph, "numba", dropout=0.2, training=True))
    finally:
        torch.set_num_threads(threads)
    for one, *others in zip(*runs, strict=True):
        for other in others:
            assert (one - other).abs().max() <= 1e-6 * one.abs().max()


def test_chosen_backends(monkeypatch):
    assert choose_backend("auto", torch.device("cpu")) == "numba"
    assert choose_backend("torch", torch.device("cpu")) == "torch"
    assert choose_backend("auto", torch.device("meta")) == "torch"
    with pytest.raises(ValueError, match="triton does not run on cpu"):
        choose_backend("triton", torch.device("cpu"))
    with pytest.raises(ValueError, match="expected auto"):
        choose_backend("fast", torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"left": torch.randn(40, HEADS)}, "left: expected a floating tensor"),
        ({"right": torch.randn(39, HEADS, WIDTH)}, "right: expected shape"),
        ({"att": torch.randn(HEADS, WIDTH + 1)}, "att: expected shape"),
        ({"edge_bias": torch.randn(200)}, "edge_bias: expected shape"),
        ({"edge_mask": torch.ones(200)}, "edge_mask: expected bool"),
        ({"edge_attr": torch.randn(200, 2)}, "edge_attr, edge_lin"),
        ({"edge_attr": torch.randn(199, 2), "edge_lin": torch.randn(2, HEADS, WIDTH)}, "edge_attr: expected"),
        ({"edge_attr": torch.randn(200, 2), "edge_lin": torch.randn(3, HEADS, WIDTH)}, "edge_lin: expected"),
        ({"dropout": 1.0, "training": True}, "dropout"),
    ],
)
def test_bad_input_is_named(graph, change, words):
    left, right, att, *_ = tensors(graph, dtype=torch.float32)
    arguments = {"left": left, "right": right, "att": att} | change
    with pytest.raises(ValueError, match=words):
        gatv2_attention(*(arguments.pop(name) for name in ("left", "right", "att")), graph, **arguments)
