"""The orthonormal Haar transform of maps, and its inverse.

A 2x2 block [[a, b], [c, d]] becomes

    LL = (a + b + c + d) / 2    LH = (a + b - c - d) / 2
    HL = (a - b + c - d) / 2    HH = (a - b - c + d) / 2

The transform is its own inverse up to the order of the numbers, and it keeps energy. A constant map v has LL = 2^s v at
level s: hence the powers of two in every decoder built on it. `detail` holds LH (change from row to row), HL (change
from column to column) and HH in this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor
from torch.nn import functional as F


@overload
def haar_dwt2d(x: Tensor, *, levels: None = None) -> tuple[Tensor, Tensor]: ...
@overload
def haar_dwt2d(x: Tensor, *, levels: int) -> tuple[Tensor, tuple[Tensor, ...]]: ...
def haar_dwt2d(x: Tensor, *, levels: int | None = None) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
    """One step of the transform, or `levels` of them on the low-pass part.

    Args:
        x: (B, C, H, W), sides divisible by 2 (by 2^levels).

    Returns:
        (ll, detail): (B, C, H/2, W/2) and (B, C, 3, H/2, W/2). With `levels`: the coarsest ll, and one detail a level,
        finest first.

    Raises:
        ValueError: not four dimensions, an odd side, or levels below 1.
    """
    if levels is None:
        return _step(x)
    if levels < 1:
        raise ValueError(f"levels: expected at least 1, got {levels}")
    details = []
    for _ in range(levels):
        x, detail = _step(x)
        details.append(detail)
    return x, tuple(details)


def _step(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 4:
        raise ValueError(f"x: expected (B, C, H, W), got {tuple(x.shape)}")
    if x.shape[-1] % 2 or x.shape[-2] % 2:
        raise ValueError(f"x: height and width must be even for a Haar step, got {tuple(x.shape)}")
    a, b = x[..., ::2, ::2], x[..., ::2, 1::2]
    c, d = x[..., 1::2, ::2], x[..., 1::2, 1::2]
    top, bottom, left, right = a + b, c + d, a - b, c - d
    detail = torch.stack((top - bottom, left + right, left - right), dim=2)
    return (top + bottom) * 0.5, detail * 0.5


def haar_idwt2d(ll: Tensor, detail: Tensor | Sequence[Tensor]) -> Tensor:
    """The map whose transform is (ll, detail).

    Args:
        ll: (B, C, h, w).
        detail: (B, C, 3, h, w), or one such tensor a level, finest first, as `haar_dwt2d` gives them.

    Returns:
        (B, C, 2h, 2w), or 2^levels times as large as `ll`.

    Raises:
        ValueError: shapes that do not belong together.
    """
    for level in (detail,) if isinstance(detail, Tensor) else reversed(detail):
        ll = _inverse_step(ll, level)
    return ll


def _inverse_step(ll: Tensor, detail: Tensor) -> Tensor:
    if ll.ndim != 4 or detail.shape != (*ll.shape[:2], 3, *ll.shape[2:]):
        raise ValueError(
            f"detail: expected (B, C, 3, h, w) for ll (B, C, h, w), got {tuple(detail.shape)} for {tuple(ll.shape)}"
        )
    lh, hl, hh = detail.unbind(2)
    s, t, u, v = ll + lh, ll - lh, hl + hh, hl - hh
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or s.dtype != u.dtype:
        blocks = torch.stack((s + u, s - u, t + v, t - v), dim=2) * 0.5
        return F.pixel_shuffle(blocks.flatten(1, 2), 2)
    # Writing into place is three times as fast as shuffling, but autograd cannot follow it.
    out = s.new_empty(*s.shape[:2], 2 * s.shape[2], 2 * s.shape[3])
    torch.add(s, u, out=out[..., ::2, ::2])
    torch.sub(s, u, out=out[..., ::2, 1::2])
    torch.add(t, v, out=out[..., 1::2, ::2])
    torch.sub(t, v, out=out[..., 1::2, 1::2])
    return out.mul_(0.5)
