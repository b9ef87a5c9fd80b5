"""Moves of pixels as matrices, and one interpolation for any number of them.

A matrix M (B, 2, 3) says where an output pixel looks: x_in = M [x_out; 1], in pixels from the centre of the image, x to
the right and y down. A move after a move looks up through both: M_total = M_first M_second (`compose`).

`warp` takes a list as well and then keeps what a merged matrix forgets: what the first move pushed out of the frame
does not come back with the second. The result is that of one move after the other, with one interpolation in place of
several, each of which would blur.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from paperworks.data.augment.images import check_shape, filled_

Padding: TypeAlias = Literal["fill", "edge", "reflect"]

FILTERS = ("lanczos", "bicubic", "bilinear", "box", "hamming", "nearest")
_CUBIC, _SHARP = ("lanczos", "bicubic"), ("box", "nearest", "hamming")


def affine(rows: Sequence[Sequence[Tensor | float]], like: Tensor) -> Tensor:
    """(B, 2, 3) from two rows of three entries, each a number or (B,); B and dtype are those of `like` (B, ...)."""
    matrix = like.new_empty(len(like), 6)
    for place, entry in enumerate([entry for row in rows for entry in row]):
        # Numbers are filled in, not made tensors: this runs for every operation of every batch.
        matrix[:, place] = entry
    return matrix.view(-1, 2, 3)


def rotation(angle: Tensor) -> Tensor:
    """Turn the picture counter-clockwise about its centre by `angle` (B,), radians."""
    cos, sin = angle.cos(), angle.sin()
    return affine([[cos, -sin, 0], [sin, cos, 0]], angle)


def translation(right: Tensor, down: Tensor) -> Tensor:
    """Move the picture by (B,) pixels."""
    return affine([[1, 0, -right], [0, 1, -down]], right)


def scaling(wider: Tensor, taller: Tensor) -> Tensor:
    """Enlarge the picture about its centre by (B,) factors."""
    return affine([[1 / wider, 0, 0], [0, 1 / taller, 0]], wider)


def mirror(flags: Tensor, like: Tensor) -> Tensor:
    """Swap left and right where `flags` (B,) is true."""
    return affine([[1 - 2 * flags.to(like), 0, 0], [0, 1, 0]], like)


def shift_pixels(images: Tensor, right: Tensor, down: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Move by whole pixels (B,), on the images' mirror image as `warp` with padding="reflect", without interpolation.

    Then swap left and right where `mirrored` (B,) is true. Takes any dtype.
    """
    height, width = images.shape[2:]
    columns, rows = torch.arange(width, device=images.device), torch.arange(height, device=images.device)
    x, y = _reflected(columns - right[:, None].long(), width), _reflected(rows - down[:, None].long(), height)
    if mirrored is not None:
        x = torch.where(mirrored[:, None], x.flip(1), x)
    images = images.gather(2, y[:, None, :, None].expand(images.shape))
    return images.gather(3, x[:, None, None, :].expand(images.shape))


def _reflected(index: Tensor, side: int) -> Tensor:
    """Indices into an image from indices into its endless mirroring, which repeats no edge."""
    period = max(2 * (side - 1), 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index).clamp(max=side - 1)


def compose(first: Tensor, *then: Tensor) -> Tensor:
    """The matrix (B, 2, 3) of `first`, then of each of the others, in this order.

    Raises:
        ValueError: a matrix of another shape.
    """
    total = _check_matrix(first)
    for matrix in then:
        _check_matrix(matrix, len(first))
        moved = total[:, :, :2] @ matrix
        total = torch.cat([moved[:, :, :2], moved[:, :, 2:] + total[:, :, 2:]], dim=-1)
    return total


def warp(
    images: Tensor,
    matrices: Tensor | Sequence[Tensor],
    *,
    size: tuple[int, int] | None = None,
    padding: Padding = "fill",
    fill: float = 0.5,
    filters: Tensor | None = None,
) -> Tensor:
    """Images moved by `matrices`, one after the other, in one interpolation; floats (B, C, h, w).

    Args:
        images: (B, C, H, W) floats.
        matrices: (B, 2, 3), or several, the first to be applied first.
        size: (h, w) of the result; None: that of the images. In between, too, the frame has this size.
        padding: what lies around the given images: `fill`, their edge, or their mirror image (without repeating the
            edge). What a later move brings in from outside the frame is `fill` always.
        fill: grey value.
        filters: (B,) indices into `FILTERS` by which to interpolate each image; None: bilinear. Exact for enlarging
            except lanczos, for which bicubic stands in.

    Raises:
        ValueError: a matrix that is not (B, 2, 3), an unknown padding.
    """
    check_shape(images)
    if padding not in ("fill", "edge", "reflect"):
        raise ValueError(f"padding: expected fill, edge or reflect, got {padding!r}")
    steps = [matrices] if isinstance(matrices, Tensor) else list(matrices)
    if not steps:
        raise ValueError("matrices: expected at least one")
    steps = [_check_matrix(step, len(images)).to(images) for step in steps]
    frame = (images.shape[2], images.shape[3])
    if len(steps) == 1 and filters is None and padding != "reflect":
        return _warp_once(images, steps[0], size or frame, fill if padding == "fill" else None)
    x, y, seen = _look_up(steps, frame, size or frame, padding == "fill")
    outside = "reflection" if padding == "reflect" else "border"
    moved = _sample(images, x, y, outside) if filters is None else _sample_by(images, x, y, outside, filters)
    return moved if seen is None else filled_(moved, seen.to(moved), fill)


