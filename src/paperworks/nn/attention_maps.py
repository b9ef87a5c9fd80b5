"""The attention weights of a model, whatever library it comes from.

`attentions_of(model, batch)` runs the model once and returns the weights of every layer. Fused kernels never form
them, so for the length of this call models of `transformers` attend eagerly, timm's attention runs unfused, and
`nn.MultiheadAttention` leaves its fast path; everything is put back afterwards, also after an exception.

Notes:

1. `transformers` from 5.0 on answers `output_attentions=True` under its default kernel with an empty tuple and a log
   line. Here the weights come, or a `ValueError`.
2. The model is in evaluation mode for the call: in training mode the recorded weights would have dropout in them.
3. Rows of padded queries are whatever the model makes of them (uniform, or NaN); the caller knows the mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from paperworks.nn.attention import AttentionMixing, split_heads
from paperworks.nn.cross_attention import CrossAttentionMixing
from paperworks.nn.decoder import DecoderLayer
from paperworks.nn.heads import TextModel
from paperworks.nn.modes import evaluating

_DECODER_LAYERS = (nn.TransformerDecoderLayer, DecoderLayer)
_MULTIHEAD = inspect.signature(nn.MultiheadAttention.forward)


@dataclass(frozen=True)
class AttentionMaps:
    """Attention weights, one tensor per layer in the order in which the layers ran; rows are queries, and sum to 1.

    Shapes: `encoder` (B, H, S, S); `decoder` (B, H, T, T), also of models that are a decoder alone; `cross` (B, H, T,
    S), decoder tokens over encoder tokens. A part that the architecture lacks is an empty tuple.
    """

    encoder: tuple[Tensor, ...] = ()
    decoder: tuple[Tensor, ...] = ()
    cross: tuple[Tensor, ...] = ()


def attentions_of(model: nn.Module, batch: Tensor | tuple[Any, ...] | Mapping[str, Any]) -> AttentionMaps:
    """Run `model` on `batch` in evaluation mode and return its attention weights.

    Args:
        model: a `transformers` model (encoder, causal language model, encoder-decoder), a timm vision transformer, or
            any module built of `nn.MultiheadAttention`, `AttentionMixing` and `CrossAttentionMixing`.
        batch: what the model is called with: a mapping (a `BatchEncoding`, say) gives its keyword arguments, a tuple
            its positional ones, a tensor the only one.

    Gradients follow the caller: wrap the call in `torch.no_grad()` where none are needed.

    Raises:
        ValueError: the model has no attention that can be read, or attends within windows, not over the sequence.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: expected an nn.Module, got {type(model).__name__}")
    with evaluating(model):
        if _is_transformers(model):
            return _from_transformers(model, batch)
        return _from_modules(model, batch)


def _is_transformers(model: nn.Module) -> bool:
    return hasattr(getattr(model, "config", None), "_attn_implementation_internal")


def _call(model: nn.Module, batch: Any, **options: Any) -> Any:
    if isinstance(batch, Mapping):
        whole = isinstance(model, TextModel) and "input_ids" in batch
        return model(batch, **options) if whole else model(**batch, **options)
    return model(*batch, **options) if isinstance(batch, tuple) else model(batch, **options)


# transformers


def _from_transformers(model: nn.Module, batch: Any) -> AttentionMaps:
    with _eager(model):
        output = _call(model, batch, output_attentions=True, return_dict=True)
    if hasattr(output, "encoder_attentions") or hasattr(output, "decoder_attentions"):
        names = ("encoder_attentions", "decoder_attentions", "cross_attentions")
        return AttentionMaps(*(_given(model, output, name) for name in names))
    maps = _given(model, output, "attentions")
    return AttentionMaps(decoder=maps) if _is_causal(model) else AttentionMaps(encoder=maps)


def _given(model: nn.Module, output: Any, name: str) -> tuple[Tensor, ...]:
    maps: tuple[Any, ...] = tuple(getattr(output, name, None) or ())
    if not maps or any(layer is None for layer in maps):
        raise ValueError(
            f"model: {type(model).__name__} returned no {name}, although eager attention was asked for in this call; "
            "load it with attn_implementation='eager', if it has attention at all"
        )
    return maps


