"""Public weights of BERT, RoBERTa and HAT under our names.

    encoder.layer.i.*                     -> the i-th S block, and the D blocks that follow it (BERT, RoBERTa)
    encoder.layer.i.sentence_encoder.*    -> the S block of group i (HAT)
    encoder.layer.i.document_encoder.*    -> the D block of group i
    encoder.layer.i.position_embeddings   -> sentence positions, from row 1 on

The order of operations agrees: post-norm blocks, the sentence token first, sentence positions added to the states that
the document encoder reads, its output written back. Word positions start after the padding id in RoBERTa and HAT.

The authors published no weights. For an ordinary encoder what the document level starts from is a choice, HAT's: D
blocks are copies of the S block before them, sentence positions of the word positions.

Reference: Chalkidis et al., An Exploration of Hierarchical Attention Transformers (2022, arXiv 2210.05529).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paperworks.nn.pretrained import load_weights, read_pretrained
from paperworks.sequence.hi_transformer.layout import parse_layout
from paperworks.sequence.hi_transformer.model import HiTransformer, HiTransformerConfig

HAT = "hierarchical-transformer"
# Word positions of these start after the padding id.
_SHIFTED = ("roberta", "xlm-roberta", "camembert", HAT)
_MODELS = ("bert", *_SHIFTED)
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_attention_heads": "heads",
    "intermediate_size": "ffn_dim",
    "type_vocab_size": "types",
    "hidden_dropout_prob": "dropout",
    "layer_norm_eps": "norm_eps",
}
_PREFIX = re.compile(r"(bert|roberta|hi_transformer|hat)\.(?=embeddings\.|encoder\.)")
_BLOCK = {
    "attention.output.dense": "mixer.output",
    "attention.output.LayerNorm": "mixer_residual.norm",
    "intermediate.dense": "feed_forward.inner",
    "output.dense": "feed_forward.outer",
    "output.LayerNorm": "feed_forward_residual.norm",
}
_PROJECTIONS = ("query", "key", "value")
_PARTS = "|".join(re.escape(part) for part in [*_BLOCK, *(f"attention.self.{name}" for name in _PROJECTIONS)])
_KNOWN = re.compile(
    r"embeddings\.((word|position|token_type)_embeddings\.weight|LayerNorm\.(weight|bias))"
    rf"|encoder\.layer\.\d+\.(((sentence|document)_encoder\.)?({_PARTS})\.(weight|bias)|position_embeddings\.weight)"
)
# Constants that some versions store.
_DERIVED = re.compile(r"embeddings\.(position_ids|token_type_ids)")
BERT_CLS_ID = 101
SENTENCE_LENGTH = 128


class _Block(NamedTuple):
    """Place among all blocks, and where its weights are stored."""

    number: int
    source: str


def from_encoder(
    name_or_path: str | os.PathLike[str],
    *,
    layout: str | None = None,
    max_sentences: int | None = None,
    cls_id: int | None = None,
) -> HiTransformer:
    """A Hi-Transformer from public weights, in evaluation mode; its pooling layers are fresh.

    Args:
        name_or_path: a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`, or a name on the
            Hugging Face hub, such as `roberta-base` or `kiddothe2b/hierarchical-transformer-base-4096`. Heads in it are
            left out.
        layout: S and D blocks; None: HAT's own, and for an ordinary encoder a D after every third S, as in HAT's
            interleaved layout (after every S where there are fewer than three).
        max_sentences: sentence positions; None: as many as the weights have, at most 128 for an ordinary encoder.
        cls_id: of the sentence token; None: `bos_token_id` of the configuration, 101 for BERT.

    One dropout serves the whole model, that of the hidden states. The model pools words (`pooled="words"`) and expects
    the sentence token first: build its `DocumentTokenizer` with `cls="start"` and
    `max_sentence_length=model.config.max_sentence_length`.

    Raises:
        ValueError: no such folder or name, another kind of model, unknown or missing keys, sizes beyond the weights'.
    """
    config, state = _read(name_or_path)
    hat = config["model_type"] == HAT
    if hat and layout is not None:
        raise ValueError(f"layout: these weights have their own, {_hat_layout(config)!r}; leave it out")
    words, sentences = _position_tables(config, state, max_sentences, hat)
    layout = _hat_layout(config) if hat else layout or _interleaved(config["num_hidden_layers"])
    one_table = all(torch.equal(table, sentences[0]) for table in sentences)
    model = HiTransformer(
        HiTransformerConfig(
            **{ours: config[theirs] for theirs, ours in _SIZES.items()},
            layers=1,
            layout=layout,
            cls="start",
            cls_id=_cls_id(config) if cls_id is None else cls_id,
            max_sentence_length=len(words),
            max_sentences=len(sentences[0]),
            activation=_ACTIVATIONS[config["hidden_act"]],  # pyright: ignore[reportArgumentType]
            sentence_positions="model" if one_table else "layer",
        )
    )
    loaded = _embeddings(state) | {"embedding.position.weight": words}
    loaded |= {f"sentence_position.{at}.weight": sentences[at] for at in range(len(model.sentence_position))}
    for block in _blocks(layout, config["num_hidden_layers"], hat):
        loaded |= _block_state(state, block)
    _load(model, loaded, name_or_path)
    return model.eval()


def _load(model: HiTransformer, loaded: dict[str, Tensor], source: str | os.PathLike[str]) -> None:
    fresh = {name: value for name, value in model.state_dict().items() if "_pooling." in name}
    load_weights(model, loaded | fresh, source=source)


def _read(name_or_path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration, and the weights of the trunk without prefix; all keys known."""
    config, tensors = read_pretrained(name_or_path)
    _check_config(config)
    state = {_PREFIX.sub("", name, count=1): tensor for name, tensor in tensors.items()}
    trunk = {name: tensor for name, tensor in state.items() if name.startswith(("embeddings.", "encoder."))}
    trunk = {name: tensor for name, tensor in trunk.items() if not _DERIVED.fullmatch(name)}
    if unknown := [name for name in trunk if not _KNOWN.fullmatch(name)]:
        raise ValueError(f"weights: unknown keys {', '.join(unknown[:5])}; expected those of BERT, RoBERTa or HAT")
    return config, trunk


def _check_config(config: Mapping[str, Any]) -> None:
    if config.get("model_type") not in _MODELS:
        expected = ", ".join(_MODELS)
        raise ValueError(f"config.json: model_type: expected one of {expected}, got {config.get('model_type')!r}")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(
            f"config.json: position_embedding_type: expected absolute, got {config['position_embedding_type']!r}"
        )
    if config.get("hidden_act") not in _ACTIVATIONS:
        expected = ", ".join(_ACTIVATIONS)
        raise ValueError(f"config.json: hidden_act: expected one of {expected}, got {config.get('hidden_act')!r}")
    needed = [*_SIZES, "num_hidden_layers", *(["encoder_layout"] if config["model_type"] == HAT else [])]
    if missing := [name for name in needed if name not in config]:
        raise ValueError(f"config.json: {', '.join(missing)} missing")


def _cls_id(config: Mapping[str, Any]) -> int:
    if config["model_type"] == "bert":
        return BERT_CLS_ID
    # Not stored where it is the default of the class.
    return int(config.get("bos_token_id") or 0)


def _hat_layout(config: Mapping[str, Any]) -> str:
    groups = [config["encoder_layout"][str(index)] for index in range(config["num_hidden_layers"])]
    letters = (("S" if g["sentence_encoder"] else "") + ("D" if g["document_encoder"] else "") for g in groups)
    return "|".join(letters)


def _interleaved(depth: int) -> str:
    period = 3 if depth >= 3 else 1
    return "|".join("SD" if index % period == period - 1 else "S" for index in range(depth))


def _blocks(layout: str, depth: int, hat: bool) -> list[_Block]:
    """Where each block of the layout finds its weights."""
    blocks, sentence_blocks = [], 0
    for number, group in enumerate(parse_layout(layout)):
        for kind in group:
            sentence_blocks += kind == "S"
            level = {"S": "sentence_encoder", "D": "document_encoder"}[kind]
            source = f"encoder.layer.{number}.{level}" if hat else f"encoder.layer.{sentence_blocks - 1}"
            blocks.append(_Block(len(blocks), source))
    if not hat and sentence_blocks > depth:
        raise ValueError(f"layout: {layout!r} has {sentence_blocks} sentence blocks, the encoder has {depth} layers")
    return blocks


def _position_tables(
    config: Mapping[str, Any], state: Mapping[str, Tensor], max_sentences: int | None, hat: bool
) -> tuple[Tensor, list[Tensor]]:
    """Word positions, and the sentence positions of each document Transformer (one for an ordinary encoder)."""
    shift = int(config.get("pad_token_id") or 0) + 1 if config["model_type"] in _SHIFTED else 0
    words = _take(state, "embeddings.position_embeddings.weight")[shift:]
    if hat:
        pattern = re.compile(r"encoder\.layer\.(\d+)\.position_embeddings\.weight")
        found = {int(match[1]): tensor for name, tensor in state.items() if (match := pattern.fullmatch(name))}
        tables = [found[number][1:] for number in sorted(found)]
    else:
        words, tables = words[:SENTENCE_LENGTH], [words]
    if not tables:
        raise ValueError("weights: expected sentence positions encoder.layer.*.position_embeddings.weight, found none")
    wanted = max_sentences or (len(tables[0]) if hat else min(SENTENCE_LENGTH, len(tables[0])))
    if wanted > len(tables[0]):
        raise ValueError(f"max_sentences: the weights have {len(tables[0])} positions, got {wanted}")
    return words, [table[:wanted] for table in tables]


def _embeddings(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {
        "embedding.word.weight": "embeddings.word_embeddings.weight",
        "embedding.token_type.weight": "embeddings.token_type_embeddings.weight",
        "embedding.norm.weight": "embeddings.LayerNorm.weight",
        "embedding.norm.bias": "embeddings.LayerNorm.bias",
    }
    return {ours: _take(state, theirs) for ours, theirs in names.items()}


def _block_state(state: Mapping[str, Tensor], block: _Block) -> dict[str, Tensor]:
    loaded = {}
    for part in ("weight", "bias"):
        rows = [_take(state, f"{block.source}.attention.self.{name}.{part}") for name in _PROJECTIONS]
        loaded[f"stack.blocks.{block.number}.mixer.qkv.{part}"] = torch.cat(rows)
        for theirs, ours in _BLOCK.items():
            loaded[f"stack.blocks.{block.number}.{ours}.{part}"] = _take(state, f"{block.source}.{theirs}.{part}")
    return loaded


def _take(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        near = ", ".join(sorted(state)[:4])
        raise ValueError(f"weights: {name} missing; found {near}, ..")
    return state[name]
