"""Docstrings as pages: each public name with its signature, its text read as Markdown.

Our docstrings use `backticks` for code, indented blocks for equations, `>>>` for examples and sections like `Args:`.
Everything else is prose and is shown as it stands: stars, bars and underscores mean nothing here.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Notes|Examples?|Shapes?|Reference|References):$")
_ITEM = re.compile(r"^([\w.*, `]+?): (.*)$")
_BULLET = re.compile(r"^(\s*)([-*]|\d+\.) (.*)$")
_SPECIAL = re.compile(r"([\\*_<>\[\]{}$#|~^])")
_TITLES = {"Args": "Arguments"}


def reference(name: str, thing: Any) -> str:
    """One public name under its full import path."""
    if inspect.isclass(thing):
        kind = "exception" if issubclass(thing, BaseException) else "class"
        body = "\n\n".join([_text(thing), *_members(thing)])
    elif callable(thing):
        kind, body = "function", _text(thing)
    else:
        return f"```{{py:data}} {name}\n```"
    return f"```````{{py:{kind}}} {name}{signature(thing)}\n\n{body}\n```````"


def _members(cls: type) -> Iterator[str]:
    for name, member in vars(cls).items():
        function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        if name.startswith("_") or not inspect.getdoc(function):
            continue
        if isinstance(member, property):
            yield f"``````{{py:property}} {name}\n\n{markdown(inspect.getdoc(member) or '')}\n``````"
        elif inspect.isfunction(function):
            option = {classmethod: ":classmethod:\n", staticmethod: ":staticmethod:\n"}.get(type(member), "")
            shown = signature(getattr(cls, name), bound=not isinstance(member, (classmethod, staticmethod)))
            yield f"``````{{py:method}} {name}{shown}\n{option}\n{markdown(inspect.getdoc(function) or '')}\n``````"


def _text(thing: Any) -> str:
    text = inspect.getdoc(thing) or ""
    generated = dataclasses.is_dataclass(thing) and text.startswith(f"{thing.__name__}(")
    return "" if generated else markdown(text)


class _Written:
    """Something that prints as the words it was written with."""

    def __init__(self, words: str):
        self.words = words

    def __repr__(self) -> str:
        return self.words


def signature(thing: Any, *, bound: bool = False) -> str:
    """The signature on one line, without quotes around annotations and without memory addresses."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return "()"
    parameters = list(found.parameters.values())[1 if bound else 0 :]
    parameters = [
        item.replace(annotation=_written(item.annotation), default=_default(item.default)) for item in parameters
    ]
    returns = inspect.Signature.empty if inspect.isclass(thing) else _written(found.return_annotation)
    return str(inspect.Signature(parameters, return_annotation=returns)).replace("\n", " ")


def _written(value: Any) -> Any:
    if value is inspect.Parameter.empty or value is None:
        return value
    if isinstance(value, type) or inspect.isfunction(value):
        return _Written(value.__qualname__)
    words = value if isinstance(value, str) and not value.startswith(("'", '"')) else repr(value)
    return _Written("..." if " at 0x" in words else words)


def _default(value: Any) -> Any:
    """A default as a reader would write it."""
    if isinstance(value, str):
        return _Written(repr(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and _is_plain(value):
        return _Written(f"{type(value).__name__}()")
    return _Written("...") if "<factory>" in repr(value) else _written(value)


def _is_plain(value: Any) -> bool:
    """Whether a dataclass is as its defaults make it."""
    return all(
        field.default is not dataclasses.MISSING and getattr(value, field.name) == field.default
        for field in dataclasses.fields(value)
    )


# Text ----------------------------------------------------------------------------------------------------------------


def markdown(text: str) -> str:
    """A docstring as MyST Markdown."""
    lines = text.expandtabs().splitlines()
    return "\n".join(_blocks(lines)).strip()


def _blocks(lines: Sequence[str]) -> Iterator[str]:
    position = 0
    while position < len(lines):
        line = lines[position]
        if found := _SECTION.match(line):
            block, position = _indented(lines, position + 1)
            yield from _section(found.group(1), block)
        elif line.startswith(">>>"):
            block, position = _until_blank(lines, position)
            yield from ("", "```pycon", *block, "```", "")
        elif line.startswith("    ") and (position == 0 or not lines[position - 1].strip()):
            block, position = _indented(lines, position)
            yield from ("", "```text", *block, "```", "")
        else:
            yield prose(line)
            position += 1


def _indented(lines: Sequence[str], start: int) -> tuple[list[str], int]:
    end = start
    while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
        end += 1
    return textwrap.dedent("\n".join(lines[start:end])).strip("\n").splitlines(), end


def _until_blank(lines: Sequence[str], start: int) -> tuple[list[str], int]:
    end = start
    while end < len(lines) and lines[end].strip():
        end += 1
    return list(lines[start:end]), end


def _section(title: str, block: Sequence[str]) -> Iterator[str]:
    yield from ("", f"**{_TITLES.get(title, title)}**", "")
    if title in ("Args", "Attributes", "Raises"):
        yield from _items(block)
    else:
        yield from _blocks(block)
    yield ""


def _items(block: Sequence[str]) -> Iterator[str]:
    for line in block:
        if not line.startswith(" ") and (found := _ITEM.match(line)):
            names = ", ".join(f"`{name.strip(' `')}`" for name in found.group(1).split(","))
            values = found.group(2).startswith('"') and '": ' in found.group(2)
            yield f"- {names}:" if values else f"- {names}: {prose(found.group(2))}"
            if values:
                yield f"  - {prose(found.group(2))}"
        elif re.match(r'^\s+"[^"]*": ', line):
            # What each value of an option means, one to a line.
            yield f"  - {prose(line.strip())}"
        elif line.startswith(" "):
            yield f"  {prose(line.strip())}"
        else:
            yield f"- {prose(line)}" if line.strip() else ""


def prose(text: str) -> str:
    """Words in which only `backticks` and list marks mean something."""
    if re.fullmatch(r"\s*[-=]{2,}\s*", text):
        return "\\" + text.strip()
    if found := _BULLET.match(text):
        return f"{found.group(1)}{found.group(2)} {prose(found.group(3))}"
    pieces = re.split(r"(`+[^`]+`+)", text)
    return "".join(piece if index % 2 else _SPECIAL.sub(r"\\\1", piece) for index, piece in enumerate(pieces))
