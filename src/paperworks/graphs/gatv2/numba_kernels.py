"""Fused attention over CSR rows for CPUs: at most a number per edge and head, never edges x heads x channels.

Work is cut into segments: a row, or a piece of one where a row is longer than a segment may be, so that a hub does not
hold up the others. Segments are grouped into blocks of about equal cost; blocks are what threads share. Which numbers
are summed in which order depends on the graph alone, not on the number of threads.

A segment writes into a slot. Slot i < N belongs to the first segment of row i, the slots behind to further pieces of
split rows, which `_merge_softmax` and `_merge_sums` fold into the first.

Importing this module imports numba; `ops.py` does so at the first call.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from paperworks._compiled import FAST, jit

# So many edges ahead the rows of a table are asked for, so that they are there when their turn comes.
AHEAD = 6
CACHE_LINE = 64
# Edges x channels from which on several threads pay.
WORTH_THREADS = 1 << 20
_GOLDEN, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@intrinsic
def _prefetch(typingctx, table, row, byte):
    """Ask for the cache line of a C-contiguous table's row at that byte; no effect on any value."""

    def codegen(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = builder.extract_value(array.strides, 0)
        offset = builder.add(builder.mul(arguments[1], stride), arguments[2])
        number, pointer = ir.IntType(32), ir.PointerType()
        base = builder.ptrtoint(array.data, offset.type)
        place = builder.inttoptr(builder.add(base, offset), pointer)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, ir.Constant(number, 0), ir.Constant(number, 3), ir.Constant(number, 1)])
        return context.get_dummy_value()

    return types.void(table, types.int64, types.int64), codegen


@jit()
def _prefetch_row(table, row):
    for byte in range(0, table.shape[1] * table.itemsize, CACHE_LINE):
        _prefetch(table, row, byte)  # pyright: ignore[reportCallIssue]


@jit()
def _kept(seed, counter, threshold):
    """Whether the counter-th number of the stream is kept: splitmix64 of seed and counter, its upper 24 bits."""
    z = np.uint64(seed) + (np.uint64(counter) + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)) >= np.uint64(threshold)


@jit(fastmath=FAST)
def _head_sums(numbers, sums):
    """sums[h] = numbers[h].sum()."""
    for h in range(numbers.shape[0]):
        total = numbers.dtype.type(0)
        for c in range(numbers.shape[1]):
            total += numbers[h, c]
        sums[h] = total


@jit()
def _spread(numbers, wide):
    """wide[h, c] = numbers[h]."""
    for h in range(wide.shape[0]):
        number = numbers[h]
        for c in range(wide.shape[1]):
            wide[h, c] = number


@jit(fastmath=FAST)
def _pairs(left, base, att, slope, dot, pair):
    """pair = att * leaky(left + base), or att * left * base: what a score sums."""
    if dot:
        for c in range(pair.shape[0]):
            pair[c] = att[c] * left[c] * base[c]
    else:
        for c in range(pair.shape[0]):
            z = left[c] + base[c]
            pair[c] = att[c] * (z if z > 0 else slope * z)


@jit(fastmath=FAST)
def _shifted(right_row, attr_row, lin, out):
    """out = right_row + attr_row @ lin."""
    for c in range(out.shape[0]):
        out[c] = right_row[c]
    for d in range(attr_row.shape[0]):
        a = attr_row[d]
        for c in range(out.shape[0]):
            out[c] += a * lin[d, c]


