"""Decoders from encoder features to depth: by wavelet coefficients, dense or sparse, and the dense baseline.

Level k of the wavelet decoder works at half the scale of level k - 1. With x the features so far and f the encoder's
map at this scale,

    x  = act(conv3x3(x));  x = act(conv3x3(cat(up2(x), f)))             (target "depth" has the second convolution only)
    H  = 2^s (sigmoid(head+(x)) - sigmoid(head-(x)))                    (target "depth": 2^s conv3x3(x))
    LL = IDWT(LL, H),   map = LL / 2^s,   s = levels - 1 - k

and the first level alone predicts LL itself. Only maps are supervised, never coefficients. At a threshold, a level is
evaluated only below positions where the level before it had a large coefficient; see `execution`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.vision.wavelet_depth.execution import BREAK_EVEN, OVERHEAD, Halo, Level, Tally, run_level
from paperworks.vision.wavelet_depth.haar import haar_idwt2d
from paperworks.vision.wavelet_depth.sparse import PaddingMode

Target: TypeAlias = Literal["disparity", "depth"]
WIDTHS = (16, 32, 64, 128, 256)
LEVELS = {"disparity": 4, "depth": 3}


class DepthOutput(NamedTuple):
    """What a dense decoder returns. `maps`: (B, 1, h, w) each, finest first; `macs`: multiply-adds executed."""

    maps: list[Tensor]
    macs: int


class WaveletDepthOutput(NamedTuple):
    """What the wavelet decoder returns, finest first throughout.

    Attributes:
        maps: (B, 1, h, w): disparity in [0, 1], or depth.
        ll: (B, 1, h, w), the low-pass map at the coarsest level; `haar_idwt2d(ll, details)` is `maps[0]`, unclamped.
        details: (B, 1, 3, h, w) coefficients of each level.
        masks: (B, h, w) bool: where the coefficients of each level are kept; elsewhere they are 0.
        macs: multiply-adds that were executed, the inverse transforms left out.
        level_macs: the same for each level.
        additions: additions of the inverse transforms.
    """

    maps: list[Tensor]
    ll: Tensor
    details: list[Tensor]
    masks: list[Tensor]
    macs: int
    level_macs: list[int]
    additions: int


class WaveletDepthDecoder(nn.Module):
    """Predicts the Haar coefficients of a depth map, coarse to fine, and inverts the transform on the way.

    Args:
        num_ch_enc: channels of the encoder's five maps, strides 2 to 32.
        num_ch_dec: five widths; level k has the width `num_ch_dec[4 - k]` (target "depth": `num_ch_dec[3 - k]`, after a
            1x1 convolution to `num_ch_dec[4]`). None: 16, 32, 64, 128, 256 for disparity; for depth a half, a quarter,
            ... of the encoder's last map.
        levels: how many; None: the paper's, 4 for disparity (output at stride 1), 3 for depth (stride 2).
        target: "disparity": maps in [0, 1], ELU, heads squashed by sigmoids (KITTI); "depth": metres, LeakyReLU 0.2,
            linear heads (NYUv2).
        padding: of the feature convolutions.

    A level is executed densely, and its coefficients are masked, where that takes less time: where the multiply-adds of
    its sparse execution plus `overhead` exceed `break_even` times the dense ones. Both are attributes, measured on a
    processor core; `break_even = 1`, `overhead = 0` executes sparsely wherever that saves multiply-adds.

    State dicts of the authors' disparity decoder load through `from_official`.

    Reference: Ramamonjisoa et al., 2021, arXiv 2106.02022. The authors' code says that a patent is pending.

    Raises:
        ValueError: not five maps or widths, an unknown target or padding, levels not in 1..4.
    """

    def __init__(
        self,
        num_ch_enc: Sequence[int],
        *,
        num_ch_dec: Sequence[int] | None = None,
        levels: int | None = None,
        target: Target = "disparity",
        padding: PaddingMode = "reflect",
    ) -> None:
        super().__init__()
        if target not in LEVELS:
            raise ValueError(f"target: expected 'disparity' or 'depth', got {target!r}")
        levels = LEVELS[target] if levels is None else levels
        disparity = target == "disparity"
        last = num_ch_enc[-1]
        widths = tuple(num_ch_dec or (WIDTHS if disparity else (last // 2 ** (5 - i) for i in range(5))))
        _check_options(num_ch_enc, widths, levels, padding, narrowest=4 if disparity else 1)
        self.num_ch_enc, self.num_ch_dec, self.target, self.num_levels = tuple(num_ch_enc), widths, target, levels
        self.break_even, self.overhead = BREAK_EVEN, OVERHEAD
        self.bottleneck = None if disparity else nn.Conv2d(last, widths[4], 1)
        before = last if disparity else widths[4]
        self.levels = nn.ModuleList()
        for k in range(levels):
            width = widths[4 - k] if disparity else widths[3 - k]
            self.levels.append(Level(before, self.num_ch_enc[3 - k], width, squashed=disparity, padding=padding))
            before = width
        first = widths[4] if disparity else widths[3]
        self.low_pass = _low_pass_head(first, padding) if disparity else conv3x3(first, 1, padding)

    def forward(
        self, features: Sequence[Tensor], *, threshold: float | Tensor | None = None, halo: Halo = "exact"
    ) -> WaveletDepthOutput:
        """Decode.

        Args:
            features: five maps (B, C, H, W), strides 2 to 32, finest first.
            threshold: None: every coefficient. In [0, 1), a number or one per image: a finer level is evaluated only
                where max(|LH|, |HL|, |HH|) of the level before it exceeds threshold (max LL - min LL) of the image.
            halo: "exact": the result is that of the dense network with its coefficients masked; "official": features
                one position around the active ones only, zeros beyond, as the authors' sparse decoder keeps them.

        Raises:
            ValueError: features of other strides or channels, or a threshold outside [0, 1).
        """
        check_features(features, self.num_ch_enc, smallest=2)
        limits = None if threshold is None else check_threshold(threshold, features[0])
        tally = Tally()
        bottom = features[4] if self.bottleneck is None else tally.conv(self.bottleneck, features[4])
        state, mask, ll, low_pass = bottom, None, None, None
        details: list[Tensor] = []
        masks: list[Tensor] = []
        maps: list[Tensor] = []
        level_macs: list[int] = []
        radii = self.radii(halo)
        additions = 0
        for k, level in enumerate(self.levels):
            before = tally.macs
            step = run_level(
                level,
                state,
                features[3 - k],
                mask,
                tally,
                radius=radii[k],
                break_even=self.break_even,
                overhead=self.overhead,
            )
            scale = 2.0 ** (self.num_levels - 1 - k)
            if ll is None:
                ll = low_pass = self._predict_low_pass(step.dense, tally)
                if self.target == "depth":
                    maps.append(ll / (2 * scale))
            detail = step.detail[:, None] * scale
            ll = haar_idwt2d(ll, detail.to(ll.dtype))
            # A butterfly of eight additions makes four outputs.
            additions += 2 * ll.numel()
            maps.append(ll / scale if self.target == "depth" else (ll / scale).clamp(0, 1))
            if limits is not None and k + 1 < self.num_levels:
                mask = large_coefficients(detail, ll, limits)
            state = step.state
            details.append(detail)
            masks.append(step.active)
            level_macs.append(tally.macs - before)
        assert low_pass is not None
        return WaveletDepthOutput(
            maps[::-1], low_pass, details[::-1], masks[::-1], tally.macs, level_macs[::-1], additions
        )

    def radii(self, halo: Halo) -> list[int]:
        """How far around its active positions each level needs features, coarsest first.

        At the finest level r = 1, for the heads. A level with radius r reads the features before it within
        ceil((r + 1) / 2) of the parents, and one further where a convolution lies between.
        """
        if halo not in ("exact", "official"):
            raise ValueError(f"halo: expected 'exact' or 'official', got {halo!r}")
        radii = [1]
        between = 1 if self.target == "disparity" else 0
        for _ in range(self.num_levels - 1):
            radii.append(1 if halo == "official" else max(1, (radii[-1] + 2) // 2 + between))
        return radii[::-1]

    def _predict_low_pass(self, x: Tensor, tally: Tally) -> Tensor:
        scale = 2.0**self.num_levels
        if self.target == "depth":
            return tally.conv(self.low_pass, x) * scale
        hidden, out = self.low_pass[0], self.low_pass[1]  # pyright: ignore[reportIndexIssue]
        return tally.conv(out, F.leaky_relu(tally.conv(hidden, x), 0.1)).sigmoid() * scale

    def from_official(self, state: dict[str, Tensor]) -> WaveletDepthDecoder:
        """Load a state dict of the authors' disparity decoder (non-commercial weights), in place.

        `decoder.{n}` runs through two convolutions and the heads (LL at the first level only; plus; minus) of each
        level, coarse to fine. Our two coefficient heads share one convolution, the plus head first.

        Raises:
            ValueError: a target other than disparity.
            KeyError: an entry is missing.
        """
        if self.target != "disparity":
            raise ValueError(f"target: only disparity decoders are known, this one is for {self.target!r}")
        ours: dict[str, Tensor] = {}
        number = 0
        for k in range(self.num_levels):
            for name in ("reduce", "merge"):
                _take(ours, f"levels.{k}.{name}", [f"decoder.{number}.conv.conv"], state)
                number += 1
            if k == 0:
                _take(ours, "low_pass.0", [f"decoder.{number}.0.conv"], state)
                _take(ours, "low_pass.1", [f"decoder.{number}.2.conv"], state)
                number += 1
            heads = (f"decoder.{number}", f"decoder.{number + 1}")
            _take(ours, f"levels.{k}.hidden", [f"{head}.0.conv" for head in heads], state)
            _take(ours, f"levels.{k}.detail", [f"{head}.2.conv" for head in heads], state)
            number += 2
        self.load_state_dict(ours)
        return self

    def extra_repr(self) -> str:
        return f"num_ch_enc={self.num_ch_enc}, num_ch_dec={self.num_ch_dec}, target={self.target!r}"


class DepthDecoder(nn.Module):
    """The dense decoder that the wavelet decoder is compared with: features up to full resolution, sigmoid outputs.

    For i = 4 .. finest: x = ELU(conv(x)); x = up2(x); x = ELU(conv(cat(x, f_{i-1}))) (no f at i = 0);
    disp_i = sigmoid(conv(x)) for i <= 3. Convolutions are 3x3 with zeros at the border.

    Args:
        num_ch_enc: channels of the encoder's five maps.
        num_ch_dec: widths by i.
        finest: the last i: 0 for the input's resolution, 1 for half of it, ...

    Reference: Godard et al., 2019, "Digging Into Self-Supervised Monocular Depth Estimation".

    Raises:
        ValueError: not five maps or widths, or `finest` not in 0..3.
    """

    def __init__(self, num_ch_enc: Sequence[int], *, num_ch_dec: Sequence[int] = WIDTHS, finest: int = 0) -> None:
        super().__init__()
        _check_options(num_ch_enc, num_ch_dec, 4, "zeros", narrowest=1)
        if finest not in range(4):
            raise ValueError(f"finest: expected 0 to 3, got {finest}")
        self.num_ch_enc, self.num_ch_dec, self.finest = tuple(num_ch_enc), tuple(num_ch_dec), finest
        self.reduce, self.merge, self.outputs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        before = self.num_ch_enc[-1]
        for i in range(4, finest - 1, -1):
            width = self.num_ch_dec[i]
            self.reduce.append(conv3x3(before, width, "zeros"))
            self.merge.append(conv3x3(width + (self.num_ch_enc[i - 1] if i else 0), width, "zeros"))
            if i <= 3:
                self.outputs.append(conv3x3(width, 1, "zeros"))
            before = width

    def forward(self, features: Sequence[Tensor]) -> DepthOutput:
        """Decode five maps (B, C, H, W), strides 2 to 32, finest first.

        Raises:
            ValueError: features of other strides or channels.
        """
        check_features(features, self.num_ch_enc, smallest=1)
        tally, maps, x = Tally(), [], features[4]
        for k in range(len(self.reduce)):
            x = F.interpolate(F.elu(tally.conv(self.reduce[k], x)), scale_factor=2.0, mode="nearest")
            if k < 4:
                x = torch.cat((x, features[3 - k]), 1)
            x = F.elu(tally.conv(self.merge[k], x))
            if k > 0:
                maps.append(tally.conv(self.outputs[k - 1], x).sigmoid())
        return DepthOutput(maps[::-1], tally.macs)


def large_coefficients(detail: Tensor, ll: Tensor, threshold: Tensor) -> Tensor:
    """(B, h, w) bool: max(|LH|, |HL|, |HH|) > threshold (max LL - min LL), per image.

    `detail`: (B, 1, 3, h, w); `ll`: (B, 1, 2h, 2w), the low-pass map after these coefficients; `threshold`: (B,).
    """
    low, high = torch.aminmax(ll.detach().flatten(1), dim=1)
    return detail.detach().abs().amax((1, 2)) > (threshold * (high - low))[:, None, None]


def conv3x3(inputs: int, outputs: int, padding: PaddingMode) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=padding)


def _low_pass_head(width: int, padding: PaddingMode) -> nn.ModuleList:
    return nn.ModuleList((nn.Conv2d(width, width // 4, 1), conv3x3(width // 4, 1, padding)))


def _take(ours: dict[str, Tensor], name: str, theirs: Sequence[str], state: dict[str, Tensor]) -> None:
    for part in ("weight", "bias"):
        ours[f"{name}.{part}"] = torch.cat([state[f"{other}.{part}"] for other in theirs])


def _check_options(
    num_ch_enc: Sequence[int], num_ch_dec: Sequence[int], levels: int, padding: PaddingMode, *, narrowest: int
) -> None:
    if len(num_ch_enc) != 5:
        raise ValueError(f"num_ch_enc: expected the channels of 5 maps, strides 2 to 32, got {list(num_ch_enc)}")
    if len(num_ch_dec) != 5 or min(num_ch_dec) < narrowest:
        raise ValueError(f"num_ch_dec: expected 5 widths of at least {narrowest}, got {list(num_ch_dec)}")
    if levels not in range(1, 5):
        raise ValueError(f"levels: expected 1 to 4, got {levels}")
    if padding not in ("reflect", "zeros"):
        raise ValueError(f"padding: expected 'reflect' or 'zeros', got {padding!r}")


def check_features(features: Sequence[Tensor], channels: Sequence[int], *, smallest: int) -> None:
    """Five maps of halving size with the right channels.

    Raises:
        ValueError: naming what came.
    """
    if len(features) != 5:
        raise ValueError(f"features: expected 5 maps with strides 2, 4, 8, 16, 32, got {len(features)} maps")
    if [f.shape[1] for f in features] != list(channels):
        raise ValueError(f"features: expected channels {list(channels)}, got {[f.shape[1] for f in features]}")
    bottom = features[4].shape[2:]
    for power, feature in zip((8, 4, 2, 1), features[1:], strict=True):
        if feature.shape[2:] != (bottom[0] * power, bottom[1] * power):
            sizes = [tuple(f.shape[2:]) for f in features]
            raise ValueError(f"features: expected each map half as large as the one before, got {sizes}")
    if features[0].shape[2:] != (bottom[0] * 16, bottom[1] * 16):
        sizes = [tuple(f.shape[2:]) for f in features]
        raise ValueError(f"features: expected each map half as large as the one before, got {sizes}")
    if min(bottom) < smallest:
        raise ValueError(
            f"features: reflection needs at least 2 x 2 positions at stride 32, got {tuple(bottom)}; "
            "give images of at least 64 x 64"
        )


def check_threshold(threshold: float | Tensor, like: Tensor) -> Tensor:
    """(B,) thresholds on the device of `like`.

    Raises:
        ValueError: outside [0, 1), or neither one number nor one per image.
    """
    values = torch.as_tensor(threshold, dtype=torch.float32, device=like.device)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != len(like)):
        raise ValueError(f"threshold: expected a number or {len(like)}, one per image, got {tuple(values.shape)}")
    wrong = values[~((values >= 0) & (values < 1))]
    if len(wrong):
        raise ValueError(f"threshold: expected a value in [0, 1), got {float(wrong.reshape(-1)[0]):g}")
    return values.expand(len(like))
