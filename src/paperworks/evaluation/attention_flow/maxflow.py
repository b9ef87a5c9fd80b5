"""Exact maximum flows on dense layered graphs: the attention graph as it is, three-dimensional, no node objects.

A graph is `capacity` (L, n, n): the edge from (l, k) down to (l - 1, j) has the capacity `capacity[l - 1, k, j]`,
where l counts node layers from 0 (inputs) to L. A flow runs from one node of the top layer to a set of input nodes.
Each problem is solved in three steps, and the first that proves its answer ends it:

1. An upper bound known beforehand: no more leaves the source than its row sum, none reaches an input beyond its column
   sum, and a recursion over the layers tightens both (`upper_bounds`).
2. A blocking flow along downward edges, the widest first, in which a node hands on at once all that it was given; in
   deep graphs it meets the bound nearly always.
3. Dinic's algorithm on the residual graph, from the flow that step 2 left.

`room` holds what every edge still takes; the flow is `capacity - room`. Amounts up to `EPS` count as rounding.

All compiled functions stand in this one file, since a change elsewhere would not renew numba's cache. Without numba the
same code runs as plain Python, some hundred times slower.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

EPS = 1e-14

try:
    from numba import njit as _njit
except ImportError:
    _njit = None


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.njit`, where there is numba."""
    return function if _njit is None else _njit(cache=True, nogil=True, error_model="numpy")(function)


def warn_uncompiled() -> None:
    """Say that flows will be slow, where there is no numba."""
    if _njit is None:
        warnings.warn(
            "numba is not installed, so maximum flows run as plain Python, some hundred times slower; install it with: "
            "pip install 'paperworks[evaluation]'",
            RuntimeWarning,
            stacklevel=3,
        )


class Space(NamedTuple):
    """What one thread works in: the graph, the state of a flow, and the arrays of the searches."""

    capacity: NDArray[np.float64]
    room: NDArray[np.float64]
    order: NDArray[np.int32]  # each node's downward edges, widest first
    changed: NDArray[np.int64]  # edges that have carried flow; [0] is their number
    pointer: NDArray[np.int64]  # edges of each node that are used up
    level: NDArray[np.int64]  # distance of each node to the nearest sink, -1 where unknown
    unlabelled: NDArray[np.int64]  # nodes of each layer without a distance
    queue: NDArray[np.int64]
    path: NDArray[np.int64]
    edges: NDArray[np.int64]
    asked: NDArray[np.float64]
    got: NDArray[np.float64]
    chained: int  # inputs from here on were generated: what arrives there goes on from the output before


@compiled
def _make_space(capacity, chained):
    layers, size = capacity.shape[0], capacity.shape[1]
    order = np.zeros(capacity.shape, np.int32)
    for layer in range(layers):
        for k in range(size):
            order[layer, k] = np.argsort(-capacity[layer, k])
    nodes = (layers + 1) * size
    return Space(
        capacity,
        capacity.copy(),
        order,
        np.zeros(16 * nodes + 2, np.int64),
        np.zeros((layers + 1, size), np.int64),
        np.zeros((layers + 1, size), np.int64),
        np.zeros(layers + 1, np.int64),
        np.zeros(nodes + 1, np.int64),
        np.zeros(nodes + 1, np.int64),
        np.zeros(nodes + 1, np.int64),
        np.zeros(layers + 1),
        np.zeros(layers + 1),
        chained,
    )


@compiled
def _move(room, changed, layer, k, j, amount):
    """Put `amount` on the edge from (layer + 1, k) to (layer, j), and remember that the edge changed."""
    size = room.shape[1]
    room[layer, k, j] -= amount
    if changed[0] < changed.shape[0] - 1:
        changed[0] += 1
        changed[changed[0]] = (layer * size + k) * size + j


@compiled
def _reset(space):
    """Take all flow away: edge by edge, unless too many changed to be remembered."""
    if space.changed[0] < space.changed.shape[0] - 1:
        rooms, capacities = space.room.reshape(-1), space.capacity.reshape(-1)
        for entry in range(1, space.changed[0] + 1):
            rooms[space.changed[entry]] = capacities[space.changed[entry]]
    else:
        space.room[:] = space.capacity
    space.changed[0] = 0


