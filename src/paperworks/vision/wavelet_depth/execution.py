"""One level of the wavelet decoder, dense or at chosen positions, and the count of what it executed.

The sets of a sparse level, for active positions A (the children of the large coefficients m before it) and radius r:

    heads' second convolution   A
    heads' first, 1x1           A dilated by 1
    second feature convolution  S = A dilated by r
    its input                   U = S dilated by 1
    first feature convolution   T = m dilated by ceil((r + 1) / 2), at the coarser scale: the parents of U

A mirrored neighbour lies inside the same dilation, so borders need nothing more. Whatever the level before it must know
follows from T; `WaveletDepthDecoder.radii` solves that recursion from fine to coarse.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.vision.wavelet_depth.sparse import (
    PaddingMode,
    Shape,
    bordered_index,
    dilate,
    gather_conv,
    index_map,
    neighbours,
    parents,
    positions,
    up2,
)

Halo: TypeAlias = Literal["exact", "official"]
# Share of a level's dense multiply-adds above which gathering rows costs more time than computing all of them.
BREAK_EVEN = 0.5
# Multiply-adds that take as long as a sparse level's bookkeeping does, on a processor core.
OVERHEAD = 2e7


class Packed(NamedTuple):
    """Features at some positions: `rows` (N, C), and `sites` (N,), their flat positions on a grid of `shape`."""

    rows: Tensor
    sites: Tensor
    shape: Shape


class Step(NamedTuple):
    """What a level leaves behind. `dense` is the feature map of a dense level, else empty."""

    state: Tensor | Packed
    detail: Tensor
    active: Tensor
    dense: Tensor


class Tally:
    """Multiply-adds as they are executed: a convolution at n positions costs n times the size of its weight."""

    def __init__(self) -> None:
        self.macs = 0

    def conv(self, conv: nn.Module, x: Tensor) -> Tensor:
        """A dense convolution, counted by the shape of its result."""
        out = conv(x)
        self.macs += out.shape[0] * out.shape[2] * out.shape[3] * conv.weight.numel()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        return out

    def rows(self, conv: nn.Conv2d, x: Tensor, table: Tensor, *, complete: bool) -> Tensor:
        """A convolution at the positions of a table, counted by its rows."""
        out = gather_conv(x, table, conv.weight, conv.bias, complete=complete, groups=conv.groups)
        self.macs += len(out) * conv.weight.numel()
        return out

    def pointwise(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """A 1x1 convolution of rows."""
        out = F.linear(x, conv.weight.flatten(1), conv.bias)
        self.macs += len(out) * conv.weight.numel()
        return out


class Level(nn.Module):
    """The parameters of one level. Both coefficient heads are one convolution each, the plus head first."""

    def __init__(self, before: int, skip: int, width: int, *, squashed: bool, padding: PaddingMode) -> None:
        super().__init__()
        self.squashed = squashed
        self.padding: PaddingMode = padding
        if squashed:
            self.reduce = nn.Conv2d(before, width, 3, padding=1, padding_mode=padding)
            before = width
            self.hidden = nn.Conv2d(width, 2 * width, 1)
            self.detail = nn.Conv2d(2 * width, 6, 3, padding=1, padding_mode=padding, groups=2)
        else:
            self.reduce = self.hidden = None
            self.detail = nn.Conv2d(width, 3, 3, padding=1, padding_mode="zeros")
        self.merge = nn.Conv2d(before + skip, width, 3, padding=1, padding_mode=padding)

    def act(self, x: Tensor) -> Tensor:
        return F.elu(x) if self.squashed else F.leaky_relu(x, 0.2)

    def coefficients(self, heads: Tensor) -> Tensor:
        """From the heads' channels (dimension 1) to LH, HL, HH, before the factor 2^s."""
        if not self.squashed:
            return heads
        plus, minus = heads.sigmoid().chunk(2, 1)
        return plus - minus

    def forward(self, x: Tensor, skip: Tensor, tally: Tally) -> tuple[Tensor, Tensor]:
        """Features (B, D, 2h, 2w) and coefficients (B, 3, 2h, 2w) at every position."""
        if self.reduce is not None:
            x = self.act(tally.conv(self.reduce, x))
        x = torch.cat((F.interpolate(x, scale_factor=2.0, mode="nearest"), skip), 1)
        x = self.act(tally.conv(self.merge, x))
        hidden = x if self.hidden is None else F.leaky_relu(tally.conv(self.hidden, x), 0.1)
        return x, self.coefficients(tally.conv(self.detail, hidden))

    def dense_macs(self, sites: int) -> int:
        """Multiply-adds of a dense evaluation on a grid of so many positions."""
        coarse = 0 if self.reduce is None else self.reduce.weight.numel() * (sites // 4)
        hidden = 0 if self.hidden is None else self.hidden.weight.numel()
        return coarse + sites * (self.merge.weight.numel() + hidden + self.detail.weight.numel())


class _Plan(NamedTuple):
    """The sets of a sparse level as flat positions; `near` is `active` dilated by 1."""

    active: Tensor
    near: Tensor
    features: Tensor
    inputs: Tensor
    coarse: Tensor

    def macs(self, level: Level) -> int:
        coarse = 0 if level.reduce is None else level.reduce.weight.numel() * len(self.coarse)
        hidden = 0 if level.hidden is None else level.hidden.weight.numel() * len(self.near)
        merged = level.merge.weight.numel() * len(self.features)
        return coarse + merged + hidden + level.detail.weight.numel() * len(self.active)


def run_level(
    level: nn.Module,
    state: Tensor | Packed,
    skip: Tensor,
    mask: Tensor | None,
    tally: Tally,
    *,
    radius: int,
    break_even: float,
    overhead: float,
) -> Step:
    """Evaluate a level below `mask` (B, h, w), the large coefficients of the level before it; None: everywhere.

    A level that follows a dense one is dense too, with its coefficients masked, where that is the cheaper way.
    """
    assert isinstance(level, Level)
    if mask is None:
        assert isinstance(state, Tensor)
        x, detail = level(state, skip, tally)
        everywhere = torch.ones((), dtype=torch.bool, device=skip.device).expand(len(skip), *skip.shape[2:])
        return Step(x, detail, everywhere, x)
    active = up2(mask)
    plan = None
    if isinstance(state, Packed) or _share(mask) <= break_even:
        plan = _plan(mask, active, radius)
        if isinstance(state, Tensor) and plan.macs(level) + overhead > break_even * level.dense_macs(active.numel()):
            plan = None
    if plan is None:
        assert isinstance(state, Tensor)
        x, detail = level(state, skip, tally)
        return Step(x, detail * active[:, None], active, x)
    features, detail = _sparse(level, _pack(state), skip, plan, tally)
    return Step(features, detail, active, skip[:, :0])


def _share(mask: Tensor) -> float:
    return int(mask.sum()) / mask.numel()


def _plan(mask: Tensor, active: Tensor, radius: int) -> _Plan:
    near = dilate(active, 1)
    features = near if radius == 1 else dilate(active, radius)
    return _Plan(
        active=positions(active),
        near=positions(near),
        features=positions(features),
        inputs=positions(dilate(features, 1)),
        coarse=positions(dilate(mask, (radius + 2) // 2)),
    )


def _pack(state: Tensor | Packed) -> Packed:
    """A dense map as rows; no copy where the map is stored channels last."""
    if isinstance(state, Packed):
        return state
    batch, channels, height, width = state.shape
    rows = state.permute(0, 2, 3, 1).reshape(-1, channels)
    return Packed(rows, torch.arange(len(rows), device=state.device), (batch, height, width))


def _rows_at(x: Tensor, sites: Tensor) -> Tensor:
    """The rows (n, C) of a map (B, C, H, W) at flat positions, without packing all of it."""
    batch, channels = x.shape[:2]
    if batch == 1 and not x.is_contiguous(memory_format=torch.channels_last):
        return x.reshape(channels, -1).index_select(1, sites).t()
    return x.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, sites)


def _sparse(level: Level, before: Packed, skip: Tensor, plan: _Plan, tally: Tally) -> tuple[Packed, Tensor]:
    """Features around the active positions, and the coefficients at them as a map (B, 3, H, W), 0 elsewhere."""
    shape: Shape = (skip.shape[0], skip.shape[2], skip.shape[3])
    x, coarse_index = _coarse(level, before, plan.coarse, tally)
    own = x.index_select(0, coarse_index.reshape(-1).index_select(0, parents(plan.inputs, shape[2])))
    inputs = torch.cat((own, _rows_at(skip, plan.inputs)), 1)
    padding = level.padding
    table = neighbours(bordered_index(plan.inputs, shape, padding), plan.features, shape)
    features = level.act(tally.rows(level.merge, inputs, table, complete=padding == "reflect"))
    near = features
    if len(plan.near) < len(plan.features):
        near = features.index_select(0, index_map(plan.features, shape).reshape(-1).index_select(0, plan.near))
    if level.hidden is not None:
        near = F.leaky_relu(tally.pointwise(level.hidden, near), 0.1)
    heads_padding: PaddingMode = padding if level.squashed else "zeros"
    table = neighbours(bordered_index(plan.near, shape, heads_padding), plan.active, shape)
    heads = tally.rows(level.detail, near, table, complete=heads_padding == "reflect")
    values = level.coefficients(heads)
    detail = values.new_zeros(shape[0] * shape[1] * shape[2], 3).index_copy(0, plan.active, values)
    return Packed(features, plan.features, shape), detail.view(*shape, 3).permute(0, 3, 1, 2)


def _coarse(level: Level, before: Packed, sites: Tensor, tally: Tally) -> tuple[Tensor, Tensor]:
    """The rows at the coarser scale and their index map (B, h, w)."""
    if level.reduce is None:
        return before.rows, index_map(before.sites, before.shape)
    bordered = bordered_index(before.sites, before.shape, level.padding)
    table = neighbours(bordered, sites, before.shape)
    # Only the official halo leaves neighbours out.
    complete = level.padding == "reflect" and not bool((table < 0).any())
    return level.act(tally.rows(level.reduce, before.rows, table, complete=complete)), index_map(sites, before.shape)
