"""Sequence log-probability: how surprised a model is by a translation, deterministically or under dropout.

    Seq-Logprob risk = - (1/L) sum_k log p(y_k | y_<k, x)

Notes:

1. L counts the end token, but neither the begin token nor language tokens; logarithms are natural; no length penalty.
2. The output is force-decoded. Scores that a beam search returns contain penalties and processors and are another
   number.
3. fairseq prints base-2 logarithms in its P- lines.

Reference: Guerreiro et al. (2023, arXiv 2208.05309), section 4; for dropout Fomicheva et al. (2020, arXiv 2005.10608).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from paperworks.language.nmt_hallucinations.batching import BATCH_TOKENS, Batch, batches, seeded
from paperworks.language.nmt_hallucinations.models import Translator, translator
from paperworks.nn.contract import Encoded
from paperworks.nn.log_prob import head_log_prob, sequence_log_prob
from paperworks.nn.modes import evaluating
from paperworks.train.dropout import mc_dropout


class Uncertainty(NamedTuple):
    """Over N draws with dropout, per pair (rows,): the mean risk, and the variance of the log-probability."""

    mean: np.ndarray
    variance: np.ndarray


def seq_logprob(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    outputs: Sequence[str],
    *,
    batch_tokens: int = BATCH_TOKENS,
    normalize: bool = True,
    source_language: str | None = None,
    target_language: str | None = None,
) -> np.ndarray:
    """The negative log-probability of each output given its source, per token: (rows,), larger = riskier.

    Args:
        model, tokenizer: see `translator`.
        sources, outputs: equally many texts. An empty output has its end token.
        batch_tokens: most tokens of a batch; the result does not depend on it.
        normalize: divide by the number of tokens.
        source_language, target_language: codes of multilingual models.

    Under `torch.autocast` products are in half precision, log-sums over the vocabulary stay single: several times
    faster, and risks move in the second decimal.

    Raises:
        ValueError: lengths differ, or a text is longer than the model takes (naming the row; nothing is cut).
    """
    face = translator(model, tokenizer, source_language=source_language, target_language=target_language)
    with torch.no_grad(), evaluating(face.model):
        return -forced_log_prob(face, sources, outputs, batch_tokens=batch_tokens, normalize=normalize)


def mc_logprob(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    outputs: Sequence[str],
    *,
    n: int = 10,
    attention: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    generator: torch.Generator | None = None,
    source_language: str | None = None,
    target_language: str | None = None,
) -> Uncertainty:
    """Force-decode each output `n` times with dropout on: mean risk and variance of the log-probability per token.

    The n draws of a pair run as n rows of one batch; each draws its own dropout in encoder and decoder.

    Args:
        n: draws.
        attention: whether weights of attention are dropped too (not in the paper's recipe).
        generator: of the draws; None: torch's global generator.

    Raises:
        ValueError: as `seq_logprob`, or `n` below 2.
    """
    if n < 2:
        raise ValueError(f"n: expected at least 2 draws, got {n}")
    face = translator(model, tokenizer, source_language=source_language, target_language=target_language)
    with torch.no_grad(), seeded(generator, face.device), mc_dropout(face.model, attention=attention):
        draws = forced_log_prob(face, sources, outputs, batch_tokens=batch_tokens, copies=n)
    return Uncertainty(-draws.mean(1), draws.var(1, ddof=1))


def forced_log_prob(
    face: Translator,
    sources: Sequence[str],
    outputs: Sequence[str],
    *,
    batch_tokens: int = BATCH_TOKENS,
    normalize: bool = True,
    copies: int = 1,
) -> np.ndarray:
    """Log-probabilities (rows,), or (rows, copies), in whatever mode the model is."""
    check_pairs(sources, outputs)
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens: must be at least 1, got {batch_tokens}")
    shape = (len(sources),) if copies == 1 else (len(sources), copies)
    found = np.empty(shape)
    source, target = face.sources(sources), face.targets(outputs)
    for batch in batches(source, target, tokens=max(1, batch_tokens // copies), pad=face.pad, device=face.device):
        log_prob = _batch_log_prob(face, batch, normalize, copies)
        found[batch.rows] = log_prob if copies == 1 else log_prob.reshape(len(batch.rows), copies)
    return found


def check_pairs(sources: Sequence[str], outputs: Sequence[str]) -> None:
    """Refuse sources and outputs of different number."""
    if isinstance(sources, str) or isinstance(outputs, str):
        raise ValueError("sources, outputs: expected lists of texts, got one text")
    if len(sources) != len(outputs):
        raise ValueError(f"outputs: expected one per source, {len(sources)}, got {len(outputs)}")


def _batch_log_prob(face: Translator, batch: Batch, normalize: bool, copies: int) -> np.ndarray:
    target, mask, own = batch.target, batch.target_mask, batch.own
    if copies == 1:
        distinct = face.encode(batch.source, batch.source_mask)
        assert distinct.mask is not None
        memory = Encoded(distinct.states[batch.which], distinct.mask[batch.which])
    else:
        # Every copy is encoded by itself: dropout in the encoder is part of the draw.
        ids, source_mask = (part.repeat_interleave(copies, 0) for part in batch.whole_sources())
        memory = face.encode(ids, source_mask)
        target, mask, own = (part.repeat_interleave(copies, 0) for part in (target, mask, own))
    states = face.decode(memory, target, mask)
    tokens = head_log_prob(face.head, states, target, vocabulary=face.vocabulary, mask=own)
    return sequence_log_prob(tokens, own, normalize=normalize).double().cpu().numpy()
