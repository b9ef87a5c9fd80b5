"""What a tokenizer gives, as ids, mask and types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paperworks.nn.contract import check_mask
from paperworks.nn.embedding import check_ids

# What tokenizers add to the ids; none of it says what the text is.
_IGNORED = {
    "labels",
    "length",
    "num_truncated_tokens",
    "offset_mapping",
    "overflow_to_sample_mapping",
    "overflowing_tokens",
    "special_tokens_mask",
}


class TextInputs(NamedTuple):
    """ids (B, N), mask (B, N) bool or None, token types (B, N) or None."""

    ids: Tensor
    mask: Tensor | None
    types: Tensor | None


def read_inputs(
    ids: Tensor | Mapping[str, Any], mask: Tensor | None, types: Tensor | None, *, type_count: int
) -> TextInputs:
    """Take ids with mask and types, or a `transformers.BatchEncoding` in place of the ids.

    Tokenizers give token types whether the model has them or not: with `type_count` 0 those of a batch encoding are
    left out, while types that you pass yourself are refused by the embedding.

    Raises:
        ValueError: a batch encoding together with `mask` or `types`, without `input_ids`, with entries that are no
            tensors or that would change the result; ids or a mask of another shape or type.
    """
    if isinstance(ids, Mapping):
        if mask is not None or types is not None:
            raise ValueError("mask: given beside a batch encoding, which has its own; pass ids=batch['input_ids']")
        ids, mask, types = _unpack(ids, type_count)
    check_ids(ids)
    check_mask(mask, ids.shape)
    return TextInputs(ids, mask, types)


def _unpack(batch: Mapping[str, Any], type_count: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    known = {"input_ids", "attention_mask", "token_type_ids"} | _IGNORED
    if "input_ids" not in batch:
        raise ValueError(f"ids: expected a batch encoding with input_ids, got the entries {sorted(batch)}")
    if strangers := sorted(set(batch) - known):
        raise ValueError(f"ids: the batch encoding has entries that would not be used: {', '.join(strangers)}")
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if name in batch and not isinstance(batch[name], Tensor):
            kind = type(batch[name]).__name__
            raise ValueError(f'{name}: expected a tensor, got {kind}; tokenize with return_tensors="pt"')
    mask = batch.get("attention_mask")
    types = batch.get("token_type_ids") if type_count else None
    return batch["input_ids"], None if mask is None else mask.to(torch.bool), types
