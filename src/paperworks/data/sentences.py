"""Sentences of a text by punctuation rules: no model, no download, the same result everywhere.

A sentence ends at a mark (. ! ? and the ellipsis, closing quotes and brackets after it counted in) that stands before
white space, and at every empty line. In English a full stop does not end one after an abbreviation that introduces
something (Dr., e.g., Fig.), after an initial (J. Smith), after a bare number at the start (1. First), nor does any mark
before a small letter, unless the whole text is lower-cased. In Chinese a mark needs no space after it.

The rules are chosen, not taken from a paper. `SPLITTER_VERSION` changes with them: results depend on sentences, so a
report should name it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, get_args

Language = Literal["en", "zh"]

SPLITTER_VERSION = 1

_CLOSERS = r"""["'”’»)\]）】」』]*"""
_OPENERS = "\"'“‘«([`"
_ENGLISH_END = re.compile(rf"[.!?…]+{_CLOSERS}(?=\s)")
_CHINESE_END = re.compile(rf"[。！？…；]+{_CLOSERS}|[.!?]+{_CLOSERS}(?=\s)")
_PARAGRAPH = re.compile(r"\n\s*\n")
_INITIAL = re.compile(r"(?:[^\W\d_]\.)+")
_NUMBER = re.compile(r"\(?(?:\d+|[ivxlc]+|[a-z])[.)]\.?", re.IGNORECASE)
# What follows these belongs to them; after others (etc., Inc., a.m.) a capital decides.
_INTRODUCING = frozenset(
    [
        "adm",
        "al",
        "approx",
        "capt",
        "cf",
        "chap",
        "comdr",
        "dept",
        "dr",
        "e.g",
        "eds",
        "eq",
        "eqn",
        "eqs",
        "fig",
        "figs",
    ]
    + ["gov", "hon", "i.e", "lt", "maj", "messrs", "mr", "mrs", "ms", "mt", "prof", "refs", "rev", "sgt", "st", "vols"]
    + ["viz", "vs"]
)
# These are words, or end like them, unless a number follows.
_NUMBERING = frozenset(["art", "ch", "col", "no", "nos", "nr", "op", "p", "pp", "ref", "sec", "vol"])


def split_sentences(text: str, *, language: Language = "en") -> list[str]:
    """The sentences of a text, in order, without white space around them.

    Nothing but white space between sentences is lost, and what is white space within a sentence stays as it is. A text
    of white space alone has no sentences.

    Raises:
        ValueError: `text` is no string, or an unknown `language`.

    >>> split_sentences("Dr. Lee came at 5 p.m. on Monday. Was it late? Yes.")
    ['Dr. Lee came at 5 p.m. on Monday.', 'Was it late?', 'Yes.']
    """
    if not isinstance(text, str):
        raise ValueError(f"text: expected a string, got {type(text).__name__}")
    if language not in get_args(Language):
        raise ValueError(f"language: expected one of {', '.join(get_args(Language))}, got {language!r}")
    ends = _english_ends if language == "en" else _chinese_ends
    sentences = (piece for paragraph in _PARAGRAPH.split(text) for piece in _cut(paragraph, ends(paragraph, text)))
    return [stripped for piece in sentences if (stripped := piece.strip())]


def _cut(paragraph: str, ends: Iterator[int]) -> Iterator[str]:
    start = 0
    for end in ends:
        yield paragraph[start:end]
        start = end
    yield paragraph[start:]


def _chinese_ends(paragraph: str, text: str) -> Iterator[int]:
    for match in _CHINESE_END.finditer(paragraph):
        yield match.end()


def _english_ends(paragraph: str, text: str) -> Iterator[int]:
    # A lower-cased corpus has no capital that could open a sentence: there every mark counts.
    cased = text != text.lower()
    start = 0
    for match in _ENGLISH_END.finditer(paragraph):
        before, after = paragraph[start : match.end()], paragraph[match.end() :].lstrip()
        mark = match.group()
        if (cased and _opens_small(after)) or (mark[0] == "." and _goes_on(before.strip(), mark, after)):
            continue
        yield match.end()
        start = match.end()


def _opens_small(after: str) -> bool:
    return after.lstrip(_OPENERS)[:1].islower()


def _goes_on(before: str, mark: str, after: str) -> bool:
    """Whether the full stop at the end of `before` belongs to its last word."""
    if mark.count(".") > 1:
        return False
    if _NUMBER.fullmatch(before):
        return True
    last = before.split()[-1].lstrip(_OPENERS)
    initial = _INITIAL.fullmatch(last) is not None and last.count(".") == 1 and last[0].isupper() and last != "I."
    word = last.removesuffix(mark).lower()
    return initial or word in _INTRODUCING or (word in _NUMBERING and after[:1].isdigit())
