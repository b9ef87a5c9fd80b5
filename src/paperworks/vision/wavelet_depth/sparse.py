"""Convolutions at chosen positions of a grid: rows in, rows out, and an index in between.

Features of active positions are packed as rows (N, C); an index map (B, H, W) says which row belongs to a position, -1
where none does. A 3x3 convolution gathers the nine neighbours of each wanted position and multiplies once, so its cost
is linear in the number of positions. Reflection at the border happens inside the index map.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

PaddingMode: TypeAlias = Literal["reflect", "zeros"]
Shape: TypeAlias = tuple[int, int, int]
ABSENT = -1
# Gathered numbers at a time on a CPU: they should stay in its second-level cache until they are multiplied.
_GATHERED = 300_000


def sparse_conv2d(
    x: Tensor,
    in_index: Tensor,
    out_mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding_mode: PaddingMode = "reflect",
) -> Tensor:
    """A convolution evaluated at the positions of `out_mask` only, on features that exist at some positions only.

    out[n] = bias + sum over k of weight[:, :, k] x[in_index[position n + k]], as `F.conv2d` with stride 1 and a border
    of (size - 1) / 2; neighbours without a row count as zeros.

    Args:
        x: (N, C) packed features.
        in_index: (B, H, W) integers: the row of each position, -1 where there is none.
        out_mask: (B, H, W) bool, True where the result is wanted.
        weight: (O, C, 3, 3) or (O, C, 1, 1).
        bias: (O,).
        padding_mode: what lies beyond the border: "reflect" (without repeating the edge) or "zeros".

    Returns:
        (n, O), one row per True of `out_mask`, in the order of `out_mask.nonzero()`.

    Raises:
        ValueError: shapes that do not belong together, an unknown padding, or reflection on a side of one position.
    """
    _check(x, in_index, out_mask, weight, padding_mode)
    sites, shape = positions(out_mask), _shape(in_index)
    if weight.shape[-1] == 1:
        table = in_index.reshape(-1)[sites][:, None]
    else:
        table = neighbours(border(in_index, padding_mode), sites, shape)
    return gather_conv(x, table, weight, bias, complete=False)


def _check(x: Tensor, in_index: Tensor, out_mask: Tensor, weight: Tensor, padding_mode: str) -> None:
    if padding_mode not in ("reflect", "zeros"):
        raise ValueError(f"padding_mode: expected 'reflect' or 'zeros', got {padding_mode!r}")
    if in_index.ndim != 3 or in_index.is_floating_point():
        raise ValueError(f"in_index: expected (B, H, W) integers, got {tuple(in_index.shape)} {in_index.dtype}")
    if out_mask.shape != in_index.shape or out_mask.dtype != torch.bool:
        raise ValueError(
            f"out_mask: expected {tuple(in_index.shape)} bool, got {tuple(out_mask.shape)} {out_mask.dtype}"
        )
    if weight.ndim != 4 or tuple(weight.shape[2:]) not in ((1, 1), (3, 3)):
        raise ValueError(f"weight: expected (O, C, 3, 3) or (O, C, 1, 1), got {tuple(weight.shape)}")
    if x.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x: expected (N, {weight.shape[1]}) for this weight, got {tuple(x.shape)}")
    if in_index.numel() and not -1 <= int(in_index.min()) <= int(in_index.max()) < len(x):
        raise ValueError(f"in_index: expected rows of x, -1 to {len(x) - 1}, got up to {int(in_index.max())}")
    if padding_mode == "reflect" and weight.shape[-1] == 3 and min(in_index.shape[1:]) < 2:
        raise ValueError(f"in_index: reflection needs at least 2 x 2 positions, got {tuple(in_index.shape[1:])}")


def _shape(index: Tensor) -> Shape:
    batch, height, width = index.shape
    return batch, height, width


# Sets of positions ----------------------------------------------------------------------------------------------------


def positions(mask: Tensor) -> Tensor:
    """Flat positions (n,) of the True entries of (B, H, W), in order."""
    return mask.reshape(-1).nonzero().squeeze(1)


def dilate(mask: Tensor, radius: int) -> Tensor:
    """(B, H, W) bool: True within `radius` rows and columns of a True; nothing beyond the border."""
    rows = mask.clone()
    for k in range(1, radius + 1):
        rows[:, k:] |= mask[:, :-k]
        rows[:, :-k] |= mask[:, k:]
    out = rows.clone()
    for k in range(1, radius + 1):
        out[:, :, k:] |= rows[:, :, :-k]
        out[:, :, :-k] |= rows[:, :, k:]
    return out


def up2(mask: Tensor) -> Tensor:
    """(B, H, W) -> (B, 2H, 2W): the four children of each position."""
    return mask[:, :, None, :, None].expand(-1, -1, 2, -1, 2).reshape(len(mask), 2 * mask.shape[1], 2 * mask.shape[2])


def parents(sites: Tensor, width: int) -> Tensor:
    """Flat positions on the grid of half the size of flat positions on a grid `width` wide."""
    row = sites // width
    return (row // 2) * (width // 2) + (sites - row * width) // 2


def index_map(sites: Tensor, shape: Shape) -> Tensor:
    """(B, H, W) with row n at the n-th of `sites`, -1 elsewhere."""
    index = torch.full((math.prod(shape),), ABSENT, device=sites.device)
    return index.index_copy_(0, sites, torch.arange(len(sites), device=sites.device)).view(shape)


def bordered_index(sites: Tensor, shape: Shape, padding_mode: PaddingMode) -> Tensor:
    """`border(index_map(sites, shape), padding_mode)`, without the map in between."""
    batch, height, width = shape
    corner = _corners(sites, shape) + width + 3
    index = index_map(corner, (batch, height + 2, width + 2))
    return _mirror(index) if padding_mode == "reflect" else index


def border(index: Tensor, padding_mode: PaddingMode) -> Tensor:
    """(B, H + 2, W + 2): the index map with its border: mirrored positions, or none."""
    padded = F.pad(index, (1, 1, 1, 1), value=ABSENT)
    return _mirror(padded) if padding_mode == "reflect" else padded


def _mirror(padded: Tensor) -> Tensor:
    padded[:, 0], padded[:, -1] = padded[:, 2], padded[:, -3]
    padded[:, :, 0], padded[:, :, -1] = padded[:, :, 2], padded[:, :, -3]
    return padded


def _corners(sites: Tensor, shape: Shape) -> Tensor:
    """Where the 3x3 window of each site starts on the grid with its border."""
    batch, height, width = shape
    row = sites // width
    first = sites + 2 * row
    return first if batch == 1 else first + (row // height) * (2 * width + 4)


def neighbours(bordered: Tensor, sites: Tensor, shape: Shape) -> Tensor:
    """(n, 9): the rows of the 3x3 neighbourhood of each site, row by row."""
    width = shape[2]
    steps = torch.arange(3, device=sites.device)
    offsets = ((width + 2) * steps[:, None] + steps).reshape(-1)
    places = _corners(sites, shape)[:, None] + offsets
    return bordered.reshape(-1).index_select(0, places.reshape(-1)).view(-1, 9)


# Convolution by rows --------------------------------------------------------------------------------------------------


def gather_conv(
    x: Tensor, table: Tensor, weight: Tensor, bias: Tensor | None, *, complete: bool, groups: int = 1
) -> Tensor:
    """Rows (n, O) from the rows of `x` (N, C) named in `table` (n, k): one gather, one product.

    `complete` promises that no entry of the table is -1. With `groups` the channels of input and output fall into as
    many independent parts.
    """
    size = table.shape[1]
    # (groups, size C, O / groups); no copy where the weight is stored channels last.
    filters = weight.unflatten(0, (groups, -1)).permute(0, 3, 4, 2, 1).flatten(1, 3)
    if not complete:
        table = torch.where(table < 0, len(x), table)
        x = torch.cat((x, x.new_zeros(1, x.shape[1])))
    if groups > 1:
        # Row n of x is `groups` rows of its parts.
        part = torch.arange(groups, device=x.device)[:, None, None]
        table, x = table * groups + part, x.reshape(len(x) * groups, x.shape[1] // groups)
        pieces = [_grouped(x, part_of, filters) for part_of in table.split(_chunk(x, size * groups), dim=1)]
        out = torch.cat(pieces)
        return out if bias is None else out + bias
    pieces = [_product(x, part_of, filters[0], bias) for part_of in table.split(_chunk(x, size))]
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def _chunk(x: Tensor, size: int) -> int:
    return max(64, _GATHERED // (size * x.shape[1])) if x.device.type == "cpu" else 1 << 62


def _product(x: Tensor, table: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
    gathered = x.index_select(0, table.reshape(-1)).view(len(table), table.shape[1] * x.shape[1])
    return gathered @ filters if bias is None else torch.addmm(bias, gathered, filters)


def _grouped(x: Tensor, table: Tensor, filters: Tensor) -> Tensor:
    groups, count, size = table.shape
    gathered = x.index_select(0, table.reshape(-1)).view(groups, count, size * x.shape[1])
    return torch.bmm(gathered, filters).transpose(0, 1).reshape(count, groups * filters.shape[2])
