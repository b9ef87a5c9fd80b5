"""An encoder of the `transformers` library, with the face of the encoders here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from paperworks.nn.contract import (
    Encoded,
    Traits,
    check_context,
    check_mask,
    check_tokens,
    warn_padding_mixed_in,
    zero_masked,
)


class TransformersEncoder(nn.Module):
    """`forward(x, *, mask=None) -> Encoded` over a model that takes `inputs_embeds`: BERT, RoBERTa, FNet and their kin.

    Args:
        model: a bare encoder, such as `AutoModel.from_pretrained(...)`. The model adds its own positions to `x`.

    `input_embeddings()` is the model's word table: `SequenceClassifier(encoder.input_embeddings(), encoder, ...)`. It
    is shared with the model, trained as one and saved once. `supports_mask` is False for models that take no attention
    mask (FNet). `causal` is False: nothing is promised of a decoder.

    Raises:
        ValueError: a model that takes no `inputs_embeds`, or does not say its width; in `forward`, a wrong shape, mask
            or length.
    """

    causal = False
    context_names: tuple[str, ...] = ()
    min_length = None

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        parameters = inspect.signature(model.forward).parameters
        config = getattr(model, "config", None)
        if "inputs_embeds" not in parameters or not hasattr(config, "hidden_size"):
            raise ValueError(
                f"model: expected a transformers encoder that takes inputs_embeds, got {type(model).__name__}"
            )
        self.model = model
        self.dim = int(config.hidden_size)  # pyright: ignore[reportOptionalMemberAccess]
        self.supports_mask = "attention_mask" in parameters
        self.max_length = _max_length(model)

    def input_embeddings(self) -> nn.Module:
        """The word table, ids (B, N) -> (B, N, D)."""
        return self.model.get_input_embeddings()  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor, *, mask: Tensor | None = None, context: Mapping[str, Any] | None = None) -> Encoded:
        check_tokens(x, dim=self.dim, traits=Traits(max_length=self.max_length), name="x")
        check_mask(mask, x.shape[:2])
        check_context(context, self.context_names)
        if mask is None:
            return Encoded(self.model(inputs_embeds=x).last_hidden_state, None)
        if not self.supports_mask:
            warn_padding_mixed_in(self.model)
            return Encoded(self.model(inputs_embeds=x).last_hidden_state, mask)
        states = self.model(inputs_embeds=zero_masked(x, mask), attention_mask=mask.to(x.dtype)).last_hidden_state
        return Encoded(states, mask)


def _max_length(model: nn.Module) -> int | None:
    """Positions that a token can have: RoBERTa and its kin start counting after the padding id."""
    limit = getattr(model.config, "max_position_embeddings", None)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return limit if limit is None or padding is None else limit - padding - 1
