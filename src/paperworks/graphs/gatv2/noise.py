"""Random edges put into a graph, to see how much an attention suffers from neighbours that mean nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from paperworks.graphs.gatv2.graph import check_edges


def add_edge_noise(edge_index: Tensor, ratio: float, *, num_nodes: int, seed: int) -> Tensor:
    """Append `int((E // 2) * ratio)` random undirected edges, both directions of each.

    Pairs are drawn uniformly without replacement from the ordered pairs (i, j) that are neither loops nor edges of the
    graph, as in the paper's noise experiments.

    Args:
        edge_index: (2, E), an undirected graph in both directions.
        ratio: noise edges per edge.
        num_nodes: N.
        seed: of the draw; the same seed gives the same edges.

    Returns:
        (2, E + 2 int((E // 2) ratio)), the given edges first.

    Raises:
        ValueError: a negative ratio, a bad edge_index, or fewer free pairs than asked for.
    """
    check_edges(edge_index)
    if not ratio >= 0:
        raise ValueError(f"ratio: expected a number of at least 0, got {ratio}")
    edges = edge_index.detach().cpu().numpy().astype(np.int64)
    if edges.size and (edges.min() < 0 or edges.max() >= num_nodes):
        raise ValueError(f"edge_index: ids reach {edges.max()}, expected less than num_nodes={num_nodes}")
    taken = np.unique(np.concatenate([edges[0] * num_nodes + edges[1], np.arange(num_nodes) * (num_nodes + 1)]))
    count, free = int((edges.shape[1] // 2) * ratio), num_nodes**2 - len(taken)
    if count > free:
        raise ValueError(f"ratio: {ratio} asks for {count} new pairs, only {free} are neither edges nor loops")
    rng = np.random.default_rng(seed)
    drawn = rng.choice(free, count, replace=False, shuffle=False)
    # The drawn-th free pair: as many taken codes lie before it as satisfy taken[t] - t <= drawn.
    codes = drawn + np.searchsorted(taken - np.arange(len(taken)), drawn, side="right")
    pairs = np.stack([codes // num_nodes, codes % num_nodes])
    new = torch.from_numpy(np.concatenate([pairs, pairs[::-1]], axis=1)).to(edge_index)
    return torch.cat([edge_index, new], dim=1)
