"""Games, their Shapley values, and the axioms as a test of explanations."""

import itertools

import numpy as np
import pytest
from flow_twins import capacities, enumerated_shapley, igraph_flow, random_attention

from paperworks.evaluation.attention_flow.flow import flow_bounds, shapley_of_table
from paperworks.evaluation.attention_flow.game import (
    Game,
    flow_game,
    is_shapley,
    polytope_excess,
    shapley_exact,
    shapley_sample,
)
from paperworks.evaluation.attention_flow.layers import raw_attention


def glove_game():
    """One left glove (player 0), two right ones: a pair is worth 1. Shapley values 2/3, 1/6, 1/6."""
    return Game(3, lambda chosen: float(0 in chosen and len(chosen) > 1))


def test_a_textbook_game():
    np.testing.assert_allclose(shapley_exact(glove_game()), [2 / 3, 1 / 6, 1 / 6], atol=1e-15)


@pytest.mark.parametrize("players", [1, 2, 5])
def test_any_game_against_the_formula(players):
    table = np.random.default_rng(players).normal(size=1 << players)
    table[0] = 0
    value = {chosen: table[sum(1 << b for b in chosen)]
             for count in range(players + 1) for chosen in itertools.combinations(range(players), count)}  # fmt: skip
    expected = enumerated_shapley(lambda chosen: value[tuple(sorted(chosen))], players)
    np.testing.assert_allclose(shapley_of_table(table), expected, atol=1e-12)
    np.testing.assert_allclose(shapley_exact(Game(players, value.__getitem__)), expected, atol=1e-12)
    many = np.stack([table, 2 * table])
    np.testing.assert_allclose(shapley_of_table(many), [expected, 2 * expected], atol=1e-12)


def test_the_table_of_a_flow_game():
    attention = random_attention(0, 3, 6)
    game, graph = flow_game(attention, 4), capacities(attention)
    for index in range(1, 64, 5):
        chosen = [b for b in range(6) if index >> b & 1]
        assert game.table[index] == pytest.approx(igraph_flow(graph, 4, chosen), abs=1e-9)
        assert game.value(chosen) == pytest.approx(game.table[index], abs=1e-9)
    assert game.value([]) == 0.0


@pytest.mark.parametrize("antithetic", [True, False])
def test_sampling_within_its_standard_errors(antithetic):
    game = flow_game(random_attention(1, 2, 12), 3)
    exact = shapley_exact(game)
    found = shapley_sample(game, 600, antithetic=antithetic, seed=1)
    assert (np.abs(found.phi - exact) <= 4 * found.stderr + 1e-12).all()
    assert found.phi.sum() == pytest.approx(1.0, abs=1e-9)
    assert 0 < found.stderr.max() < 0.02
    # The error must be that of the mean: over many seeds, deviations of about one standard error.
    drawn = [shapley_sample(game, 40, antithetic=antithetic, seed=seed) for seed in range(60)]
    ratio = np.std([each.phi for each in drawn], 0) / np.mean([each.stderr for each in drawn], 0)
    assert 0.7 < np.median(ratio) < 1.4


def test_sampling_any_game_goes_through_its_values():
    found = shapley_sample(glove_game(), 2000)
    np.testing.assert_allclose(found.phi, [2 / 3, 1 / 6, 1 / 6], atol=0.03)


def test_is_shapley_accepts_phi_and_rejects_loo_and_weights():
    for seed in range(5):
        attention = random_attention(seed, 2, 7)
        game = flow_game(attention, 5)
        assert is_shapley(shapley_exact(game), game).holds(1e-9)
        low, high = (bound[0, 5].numpy() for bound in flow_bounds(attention))
        assert is_shapley(low, game).efficiency > 0.1
        assert is_shapley(high, game).efficiency > 0.1
        weights = raw_attention(attention)[0, 5].numpy()
        residuals = is_shapley(weights, game)
        assert residuals.efficiency < 1e-9
        assert residuals.distance > 0.01
        assert not residuals.holds()


def test_each_axiom_is_measured():
    # Players 0, 1 are equal, 2 adds nothing.
    game = Game(3, lambda chosen: float(bool({0, 1} & set(chosen))))
    assert is_shapley([0.5, 0.5, 0.0], game).holds(1e-12)
    assert is_shapley([0.7, 0.3, 0.0], game).symmetry == pytest.approx(0.4)
    assert is_shapley([0.4, 0.4, 0.2], game).null_player == pytest.approx(0.2)
    assert is_shapley([0.5, 0.4, 0.0], game).efficiency == pytest.approx(0.1)
    assert is_shapley([0.7, 0.3, 0.0], game).distance == pytest.approx(0.2)


def test_excess_over_the_polytope():
    game = glove_game()
    assert polytope_excess([1.0, 0.0, 0.0], game) == pytest.approx(1.0)
    assert polytope_excess(np.array([0.0, 0.0, 0.0]), game) == 0.0


def test_games_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="players: expected at least 1"):
        Game(0, len)
    with pytest.raises(ValueError, match="subset: expected players from 0 to 2"):
        glove_game().value([3])
    with pytest.raises(ValueError, match="too many; use shapley_sample"):
        shapley_exact(Game(21, len))
    with pytest.raises(ValueError, match="n_permutations: expected at least 4"):
        shapley_sample(glove_game(), 3)
    with pytest.raises(ValueError, match="values: expected 3 numbers"):
        is_shapley([1.0], glove_game())
    with pytest.raises(ValueError, match="a game is about one text, got 2"):
        flow_game(random_attention(0, 2, 3, batch=2))
    with pytest.raises(ValueError, match="power of two"):
        shapley_of_table(np.zeros(3))
