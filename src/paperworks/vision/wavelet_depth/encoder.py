"""Encoders: five feature maps at strides 2 to 32, finest first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

STRIDES = (2, 4, 8, 16, 32)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class CompactEncoder(nn.Module):
    """A small convolutional encoder with group norms, for training from scratch on a processor.

    Each of five stages halves the size: conv3x3 of stride 2, GroupNorm, ReLU, conv3x3, GroupNorm, ReLU.

    Args:
        channels: of the five maps; multiples of 8.
    """

    def __init__(self, channels: Sequence[int] = (16, 24, 32, 64, 96)) -> None:
        super().__init__()
        if len(channels) != 5 or any(width % 8 for width in channels):
            raise ValueError(f"channels: expected 5 multiples of 8, got {list(channels)}")
        self.channels = tuple(channels)
        self.stages = nn.ModuleList()
        before = 3
        for width in channels:
            self.stages.append(nn.Sequential(*_unit(before, width, 2), *_unit(width, width, 1)))
            before = width

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W), normalised -> five maps (B, C, H / stride, W / stride)."""
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def _unit(before: int, width: int, stride: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    conv = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
    return conv, nn.GroupNorm(8, width), nn.ReLU()


class TimmEncoder(nn.Module):
    """The five stages of a timm backbone, such as resnet18, resnet50, densenet161 or mobilenetv2_100.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm knows no such name, or its maps have other strides.
    """

    def __init__(self, name: str, *, pretrained: bool = False) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise ImportError(
                "encoder: needs the library timm; install it with: pip install 'paperworks[vision]'"
            ) from error
        if not timm.is_model(name):
            raise ValueError(f"encoder: timm knows no model {name!r}; see timm.list_models()")
        self.net = timm.create_model(name, features_only=True, pretrained=pretrained)
        strides = list(self.net.feature_info.reduction())  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        if strides != list(STRIDES):
            raise ValueError(f"features: expected 5 maps with strides 2, 4, 8, 16, 32, got strides {strides}")
        self.channels = tuple(self.net.feature_info.channels())  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W), normalised -> five maps (B, C, H / stride, W / stride)."""
        return list(self.net(images))


def make_encoder(encoder: str | nn.Module, *, pretrained: bool = False) -> nn.Module:
    """The encoder of a name: `compact`, or any timm model with five stages; a module is used as it is.

    A module needs `channels`, and returns five maps of strides 2 to 32.
    """
    if isinstance(encoder, nn.Module):
        if not hasattr(encoder, "channels"):
            raise ValueError("encoder: a module of one's own needs `channels`, the channels of its five maps")
        return encoder
    if encoder == "compact":
        if pretrained:
            raise ValueError("pretrained: there are no weights for the compact encoder")
        return CompactEncoder()
    return TimmEncoder(encoder, pretrained=pretrained)


def normalise(images: Tensor) -> Tensor:
    """Images in [0, 1] by ImageNet's mean and deviation."""
    mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean[:, None, None]) / std[:, None, None]
