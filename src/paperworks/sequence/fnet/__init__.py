"""FNet: token mixing by Fourier transforms (Lee-Thorp et al., 2021, arXiv 2105.03824).

Each self-attention sublayer becomes `Re(F_N x F_D)`, the real part of a 2-D DFT over positions and channels: no
parameters, `N log N` time. Use it where encoder time goes into attention at lengths of several hundred tokens and a
few points of accuracy may go with it; do not use it where padding varies from batch to batch unless you choose
`padding="exact"`, since the transform mixes padding into every output.

>>> import torch
>>> from paperworks.nn import BlockOptions, MixerEncoder
>>> from paperworks.sequence import FourierMixing
>>> encoder = MixerEncoder(lambda layer: FourierMixing(64), dim=64, depth=2, block=BlockOptions(ffn_dim=256))
>>> encoder(torch.randn(8, 128, 64)).states.shape
torch.Size([8, 128, 64])
"""

from typing import TYPE_CHECKING

from paperworks._lazy import attach

if TYPE_CHECKING:
    from paperworks.nn.attention import AttentionMixing
    from paperworks.sequence.fnet.arms import (
        make_attention_mixer,
        make_fourier_mixer,
        make_hybrid_mixer,
        make_identity_mixer,
        make_linear_mixer,
        make_random_mixer,
    )
    from paperworks.sequence.fnet.benchmark import MixerTiming, benchmark_mixers, growth_exponents, plot_timings
    from paperworks.sequence.fnet.classifier import TextClassifier
    from paperworks.sequence.fnet.layouts import hybrid_layout
    from paperworks.sequence.fnet.mixers import FourierMixing, IdentityMixing, LinearMixing, RandomMixing
    from paperworks.sequence.fnet.mixing import fourier_mix
    from paperworks.sequence.fnet.model import FNet, FNetConfig, FNetForPreTraining

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "AttentionMixing": "paperworks.nn.attention",
        "FNet": "model",
        "FNetConfig": "model",
        "FNetForPreTraining": "model",
        "FourierMixing": "mixers",
        "IdentityMixing": "mixers",
        "LinearMixing": "mixers",
        "MixerTiming": "benchmark",
        "RandomMixing": "mixers",
        "TextClassifier": "classifier",
        "benchmark_mixers": "benchmark",
        "fourier_mix": "mixing",
        "growth_exponents": "benchmark",
        "hybrid_layout": "layouts",
        "make_attention_mixer": "arms",
        "make_fourier_mixer": "arms",
        "make_hybrid_mixer": "arms",
        "make_identity_mixer": "arms",
        "make_linear_mixer": "arms",
        "make_random_mixer": "arms",
        "plot_timings": "benchmark",
    },
)
__all__ = [
    "AttentionMixing",
    "FNet",
    "FNetConfig",
    "FNetForPreTraining",
    "FourierMixing",
    "IdentityMixing",
    "LinearMixing",
    "MixerTiming",
    "RandomMixing",
    "TextClassifier",
    "benchmark_mixers",
    "fourier_mix",
    "growth_exponents",
    "hybrid_layout",
    "make_attention_mixer",
    "make_fourier_mixer",
    "make_hybrid_mixer",
    "make_identity_mixer",
    "make_linear_mixer",
    "make_random_mixer",
    "plot_timings",
]
