"""Orders of sentence and document blocks, written as strings: "SDS", "SD|SD|S", "S|S|SD"."""

from __future__ import annotations

from typing import Literal, TypeAlias

BlockKind: TypeAlias = Literal["S", "D"]


def parse_layout(layout: str) -> tuple[tuple[BlockKind, ...], ...]:
    """The blocks of a layout, group by group.

    S is a block over the tokens of each sentence, D a block over the sentence states of each document, whose output
    takes the place of the sentence token in the next S. Bars group blocks into layers, as in HAT's configurations. D
    blocks in a row within a layer are one document Transformer, whose input gets the sentence positions once; in "SD|D"
    there are two of them, and positions are added before each, as HAT does.

    Raises:
        ValueError: other letters, an empty group, or a layout that does not start with S.

    >>> parse_layout("S|SD")
    (('S',), ('S', 'D'))
    """
    if not isinstance(layout, str):
        raise ValueError(f"layout: expected a string, got {type(layout).__name__}")
    groups = tuple(tuple(group) for group in layout.split("|"))
    if any(not group or set(group) - {"S", "D"} for group in groups):
        raise ValueError(f'layout: expected letters S and D in groups such as "SDS" or "SD|SD|S", got {layout!r}')
    if groups[0][0] != "S":
        raise ValueError(f"layout: must start with S, the sentence states come from there, got {layout!r}")
    return groups  # pyright: ignore[reportReturnType]


def blocks_of(layout: str) -> tuple[BlockKind, ...]:
    """The blocks of a layout in one row.

    Raises:
        ValueError: as `parse_layout`.
    """
    return tuple(kind for group in parse_layout(layout) for kind in group)


def entering(layout: str) -> tuple[bool, ...]:
    """For each block whether it is the first of a document Transformer.

    Raises:
        ValueError: as `parse_layout`.

    >>> entering("SDD|D")
    (False, True, False, True)
    """
    return tuple(
        kind == "D" and (at == 0 or group[at - 1] == "S")
        for group in parse_layout(layout)
        for at, kind in enumerate(group)
    )
