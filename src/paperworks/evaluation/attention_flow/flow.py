"""Attention flow: how much can flow from an output down to each input, with attention weights as capacities.

    F[o, i]  = maxflow((L, o) -> (0, i))                                     pairwise, each input by itself
    v(S)     = maxflow((L, o) -> all inputs in S together)                   the flow game of output o
    phi_i    = mean over orders of v(before i and i) - v(before i)           its Shapley value
    LOO_i    = v(N) - v(N without i)

What holds for every output (each line is a test of this library):

1. The sink vectors of all maximum flows to the inputs together are the base polytope of v: x >= 0, x(S) <= v(S),
   x(N) = v(N) = 1. So "the" joint maximum flow is not unique, and additivity over its nodes singles none of them out.
2. Attention rollout is one of them.
3. Over all of them, input i takes between LOO_i and F[o, i].
4. phi is one of them too, and the one that is fair to every order: LOO <= phi <= F, sum phi = 1.
5. F[o, i] <= min(1, c_i), c the column sums of the first layer. With depth this becomes an equality: from some six
   layers on (with residual) flow no longer depends on the output, nor on any layer but the first.

The first call in a new environment compiles the solver (some 15 seconds); numba keeps the result.

Flow is a quantity of the attention graph. It is not the model's output, and does not by itself explain it.

References: Ethayarajh and Jurafsky, Attention Flows are Shapley Value Explanations (2021, arXiv 2105.14652); Abnar and
Zuidema (2020, arXiv 2005.00928) for flow itself. Their code solves single pairs by networkx and divides rows by their
sum, which hides point 5; here that is `normalize=True`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paperworks.evaluation.attention_flow import maxflow
from paperworks.evaluation.attention_flow.layers import (
    Attentions,
    Heads,
    attention_graph,
    check_layers,
    check_sources,
)

Mode: TypeAlias = Literal["pairwise", "shapley", "joint"]
Vector: TypeAlias = NDArray[np.float64]

EXACT_PLAYERS = 10  # up to here all sets are tried: at most 1,024 small flows
TOLERANCE = 1e-9
ROUNDING = 1e-6


def attention_flow(
    attentions: Attentions,
    *,
    residual: float = 0.5,
    heads: Heads = "mean",
    source_layer: int | Literal["all"] = -1,
    sources: Sequence[int] | None = None,
    mask: Tensor | None = None,
    mode: Mode = "pairwise",
    normalize: bool = False,
    renormalize: bool = False,
    prompt: int | None = None,
    tol: float = TOLERANCE,
    n_permutations: int = 256,
    seed: int = 0,
    jobs: int | None = None,
) -> Tensor:
    """Flow from outputs to inputs through the attention graph.

    Args:
        attentions, residual, heads, mask, renormalize: the graph; see `attention_graph`.
        source_layer: the layer whose outputs are the sources (-1: the last), or "all".
        sources: positions of those outputs; None: all. A dropped one gives a row of zeros.
        mode: "pairwise": the maximum flow to each input by itself (Abnar and Zuidema). "shapley": the Shapley value of
            the flow game, exact for up to 10 tokens and where every two inputs can take all flow, else the mean over
            `n_permutations` orders and their reverses. "joint": the arrivals of one maximum flow to all inputs, namely
            that which fills the inputs in the order of their positions; another order gives another (point 1 above).
        normalize: divide each row by its sum, for display.
        prompt: tokens from this position on were generated one by one: what flows into the input of such a token goes
            on from the output before it, and only the first `prompt` inputs take flow (Metzger et al., 2022).
        tol: a flow within `tol` of a proven upper bound counts as maximal.
        n_permutations, seed: of mode "shapley", where it samples.
        jobs: threads; None: as many as torch uses.

    Returns:
        float64 (B, S, n), or (B, L, S, n) for all layers; on the CPU, without gradients (rollout has them).

    Raises:
        ValueError: see `attention_graph`; a mode, layer, source or prompt that is not there.

    Reference: see the module.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode: expected one of {', '.join(get_args(Mode))}, got {mode!r}")
    if n_permutations < 2:
        raise ValueError(f"n_permutations: expected at least 2, got {n_permutations}")
    problem = _Problem(
        attentions, residual, heads, mask, renormalize, source_layer, sources, prompt=prompt, tol=tol, jobs=jobs
    )
    solvers: dict[str, Callable[[Network, list[int]], Vector]] = {
        "pairwise": Network.solo,
        "shapley": partial(_per_source, partial(shapley_of_flow, n_permutations=n_permutations, seed=seed)),
        "joint": partial(_per_source, Network.in_order),
    }
    result = problem.solve(solvers[mode])
    if normalize:
        totals = result.sum(-1, keepdim=True)
        result = result / torch.where(totals > 0, totals, torch.ones_like(totals))
    return result


