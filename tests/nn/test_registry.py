"""Mixers by name, from the tables of the cards."""

import subprocess
import sys
import types

import pytest
import torch
from torch import nn

from paperworks import catalog
from paperworks.nn import AttentionMixing, BlockOptions, MixerEncoder, build_mixer, mixer_cards


def card(slug: str, *tables: dict) -> types.SimpleNamespace:
    return types.SimpleNamespace(slug=slug, mixers=tables)


def make(dim: int, *, heads: int, length: int, causal: bool = False):
    return lambda layer: AttentionMixing(dim, heads, causal=causal and layer < length)


@pytest.fixture
def cards(monkeypatch) -> list:
    module = types.ModuleType("toy_room")
    module.make = make
    monkeypatch.setitem(sys.modules, "toy_room", module)
    found = [
        card("one", {"name": "soft", "factory": "toy_room:make", "kind": "mixer"}),
        card("two", {"name": "left", "factory": "toy_room:make", "defaults": {"causal": True}}),
        card("three", {"name": "whole", "factory": "toy_room:make", "kind": "encoder"}),
    ]
    monkeypatch.setattr(catalog, "cards", lambda: found)
    return found


def test_builds_by_name_with_defaults(cards: list) -> None:
    assert set(mixer_cards()) == {"soft", "left", "whole"}
    soft = build_mixer("soft", dim=8, heads=2, length=5)
    left = build_mixer("left", dim=8, heads=4, length=1)
    assert (soft(0).dim, soft(0).heads, soft(0).causal) == (8, 2, False)
    assert [left(layer).causal for layer in (0, 1)] == [True, False]
    encoder = MixerEncoder(soft, dim=8, depth=2, block=BlockOptions(ffn_dim=16))
    assert encoder(torch.zeros(1, 3, 8)).states.shape == (1, 3, 8)


def test_refuses(cards: list) -> None:
    with pytest.raises(ValueError, match=r"name: unknown mixer 'softt'; did you mean soft\?"):
        build_mixer("softt", dim=8, heads=2, length=5)
    with pytest.raises(ValueError, match="unknown mixer 'zzz'; known: left, soft, whole"):
        build_mixer("zzz", dim=8, heads=2, length=5)
    with pytest.raises(ValueError, match="'whole' is a whole encoder, not a mixer"):
        build_mixer("whole", dim=8, heads=2, length=5)
    cards.append(card("four", {"name": "soft", "factory": "toy_room:make"}))
    with pytest.raises(ValueError, match="four: the mixer name 'soft' is taken by one"):
        mixer_cards()
    cards[-1] = card("four", {"name": "broken"})
    with pytest.raises(ValueError, match=r"four: a \[\[mixer\]\] needs name and factory"):
        mixer_cards()


def test_the_cards_of_this_library_have_mixers() -> None:
    tables = mixer_cards()
    assert {"attention", "fourier"} <= set(tables)
    assert isinstance(build_mixer("attention", dim=8, heads=2, length=5)(0), nn.Module)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, paperworks.nn, paperworks.testing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
