"""DictionaryLookup: the smallest task that static attention cannot solve."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LARGEST_K = 4096


@dataclass(frozen=True)
class DictionaryLookup:
    """Complete bipartite graphs: k key nodes, each with a key and a value, and k query nodes, each with a key.

    A query must return the value of its key: graph g's answer to query q is `permutation[g, q]`.

    Attributes:
        k: keys, values and queries per graph.
        train: (graphs, k) int64, permutations.
        test: (graphs, k), those that hold a (key, value) pair that no training graph holds.
        pairs: number of (key, value) pairs that training graphs may hold.
    """

    k: int
    train: Tensor
    test: Tensor
    pairs: int

    def edge_index(self) -> Tensor:
        """(2, k^2): from each key node (ids k .. 2k - 1) to each query node (0 .. k - 1)."""
        keys = torch.arange(self.k, 2 * self.k).repeat(self.k)
        return torch.stack([keys, torch.arange(self.k).repeat_interleave(self.k)])

    def nodes(self, permutations: Tensor) -> Tensor:
        """Key and value ids of all nodes, (graphs, 2k, 2): queries first; a query's value is k, "empty"."""
        order = torch.arange(self.k).expand(len(permutations), -1)
        queries = torch.stack([order, torch.full_like(order, self.k)], dim=-1)
        return torch.cat([queries, torch.stack([order, permutations], dim=-1)], dim=1)


def dictionary_lookup(k: int, *, n_graphs: int = 32_000, train_fraction: float = 0.8, seed: int) -> DictionaryLookup:
    """The paper's problem: all k! permutations where they are at most `n_graphs`, else that many random ones.

    `int(train_fraction^(1/k) k^2)` random (key, value) pairs are allowed in training; graphs with any other pair are
    for testing. For k = 10 these are 97 of 100 pairs and about 23,600 training graphs.

    Raises:
        ValueError: k below 2, no graphs, or a fraction outside of (0, 1).
    """
    if not 2 <= k <= LARGEST_K:
        raise ValueError(f"k: expected 2 .. {LARGEST_K}, got {k}")
    if n_graphs < 1 or not 0 < train_fraction < 1:
        raise ValueError(
            f"n_graphs, train_fraction: expected at least 1 and in (0, 1), got {n_graphs}, {train_fraction}"
        )
    rng = np.random.default_rng(seed)
    if k < 20 and math.factorial(k) <= n_graphs:
        graphs = np.array(list(itertools.permutations(range(k))))
    else:
        graphs = rng.permuted(np.tile(np.arange(k), (n_graphs, 1)), axis=1)
    count = int(train_fraction ** (1 / k) * k * k)
    allowed = np.zeros(k * k, dtype=bool)
    allowed[rng.choice(k * k, count, replace=False)] = True
    seen = allowed[np.arange(k) * k + graphs].all(axis=1)
    return DictionaryLookup(k, torch.from_numpy(graphs[seen]), torch.from_numpy(graphs[~seen]), count)
