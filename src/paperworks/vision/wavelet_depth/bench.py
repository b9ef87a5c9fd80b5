"""Workloads of `paperworks bench wavelet_depth`.

The authors' sparse layers are not run: their licence does not allow it here. In their place stand the dense execution,
and sparse convolution as it is commonly written: neighbours gathered from channel-first maps, zeros around, an index
built anew for every convolution. Masks are nested blobs of given shares, as large coefficients are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from paperworks.lab.bench import Contender, Growth, Workload
from paperworks.vision.wavelet_depth.decoder import WaveletDepthDecoder, large_coefficients
from paperworks.vision.wavelet_depth.execution import Packed, Tally, run_level
from paperworks.vision.wavelet_depth.haar import haar_idwt2d
from paperworks.vision.wavelet_depth.sparse import index_map, positions, sparse_conv2d, up2

Call = Callable[[], Any]
RESNET18 = (64, 64, 128, 256, 512)
SIZE = (192, 640)


def workloads(*, quick: bool = False) -> list[Workload]:
    """The rows, with the ratios that are promised."""
    size, rounds = ((64, 96), 3) if quick else (SIZE, 20)
    grid = (size[0] // 2, size[1] // 2)
    rows = [_convolution(share, grid, rounds) for share in ((0.05,) if quick else (0.02, 0.05, 0.2))]
    rows += [_decoder(shares, size, target, rounds) for shares, target in _masks(quick)]
    return [*rows, _inverse(grid, rounds)]


def growth() -> list[Growth]:
    """Linear in the number of active positions."""
    return [Growth("sparse 3x3, 64 to 32, N positions", (2000, 4000, 8000, 16000, 32000, 64000), _growing, limit=1.15)]


def _masks(quick: bool) -> list[tuple[tuple[float, ...], float]]:
    if quick:
        return [((0.05, 0.05, 0.05), 3.0)]
    return [((0.05, 0.05, 0.05), 3.0), ((0.42, 0.05, 0.003), 1.5), ((0.6, 0.5, 0.4), 0.91), ((1.0, 1.0, 1.0), 0.91)]


def blobs(share: float, height: int, width: int, *, within: Tensor | None = None, seed: int = 0) -> Tensor:
    """(1, H, W) bool: a share of the positions, in connected patches."""
    generator = torch.Generator().manual_seed(seed)
    field = torch.rand(1, 1, max(height // 8, 2), max(width // 8, 2), generator=generator)
    field = F.interpolate(field, size=(height, width), mode="bilinear")[0]
    if within is not None:
        field = field.masked_fill(~within, 10.0)
    kept = field.flatten().argsort()[: max(1, round(share * height * width))]
    mask = torch.zeros(height * width, dtype=torch.bool)
    mask[kept] = True
    mask = mask.view(1, height, width)
    return mask if within is None else mask & within


def _close(tolerance: float) -> Callable[[Tensor, Tensor], str | None]:
    def agree(ours: Tensor, theirs: Tensor) -> str | None:
        gap = float((ours - theirs).abs().max())
        return None if gap < tolerance else f"differ by {gap:.2g}"

    return agree


# One convolution ------------------------------------------------------------------------------------------------------


def _convolution(share: float, grid: tuple[int, int], rounds: int) -> Workload:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, *grid, generator=generator)
    weight = torch.randn(32, 64, 3, 3, generator=generator) * 0.05
    bias = torch.zeros(32)
    mask = blobs(share, *grid)
    everywhere = torch.ones_like(mask)
    rows, index = x.permute(0, 2, 3, 1).reshape(-1, 64).contiguous(), index_map(positions(everywhere), (1, *grid))

    def ours() -> Call:
        return torch.no_grad()(lambda: sparse_conv2d(rows, index, mask, weight, bias))

    def dense() -> Call:
        last = x.to(memory_format=torch.channels_last)
        return torch.no_grad()(
            lambda: F.conv2d(F.pad(last, (1, 1, 1, 1), mode="reflect"), weight, bias).permute(0, 2, 3, 1)[mask]
        )

    def common() -> Call:
        def call() -> Tensor:
            padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
            _, row, column = mask.nonzero(as_tuple=True)
            patches = [padded[0, :, row + dy, column + dx] for dy in range(3) for dx in range(3)]
            gathered = torch.stack(patches, 1).flatten(0, 1)
            return (weight.flatten(1) @ gathered + bias[:, None]).t()

        return torch.no_grad()(call)

    return Workload(
        f"3x3 convolution, 64 to 32, {grid[0]} x {grid[1]}, {share:.0%} active",
        Contender("rows", ours),
        (Contender("dense convolution", dense), Contender("gather from channel-first maps", common)),
        _close(1e-4),
        target=2.5 if share < 0.1 else 1.0,
        rounds=rounds,
        note="the authors' sparse layers, against which 2.5 was aimed, are not run",
    )


# The decoder ----------------------------------------------------------------------------------------------------------


def _decoder(shares: tuple[float, ...], size: tuple[int, int], target: float, rounds: int) -> Workload:
    """The whole decoder of a ResNet18 with forced masks, against its dense execution with the same masks applied."""
    torch.manual_seed(0)
    own = WaveletDepthDecoder(RESNET18).eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    features = [
        torch.randn(1, c, size[0] >> k, size[1] >> k).to(memory_format=torch.channels_last)
        for k, c in enumerate(RESNET18, 1)
    ]
    masks, mask = [], None
    for level, share in enumerate(shares):
        grid = (size[0] // 16 << level, size[1] // 16 << level)
        mask = blobs(share, *grid, within=None if mask is None else up2(mask), seed=level)
        masks.append(mask)

    def ours() -> Call:
        return torch.no_grad()(lambda: decode(own, features, masks, own.break_even))

    def dense() -> Call:
        return torch.no_grad()(lambda: decode(own, features, masks, 0.0))

    words = ", ".join(f"{share:.1%}" for share in shares)
    return Workload(
        f"R18 decoder, {size[1]} x {size[0]}, masks {words} (coarse to fine)",
        Contender("sparse", ours),
        (Contender("dense, the same masks applied", dense),),
        _close(1e-4),
        target=target,
        rounds=rounds,
    )


@torch.no_grad()
def decode(own: WaveletDepthDecoder, features: list[Tensor], masks: list[Tensor], break_even: float) -> Tensor:
    """The finest map under given masks, coarse to fine."""
    state: Tensor | Packed = features[4]
    ll, tally, radii = None, Tally(), own.radii("exact")
    for k, level in enumerate(own.levels):
        mask = masks[k - 1] if k else None
        step = run_level(
            level, state, features[3 - k], mask, tally, radius=radii[k], break_even=break_even, overhead=own.overhead
        )
        if ll is None:
            ll = own._predict_low_pass(step.dense, tally)
        detail = step.detail[:, None] * 2.0 ** (own.num_levels - 1 - k)
        ll = haar_idwt2d(ll, detail)
        if k and mask is not None and k + 1 < own.num_levels:
            # What choosing the next mask costs, though the mask is given.
            large_coefficients(detail, ll, torch.zeros(1))
        state = step.state
    assert ll is not None
    return ll.clamp(0, 1)


# The inverse transform ------------------------------------------------------------------------------------------------


def _inverse(grid: tuple[int, int], rounds: int) -> Workload:
    generator = torch.Generator().manual_seed(0)
    ll = torch.randn(1, 1, *grid, generator=generator)
    detail = torch.randn(1, 1, 3, *grid, generator=generator)

    def ours() -> Call:
        return torch.no_grad()(lambda: haar_idwt2d(ll, detail))

    def pywavelets() -> Call:
        import pywt

        low, high = ll.numpy(), tuple(detail.numpy().transpose(2, 0, 1, 3, 4))
        return lambda: torch.from_numpy(pywt.idwt2((low, high), "haar", axes=(-2, -1)))

    def convolution() -> Call:
        signs = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]).view(4, 1, 2, 2) / 2
        return torch.no_grad()(lambda: F.conv_transpose2d(torch.cat((ll, detail[:, 0]), 1), signs, stride=2))

    def wavelets() -> Call:
        from pytorch_wavelets import IDWT  # pyright: ignore[reportMissingImports]

        inverse = IDWT(wave="haar", mode="zero")
        return torch.no_grad()(lambda: inverse((ll, [detail])))

    return Workload(
        f"inverse Haar transform to {2 * grid[0]} x {2 * grid[1]}",
        Contender("haar_idwt2d", ours),
        (
            Contender("pytorch_wavelets", wavelets, requires="pytorch_wavelets"),
            Contender("PyWavelets", pywavelets, requires="pywt"),
            Contender("transposed convolution", convolution),
        ),
        _close(1e-5),
        target=3.0,
        rounds=5 * rounds,
    )


def _growing(count: int) -> Call:
    side = 320
    x = torch.randn(side * side, 64)
    mask = torch.zeros(side * side, dtype=torch.bool)
    mask[:count] = True
    index = torch.arange(side * side).view(1, side, side)
    weight = torch.randn(32, 64, 3, 3)
    return torch.no_grad()(lambda: sparse_conv2d(x, index, mask.view(1, side, side), weight))
