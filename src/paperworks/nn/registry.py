"""Mixers by name, from the `[[mixer]]` tables of the cards: no room has to import another.

A table has `name`; `factory`, "package.module:function"; `kind`, "mixer" or "encoder"; `causal` and `linear` (in cost),
for readers of the table; and `defaults`, further options of the factory. The factory is called as
`factory(dim, heads=.., length=.., **defaults)` and returns `layer_index -> nn.Module`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from paperworks import catalog
from paperworks.nn.stack import LayerFactory


def mixer_cards() -> dict[str, Mapping[str, Any]]:
    """The tables of all cards by name. Imports no room.

    Raises:
        ValueError: a table without a name or factory, or two cards with one name.
    """
    found: dict[str, Mapping[str, Any]] = {}
    owner: dict[str, str] = {}
    for card in catalog.cards():
        for table in card.mixers:
            if "name" not in table or ":" not in table.get("factory", ""):
                raise ValueError(
                    f'{card.slug}: a [[mixer]] needs name and factory = "module:function", got {dict(table)}'
                )
            name = table["name"]
            if name in found:
                raise ValueError(f"{card.slug}: the mixer name {name!r} is taken by {owner[name]}")
            found[name], owner[name] = table, card.slug
    return found


def build_mixer(name: str, *, dim: int, heads: int, length: int) -> LayerFactory:
    """The factory `layer_index -> nn.Module` of a named mixer, for `MixerEncoder(mixer, ...)`.

    Args:
        name: as in the card's table; `mixer_cards()` has them all.
        dim, heads: width of the tokens, and heads where the mixer has them.
        length: the longest input.

    Raises:
        ValueError: unknown name, or a table of another kind than "mixer".
    """
    tables = mixer_cards()
    if name not in tables:
        near = difflib.get_close_matches(name, tables, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(tables))}"
        raise ValueError(f"name: unknown mixer {name!r}; {hint}")
    table = tables[name]
    if table.get("kind", "mixer") != "mixer":
        raise ValueError(f"name: {name!r} is a whole {table['kind']}, not a mixer of layers")
    module, _, function = table["factory"].partition(":")
    factory = getattr(importlib.import_module(module), function)
    return factory(dim, heads=heads, length=length, **table.get("defaults", {}))
