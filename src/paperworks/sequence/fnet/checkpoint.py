"""Public FNet weights, in the format of `transformers`, under our names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paperworks.nn.pretrained import read_pretrained

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_hidden_layers": "depth",
    "intermediate_size": "ffn_dim",
    "max_position_embeddings": "max_length",
    "type_vocab_size": "types",
    "hidden_dropout_prob": "dropout",
}
# What their configuration may vary and ours does not.
_FIXED = {
    "model_type": ("fnet",),
    "hidden_act": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_eps": (1e-12,),
    "tie_word_embeddings": (True,),
}

_TRUNK = {
    r"embeddings\.word_embeddings\.weight": "embedding.word.weight",
    r"embeddings\.position_embeddings\.weight": "embedding.position.weight",
    r"embeddings\.token_type_embeddings\.weight": "embedding.token_type.weight",
    r"embeddings\.LayerNorm\.(\w+)": r"embedding.norm.\1",
    r"embeddings\.projection\.(\w+)": r"embedding.projection.\1",
    r"encoder\.layer\.(\d+)\.fourier\.output\.LayerNorm\.(\w+)": r"encoder.layers.\1.mixer_residual.norm.\2",
    r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)": r"encoder.layers.\1.feed_forward.inner.\2",
    r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)": r"encoder.layers.\1.feed_forward.outer.\2",
    r"encoder\.layer\.(\d+)\.output\.LayerNorm\.(\w+)": r"encoder.layers.\1.feed_forward_residual.norm.\2",
    r"pooler\.dense\.(\w+)": r"pooler.dense.\1",
}
_HEADS = {
    r"cls\.predictions\.transform\.dense\.(\w+)": r"token_dense.\1",
    r"cls\.predictions\.transform\.LayerNorm\.(\w+)": r"token_norm.\1",
    r"cls\.predictions\.bias": "token_bias",
    r"cls\.seq_relationship\.(\w+)": r"next_sentence.\1",
}
# Constants that some versions store: positions 0, 1, .., type 0, DFT matrices.
_DERIVED = re.compile(r"embeddings\.(position_ids|token_type_ids)|encoder\.layer\.\d+\.fourier\.self\.dft_mat_\w+")
# Second names of tied tensors.
_COPIES = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


@dataclass(frozen=True)
class Checkpoint:
    """Sizes for `FNetConfig`, tensors for `FNet`, and for the heads of `FNetForPreTraining` (empty: none stored)."""

    sizes: dict[str, Any]
    trunk: dict[str, Tensor]
    heads: dict[str, Tensor]


def read_checkpoint(name_or_path: str | os.PathLike[str]) -> Checkpoint:
    """Read a folder, or fetch a name from the Hugging Face hub, and give everything our names.

    Raises:
        ValueError: nothing there, another model's configuration, unknown or contradictory keys.
    """
    config, state = read_pretrained(name_or_path)
    sizes = convert_config(config)
    trunk, heads = convert_state(state)
    return Checkpoint(sizes, trunk, heads)


def convert_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `FNetConfig` from a `config.json` of `transformers`.

    Raises:
        ValueError: a field is missing, or has a value under which ours would be another function.
    """
    for name, allowed in _FIXED.items():
        if config.get(name, allowed[0]) not in allowed:
            raise ValueError(f"config.json: {name}: expected {' or '.join(map(str, allowed))}, got {config[name]!r}")
    if missing := [name for name in _SIZES if name not in config]:
        raise ValueError(f"config.json: {', '.join(missing)} missing; is this an FNet of transformers?")
    return {ours: config[theirs] for theirs, ours in _SIZES.items()}


def convert_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a state dictionary of `transformers` into trunk and heads under our names.

    Takes `FNetModel` and `FNetForPreTraining` alike; constants and second names of tied tensors are dropped.

    Raises:
        ValueError: keys that have no place here, or a tied tensor stored with two values.
    """
    state = {name.removeprefix("fnet."): tensor for name, tensor in state.items()}
    trunk, heads, unknown = {}, {}, []
    for name, tensor in state.items():
        if _DERIVED.fullmatch(name):
            continue
        if name in _COPIES:
            _check_copy(state, name)
        elif new := _rename(name, _TRUNK):
            trunk[new] = tensor
        elif new := _rename(name, _HEADS):
            heads[new] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"weights: unknown keys {_some(unknown)}; expected those of FNetModel or FNetForPreTraining")
    if "token_bias" not in heads and "cls.predictions.decoder.bias" in state:
        heads["token_bias"] = state["cls.predictions.decoder.bias"]
    return trunk, heads


def _rename(name: str, patterns: Mapping[str, str]) -> str | None:
    for pattern, ours in patterns.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return None


def _check_copy(state: Mapping[str, Tensor], name: str) -> None:
    first = _COPIES[name]
    if first in state and not torch.equal(state[name], state[first]):
        raise ValueError(f"weights: {name} differs from {first}, but FNet ties the two")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
