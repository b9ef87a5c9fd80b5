"""A convolutional backbone small enough for a laptop, plain or residual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

Norm: TypeAlias = Literal["batch", "group"]

# Channels per group of group norm; fewer where a layer is narrower.
_GROUP = 8


class SmallConvNet(nn.Module):
    """Convolutions 3 x 3 in stages that halve the image, then the mean over places: (B, C, H, W) -> (B, widths[-1]).

    Plain: each stage has `blocks` of conv - norm - ReLU. Residual: a stem (conv - norm - ReLU), then stages of `blocks`
    of x + f(x), f = conv - norm - ReLU - conv - norm, followed by ReLU; where shapes change, the shortcut is a 1 x 1
    convolution with norm. Either way `stem`, `blocks` (one list over all stages) and `pool` run one after the other, so
    a network can be cut between any two of them; the stem of a plain network is the identity.

    Args:
        channels: of the images.
        widths: one per stage.
        blocks: per stage.
        stride_first: of the first convolution; 2 makes the network about three times cheaper. Each later stage starts
            with stride 2.
        residual: with shortcuts.
        norm: "batch", or "group" (groups of 8 channels), which does not mix the images of a batch.
        drop_path: largest rate of stochastic depth, rising linearly over the blocks from 0; residual networks only.

    Raises:
        ValueError: an option out of range; when called, images of another form.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int] = (32, 64, 128),
        *,
        blocks: int = 1,
        stride_first: int = 2,
        residual: bool = False,
        norm: Norm = "batch",
        drop_path: float = 0.0,
    ):
        super().__init__()
        _check(channels, widths, blocks, stride_first, norm)
        if not 0 <= drop_path < 1 or (drop_path and not residual):
            raise ValueError(f"drop_path: expected a rate in [0, 1), above 0 with residual=True only, got {drop_path}")
        self.channels, self.num_features = channels, widths[-1]
        self.stem = _conv(channels, widths[0], stride_first, norm) if residual else nn.Identity()
        self.blocks = nn.ModuleList()
        inputs, depth = (widths[0] if residual else channels), len(widths) * blocks
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if block == 0 and stage > 0 else 1
                if residual:
                    rate = drop_path * len(self.blocks) / max(depth - 1, 1)
                    self.blocks.append(ResidualBlock(inputs, width, stride, norm=norm, drop_path=rate))
                else:
                    first = stage == 0 and block == 0
                    self.blocks.append(_conv(inputs, width, stride_first if first else stride, norm))
                inputs = width
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        """Features of float images."""
        if images.ndim != 4 or images.shape[1] != self.channels:
            got = tuple(images.shape)
            raise ValueError(f"images: expected (batch, {self.channels}, height, width), got {got}")
        images = self.stem(images)
        for block in self.blocks:
            images = block(images)
        return self.pool(images)


class ResidualBlock(nn.Module):
    """ReLU(shortcut(x) + f(x)); in training f is left out for a part `drop_path` of the images, else scaled up."""

    def __init__(self, inputs: int, width: int, stride: int, *, norm: Norm = "batch", drop_path: float = 0.0):
        super().__init__()
        self.first = _conv(inputs, width, stride, norm)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), _norm(norm, width))
        same = inputs == width and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), _norm(norm, width))
        )
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        change = self.second(self.first(x))
        if self.training and self.drop_path > 0:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop_path
            change = change * kept / (1 - self.drop_path)
        return (self.shortcut(x) + change).relu()

    def extra_repr(self) -> str:
        return f"drop_path={self.drop_path:g}"


def _conv(inputs: int, width: int, stride: int, norm: Norm) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, _norm(norm, width), nn.ReLU(inplace=True))


def _norm(norm: Norm, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(max(1, width // _GROUP), width)


def _check(channels: int, widths: Sequence[int], blocks: int, stride_first: int, norm: str) -> None:
    if channels < 1 or not widths or min(widths) < 1 or blocks < 1:
        got = f"{channels}, {tuple(widths)}, {blocks}"
        raise ValueError(f"channels, widths, blocks: expected positive numbers, at least one width, got {got}")
    if stride_first not in (1, 2):
        raise ValueError(f"stride_first: expected 1 or 2, got {stride_first}")
    if norm not in ("batch", "group"):
        raise ValueError(f"norm: expected batch or group, got {norm!r}")
    if norm == "group" and any(width % max(1, width // _GROUP) for width in widths):
        raise ValueError(
            f"widths: group norm needs widths below {_GROUP} or divisible by {_GROUP}, got {tuple(widths)}"
        )
