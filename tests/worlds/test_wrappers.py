"""Distractors, the absorbing state and stacked frames."""

import pytest
import torch

from paperworks.worlds import AbsorbingState, FrameStack, PointOrbit, Step, World, add_distractors
from paperworks.worlds.distractors import draw_patterns


class Countdown(World):
    """Copy i ends by itself after i + 2 steps, or is cut off after 6; the observation is the step."""

    obs_dim, action_dim, low, high, horizon = 2, 1, -1.0, 1.0, 6

    def __init__(self, n):
        self.n = n
        self.time = torch.zeros(n)

    def reset(self, *, task=None, where=None, generator=None):
        where = torch.ones(self.n, dtype=torch.bool) if where is None else where
        self.time = torch.where(where, torch.zeros(self.n), self.time)
        return self.observe()

    def observe(self):
        return torch.stack([self.time + 1, -self.time - 1], -1)

    def step(self, action):
        self.time = self.time + 1
        ends = torch.arange(self.n) + 2
        return Step(self.observe(), torch.ones(self.n), self.time == ends, self.time >= 6)


def test_the_absorbing_state_lasts_until_the_time_limit():
    world = AbsorbingState(Countdown(2))
    assert world.obs_dim == 3
    assert world.reset()[:, -1].tolist() == [0, 0]
    seen, rewards, cuts = [], [], []
    for _ in range(6):
        step = world.step(torch.zeros(2, 1))
        assert not step.terminal.any()
        seen.append(step.obs)
        rewards.append(step.reward)
        cuts.append(step.truncated)
    flags = torch.stack(seen)[..., -1]
    assert flags[:, 0].tolist() == [0, 1, 1, 1, 1, 1]
    assert flags[:, 1].tolist() == [0, 0, 1, 1, 1, 1]
    assert torch.stack(rewards)[:, 0].tolist() == [1, 1, 0, 0, 0, 0]
    assert (torch.stack(seen)[1:, 0, :2] == 0).all()
    assert torch.stack(cuts)[:, 0].tolist() == [False] * 5 + [True]
    fresh = world.reset(where=torch.tensor([True, False]))
    assert fresh[:, -1].tolist() == [0, 1]
    assert fresh[0, :2].tolist() == [1, -1]


def test_frames_are_stacked_newest_last():
    world = FrameStack(Countdown(1), 3)
    assert world.reset().tolist() == [[1, -1, 1, -1, 1, -1]]
    world.step(torch.zeros(1, 1))
    assert world.step(torch.zeros(1, 1)).obs.tolist() == [[1, -1, 2, -2, 3, -3]]
    with pytest.raises(ValueError, match="frames"):
        FrameStack(Countdown(1), 0)


def trace(kind, steps=100, n=50, dims=6, **options):
    world = add_distractors(PointOrbit(n), kind, dims, pool=options.pop("pool", 10), seed=0)
    rows = [world.reset(generator=torch.Generator().manual_seed(0))]
    rows += [world.step(torch.zeros(n, 2)).obs for _ in range(steps)]
    return world, torch.stack(rows)


def test_static_patterns_are_constant_within_an_episode_and_come_from_the_pool():
    world, rows = trace("static_pool")
    features = rows[..., 4:]
    assert (features == features[:1]).all()
    pool = {tuple(row) for row in world.pool.tolist()}
    assert {tuple(row) for row in features[0].tolist()} <= pool
    assert len({tuple(row) for row in features[0].tolist()}) > 1
    again = world.reset(where=torch.arange(50) == 0)
    assert torch.equal(again[1:, 4:], features[0, 1:])


def test_bits_and_walks_have_the_laws_they_claim():
    _, bits = trace("iid", steps=400)
    bits = bits[..., 4:]
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    assert float(bits.mean()) == pytest.approx(0.5, abs=0.01)
    assert abs(float(((bits[1:] - 0.5) * (bits[:-1] - 0.5)).mean())) < 0.005
    _, walk = trace("ar1", steps=400)
    walk = walk[..., 4:]
    assert float(walk.var()) == pytest.approx(1.0, abs=0.1)
    assert float((walk[1:] * walk[:-1]).mean() / walk.var()) == pytest.approx(0.95, abs=0.02)


def test_features_leave_the_world_as_it_is():
    plain = PointOrbit(50)
    rows = [plain.reset(generator=torch.Generator().manual_seed(0))]
    rows += [plain.step(torch.zeros(50, 2)).obs for _ in range(100)]
    _, with_features = trace("iid")
    assert torch.equal(torch.stack(rows), with_features[..., :4])
    assert add_distractors(plain, "iid", 0, pool=1, seed=0) is plain


def test_pools_are_disjoint_and_say_when_they_cannot_be():
    shown = draw_patterns(8, 4, seed=0)
    other = draw_patterns(30, 4, seed=1, avoid=shown)
    assert not {tuple(r) for r in shown.tolist()} & {tuple(r) for r in other.tolist()}
    everything = torch.tensor([[i >> b & 1 for b in range(3)] for i in range(8)]).float()
    with pytest.raises(ValueError, match="all 8 patterns"):
        draw_patterns(1, 3, seed=0, avoid=everything)


@pytest.mark.parametrize(
    ("kind", "dims", "pool", "message"),
    [
        ("noise", 2, 3, "kind: expected one of static_pool"),
        ("iid", -1, 3, "dims: expected 0 or more"),
        ("static_pool", 2, 0, "pool: expected at least 1"),
        ("static_pool", 2, torch.zeros(3, 4), "pool: expected patterns"),
    ],
)
def test_unfit_distractors_are_refused(kind, dims, pool, message):
    with pytest.raises(ValueError, match=message):
        add_distractors(PointOrbit(2), kind, dims, pool=pool, seed=0)
