"""Attention free mixers for `MixerEncoder`: full, local, simple, and convolutions over sequences and maps.

Each is q, k, v = x W + b, an operator of `functional.py`, and a dense layer. The weights over positions are factorised
as in the paper, w_tt' = u_t . v_t' of rank 128, normal(0, .01); filters are standardised over their taps, times gamma,
plus beta, both 0 at first, so that a convolution begins as `AFTSimple`.

Reference: Zhai et al. (2021, arXiv 2105.14103), section 3 and its remarks on parameterisation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from paperworks.nn.attention import check_heads
from paperworks.nn.contract import Traits, check_mask, check_tokens, traits_of, zero_masked
from paperworks.nn.initial import normal_init
from paperworks.sequence.aft.functional import aft_conv1d, aft_conv2d, aft_full, aft_local, aft_simple
from paperworks.sequence.aft.tile import Mean, merge, tile_mean

RANK, STD, EPSILON = 128, 0.01, 1e-6
KeyChannels = Literal["head", "full"]


class Recent(NamedTuple):
    """What streaming remembers: how many tokens were read, the last keys (H, S, B, C') and values (H, S, B, C), and the
    mean of all older ones."""

    read: int
    keys: Tensor
    values: Tensor
    older: Mean


class _Mixing(nn.Module, ABC):
    """Projections, checks and streaming of all mixers over sequences."""

    supports_mask = True
    max_length: int | None = None
    heads = 1

    def __init__(self, dim: int, *, hidden_dim: int | None, causal: bool, keys: int | None = None) -> None:
        super().__init__()
        self.dim, self.hidden_dim = _positive(dim, "dim"), _positive(hidden_dim or dim, "hidden_dim")
        self.causal, self.keys = causal, keys or self.hidden_dim
        self.qkv = nn.Linear(dim, 2 * self.hidden_dim + self.keys)
        self.output = nn.Linear(self.hidden_dim, dim)
        normal_init(self.qkv)
        normal_init(self.output)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        check_tokens(x, dim=self.dim, traits=traits_of(self), name=type(self).__name__)
        check_mask(mask, x.shape[:2])
        return self.output(self.mix(*self._project(zero_masked(x, mask)), mask))

    @abstractmethod
    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The operator of this mixer, (B, N, hidden)."""

    @abstractmethod
    def weights_at(self, position: int, count: int) -> Tensor:
        """(H, 1, count): of the query at `position` to the last `count` keys, its own the last."""

    @abstractmethod
    def reach(self) -> int | None:
        """Keys that weights reach, the query's own included; None: all."""

    def init_state(self, batch: int) -> Recent:
        """Nothing read yet.

        Raises:
            ValueError: the mixer is not causal.
        """
        if not self.causal:
            raise ValueError(f"{type(self).__name__}: only causal mixers stream; build it with causal=True")
        like, heads = self.qkv.weight, self.heads
        keys, values = (like.new_empty(heads, 0, batch, size // heads) for size in (self.keys, self.hidden_dim))
        older = Mean(
            like.new_zeros(heads, 1, batch, self.hidden_dim // heads),
            like.new_full((heads, 1, batch, self.keys // heads), -torch.inf),
        )
        return Recent(0, keys, values, older)

    def step(self, x: Tensor, state: Recent) -> tuple[Tensor, Recent]:
        """The next token (B, D); the old state is left as it was.

        Raises:
            ValueError: more tokens than the mixer was built for.
        """
        check_tokens(x[:, None], dim=self.dim, traits=Traits(), name=type(self).__name__)
        if self.max_length is not None and state.read >= self.max_length:
            raise ValueError(f"{type(self).__name__}: {self.max_length} tokens were read, all that it was built for")
        q, k, v = self._project(x[:, None])
        keys = torch.cat([state.keys, self._as_head(k)], 1)
        values = torch.cat([state.values, self._as_head(v)], 1)
        older, reach = state.older, self.reach()
        mean = merge(tile_mean(self.weights_at(state.read, keys.shape[1]).to(keys.dtype), keys, values), older)
        if reach is not None and keys.shape[1] >= max(1, reach):
            # The oldest key is out of reach of the next query: it joins the mean of weight 0.
            none = keys.new_zeros(self.heads, 1, 1)
            older = merge(older, tile_mean(none, keys[:, :1], values[:, :1]))
            keys, values = keys[:, 1:], values[:, 1:]
        y = mean.y.permute(2, 1, 0, 3).flatten(2)
        return self.output(torch.sigmoid(q) * y)[:, 0], Recent(state.read + 1, keys, values, older)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).split([self.hidden_dim, self.keys, self.hidden_dim], -1)
        return q, k, v

    def _as_head(self, x: Tensor) -> Tensor:
        """(B, 1, H C) as (H, 1, B, C)."""
        return x.unflatten(2, (self.heads, -1)).permute(2, 1, 0, 3)

    def _dense_flops(self, length: int) -> int:
        return 2 * length * self.dim * (3 * self.hidden_dim + self.keys)


class _Factorised(_Mixing):
    """w_tt' = row_t . column_t', tied to positions: no extrapolation beyond `length`."""

    def __init__(self, dim: int, *, length: int, hidden_dim: int | None, rank: int, causal: bool) -> None:
        super().__init__(dim, hidden_dim=hidden_dim, causal=causal)
        self.length = self.max_length = _positive(length, "length")
        self.rank = _positive(rank, "rank")
        self.row, self.column = (nn.Parameter(part) for part in _normal((length, rank), (length, rank)))

    def resize_length(self, length: int) -> None:
        """Build for another length: both factors are interpolated linearly over positions.

        Raises:
            ValueError: a length below 1.
        """
        _positive(length, "length")
        for name in ("row", "column"):
            old = getattr(self, name).detach()
            new = nn.functional.interpolate(old.T[None], size=length, mode="linear", align_corners=True)[0].T
            setattr(self, name, nn.Parameter(new.contiguous()))
        self.length = self.max_length = length

    def _pair(self, length: int) -> tuple[Tensor, Tensor]:
        return self.row[:length], self.column[:length]

    def weights_at(self, position: int, count: int) -> Tensor:
        first = position + 1 - count
        return (self.column[first : position + 1] @ self.row[position])[None, None]


class AFTFull(_Factorised):
    """A learned weight for every pair of positions.

    Args:
        dim: width of the tokens.
        length: the longest input; shorter ones use the leading rows.
        hidden_dim: width of q, k and v; None: `dim`.
        rank: of the weights over positions.
        causal: a token sees itself and those before it.

    Shapes: (B, N, D) -> (B, N, D). Time O(N^2 D), memory O(N D).

    Raises:
        ValueError: sizes below 1, an input that is too long, or a wrong mask.

    Streams, with a state of O(N D).
    """

    def __init__(
        self, dim: int, *, length: int, hidden_dim: int | None = None, rank: int = RANK, causal: bool = False
    ) -> None:
        super().__init__(dim, length=length, hidden_dim=hidden_dim, rank=rank, causal=causal)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return aft_full(q, k, v, bias=self._pair(q.shape[1]), mask=mask, causal=self.causal)

    def reach(self) -> int | None:
        return None

    def flops(self, length: int) -> int:
        """Dense layers, the weights, and numerator and denominator over all pairs."""
        return self._dense_flops(length) + 2 * length**2 * (self.rank + 2 * self.hidden_dim)


class AFTLocal(_Factorised):
    """Learned weights between positions nearer than `window`, 0 between all others: every pair still interacts.

    Args:
        dim, length, hidden_dim, rank, causal: as in `AFTFull`.
        window: s, weights for |t - t'| < s.

    Shapes: (B, N, D) -> (B, N, D). Time O(N s D), memory O(N D).

    Raises:
        ValueError: as `AFTFull`, or a window below 1.

    Streams, with a state of O(s D).
    """

    def __init__(
        self,
        dim: int,
        *,
        length: int,
        window: int,
        hidden_dim: int | None = None,
        rank: int = RANK,
        causal: bool = False,
    ) -> None:
        super().__init__(dim, length=length, hidden_dim=hidden_dim, rank=rank, causal=causal)
        self.window = _positive(window, "window")

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return aft_local(q, k, v, band=self._pair(q.shape[1]), window=self.window, mask=mask, causal=self.causal)

    def reach(self) -> int | None:
        return self.window

    def flops(self, length: int) -> int:
        """Dense layers, and weights, numerator and denominator within the window."""
        pairs = length * (self.window if self.causal else 2 * self.window - 1)
        return self._dense_flops(length) + 2 * pairs * (self.rank + 2 * self.hidden_dim)


class AFTSimple(_Mixing):
    """No weights over positions: one mean of all values (of those before, if causal), gated by each token.

    Args:
        dim, hidden_dim, causal: as in `AFTFull`.

    Shapes: (B, N, D) -> (B, N, D), any N. Time and memory O(N D).

    Raises:
        ValueError: sizes below 1, or a wrong mask.

    Streams, with a state of O(D).
    """

    def __init__(self, dim: int, *, hidden_dim: int | None = None, causal: bool = False) -> None:
        super().__init__(dim, hidden_dim=hidden_dim, causal=causal)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return aft_simple(q, k, v, mask=mask, causal=self.causal)

    def reach(self) -> int | None:
        return 0

    def weights_at(self, position: int, count: int) -> Tensor:
        return self.qkv.weight.new_zeros(1, 1, count)

    def flops(self, length: int) -> int:
        """Dense layers, and the two sums."""
        return self._dense_flops(length) + 4 * length * self.hidden_dim


class _Filter(nn.Module):
    """Filters of heads, standardised over their taps: gamma (w - mean) / std + beta."""

    def __init__(self, heads: int, *taps: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(_normal((heads, *taps))[0])
        self.gamma, self.beta = (nn.Parameter(torch.zeros(heads)) for _ in range(2))

    def forward(self) -> Tensor:
        flat = self.raw.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        standard = centred / (centred.square().mean(1, keepdim=True).sqrt() + EPSILON)
        return (self.gamma[:, None] * standard + self.beta[:, None]).view_as(self.raw)


class AFTConv1d(_Mixing):
    """Weights by offset and head, 0 beyond the filter.

    Args:
        dim, hidden_dim, causal: as in `AFTFull`.
        heads: h, must divide the hidden width.
        window: s, taps of the filter; odd unless causal.
        key_channels: "head", one key channel a head, the paper's; "full", as many as values have.

    Shapes: (B, N, D) -> (B, N, D), any N. Time O(N s D), memory O(N D).

    Raises:
        ValueError: as `AFTFull`, heads that do not divide, or an even window.

    Streams, with a state of O(s D).
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        window: int,
        key_channels: KeyChannels = "head",
        hidden_dim: int | None = None,
        causal: bool = False,
    ) -> None:
        check_heads(hidden_dim or dim, heads)
        super().__init__(dim, hidden_dim=hidden_dim, causal=causal, keys=_key_channels(key_channels, heads))
        self.heads, self.window = heads, _taps(window, causal)
        self.filter = _Filter(heads, window)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return aft_conv1d(q, k, v, weight=self.filter(), mask=mask, causal=self.causal)

    def reach(self) -> int | None:
        return self.window

    def weights_at(self, position: int, count: int) -> Tensor:
        return self.filter()[:, None, self.window - count :]

    def flops(self, length: int) -> int:
        """Dense layers, and numerator and denominator within the filter."""
        return self._dense_flops(length) + 2 * length * self.window * (self.hidden_dim + self.keys)


class AFTConv2d(nn.Module):
    """Weights by offset in rows and columns, and head, on maps.

    Args:
        dim, hidden_dim: as in `AFTFull`.
        heads, window, key_channels: as in `AFTConv1d`; the filter is window x window, odd.
        grid: (height, width) to take tokens (B, height width, D), row by row; None: maps (B, D, height, width).

    Shapes: as they come in.

    Raises:
        ValueError: as `AFTConv1d`; tokens of another number than the grid has.
    """

    causal, supports_mask = False, False

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        window: int,
        grid: tuple[int, int] | None = None,
        key_channels: KeyChannels = "head",
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.hidden_dim = _positive(dim, "dim"), _positive(hidden_dim or dim, "hidden_dim")
        check_heads(self.hidden_dim, heads)
        self.heads, self.window, self.grid = heads, _taps(window, False), grid
        self.keys = _key_channels(key_channels, heads) or self.hidden_dim
        self.min_length = self.max_length = None if grid is None else grid[0] * grid[1]
        self.qkv = nn.Linear(dim, 2 * self.hidden_dim + self.keys)
        self.output = nn.Linear(self.hidden_dim, dim)
        self.filter = _Filter(heads, window, window)
        normal_init(self.qkv)
        normal_init(self.output)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        if self.grid is not None:
            check_tokens(x, dim=self.dim, traits=traits_of(self), name=type(self).__name__)
            check_mask(mask, x.shape[:2])
            return self._mix(x.unflatten(1, self.grid)).flatten(1, 2)
        if x.ndim != 4 or x.shape[1] != self.dim:
            raise ValueError(f"x: expected (batch, {self.dim}, height, width), got shape {tuple(x.shape)}")
        return self._mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _mix(self, x: Tensor) -> Tensor:
        """(B, height, width, D)."""
        parts = self.qkv(x).permute(0, 3, 1, 2).split([self.hidden_dim, self.keys, self.hidden_dim], 1)
        return self.output(aft_conv2d(*parts, weight=self.filter()).permute(0, 2, 3, 1))

    def flops(self, length: int) -> int:
        """Dense layers, and numerator and denominator within the filter."""
        dense = 2 * length * self.dim * (3 * self.hidden_dim + self.keys)
        return dense + 2 * length * self.window**2 * (self.hidden_dim + self.keys)


def _normal(*shapes: tuple[int, ...]) -> list[Tensor]:
    """normal(0, .01) off the global stream: with equal seeds, models that differ in these weights share all others."""
    with torch.random.fork_rng(devices=[]):
        return [torch.empty(shape).normal_(std=STD) for shape in shapes]


def _positive(value: int, name: str) -> int:
    if value < 1:
        raise ValueError(f"{name}: must be >= 1, got {value}")
    return value


def _taps(window: int, causal: bool) -> int:
    _positive(window, "window")
    if not causal and window % 2 == 0:
        raise ValueError(f"window: must be odd for causal=False, got {window}")
    return window


def _key_channels(kind: str, heads: int) -> int | None:
    if kind not in ("head", "full"):
        raise ValueError(f"key_channels: expected head or full, got {kind!r}")
    return heads if kind == "head" else None
