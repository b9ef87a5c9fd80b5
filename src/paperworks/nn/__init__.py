"""Blocks that several papers share: encoders with pluggable token mixers, embeddings and heads.

>>> import torch
>>> from paperworks.nn import AttentionMixing, BlockOptions, MixerEncoder, SequenceClassifier, TextEmbedding
>>> encoder = MixerEncoder(lambda layer: AttentionMixing(64, 4), dim=64, depth=2, block=BlockOptions(ffn_dim=256))
>>> model = SequenceClassifier(TextEmbedding(1000, 64), encoder, num_classes=3, pooling="mean")
>>> model(torch.randint(1000, (8, 32)), mask=torch.ones(8, 32, dtype=torch.bool)).shape
torch.Size([8, 3])
"""

from typing import TYPE_CHECKING

from paperworks._lazy import attach

if TYPE_CHECKING:
    from paperworks.nn.attention import AttentionMixing
    from paperworks.nn.block import BlockOptions, FeedForward, MixerLayer
    from paperworks.nn.contract import (
        Encoded,
        PaddingMixedIn,
        Traits,
        check_mask,
        traits_of,
        warn_padding_mixed_in,
        zero_masked,
    )
    from paperworks.nn.cross_attention import CrossAttentionMixing
    from paperworks.nn.decoder import MixerDecoder
    from paperworks.nn.embedding import TextEmbedding
    from paperworks.nn.encoder import MixerEncoder
    from paperworks.nn.heads import MaskedLM, SequenceClassifier, TokenTagger
    from paperworks.nn.initial import normal_init
    from paperworks.nn.language_model import CausalLM, Generated
    from paperworks.nn.pooling import AttentivePooling, masked_mean
    from paperworks.nn.registry import build_mixer, mixer_cards
    from paperworks.nn.sharing import save_shared_once
    from paperworks.nn.stack import hybrid
    from paperworks.nn.transformers_encoder import TransformersEncoder

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "AttentionMixing": "attention",
        "AttentivePooling": "pooling",
        "BlockOptions": "block",
        "CausalLM": "language_model",
        "CrossAttentionMixing": "cross_attention",
        "Encoded": "contract",
        "FeedForward": "block",
        "Generated": "language_model",
        "MaskedLM": "heads",
        "MixerDecoder": "decoder",
        "MixerEncoder": "encoder",
        "MixerLayer": "block",
        "PaddingMixedIn": "contract",
        "SequenceClassifier": "heads",
        "TextEmbedding": "embedding",
        "TokenTagger": "heads",
        "Traits": "contract",
        "TransformersEncoder": "transformers_encoder",
        "build_mixer": "registry",
        "check_mask": "contract",
        "hybrid": "stack",
        "masked_mean": "pooling",
        "mixer_cards": "registry",
        "normal_init": "initial",
        "save_shared_once": "sharing",
        "traits_of": "contract",
        "warn_padding_mixed_in": "contract",
        "zero_masked": "contract",
    },
)
__all__ = [
    "AttentionMixing",
    "AttentivePooling",
    "BlockOptions",
    "CausalLM",
    "CrossAttentionMixing",
    "Encoded",
    "FeedForward",
    "Generated",
    "MaskedLM",
    "MixerDecoder",
    "MixerEncoder",
    "MixerLayer",
    "PaddingMixedIn",
    "SequenceClassifier",
    "TextEmbedding",
    "TokenTagger",
    "Traits",
    "TransformersEncoder",
    "build_mixer",
    "check_mask",
    "hybrid",
    "masked_mean",
    "mixer_cards",
    "normal_init",
    "save_shared_once",
    "traits_of",
    "warn_padding_mixed_in",
    "zero_masked",
]
