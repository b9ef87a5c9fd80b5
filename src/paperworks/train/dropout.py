"""Dropout at prediction time: each forward pass is then a draw, and their spread is the model's uncertainty.

Within the context only dropout is switched on. Batch norms keep their running statistics, layers are not dropped
(LayerDrop, stochastic depth), and afterwards every part is in the mode that it came with, also after an exception.

Reference: Gal and Ghahramani, Dropout as a Bayesian Approximation (2016, arXiv 1506.02142).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

_STOCHASTIC_DEPTH = ("DropPath", "StochasticDepth")
# Children by which a module shows that it is an attention: its own projections of queries and keys.
_PROJECTIONS = (
    {"q_proj", "k_proj"}, {"q", "k"}, {"query", "key"}, {"query", "key_value"}, {"qkv"}, {"query_key_value"},
    {"Wqkv"}, {"q_lin", "k_lin"}, {"c_attn"},
)  # fmt: skip


@contextlib.contextmanager
def mc_dropout(model: nn.Module, *, attention: bool = True) -> Iterator[None]:
    """Switch dropout on in `model`, and afterwards every part back as it was.

    Args:
        model: any module. Functional dropout that follows `module.training` (as in transformers) is covered too.
        attention: whether weights of attention are dropped as well. False is the recipe of unsupervised quality
            estimation (Fomicheva et al., 2020): embeddings and layers, but not the weights inside attention.

    Random numbers come from torch's global generator of the device; seed it for repeatable draws.

    Raises:
        ValueError: `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: expected a torch module, got {type(model).__name__}")
    modes = [(part, part.training) for part in model.modules()]
    layer_drops = [(part, _layer_drop(part)) for part in model.modules() if _drops_layers(part)]
    resting = _resting(model, attention)
    try:
        for part, _ in modes:
            part.training = id(part) not in resting
        for part, _ in layer_drops:
            _set_layer_drop(part, 0.0)
        yield
    finally:
        for part, training in modes:
            part.training = training
        for part, rate in layer_drops:
            _set_layer_drop(part, rate)


def is_attention(module: nn.Module) -> bool:
    """Whether `module` itself projects queries and keys, so that its dropout (and its children's) is on the weights."""
    names = {name for name, _ in module.named_children()}
    return isinstance(module, nn.MultiheadAttention) or any(wanted <= names for wanted in _PROJECTIONS)


def _resting(model: nn.Module, attention: bool) -> set[int]:
    """Modules that stay in evaluation mode."""
    found: set[int] = set()
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase) or type(part).__name__ in _STOCHASTIC_DEPTH:
            found.add(id(part))
        elif not attention and is_attention(part):
            found.update(id(child) for child in part.modules())
    return found


def _drops_layers(part: nn.Module) -> bool:
    return isinstance(getattr(part, "layerdrop", None), float)


def _layer_drop(part: Any) -> float:
    return part.layerdrop


def _set_layer_drop(part: Any, rate: float) -> None:
    part.layerdrop = rate
