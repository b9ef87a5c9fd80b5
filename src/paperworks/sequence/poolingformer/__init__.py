"""Poolingformer: a sliding window, then attention to pooled tokens (Zhang et al., 2021, arXiv 2105.04371).

Each token attends to its neighbours, and then, reading what that gave, to runs of tokens farther away, each pooled to
one key and one value. Use it where documents are long, the cost of full attention hurts and a window alone sees too
little; do not expect more from it than from full attention where that is affordable.

>>> import torch
>>> from paperworks.nn import BlockOptions, MixerEncoder
>>> from paperworks.sequence import PoolingformerAttention
>>> encoder = MixerEncoder(
...     lambda layer: PoolingformerAttention(64, 4, window=16, pooled_window=128), dim=64, depth=2,
...     block=BlockOptions(ffn_dim=256),
... )
>>> encoder(torch.randn(2, 1000, 64)).states.shape
torch.Size([2, 1000, 64])

Where the paper is silent this project decided; the decisions are listed in `pooling` and `attention` and are guesses.
"""

from typing import TYPE_CHECKING

from paperworks._lazy import attach

if TYPE_CHECKING:
    from paperworks.sequence.poolingformer.arms import make_local_attention_mixer, make_poolingformer_mixer
    from paperworks.sequence.poolingformer.attention import PoolingformerAttention
    from paperworks.sequence.poolingformer.checkpoint import poolingformer_from_roberta
    from paperworks.sequence.poolingformer.labeller import SentenceLabeller
    from paperworks.sequence.poolingformer.model import Poolingformer, PoolingformerConfig
    from paperworks.sequence.poolingformer.planning import attention_footprint, receptive_field
    from paperworks.sequence.poolingformer.pooling import pooled_cells, pooling_attention

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "Poolingformer": "model",
        "PoolingformerAttention": "attention",
        "PoolingformerConfig": "model",
        "SentenceLabeller": "labeller",
        "attention_footprint": "planning",
        "make_local_attention_mixer": "arms",
        "make_poolingformer_mixer": "arms",
        "pooled_cells": "pooling",
        "pooling_attention": "pooling",
        "poolingformer_from_roberta": "checkpoint",
        "receptive_field": "planning",
    },
)
__all__ = [
    "Poolingformer",
    "PoolingformerAttention",
    "PoolingformerConfig",
    "SentenceLabeller",
    "attention_footprint",
    "make_local_attention_mixer",
    "make_poolingformer_mixer",
    "pooled_cells",
    "pooling_attention",
    "poolingformer_from_roberta",
    "receptive_field",
]