class FlowBounds(NamedTuple):
    """The least and the most that each input takes in any maximum flow: `low` = leave-one-out, `high` = pairwise."""

    low: Tensor
    high: Tensor


def flow_bounds(
    attentions: Attentions,
    *,
    residual: float = 0.5,
    heads: Heads = "mean",
    source_layer: int | Literal["all"] = -1,
    sources: Sequence[int] | None = None,
    mask: Tensor | None = None,
    renormalize: bool = False,
    prompt: int | None = None,
    tol: float = TOLERANCE,
    jobs: int | None = None,
) -> FlowBounds:
    """Between which values a token lies in the maximum flows of an output: `[v(N) - v(N without i), v({i})]`.

    Arguments, shapes and errors as in `attention_flow`.
    """
    problem = _Problem(
        attentions, residual, heads, mask, renormalize, source_layer, sources, prompt=prompt, tol=tol, jobs=jobs
    )
    return FlowBounds(problem.solve(partial(_per_source, Network.without_one)), problem.solve(Network.solo))


@dataclass(frozen=True)
class Network:
    """The graph under some outputs of one text: capacities (L, n, n), the inputs that take flow, and how exact to be.

    Vectors are (n,), 0 for inputs that take none.
    """

    capacity: Vector
    inputs: NDArray[np.int64]
    chained: int
    tol: float = TOLERANCE

    @classmethod
    def of(cls, capacity: Vector, *, prompt: int | None = None, tol: float = TOLERANCE) -> Network:
        """All inputs take flow, or the first `prompt`."""
        size = capacity.shape[1]
        chained = size if prompt is None else prompt
        return cls(np.ascontiguousarray(capacity), np.arange(chained), chained, tol)

    @property
    def size(self) -> int:
        return self.capacity.shape[1]

    def full(self, source: int) -> float:
        """v(N): rollout shows that all that may leave the source can arrive."""
        return float(self.capacity[-1, source].sum())

    def solo(self, sources: list[int]) -> Vector:
        """v({i}) for every input: (sources, n)."""
        chain = self.chained < self.size
        bound = np.ones((self.size, self.size)) if chain else maxflow.upper_bounds(self.capacity)
        return maxflow.pairwise(self.capacity, np.array(sources), self.inputs, self.chained, bound, self.tol)

    def to_sets(self, source: int, sets: NDArray[np.bool_]) -> Vector:
        """v(S) for sets (m, n) bool: (m,)."""
        return maxflow.to_sets(self.capacity, source, sets, self.chained, self.tol)

    def all_sets(self, source: int) -> Vector:
        """v of every set of inputs, (2^p,), bit b for the b-th."""
        return maxflow.all_sets(self.capacity, source, self.inputs, self.chained, self.full(source), self.tol)

    def without_one(self, source: int) -> Vector:
        """v(N) - v(N without i)."""
        sets = np.zeros((len(self.inputs), self.size), dtype=np.bool_)
        sets[:, self.inputs] = ~np.eye(len(self.inputs), dtype=np.bool_)
        low = np.zeros(self.size)
        low[self.inputs] = self.full(source) - self.to_sets(source, sets)
        return np.maximum(low, 0.0)

    def marginals(self, source: int, orders: NDArray[np.int64]) -> Vector:
        """What each input adds in each order (m, p) of the inputs: (m, n)."""
        return maxflow.marginals(self.capacity, source, orders, self.chained, self.full(source), self.tol)

    def in_order(self, source: int) -> Vector:
        """The maximum flow that fills the inputs by position: what arrives at each."""
        return self.marginals(source, self.inputs[None])[0]

    def two_fill(self, source: int, inputs: NDArray[np.int64]) -> bool:
        """Whether every two of these inputs together can take all flow."""
        return bool(maxflow.pairs_fill(self.capacity, source, inputs, self.chained, self.full(source), self.tol))


def shapley_of_flow(network: Network, source: int, *, n_permutations: int = 256, seed: int = 0) -> Vector:
    """The Shapley value of the flow game of one output: (n,).

    Exact for few inputs; exact too where every two inputs together take all flow (the rule in deep graphs), since then
    `phi_i = (s_i + mean over j of others (v(N) - s_j)) / n` with s the flows to single inputs; else sampled.
    """
    inputs, count = network.inputs, len(network.inputs)
    phi = np.zeros(network.size)
    if count <= EXACT_PLAYERS:
        phi[inputs] = shapley_of_table(network.all_sets(source))
        return phi
    full = network.full(source)
    solo = network.solo([source])[0, inputs]
    open_ones = inputs[full - solo > network.tol]
    if len(open_ones) * (len(open_ones) - 1) <= 4 * n_permutations and network.two_fill(source, open_ones):
        rest = full - solo
        phi[inputs] = (solo + (rest.sum() - rest) / (count - 1)) / count
        return phi
    orders = antithetic_orders(count, n_permutations, seed=seed)
    return network.marginals(source, inputs[orders]).mean(0)


