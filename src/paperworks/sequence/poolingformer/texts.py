"""The study's inputs: documents as one sequence of tokens with a target at each sentence, and the recall probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paperworks.data.sentence_labels import PARTS, Document, SentenceLabels
from paperworks.data.tokenization import PAD, SEP, Tokenizer, train_tokenizer

IGNORED = -100  # the target of a token that no sentence begins with


@dataclass(frozen=True)
class Encoded:
    """Documents: `ids`, `mask` and `targets` (N, length); a sentence's target stands at its [SEP], elsewhere -100."""

    ids: Tensor
    mask: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(1)

    @property
    def labels(self) -> Tensor:
        """The labels of all sentences in order."""
        return self.targets[self.targets != IGNORED]


@dataclass(frozen=True)
class Task:
    """Labelled documents as the arms see them.

    `cut` is the share of training sentences that lose words, `left_out` that of all sentences for which the document
    has no room.
    """

    source: SentenceLabels
    tokenizer: Tokenizer
    parts: dict[str, Encoded]
    length: int
    sentence_tokens: int
    cut: float
    left_out: float
    own: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes


def encode_task(
    source: SentenceLabels, *, vocabulary: int, length: int, sentence_tokens: int, own: bool = False
) -> Task:
    """Train a lower-cased BPE on the training sentences and encode all parts.

    Args:
        source: the documents.
        vocabulary: ids at most.
        length: tokens of a document at most; sentences that do not fit whole are left out, as are their labels.
        sentence_tokens: tokens of a sentence at most, its [SEP] aside.
        own: whether these are a user's documents, for whom a model is kept.
    """
    texts = [sentence for document in source.parts["train"] for sentence in document.sentences]
    tokenizer = train_tokenizer(texts, vocab_size=vocabulary)
    cut = float(np.mean(tokenizer.lengths(texts) - 1 > sentence_tokens))
    parts = {
        part: encode_documents(
            source.parts[part], tokenizer, source.classes, length=length, sentence_tokens=sentence_tokens
        )
        for part in PARTS
    }
    given = sum(len(document.sentences) for part in PARTS for document in source.parts[part])
    left_out = 1 - sum(len(encoded.labels) for encoded in parts.values()) / given
    return Task(source, tokenizer, parts, length, sentence_tokens, cut, left_out, own)


def encode_documents(
    documents: Sequence[Document], tokenizer: Tokenizer, classes: Sequence[str], *, length: int, sentence_tokens: int
) -> Encoded:
    """`[SEP] sentence [SEP] sentence ..`, each sentence cut to `sentence_tokens`."""
    number = {label: index for index, label in enumerate(classes)}
    ids = torch.full((len(documents), length), PAD)
    targets = torch.full((len(documents), length), IGNORED)
    lengths = torch.zeros(len(documents), dtype=torch.long)
    for row, document in enumerate(documents):
        tokens, mask = tokenizer.encode_batch(document.sentences, length=sentence_tokens + 1)
        end = 0
        for sentence, kept, label in zip(tokens, mask, document.labels, strict=True):
            size = int(kept.sum())
            if end + size > length:
                break
            # The tokenizer puts [CLS] first; here its place is the [SEP] of the sentence.
            ids[row, end] = SEP
            ids[row, end + 1 : end + size] = torch.from_numpy(sentence[1:size])
            targets[row, end] = number[label]
            end += size
        lengths[row] = end
    return Encoded(ids, torch.arange(length) < lengths[:, None], targets)


# Recall --------------------------------------------------------------------------------------------------------------


class Recall:
    """Associative recall: a key once in a text, its value after it, the key again at the end; what was the value?

    Ids: 0..S-1 keys, S..2S-1 values, 2S..3S-1 fillers. A batch is a function of its position; the distance from the
    question to the key is uniform in 2..length - 1.
    """

    def __init__(self, *, symbols: int, length: int, batch: int, seed: int) -> None:
        self.symbols, self.length, self.batch, self.seed = symbols, length, batch, seed
        self.identity = f"recall of {symbols} symbols at {length}, {batch} a batch, seed {seed}"

    def __call__(self, position: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, position))
        ids = rng.integers(2 * self.symbols, 3 * self.symbols, size=(self.batch, self.length))
        key, value = rng.integers(self.symbols, size=(2, self.batch))
        distance = rng.integers(2, self.length, size=self.batch)
        row, at = np.arange(self.batch), self.length - 1 - distance
        ids[row, at], ids[row, at + 1], ids[:, -1] = key, value + self.symbols, key
        found = {"ids": ids, "value": value, "distance": distance}
        return {name: torch.from_numpy(array).long() for name, array in found.items()}