@compiled
def upper_bounds(capacity: NDArray[np.float64]) -> NDArray[np.float64]:
    """No flow from output o to input i exceeds `bound[o, i]`: (n, n).

    `u_1 = A_1`, `u_l[k, i] = sum_j min(A_l[k, j], u_{l-1}[j, i])`; then row sums of A_L and column sums of A_1.
    """
    layers, size = capacity.shape[0], capacity.shape[1]
    bound = capacity[0].copy()
    columns = capacity[0].sum(0)
    for layer in range(1, layers):
        higher = np.zeros((size, size))
        for k in range(size):
            for j in range(size):
                edge = capacity[layer, k, j]
                if edge > 0.0:
                    for i in range(size):
                        higher[k, i] += min(edge, bound[j, i])
        bound = higher
    for k in range(size):
        row = capacity[layers - 1, k].sum()
        for i in range(size):
            bound[k, i] = min(bound[k, i], min(row, columns[i]))
    return bound


@compiled
def _descend(space, source, limit, sinks):
    """A blocking flow of at most `limit` along downward edges with room; returns its value."""
    # The hot functions take arrays, not the space: numba counts a reference for every array in it at every call.
    capacity, room, order, changed = space.capacity, space.room, space.order, space.changed
    pointer, path, asked, got = space.pointer, space.path, space.asked, space.got
    top, size, count = room.shape[0], room.shape[1], sinks.shape[0]
    pointer[:] = 0
    layer = top
    path[layer], asked[layer], got[layer] = source, limit, 0.0
    while True:
        k = path[layer]
        tried = pointer[layer, k]
        if layer == 1:
            while tried < count and asked[1] - got[1] > EPS:
                amount = min(room[0, k, sinks[tried]], asked[1] - got[1])
                if amount > 0.0:
                    _move(room, changed, 0, k, sinks[tried], amount)
                    got[1] += amount
                if room[0, k, sinks[tried]] <= EPS:
                    tried += 1
            pointer[1, k] = tried
        elif tried < size and asked[layer] - got[layer] > EPS:
            j = order[layer - 1, k, tried]
            edge = room[layer - 1, k, j]
            if edge <= EPS or pointer[layer - 1, j] >= (count if layer == 2 else size):
                # The widest edges come first: one of no capacity ends the list, one that is full does not.
                pointer[layer, k] = size if capacity[layer - 1, k, j] <= EPS else tried + 1
            else:
                amount = min(edge, asked[layer] - got[layer])
                layer -= 1
                path[layer], asked[layer], got[layer] = j, amount, 0.0
            continue
        if layer == top:
            return got[layer]
        above, amount = path[layer + 1], got[layer]
        if amount > 0.0:
            _move(room, changed, layer, above, k, amount)
            got[layer + 1] += amount
        if asked[layer] - amount > EPS or room[layer, above, k] <= EPS:
            pointer[layer + 1, above] += 1
        layer += 1


@compiled
def _arriving(capacity, room, position):
    """What arrives at an input; at a generated one it goes on, so the chain's own flow need not be kept."""
    total = 0.0
    for k in range(room.shape[1]):
        total += capacity[0, k, position] - room[0, k, position]
    return total


@compiled
def _label(space, source, sinks):
    """Distances to the nearest sink in the residual graph, up to that of the source; whether it can reach one.

    Searched from the sinks: where an input takes all it can, that ends at once. In dense graphs all nodes of a layer
    soon have a distance, and the layer need not be looked at again.
    """
    capacity, room, level, left, queue = space.capacity, space.room, space.level, space.unlabelled, space.queue
    top, size, chained = room.shape[0], room.shape[1], space.chained
    level[:] = -1
    left[:] = size
    for place in range(sinks.shape[0]):
        level[0, sinks[place]] = 0
        queue[place] = sinks[place]
    left[0] -= sinks.shape[0]
    head, tail = 0, sinks.shape[0]
    while head < tail:
        layer, k = queue[head] // size, queue[head] % size
        head += 1
        distance = level[layer, k] + 1
        if layer < top and left[layer + 1] > 0:
            for i in range(size):
                if level[layer + 1, i] < 0 and room[layer, i, k] > EPS:
                    level[layer + 1, i] = distance
                    left[layer + 1] -= 1
                    queue[tail] = (layer + 1) * size + i
                    tail += 1
            if layer + 1 == top and level[top, source] >= 0:
                return True
        if layer > 0 and left[layer - 1] > 0:
            for j in range(size):
                if level[layer - 1, j] < 0 and capacity[layer - 1, k, j] - room[layer - 1, k, j] > EPS:
                    level[layer - 1, j] = distance
                    left[layer - 1] -= 1
                    queue[tail] = (layer - 1) * size + j
                    tail += 1
        if layer == top and chained <= k + 1 < size and level[0, k + 1] < 0:
            level[0, k + 1] = distance
            left[0] -= 1
            queue[tail] = k + 1
            tail += 1
        if layer == 0 and chained <= k and level[top, k - 1] < 0 and _arriving(capacity, room, k) > EPS:
            level[top, k - 1] = distance
            left[top] -= 1
            queue[tail] = top * size + k - 1
            tail += 1
            if k - 1 == source:
                return True
    return False


