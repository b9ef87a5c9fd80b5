"""Depth from single pictures by sparse wavelet coefficients (Ramamonjisoa et al., 2021, arXiv 2106.02022).

The decoder predicts Haar coefficients coarse to fine and inverts the transform on the way; depth is piecewise smooth,
so almost all coefficients are nearly zero, and at a `threshold` the finer levels are computed only where they are not.
Use it when a trained depth network's decoder must become cheaper; on pictures of some 100 pixels a side the bookkeeping
costs more time than the convolutions it saves. The authors state that a patent application on the method is pending;
ask before commercial use. Nothing here is taken from their code.

>>> import torch
>>> from paperworks.vision import WaveletDepthDecoder
>>> decoder = WaveletDepthDecoder((64, 64, 128, 256, 512)).eval()
>>> features = [torch.randn(1, c, 64 >> k, 96 >> k) for k, c in enumerate(decoder.num_ch_enc)]
>>> decoder(features, threshold=0.05).maps[0].shape
torch.Size([1, 1, 128, 192])
"""

from typing import TYPE_CHECKING

from paperworks._lazy import attach

if TYPE_CHECKING:
    from paperworks.vision.wavelet_depth.decoder import (
        DepthDecoder,
        DepthOutput,
        WaveletDepthDecoder,
        WaveletDepthOutput,
    )
    from paperworks.vision.wavelet_depth.haar import haar_dwt2d, haar_idwt2d
    from paperworks.vision.wavelet_depth.metrics import depth_edge_error, depth_metrics
    from paperworks.vision.wavelet_depth.model import WaveletDepthModel, disp_to_depth
    from paperworks.vision.wavelet_depth.sparse import sparse_conv2d

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "DepthDecoder": "decoder",
        "DepthOutput": "decoder",
        "WaveletDepthDecoder": "decoder",
        "WaveletDepthModel": "model",
        "WaveletDepthOutput": "decoder",
        "depth_edge_error": "metrics",
        "depth_metrics": "metrics",
        "disp_to_depth": "model",
        "haar_dwt2d": "haar",
        "haar_idwt2d": "haar",
        "sparse_conv2d": "sparse",
    },
)
__all__ = [
    "DepthDecoder",
    "DepthOutput",
    "WaveletDepthDecoder",
    "WaveletDepthModel",
    "WaveletDepthOutput",
    "depth_edge_error",
    "depth_metrics",
    "disp_to_depth",
    "haar_dwt2d",
    "haar_idwt2d",
    "sparse_conv2d",
]
