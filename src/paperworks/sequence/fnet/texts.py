"""The study's tasks: labelled texts as fixed-length token ids, encoded once for all arms."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paperworks.data.text import TextClassification
from paperworks.data.tokenization import Tokenizer, train_tokenizer


@dataclass(frozen=True)
class Encoded:
    """One part of a task: `ids` (N, length) int64, `mask` (N, length) bool with True = token, `labels` (N,) int64."""

    ids: Tensor
    mask: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Task:
    """A text-classification task as the arms see it."""

    name: str
    classes: tuple[str, ...]
    length: int
    tokenizer: Tokenizer
    train: Encoded
    dev: Encoded
    test: Encoded
    source: TextClassification
    cut: float
    own: bool = False

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(
            f"{self.source.fingerprint}:{self.length}:{self.tokenizer.vocab_size}".encode()
        ).hexdigest()

    def majority(self) -> float:
        """Accuracy of always answering the most frequent training label."""
        label = torch.mode(self.train.labels).values
        return float((self.test.labels == label).float().mean())


def encode_task(
    source: TextClassification, *, vocabulary: int, length: int | None, longest: int = 256, own: bool = False
) -> Task:
    """Train a lower-cased BPE on the training texts and encode all parts, padded to one length.

    `length` None: the 95th percentile of the training texts in tokens, at most `longest`.
    """
    texts = {part: source.part(part) for part in ("train", "dev", "test")}
    tokenizer = train_tokenizer(texts["train"][0], vocab_size=vocabulary)
    lengths = tokenizer.lengths(texts["train"][0])
    length = length or min(longest, int(np.ceil(np.percentile(lengths, 95))))
    parts = {part: _encode(tokenizer, strings, labels, length) for part, (strings, labels) in texts.items()}
    cut = float(np.mean(lengths > length))
    return Task(source.name, source.classes, length, tokenizer, **parts, source=source, cut=cut, own=own)


def _encode(tokenizer: Tokenizer, texts: Sequence[str], labels: np.ndarray, length: int) -> Encoded:
    ids, mask = tokenizer.encode_batch(texts, length=length)
    return Encoded(torch.as_tensor(ids), torch.as_tensor(mask), torch.as_tensor(labels, dtype=torch.int64))


def drop_tokens(ids: Tensor, mask: Tensor, *, share: float, unknown: int, generator: torch.Generator) -> Tensor:
    """Replace a share of the input tokens by [UNK], except the first ([CLS]) and padding: (B, N) -> (B, N)."""
    chosen = torch.rand(ids.shape, generator=generator) < share
    chosen[:, 0] = False
    return torch.where(chosen & mask, unknown, ids)
