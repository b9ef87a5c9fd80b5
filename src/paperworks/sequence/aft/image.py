"""Image classifiers of 2-D attention free convolutions: patches, pre-norm blocks, mean pooling, no class token.

Registered with timm as `aft_conv_tiny_32_11` and `aft_conv_small_384_11`, so that `timm.create_model` and its training
recipes take them. Call `register()` once, or import `AFTImageClassifier`.

Reference: Zhai et al. (2021, arXiv 2105.14103), section 4.3: DeiT's sizes, AFT-conv's heads and taps in the name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers.patch_embed import PatchEmbed
from timm.layers.weight_init import trunc_normal_
from timm.models import register_model
from torch import Tensor, nn

from paperworks.nn import BlockOptions, MixerEncoder
from paperworks.sequence.aft.mixers import AFTConv2d

__all__ = ["AFTImageClassifier", "AFTImageConfig", "aft_conv_small_384_11", "aft_conv_tiny_32_11"]


@dataclass(frozen=True)
class AFTImageConfig:
    """Sizes of an image classifier.

    Args:
        image_size, patch: of square images and patches, pixels; the first a multiple of the second.
        channels: of images.
        classes: 0 gives features.
        dim, depth: width and number of blocks; the feed-forward network is four times as wide.
        heads, window: of `AFTConv2d`.
        dropout: of feed-forward networks.

    Raises:
        ValueError: a patch that does not divide the image.
    """

    image_size: int = 224
    patch: int = 16
    channels: int = 3
    classes: int = 1000
    dim: int = 384
    depth: int = 12
    heads: int = 384
    window: int = 11
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(f"patch: {self.patch} does not divide the image size {self.image_size}")


class AFTImageClassifier(nn.Module):
    """(B, channels, H, W) images to (B, classes) logits.

    Raises:
        ValueError: images of another size.
    """

    def __init__(self, config: AFTImageConfig) -> None:
        super().__init__()
        self.config, self.num_classes = config, config.classes
        self.num_features = self.head_hidden_size = config.dim
        side = config.image_size // config.patch
        self.patch_embed = PatchEmbed(config.image_size, config.patch, config.channels, config.dim)
        self.position = nn.Parameter(torch.empty(1, side * side, config.dim))
        trunc_normal_(self.position, std=0.02)
        block = BlockOptions(
            ffn_dim=4 * config.dim, norm="pre", activation="gelu", norm_eps=1e-6, dropout=config.dropout
        )
        self.encoder = MixerEncoder(
            lambda layer: AFTConv2d(config.dim, heads=config.heads, window=config.window, grid=(side, side)),
            dim=config.dim,
            depth=config.depth,
            block=block,
        )
        self.head = nn.Linear(config.dim, config.classes) if config.classes else nn.Identity()

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, patches, dim)."""
        size = (self.config.channels, self.config.image_size, self.config.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != size:
            raise ValueError(f"images: expected (batch, {', '.join(map(str, size))}), got {tuple(images.shape)}")
        return self.encoder(self.patch_embed(images) + self.position).states

    def forward_head(self, states: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = states.mean(1)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.config.dim, num_classes) if num_classes else nn.Identity()


def _build(given: dict[str, Any], **sizes: Any) -> AFTImageClassifier:
    known = {"num_classes": "classes", "in_chans": "channels", "img_size": "image_size", "drop_rate": "dropout"}
    own = {known[name]: value for name, value in given.items() if name in known and value is not None}
    return AFTImageClassifier(AFTImageConfig(**(sizes | own)))


@register_model
def aft_conv_tiny_32_11(pretrained: bool = False, **given: Any) -> AFTImageClassifier:
    """The size of DeiT-tiny, 32 heads of 11 x 11 taps. There are no public weights."""
    _refuse_weights(pretrained)
    return _build(given, dim=192, heads=32)


@register_model
def aft_conv_small_384_11(pretrained: bool = False, **given: Any) -> AFTImageClassifier:
    """The size of DeiT-small, 384 heads of 11 x 11 taps. There are no public weights."""
    _refuse_weights(pretrained)
    return _build(given, dim=384, heads=384)


def _refuse_weights(pretrained: bool) -> None:
    if pretrained:
        raise ValueError("pretrained: nobody has published weights of these models; train from scratch")


def register() -> list[str]:
    """The names under which timm knows these models."""
    return timm.list_models("aft_conv_*")
