"""A small byte-pair tokenizer, trained on the texts of the task; lower-cased unless told otherwise.

Byte-level: every text has a spelling in the vocabulary, so that [UNK] never comes from a text; it is there for token
dropout. Training is deterministic: equal texts in any order give the equal vocabulary.
Reference: Sennrich, Haddow, Birch, 2016, arXiv 1508.07909; the training is that of the `tokenizers` library.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paperworks._files import write_atomic
from paperworks.data.errors import DataError, DataMissing

if TYPE_CHECKING:
    import tokenizers

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL_TOKENS))
# One symbol for each byte, and the special tokens.
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


class Tokenizer:
    """Texts to ids of a fixed length, and back. Make one with `train_tokenizer` or `Tokenizer.load`.

    The special tokens have the ids 0 to 4: [PAD], [UNK], [CLS], [SEP], [MASK].

    Raises:
        ValueError: `backend` has other special tokens or other ids for them.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        ids = [backend.token_to_id(token) for token in SPECIAL_TOKENS]
        if ids != list(range(len(SPECIAL_TOKENS))):
            raise ValueError(f"backend: expected {', '.join(SPECIAL_TOKENS)} as ids 0 to 4, got ids {ids}")
        self.backend = backend

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    def encode_batch(self, texts: Sequence[str], *, length: int) -> tuple[np.ndarray, np.ndarray]:
        """`[CLS] text` cut or padded to `length`: ids int64 and mask bool, both (B, length), mask True at tokens.

        How much is cut, `lengths` tells.

        Raises:
            ValueError: `texts` is one string instead of several, or `length` is below 2.
        """
        _several(texts)
        if length < 2:
            raise ValueError(f"length: expected at least 2 ([CLS] and one token), got {length}")
        ids = np.full((len(texts), length), PAD, dtype=np.int64)
        mask = np.zeros((len(texts), length), dtype=bool)
        for row, encoding in enumerate(self.backend.encode_batch_fast(list(texts), add_special_tokens=False)):
            tokens = [CLS, *encoding.ids[: length - 1]]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return ids, mask

    def encode_stream(self, text: str) -> np.ndarray:
        """All tokens of one text of any length, without special ones: int64 (n,)."""
        return np.array(self.backend.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """How many tokens each text has, [CLS] counted: int64 (B)."""
        _several(texts)
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return np.array([1 + len(encoding.ids) for encoding in encodings], dtype=np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The lower-cased text of these ids, special tokens left out."""
        return self.backend.decode([int(token) for token in ids], skip_special_tokens=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file of the `tokenizers` format, whole or not at all."""
        write_atomic(path, self.backend.to_str(pretty=False))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            DataMissing: no such file.
            DataError: the file is no tokenizer of this kind.
        """
        import tokenizers

        try:
            content = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise DataMissing(f"{path}: no such file; expected a tokenizer written by Tokenizer.save") from None
        try:
            json.loads(content)
            return cls(tokenizers.Tokenizer.from_str(content))
        except Exception as error:  # the library raises nothing narrower
            raise DataError(f"{path}: not a tokenizer written by Tokenizer.save ({error})") from None


def train_tokenizer(
    texts: Sequence[str], *, vocab_size: int, min_frequency: int = 2, lowercase: bool = True
) -> Tokenizer:
    """Byte-level BPE with at most `vocab_size` tokens; fewer where the texts do not yield them.

    Args:
        texts: the training texts of the task.
        vocab_size: at least 261 (256 bytes, 5 special tokens).
        min_frequency: a pair is merged where it occurs at least so often.
        lowercase: whether texts are first brought to lower case and a normal form of Unicode; without it what is
            decoded is what was encoded.

    Raises:
        ValueError: no texts, one string instead of several, or a vocabulary that is too small.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    _several(texts)
    if not texts:
        raise ValueError("texts: expected at least one text to train on, got none")
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(f"vocab_size: expected at least {SMALLEST_VOCABULARY}, got {vocab_size}")
    backend = tokenizers.Tokenizer(models.BPE())
    if lowercase:
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])  # pyright: ignore
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    backend.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(list(texts), trainer)
    return Tokenizer(backend)


def _several(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise ValueError(f"texts: expected a list of texts, got one text: {texts[:40]!r}")
