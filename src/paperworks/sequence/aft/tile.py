"""Weighted means over keys, the one operation of an attention free transformer, and their merging.

    y_tc = sum_s exp(k_sc + w_ts) v_sc / sum_s exp(k_sc + w_ts),     l_tc = log of the denominator

A tile is a dense block of queries t and keys s. Means over disjoint sets of keys merge exactly: l = logaddexp(l1, l2),
y = y1 exp(l1 - l) + y2 exp(l2 - l).

Inside a tile k and w are stabilised apart, each by its largest value, so that numerator and denominator are one matrix
product. Alone that is not safe: where the largest w of a query meets a small k both factors underflow. Hence a
certificate: a denominator of at least 1e-28 is exact to 1e-7, since what can underflow is far below it. Entries under
that are computed again, key by key; ordinary inputs have none.

Layout of every tile: weights w (G, T, S); keys k (G, S, M, C') with C' = C or 1 (one key for all channels); values v
(G, S, M, C). G are groups of own weights, M whatever shares them. An absent pair has w = -inf, an absent key k = -inf,
and a query without keys has y = 0 and l = -inf.

Reference: Zhai et al., An Attention Free Transformer (2021, arXiv 2105.14103), equations 1-3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
CERTAIN = 1e-28
# Numbers that an exact recomputation holds at once.
PAIRS = 2**22


def single_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Sums stay in the precision of their inputs under autocast, forward and backward."""

    @functools.wraps(function)
    def plain(*args: P.args, **named: P.kwargs) -> R:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return function(*args, **named)

    return plain


class Mean(NamedTuple):
    """y (.., T, M, C) and l (.., T, M, C')."""

    y: Tensor
    l: Tensor  # noqa: E741


class Count:
    """How many entries had to be computed again; for tests and the curious."""

    forward = 0
    backward = 0


def merge(one: Mean, two: Mean) -> Mean:
    """The mean over both sets of keys."""
    both = torch.logaddexp(one.l, two.l)
    # Without any key both are -inf, and their difference would be NaN.
    base = both.masked_fill(both == -torch.inf, 0)
    return Mean(one.y * torch.exp(one.l - base) + two.y * torch.exp(two.l - base), both)


def tile_mean(w: Tensor, k: Tensor, v: Tensor) -> Mean:
    """The mean of a tile, without gradient: y (G, T, M, C), l (G, T, M, C')."""
    top_w, top_k = _top(w, 2), _top(k, 1)
    ew, ek = torch.exp(w - top_w), torch.exp(k - top_k)
    groups, length = w.shape[:2]
    channels, keys = v.shape[3], k.shape[3]
    product = (ew @ torch.cat([ek * v, ek], 3).flatten(2)).view(groups, length, -1, channels + keys)
    above, below = product[..., :channels], product[..., channels:]
    doubtful = below < CERTAIN
    y = above / below
    l = torch.log(below).add_(top_w[..., None]).add_(top_k)  # noqa: E741
    if bool(doubtful.any()):
        y = y.masked_fill(doubtful, 0)
        l = l.masked_fill(doubtful, -torch.inf)  # noqa: E741
        _repair(w, k, v, y, l, doubtful)
    return Mean(y, l)


def _top(x: Tensor, dim: int) -> Tensor:
    top = x.amax(dim, keepdim=True)
    return top.masked_fill(top == -torch.inf, 0)


def _repair(w: Tensor, k: Tensor, v: Tensor, y: Tensor, l: Tensor, doubtful: Tensor) -> None:  # noqa: E741
    """Write the means of doubtful entries that have keys, pair by pair, into y and l."""
    for g, t, m, c in _chunks(_with_keys(w, k, doubtful), w.shape[2]):
        exponents = k[g, :, m, c] + w[g, t]
        l[g, t, m, c] = exponents.logsumexp(1)
        share = torch.softmax(exponents, 1)
        if k.shape[3] == v.shape[3]:
            y[g, t, m, c] = (share * v[g, :, m, c]).sum(1)
        else:
            y[g, t, m] = torch.einsum("ns,nsc->nc", share, v[g, :, m])
        Count.forward += len(g)


