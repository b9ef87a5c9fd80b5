"""DictionaryLookup and noise edges: generated as the paper says."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperworks.graphs.gatv2.lookup import dictionary_lookup
from paperworks.graphs.gatv2.noise import add_edge_noise


def test_small_problems_hold_every_permutation_once():
    task = dictionary_lookup(4, seed=0)
    found = sorted(map(tuple, torch.cat([task.train, task.test]).tolist()))
    assert found == sorted(itertools.permutations(range(4)))
    assert task.pairs == int(0.8 ** (1 / 4) * 16) == 15


@pytest.mark.parametrize("k", [4, 6, 8])
def test_test_graphs_hold_a_pair_that_training_graphs_never_show(k):
    task = dictionary_lookup(k, n_graphs=3000, seed=1)
    shown = {(q, v) for row in task.train.tolist() for q, v in enumerate(row)}
    assert len(shown) <= task.pairs
    for row in task.test.tolist():
        assert any(pair not in shown for pair in enumerate(row))
    assert all(sorted(row) == list(range(k)) for row in torch.cat([task.train, task.test]).tolist())


def test_the_papers_size():
    task = dictionary_lookup(10, seed=0)
    assert task.pairs == 97
    assert len(task.train) + len(task.test) == 32_000
    assert 0.70 < len(task.train) / 32_000 < 0.77
    assert torch.equal(task.train, dictionary_lookup(10, seed=0).train)
    assert not torch.equal(task.train[:100], dictionary_lookup(10, seed=1).train[:100])


def test_nodes_and_edges_of_a_graph():
    task = dictionary_lookup(3, seed=0)
    nodes = task.nodes(torch.tensor([[2, 0, 1]]))
    assert nodes.tolist() == [[[0, 3], [1, 3], [2, 3], [0, 2], [1, 0], [2, 1]]]
    edges = set(map(tuple, task.edge_index().t().tolist()))
    assert edges == {(3 + key, query) for key in range(3) for query in range(3)}


@pytest.mark.parametrize("options", [{"k": 1}, {"k": 5, "n_graphs": 0}, {"k": 5, "train_fraction": 1.0}])
def test_bad_problems_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        dictionary_lookup(seed=0, **options)


@given(st.integers(2, 12), st.integers(0, 30), st.floats(0, 1), st.integers(0, 1000))
def test_noise_is_new_undirected_and_of_the_right_size(nodes, pairs, ratio, seed):
    rng = np.random.default_rng(seed)
    one = rng.integers(0, nodes, (2, pairs))
    edges = torch.from_numpy(np.concatenate([one, one[::-1]], axis=1))
    taken = set(map(tuple, edges.t().tolist())) | {(i, i) for i in range(nodes)}
    count = int(pairs * ratio)
    if count > nodes**2 - len(taken):
        with pytest.raises(ValueError, match="new pairs, only"):
            add_edge_noise(edges, ratio, num_nodes=nodes, seed=seed)
        return
    noisy = add_edge_noise(edges, ratio, num_nodes=nodes, seed=seed)
    assert torch.equal(noisy[:, : 2 * pairs], edges)
    new = noisy[:, 2 * pairs :]
    assert new.shape[1] == 2 * count
    assert torch.equal(new[:, count:], new[:, :count].flip(0))
    drawn = list(map(tuple, new[:, :count].t().tolist()))
    assert len(set(drawn)) == count
    assert not set(drawn) & taken
    assert torch.equal(noisy, add_edge_noise(edges, ratio, num_nodes=nodes, seed=seed))


def test_noise_is_uniform_over_the_free_pairs():
    edges = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    counts = np.zeros((4, 4))
    for seed in range(2000):
        source, target = add_edge_noise(edges, 0.5, num_nodes=4, seed=seed)[:, 4].tolist()
        counts[source, target] += 1
    free = counts[counts > 0]
    assert len(free) == 8
    assert np.abs(free - 250).max() < 5 * np.sqrt(250)


@pytest.mark.parametrize(
    ("edges", "ratio", "words"),
    [(torch.tensor([[0], [5]]), 0.1, "ids reach 5"), (torch.tensor([[0], [1]]), -1.0, "ratio"),
     (torch.zeros(3, 2, dtype=torch.int64), 0.1, "edge_index")],
)  # fmt: skip
def test_bad_noise_is_refused(edges, ratio, words):
    with pytest.raises(ValueError, match=words):
        add_edge_noise(edges, ratio, num_nodes=3, seed=0)
