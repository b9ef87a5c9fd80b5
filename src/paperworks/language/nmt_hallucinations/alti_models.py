"""ALTI contributions read off models: Marian, M2M-100 and NLLB, mBART, BART, T5, and our encoder-decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.language.nmt_hallucinations.alti import block_contributions, roll_out, source_share
from paperworks.language.nmt_hallucinations.batching import BATCH_TOKENS, batches
from paperworks.language.nmt_hallucinations.logprob import check_pairs
from paperworks.language.nmt_hallucinations.models import Translator, translator
from paperworks.nn.attention import split_heads
from paperworks.nn.attention_maps import attentions_of


@dataclass
class _Block:
    """One attention block: where its values, its residual and its norm are, and what a forward pass told of them."""

    part: str
    attention: nn.Module
    values: nn.Module
    take: Callable[[Tensor], Tensor]
    output: Any
    heads: int
    norm: nn.Module
    seen: dict[str, Any] = field(default_factory=dict)

    def watch(self, undo: ExitStack) -> None:
        """Note values, inputs and the order of norm and attention, until `undo`."""
        hooks = [
            self.values.register_forward_hook(lambda _, inputs, output: self._note("values", self.take(output))),
            self.attention.register_forward_pre_hook(
                lambda _, args, named: self._note("read", args[0] if args else named["hidden_states"]), with_kwargs=True
            ),
            self.norm.register_forward_pre_hook(lambda _, inputs: self._note("normed", inputs[0])),
        ]
        for hook in hooks:
            undo.callback(hook.remove)

    def _note(self, name: str, value: Tensor) -> None:
        self.seen.setdefault("first", name)
        self.seen[name] = value

    def contributions(self, weights: Tensor, chunk: int) -> Tensor:
        # A norm that ran before the attention is the block's first step: what it read is the residual.
        pre = self.seen["first"] == "normed"
        return block_contributions(
            _full(weights),
            split_heads(_full(self.seen["values"]), self.heads),
            _full(self.output.weight),
            _full(self.seen["normed" if pre else "read"]),
            bias=None if self.output.bias is None else _full(self.output.bias),
            norm=None if pre else self.norm,  # pyright: ignore[reportArgumentType]
            own_column=self.part == "cross",
            chunk=chunk,
        )


def alti_contributions(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    outputs: Sequence[str],
    *,
    batch_tokens: int = BATCH_TOKENS,
    source_language: str | None = None,
    target_language: str | None = None,
) -> list[np.ndarray]:
    """For each pair the contributions (T, S + T) to every target token: of the source, then of the prefix.

    Rows sum to one. Target and source are with their special tokens; column S + k is what the decoder reads at place k
    (k = 0: the begin token).

    Raises:
        ValueError: as `seq_logprob`, or a model whose blocks are not known.
    """
    face = translator(model, tokenizer, source_language=source_language, target_language=target_language)
    found: list[np.ndarray] = [np.zeros(0)] * len(sources)
    for batch, total, _ in _batched(face, sources, outputs, batch_tokens):
        widths = batch.source_mask[batch.which].sum(1).tolist()
        lengths = batch.target_mask.sum(1).tolist()
        start = batch.source.shape[1]
        for place, row in enumerate(batch.rows):
            part = total[place, : lengths[place]].double().cpu().numpy()
            found[row] = np.concatenate([part[:, : widths[place]], part[:, start : start + lengths[place]]], axis=1)
    return found


def alti_risk(
    face: Translator, sources: Sequence[str], outputs: Sequence[str], *, batch_tokens: int = BATCH_TOKENS
) -> np.ndarray:
    """One minus the mean share of the source over the target's own tokens: (rows,) in [0, 1]."""
    found = np.empty(len(sources))
    for batch, total, width in _batched(face, sources, outputs, batch_tokens):
        found[batch.rows] = 1 - source_share(total, width, batch.own).double().cpu().numpy()
    return found


