"""Flow against other solvers and by hand; the polytope of maximum flows and who lies in it."""

import numpy as np
import pytest
import torch
from flow_twins import capacities, enumerated_shapley, igraph_flow, networkx_flow, random_attention
from hypothesis import given
from hypothesis import strategies as st

from paperworks.evaluation.attention_flow import flow, maxflow
from paperworks.evaluation.attention_flow.flow import Network, attention_flow, flow_bounds, shapley_of_flow
from paperworks.evaluation.attention_flow.game import flow_game, polytope_excess
from paperworks.evaluation.attention_flow.layers import attention_rollout, raw_attention


@pytest.mark.parametrize("block", range(4))
def test_pairwise_flow_equals_networkx_on_200_graphs(block):
    for seed in range(50 * block, 50 * (block + 1)):
        rng = np.random.default_rng(seed)
        layers, size = int(rng.integers(1, 7)), int(rng.integers(3, 13))
        residual, temperature = float(rng.choice([0.5, 0.0, 0.3])), float(rng.choice([0.5, 2.0, 4.0]))
        attention = random_attention(seed, layers, size, temperature=temperature, heads=2)
        found = attention_flow(attention, residual=residual)[0].numpy()
        graph = capacities(attention, residual)
        for output, sink in rng.integers(0, size, (3, 2)).tolist():
            assert found[output, sink] == pytest.approx(networkx_flow(graph, output, [sink]), abs=1e-9)


@pytest.mark.parametrize("residual", [0.5, 0.0])
def test_deep_graphs_equal_igraph(residual):
    attention = random_attention(1, 12, 32)
    graph = capacities(attention, residual)
    found = attention_flow(attention, residual=residual)[0].numpy()
    for output, sink in [(0, 1), (5, 5), (31, 0), (17, 30)]:
        assert found[output, sink] == pytest.approx(igraph_flow(graph, output, [sink]), abs=1e-9)
    game = flow_game(attention, 7, residual=residual)
    for subset in [(0, 3), (5, 9, 12, 31)]:
        assert game.value(subset) == pytest.approx(igraph_flow(graph, 7, subset), abs=1e-9)


def test_scipy_agrees_on_whole_numbers():
    sparse = pytest.importorskip("scipy.sparse")
    from scipy.sparse.csgraph import maximum_flow

    graph = capacities(random_attention(2, 4, 9))
    top, size = graph.shape[:2]
    matrix = np.zeros(((top + 1) * size,) * 2, dtype=np.int64)
    for layer in range(top):
        rows, columns = slice((layer + 1) * size, (layer + 2) * size), slice(layer * size, (layer + 1) * size)
        matrix[rows, columns] = np.round(graph[layer] * 2**24)
    matrix = sparse.csr_array(matrix.astype(np.int32))
    found = attention_flow(torch.from_numpy(graph), residual=0.0)[0].numpy()
    for output, sink in [(0, 0), (3, 8), (8, 2)]:
        whole = maximum_flow(matrix, top * size + output, sink).flow_value / 2**24
        assert found[output, sink] == pytest.approx(whole, abs=1e-6)


def test_graphs_whose_flow_must_be_rerouted():
    """A blocking flow along downward edges is not enough where the widest edge leads the wrong way."""
    layers = np.zeros((3, 3, 3))
    layers[2, 0] = [0.5, 0.5, 0.0]
    layers[1] = [[0.0, 0.5, 0.5], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]]
    layers[0] = [[0.0, 0.0, 1.0], [0.5, 0.0, 0.5], [0.5, 0.0, 0.5]]
    layers[1, 1] = [0.0, 1.0, 0.0]
    found = Network.of(layers).solo([0])[0, 0]
    assert found == pytest.approx(networkx_flow(layers, 0, [0])) == pytest.approx(1.0)


