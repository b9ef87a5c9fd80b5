# pyright: reportCallIssue=false, reportOperatorIssue=false, reportIndexIssue=false
"""The fused attention for CUDA: one program per segment and head, over tiles of edges.

Same operators, same segments and same dropout stream as the CPU kernels; edge features are left to the plain backend
here. Its arithmetic is tested in Triton's interpreter; it has not been run on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from paperworks.graphs.gatv2.ops import DROPOUT_STEPS, graph_attention, graph_attention_backward

TILE = 32


@triton.jit
def _kept(seed, counter, threshold):
    z = seed.to(tl.uint64) + (counter.to(tl.uint64) + 1) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    return (z >> 40) >= threshold.to(tl.uint64)


@triton.jit
def _score(left, base, att, slope, DOT: tl.constexpr):
    if DOT:
        pair = left * base
    else:
        pair = left + base
        pair = tl.where(pair > 0, pair, slope * pair)
    return tl.sum(pair * att, 1)


@triton.jit
def _forward(
    row_of, slot_of, start_of, col, edge_of, left, right, att, value, bias, mask, seed, out, high, total, scores,
    slope, threshold, scale, heads, width, channels,
    W: tl.constexpr, C: tl.constexpr, E: tl.constexpr, DOT: tl.constexpr, BIAS: tl.constexpr, MASK: tl.constexpr,
    DROP: tl.constexpr, SCORES: tl.constexpr,
):  # fmt: skip
    segment, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, slot = tl.load(row_of + segment).to(tl.int64), tl.load(slot_of + segment).to(tl.int64)
    start, stop = tl.load(start_of + segment), tl.load(start_of + segment + 1)
    w, c = tl.arange(0, W), tl.arange(0, C)
    a = tl.load(att + head * width + w, w < width, 0.0)[None]
    base = tl.load(right + (row * heads + head) * width + w, w < width, 0.0)[None]
    top, mass = float("-inf"), 0.0
    acc = tl.zeros([C], dtype=value.dtype.element_ty)
    top, mass = top + 0.0 * tl.sum(acc), mass + tl.sum(acc)
    for first in range(start, stop, E):
        k = first + tl.arange(0, E)
        here = k < stop
        on = here
        j, edge = tl.load(col + k, on, 0).to(tl.int64), tl.load(edge_of + k, on, 0).to(tl.int64)
        if MASK:
            on = on & (tl.load(mask + edge, on, 0) != 0)
        rows = (j * heads + head)[:, None]
        key = tl.load(left + rows * width + w[None], on[:, None] & (w < width)[None], 0.0)
        s = _score(key, base, a, slope, DOT)
        if BIAS:
            s += tl.load(bias + edge * heads + head, on, 0.0)
        s = tl.where(on, s, float("-inf"))
        if SCORES:
            tl.store(scores + k.to(tl.int64) * heads + head, s, here)
        new = tl.maximum(top, tl.max(s, 0))
        shrink = tl.where(new == float("-inf"), 1.0, tl.exp(top - new))
        p = tl.where(s == float("-inf"), 0.0, tl.exp(s - new))
        mass = mass * shrink + tl.sum(p, 0)
        if DROP:
            p = tl.where(_kept(tl.load(seed), edge * heads + head, threshold), p * scale, 0.0)
        v = tl.load(value + rows * channels + c[None], on[:, None] & (c < channels)[None], 0.0)
        acc = acc * shrink + tl.sum(p[:, None] * v, 0)
        top = new
    tl.store(out + (slot * heads + head) * channels + c, acc, c < channels)
    tl.store(high + slot * heads + head, top)
    tl.store(total + slot * heads + head, mass)


@triton.jit
def _rows(
    row_of, slot_of, start_of, col, edge_of, left, right, att, value, mask, seed, grad, lse, delta, scores, grad_scores,
    weight, dscore, dright, datt, dbias, slope, threshold, scale, heads, width, channels,
    W: tl.constexpr, C: tl.constexpr, E: tl.constexpr, DOT: tl.constexpr, MASK: tl.constexpr,
    DROP: tl.constexpr, THROUGH: tl.constexpr, DBIAS: tl.constexpr,
):  # fmt: skip
    segment, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, slot = tl.load(row_of + segment).to(tl.int64), tl.load(slot_of + segment).to(tl.int64)
    start, stop = tl.load(start_of + segment), tl.load(start_of + segment + 1)
    w, c = tl.arange(0, W), tl.arange(0, C)
    a = tl.load(att + head * width + w, w < width, 0.0)[None]
    base = tl.load(right + (row * heads + head) * width + w, w < width, 0.0)[None]
    g = tl.load(grad + (row * heads + head) * channels + c, c < channels, 0.0)[None]
    norm, mean = tl.load(lse + row * heads + head), tl.load(delta + row * heads + head)
    dr = tl.zeros([W], dtype=right.dtype.element_ty)
    da = tl.zeros([W], dtype=right.dtype.element_ty)
    for first in range(start, stop, E):
        k = first + tl.arange(0, E)
        here = k < stop
        on = here
        j, edge = tl.load(col + k, on, 0).to(tl.int64), tl.load(edge_of + k, on, 0).to(tl.int64)
        if MASK:
            on = on & (tl.load(mask + edge, on, 0) != 0)
        rows = (j * heads + head)[:, None]
        key = tl.load(left + rows * width + w[None], on[:, None] & (w < width)[None], 0.0)
        v = tl.load(value + rows * channels + c[None], on[:, None] & (c < channels)[None], 0.0)
        s = tl.load(scores + k.to(tl.int64) * heads + head, on, 0.0)
        alpha = tl.where(on, tl.exp(s - norm), 0.0)
        pull, kept = tl.sum(v * g, 1), alpha
        if DROP:
            factor = tl.where(_kept(tl.load(seed), edge * heads + head, threshold), scale, 0.0)
            pull, kept = pull * factor, alpha * factor
        ds = alpha * (pull - mean)
        if THROUGH:
            ds += tl.load(grad_scores + k.to(tl.int64) * heads + head, on, 0.0)
        tl.store(weight + k.to(tl.int64) * heads + head, kept, here)
        tl.store(dscore + k.to(tl.int64) * heads + head, ds, here)
        if DBIAS:
            tl.store(dbias + edge * heads + head, ds, on)
        if DOT:
            part = ds[:, None] * key
            da += tl.sum(part * base, 0)
        else:
            z = key + base
            part = ds[:, None] * tl.where(z > 0, 1.0, slope)
            da += tl.sum(part * z, 0)
        dr += tl.sum(part * a, 0)
    tl.store(dright + (slot * heads + head) * width + w, dr, w < width)
    tl.store(datt + (segment * heads + head) * width + w, da, w < width)


@triton.jit
def _columns(
    column_of, slot_of, start_of, row_of, place_of, left, right, att, grad, weight, dscore, dleft, dvalue,
    slope, heads, width, channels, W: tl.constexpr, C: tl.constexpr, E: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    segment, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column, slot = tl.load(column_of + segment).to(tl.int64), tl.load(slot_of + segment).to(tl.int64)
    start, stop = tl.load(start_of + segment), tl.load(start_of + segment + 1)
    w, c = tl.arange(0, W), tl.arange(0, C)
    a = tl.load(att + head * width + w, w < width, 0.0)[None]
    key = tl.load(left + (column * heads + head) * width + w, w < width, 0.0)[None]
    dl = tl.zeros([W], dtype=left.dtype.element_ty)
    dv = tl.zeros([C], dtype=left.dtype.element_ty)
    for first in range(start, stop, E):
        q = first + tl.arange(0, E)
        on = q < stop
        row, place = tl.load(row_of + q, on, 0).to(tl.int64), tl.load(place_of + q, on, 0).to(tl.int64)
        base = tl.load(right + (row * heads + head)[:, None] * width + w[None], on[:, None] & (w < width)[None], 0.0)
        g = tl.load(grad + (row * heads + head)[:, None] * channels + c[None], on[:, None] & (c < channels)[None], 0.0)
        ds = tl.load(dscore + place * heads + head, on, 0.0)[:, None]
        dv += tl.sum(tl.load(weight + place * heads + head, on, 0.0)[:, None] * g, 0)
        if DOT:
            dl += tl.sum(ds * a * base, 0)
        else:
            dl += tl.sum(ds * a * tl.where(key + base > 0, 1.0, slope), 0)
    tl.store(dleft + (slot * heads + head) * width + w, dl, w < width)
    tl.store(dvalue + (slot * heads + head) * channels + c, dv, c < channels)


def forward(
    left: Tensor, right: Tensor, att: Tensor, value: Tensor, attr: Tensor, lin: Tensor, bias: Tensor, mask: Tensor,
    seed: Tensor, rows: list[Tensor], columns: list[Tensor], slope: float, dropout: float, dot: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`ops.graph_attention` on CUDA."""
    heads, n_dst, extra = att.shape[0], right.shape[0], rows[5].shape[0]
    out = value.new_empty(n_dst + extra, value.shape[1])
    high, total = (right.new_empty(n_dst + extra, heads) for _ in range(2))
    scores = right.new_full((rows[4].shape[0] if keep else 0, heads), float("-inf"))
    left, right, att, value, bias, mask = (part.contiguous() for part in (left, right, att, value, bias, mask))
    sizes, tiles, threshold, scale = _sizes(att, value, dropout)
    if rows[0].shape[0]:
        _forward[(rows[0].shape[0], heads)](
            *rows[:5], left, right, att, value, bias, mask.to(torch.uint8), seed.to(left.device), out, high, total,
            scores, slope, threshold, scale, *sizes, **tiles, DOT=dot, BIAS=bias.shape[0] > 0, MASK=mask.shape[0] > 0,
            DROP=threshold > 0, SCORES=keep,
        )  # fmt: skip
    out, high, total = _merge(out.view(-1, heads, sizes[2]) if out.numel() else out, high, total, rows[5], n_dst)
    lse = torch.where(total == 0, float("inf"), high + total.clamp(min=torch.finfo(total.dtype).tiny).log())
    if out.numel():
        out = (out / total.clamp(min=torch.finfo(total.dtype).tiny)[..., None]).flatten(1)
    return out, lse, scores