def _batched(
    face: Translator, sources: Sequence[str], outputs: Sequence[str], batch_tokens: int
) -> Iterator[tuple[Any, Tensor, int]]:
    check_pairs(sources, outputs)
    blocks = _blocks(face.model)
    source, target = face.sources(sources), face.targets(outputs)
    for batch in batches(source, target, tokens=max(1, batch_tokens // 4), pad=face.pad, device=face.device):
        ids, mask = batch.whole_sources()
        inputs = face.inputs(ids, mask, batch.target, batch.target_mask)
        with torch.no_grad():
            yield batch, model_contributions(face.model, inputs, blocks=blocks), ids.shape[1]


def model_contributions(
    model: nn.Module, inputs: dict[str, Any], *, blocks: list[_Block] | None = None, chunk: int = 2**22
) -> Tensor:
    """(B, T, S + T) for one batch of a model's own inputs; the model runs once.

    Raises:
        ValueError: a model whose blocks are not known.
    """
    blocks = _blocks(model) if blocks is None else blocks
    with ExitStack() as undo:
        for block in blocks:
            block.seen.clear()
            block.watch(undo)
        maps = attentions_of(model, inputs)
    parts: dict[str, list[Tensor]] = {}
    for name in ("encoder", "decoder", "cross"):
        own = [block for block in blocks if block.part == name]
        weights = getattr(maps, name)
        parts[name] = [block.contributions(layer, chunk) for block, layer in zip(own, weights, strict=True)]
    for block in blocks:
        block.seen.clear()
    return roll_out(parts["encoder"], parts["decoder"], parts["cross"])


def _blocks(model: Any) -> list[_Block]:
    """All attention blocks in the order of layers."""
    if hasattr(model, "get_encoder"):
        encoder, decoder = model.get_encoder(), model.get_decoder()
        if hasattr(encoder, "block"):
            return [*_t5_blocks(encoder, "encoder"), *_t5_blocks(decoder, "decoder")]
        if hasattr(encoder, "layers") and hasattr(decoder, "layers"):
            return [*_bart_blocks(encoder, "encoder"), *_bart_blocks(decoder, "decoder")]
    elif hasattr(model, "encoder") and hasattr(model, "decoder"):
        return [*_our_blocks(model.encoder, "encoder"), *_our_blocks(model.decoder, "decoder")]
    raise ValueError(f"model: alti does not know the attention blocks of {type(model).__name__}")


def _bart_blocks(stack: Any, part: str) -> Iterator[_Block]:
    """Marian, BART (post-norm), M2M-100, NLLB, mBART (pre-norm): the same names, and the order tells which."""
    for layer in stack.layers:
        inner = layer.self_attn
        yield _Block(part, inner, inner.v_proj, _same, inner.out_proj, inner.num_heads, layer.self_attn_layer_norm)
        if part == "decoder":
            cross = layer.encoder_attn
            norm = layer.encoder_attn_layer_norm
            yield _Block("cross", cross, cross.v_proj, _same, cross.out_proj, cross.num_heads, norm)


def _t5_blocks(stack: Any, part: str) -> Iterator[_Block]:
    for block in stack.block:
        sublayer = block.layer[0]
        inner = sublayer.SelfAttention
        yield _Block(part, inner, inner.v, _same, inner.o, inner.n_heads, sublayer.layer_norm)
        if part == "decoder":
            sublayer = block.layer[1]
            cross = sublayer.EncDecAttention
            yield _Block("cross", cross, cross.v, _same, cross.o, cross.n_heads, sublayer.layer_norm)


def _our_blocks(stack: Any, part: str) -> Iterator[_Block]:
    for layer in stack.layers:
        inner = layer.mixer
        if not hasattr(inner, "qkv"):
            raise ValueError(f"model: alti needs attention, layer {part} mixes by {type(inner).__name__}")
        norm = layer.mixer_residual.norm
        yield _Block(part, inner, inner.qkv, _last_third, inner.output, inner.heads, norm)
        if part == "decoder":
            cross = layer.cross
            norm = layer.cross_residual.norm
            yield _Block("cross", cross, cross.key_value, _last_half, cross.output, cross.heads, norm)


def _full(tensor: Tensor) -> Tensor:
    """At least single precision."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _same(values: Tensor) -> Tensor:
    return values


def _last_third(qkv: Tensor) -> Tensor:
    return qkv.chunk(3, -1)[2]


def _last_half(key_value: Tensor) -> Tensor:
    return key_value.chunk(2, -1)[1]
