"""A node classifier of stacked graph attention layers."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.graphs.gatv2.attention import Backend
from paperworks.graphs.gatv2.convs import DotProductGATConv, GATConv, GATv2Conv
from paperworks.graphs.gatv2.dense import KINDS, Kind
from paperworks.graphs.gatv2.sparse_input import SparseFeatures, drop

CONVS = {"gatv2": GATv2Conv, "gat": GATConv, "dot": DotProductGATConv}


class GraphAttentionNet(nn.Module):
    """Layers of graph attention with ELU between them; the last has one head.

    Args:
        in_channels: width of the node features; these may be sparse (see `SparseFeatures`).
        hidden: width between layers, all heads together.
        out_channels: classes.
        layers: number of attention layers.
        heads: of every layer but the last; a divisor of `hidden`.
        conv: gatv2, gat or dot.
        norm: layer norm between layers, or None.
        residual: linear residual in every layer.
        dropout: of every layer's input and of the attention weights.
        share_weights: one matrix for sources and targets (gatv2 only).
        add_self_loops: one loop per node.
        backend: see `gatv2_attention`.

    Shapes:
        x (N, in_channels), graph as in `GATv2Conv` -> logits (N, out_channels).

    Raises:
        ValueError: numbers out of range.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        *,
        layers: int = 2,
        heads: int = 8,
        conv: Kind = "gatv2",
        norm: Literal["layer"] | None = None,
        residual: bool = False,
        dropout: float = 0.0,
        share_weights: bool = False,
        add_self_loops: bool = True,
        backend: Backend = "auto",
    ):
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers: expected at least 1, got {layers}")
        if hidden % heads:
            raise ValueError(f"heads: expected a divisor of hidden={hidden}, got {heads}")
        if conv not in KINDS:
            raise ValueError(f"conv: expected one of {', '.join(KINDS)}, got {conv!r}")
        if norm not in (None, "layer"):
            raise ValueError(f"norm: expected 'layer' or None, got {norm!r}")
        if share_weights and conv != "gatv2":
            raise ValueError(f"share_weights: is an option of gatv2, got conv={conv!r}")
        own: dict[str, Any] = {"share_weights": share_weights} if conv == "gatv2" else {}
        own |= {"residual": residual, "dropout": dropout, "add_self_loops": add_self_loops, "backend": backend}
        self.dropout = dropout
        self.convs = nn.ModuleList()
        for layer in range(layers):
            width = in_channels if layer == 0 else hidden
            last = layer == layers - 1
            size, many = (out_channels, 1) if last else (hidden // heads, heads)
            self.convs.append(CONVS[conv](width, size, heads=many, **own))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) if norm else nn.Identity() for _ in range(layers - 1))

    def forward(self, x: Tensor | SparseFeatures, graph: Any) -> Tensor:
        """Logits (N, out_channels)."""
        for layer, conv in enumerate(self.convs):
            x = conv(drop(x, self.dropout, self.training), graph)
            if layer < len(self.norms):
                x = F.elu(self.norms[layer](x))
        return x  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def attention(self, x: Tensor | SparseFeatures, graph: Any) -> list[tuple[Tensor, Tensor]]:
        """(edge_index (2, E), alpha (E, heads)) of every layer, in evaluation mode."""
        from paperworks.nn.modes import evaluating

        found = []
        with evaluating(self):
            for layer, conv in enumerate(self.convs):
                x, weights = conv(x, graph, return_attention_weights=True)
                found.append(weights)
                if layer < len(self.norms):
                    x = F.elu(self.norms[layer](x))
        return found
