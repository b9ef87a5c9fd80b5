"""Poolingformers that start from RoBERTa or XLM-R weights.

    encoder.layer.i.attention.self.{query,key,value} -> level1.qkv, copied to level2.qkv;  LDConv's weight = 0
    position p of a longer model = position p mod 512 of the public one, as in Longformer

With a window of at least the input's length and no second level the result equals RoBERTa.

Reference: Zhang et al. (2021, arXiv 2105.04371), section 4, which starts so; Longformer, section 5, for the positions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.sequence.poolingformer.attention import PoolName
from paperworks.sequence.poolingformer.model import Poolingformer, PoolingformerConfig

KINDS = ("roberta", "xlm-roberta", "camembert")


def poolingformer_from_roberta(
    name_or_path: str | os.PathLike[str] | nn.Module,
    *,
    max_length: int,
    second_level_layers: Iterable[int] | None = None,
    window: int = 128,
    pooled_window: int = 512,
    pool_size: int = 5,
    stride: int = 4,
    pool: PoolName = "ldconv",
) -> Poolingformer:
    """A Poolingformer with the weights of a RoBERTa or XLM-R encoder, in evaluation mode.

    Args:
        name_or_path: a folder in the format of `transformers`, a name on the hub (`roberta-large`,
            `xlm-roberta-large`), or a `RobertaModel` that is loaded already.
        max_length: longest input; positions beyond the public ones repeat them.
        second_level_layers: layers with both levels; None: all; an empty list: the sliding window alone.
        window, pooled_window, pool_size, stride, pool: see `PoolingformerAttention`.

    Inputs must be padded on the right: RoBERTa counts positions over kept tokens, which is the same there.

    Raises:
        ValueError: another kind of model, `max_length` below 1, layers that do not exist, or what the mixer refuses.
        OSError: from `transformers`, where there is no such folder or name.
    """
    source: Any = name_or_path if isinstance(name_or_path, nn.Module) else _load(name_or_path)
    found = source.config
    if found.model_type not in KINDS:
        raise ValueError(f"name_or_path: expected one of {', '.join(KINDS)}, got a {found.model_type} model")
    if found.hidden_act != "gelu":
        raise ValueError(f"name_or_path: expected the activation gelu, got {found.hidden_act}")
    if max_length < 1:
        raise ValueError(f"max_length: must be at least 1, got {max_length}")
    config = PoolingformerConfig(
        vocab_size=found.vocab_size,
        dim=found.hidden_size,
        depth=found.num_hidden_layers,
        heads=found.num_attention_heads,
        ffn_dim=found.intermediate_size,
        max_length=max_length,
        window=window,
        pooled_window=pooled_window,
        pool_size=pool_size,
        stride=stride,
        pool=pool,
        second_level_layers=None if second_level_layers is None else tuple(second_level_layers),
        types=found.type_vocab_size,
        dropout=found.hidden_dropout_prob,
        norm_eps=found.layer_norm_eps,
    )
    model = Poolingformer(config)
    model.load_state_dict(_converted(source.state_dict(), model, first=found.pad_token_id + 1))
    return model.eval()


def _load(name_or_path: str | os.PathLike[str]) -> nn.Module:
    from transformers import AutoModel

    return AutoModel.from_pretrained(name_or_path)


def _converted(theirs: dict[str, Tensor], model: Poolingformer, *, first: int) -> dict[str, Tensor]:
    """The state of `model` from RoBERTa's; `first` is the row of position 0 (the padding id comes before)."""
    ours = dict(model.state_dict())
    ours["embedding.word.weight"] = theirs["embeddings.word_embeddings.weight"]
    ours["embedding.position.weight"] = _tiled(
        theirs["embeddings.position_embeddings.weight"][first:], model.config.max_length
    )
    ours["embedding.token_type.weight"] = theirs["embeddings.token_type_embeddings.weight"]
    pairs = {"embedding.norm": "embeddings.LayerNorm"}
    for layer in range(model.config.depth):
        here, there = f"encoder.layers.{layer}", f"encoder.layer.{layer}"
        pairs |= {
            f"{here}.mixer.output": f"{there}.attention.output.dense",
            f"{here}.mixer_residual.norm": f"{there}.attention.output.LayerNorm",
            f"{here}.feed_forward.inner": f"{there}.intermediate.dense",
            f"{here}.feed_forward.outer": f"{there}.output.dense",
            f"{here}.feed_forward_residual.norm": f"{there}.output.LayerNorm",
        }
        levels = ("level1", "level2") if model.config.has_second_level(layer) else ("level1",)
        for part in ("weight", "bias"):
            projections = [theirs[f"{there}.attention.self.{name}.{part}"] for name in ("query", "key", "value")]
            ours |= {f"{here}.mixer.{level}.qkv.{part}": torch.cat(projections) for level in levels}
    for one, other in pairs.items():
        ours |= {f"{one}.{part}": theirs[f"{other}.{part}"] for part in ("weight", "bias")}
    return ours


def _tiled(table: Tensor, length: int) -> Tensor:
    return table.repeat(-(-length // len(table)), 1)[:length]
