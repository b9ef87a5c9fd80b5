"""Cooperative games over tokens, their Shapley values, and how far an explanation is from being one.

A game has players 0..n-1 and a payoff v(S) for every set of them, v() = 0. Its Shapley value is the only division of
v(N) that is efficient (sums to v(N)), symmetric (equal players get the same), gives nothing to players who never add
anything, and is additive over games.

Reference: Shapley, A Value for n-Person Games (1953); sampling by orders and their reverses: Castro et al. (2009),
Mitchell et al. (2022, arXiv 2104.12199).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paperworks.evaluation.attention_flow.flow import Network, antithetic_orders, shapley_of_table
from paperworks.evaluation.attention_flow.layers import Attentions, Heads, attention_graph, check_layers, check_sources

MOST_PLAYERS = 20
Vector = NDArray[np.float64]


class Game:
    """`players` and a payoff `function(subset) -> float`, a subset being a tuple of players in rising order."""

    def __init__(self, players: int, function: Callable[[tuple[int, ...]], float]) -> None:
        if players < 1:
            raise ValueError(f"players: expected at least 1, got {players}")
        self.players = players
        self.function = function

    def value(self, subset: Iterable[int]) -> float:
        """v(S). Raises `ValueError` for players that are not there."""
        chosen = tuple(sorted({int(player) for player in subset}))
        if chosen and not 0 <= chosen[0] <= chosen[-1] < self.players:
            raise ValueError(f"subset: expected players from 0 to {self.players - 1}, got {list(chosen)}")
        return float(self.function(chosen))

    @cached_property
    def table(self) -> Vector:
        """v of every set, (2^n,), bit b of an index for player b. Raises `ValueError` beyond 20 players."""
        if self.players > MOST_PLAYERS:
            raise ValueError(
                f"game: has {self.players} players, and all sets of more than {MOST_PLAYERS} are too many; use "
                "shapley_sample"
            )
        return self._all()

    def marginals(self, orders: NDArray[np.int64]) -> Vector:
        """What each player adds in each order (m, n): (m, n)."""
        found = np.zeros(orders.shape)
        for row, order in enumerate(orders.tolist()):
            before = self.value(())
            for place, player in enumerate(order):
                value = self.value(order[: place + 1])
                found[row, player], before = value - before, value
        return found

    def _all(self) -> Vector:
        sets = (tuple(b for b in range(self.players) if index >> b & 1) for index in range(1 << self.players))
        return np.array([self.function(chosen) for chosen in sets], dtype=np.float64)


class FlowGame(Game):
    """The flow game of one output: its players are the inputs, v(S) the maximum flow from the output to S."""

    def __init__(self, network: Network, source: int) -> None:
        super().__init__(network.size, self._flow)
        self.network, self.source = network, source

    def marginals(self, orders: NDArray[np.int64]) -> Vector:
        return self.network.marginals(self.source, np.ascontiguousarray(orders))

    def _flow(self, subset: tuple[int, ...]) -> float:
        chosen = np.zeros((1, self.players), dtype=np.bool_)
        chosen[0, list(subset)] = True
        return float(self.network.to_sets(self.source, chosen)[0])

    def _all(self) -> Vector:
        return self.network.all_sets(self.source)


def flow_game(
    attentions: Attentions,
    output: int = -1,
    *,
    residual: float = 0.5,
    heads: Heads = "mean",
    source_layer: int = -1,
    renormalize: bool = False,
) -> FlowGame:
    """The flow game of one output of one text: `game.value({0, 3})`, `shapley_exact(game)`.

    Args:
        attentions: of one text (B = 1); the other arguments as in `attention_flow`. Drop padding beforehand.
        output: position of the output at `source_layer`.

    Raises:
        ValueError: more than one text, and what `attention_graph` refuses.
    """
    graph = attention_graph(attentions, residual=residual, heads=heads, renormalize=renormalize)
    if graph.layers.shape[0] != 1:
        raise ValueError(f"attentions: a game is about one text, got {graph.layers.shape[0]}")
    top = check_layers(source_layer, graph.layers.shape[1])[0]
    source = check_sources([output], graph.layers.shape[-1])[0]
    return FlowGame(Network.of(graph.reduced(0)[0][:top]), source)


def shapley_exact(game: Game) -> Vector:
    """The Shapley value (n,) from all 2^n sets.

    Raises:
        ValueError: more than 20 players.
    """
    return shapley_of_table(game.table)


class Sampled(NamedTuple):
    """An estimate (n,) of the Shapley value, and its standard error (n,)."""

    phi: Vector
    stderr: Vector


def shapley_sample(game: Game, n_permutations: int = 256, *, antithetic: bool = True, seed: int = 0) -> Sampled:
    """The Shapley value as a mean over random orders of the players.

    Args:
        antithetic: take each order's reverse with it, which cancels much of the chance; the standard error is then
            that of the pairs' means.

    Raises:
        ValueError: fewer than 4 orders (or 2 without reverses): no standard error.
    """
    least = 4 if antithetic else 2
    if n_permutations < least:
        raise ValueError(f"n_permutations: expected at least {least}, got {n_permutations}")
    if antithetic:
        added = game.marginals(antithetic_orders(game.players, n_permutations, seed=seed))
        added = added.reshape(-1, 2, game.players).mean(1)
    else:
        rng = np.random.default_rng(seed)
        added = game.marginals(rng.permuted(np.tile(np.arange(game.players), (n_permutations, 1)), axis=1))
    return Sampled(added.mean(0), added.std(0, ddof=1) / np.sqrt(len(added)))


@dataclass(frozen=True)
class ShapleyResiduals:
    """How far values are from the Shapley value of a game, axiom by axiom; all 0 for the Shapley value.

    efficiency: |sum of values - v(N)|. symmetry: largest difference between players who are worth the same to every
    set. null_player: largest value of a player who adds nothing to any set. distance: largest difference to the
    Shapley value itself, which the axioms (with additivity) determine.
    """

    efficiency: float
    symmetry: float
    null_player: float
    distance: float

    def holds(self, tol: float = 1e-6) -> bool:
        """Whether the values are the Shapley value, up to `tol`."""
        return max(self.efficiency, self.symmetry, self.null_player, self.distance) <= tol


def is_shapley(values: ArrayLike, game: Game, *, tol: float = 1e-9) -> ShapleyResiduals:
    """Hold values (n,) against the axioms of the Shapley value.

    Args:
        tol: up to here players count as equal, and as adding nothing.

    Raises:
        ValueError: not one value per player, or more than 20 players.
    """
    given = np.asarray(values, dtype=np.float64)
    if given.shape != (game.players,) or not np.isfinite(given).all():
        raise ValueError(f"values: expected {game.players} numbers, one per player, got shape {given.shape}")
    table = game.table
    gains = [_gain(table, player) for player in range(game.players)]
    nulls = [abs(given[player]) for player in range(game.players) if np.abs(gains[player]).max() <= tol]
    equal = [abs(given[i] - given[j]) for i, j in _pairs(game.players) if _interchangeable(table, i, j, tol)]
    return ShapleyResiduals(
        efficiency=float(abs(given.sum() - table[-1] + table[0])),
        symmetry=float(max(equal, default=0.0)),
        null_player=float(max(nulls, default=0.0)),
        distance=float(np.abs(given - shapley_of_table(table)).max()),
    )


def polytope_excess(values: ArrayLike, game: Game) -> float:
    """The most by which values exceed what a set can take, max_S x(S) - v(S): 0 where they are a maximum flow's.

    Together with x >= 0 and x(N) = v(N) this says whether values lie in the game's base polytope, whose points are
    the token values of all maximum flows.

    Raises:
        ValueError: not one value per player, or more than 20 players.
    """
    given = np.asarray(values, dtype=np.float64)
    if given.shape != (game.players,):
        raise ValueError(f"values: expected {game.players} numbers, one per player, got shape {given.shape}")
    sums = np.zeros(1)
    for value in given:
        sums = np.concatenate([sums, sums + value])
    return float((sums - game.table).max())


def _gain(table: Vector, player: int) -> Vector:
    split = table.reshape(-1, 2, 1 << player)
    return split[:, 1] - split[:, 0]


def _interchangeable(table: Vector, i: int, j: int, tol: float) -> bool:
    """Whether v(S and i) = v(S and j) for every S without both (i < j)."""
    split = table.reshape(-1, 2, 1 << (j - i - 1), 2, 1 << i)
    return bool(np.abs(split[:, 0, :, 1] - split[:, 1, :, 0]).max() <= tol)


def _pairs(count: int) -> Iterable[Sequence[Any]]:
    return ((i, j) for j in range(count) for i in range(j))
