"""The contributions of ALTI in one compiled pass: no vector is written for a pair of positions. Needs numba."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from paperworks._compiled import FAST, in_threads, jit

# Multiply-adds from which waking a second thread pays.
WORTH_THREADS = 2_000_000


def closer(
    weights: Tensor, carried: Tensor, residual: Tensor, total: Tensor, scale: Tensor, *, own_place: bool
) -> Tensor:
    """`max(0, |o_t|_1 - |o_t - T_tj|_1)`, (B, T, S); exactly 0 where no head attends.

    weights (B, H, T, S); carried (B, S, H, D), what each head carries of each position; residual and total (B, T, D);
    scale (B, T, 1), of the norm. `own_place`: the residual is part of position t.
    """
    batch, _, length, width = weights.shape
    found = torch.empty(batch, length, width, dtype=total.dtype)
    arrays = [part.contiguous().numpy() for part in (weights, carried, residual, total, scale[..., 0], found)]
    threads = torch.get_num_threads() if weights.numel() * total.shape[2] >= WORTH_THREADS else 1
    in_threads(lambda thread, of: _closer(*arrays, own_place, thread, of), threads)
    return found


@jit(fastmath=FAST)
def _closer(weights, carried, residual, total, scale, found, own_place, thread, threads):
    batch, heads, length, width = weights.shape
    dim = total.shape[2]
    rest = np.empty(dim, dtype=total.dtype)
    for row in range(thread, batch * length, threads):
        b, t = row // length, row % length
        size = total[b, t, 0] * 0
        for d in range(dim):
            size += abs(total[b, t, d])
        for s in range(width):
            for d in range(dim):
                rest[d] = total[b, t, d]
            touched = own_place and s == t
            if touched:
                for d in range(dim):
                    rest[d] -= residual[b, t, d]
            for h in range(heads):
                share = weights[b, h, t, s] * scale[b, t]
                if share != 0:
                    touched = True
                    for d in range(dim):
                        rest[d] -= share * carried[b, s, h, d]
            distance = rest[0] * 0
            for d in range(dim):
                distance += abs(rest[d])
            found[b, t, s] = max(size - distance, size * 0) if touched else size * 0
