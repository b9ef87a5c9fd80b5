"""Attention weights as the layers of a graph, and the two explanations that need no flow.

    A_l = (1 - r) a_l + r I        a_l: weights of layer l, mean of the heads; r = 0.5: the residual connection
    rollout = A_L ... A_2 A_1

Rows are queries (the upper node), columns keys (the lower node). The official code adds I and divides rows by their
sum, which is the same for rows that sum to 1.

Reference: Abnar and Zuidema, Quantifying Attention Flow in Transformers (2020, arXiv 2005.00928), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from paperworks.nn.attention_maps import AttentionMaps

Attentions: TypeAlias = "Tensor | Sequence[Tensor] | np.ndarray"
Heads: TypeAlias = "Literal['mean'] | int | Sequence[int]"

ROW_TOLERANCE = 1e-4


class Graph(NamedTuple):
    """Layers (B, L, n, n) whose kept rows sum to 1, zero elsewhere, and which tokens are kept (B, n)."""

    layers: Tensor
    mask: Tensor

    def reduced(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """One text without its dropped tokens: capacities (L, p, p) float64, and the positions (p,) that are left."""
        kept = torch.nonzero(self.mask[row]).flatten()
        layers = self.layers[row][:, kept][:, :, kept]
        return np.ascontiguousarray(layers.detach().cpu().double().numpy()), kept.cpu().numpy()


def attention_graph(
    attentions: Attentions,
    *,
    residual: float = 0.5,
    heads: Heads = "mean",
    mask: Tensor | None = None,
    renormalize: bool = False,
) -> Graph:
    """The graph that attention weights span.

    Args:
        attentions: L tensors (B, H, n, n) as transformers returns them, or one (B, L, H, n, n), (L, H, n, n) or
            (L, n, n), the last two of one text.
        residual: the share r of the residual connection; 0: none, for weights that have it in them already.
        heads: the mean of all heads, one head, or the mean of some.
        mask: (B, n) bool, True = token. Rows and columns of others are dropped and the remaining rows divided by their
            sum, so what went to a dropped token is shared out among the kept.
        renormalize: divide rows by their sum, where they do not sum to 1 to begin with.

    Raises:
        ValueError: no layers (the usual sign of fused attention), layers of unequal shape, not square, negative or
            not finite weights, rows that do not sum to 1, a head or mask that does not fit.
    """
    weights = _read(attentions, heads)
    if not 0 <= residual < 1:
        raise ValueError(f"residual: expected a number in [0, 1), got {residual}")
    batch, _, size, _ = weights.shape
    kept = _check_mask(mask, batch, size, weights.device)
    square = (kept[:, None, :, None] & kept[:, None, None, :]).expand_as(weights)
    rows = kept[:, None, :].expand(weights.shape[:3])
    _check_weights(weights, rows, renormalize)
    weights = torch.where(square, weights, weights.new_zeros(()))
    totals = weights.sum(-1, keepdim=True)
    if bool((totals[..., 0][rows] <= 0).any()):
        raise ValueError("mask: a token attends to dropped tokens alone, so its row cannot be renormalised; keep more")
    weights = weights / torch.where(rows[..., None], totals, torch.ones_like(totals))
    identity = torch.eye(size, dtype=weights.dtype, device=weights.device) * kept[:, None, :, None]
    return Graph((1 - residual) * weights + residual * identity, kept)


def attention_rollout(
    attentions: Attentions,
    *,
    residual: float = 0.5,
    heads: Heads = "mean",
    source_layer: int | Literal["all"] = -1,
    sources: Sequence[int] | None = None,
    mask: Tensor | None = None,
    renormalize: bool = False,
) -> Tensor:
    """Attention rollout: the product of the layers, mass sent down from each output along all edges at once.

    `R = A_L ... A_1`; `R[o]` is also the sink vector of a maximum flow from o (mass_k A[k, j] <= A[k, j], total 1), and
    close to the Shapley values of the flow game.

    Args:
        source_layer: the layer whose outputs are explained (-1: the last), or "all".
        sources: positions of those outputs; None: all.
        attentions, residual, heads, mask, renormalize: see `attention_graph`.

    Returns:
        (B, S, n), or (B, L, S, n) for all layers; rows sum to 1, dropped tokens have 0. Differentiable in the weights.

    Raises:
        ValueError: as `attention_graph`; a layer or source that is not there.

    Reference: Abnar and Zuidema (2020, arXiv 2005.00928), section 3.1; their code calls it joint attention.
    """
    graph = attention_graph(attentions, residual=residual, heads=heads, mask=mask, renormalize=renormalize)
    depth, size = graph.layers.shape[1], graph.layers.shape[-1]
    chosen = check_sources(sources, size)
    found = []
    for top in check_layers(source_layer, depth):
        mass = graph.layers[:, top - 1, chosen]
        for layer in range(top - 2, -1, -1):
            mass = mass @ graph.layers[:, layer]
        found.append(mass)
    return torch.stack(found, 1) if source_layer == "all" else found[0]


def raw_attention(
    attentions: Attentions,
    *,
    heads: Heads = "mean",
    source_layer: int | Literal["all"] = -1,
    sources: Sequence[int] | None = None,
    mask: Tensor | None = None,
    renormalize: bool = False,
) -> Tensor:
    """The weights of one layer as they are, without residual: (B, S, n), or (B, L, S, n) for all layers.

    Arguments and errors as in `attention_rollout`.
    """
    graph = attention_graph(attentions, residual=0.0, heads=heads, mask=mask, renormalize=renormalize)
    chosen = check_sources(sources, graph.layers.shape[-1])
    tops = check_layers(source_layer, graph.layers.shape[1])
    found = graph.layers[:, [top - 1 for top in tops]][:, :, chosen]
    return found if source_layer == "all" else found[:, 0]


def encoder_decoder_layers(maps: AttentionMaps, *, residual: float = 0.5, heads: Heads = "mean") -> Tensor:
    """An encoder-decoder as layers over S + T nodes, (B, L + 2 M, S + T, S + T): pass them on with `residual=0`.

    Encoder layers come first and carry the decoder's tokens along unchanged. Each decoder block is two layers:
    self-attention as usual, then cross-attention, where 1 - r of a row goes to the encoder's outputs, which are carried
    along unchanged above the encoder, and r to the token itself. Outputs are the positions S .. S + T - 1 (`sources=`);
    both the encoder's and the decoder's inputs take flow.

    Raises:
        ValueError: maps without encoder, decoder or cross weights; see `attention_graph`.
    """
    for name in ("encoder", "decoder", "cross"):
        if not getattr(maps, name):
            raise ValueError(f"maps: expected the weights of an encoder-decoder, got none for {name}")
    encoder = attention_graph(maps.encoder, residual=residual, heads=heads).layers
    decoder = attention_graph(maps.decoder, residual=residual, heads=heads).layers
    cross = torch.stack([_some_heads(layer.to(encoder.dtype), heads) for layer in maps.cross], 1)
    batch, depth, source, _ = encoder.shape
    target = decoder.shape[-1]
    if cross.shape != (batch, decoder.shape[1], target, source):
        expected = (batch, decoder.shape[1], target, source)
        raise ValueError(f"maps: expected cross weights {expected} after the mean of heads, got {tuple(cross.shape)}")
    blocks = torch.eye(source + target, dtype=encoder.dtype, device=encoder.device)
    layers = blocks.repeat(batch, depth + 2 * decoder.shape[1], 1, 1)
    layers[:, :depth, :source, :source] = encoder
    layers[:, depth::2, source:, source:] = decoder
    layers[:, depth + 1 :: 2, source:, :source] = (1 - residual) * cross
    layers[:, depth + 1 :: 2, source:, source:] *= residual
    return layers


def check_layers(source_layer: int | Literal["all"], depth: int) -> list[int]:
    """Numbers of layers below the chosen outputs, from 1 to `depth`."""
    if source_layer == "all":
        return list(range(1, depth + 1))
    if isinstance(source_layer, bool) or not isinstance(source_layer, int) or not -depth <= source_layer < depth:
        raise ValueError(f"source_layer: expected -{depth}..{depth - 1} or 'all', got {source_layer!r}")
    return [source_layer % depth + 1]


def check_sources(sources: Sequence[int] | None, size: int) -> list[int]:
    """The chosen output positions, negative ones counted from the end."""
    if sources is None:
        return list(range(size))
    chosen = [int(source) for source in sources]
    if not chosen or not all(-size <= source < size for source in chosen):
        raise ValueError(f"sources: expected positions from -{size} to {size - 1}, got {chosen}")
    return [source % size for source in chosen]


def _read(attentions: Any, heads: Heads) -> Tensor:
    """(B, L, n, n), in the weights' own precision but at least float32."""
    if isinstance(attentions, (Tensor, np.ndarray)):
        whole = torch.as_tensor(attentions)
        if whole.ndim not in (3, 4, 5):
            raise ValueError(
                f"attentions: expected (B, L, H, n, n), (L, H, n, n) or (L, n, n), got shape {tuple(whole.shape)}"
            )
        whole = whole[:, None] if whole.ndim == 3 else whole
        whole = whole[None] if whole.ndim == 4 else whole
        layers = list(whole.unbind(1))
    else:
        layers = list(attentions)
    if not layers or any(layer is None for layer in layers):
        raise ValueError("attentions is empty: load the model with attn_implementation='eager'")
    for number, layer in enumerate(layers):
        if not isinstance(layer, Tensor) or layer.ndim != 4 or layer.shape[-1] != layer.shape[-2]:
            got = tuple(layer.shape) if isinstance(layer, Tensor) else type(layer).__name__
            raise ValueError(f"attentions: layer {number}: expected a tensor (B, H, n, n), got {got}")
        if (layer.shape[0], layer.shape[2]) != (layers[0].shape[0], layers[0].shape[2]) or 0 in layer.shape:
            raise ValueError(
                f"attentions: layer {number} has shape {tuple(layer.shape)}, layer 0 {tuple(layers[0].shape)}; they "
                "must agree and hold something"
            )
    return torch.stack([_some_heads(layer, heads) for layer in layers], 1)


