"""The fused attention as PyTorch operators: forward, backward, and what `torch.compile` must know about them.

One operator serves three attentions. With base_i = right_i (+ lin . edge_attr):

    additive (GATv2)  score = att . LeakyReLU(left_j + base_i)      GAT is its case of one score channel per head
    dot               score = att . (left_j * base_i)
    alpha = softmax over the in-edges of i of (score + edge_bias);  out_i = sum_j dropout(alpha_ij) value_j

Saved for backward are the inputs, the output, a log-sum-exp per node and head, and a score per edge and head. With
g_i the gradient of out_i and delta_i = g_i . out_i, the gradient of a score is alpha (dropout . g_i . value_j -
delta_i).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DROPOUT_STEPS = 1 << 24


@torch.library.custom_op("paperworks::graph_attention", mutates_args=(), device_types="cpu")
def graph_attention(
    left: Tensor,
    right: Tensor,
    att: Tensor,
    value: Tensor,
    attr: Tensor,
    lin: Tensor,
    bias: Tensor,
    mask: Tensor,
    seed: Tensor,
    rows: list[Tensor],
    columns: list[Tensor],
    slope: float,
    dropout: float,
    dot: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(out (N_dst, H C), log-sum-exp, scores) of left (N_src, H W), right (N_dst, H W), att (H, W), value (N_src, H C).

    Of the edge tensors (attr (E, D) with lin (D, H W), bias (E, H), mask (E,)) those of no rows are absent. `scores`
    (E, H), in the order of rows, is empty unless `keep`; the backward pass needs it.
    """
    from paperworks.graphs.gatv2.numba_kernels import kernels

    heads, n_dst, extra = att.shape[0], right.shape[0], rows[5].shape[0]
    out = value.new_empty(n_dst + extra, value.shape[1])
    high, total = right.new_empty(n_dst + extra, heads), right.new_empty(n_dst + extra, heads)
    edges = rows[4].shape[0]
    scores = right.new_full((edges, heads), float("-inf")) if keep else right.new_empty(0, heads)
    kernels(edges * max(right.shape[1], value.shape[1]))[0](
        rows[6].numpy(),
        _plan(rows, n_dst),
        *_arrays(left, right, att.reshape(-1), value),
        tuple(_arrays(attr, lin, bias, mask)),
        _options(left, slope, dropout, dot, seed),
        rows[5].numpy(),
        *(part.numpy() for part in (out, high, total, scores)),
    )
    return (out[:n_dst].clone(), high[:n_dst].clone(), scores) if extra else (out, high, scores)


@graph_attention.register_fake
def _(left, right, att, value, attr, lin, bias, mask, seed, rows, columns, slope, dropout, dot, keep):
    heads, n_dst = att.shape[0], right.shape[0]
    scores = right.new_empty(rows[4].shape[0] if keep else 0, heads)
    return value.new_empty(n_dst, value.shape[1]), right.new_empty(n_dst, heads), scores


