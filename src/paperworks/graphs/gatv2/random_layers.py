"""How static layers with random weights are, on a random graph."""

from __future__ import annotations

from typing import Any

import torch

from paperworks.graphs.gatv2.graph import CSRGraph
from paperworks.graphs.gatv2.network import CONVS
from paperworks.graphs.gatv2.staticity import attention_staticity

NODES, EDGES, WIDTH, CHANNELS, HEADS = 200, 4000, 16, 8, 4
PAIRS = 500
SCALES = (0.5, 1.0, 4.0)


@torch.no_grad()
def staticity_of_random_layers(arm: str, *, seed: int) -> dict[str, Any]:
    """Agreement of queries on their best common source, over heads and sizes of the weights."""
    torch.manual_seed(seed)
    graph = CSRGraph.from_edge_index(torch.randint(NODES, (2, EDGES)), num_nodes=NODES)
    x = torch.randn(NODES, WIDTH)
    found = []
    for scale in SCALES:
        layer = CONVS[arm](WIDTH, CHANNELS, heads=HEADS, add_self_loops=False)
        for parameter in layer.parameters():
            parameter.copy_(scale * torch.randn_like(parameter) * WIDTH**-0.5)
        _, (edges, alpha) = layer(x, graph, return_attention_weights=True)
        found.append(attention_staticity(alpha, edges, max_pairs=PAIRS, seed=seed))
    agreement = torch.tensor([result["agreement"].tolist() for result in found])
    concordance = torch.tensor([result["kendall_w"].tolist() for result in found])
    return {
        "agreement_min": float(agreement.min()),
        "agreement_max": float(agreement.max()),
        "kendall_w": float(concordance.mean()),
        "parameters": sum(parameter.numel() for parameter in CONVS[arm](WIDTH, CHANNELS, heads=HEADS).parameters()),
    }
