"""Blocks that several papers share: encoders with pluggable token mixers, embeddings and heads.

>>> import torch
>>> from paperworks.nn import AttentionMixing, BlockOptions, MixerEncoder, SequenceClassifier, TextEmbedding
>>> encoder = MixerEncoder(lambda layer: AttentionMixing(64, 4), dim=64, depth=2, block=BlockOptions(ffn_dim=256))
>>> model = SequenceClassifier(TextEmbedding(1000, 64), encoder, num_classes=3, pooling="mean")
>>> model(torch.randint(1000, (8, 32)), mask=torch.ones(8, 32, dtype=torch.bool)).shape
torch.Size([8, 3])
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from paperworks._lazy import attach

if TYPE_CHECKING:
    from paperworks.nn.attention import AttentionMixing
    from paperworks.nn.attention_maps import AttentionMaps, attentions_of
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
    from paperworks.nn.encoder_decoder import Beams, EncoderDecoder
    from paperworks.nn.heads import MaskedLM, SequenceClassifier, TokenTagger
    from paperworks.nn.initial import normal_init
    from paperworks.nn.language_model import CausalLM, Generated
    from paperworks.nn.local_attention import LocalAttentionMixing, local_attention
    from paperworks.nn.log_prob import head_log_prob, linear_log_prob, sequence_log_prob, token_log_prob
    from paperworks.nn.macs import Macs, count_macs
    from paperworks.nn.mlp_head import MLPHead
    from paperworks.nn.momentum_twin import MomentumTwin
    from paperworks.nn.pooling import AttentivePooling, masked_mean
    from paperworks.nn.registry import build_mixer, mixer_cards
    from paperworks.nn.seed_mlp import SeedMLP
    from paperworks.nn.sharing import save_shared_once
    from paperworks.nn.small_conv import SmallConvNet
    from paperworks.nn.stack import hybrid
    from paperworks.nn.transformers_encoder import TransformersEncoder

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "AttentionMaps": "attention_maps",
        "AttentionMixing": "attention",
        "AttentivePooling": "pooling",
        "Beams": "encoder_decoder",
        "BlockOptions": "block",
        "CausalLM": "language_model",
        "CrossAttentionMixing": "cross_attention",
        "Encoded": "contract",
        "EncoderDecoder": "encoder_decoder",
        "FeedForward": "block",
        "Generated": "language_model",
        "LocalAttentionMixing": "local_attention",
        "MLPHead": "mlp_head",
        "Macs": "macs",
        "MaskedLM": "heads",
        "MixerDecoder": "decoder",
        "MixerEncoder": "encoder",
        "MixerLayer": "block",
        "MomentumTwin": "momentum_twin",
        "PaddingMixedIn": "contract",
        "SeedMLP": "seed_mlp",
        "SequenceClassifier": "heads",
        "SmallConvNet": "small_conv",
        "TextEmbedding": "embedding",
        "TokenTagger": "heads",
        "Traits": "contract",
        "TransformersEncoder": "transformers_encoder",
        "attentions_of": "attention_maps",
        "build_mixer": "registry",
        "check_mask": "contract",
        "count_macs": "macs",
        "head_log_prob": "log_prob",
        "hybrid": "stack",
        "linear_log_prob": "log_prob",
        "local_attention": "local_attention",
        "masked_mean": "pooling",
        "mixer_cards": "registry",
        "normal_init": "initial",
        "save_shared_once": "sharing",
        "sequence_log_prob": "log_prob",
        "token_log_prob": "log_prob",
        "traits_of": "contract",
        "warn_padding_mixed_in": "contract",
        "zero_masked": "contract",
    },
)
__all__ = [
    "AttentionMaps",
    "AttentionMixing",
    "AttentivePooling",
    "Beams",
    "BlockOptions",
    "CausalLM",
    "CrossAttentionMixing",
    "Encoded",
    "EncoderDecoder",
    "FeedForward",
    "Generated",
    "LocalAttentionMixing",
    "MLPHead",
    "Macs",
    "MaskedLM",
    "MixerDecoder",
    "MixerEncoder",
    "MixerLayer",
    "MomentumTwin",
    "PaddingMixedIn",
    "SeedMLP",
    "SequenceClassifier",
    "SmallConvNet",
    "TextEmbedding",
    "TokenTagger",
    "Traits",
    "TransformersEncoder",
    "attentions_of",
    "build_mixer",
    "check_mask",
    "count_macs",
    "head_log_prob",
    "hybrid",
    "linear_log_prob",
    "local_attention",
    "masked_mean",
    "mixer_cards",
    "normal_init",
    "save_shared_once",
    "sequence_log_prob",
    "token_log_prob",
    "traits_of",
    "warn_padding_mixed_in",
    "zero_masked",
]


class _Package(ModuleType):
    """Some functions are called like their module; importing the module must not put it in the function's place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