def _some_heads(weights: Tensor, heads: Heads) -> Tensor:
    """(B, H, n, m) -> (B, n, m)."""
    if not weights.is_floating_point():
        raise ValueError(f"attentions: expected floating-point weights, got {weights.dtype}")
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    if isinstance(heads, str):
        if heads != "mean":
            raise ValueError(f"heads: expected 'mean', a number or several, got {heads!r}")
        return weights.mean(1)
    chosen = [heads] if isinstance(heads, int) else [int(head) for head in heads]
    count = weights.shape[1]
    if not chosen or not all(-count <= head < count for head in chosen):
        raise ValueError(f"heads: expected numbers from 0 to {count - 1}, got {heads}")
    return weights[:, chosen].mean(1)


def _check_mask(mask: Tensor | None, batch: int, size: int, device: torch.device) -> Tensor:
    if mask is None:
        return torch.ones(batch, size, dtype=torch.bool, device=device)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (batch, size):
        got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask: expected a bool tensor {(batch, size)}, True = token, got {got}")
    if not bool(mask.any(1).all()):
        raise ValueError("mask: a text keeps no token")
    return mask.to(device)


def _check_weights(weights: Tensor, rows: Tensor, renormalize: bool) -> None:
    """Kept rows must be distributions; dropped ones (padded queries) may hold anything."""
    for number in range(weights.shape[1]):
        kept = weights.detach()[:, number][rows[:, number]]
        if not bool(kept.isfinite().all()):
            raise ValueError(f"attentions: layer {number} holds NaN or infinity; drop padded rows with mask=")
        if bool((kept < 0).any()):
            raise ValueError(f"attentions: layer {number} holds negative weights, down to {kept.min():.3g}")
        totals = kept.sum(-1)
        if not renormalize and bool(((totals - 1).abs() > ROW_TOLERANCE).any()):
            raise ValueError(
                f"attentions: layer {number} rows sum to {totals.min():.2f}..{totals.max():.2f}, expected 1; pass "
                "residual= or renormalize=True"
            )
