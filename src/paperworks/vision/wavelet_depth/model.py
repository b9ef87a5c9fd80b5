"""Encoder and decoder together: from a picture to metres."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperworks.vision.wavelet_depth.decoder import DepthOutput, Target, WaveletDepthDecoder, WaveletDepthOutput
from paperworks.vision.wavelet_depth.encoder import STRIDES, make_encoder, normalise
from paperworks.vision.wavelet_depth.execution import Halo

SMALLEST = 64


def disp_to_depth(disp: Tensor, min_depth: float = 0.1, max_depth: float = 100.0) -> Tensor:
    """1 / depth = 1 / max + (1 / min - 1 / max) disp, for disparity in [0, 1]."""
    nearest, farthest = 1 / min_depth, 1 / max_depth
    return 1 / (farthest + (nearest - farthest) * disp)


class WaveletDepthModel(nn.Module):
    """Depth of single pictures, by the wavelet decoder on an encoder's maps.

    Args:
        encoder: a timm model with five stages, `compact`, or a module with `channels` that returns five maps.
        pretrained: load timm's weights for the encoder.
        target: "disparity" (maps in [0, 1], see `disp_to_depth`) or "depth" (metres).
        min_depth, max_depth: metres at disparity 1 and 0; a "depth" model's predictions are cut to them.
        decoder: another decoder for these maps, such as `DepthDecoder`.

    Reference: Ramamonjisoa et al., 2021, arXiv 2106.02022.

    Raises:
        ValueError: an unknown encoder or one of other strides, or depths out of order.
    """

    def __init__(
        self,
        encoder: str | nn.Module = "resnet18",
        *,
        pretrained: bool = False,
        target: Target = "disparity",
        min_depth: float = 0.1,
        max_depth: float = 100.0,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not 0 < min_depth < max_depth:
            raise ValueError(f"min_depth, max_depth: expected 0 < min < max, got {min_depth} and {max_depth}")
        self.target, self.min_depth, self.max_depth = target, min_depth, max_depth
        self.encoder = make_encoder(encoder, pretrained=pretrained)
        channels: Any = self.encoder.channels
        self.decoder = WaveletDepthDecoder(channels, target=target) if decoder is None else decoder

    def forward(
        self, images: Tensor, *, threshold: float | Tensor | None = None, halo: Halo = "exact"
    ) -> WaveletDepthOutput | DepthOutput:
        """Decode images (B, 3, H, W) in [0, 1], sides divisible by 32; `threshold` and `halo` as in the decoder.

        Raises:
            ValueError: another shape, or a threshold for a decoder that has none.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images: expected (B, 3, H, W), got {tuple(images.shape)}")
        if images.shape[2] % STRIDES[-1] or images.shape[3] % STRIDES[-1]:
            raise ValueError(f"images: sides must be divisible by 32, got {tuple(images.shape)}; `predict` pads them")
        features = self.encoder(normalise(images))
        if isinstance(self.decoder, WaveletDepthDecoder):
            return self.decoder(features, threshold=threshold, halo=halo)
        if threshold is not None:
            raise ValueError("threshold: this model's decoder has no wavelet coefficients to threshold")
        return self.decoder(features)

    def to_depth(self, maps: Tensor) -> Tensor:
        """Metres from a map of the decoder."""
        if self.target == "disparity":
            return disp_to_depth(maps, self.min_depth, self.max_depth)
        return maps.clamp(self.min_depth, self.max_depth)

    @torch.no_grad()
    def predict(self, images: Tensor, threshold: float | Tensor | None = None, *, halo: Halo = "exact") -> Tensor:
        """Depth (B, 1, H, W) in metres of images (B, 3, H, W) in [0, 1], of any size of at least 2 x 2.

        Images are padded at the right and below, by mirroring, to sides that 32 divides (at least 64), and the result
        is cropped. The model is used in evaluation mode.
        """
        return self.inspect(images, threshold, halo=halo)[0]

    @torch.no_grad()
    def inspect(
        self, images: Tensor, threshold: float | Tensor | None = None, *, halo: Halo = "exact"
    ) -> tuple[Tensor, WaveletDepthOutput | DepthOutput]:
        """As `predict`, with what the decoder returned for the padded images beside it."""
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 2:
            raise ValueError(f"images: expected (B, 3, H, W) of at least 2 x 2, got {tuple(images.shape)}")
        height, width = images.shape[2:]
        training = self.training
        self.eval()
        try:
            output = self(pad_to_stride(images), threshold=threshold, halo=halo)
        finally:
            self.train(training)
        return self.at_full_size(output.maps[0], (height, width)), output

    def at_full_size(self, finest: Tensor, size: tuple[int, int]) -> Tensor:
        """Metres at the images' own size, from the finest map of padded images."""
        padded = tuple(padded_side(side) for side in size)
        if tuple(finest.shape[2:]) != padded:
            finest = F.interpolate(finest, size=padded, mode="bilinear", align_corners=False)
        return self.to_depth(finest[..., : size[0], : size[1]])


def padded_side(side: int) -> int:
    return max(SMALLEST, -(-side // STRIDES[-1]) * STRIDES[-1])


def pad_to_stride(images: Tensor) -> Tensor:
    """Mirror images at the right and lower border until 32 divides their sides."""
    for dim in (2, 3):
        side = images.shape[dim]
        # A mirror twice as long as the picture, walked back and forth: pictures may be smaller than their border.
        place = torch.arange(padded_side(side), device=images.device) % max(1, 2 * (side - 1))
        images = images.index_select(dim, torch.minimum(place, 2 * (side - 1) - place))
    return images
