"""Fourier token mixing: the real part of a two-dimensional discrete Fourier transform, as a function.

    Y[n, e] = sum_{m, d} x[m, d] cos(2 pi (n m / N + e d / D))

No parameters and no scaling (FNet, section 3.2). What others get wrong or leave unused:

1. The map is linear and self-adjoint, so its vector-Jacobian product is the map itself: backward is the same call and
   nothing has to be kept from forward.
2. The result is symmetric, Y[n, e] = Y[-n, -e] (indices modulo N and D). A real transform yields columns 0..D/2; the
   others are copied, reversed. A complex transform of real input does the work twice and allocates four times as much.
3. Padding is mixed like any token, so every output depends on how far a batch was padded. The official answer is to pad
   to one length always. `padding="exact"` transforms each example at its own length instead.
4. `torch.fft` has no bfloat16, and float16 on CUDA at powers of two only: half precision is transformed in float32.

Reference: J. Lee-Thorp, J. Ainslie, I. Eckstein, S. Ontanon, FNet: Mixing Tokens with Fourier Transforms, 2021,
arXiv 2105.03824.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, get_args

import torch
from torch import Tensor

from paperworks.nn.contract import check_mask

Padding = Literal["mix", "zero", "exact"]
Backend = Literal["auto", "fft", "matmul"]

_HALF = (torch.bfloat16, torch.float16)
# Elements transformed at a time by one CPU thread, once there are many: the complex scratch of more leaves the cache.
_PIECE = 2**19
# Elements up to which a second thread is not worth waking.
_SMALL = 2**18


def fourier_mix(
    x: Tensor, *, mask: Tensor | None = None, padding: Padding = "mix", backend: Backend = "auto"
) -> Tensor:
    """Mix tokens and features by the real part of the 2-D DFT of each example.

    `Y[n, e] = sum_{m, d} x[m, d] cos(2 pi (n m / N + e d / D))`

    Args:
        x: (batch, length, dim), floating point.
        mask: (batch, length) bool, True = token.
        padding: what happens to the tokens that `mask` leaves out.
            "mix": nothing, the mask is ignored and padding takes part like any token (the official code).
            "zero": they are set to zero first, so their content does not matter; their number still does.
            "exact": each example is transformed at its own length, so the result at its tokens is that of the example
            alone, and 0 at padding. Needs the tokens first; an example without tokens gives zeros. Reads the mask on
            the host, so `torch.compile` breaks the graph here.
        backend: "fft": a real FFT, N log N, at least float32 inside. "matmul": two folded matrix products in the dtype
            of `x` or of autocast, for tensor cores and short inputs; N D^2 / 2 + N^2 D / 4 multiplications.
            "auto": the faster of the two for the device, dtype and size.

    Returns:
        (batch, length, dim), dtype of `x`. The sums are not scaled: in float16 they overflow where the mean of an
        example times N D exceeds 65504.

    Raises:
        ValueError: `x` or `mask` has another shape or type, an option is unknown, or "exact" meets a mask that is not
            a prefix.

    Differs from the official code and `transformers`: accepts a mask and half precision, computes no imaginary part,
    keeps nothing for backward. Reference: FNet, section 3.2.

    >>> x = torch.eye(4)[None]
    >>> fourier_mix(x)[0, 0].tolist()
    [4.0, 0.0, 0.0, 0.0]
    """
    _check(x, mask, padding, backend)
    if mask is not None and padding == "zero":
        x = x.masked_fill(~mask[:, :, None], 0)
    backend = choose_backend(x) if backend == "auto" else backend
    transform = _fft_mix if backend == "fft" else _matmul_mix
    if mask is not None and padding == "exact":
        transform = partial(_by_length, transform=transform, groups=_rows_by_length(mask))
    return _SelfAdjoint.apply(x.to(_working_dtype(x, backend)), transform).to(x.dtype)


class _SelfAdjoint(torch.autograd.Function):
    """A linear map with `<map(x), y> = <x, map(y)>`: its gradient is the map applied to the incoming gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.transform = transform
        return transform(x)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:
        return _SelfAdjoint.apply(grads[0], ctx.transform), None