def _is_causal(model: Any) -> bool:
    """Whether a model without an encoder is a decoder; attention modules know it, old ones only by the config."""
    decoder = getattr(model.config, "is_decoder", False)
    generates = getattr(model, "can_generate", lambda: False)()
    return bool(decoder or generates or any(getattr(part, "is_causal", False) for part in model.modules()))


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Eager attention in every config that a part of the model reads."""
    waiting: list[Any] = [getattr(part, "config", None) for part in model.modules()]
    before: dict[int, tuple[Any, Any]] = {}
    while waiting:
        config = waiting.pop()
        if id(config) in before or not hasattr(config, "_attn_implementation_internal"):
            continue
        before[id(config)] = config, config._attn_implementation_internal
        waiting += [getattr(config, name, None) for name in getattr(config, "sub_configs", ())]
    try:
        for config, _ in before.values():
            config._attn_implementation_internal = "eager"
        yield
    finally:
        for config, setting in before.values():
            config._attn_implementation_internal = setting


# Modules whose weights hooks can see


@dataclass
class _Collected:
    """What the hooks have seen so far; the field of `AttentionMaps` for each module comes from where it stands."""

    maps: dict[str, list[Tensor]] = field(default_factory=lambda: {"encoder": [], "decoder": [], "cross": []})

    def add(self, part: str, weights: Tensor) -> None:
        self.maps[part].append(weights if weights.ndim == 4 else weights[None])


def _from_modules(model: nn.Module, batch: Any) -> AttentionMaps:
    collected = _Collected()
    with ExitStack() as undo:
        watched = [_watch(part, decoder, collected, undo) for part, decoder in _parts(model)]
        if not any(watched):
            raise ValueError(
                f"model: found no attention in {type(model).__name__}; expected a transformers model, a timm vision "
                "transformer, or a module with nn.MultiheadAttention or AttentionMixing in it"
            )
        _call(model, batch)
    _check_whole(model, batch, collected)
    return AttentionMaps(**{part: tuple(maps) for part, maps in collected.maps.items()})


def _parts(model: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    """Every part of the model once, and whether it stands inside a decoder layer."""
    layers = [part for part in model.modules() if isinstance(part, _DECODER_LAYERS)]
    inside = {id(part) for layer in layers for part in layer.modules()}
    for part in model.modules():
        yield part, id(part) in inside


def _watch(part: Any, decoder: bool, collected: _Collected, undo: ExitStack) -> bool:
    if isinstance(part, nn.MultiheadAttention):
        _watch_multihead(part, decoder, collected, undo)
    elif isinstance(part, AttentionMixing):
        name = "decoder" if decoder or part.causal else "encoder"
        _before(part, lambda x, mask=None: collected.add(name, part.attention_weights(x, mask=mask)), undo)
    elif isinstance(part, CrossAttentionMixing):
        _before(part, lambda *args, **named: collected.add("cross", _cross_weights(part, *args, **named)), undo)
    elif isinstance(getattr(part, "fused_attn", None), bool) and isinstance(
        getattr(part, "attn_drop", None), nn.Module
    ):
        undo.callback(setattr, part, "fused_attn", part.fused_attn)
        part.fused_attn = False
        _before(part.attn_drop, lambda weights: collected.add("encoder", weights), undo)
    else:
        return False
    return True


def _before(part: nn.Module, see: Callable[..., None], undo: ExitStack) -> None:
    """Let `see` have the arguments of every call of `part`."""
    hook = part.register_forward_pre_hook(lambda _, args, named: see(*args, **named), with_kwargs=True)
    undo.callback(hook.remove)


def _cross_weights(part: CrossAttentionMixing, x: Tensor, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
    cache = part.read(memory, memory_mask=memory_mask)
    query = split_heads(part.query(x), part.heads)
    logits = query @ cache.keys.transpose(-1, -2) * query.shape[-1] ** -0.5
    if cache.allowed is not None:
        logits = logits.masked_fill(~cache.allowed, float("-inf"))
    return logits.softmax(-1)


def _watch_multihead(part: nn.MultiheadAttention, decoder: bool, collected: _Collected, undo: ExitStack) -> None:
    """Ask for the weights of every head, and give the caller what the caller asked for."""
    undo.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
    torch.backends.mha.set_fastpath_enabled(False)
    asked: list[Mapping[str, Any]] = []

    def ask(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        bound = _MULTIHEAD.bind(part, *args, **named)
        bound.apply_defaults()
        call = {name: value for name, value in bound.arguments.items() if name != "self"}
        asked.append(call)
        return (), call | {"need_weights": True, "average_attn_weights": False}

    def answer(_: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
        call, (mixed, weights) = asked.pop(), output
        itself = call["key"] is call["query"]
        collected.add(("decoder" if decoder else "encoder") if itself else "cross", weights)
        if not call["need_weights"]:
            return mixed, None
        return mixed, weights.mean(-3) if call["average_attn_weights"] else weights

    undo.callback(part.register_forward_pre_hook(ask, with_kwargs=True).remove)
    undo.callback(part.register_forward_hook(answer).remove)


def _check_whole(model: nn.Module, batch: Any, collected: _Collected) -> None:
    """Windowed attention (Swin) folds the windows into the batch; such maps are no graph over the sequence."""
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple) else (batch,)
    sizes = {value.shape[0] for value in values if isinstance(value, Tensor) and value.ndim} | {1}
    for maps in collected.maps.values():
        for layer, weights in enumerate(maps):
            if weights.shape[0] not in sizes and not _time_first(values, weights):
                raise ValueError(
                    f"model: layer {layer} of {type(model).__name__} attends over {weights.shape[0]} pieces of the "
                    f"batch of {max(sizes)}, so within windows; expected attention over the whole sequence"
                )


def _time_first(values: Any, weights: Tensor) -> bool:
    """Modules of torch take (length, batch, dim) unless told otherwise."""
    return any(isinstance(v, Tensor) and v.ndim > 1 and v.shape[1] == weights.shape[0] for v in values)
