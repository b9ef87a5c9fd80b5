"""Paths through data: what a neural controlled differential equation is driven by.

A path goes through the data at its knots, time being one of its channels; only its derivative `X'(t)` is needed. The
derivative of a piecewise linear path jumps at every knot: these are the `jumps`, which a solver must be told.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paperworks.nn.contract import check_mask


class LinearPath(nn.Module):
    """Straight lines between the knots: `X'(t) = (X_{i+1} - X_i) / (t_{i+1} - t_i)` on [t_i, t_{i+1}).

    Args:
        x: (batch, length, channels) values at the knots.
        knots: (length,) increasing times.

    Raises:
        ValueError: shapes that do not fit, fewer than two knots, or knots that do not increase.
    """

    def __init__(self, x: Tensor, knots: Tensor):
        super().__init__()
        _check_knots(x, knots)
        steps = knots.diff()
        self.register_buffer("knots", knots, persistent=False)
        # Time first: a derivative is one contiguous block.
        slopes = (x.diff(dim=1) / steps[:, None]).transpose(0, 1).contiguous()
        self.register_buffer("slopes", slopes, persistent=False)
        self.knots: Tensor
        self.slopes: Tensor

    @property
    def jumps(self) -> list[float]:
        """The inner knots."""
        return self.knots[1:-1].tolist()

    def derivative(self, t: Tensor) -> Tensor:
        """`X'(t)`, (batch, channels); at a knot that of the piece to its right."""
        return self.slopes.index_select(0, _piece(self.knots, t))[0]


class HermitePath(nn.Module):
    """Cubic pieces with backward differences: at every knot the derivative is that of the piece before it (of the first
    piece at the first knot), so the path depends on no future value beyond the next knot and its derivative is
    continuous: there are no jumps.

    Args and raises: as `LinearPath`.

    Reference: J. Morrill et al., On the choice of interpolation scheme for neural CDEs, TMLR 2022.
    """

    jumps: tuple[float, ...] = ()

    def __init__(self, x: Tensor, knots: Tensor):
        super().__init__()
        _check_knots(x, knots)
        steps = knots.diff()
        slope = x.diff(dim=1) / steps[:, None]
        before = torch.cat([slope[:, :1], slope[:, :-1]], dim=1)
        # With u = (t - t_i)/h: X' = before (1 - 4u + 3u^2) + slope (6u - 6u^2) + slope (3u^2 - 2u), since the slope at
        # the right knot is that of this very piece.
        pieces = torch.stack([before, 4 * (slope - before), 3 * (before - slope)])
        self.register_buffer("knots", knots, persistent=False)
        self.register_buffer("steps", steps, persistent=False)
        self.register_buffer("pieces", pieces.permute(2, 0, 1, 3).contiguous(), persistent=False)
        self.knots: Tensor
        self.steps: Tensor
        self.pieces: Tensor

    def derivative(self, t: Tensor) -> Tensor:
        """`X'(t)`, (batch, channels)."""
        piece = _piece(self.knots, t)
        u = (t - self.knots[piece]) / self.steps[piece]
        constant, linear, square = self.pieces.index_select(0, piece)[0]
        return constant + u * (linear + u * square)


def _piece(knots: Tensor, t: Tensor) -> Tensor:
    return (torch.searchsorted(knots, t.reshape(1), right=True) - 1).clamp(0, len(knots) - 2)


def _check_knots(x: Tensor, knots: Tensor) -> None:
    if x.ndim != 3 or knots.ndim != 1 or len(knots) != x.shape[1]:
        raise ValueError(
            f"x, knots: expected (batch, length, channels) and (length,), got {tuple(x.shape)}, {tuple(knots.shape)}"
        )
    if len(knots) < 2 or not bool((knots.diff() > 0).all()):
        raise ValueError(f"knots: expected at least two increasing times, got {knots.tolist()}")


def through_data(x: Tensor, times: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Values at the knots, with time as first channel, and the knots.

    Args:
        x: (batch, length, channels); what stands at unobserved places does not matter.
        times: (length,) common to all series, or (batch, length); increasing. None: 0, 1, 2, ...
        mask: (batch, length), True = observed; padding is "not observed".

    Returns:
        (batch, length, 1 + channels) and (length,).

    Unobserved values lie on the line between their observed neighbours in time; before the first and after the last
    observation the path, its time included, stands still, so that padding changes nothing. With times of their own the
    series run over 0, 1, ..., length - 1: a controlled equation does not care how fast its path is run through.

    Raises:
        ValueError: shapes, times or mask do not fit; a series is observed nowhere.
    """
    if x.ndim != 3 or x.shape[1] < 2 or not x.is_floating_point():
        raise ValueError(f"x: expected floating (batch, length >= 2, channels), got {tuple(x.shape)} {x.dtype}")
    batch, length, _ = x.shape
    check_mask(mask, (batch, length))
    index = torch.arange(length, dtype=x.dtype, device=x.device)
    if times is None:
        times = index
    if tuple(times.shape) not in ((length,), (batch, length)):
        raise ValueError(f"times: expected ({length},) or ({batch}, {length}), got {tuple(times.shape)}")
    times = times.to(x)
    knots = times if times.ndim == 1 else index
    clock = times.expand(batch, length)
    if mask is None:
        _check_increasing(clock, torch.ones_like(clock, dtype=torch.bool))
        return torch.cat([clock[..., None], x], dim=-1), knots
    if not bool(mask.any(dim=1).all()):
        row = int((~mask.any(dim=1)).nonzero()[0])
        raise ValueError(f"mask: series {row} is observed nowhere; leave it out")
    _check_increasing(clock, mask)
    return _filled(torch.cat([clock[..., None], x], dim=-1), mask), knots


def _check_increasing(clock: Tensor, mask: Tensor) -> None:
    """Times at observed places must be finite and increase."""
    lowest = torch.full_like(clock[:, :1], -torch.inf)
    seen = torch.where(mask, clock, -torch.inf)
    before = torch.cat([lowest, seen.cummax(dim=1).values[:, :-1]], dim=1)
    wrong = mask & ~((clock > before) & clock.isfinite())
    if bool(wrong.any()):
        row, place = (int(value) for value in wrong.nonzero()[0])
        raise ValueError(f"times: series {row}, place {place}: {float(clock[row, place]):g} does not increase")


def _filled(path: Tensor, mask: Tensor) -> Tensor:
    """Unobserved places on the line between their observed neighbours; ends stand still."""
    batch, length, channels = path.shape
    places = torch.arange(length, device=path.device).expand(batch, length)
    before = torch.where(mask, places, -1).cummax(dim=1).values
    after = torch.where(mask, places, length).flip(1).cummin(dim=1).values.flip(1)
    first, last = after[:, :1], before[:, -1:]
    before, after = torch.where(before < 0, first, before), torch.where(after == length, last, after)
    left, right = (path.gather(1, at[..., None].expand(-1, -1, channels)) for at in (before, after))
    span = right[..., :1] - left[..., :1]
    inside = (before < after)[..., None]
    share = torch.where(inside, (path[..., :1] - left[..., :1]) / torch.where(inside, span, 1), 0)
    # A time that is not observed may be anything: then the place itself says how far along the line it is.
    place = ((places - before) / (after - before).clamp(min=1))[..., None].to(path)
    share = torch.where(share.isfinite() & (share >= 0) & (share <= 1), share, place)
    return left + share * torch.where(inside, right - left, 0)
