"""Features that have nothing to do with the task, appended to a world's observations.

`static_pool`: binary patterns constant within an episode, drawn from a pool; where demonstrations and imitator have
different pools, a discriminator tells them apart by reading the pattern. `iid`: fresh random bits each step. `ar1`: a
stationary random walk, `z' = .95 z + sqrt(1 - .95^2) e`, that no action influences.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from paperworks.worlds.protocol import Step, World

Kind: TypeAlias = Literal["static_pool", "iid", "ar1"]
MEMORY = 0.95


class Distractors(World):
    """See `add_distractors`."""

    def __init__(self, world: World, kind: Kind, dims: int, *, pool: int | Tensor, seed: int) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"kind: expected one of {', '.join(get_args(Kind))}, got {kind!r}")
        if dims < 0:
            raise ValueError(f"dims: expected 0 or more, got {dims}")
        self.world, self.kind, self.dims = world, kind, dims
        self.n, self.obs_dim, self.action_dim = world.n, world.obs_dim + dims, world.action_dim
        self.low, self.high, self.horizon = world.low, world.high, world.horizon
        self.generator = torch.Generator().manual_seed(seed)
        self.pool = draw_patterns(pool, dims, seed=seed) if isinstance(pool, int) else pool.float()
        if self.pool.ndim != 2 or self.pool.shape[1] != dims:
            raise ValueError(f"pool: expected patterns ({self.pool.shape[0]}, {dims}), got {tuple(self.pool.shape)}")
        self.features = torch.zeros(world.n, dims)

    def reset(
        self, *, task: Any = None, where: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        obs = self.world.reset(task=task, where=where, generator=generator)
        fresh = self._first()
        self.features = fresh if where is None else torch.where(where[:, None], fresh, self.features)
        return torch.cat([obs, self.features], -1)

    def step(self, action: Tensor) -> Step:
        step = self.world.step(action)
        self.features = self._next()
        return Step(torch.cat([step.obs, self.features], -1), step.reward, step.terminal, step.truncated)

    def _first(self) -> Tensor:
        if self.kind == "static_pool":
            return self.pool[torch.randint(len(self.pool), (self.n,), generator=self.generator)]
        if self.kind == "iid":
            return self._bits()
        return torch.randn(self.n, self.dims, generator=self.generator)

    def _next(self) -> Tensor:
        if self.kind == "static_pool":
            return self.features
        if self.kind == "iid":
            return self._bits()
        noise = torch.randn(self.n, self.dims, generator=self.generator)
        return MEMORY * self.features + (1 - MEMORY**2) ** 0.5 * noise

    def _bits(self) -> Tensor:
        return torch.randint(0, 2, (self.n, self.dims), generator=self.generator).float()


def add_distractors(
    world: World, kind: Kind = "static_pool", dims: int = 16, *, pool: int | Tensor, seed: int
) -> World:
    """Append task-irrelevant features to the observations of a world.

    Args:
        world: the world.
        kind: how they move; see the module.
        dims: how many; 0 leaves the world as it is.
        pool: patterns of `static_pool`, (patterns, dims), or how many to draw.
        seed: of patterns and draws; take different ones for demonstrations and imitator.

    Raises:
        ValueError: unknown kind, negative dims, patterns of another size.
    """
    return Distractors(world, kind, dims, pool=pool, seed=seed) if dims else world


def draw_patterns(count: int, dims: int, *, seed: int, avoid: Tensor | None = None) -> Tensor:
    """`count` binary patterns (count, dims), none of them among `avoid`.

    Where all patterns of so few bits are among `avoid`, the pools cannot be disjoint: `ValueError`.
    """
    if count < 1:
        raise ValueError(f"pool: expected at least 1 pattern, got {count}")
    generator = torch.Generator().manual_seed(seed + 7_919)
    taken = set() if avoid is None else {tuple(row) for row in avoid.int().tolist()}
    if dims < 20 and len(taken) >= 2**dims:
        raise ValueError(f"pool: all {2**dims} patterns of {dims} bits are taken; use more dims or fewer patterns")
    found: list[Tensor] = []
    while len(found) < count:
        rows = torch.randint(0, 2, (count, dims), generator=generator)
        found += [row for row in rows if tuple(row.tolist()) not in taken]
    return torch.stack(found[:count]).float()