def test_cases_with_known_answers():
    single = random_attention(0, 1, 5)
    torch.testing.assert_close(attention_flow(single, residual=0.0)[0], single[0, 0])
    identity = torch.eye(6).double().expand(4, 6, 6)
    torch.testing.assert_close(attention_flow(identity)[0], torch.eye(6).double())
    uniform = torch.full((3, 5, 5), 0.2).double()
    torch.testing.assert_close(attention_flow(uniform, residual=0.0)[0], torch.ones(5, 5).double())
    assert attention_flow(torch.ones(3, 1, 1)).item() == 1.0
    # Two layers by hand: min over the middle nodes, summed; the column sums 0.75 and 1.25 do not bind here.
    first, second = [[0.5, 0.5], [0.25, 0.75]], [[0.9, 0.1], [0.2, 0.8]]
    found = attention_flow(torch.tensor([first, second]), residual=0.0)[0]
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.6], [0.45, 0.95]]).double(), atol=1e-7, rtol=0)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 6))
def test_tokens_may_be_renamed(seed, layers, size):
    attention = random_attention(seed, layers, size)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(size))
    for mode in ("pairwise", "shapley"):
        renamed = attention_flow(attention[..., order, :][..., order], mode=mode)
        torch.testing.assert_close(renamed, attention_flow(attention, mode=mode)[:, order][:, :, order])


@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(2, 6))
def test_flow_scales_with_and_grows_in_its_capacities(seed, layers, size):
    rng = np.random.default_rng(seed)
    graph = capacities(random_attention(seed, layers, size))
    before = Network.of(graph).solo([0])
    np.testing.assert_allclose(Network.of(0.3 * graph).solo([0]), 0.3 * before, atol=1e-9)
    wider = graph.copy()
    wider[tuple(rng.integers(0, graph.shape))] += 0.2
    assert (Network.of(wider).solo([0]) >= before - 1e-9).all()


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 7), st.sampled_from([0.5, 0.0]))
def test_bounds_enclose_and_rollout_is_a_maximum_flow(seed, layers, size, residual):
    attention = random_attention(seed, layers, size)
    options = {"residual": residual, "sources": [size - 1]}
    low, high = (part[0, 0].numpy() for part in flow_bounds(attention, **options))
    game = flow_game(attention, size - 1, residual=residual)
    phi, joint = (attention_flow(attention, mode=mode, **options)[0, 0].numpy() for mode in ("shapley", "joint"))
    rollout = attention_rollout(attention, **options)[0, 0].numpy()
    for values in (phi, joint, rollout):
        assert values.sum() == pytest.approx(1.0, abs=1e-9)
        assert polytope_excess(values, game) < 1e-9
        assert (values >= low - 1e-9).all()
        assert (values <= high + 1e-9).all()
    whole = tuple(range(size))
    for player in whole:
        rest = tuple(other for other in whole if other != player)
        assert high[player] == pytest.approx(game.value([player]), abs=1e-9)
        assert low[player] == pytest.approx(1 - game.value(rest), abs=1e-9)


def test_every_vertex_of_the_polytope_is_a_flow_and_phi_their_mean():
    import itertools

    attention = random_attention(3, 3, 5)
    game = flow_game(attention, 2)
    orders = np.array(list(itertools.permutations(range(5))))
    vertices = game.marginals(orders)
    graph = capacities(attention)
    for order, vertex in list(zip(orders.tolist(), vertices, strict=True))[::17]:
        values = [igraph_flow(graph, 2, order[: place + 1]) for place in range(5)]
        np.testing.assert_allclose(vertex[order], np.diff([0.0, *values]), atol=1e-9)
    found = attention_flow(attention, sources=[2], mode="shapley")[0, 0].numpy()
    np.testing.assert_allclose(found, vertices.mean(0), atol=1e-9)
    in_order = attention_flow(attention, sources=[2], mode="joint")[0, 0].numpy()
    np.testing.assert_allclose(in_order, vertices[0], atol=1e-9)


