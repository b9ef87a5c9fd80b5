"""Log-probabilities of given tokens, without a softmax over the vocabulary in memory.

    log p(id) = logit_id - logsumexp(logits)

A batch of B x T tokens over V words has B T V logits; their softmax would be a second array of that size. Here tokens
are taken in chunks of a fixed number of logits, masked tokens are left out of the work, and `linear_log_prob` does not
even make all logits at once: it goes from the states to the log-probabilities chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from paperworks.nn.contract import check_mask

# Logits held at once, 16 MiB of float32.
CHUNK = 2**22


def token_log_prob(logits: Tensor, ids: Tensor, *, mask: Tensor | None = None, chunk: int = CHUNK) -> Tensor:
    """Natural log-probability of each token, in float32.

    Args:
        logits: (B, T, V), position t predicts `ids[:, t]`.
        ids: (B, T); what stands at masked positions does not matter (-100 is fine).
        mask: (B, T) bool, True = counts; None: all.
        chunk: most logits to normalise at once.

    Returns:
        (B, T), zero where masked.

    Raises:
        ValueError: shapes that do not fit, an id outside the vocabulary, or a chunk below 1.
    """
    if logits.ndim != 3 or logits.shape[:2] != ids.shape:
        raise ValueError(f"logits: expected {(*ids.shape, 'V')} for these ids, got {tuple(logits.shape)}")
    rows, kept = _kept(ids, mask, logits.shape[2])
    flat = logits.flatten(0, 1)
    found = [_log_prob(flat[part], kept[index]) for part, index in _chunks(rows, logits.shape[2], chunk)]
    return _scatter(found, rows, ids)


def linear_log_prob(
    states: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """`token_log_prob(states @ weight.T + bias, ids)` without ever holding all logits.

    Args:
        states: (B, T, D).
        weight, bias: of the last dense layer, (V, D) and (V,).
        ids, mask, chunk: as in `token_log_prob`.

    With gradients, each chunk's logits are made again in the backward pass, so memory stays that of one chunk.

    Raises:
        ValueError: as `token_log_prob`.
    """
    if states.ndim != 3 or states.shape[:2] != ids.shape or states.shape[2] != weight.shape[1]:
        raise ValueError(f"states: expected {(*ids.shape, weight.shape[1])}, got {tuple(states.shape)}")
    return head_log_prob(
        lambda x: F.linear(x, weight, bias), states, ids, vocabulary=len(weight), mask=mask, chunk=chunk
    )


def head_log_prob(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    ids: Tensor,
    *,
    vocabulary: int,
    mask: Tensor | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """As `linear_log_prob` for any function `head`: states (n, D) -> logits (n, vocabulary)."""
    rows, kept = _kept(ids, mask, vocabulary)
    flat = states.flatten(0, 1)

    def one(x: Tensor, wanted: Tensor) -> Tensor:
        return _log_prob(head(x), wanted)

    learns = torch.is_grad_enabled()
    found = [
        checkpoint(one, flat[part], kept[index], use_reentrant=False) if learns else one(flat[part], kept[index])
        for part, index in _chunks(rows, vocabulary, chunk)
    ]
    return _scatter(found, rows, ids)  # pyright: ignore[reportArgumentType]


def sequence_log_prob(tokens: Tensor, mask: Tensor, *, normalize: bool = True) -> Tensor:
    """Log-probability of whole sequences from that of their tokens (B, T): sum, or mean over the tokens that count.

    Raises:
        ValueError: a mask of another shape, or a sequence without tokens.
    """
    check_mask(mask, tokens.shape)
    counts = mask.sum(1)
    if bool((counts == 0).any()):
        raise ValueError(f"mask: sequence {int((counts == 0).nonzero()[0])} has no token that counts")
    total = tokens.masked_fill(~mask, 0).sum(1)
    return total / counts if normalize else total


def _kept(ids: Tensor, mask: Tensor | None, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Positions that count, in the flattened batch, and their ids."""
    check_mask(mask, ids.shape)
    flat = ids.flatten()
    rows = torch.arange(len(flat), device=ids.device) if mask is None else mask.flatten().nonzero()[:, 0]
    kept = flat[rows]
    if kept.is_cpu and len(kept):
        low, high = (int(end) for end in torch.aminmax(kept))
        if low < 0 or high >= vocabulary:
            raise ValueError(f"ids: expected 0..{vocabulary - 1}, got {low if low < 0 else high}; mask out the padding")
    return rows, kept


def _chunks(rows: Tensor, vocabulary: int, chunk: int) -> list[tuple[Tensor, slice]]:
    if chunk < 1:
        raise ValueError(f"chunk: must be at least 1, got {chunk}")
    size = max(1, chunk // vocabulary)
    return [(rows[first : first + size], slice(first, first + size)) for first in range(0, len(rows), size)]


def _log_prob(logits: Tensor, ids: Tensor) -> Tensor:
    logits = logits.float()
    return logits.gather(1, ids[:, None].long())[:, 0] - logits.logsumexp(1)


def _scatter(found: list[Tensor], rows: Tensor, ids: Tensor) -> Tensor:
    result = torch.zeros(ids.numel(), dtype=torch.float32, device=ids.device)
    if found:
        result = result.index_put((rows,), torch.cat(found))
    return result.view(ids.shape)
