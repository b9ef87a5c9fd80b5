"""The tables satisfy the order conditions that their names promise."""

import itertools

import numpy as np
import pytest

from paperworks.science.ode_seminorm.tableaux import DOPRI5, DOPRI5_CLASSIC, METHODS

ADAPTIVE = [table for table in METHODS.values() if table.adaptive]


def matrix(table):
    a = np.zeros((table.stages, table.stages))
    for row, weights in enumerate(table.a):
        a[row, : len(weights)] = weights
    return a


def trees(order):
    """Rooted trees with at most `order` nodes as nested tuples, and their densities."""
    found = {1: [()]}
    for size in range(2, order + 1):
        found[size] = [
            tuple(sorted(forest))
            for parts in _partitions(size - 1)
            for forest in itertools.product(*[found[part] for part in parts])
        ]
    return [tree for size in found for tree in set(found[size])]


def _partitions(n, most=None):
    most = n if most is None else most
    if n == 0:
        yield ()
    for first in range(min(n, most), 0, -1):
        for rest in _partitions(n - first, first):
            yield (first, *rest)


def size(tree):
    return 1 + sum(map(size, tree))


def density(tree):
    return size(tree) * np.prod([density(child) for child in tree], initial=1)


def stage_weight(tree, a):
    return np.prod([a @ stage_weight(child, a) for child in tree], axis=0) * np.ones(len(a))


@pytest.mark.parametrize("table", METHODS.values(), ids=METHODS)
def test_order_conditions(table):
    """Butcher's conditions: sum_i b_i phi_i(tree) = 1 / density(tree) for every tree of at most that many nodes."""
    a, b = matrix(table), np.array(table.b)
    assert a.sum(1) == pytest.approx(table.c, abs=1e-12)
    for tree in trees(table.order):
        # Prince and Dormand's coefficients of order 8 are rational approximations.
        assert b @ stage_weight(tree, a) == pytest.approx(1 / density(tree), abs=2e-13), tree
    missed = [tree for tree in trees(min(table.order + 1, 7)) if size(tree) == table.order + 1]
    if missed:
        assert any(abs(b @ stage_weight(tree, a) - 1 / density(tree)) > 1e-6 for tree in missed)


@pytest.mark.parametrize("table", ADAPTIVE, ids=lambda table: table.name)
def test_the_error_estimate_is_a_difference_of_two_orders(table):
    a, e = matrix(table), np.array(table.e)
    lower = 7 if table.order == 8 else table.order - 1
    for tree in trees(lower):
        assert e @ stage_weight(tree, a) == pytest.approx(0, abs=1e-12)
    assert any(abs(e @ stage_weight(tree, a)) > 1e-6 for tree in trees(lower + 1) if size(tree) == lower + 1)


@pytest.mark.parametrize("table", ADAPTIVE, ids=lambda table: table.name)
def test_the_dense_output_is_the_state_along_the_step(table):
    a = matrix(table)
    assert table.dense(0.0) == pytest.approx([0.0] * table.stages, abs=1e-12)
    assert table.dense(1.0) == pytest.approx(table.b, abs=1e-12)
    order = {"dopri8": 4, "bosh3": 3, "heun21": 2}.get(table.name, 4)
    for x in (0.2, 0.5, 0.9):
        weights = np.array(table.dense(x))
        for tree in trees(order):
            assert weights @ stage_weight(tree, a) == pytest.approx(x ** size(tree) / density(tree), abs=1e-12)


def test_shampine_and_classic_error_weights():
    assert DOPRI5.e[-1] == pytest.approx(-1 / 60)
    assert DOPRI5_CLASSIC.e[-1] == pytest.approx(-1 / 40)
    assert DOPRI5.b == DOPRI5_CLASSIC.b
    assert (DOPRI5.b[1], DOPRI5.b[6]) == (0.0, 0.0)