def _with_keys(w: Tensor, k: Tensor, doubtful: Tensor) -> Tensor:
    """Places (n, 4) of doubtful entries that see at least one key."""
    there, kept = (w > -torch.inf).float(), (k > -torch.inf).float()
    seen = (there @ kept.flatten(2)).view_as(doubtful) > 0
    return (doubtful & seen).nonzero()


def _chunks(places: Tensor, keys: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    size = max(1, PAIRS // keys)
    return [part.unbind(1) for part in places.split(size)] if len(places) else []  # pyright: ignore[reportReturnType]


class Slopes(NamedTuple):
    """Gradients of w (or None), k and v."""

    w: Tensor | None
    k: Tensor
    v: Tensor


def tile_slopes(w: Tensor, k: Tensor, v: Tensor, g: Tensor, mean: Mean, *, of_w: bool) -> Slopes:
    """Gradients through a tile of a mean that may cover more keys than the tile has.

    With p = exp(k + w - l) and g (G, T, M, C) the gradient of y:

        dv = sum_t p g,   dk = sum_t p g (v - y)  (summed over the channels of a key),   dw = sum_mc p g (v - y)

    p is at most one, and is a product of three factors, exp(w - top), exp(k - top) and the rest; where the rest exceeds
    1e28 the first two may have underflowed, and the entry is computed pair by pair.
    """
    top_w, top_k = _top(w, 2), _top(k, 1)
    ew, ek = torch.exp(w - top_w), torch.exp(k - top_k)
    groups, channels, keys = len(w), v.shape[3], k.shape[3]
    rest = torch.exp(top_w[..., None] + top_k - mean.l)
    doubtful = rest > 1 / CERTAIN
    repaired = bool(doubtful.any())
    if repaired:
        rest = rest.masked_fill(doubtful, 0)
    scaled = g * rest
    pulled = scaled * mean.y
    if keys < channels:
        pulled = pulled.sum(3, keepdim=True)
    left = torch.cat([scaled, pulled], 3).flatten(2)  # (G, T, M (C + C'))
    sums = (ew.transpose(1, 2) @ left).view(groups, -1, v.shape[2], channels + keys)
    by_value = sums[..., :channels]
    dv = ek * by_value
    moved = v * by_value
    if keys < channels:
        moved = moved.sum(3, keepdim=True)
    dk = ek * (moved - sums[..., channels:])
    dw = ew * (left @ torch.cat([ek * v, -ek], 3).flatten(2).transpose(1, 2)) if of_w else None
    slopes = Slopes(dw, dk, dv)
    if repaired:
        _repair_slopes(w, k, v, g, mean, doubtful, slopes)
    return slopes


def _repair_slopes(w: Tensor, k: Tensor, v: Tensor, g: Tensor, mean: Mean, doubtful: Tensor, slopes: Slopes) -> None:
    """Add what doubtful entries contribute, pair by pair."""
    every = torch.arange(w.shape[2], device=w.device)
    for a, t, m, c in _chunks(_with_keys(w, k, doubtful), w.shape[2]):
        share = torch.exp(k[a, :, m, c] + w[a, t] - mean.l[a, t, m, c][:, None])
        at = (a[:, None], every, m[:, None])
        if k.shape[3] == v.shape[3]:
            pull = g[a, t, m, c][:, None]
            apart = share * pull * (v[a, :, m, c] - mean.y[a, t, m, c][:, None])
            slopes.v.index_put_((*at, c[:, None]), share * pull, accumulate=True)
        else:
            pull = g[a, t, m][:, None]
            apart = (share[..., None] * pull * (v[a, :, m] - mean.y[a, t, m][:, None])).sum(2)
            slopes.v.index_put_(at, share[..., None] * pull, accumulate=True)
        slopes.k.index_put_((*at, c[:, None]), apart, accumulate=True)
        if slopes.w is not None:
            slopes.w.index_put_((a, t), apart, accumulate=True)
        Count.backward += len(a)
