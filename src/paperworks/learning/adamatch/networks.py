"""Networks with batch norm and leaky ReLU: the paper's wide residual network, and one small enough for a laptop.

Each has a `stem`, a convolution that does not mix images and therefore runs once for both passes, and a `body`.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

SLOPE = 0.1
# objax keeps .999 of running statistics per batch; torch counts what is taken in.
MOMENTUM, EPS = 0.001, 1e-6


class StemBody(nn.Module):
    """`body(stem(images))`: (B, C, H, W) -> (B, n_classes). `features` stops before the last layer."""

    def __init__(self, stem: nn.Module, trunk: nn.Module, width: int, n_classes: int):
        super().__init__()
        self.stem = stem
        self.body = nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_classes))
        self.num_features = width

    def forward(self, images: Tensor) -> Tensor:
        return self.body(self.stem(images))

    def features(self, images: Tensor) -> Tensor:
        """(B, width)."""
        return self.body[:-1](self.stem(images))


def cnn5(n_classes: int, *, channels: int = 1, momentum: float = 0.01) -> StemBody:
    """Five convolutions 3 x 3 of 16, 32 (stride 2), 32, 64 (stride 2), 64 channels; 70 thousand parameters.

    Args:
        n_classes: C.
        channels: of the images, 1 or 3.
        momentum: what running statistics take in of each batch.

    Raises:
        ValueError: a number that is not positive.
    """
    _check(n_classes, channels)
    layers: list[nn.Module] = [_norm(16, momentum), _leaky()]
    width = 16
    for following, stride in ((32, 2), (32, 1), (64, 2), (64, 1)):
        layers += [_conv(width, following, 3, stride), _norm(following, momentum), _leaky()]
        width = following
    return initialise(StemBody(_conv(channels, 16, 3, 1), nn.Sequential(*layers), width, n_classes))


def wide_resnet(
    n_classes: int, *, channels: int = 3, stages: int = 3, repeat: int = 4, widths: int = 32, momentum: float = MOMENTUM
) -> StemBody:
    """The paper's network: WRN-28-2 for images of 32 pixels; `stages=4` (WRN-34-2) for 64, 5 (WRN-40-2) for 128.

    Args:
        n_classes: C.
        channels: of the images, 1 or 3.
        stages: each but the first halves the image and doubles the channels.
        repeat: blocks per stage.
        widths: channels of the first stage.
        momentum: what running statistics take in of each batch.

    Raises:
        ValueError: a number that is not positive.
    """
    _check(n_classes, channels)
    if min(stages, repeat, widths) < 1:
        raise ValueError(f"stages, repeat, widths: expected positive numbers, got {stages}, {repeat}, {widths}")
    blocks: list[nn.Module] = []
    width = 16
    for stage in range(stages):
        for number in range(repeat):
            following, stride = widths << stage, 2 if stage and not number else 1
            blocks.append(WideBlock(width, following, stride, momentum, activate_shortcut=not blocks))
            width = following
    trunk = nn.Sequential(*blocks, _norm(width, momentum), _leaky())
    return initialise(StemBody(_conv(channels, 16, 3, 1), trunk, width, n_classes))


class WideBlock(nn.Module):
    """norm - activation - conv - norm - activation - conv, plus the shortcut, which the first block activates too."""

    def __init__(self, inputs: int, width: int, stride: int, momentum: float, *, activate_shortcut: bool):
        super().__init__()
        self.first = nn.Sequential(_norm(inputs, momentum), _leaky())
        self.residual = nn.Sequential(
            _conv(inputs, width, 3, stride), _norm(width, momentum), _leaky(), _conv(width, width, 3, 1)
        )
        self.shortcut = _conv(inputs, width, 1, stride) if inputs != width else nn.Identity()
        self.activate_shortcut = activate_shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.shortcut(y if self.activate_shortcut else x) + self.residual(y)


def initialise(model: StemBody) -> StemBody:
    """Convolutions N(0, 1 / (k^2 n_out / 2)), the linear layer truncated Xavier, biases 0; in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            std = math.sqrt(2 / (module.in_features + module.out_features))
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(module.bias)
    return model


def _conv(inputs: int, width: int, side: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, width, side, stride, padding=side // 2, bias=False)


def _norm(width: int, momentum: float) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=EPS, momentum=momentum)


def _leaky() -> nn.LeakyReLU:
    return nn.LeakyReLU(SLOPE, inplace=True)


def _check(n_classes: int, channels: int) -> None:
    if n_classes < 2 or channels not in (1, 3):
        raise ValueError(f"n_classes, channels: expected at least 2, and 1 or 3, got {n_classes} and {channels}")
