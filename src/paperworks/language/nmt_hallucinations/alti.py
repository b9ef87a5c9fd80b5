"""ALTI: how much of each generated token comes from the source, and how much from what was generated before.

In an attention block with weights a, values v, output projection W, residual x the output is a sum of vectors,

    o_t = sum_j T_tj + b (+ x_t),   T_tj = sum_h a_h,tj W_h v_h,j

and the contribution of position j is how much closer it brings the sum: `c_tj = max(0, |o_t|_1 - |o_t - T_tj|_1)`,
normalised over j. The residual belongs to its own position (j = t) in self-attention and is a column of its own in
cross-attention. Where the norm comes after the block it is linear once its standard deviation is known, and is applied
to every T and to o; where it comes before, nothing is.

Layers are chained. Encoder: product of the layers' matrices E. Decoder, each layer: the residual's share of the cross
block multiplies the self-attention's contributions to the prefix, the other columns are carried to the words by E:
`[C E | r C_self]`; layers are rolled over one another and rows renormalised. The result, (T, S + T), has rows that sum
to one; the risk is one minus the mean share of the source.

Notes:

1. The norm here has the biased variance and its epsilon where PyTorch has them, so that the parts add up to the output
   exactly; stopes divides by the unbiased deviation of (x + eps).
2. T is linear in W_h v_h,j, which the norm's mean and scale can be applied to beforehand: no (T, S, D, D) product. The
   (T, S, D) vectors exist for a chunk of targets at a time, and in the compiled pass (CPU, numba) not at all.
3. A row without any positive contribution goes to the residual.

Reference: Ferrando et al., Towards Opening the Black Box of Neural Machine Translation (2022, arXiv 2205.11631); as a
detector Dale et al. (2023, arXiv 2212.08597).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks._compiled import has_numba

# Numbers in the (B, S, chunk, D) vectors that exist at once, 16 MiB of float32.
CHUNK = 2**22


def block_contributions(
    weights: Tensor,
    values: Tensor,
    projection: Tensor,
    residual: Tensor,
    *,
    bias: Tensor | None = None,
    norm: nn.LayerNorm | None = None,
    own_column: bool = False,
    chunk: int = CHUNK,
) -> Tensor:
    """Contributions of all positions to the output of one attention block.

    Args:
        weights: (B, H, T, S) attention, zero at padding.
        values: (B, H, S, d).
        projection: (D, H d), the weight of the output layer.
        residual: (B, T, D), what is added to the block's output.
        bias: (D,) of the output layer.
        norm: the LayerNorm after the sum, in post-norm models.
        own_column: the residual is a column of its own (cross-attention) instead of part of position t.
        chunk: most numbers held at once.

    Returns:
        (B, T, S), or (B, T, S + 1) with `own_column`; rows sum to one.

    Raises:
        ValueError: shapes that do not fit.
    """
    batch, heads, length, width = weights.shape
    dim = projection.shape[0]
    if values.shape[:3] != (batch, heads, width) or values.shape[1] * values.shape[3] != projection.shape[1]:
        raise ValueError(f"values: expected {(batch, heads, width, 'd')}, got {tuple(values.shape)}")
    if residual.shape != (batch, length, dim):
        raise ValueError(f"residual: expected {(batch, length, dim)}, got {tuple(residual.shape)}")
    if not own_column and length != width:
        raise ValueError(f"weights: self-attention is square, got {length} x {width}; own_column=True for cross")
    per_head = projection.view(dim, heads, -1).permute(1, 2, 0)
    carried = (values @ per_head).transpose(1, 2)  # (B, S, H, D)
    total = torch.einsum("bhts,bshd->btd", weights, carried) + residual
    total = total if bias is None else total + bias
    scale = torch.ones_like(total[..., :1])
    if norm is not None:
        scale = (total.var(-1, unbiased=False, keepdim=True) + norm.eps).rsqrt()
        carried, residual = _centred(carried, norm), _centred(residual, norm) * scale
        total = F.layer_norm(total, total.shape[-1:], _as(norm.weight, total), _as(norm.bias, total), norm.eps)
    size = total.abs().sum(-1, keepdim=True)
    if _compiled_serves(weights, carried, residual, total):
        from paperworks.language.nmt_hallucinations import alti_kernels

        closer = alti_kernels.closer(weights, carried, residual, total, scale, own_place=not own_column)
    else:
        rows = max(1, chunk // (batch * width * dim))
        parts = [
            _distances(weights, carried, residual, total, scale, slice(first, first + rows), own_column)
            for first in range(0, length, rows)
        ]
        closer = (size - torch.cat(parts, 1)).clamp(min=0)
    if own_column:
        apart = (residual - total).abs().sum(-1, keepdim=True)
        closer = torch.cat([closer, (size - apart).clamp(min=0)], -1)
    return _normalised(closer, own_column)


def roll_out(encoder: Sequence[Tensor], decoder: Sequence[Tensor], cross: Sequence[Tensor]) -> Tensor:
    """Chain the contributions of all layers: (B, T, S + T), rows sum to one.

    Args:
        encoder: (B, S, S) a layer.
        decoder: (B, T, T) a layer, lower triangular.
        cross: (B, T, S + 1) a layer, the residual in the last column.

    Raises:
        ValueError: unequal numbers of decoder layers, or none.
    """
    if not encoder or not decoder or len(decoder) != len(cross):
        raise ValueError(f"decoder, cross: expected as many layers each, got {len(decoder)} and {len(cross)}")
    words = encoder[0]
    for layer in encoder[1:]:
        words = layer @ words
    width = words.shape[2]
    rolled: Tensor | None = None
    for own, read in zip(decoder, cross, strict=True):
        prefix = own * read[..., -1:]
        source = read[..., :-1] @ words
        if rolled is None:
            rolled = torch.cat([source, prefix], -1)
            continue
        before = prefix @ rolled
        rolled = before + torch.cat([source, torch.zeros_like(before[..., width:])], -1)
        rolled = rolled / rolled.sum(-1, keepdim=True)
    assert rolled is not None
    return rolled


def source_share(contributions: Tensor, width: int, target_mask: Tensor) -> Tensor:
    """The mean over target tokens of what comes from the first `width` columns, the source: (B,)."""
    share = contributions[..., :width].sum(-1).masked_fill(~target_mask, 0)
    return share.sum(1) / target_mask.sum(1)


def _centred(vectors: Tensor, norm: nn.LayerNorm) -> Tensor:
    """The norm's linear part without the division by the deviation."""
    centred = vectors - vectors.mean(-1, keepdim=True)
    return centred if norm.weight is None else centred * norm.weight.to(vectors.dtype)


