"""FNet's token mixers, for `MixerEncoder`: Fourier, and the paper's controls linear, random and identity.

    Fourier:   Y = Re(F_N x F_D)
    linear:    Y = S x H,   S (N, N) and H (D, D) learned
    random:    Y = S x H,   S and H drawn once and fixed
    identity:  Y = x

All follow the contract of `paperworks.nn.contract`; attention, which completes the paper's table, is
`paperworks.nn.AttentionMixing`. Reference: FNet (2021, arXiv 2105.03824), sections 3 and 4; official `f_net/layers.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from paperworks.nn.contract import Traits, check_mask, check_tokens, traits_of
from paperworks.sequence.fnet.mixing import Backend, Padding, check_options, fourier_mix

# Standard deviation of a standard normal cut at two standard deviations.
_TRUNCATED_STD = 0.87962566103423978


class FourierMixing(nn.Module):
    """`mix(x) = Re(F_N x F_D)`: every output depends on every token and feature; no parameters.

    Args:
        dim: width of the tokens.
        padding: what happens to masked tokens, see `fourier_mix`. "mix", the official way, does not honour masks: pad
            to one fixed length. "exact" transforms each example at its own length. "zero" silences what padding holds,
            but how much of it there is still matters.
        backend: "auto", "fft" or "matmul", see `fourier_mix`.

    Shapes: (B, N, D) -> (B, N, D).

    Raises:
        ValueError: an unknown option; an input or mask that `fourier_mix` refuses.

    Reference: FNet, section 3.2.
    """

    padding: Padding
    backend: Backend

    def __init__(self, dim: int, *, padding: Padding = "mix", backend: Backend = "auto") -> None:
        super().__init__()
        check_options(padding, backend)
        self.dim, self.padding, self.backend = _positive(dim, "dim"), padding, backend
        self.supports_mask = padding != "mix"

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        check_tokens(x, dim=self.dim, traits=Traits(), name=type(self).__name__)
        return fourier_mix(x, mask=mask, padding=self.padding, backend=self.backend)

    def flops(self, length: int) -> int:
        """The usual count for a real FFT of n numbers, 2.5 n log2 n; copying the mirrored half is no arithmetic."""
        count = length * self.dim
        return round(2.5 * count * math.log2(count))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, padding={self.padding!r}, backend={self.backend!r}"


class _DenseMixing(nn.Module):
    """`Y = S x H`: one matrix over positions, one over features; the length is exact."""

    supports_mask = False
    sequence: Tensor
    hidden: Tensor

    def __init__(self, dim: int, *, length: int) -> None:
        super().__init__()
        self.dim, self.length = _positive(dim, "dim"), _positive(length, "length")
        self.min_length = self.max_length = length

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        check_tokens(x, dim=self.dim, traits=traits_of(self), name=type(self).__name__)
        check_mask(mask, x.shape[:2])
        return self.sequence @ (x @ self.hidden)

    def flops(self, length: int) -> int:
        """Two matrix products."""
        return 2 * length * self.dim * (self.dim + length)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, length={self.length}"


class LinearMixing(_DenseMixing):
    """`Y[n, k] = sum_{i, j} S[n, i] x[i, j] H[j, k]` with learned `sequence` = S and `hidden` = H, normal(0.02).

    Args:
        dim: width of the tokens.
        length: the only length that it takes. A mask is accepted and ignored.

    Shapes: (B, length, D) -> (B, length, D).

    Raises:
        ValueError: another length or width, or a wrong mask.

    Reference: FNet, section 4, the "Linear" encoder.
    """

    def __init__(self, dim: int, *, length: int) -> None:
        super().__init__(dim, length=length)
        self.sequence = nn.Parameter(torch.empty(length, length))
        self.hidden = nn.Parameter(torch.empty(dim, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.sequence, std=0.02)
        nn.init.normal_(self.hidden, std=0.02)


class RandomMixing(_DenseMixing):
    """`Y = S x H` with fixed matrices of variance 1 / N and 1 / D (lecun normal), kept as buffers.

    Args:
        dim: width of the tokens.
        length: the only length that it takes. A mask is accepted and ignored.
        seed: of the draw; the paper draws anew for every layer, so pass the layer's index.

    Shapes: (B, length, D) -> (B, length, D).

    Raises:
        ValueError: another length or width, or a wrong mask.

    Reference: FNet, section 4, the "Random" encoder.
    """

    def __init__(self, dim: int, *, length: int, seed: int = 0) -> None:
        super().__init__(dim, length=length)
        generator = torch.Generator().manual_seed(seed)
        self.seed = seed
        self.sequence = nn.Buffer(_lecun_normal(length, generator))
        self.hidden = nn.Buffer(_lecun_normal(dim, generator))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, seed={self.seed}"


class IdentityMixing(nn.Module):
    """`mix(x) = x`: no mixing at all, which leaves the feed-forward layers (the paper's "FF-only").

    Args:
        dim: width of the tokens.

    Shapes: (B, N, D) -> (B, N, D). Streams without a state.

    Raises:
        ValueError: another width, or a wrong mask.
    """

    causal = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = _positive(dim, "dim")

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        check_tokens(x, dim=self.dim, traits=Traits(), name=type(self).__name__)
        check_mask(mask, x.shape[:2])
        return x

    def init_state(self, batch: int) -> None:
        """Nothing to remember."""

    def step(self, x: Tensor, state: None) -> tuple[Tensor, None]:
        """The token itself."""
        return x, None

    def flops(self, length: int) -> int:
        return 0

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def _lecun_normal(size: int, generator: torch.Generator) -> Tensor:
    std = size**-0.5 / _TRUNCATED_STD
    return nn.init.trunc_normal_(torch.empty(size, size), std=std, a=-2 * std, b=2 * std, generator=generator)


def _positive(value: int, name: str) -> int:
    if value < 1:
        raise ValueError(f"{name}: must be at least 1, got {value}")
    return value
