"""Hybrid layouts against a table drawn by hand: # attention, . Fourier, first layer on the left."""

import warnings

import pytest

from paperworks.sequence.fnet.layouts import hybrid_layout

TABLE = {
    (12, 2): {"bottom": "##..........", "middle": ".....##.....", "mixed": "#.....#.....", "top": "..........##"},
    (12, 3): {"bottom": "###.........", "middle": ".....###....", "mixed": "#...#...#...", "top": ".........###"},
    (12, 4): {"bottom": "####........", "middle": "....####....", "mixed": "#..#..#..#..", "top": "........####"},
    (12, 6): {"bottom": "######......", "middle": "...######...", "mixed": "#.#.#.#.#.#.", "top": "......######"},
    (12, 5): {"mixed": "#.#.#.#.#.#."},
    (12, 7): {"mixed": "############"},
    (5, 2): {"bottom": "##...", "middle": "..##.", "mixed": "#.#.#", "top": "...##"},
    (2, 1): {"bottom": "#.", "middle": ".#", "mixed": "#.", "top": ".#"},
    (3, 3): {"bottom": "###", "middle": "###", "mixed": "###", "top": "###"},
    (3, 0): {"bottom": "...", "middle": "...", "mixed": "...", "top": "..."},
}


@pytest.mark.parametrize("sizes", TABLE)
def test_layouts_are_those_of_the_table(sizes):
    for kind, expected in TABLE[sizes].items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = hybrid_layout(*sizes, kind)
        assert "".join("#" if here else "." for here in got) == expected, kind


@pytest.mark.parametrize("kind", ["bottom", "middle", "mixed", "top"])
def test_the_number_asked_for_or_a_warning(kind):
    for depth in range(1, 13):
        for attention in range(1, depth + 1):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                got = sum(hybrid_layout(depth, attention, kind))
            assert (got == attention) == (not caught), (depth, attention)
            assert got >= attention
            if kind != "mixed" or depth % attention == 0:
                assert got == attention


@pytest.mark.parametrize(("arguments", "message"), [((0, 0), "depth"), ((4, -1), "attention_layers"), ((4, 5), "0 to")])
def test_bad_sizes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        hybrid_layout(*arguments)