@compiled
def _search(space, source, limit):
    """A blocking flow of at most `limit` along shortest residual paths, by `_label`'s distances; returns its value.

    Edges of a node: 0..n-1 down, n..2n-1 back up, 2n the chain. `path` lists nodes, `edges` how each was left.
    """
    capacity, room, changed, level = space.capacity, space.room, space.changed, space.level
    pointer, path, edges, chained = space.pointer, space.path, space.edges, space.chained
    top, size = room.shape[0], room.shape[1]
    pointer[:] = 0
    total = 0.0
    depth = 0
    path[0] = top * size + source
    while True:
        layer, k = path[depth] // size, path[depth] % size
        if level[layer, k] == 0:
            amount = limit - total
            for step in range(depth):
                amount = min(amount, _residual(capacity, room, path[step], edges[step]))
            for step in range(depth):
                _push(room, changed, path[step], edges[step], amount)
            total += amount
            if limit - total <= EPS:
                return total
            # Go on from the first node whose edge is now empty.
            for step in range(depth - 1, -1, -1):
                if _residual(capacity, room, path[step], edges[step]) <= EPS:
                    depth = step
            continue
        edge = _next_edge(capacity, room, level, chained, layer, k, pointer[layer, k])
        pointer[layer, k] = edge
        if edge <= 2 * size:
            edges[depth] = edge
            depth += 1
            path[depth] = _target(layer, k, edge, top, size)
        elif depth == 0:
            return total
        else:
            depth -= 1
            pointer[path[depth] // size, path[depth] % size] += 1


@compiled
def _next_edge(capacity, room, level, chained, layer, k, edge):
    """The first edge of a node, from `edge` on, that leads nearer to a sink; 2n + 1 if there is none."""
    top, size = room.shape[0], room.shape[1]
    nearer = level[layer, k] - 1
    if layer > 0:
        while edge < size:
            if level[layer - 1, edge] == nearer and room[layer - 1, k, edge] > EPS:
                return edge
            edge += 1
    edge = max(edge, size)
    if layer < top:
        while edge < 2 * size:
            i = edge - size
            if level[layer + 1, i] == nearer and capacity[layer, i, k] - room[layer, i, k] > EPS:
                return edge
            edge += 1
    if edge <= 2 * size:
        if layer == 0 and chained <= k and level[top, k - 1] == nearer:
            return 2 * size
        if (
            layer == top
            and chained <= k + 1 < size
            and level[0, k + 1] == nearer
            and _arriving(capacity, room, k + 1) > EPS
        ):
            return 2 * size
    return 2 * size + 1


@compiled
def _target(layer, k, edge, top, size):
    """The node that an edge leads to."""
    if edge < size:
        return (layer - 1) * size + edge
    if edge < 2 * size:
        return (layer + 1) * size + edge - size
    return top * size + k - 1 if layer == 0 else k + 1


@compiled
def _residual(capacity, room, at, edge):
    size = room.shape[1]
    layer, k = at // size, at % size
    if edge < size:
        return room[layer - 1, k, edge]
    if edge < 2 * size:
        return capacity[layer, edge - size, k] - room[layer, edge - size, k]
    return np.inf if layer == 0 else _arriving(capacity, room, k + 1)


@compiled
def _push(room, changed, at, edge, amount):
    size = room.shape[1]
    layer, k = at // size, at % size
    if edge < size:
        _move(room, changed, layer - 1, k, edge, amount)
    elif edge < 2 * size:
        _move(room, changed, layer, edge - size, k, -amount)


@compiled
def _raise(space, source, limit, sinks, tol):
    """Add flow to the sinks until none can be added or it comes within `tol` of `limit`; returns what was added."""
    total = 0.0
    if space.chained >= space.room.shape[1]:
        total = _descend(space, source, limit, sinks)
    while limit - total > tol and _label(space, source, sinks):
        added = _search(space, source, limit - total)
        if added <= EPS:
            break
        total += added
    return total


@compiled
def _bounds_of_set(space, source, sinks):
    """No more leaves the source than its row sum, or reaches the sinks than their column sums."""
    row = space.capacity[-1, source].sum()
    if space.chained < space.room.shape[1]:
        return row
    columns = 0.0
    for place in range(sinks.shape[0]):
        columns += space.capacity[0, :, sinks[place]].sum()
    return min(row, columns)


# Problems ------------------------------------------------------------------------------------------------------------


@compiled
def pairwise(capacity, sources, inputs, chained, bound, tol):
    """Maximum flow from each of `sources` to each of `inputs`: (sources, n), 0 for other inputs."""
    space = _make_space(capacity, chained)
    result = np.zeros((sources.shape[0], capacity.shape[1]))
    for row in range(sources.shape[0]):
        for place in range(inputs.shape[0]):
            i = inputs[place]
            result[row, i] = _raise(space, sources[row], bound[sources[row], i], inputs[place : place + 1], tol)
            _reset(space)
    return result


@compiled
def to_sets(capacity, source, sets, chained, tol):
    """Maximum flow from the source to each set of inputs, `sets` (m, n) bool: (m,)."""
    space = _make_space(capacity, chained)
    result = np.zeros(sets.shape[0])
    for number in range(sets.shape[0]):
        sinks = np.flatnonzero(sets[number])
        if sinks.shape[0] > 0:
            result[number] = _raise(space, source, _bounds_of_set(space, source, sinks), sinks, tol)
            _reset(space)
    return result


@compiled
def marginals(capacity, source, orders, chained, full, tol):
    """What each input adds when inputs are joined to the sink in the given orders (m, p): (m, n).

    One flow per order: an input that joins only adds to it. The rest of an order adds nothing once the flow is `full`.
    """
    space = _make_space(capacity, chained)
    result = np.zeros((orders.shape[0], capacity.shape[1]))
    for number in range(orders.shape[0]):
        total = 0.0
        for place in range(orders.shape[1]):
            joining = orders[number, place : place + 1]
            limit = min(full - total, _bounds_of_set(space, source, joining))
            added = _raise(space, source, limit, joining, tol)
            result[number, orders[number, place]] = added
            total += added
            if full - total <= tol:
                break
        _reset(space)
    return result


@compiled
def all_sets(capacity, source, inputs, chained, full, tol):
    """Maximum flow to every set of `inputs` (p,): (2^p,), bit b of an index for inputs[b].

    Walks the tree of sets by adding inputs in rising order, so each set's flow starts from a smaller one's; below a
    set that already takes all there is nothing to compute.
    """
    space = _make_space(capacity, chained)
    players = inputs.shape[0]
    kept = np.zeros((players + 1,) + capacity.shape)
    kept[0] = capacity
    values = np.full(1 << players, full)
    values[0] = 0.0
    member = np.zeros(players + 1, np.int64)
    depth, following, index = 0, 0, 0
    while True:
        if following < players:
            space.room[:] = kept[depth]
            joining = inputs[following : following + 1]
            limit = min(full - values[index], _bounds_of_set(space, source, joining))
            larger = index | (1 << following)
            values[larger] = values[index] + _raise(space, source, limit, joining, tol)
            space.changed[0] = 0
            if full - values[larger] > tol and following + 1 < players:
                depth += 1
                member[depth] = following
                index = larger
                kept[depth] = space.room
            following += 1
            continue
        if depth == 0:
            return values
        index ^= 1 << member[depth]
        following = member[depth] + 1
        depth -= 1


@compiled
def pairs_fill(capacity, source, inputs, chained, full, tol):
    """Whether the flow to every two of `inputs` together is `full`."""
    space = _make_space(capacity, chained)
    two = np.zeros(2, np.int64)
    for first in range(inputs.shape[0]):
        for second in range(first + 1, inputs.shape[0]):
            two[0], two[1] = inputs[first], inputs[second]
            limit = min(full, _bounds_of_set(space, source, two))
            # A bound below `full` settles it without a flow.
            if full - limit > tol or full - _raise(space, source, limit, two, tol) > tol:
                return False
            _reset(space)
    return True