def antithetic_orders(count: int, number: int, *, seed: int) -> NDArray[np.int64]:
    """`number` random orders of `count` players (one more if odd), each followed by its reverse."""
    rng = np.random.default_rng(seed)
    drawn = rng.permuted(np.tile(np.arange(count), ((number + 1) // 2, 1)), axis=1)
    return np.stack([drawn, drawn[:, ::-1]], 1).reshape(-1, count)


def shapley_of_table(values: Any) -> Vector:
    """Shapley values from a game's table (..., 2^p), bit b of an index for player b: (..., p).

    `phi_b = sum over S without b of |S|! (p - |S| - 1)! / p! (v(S and b) - v(S))`
    """
    values = np.asarray(values, dtype=np.float64)
    players = values.shape[-1].bit_length() - 1
    if values.shape[-1] != 1 << players or players < 1:
        raise ValueError(f"values: expected a power of two of them, at least 2, got {values.shape[-1]}")
    sizes = np.array([index.bit_count() for index in range(1 << (players - 1))])
    # 1 / (p * binomial(p - 1, |S|)), by recursion so that no factorial overflows.
    weight = np.empty(players)
    weight[0] = 1 / players
    for size in range(1, players):
        weight[size] = weight[size - 1] * size / (players - size)
    phi = np.empty((*values.shape[:-1], players))
    for player in range(players):
        split = values.reshape(*values.shape[:-1], -1, 2, 1 << player)
        gain = (split[..., 1, :] - split[..., 0, :]).reshape(*values.shape[:-1], -1)
        phi[..., player] = gain @ weight[sizes]
    return phi


def _per_source(solve: Callable[..., Vector], network: Network, sources: list[int]) -> Vector:
    return np.stack([solve(network, source) for source in sources])


class _Problem:
    """All texts, layers and sources of one call, solved by a pool of threads (the kernels release the lock)."""

    def __init__(
        self,
        attentions: Attentions,
        residual: float,
        heads: Heads,
        mask: Tensor | None,
        renormalize: bool,
        source_layer: int | Literal["all"],
        sources: Sequence[int] | None,
        *,
        prompt: int | None,
        tol: float,
        jobs: int | None,
    ) -> None:
        self.graph = attention_graph(attentions, residual=residual, heads=heads, mask=mask, renormalize=renormalize)
        depth, size = self.graph.layers.shape[1], self.graph.layers.shape[-1]
        if not 0 < tol < 1e-2:
            raise ValueError(f"tol: expected a number between 0 and 0.01, got {tol}")
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs: expected at least 1, got {jobs}")
        if prompt is not None and not 1 <= prompt <= size:
            raise ValueError(f"prompt: expected 1 to {size} tokens, got {prompt}")
        if prompt is not None and bool(self.graph.layers.triu(1).amax() > ROUNDING):
            raise ValueError("prompt: these weights look ahead, so no token can have been generated by the one before")
        self.tops, self.all = check_layers(source_layer, depth), source_layer == "all"
        self.sources = check_sources(sources, size)
        self.prompt, self.tol = prompt, tol
        self.jobs = jobs or torch.get_num_threads()
        maxflow.warn_uncompiled()

    def solve(self, solver: Callable[[Network, list[int]], Vector]) -> Tensor:
        """`solver(network, sources)` for every text and layer, put together: (B, S, n) or (B, L, S, n)."""
        batch, size = self.graph.mask.shape
        result = np.zeros((batch, len(self.tops), len(self.sources), size))
        tasks = []
        for row in range(batch):
            capacity, kept = self.graph.reduced(row)
            place = {position: index for index, position in enumerate(kept.tolist())}
            rows = [number for number, source in enumerate(self.sources) if source in place]
            prompt = None if self.prompt is None else int((kept < self.prompt).sum())
            if prompt == 0:
                raise ValueError(f"mask: text {row} keeps no token of the prompt")
            for at, top in enumerate(self.tops):
                network = Network.of(capacity[:top], prompt=prompt, tol=self.tol)
                tasks += [
                    (row, at, part, kept, network, [place[self.sources[number]] for number in part])
                    for part in np.array_split(np.array(rows, dtype=np.int64), min(self.jobs, max(1, len(rows))))
                ]

        def run(task: tuple[int, int, NDArray[np.int64], NDArray[np.int64], Network, list[int]]) -> None:
            row, at, part, kept, network, chosen = task
            if chosen:
                result[row, at, part[:, None], kept] = solver(network, chosen)

        if self.jobs == 1:
            for task in tasks:
                run(task)
        else:
            with ThreadPoolExecutor(self.jobs) as pool:
                list(pool.map(run, tasks))
        found = torch.from_numpy(result)
        return found if self.all else found[:, 0]