def _as(parameter: Tensor | None, like: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(like.dtype)


def _distances(
    weights: Tensor,
    carried: Tensor,
    residual: Tensor,
    total: Tensor,
    scale: Tensor,
    rows: slice,
    own_column: bool,
) -> Tensor:
    """`|o_t - T_tj|_1` for some targets t: (B, t, S)."""
    attention = weights[:, :, rows].permute(0, 3, 2, 1)  # (B, S, t, H)
    vectors = attention @ carried
    vectors *= scale[:, None, rows]
    if not own_column:
        place = torch.arange(weights.shape[2], device=weights.device)[rows]
        vectors[:, place, torch.arange(len(place), device=place.device)] += residual[:, rows]
    return vectors.sub_(total[:, None, rows]).abs_().sum(-1).transpose(1, 2)


def _compiled_serves(*tensors: Tensor) -> bool:
    """Whether the compiled pass takes these: on a CPU, of one precision, no gradient asked for, numba installed."""
    first = tensors[0]
    return (
        has_numba()
        and first.device.type == "cpu"
        and all(tensor.dtype == first.dtype for tensor in tensors)
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
    )


def _normalised(closer: Tensor, own_column: bool) -> Tensor:
    sums = closer.sum(-1, keepdim=True)
    fallback = torch.zeros_like(closer)
    if own_column:
        fallback[..., -1] = 1
    else:
        fallback.diagonal(dim1=-2, dim2=-1).fill_(1)
    return torch.where(sums > 0, closer / sums.clamp(min=torch.finfo(closer.dtype).tiny), fallback)