def _warp_once(images: Tensor, matrix: Tensor, size: tuple[int, int], fill: float | None) -> Tensor:
    """One move: the same in fewer passes over the coordinates, which here are parts of half the image's sides."""
    height, width = images.shape[2:]
    x = (torch.arange(size[1], device=images.device) + 0.5 - size[1] / 2).to(images)
    y = (torch.arange(size[0], device=images.device) + 0.5 - size[0] / 2).to(images)
    grid, furthest = images.new_empty(len(images), *size, 2), images.new_zeros(())
    for axis, side in enumerate((width, height)):
        by_x, by_y, start = (matrix[:, axis] * (2 / side)).T[..., None]
        at = (by_x * x)[:, None, :] + (by_y * y + start)[:, :, None]
        grid[..., axis] = at
        furthest = torch.maximum(furthest, at.abs_())
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved if fill is None else filled_(moved, furthest.lt_(1), fill)


def _look_up(
    steps: list[Tensor], frame: tuple[int, int], size: tuple[int, int], bounded: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Where each output pixel looks in the images, and whether it stayed in the frame all the way."""
    x = (torch.arange(size[1], device=steps[0].device) + 0.5 - size[1] / 2).to(steps[0]).view(1, 1, -1)
    y = (torch.arange(size[0], device=steps[0].device) + 0.5 - size[0] / 2).to(steps[0]).view(1, -1, 1)
    seen = None
    for number in reversed(range(len(steps))):
        xx, xy, x0, yx, yy, y0 = steps[number].reshape(-1, 6, 1, 1).unbind(1)
        x, y = xx * x + (xy * y + x0), yx * x + (yy * y + y0)
        if number > 0 or bounded:
            height, width = size if number > 0 else frame
            here = torch.maximum(x.abs() * (2 / width), y.abs() * (2 / height)) < 1
            seen = here if seen is None else seen & here
    return x, y, seen


def _sample(images: Tensor, x: Tensor, y: Tensor, outside: str, mode: str = "bilinear") -> Tensor:
    # Aligned corners make torch's reflection the one about the centres of the edge pixels, for any size.
    height, width = images.shape[2:]
    grid = torch.stack([x * (2 / max(width - 1, 1)), y * (2 / max(height - 1, 1))], dim=-1)
    return F.grid_sample(images, grid, mode=mode, padding_mode=outside, align_corners=True)


def _sample_by(images: Tensor, x: Tensor, y: Tensor, outside: str, filters: Tensor) -> Tensor:
    """Each image by its own filter. A filter of two taps is a bilinear one that looks at a displaced point."""
    height, width = images.shape[2:]
    names = [FILTERS[index] for index in filters.tolist()]
    two_taps = [row for row, name in enumerate(names) if name in _SHARP]
    cubic = [row for row, name in enumerate(names) if name in _CUBIC]
    if two_taps:
        # Displaced values are put into copies: the coordinates may be shared.
        x, y, hamming = x.clone(), y.clone(), [names[row] == "hamming" for row in two_taps]
        for at, side in ((x, width), (y, height)):
            at[two_taps] = _displace(at[two_taps] + (side - 1) / 2, hamming) - (side - 1) / 2
    moved = _sample(images, x, y, outside)
    if cubic:
        moved[cubic] = _sample(images[cubic], x[cubic], y[cubic], outside, "bicubic").clamp(0, 1)
    return moved


def _displace(at: Tensor, hamming: list[bool]) -> Tensor:
    """Move fractions of a pixel so that linear weights there are the weights of hamming or of the nearest pixel."""
    below = at.floor()
    part = at - below
    near, far = _hamming(part), _hamming(1 - part)
    chosen = torch.tensor(hamming, device=at.device)[:, None, None]
    return below + torch.where(chosen, far / (near + far), (part >= 0.5).to(part))


def _hamming(distance: Tensor) -> Tensor:
    return torch.sinc(distance) * (0.54 + 0.46 * torch.cos(torch.pi * distance))


def _check_matrix(matrix: Tensor, batch: int | None = None) -> Tensor:
    expected = (len(matrix) if batch is None and isinstance(matrix, Tensor) else batch, 2, 3)
    if not isinstance(matrix, Tensor) or tuple(matrix.shape) != expected:
        got = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
        raise ValueError(f"matrix: expected (batch, 2, 3) with one for each image, got {got}")
    return matrix
