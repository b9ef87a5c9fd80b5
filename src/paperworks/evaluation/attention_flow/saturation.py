"""Whether flow says anything beyond the first layer, for the attention at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paperworks.evaluation.attention_flow.flow import attention_flow
from paperworks.evaluation.attention_flow.layers import Attentions, Heads, attention_graph

SAME = 1e-6


@dataclass(frozen=True)
class Degeneracy:
    """How much of attention flow is trivial; one number per text (B,).

    trivial_share: share of pairs (output, input) whose flow is just `min(1, c_i)`, c the column sums of the first
    layer. variation: mean over inputs of the largest difference of flow between two outputs; 0: flow does not depend
    on the output at all.
    """

    trivial_share: Tensor
    variation: Tensor

    def __str__(self) -> str:
        share, variation = float(self.trivial_share.mean()), float(self.variation.mean())
        words = f"{share:.0%} of flows are column sums of the first layer; between outputs a flow differs by up to "
        return f"{words}{variation:.3f} (mean over inputs)"


def degeneracy(
    attentions: Attentions,
    *,
    residual: float = 0.5,
    heads: Heads = "mean",
    source_layer: int = -1,
    sources: Sequence[int] | None = None,
    mask: Tensor | None = None,
    renormalize: bool = False,
    jobs: int | None = None,
) -> Degeneracy:
    """Measure how far pairwise flow is determined by the first layer alone. Arguments as in `attention_flow`.

    Raises:
        ValueError: as `attention_flow`.
    """
    graph = attention_graph(attentions, residual=residual, heads=heads, mask=mask, renormalize=renormalize)
    flows = attention_flow(
        attentions,
        residual=residual,
        heads=heads,
        source_layer=source_layer,
        sources=sources,
        mask=mask,
        renormalize=renormalize,
        jobs=jobs,
    )
    return degeneracy_of(flows, graph.layers[:, 0], graph.mask, sources)


def degeneracy_of(flows: Tensor, first: Tensor, mask: Tensor, sources: Sequence[int] | None = None) -> Degeneracy:
    """The same from pairwise flows (B, S, n) that are known already, the first layer (B, n, n) and the mask (B, n)."""
    trivial = first.double().cpu().sum(1).clamp(max=1.0)
    inputs = mask.cpu()
    outputs = inputs if sources is None else inputs[:, [int(source) for source in sources]]
    pairs = outputs[:, :, None] & inputs[:, None, :]
    same = ((flows - trivial[:, None]).abs() <= SAME) & pairs
    share = same.sum((1, 2)) / pairs.sum((1, 2))
    highest = torch.where(pairs, flows, -torch.inf).amax(1)
    lowest = torch.where(pairs, flows, torch.inf).amin(1)
    spread = torch.where(inputs, highest - lowest, 0.0).sum(1) / inputs.sum(1)
    return Degeneracy(share, spread)