@torch.library.custom_op("paperworks::graph_attention_backward", mutates_args=(), device_types="cpu")
def graph_attention_backward(
    left: Tensor,
    right: Tensor,
    att: Tensor,
    value: Tensor,
    attr: Tensor,
    lin: Tensor,
    bias: Tensor,
    mask: Tensor,
    seed: Tensor,
    rows: list[Tensor],
    columns: list[Tensor],
    slope: float,
    dropout: float,
    dot: bool,
    grad: Tensor,
    lse: Tensor,
    delta: Tensor,
    scores: Tensor,
    grad_scores: Tensor,
    wants_attr: bool,
    wants_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of left, right, att, value, attr, lin and bias; those not wanted are empty."""
    from paperworks.graphs.gatv2.numba_kernels import kernels

    (n_src, width), n_dst, heads = left.shape, right.shape[0], att.shape[0]
    edges, blocks = rows[4].shape[0], max(1, rows[6].shape[0] - 1)
    _, rows_backward, columns_backward = kernels(edges * max(width, value.shape[1]))
    dright = right.new_empty(n_dst + rows[5].shape[0], width)
    datt, dlin = att.new_zeros(blocks, width), lin.new_zeros(blocks, *lin.shape)
    dattr, dbias = (
        torch.zeros_like(attr if wants_attr else attr[:0]),
        torch.zeros_like(bias if wants_bias else bias[:0]),
    )
    kept = (right.new_empty(edges, heads), right.new_empty(edges, heads))
    inputs = _arrays(left, right, att.reshape(-1))
    given = tuple(_arrays(attr, lin, bias, mask))
    options = _options(left, slope, dropout, dot, seed)
    rows_backward(
        rows[6].numpy(),
        _plan(rows, n_dst),
        *inputs,
        *_arrays(value),
        given,
        options,
        tuple(_arrays(grad, lse, delta, scores, grad_scores)),
        tuple(part.numpy() for part in kept),
        rows[5].numpy(),
        dright.numpy(),
        datt.numpy(),
        dlin.numpy(),
        (dattr.numpy(), dbias.numpy()),
    )
    extra = columns[6].shape[0]
    dleft, dvalue = left.new_empty(n_src + extra, width), value.new_empty(n_src + extra, value.shape[1])
    columns_backward(
        columns[7].numpy(),
        tuple(part.numpy() for part in columns[:6]),
        *inputs,
        *_arrays(grad),
        given,
        options,
        tuple(part.numpy() for part in kept),
        n_src,
        columns[6].numpy(),
        dleft.numpy(),
        dvalue.numpy(),
    )
    return (
        _first(dleft, n_src),
        _first(dright, n_dst),
        datt.sum(0).view_as(att),
        _first(dvalue, n_src),
        dattr,
        dlin.sum(0),
        dbias,
    )


@graph_attention_backward.register_fake
def _(
    left, right, att, value, attr, lin, bias, mask, seed, rows, columns, slope, dropout, dot, grad, lse, delta,
    scores, grad_scores, wants_attr, wants_bias,
):  # fmt: skip
    parts = (left, right, att, value, attr if wants_attr else attr[:0], lin, bias if wants_bias else bias[:0])
    return tuple(part.new_empty(part.shape) for part in parts)


def _first(buffer: Tensor, count: int) -> Tensor:
    """The rows without the slots of split rows; an operator's result must own its memory."""
    return buffer if buffer.shape[0] == count else buffer[:count].clone()


def _plan(rows: list[Tensor], count: int) -> tuple[Any, ...]:
    return (*(part.numpy() for part in rows[:5]), count)


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _options(left: Tensor, slope: float, dropout: float, dot: bool, seed: Tensor) -> tuple[Any, ...]:
    """Numbers in the kernels' types: a Python float would draw all arithmetic to float64."""
    import numpy as np

    number = np.float32 if left.dtype == torch.float32 else np.float64
    threshold = round(dropout * DROPOUT_STEPS)
    return number(slope), dot, int(seed), threshold, number(1 / (1 - threshold / DROPOUT_STEPS) if threshold else 1)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, rows, columns, slope, dropout, dot, _ = inputs
    out, lse, scores = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(*tensors, out, lse, scores, *rows, *columns)
    ctx.options = (slope, dropout, dot, len(rows))
    # Most calls use no score: no zeros are made for the gradients of what nobody used.
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: Tensor, grad_scores: Tensor | None) -> tuple[Any, ...]:
    left, right, att, value, attr, lin, bias, mask, seed, out, lse, scores, *graph = ctx.saved_tensors
    slope, dropout, dot, count = ctx.options
    grad = torch.zeros_like(out) if grad is None else grad
    delta = (grad * out).view(*lse.shape, out.shape[1] // lse.shape[1]).sum(-1)
    through = bias.new_empty(0, lse.shape[1]) if grad_scores is None else grad_scores
    gradients = graph_attention_backward(
        left, right, att, value, attr, lin, bias, mask, seed, graph[:count], graph[count:], slope, dropout, dot, grad,
        lse, delta, scores, through.contiguous(), ctx.needs_input_grad[4], ctx.needs_input_grad[6],
    )  # fmt: skip
    wanted = [g if need else None for g, need in zip(gradients, ctx.needs_input_grad[:7], strict=True)]
    return (*wanted, None, None, [None] * count, [None] * (len(graph) - count), None, None, None, None)


graph_attention.register_autograd(_backward, setup_context=_setup)
