"""AFT: an attention free transformer (Zhai et al., 2021, arXiv 2105.14103).

Each token's output is its gate times an elementwise mean over positions with weights exp(key + w); w is learned for all
pairs (full), near ones (local), offsets (conv), or absent (simple). Use local or conv where length makes attention slow
or where a stream must keep a state of fixed size; do not use full or local beyond the length that they were built for,
since their weights are tied to positions (`resize_length` interpolates).

>>> import torch
>>> from paperworks.nn import BlockOptions, MixerEncoder
>>> from paperworks.sequence import AFTLocal
>>> encoder = MixerEncoder(
...     lambda layer: AFTLocal(64, length=512, window=32), dim=64, depth=2, block=BlockOptions(ffn_dim=256)
... )
>>> encoder(torch.randn(2, 300, 64)).states.shape
torch.Size([2, 300, 64])
"""

from typing import TYPE_CHECKING

from paperworks._lazy import attach

if TYPE_CHECKING:
    from paperworks.sequence.aft.arms import (
        make_aft_conv_mixer,
        make_aft_full_mixer,
        make_aft_local_mixer,
        make_aft_simple_mixer,
    )
    from paperworks.sequence.aft.functional import aft_conv1d, aft_conv2d, aft_full, aft_local, aft_simple
    from paperworks.sequence.aft.image import AFTImageClassifier, AFTImageConfig
    from paperworks.sequence.aft.language import AFTConfig, AFTLanguageModel
    from paperworks.sequence.aft.mixers import AFTConv1d, AFTConv2d, AFTFull, AFTLocal, AFTSimple

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "AFTConfig": "language",
        "AFTConv1d": "mixers",
        "AFTConv2d": "mixers",
        "AFTFull": "mixers",
        "AFTImageClassifier": "image",
        "AFTImageConfig": "image",
        "AFTLanguageModel": "language",
        "AFTLocal": "mixers",
        "AFTSimple": "mixers",
        "aft_conv1d": "functional",
        "aft_conv2d": "functional",
        "aft_full": "functional",
        "aft_local": "functional",
        "aft_simple": "functional",
        "make_aft_conv_mixer": "arms",
        "make_aft_full_mixer": "arms",
        "make_aft_local_mixer": "arms",
        "make_aft_simple_mixer": "arms",
    },
)
__all__ = [
    "AFTConfig",
    "AFTConv1d",
    "AFTConv2d",
    "AFTFull",
    "AFTImageClassifier",
    "AFTImageConfig",
    "AFTLanguageModel",
    "AFTLocal",
    "AFTSimple",
    "aft_conv1d",
    "aft_conv2d",
    "aft_full",
    "aft_local",
    "aft_simple",
    "make_aft_conv_mixer",
    "make_aft_full_mixer",
    "make_aft_local_mixer",
    "make_aft_simple_mixer",
]
