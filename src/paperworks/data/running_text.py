"""Running text as one stream of tokens, for language models: a benchmark, files of one's own, and a generated text.

A stream is cut once, the first part to train on, the rest to validate. Bytes are the tokens: every text has a spelling,
nothing is out of vocabulary; `byte_pairs` makes longer ones of them. Scores are per character, so that tokens of
several bytes, and scripts of several bytes a character, compare.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from paperworks.data.benchmarks import benchmark_content
from paperworks.data.errors import DataError, DataMissing

if TYPE_CHECKING:
    from paperworks.data.tokenization import Tokenizer

VOCABULARY = 256
LEAST = 50_000
VALIDATION = 0.1


@dataclass(frozen=True, eq=False)
class RunningText:
    """One text in two parts.

    Attributes:
        name: where it comes from.
        train, validation: tokens, (n,): bytes as uint8, or int64 ids of a tokenizer.
        characters: characters in the validation part.
        notes: what a reader should know.
        tokenizer: what the ids mean; None: bytes.
    """

    name: str
    train: NDArray[np.uint8] | NDArray[np.int64]
    validation: NDArray[np.uint8] | NDArray[np.int64]
    characters: int
    notes: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return VOCABULARY if self.tokenizer is None else self.tokenizer.vocab_size

    @property
    def fingerprint(self) -> str:
        """A hash of both parts."""
        return hashlib.sha256(self.train.tobytes() + b"\x00|\x00" + self.validation.tobytes()).hexdigest()

    def __repr__(self) -> str:
        kind = "bytes" if self.tokenizer is None else "tokens"
        return f"RunningText({self.name!r}, {len(self.train):,} / {len(self.validation):,} {kind})"


def divide(name: str, text: str, *, validation: float = VALIDATION, notes: tuple[str, ...] = ()) -> RunningText:
    """The last part of a text is kept for validation.

    Raises:
        ValueError: a share outside (0, 1).
        DataError: fewer than 50,000 characters.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation: expected a share between 0 and 1, got {validation}")
    if len(text) < LEAST:
        raise DataError(f"{name}: has {len(text):,} characters, too few to learn from; give at least {LEAST:,}")
    cut = round(len(text) * (1 - validation))
    parts = [np.frombuffer(part.encode("utf-8"), dtype=np.uint8) for part in (text[:cut], text[cut:])]
    return RunningText(name, parts[0], parts[1], len(text) - cut, notes)


def byte_pairs(text: RunningText, *, vocabulary: int) -> RunningText:
    """The same text in tokens of several bytes, merged by how often they occur in the training part; case is kept.

    Raises:
        ValueError: the text has such tokens already, or the vocabulary is below 261.
    """
    from paperworks.data.tokenization import train_tokenizer

    if text.tokenizer is not None:
        raise ValueError("text: has a tokenizer already; give the text in bytes")
    parts = [part.tobytes().decode("utf-8") for part in (text.train, text.validation)]
    tokenizer = train_tokenizer(parts[:1], vocab_size=vocabulary, lowercase=False)
    train, validation = (tokenizer.encode_stream(part) for part in parts)
    note = f"{tokenizer.vocab_size:,} byte pairs, {text.characters / len(validation):.2f} characters each"
    return replace(text, train=train, validation=validation, notes=(*text.notes, note), tokenizer=tokenizer)


def tiny_shakespeare() -> RunningText:
    """Plays, 1,115,394 characters; the usual division, the last tenth validates.

    Raises:
        DataMissing, DataCorrupt: as `benchmark_content`.
    """
    return divide("Tiny Shakespeare", benchmark_content("tiny_shakespeare", "input.txt").decode("ascii"))


def read_running_text(source: str | os.PathLike[str]) -> RunningText:
    """A text file, or all `.txt` files of a folder in the order of their names, joined by an empty line; UTF-8.

    Raises:
        DataMissing: no such file, or a folder without text files.
        DataError: not UTF-8, naming file and line, or too short.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise DataMissing(f"{path}: the folder has no .txt file")
    elif path.is_file():
        files = [path]
    else:
        raise DataMissing(f"{path}: no such file; check the path (the current folder is {Path.cwd()})")
    note = f"{len(files)} file{'s' if len(files) > 1 else ''}; the last {VALIDATION:.0%} validate"
    return divide(str(path), "\n\n".join(map(_read, files)), notes=(note,))


def _read(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line}: not UTF-8; save the file as UTF-8") from None


def copying_text(characters: int = 400_000, *, seed: int = 0) -> RunningText:
    """A generated text that rewards memory by position: letters said again at a distance, brackets that close.

    Half of the letters repeat the letter but one before them; the others follow their predecessor by a random chain,
    with four likely successors each. Digits announce that the letter 4, 8, 16, 32 or 64 characters back is said again;
    and brackets open and close in order, three kinds, at most four deep.

    Raises:
        DataError: too few characters to learn from.
    """
    rng = np.random.default_rng(seed)
    letters, opening, closing = "abcdefghijklmnopqrst", "([{", ")]}"
    successors = rng.integers(len(letters), size=(len(letters), 4))
    chances = np.array([0.4, 0.3, 0.2, 0.1])
    kinds, picks, draws = rng.random(characters), rng.choice(4, size=characters, p=chances), rng.random(characters)
    written: list[str] = []
    open_now: list[int] = []
    before = current = 0
    while len(written) < characters:
        place = len(written)
        kind, which = kinds[place], int(draws[place] * 5)
        copied = written[place + 1 - 2 ** (which + 2)] if place > 64 else ""
        if kind < 0.1 and copied and copied in letters:
            written += [str(which), copied]
        elif kind < 0.15 and len(open_now) < 4:
            open_now.append(int(draws[place] * 3))
            written.append(opening[open_now[-1]])
        elif kind < 0.2 and open_now:
            written.append(closing[open_now.pop()])
        else:
            following = before if kind < 0.6 else int(successors[current, picks[place]])
            before, current = current, following
            written.append(letters[current])
    return divide(f"copies, seed {seed}", "".join(written[:characters]), notes=("generated",))