@jit(fastmath=FAST)
def _forward_block(first, last, plan, left, right, att, value, edges, options, out, high, total, scores):
    row_of, slot_of, start_of, col, edge_of, _rows = plan
    attr, lin, bias, mask = edges
    slope, dot, seed, threshold, scale = options
    heads = high.shape[1]
    kind = left.dtype.type
    zero, lowest = kind(0), kind(-np.inf)
    pair = np.empty((heads, left.shape[1] // heads), left.dtype)
    wide = np.empty((heads, value.shape[1] // heads), left.dtype)
    flat_pair, flat_wide = pair.reshape(-1), wide.reshape(-1)
    shifted = np.empty(right.shape[1], left.dtype)
    score, weight = np.empty(heads, left.dtype), np.empty(heads, left.dtype)
    apart = left.ctypes.data != value.ctypes.data
    for segment in range(first, last):
        row, slot = row_of[segment], slot_of[segment]
        base, acc, top, mass = right[row], out[slot], high[slot], total[slot]
        for h in range(heads):
            top[h] = lowest
            mass[h] = 0
        for c in range(acc.shape[0]):
            acc[c] = 0
        for k in range(start_of[segment], start_of[segment + 1]):
            # Beyond the row's end the next row's edges follow, and are the next to be needed.
            if k + AHEAD < col.shape[0]:
                _prefetch_row(left, col[k + AHEAD])
                if apart:
                    _prefetch_row(value, col[k + AHEAD])
            edge = edge_of[k]
            if mask.shape[0] > 0 and not mask[edge]:
                continue
            if attr.shape[0] > 0:
                _shifted(right[row], attr[edge], lin, shifted)
                base = shifted
            _pairs(left[col[k]], base, att, slope, dot, flat_pair)
            _head_sums(pair, score)
            for h in range(heads):
                s = score[h]
                if bias.shape[0] > 0:
                    s += bias[edge, h]
                if scores.shape[0] > 0:
                    scores[k, h] = s
                weight[h] = zero
                if s == lowest:
                    continue
                if s > top[h]:
                    shrink = math.exp(top[h] - s)
                    mass[h] *= shrink
                    for c in range(wide.shape[1]):
                        acc[np.uint64(h * wide.shape[1] + c)] *= shrink
                    top[h] = s
                p = math.exp(s - top[h])
                mass[h] += p
                if threshold > 0:
                    p = p * scale if _kept(seed, edge * heads + h, threshold) else zero
                weight[h] = p
            _spread(weight, wide)
            v = value[col[k]]
            for c in range(acc.shape[0]):
                acc[c] += flat_wide[c] * v[c]


@jit(fastmath=FAST)
def _rows_block(first, last, plan, left, right, att, value, edges, options, given, kept, sums, grads):
    """Gradients of the row side; keeps per edge and head the weight and the gradient of its score for the columns."""
    row_of, slot_of, start_of, col, edge_of, _rows = plan
    attr, lin, _bias, mask = edges
    slope, dot, seed, threshold, scale = options
    grad, lse, delta, scores, grad_scores = given
    weight, dscore = kept
    dright, datt, dlin = sums
    dattr, dbias = grads
    heads = lse.shape[1]
    zero, one = left.dtype.type(0), left.dtype.type(1)
    pair = np.empty((heads, left.shape[1] // heads), left.dtype)
    product = np.empty((heads, value.shape[1] // heads), left.dtype)
    flat_pair, flat_product = pair.reshape(-1), product.reshape(-1)
    shifted, push = np.empty(right.shape[1], left.dtype), np.empty(right.shape[1], left.dtype)
    score, pull = np.empty(heads, left.dtype), np.empty(heads, left.dtype)
    apart = left.ctypes.data != value.ctypes.data
    for segment in range(first, last):
        row = row_of[segment]
        base, acc, g = right[row], dright[slot_of[segment]], grad[row]
        for c in range(acc.shape[0]):
            acc[c] = 0
        for k in range(start_of[segment], start_of[segment + 1]):
            # Beyond the row's end the next row's edges follow, and are the next to be needed.
            if k + AHEAD < col.shape[0]:
                _prefetch_row(left, col[k + AHEAD])
                if apart:
                    _prefetch_row(value, col[k + AHEAD])
            edge = edge_of[k]
            if mask.shape[0] > 0 and not mask[edge]:
                for h in range(heads):
                    weight[k, h] = 0
                    dscore[k, h] = 0
                continue
            if attr.shape[0] > 0:
                _shifted(right[row], attr[edge], lin, shifted)
                base = shifted
            key, v = left[col[k]], value[col[k]]
            for c in range(flat_product.shape[0]):
                flat_product[c] = g[c] * v[c]
            _head_sums(product, pull)
            for h in range(heads):
                alpha = math.exp(scores[k, h] - lse[row, h])
                factor = one
                if threshold > 0:
                    factor = scale if _kept(seed, edge * heads + h, threshold) else zero
                ds = alpha * (factor * pull[h] - delta[row, h])
                if grad_scores.shape[0] > 0:
                    ds += grad_scores[k, h]
                weight[k, h] = factor * alpha
                dscore[k, h] = ds
                score[h] = ds
                if dbias.shape[0] > 0:
                    dbias[edge, h] = ds
            _spread(score, pair)
            if dot:
                for c in range(acc.shape[0]):
                    part = flat_pair[c] * key[c]
                    push[c] = part * att[c]
                    acc[c] += part * att[c]
                    datt[c] += part * base[c]
            else:
                for c in range(acc.shape[0]):
                    z = key[c] + base[c]
                    part = flat_pair[c] * (one if z > 0 else slope)
                    push[c] = part * att[c]
                    acc[c] += part * att[c]
                    datt[c] += part * z
            if attr.shape[0] > 0:
                for d in range(attr.shape[1]):
                    a, back = attr[edge, d], zero
                    for c in range(push.shape[0]):
                        dlin[d, c] += a * push[c]
                        back += lin[d, c] * push[c]
                    if dattr.shape[0] > 0:
                        dattr[edge, d] = back


@jit(fastmath=FAST)
def _columns_block(first, last, plan, left, right, att, grad, edges, options, kept, dleft, dvalue):
    """Gradients of the column side, from what `_rows_block` kept: no exponential, no dot product."""
    column_of, slot_of, start_of, row_of, place_of, edge_of = plan
    attr, lin, _bias, _mask = edges
    slope, dot, _seed, _threshold, _scale = options
    weight, dscore = kept
    heads = weight.shape[1]
    one = left.dtype.type(1)
    wide_weight = np.empty((heads, grad.shape[1] // heads), left.dtype)
    wide_score = np.empty((heads, left.shape[1] // heads), left.dtype)
    w, ds = wide_weight.reshape(-1), wide_score.reshape(-1)
    shifted = np.empty(right.shape[1], left.dtype)
    for segment in range(first, last):
        own, slot = left[column_of[segment]], slot_of[segment]
        dl, dv = dleft[slot], dvalue[slot]
        for c in range(dl.shape[0]):
            dl[c] = 0
        for c in range(dv.shape[0]):
            dv[c] = 0
        for q in range(start_of[segment], start_of[segment + 1]):
            if q + AHEAD < row_of.shape[0]:
                _prefetch_row(right, row_of[q + AHEAD])
                _prefetch_row(grad, row_of[q + AHEAD])
                _prefetch_row(weight, place_of[q + AHEAD])
                _prefetch_row(dscore, place_of[q + AHEAD])
            place, row = place_of[q], row_of[q]
            base, g = right[row], grad[row]
            if attr.shape[0] > 0:
                _shifted(right[row], attr[edge_of[q]], lin, shifted)
                base = shifted
            _spread(weight[place], wide_weight)
            _spread(dscore[place], wide_score)
            for c in range(dv.shape[0]):
                dv[c] += w[c] * g[c]
            if dot:
                for c in range(dl.shape[0]):
                    dl[c] += ds[c] * att[c] * base[c]
            else:
                for c in range(dl.shape[0]):
                    z = own[c] + base[c]
                    dl[c] += ds[c] * att[c] * (one if z > 0 else slope)


@jit(fastmath=FAST)
def _merge_softmax(rows, split_row, out, high, total):
    """Fold the pieces of split rows into their first slot: a softmax of parts, exactly as within a row."""
    heads = high.shape[1]
    channels = out.shape[1] // heads
    for extra in range(split_row.shape[0]):
        row, slot = split_row[extra], rows + extra
        for h in range(heads):
            top = max(high[row, h], high[slot, h])
            if top == -np.inf:
                continue
            a, b = math.exp(high[row, h] - top), math.exp(high[slot, h] - top)
            high[row, h] = top
            total[row, h] = a * total[row, h] + b * total[slot, h]
            for c in range(channels):
                place = h * channels + c
                out[row, place] = a * out[row, place] + b * out[slot, place]


@jit(fastmath=FAST)
def _finish_block(first, last, out, high, total):
    """Divide by the mass; `high` becomes the log-sum-exp, +inf for rows without edges (their weights are then 0)."""
    heads = high.shape[1]
    channels = out.shape[1] // heads
    for row in range(first, last):
        for h in range(heads):
            if total[row, h] == 0:
                high[row, h] = np.inf
                continue
            inverse = out.dtype.type(1) / total[row, h]
            high[row, h] += math.log(total[row, h])
            for c in range(channels):
                out[row, np.uint64(h * channels + c)] *= inverse


@jit()
def _merge_sums(rows, split_row, out):
    for extra in range(split_row.shape[0]):
        for c in range(out.shape[1]):
            out[split_row[extra], c] += out[rows + extra, c]


def _drivers(parallel: bool) -> tuple[Any, Any, Any]:
    span = numba.prange if parallel else range

    @jit(parallel=parallel)
    def forward(blocks, plan, left, right, att, value, edges, options, split_row, out, high, total, scores):
        for b in span(blocks.shape[0] - 1):
            _forward_block(
                blocks[b], blocks[b + 1], plan, left, right, att, value, edges, options, out, high, total, scores
            )
        rows = plan[5]
        _merge_softmax(rows, split_row, out, high, total)
        step = max(1, (rows + 63) // 64)
        for b in span(64):
            _finish_block(min(rows, b * step), min(rows, (b + 1) * step), out, high, total)

    @jit(parallel=parallel)
    def rows_backward(
        blocks, plan, left, right, att, value, edges, options, given, kept, split_row, dright, datt, dlin, grads
    ):
        for b in span(blocks.shape[0] - 1):
            sums = (dright, datt[b], dlin[b])
            _rows_block(
                blocks[b], blocks[b + 1], plan, left, right, att, value, edges, options, given, kept, sums, grads
            )
        _merge_sums(plan[5], split_row, dright)

    @jit(parallel=parallel)
    def columns_backward(
        blocks, plan, left, right, att, grad, edges, options, kept, columns, split_column, dleft, dvalue
    ):
        for b in span(blocks.shape[0] - 1):
            _columns_block(blocks[b], blocks[b + 1], plan, left, right, att, grad, edges, options, kept, dleft, dvalue)
        _merge_sums(columns, split_column, dleft)
        _merge_sums(columns, split_column, dvalue)

    return forward, rows_backward, columns_backward


KERNELS = {False: _drivers(False), True: _drivers(True)}


def kernels(work: int) -> tuple[Any, Any, Any]:
    """(forward, rows backward, columns backward) for as many threads as torch uses; `work`: edges x channels.

    With one thread, or little work, no pool of threads is touched: forked data loaders are safe, and waking threads
    would cost more than they do.
    """
    import torch

    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore
    threads = min(torch.get_num_threads(), most) if work >= WORTH_THREADS else 1
    if threads > 1:
        numba.set_num_threads(threads)
    return KERNELS[threads > 1]