def _fft_mix(x: Tensor) -> Tensor:
    out = x.new_empty(x.shape)
    for source, target in zip(_pieces(x), _pieces(out), strict=True):
        _fft_into(target, source)
    return out


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    """Groups of examples that stay in a CPU's cache; all of them at once on an accelerator or while compiling."""
    if torch.compiler.is_compiling() or not x.is_cpu:
        return (x,)
    piece = _PIECE * torch.get_num_threads()
    if x.numel() <= 4 * piece:
        return (x,)
    return x.split(max(1, piece // (x.shape[1] * x.shape[2])))


def _fft_into(out: Tensor, x: Tensor) -> None:
    """Write the transform of `x` into `out`: columns 0..D/2 from a real FFT, the others by Y[n, D - e] = Y[-n, e]."""
    batch, length, dim = x.shape
    if batch == 0:
        return
    half, mirrored = _halves(dim)
    known = torch.fft.rfft2(x).real
    if _numpy_is_faster(out):
        source, target = known.numpy(), out.numpy()
        target[:, :, :half] = source
        target[:, 0, half:] = source[:, 0, mirrored:0:-1]
        target[:, 1:, half:] = source[:, :0:-1, mirrored:0:-1]
        return
    out.narrow(2, 0, half).copy_(known)
    mirror = out.narrow(2, 1, mirrored).flip(2)
    rows = torch.arange(length, 0, -1, device=x.device) % length
    if torch.compiler.is_compiling():
        out.narrow(2, half, mirrored).copy_(mirror[:, rows])
        return
    # Rows of all examples in one list, and straight into place: both much faster than the line above where not fused.
    rows = (torch.arange(batch, device=x.device)[:, None] * length + rows).flatten()
    torch.index_select(mirror.flatten(0, 1), 0, rows, out=out.flatten(0, 1).narrow(1, half, mirrored))


def _numpy_is_faster(out: Tensor) -> bool:
    """NumPy reads backwards in place, which tensors cannot: one pass instead of two, but on one thread only."""
    if torch.compiler.is_compiling() or not out.is_cpu:
        return False
    return torch.get_num_threads() == 1 or out.numel() <= _SMALL


def _matmul_mix(x: Tensor) -> Tensor:
    """The same by matrix products: cos(a + b) = cos a cos b - sin a sin b, each factor on folded halves.

    Under autocast the caller has already chosen the dtype, and backward runs outside of it: both must agree.
    """
    with torch.autocast(x.device.type, enabled=False):
        (half_n, mirrored_n), (half_d, mirrored_d) = _halves(x.shape[1]), _halves(x.shape[2])
        even, odd = _fold(x, 2)
        cosine, sine = _waves(x.shape[2], x)
        even, odd = even @ cosine, odd @ sine
        cosine, sine = _waves(x.shape[1], x)
        cosines = cosine @ _fold(even, 1)[0]
        sines = sine @ _fold(odd, 1)[1]
    out = x.new_empty(x.shape)
    out[:, :half_n, :half_d] = cosines
    out[:, :half_n, half_d:] = cosines[:, :, 1 : mirrored_d + 1].flip(2)
    out[:, 1 : mirrored_n + 1, 1 : mirrored_d + 1] -= sines
    out[:, 1 : mirrored_n + 1, half_d:] += sines.flip(2)
    upper = out[:, 1 : mirrored_n + 1]
    out[:, half_n:, 0] = upper[:, :, 0].flip(1)
    out[:, half_n:, 1:] = upper[:, :, 1:].flip(1, 2)
    return out


def _fold(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Even part x[k] + x[-k] (k = 0..size/2; where k = -k, x[k] alone) and odd part x[k] - x[-k] (the other k)."""
    half, mirrored = _halves(x.shape[dim])
    front = x.narrow(dim, 1, mirrored)
    back = x.narrow(dim, half, mirrored).flip(dim)
    middle = x.narrow(dim, 1 + mirrored, half - 1 - mirrored)
    return torch.cat([x.narrow(dim, 0, 1), front + back, middle], dim), front - back


def _halves(size: int) -> tuple[int, int]:
    """How many frequencies of a real signal differ, and how many of them have a mirror image."""
    return size // 2 + 1, (size - 1) // 2


def _make_waves(size: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """cos(2 pi j k / size) for j, k = 0..size/2, and sin(2 pi j k / size) for those that have a mirror image."""
    half, mirrored = _halves(size)
    # MPS has no float64.
    index = torch.arange(half, device="cpu" if device.startswith("mps") else device)
    # Reducing modulo `size` in integers keeps the angles exact however large j k is.
    angle = (index[:, None] * index % size).double() * (2 * math.pi / size)
    inner = angle[1 : mirrored + 1, 1 : mirrored + 1]
    return angle.cos().to(device, dtype), inner.sin().to(device, dtype)


_cached_waves = lru_cache(maxsize=64)(_make_waves)


def _waves(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    # A compiled graph computes them: tracing would look through the cache, and the size may be symbolic.
    make = _make_waves if torch.compiler.is_compiling() else _cached_waves
    return make(size, like.dtype, str(like.device))


def _by_length(x: Tensor, *, transform: Callable[[Tensor], Tensor], groups: list[tuple[int, Tensor]]) -> Tensor:
    """Transform the first `length` tokens of each group of rows, all rows of one length at once; zeros elsewhere."""
    out = x.new_zeros(x.shape)
    for length, rows in groups:
        out[rows, :length] = transform(x[rows, :length])
    return out


def _rows_by_length(mask: Tensor) -> list[tuple[int, Tensor]]:
    gaps = (mask[:, 1:] & ~mask[:, :-1]).any(1)
    if gaps.any():
        raise ValueError(
            f'mask: padding="exact" needs True on a prefix, row {int(gaps.nonzero()[0])} is not; '
            'move its tokens to the front or use padding="zero"'
        )
    lengths = mask.sum(1)
    return [(length, (lengths == length).nonzero()[:, 0]) for length in sorted(set(lengths.tolist())) if length]


def choose_backend(x: Tensor) -> Literal["fft", "matmul"]:
    """The backend that "auto" takes for `x`.

    On a CPU the FFT, and the folded product for the shortest inputs, where an FFT call is mostly overhead (measured).
    On CUDA the folded product for half precision up to 2048 tokens by 1024 features (an estimate from operation counts:
    a dense half-precision product runs near peak, while the FFT needs float32 and several passes over memory).
    """
    _, length, dim = x.shape
    if x.is_cuda:
        return "matmul" if _matmul_dtype(x) in _HALF and length <= 2048 and dim <= 1024 else "fft"
    return "fft"


def _working_dtype(x: Tensor, backend: Backend) -> torch.dtype:
    if backend == "matmul":
        return _matmul_dtype(x)
    return torch.float32 if x.dtype in _HALF else x.dtype


def _matmul_dtype(x: Tensor) -> torch.dtype:
    """What `torch.matmul` would compute in: autocast lowers float32 and leaves float64 alone."""
    if x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _check(x: Tensor, mask: Tensor | None, padding: str, backend: str) -> None:
    if x.ndim != 3 or 0 in x.shape[1:]:
        raise ValueError(f"x: expected (batch, length, dim), got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x: expected floating point numbers, got {x.dtype}; call x.float() first")
    check_options(padding, backend)
    check_mask(mask, x.shape[:2])


def check_options(padding: str, backend: str) -> None:
    """Refuse an unknown `padding` or `backend`."""
    if padding not in get_args(Padding):
        raise ValueError(f"padding: expected one of {', '.join(get_args(Padding))}, got {padding!r}")
    if backend not in get_args(Backend):
        raise ValueError(f"backend: expected one of {', '.join(get_args(Backend))}, got {backend!r}")
