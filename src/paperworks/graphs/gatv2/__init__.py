"""GATv2: graph attention in which each query has its own ranking (Brody, Alon and Yahav, 2022, arXiv 2105.14491).

GAT ranks the neighbours of all nodes alike; GATv2 applies the attention vector after the nonlinearity,
`a . LeakyReLU(W_l x_j + W_r x_i)`, and can rank them by the query, at the same cost. Use it wherever a GAT is used,
most of all where it depends on who asks which neighbour matters; do not expect it to help where plain averaging is
enough. The layers run on fused kernels: memory grows with nodes and edges, not with edges x channels.

>>> import torch
>>> from paperworks.graphs import CSRGraph, GATv2Conv
>>> graph = CSRGraph.from_edge_index(torch.tensor([[0, 1, 2, 2], [1, 2, 0, 1]]), num_nodes=3, add_self_loops=True)
>>> GATv2Conv(8, 16, heads=4)(torch.randn(3, 8), graph).shape
torch.Size([3, 64])
"""

from typing import TYPE_CHECKING

from paperworks._lazy import attach

if TYPE_CHECKING:
    from paperworks.graphs.gatv2.attention import gatv2_attention
    from paperworks.graphs.gatv2.convs import DotProductGATConv, GATConv, GATv2Conv
    from paperworks.graphs.gatv2.dense import DenseGATv2
    from paperworks.graphs.gatv2.graph import CSRGraph
    from paperworks.graphs.gatv2.lookup import DictionaryLookup, dictionary_lookup
    from paperworks.graphs.gatv2.network import GraphAttentionNet
    from paperworks.graphs.gatv2.noise import add_edge_noise
    from paperworks.graphs.gatv2.staticity import attention_staticity

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "CSRGraph": "graph",
        "DenseGATv2": "dense",
        "DictionaryLookup": "lookup",
        "DotProductGATConv": "convs",
        "GATConv": "convs",
        "GATv2Conv": "convs",
        "GraphAttentionNet": "network",
        "add_edge_noise": "noise",
        "attention_staticity": "staticity",
        "dictionary_lookup": "lookup",
        "gatv2_attention": "attention",
    },
)
__all__ = [
    "CSRGraph",
    "DenseGATv2",
    "DictionaryLookup",
    "DotProductGATConv",
    "GATConv",
    "GATv2Conv",
    "GraphAttentionNet",
    "add_edge_noise",
    "attention_staticity",
    "dictionary_lookup",
    "gatv2_attention",
]