@pytest.mark.parametrize(("layers", "residual"), [(2, 0.5), (3, 0.0), (6, 0.5)])
def test_shapley_values_by_enumeration_with_igraph(layers, residual):
    attention = random_attention(4, layers, 9 if layers == 3 else 6)
    graph = capacities(attention, residual)
    expected = enumerated_shapley(lambda chosen: igraph_flow(graph, 1, chosen) if chosen else 0.0, graph.shape[-1])
    found = attention_flow(attention, residual=residual, sources=[1], mode="shapley")[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_closed_form_where_two_inputs_take_all(monkeypatch):
    graph = capacities(random_attention(6, 12, 16))
    network = Network.of(graph)
    columns = np.minimum(1, graph[0].sum(0))
    n = len(columns)
    np.testing.assert_allclose(network.solo([3])[0], columns, atol=1e-9)
    assert (columns < 1 - 1e-3).sum() > 3
    expected = [(columns[i] + np.mean([1 - columns[j] for j in range(n) if j != i])) / n for i in range(n)]
    np.testing.assert_allclose(shapley_of_flow(network, 3), expected, atol=1e-9)
    monkeypatch.setattr(flow, "EXACT_PLAYERS", n)
    np.testing.assert_allclose(shapley_of_flow(network, 3), expected, atol=1e-9)


def test_shallow_graphs_are_sampled_not_put_into_the_closed_form(monkeypatch):
    shallow = Network.of(capacities(random_attention(5, 2, 11)))
    monkeypatch.setattr(flow, "EXACT_PLAYERS", 11)
    exact = shapley_of_flow(shallow, 3)
    monkeypatch.setattr(flow, "EXACT_PLAYERS", 3)
    assert not shallow.two_fill(3, np.arange(11))
    np.testing.assert_allclose(shapley_of_flow(shallow, 3, n_permutations=4000), exact, atol=5e-3)


def test_depth_makes_flow_a_column_sum():
    attention = random_attention(6, 12, 16)
    found = attention_flow(attention)[0]
    columns = torch.from_numpy(capacities(attention)[0].sum(0)).clamp(max=1)
    torch.testing.assert_close(found, columns.expand(16, 16))
    assert (attention_flow(attention, source_layer=1)[0] - columns).abs().max() > 0.05


def test_masked_tokens_are_as_if_they_were_not_there():
    attention = random_attention(7, 3, 6, heads=2, batch=2)
    mask = torch.tensor([[True] * 6, [True, False, True, True, True, False]])
    kept = torch.tensor([0, 2, 3, 4])
    small = attention[1][..., kept, :][..., kept]
    small = small.mean(1, keepdim=True)
    small = small / small.sum(-1, keepdim=True)
    for function in (
        attention_flow,
        attention_rollout,
        raw_attention,
        lambda weights, **options: attention_flow(weights, mode="shapley", **options),
        lambda weights, **options: flow_bounds(weights, **options).low,
    ):
        found = function(attention, mask=mask)
        torch.testing.assert_close(found[1][kept][:, kept], function(small)[0])
        torch.testing.assert_close(found[0], function(attention[0])[0])
        assert found[1].sum() == pytest.approx(found[1][kept][:, kept].sum().item())
    spoiled = attention.clone()
    spoiled[1, :, :, 5] = torch.nan
    torch.testing.assert_close(attention_flow(spoiled, mask=mask), attention_flow(attention, mask=mask))


def test_layers_sources_heads_and_normalisation():
    attention = random_attention(8, 4, 5, heads=3)
    every = attention_flow(attention, source_layer="all")
    assert every.shape == (1, 4, 5, 5)
    for layer in range(4):
        torch.testing.assert_close(every[:, layer], attention_flow(attention[: layer + 1]))
        torch.testing.assert_close(every[:, layer], attention_flow(attention, source_layer=layer))
    torch.testing.assert_close(attention_flow(attention, sources=[-1, 2]), every[:, -1, [4, 2]])
    torch.testing.assert_close(attention_flow(attention, heads=1), attention_flow(attention[:, 1]))
    torch.testing.assert_close(attention_flow(attention, heads=[0, 2]), attention_flow(attention[:, [0, 2]].mean(1)))
    as_tuple = tuple(attention[:, None].unbind(0))
    torch.testing.assert_close(attention_flow(as_tuple), every[:, -1])
    torch.testing.assert_close(attention_flow(attention, normalize=True), every[:, -1] / every[:, -1].sum(-1, True))
    torch.testing.assert_close(attention_flow(attention, jobs=2), every[:, -1])


def test_causal_graphs():
    attention = random_attention(9, 3, 6, causal=True)
    found = attention_flow(attention)[0].numpy()
    assert np.abs(np.triu(found, 1)).max() == 0
    assert found[4, 1] == pytest.approx(networkx_flow(capacities(attention), 4, [1]), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_generated_tokens_pass_their_flow_on(seed):
    size, prompt = 6, 3
    attention = random_attention(seed, 2 + seed % 3, size, causal=True)
    graph = capacities(attention)
    found = attention_flow(attention, prompt=prompt)[0].numpy()
    assert np.abs(found[:, prompt:]).max() == 0
    for output, sink in [(5, 0), (5, 2), (4, 1), (2, 1)]:
        expected = networkx_flow(graph, output, [sink], prompt=prompt)
        assert found[output, sink] == pytest.approx(expected, abs=1e-9)
    phi = attention_flow(attention, prompt=prompt, mode="shapley", sources=[5])[0, 0].numpy()
    game = enumerated_shapley(lambda chosen: networkx_flow(graph, 5, chosen, prompt=prompt) if chosen else 0.0, prompt)
    np.testing.assert_allclose(phi[:prompt], game, atol=1e-9)
    assert phi.sum() == pytest.approx(1.0, abs=1e-9)


def test_plain_python_gives_the_same(monkeypatch):
    """What runs where numba is missing."""
    pytest.importorskip("numba")
    graph = capacities(random_attention(10, 3, 5))
    expected = Network.of(graph).solo([0, 4])
    for name in ("_make_space", "_move", "_reset", "upper_bounds", "_descend", "_arriving", "_label", "_search",
                 "_next_edge", "_target", "_residual", "_push", "_raise", "_bounds_of_set", "pairwise"):  # fmt: skip
        monkeypatch.setattr(maxflow, name, getattr(maxflow, name).py_func)
    np.testing.assert_allclose(Network.of(graph).solo([0, 4]), expected, atol=1e-12)
    monkeypatch.setattr(maxflow, "_njit", None)
    with pytest.warns(RuntimeWarning, match=r"paperworks\[evaluation\]"):
        attention_flow(random_attention(10, 2, 3))


def test_the_area_exports_the_function_under_the_name_of_its_room():
    from paperworks.evaluation import attention_flow as exported

    attention = random_attention(0, 2, 4)
    torch.testing.assert_close(exported(attention, mode="joint"), attention_flow(attention, mode="joint"))


def test_bad_arguments_are_named():
    attention = random_attention(0, 2, 4)
    for options, words in [
        ({"mode": "max"}, "mode: expected one of pairwise, shapley, joint"),
        ({"source_layer": 2}, "source_layer: expected -2..1 or 'all', got 2"),
        ({"sources": [4]}, "sources: expected positions from -4 to 3"),
        ({"residual": 1.0}, r"residual: expected a number in \[0, 1\)"),
        ({"heads": 1}, "heads: expected numbers from 0 to 0, got 1"),
        ({"heads": "max"}, "heads: expected 'mean'"),
        ({"tol": 0.0}, "tol: expected a number between"),
        ({"jobs": 0}, "jobs: expected at least 1"),
        ({"n_permutations": 1}, "n_permutations: expected at least 2"),
        ({"prompt": 0}, "prompt: expected 1 to 4"),
        ({"prompt": 2}, "prompt: these weights look ahead"),
        ({"mask": torch.ones(1, 3, dtype=torch.bool)}, r"mask: expected a bool tensor \(1, 4\)"),
        ({"mask": torch.zeros(1, 4, dtype=torch.bool)}, "mask: a text keeps no token"),
    ]:
        with pytest.raises(ValueError, match=words):
            attention_flow(attention, **options)
