"""Detectors that look at where the decoder looks: attention to the end of the source, and words never looked at.

Notes:

1. Attention is (target, source): rows are target positions and sum to one over the source.
2. Fused kernels return no weights; `attentions_of` asks for eager attention in its call only.
3. Multilingual models put language tokens before or after the text: masks leave their rows and columns out.

Reference: Berard et al. (2019) for attention to the end token; Garg et al. / Guerreiro et al. (2023, arXiv 2208.05309),
section 4, for ignored source words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from paperworks.language.nmt_hallucinations.batching import BATCH_TOKENS, Batch, batches
from paperworks.language.nmt_hallucinations.logprob import check_pairs
from paperworks.language.nmt_hallucinations.models import Translator
from paperworks.nn.attention_maps import attentions_of
from paperworks.nn.contract import check_mask

IGNORED_BELOW = 0.2
Heads = Literal["mean"] | int


def attention_to_eos(
    attention: Tensor | Sequence[Tensor],
    source_mask: Tensor,
    target_mask: Tensor,
    *,
    layer: int = -1,
    heads: Heads = "mean",
) -> Tensor:
    """The share of attention that falls on the source's end token, the mean over target tokens: (B,) in [0, 1].

    Args:
        attention: (B, H, T, S), or one such tensor a layer, of which `layer` is taken.
        source_mask: (B, S) bool, True at the text and its end token, which is the last True of each row.
        target_mask: (B, T) bool, True at the target tokens that count.
        layer: which layer, where there are several.
        heads: "mean", or the number of one head.

    Raises:
        ValueError: shapes that do not fit, rows that do not sum to one, or a pair without tokens.
    """
    weights = _choose(attention, source_mask, target_mask, layer, heads)
    end = _last(source_mask)
    on_end = weights.gather(2, end[:, None, None].expand(-1, weights.shape[1], 1))[..., 0]
    return on_end.masked_fill(~target_mask, 0).sum(1) / target_mask.sum(1)


def ignored_source(
    attention: Tensor | Sequence[Tensor],
    source_mask: Tensor,
    target_mask: Tensor,
    *,
    threshold: float = IGNORED_BELOW,
    include_eos: bool = False,
    layer: int = -1,
    heads: Heads = "mean",
) -> Tensor:
    """The share of source tokens whose attention, summed over the target, stays below `threshold`: (B,) in [0, 1].

    `include_eos`: whether the end token is one of the source tokens; a source of nothing else is not ignored (0).
    Other arguments and errors as for `attention_to_eos`.
    """
    weights = _choose(attention, source_mask, target_mask, layer, heads)
    received = weights.masked_fill(~target_mask[..., None], 0).sum(1)
    counted = source_mask
    if not include_eos:
        positions = torch.arange(source_mask.shape[1], device=source_mask.device)
        counted = source_mask & (positions != _last(source_mask)[:, None])
    ignored = (received < threshold) & counted
    return ignored.sum(1) / counted.sum(1).clamp(min=1)


def source_marginals(
    attention: Tensor | Sequence[Tensor],
    source_mask: Tensor,
    target_mask: Tensor,
    *,
    layer: int = -1,
    heads: Heads = "mean",
) -> list[np.ndarray]:
    """For each pair the mean over target tokens of the attention on each source token: a distribution over the source.

    The columns that `source_mask` leaves out are taken out, and the rest sums to one. Arguments and errors as for
    `attention_to_eos`.
    """
    weights = _choose(attention, source_mask, target_mask, layer, heads)
    mean = weights.masked_fill(~target_mask[..., None], 0).sum(1) / target_mask.sum(1, keepdim=True)
    rows = [row[kept].double().cpu().numpy() for row, kept in zip(mean, source_mask, strict=True)]
    return [row / row.sum() for row in rows]


def attention_risks(
    face: Translator,
    sources: Sequence[str],
    outputs: Sequence[str],
    *,
    layer: int = -1,
    heads: Heads = "mean",
    batch_tokens: int = BATCH_TOKENS,
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray]:
    """One pass for all attention detectors: attention to the end (rows,), ignored source (rows,), the source marginals,
    and the lengths of the targets (rows,).

    Raises:
        ValueError: as `attention_to_eos` and `seq_logprob`.
    """
    count = len(sources)
    to_end, ignored, lengths = np.empty(count), np.empty(count), np.empty(count)
    marginals: list[np.ndarray] = [np.zeros(0)] * count
    for batch, cross in _cross_attention(face, sources, outputs, layer, batch_tokens):
        seen, own = batch.source_own[batch.which], batch.own
        to_end[batch.rows] = attention_to_eos(cross, seen, own, heads=heads).double().cpu().numpy()
        ignored[batch.rows] = ignored_source(cross, seen, own, heads=heads).double().cpu().numpy()
        lengths[batch.rows] = own.sum(1).cpu().numpy()
        for row, marginal in zip(batch.rows, source_marginals(cross, seen, own, heads=heads), strict=True):
            marginals[row] = marginal
    return to_end, ignored, marginals, lengths


def _cross_attention(
    face: Translator, sources: Sequence[str], outputs: Sequence[str], layer: int, batch_tokens: int
) -> Iterator[tuple[Batch, Tensor]]:
    check_pairs(sources, outputs)
    source, target = face.sources(sources), face.targets(outputs)
    # All layers' weights are in memory at once, which a quarter of the tokens makes room for.
    for batch in batches(source, target, tokens=max(1, batch_tokens // 4), pad=face.pad, device=face.device):
        ids, mask = batch.whole_sources()
        with torch.no_grad():
            maps = attentions_of(face.model, face.inputs(ids, mask, batch.target, batch.target_mask))
        yield batch, maps.cross[layer].float()


def _choose(
    attention: Tensor | Sequence[Tensor], source_mask: Tensor, target_mask: Tensor, layer: int, heads: Any
) -> Tensor:
    """(B, T, S) of one layer, checked."""
    weights = attention if isinstance(attention, Tensor) else attention[layer]
    if weights.ndim != 4:
        raise ValueError(f"attention: expected (batch, heads, target, source), got shape {tuple(weights.shape)}")
    batch, count, length, width = weights.shape
    check_mask(source_mask, (batch, width), name="source_mask")
    check_mask(target_mask, (batch, length), name="target_mask")
    for name, mask in (("source_mask", source_mask), ("target_mask", target_mask)):
        if not bool(mask.any(1).all()):
            raise ValueError(f"{name}: pair {int((~mask.any(1)).nonzero()[0])} has no token")
    if heads != "mean" and not 0 <= heads < count:
        raise ValueError(f'heads: expected "mean" or 0 to {count - 1}, got {heads!r}')
    chosen = weights.mean(1) if heads == "mean" else weights[:, heads]
    totals = chosen.sum(2)[target_mask]
    if not bool(((totals - 1).abs() < 1e-2).all()):
        worst = float(totals[(totals - 1).abs().argmax()])
        raise ValueError(f"attention: rows must sum to 1 over the source, got {worst:.3f}; is it (target, source)?")
    return chosen


def _last(mask: Tensor) -> Tensor:
    """The last True of each row."""
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