def backward(
    left: Tensor, right: Tensor, att: Tensor, value: Tensor, attr: Tensor, lin: Tensor, bias: Tensor, mask: Tensor,
    seed: Tensor, rows: list[Tensor], columns: list[Tensor], slope: float, dropout: float, dot: bool, grad: Tensor,
    lse: Tensor, delta: Tensor, scores: Tensor, grad_scores: Tensor, wants_attr: bool, wants_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`ops.graph_attention_backward` on CUDA."""
    heads, (n_src, wide), n_dst = att.shape[0], left.shape, right.shape[0]
    left, right, att, value, mask, grad, lse, delta = (
        part.contiguous() for part in (left, right, att, value, mask, grad, lse, delta)
    )
    sizes, tiles, threshold, scale = _sizes(att, value, dropout)
    kept = [right.new_empty(rows[4].shape[0], heads) for _ in range(2)]
    dright = right.new_empty(n_dst + rows[5].shape[0], wide)
    datt = right.new_empty(rows[0].shape[0], wide)
    dbias = torch.zeros_like(bias if wants_bias else bias[:0])
    if rows[0].shape[0]:
        _rows[(rows[0].shape[0], heads)](
            *rows[:5], left, right, att, value, mask.to(torch.uint8), seed.to(left.device), grad, lse, delta, scores,
            grad_scores, *kept, dright, datt, dbias, slope, threshold, scale, *sizes, **tiles, DOT=dot,
            MASK=mask.shape[0] > 0, DROP=threshold > 0, THROUGH=grad_scores.shape[0] > 0,
            DBIAS=wants_bias,
        )  # fmt: skip
    dleft = left.new_empty(n_src + columns[6].shape[0], wide)
    dvalue = value.new_empty(n_src + columns[6].shape[0], value.shape[1])
    if columns[0].shape[0]:
        _columns[(columns[0].shape[0], heads)](
            *columns[:5], left, right, att, grad, *kept, dleft, dvalue, slope, *sizes, **tiles, DOT=dot
        )
    return (
        _folded(dleft, columns[6], n_src), _folded(dright, rows[5], n_dst), datt.sum(0).view_as(att),
        _folded(dvalue, columns[6], n_src), torch.zeros_like(attr if wants_attr else attr[:0]),
        torch.zeros_like(lin), dbias,
    )  # fmt: skip


def _sizes(att: Tensor, value: Tensor, dropout: float) -> tuple[tuple[int, int, int], dict[str, Any], int, float]:
    heads, width = att.shape
    channels = value.shape[1] // heads
    threshold = round(dropout * DROPOUT_STEPS)
    tiles = {"W": triton.next_power_of_2(width), "C": triton.next_power_of_2(channels), "E": TILE}
    return (heads, width, channels), tiles, threshold, 1 / (1 - threshold / DROPOUT_STEPS)


def _folded(buffer: Tensor, split: Tensor, count: int) -> Tensor:
    """Add the pieces of split rows to their first slot; `index_put` sorts, so the order of the sum is fixed."""
    if not split.numel():
        return buffer
    return buffer[:count].index_put((split.long(),), buffer[count:], accumulate=True)


def _merge(out: Tensor, high: Tensor, total: Tensor, split: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    if not split.numel():
        return out, high, total
    owner = torch.cat([torch.arange(count, device=split.device), split.long()])
    top = high[:count].scatter_reduce(0, split.long()[:, None].expand(-1, high.shape[1]), high[count:], "amax")
    share = torch.where(high.isneginf(), 0.0, torch.exp(high - top[owner]))
    return _folded(out * share[..., None], split, count), top, _folded(total * share, split, count)


graph_attention.register_kernel("cuda")(forward)
graph_attention_backward.register_kernel("cuda")(backward)
