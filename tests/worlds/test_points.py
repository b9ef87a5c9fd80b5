"""Worlds against slow twins, experts against their promised returns, and the two ways to Gymnasium."""

import math

import numpy as np
import pytest
import torch

from paperworks.worlds import Pendulum, PointOrbit, orbit_expert, pendulum_expert, rollout


def test_point_orbit_against_a_numpy_loop():
    world = PointOrbit(3)
    obs = world.reset(generator=torch.Generator().manual_seed(0))
    state = obs.double().numpy()
    noise_source = torch.Generator().manual_seed(0)
    torch.rand(3, 2, generator=noise_source)
    rng = np.random.default_rng(0)
    for _ in range(100):
        action = rng.uniform(-1.5, 1.5, (3, 2)).astype(np.float32)
        step = world.step(torch.from_numpy(action))
        noise = torch.randn(3, 4, generator=noise_source).numpy()
        for copy in range(3):
            p, v = state[copy, :2].copy(), state[copy, 2:].copy()
            radius = np.hypot(*p)
            wanted = np.array([-p[1], p[0]]) / radius + 2 * (1 - radius) * p / radius
            wanted = np.clip(wanted, -2, 2)
            reward = -np.sum((v - wanted) ** 2) - (radius - 1) ** 2
            assert float(step.reward[copy]) == pytest.approx(reward, abs=1e-4)
            state[copy, :2] = np.clip(p + 0.1 * v + 0.01 * noise[copy, :2], -2.5, 2.5)
            state[copy, 2:] = 0.9 * v + 0.3 * action[copy] + 0.03 * noise[copy, 2:]
        np.testing.assert_allclose(step.obs.numpy(), state, atol=1e-5)
    assert step.truncated.all()
    assert not step.terminal.any()


def test_pendulum_is_gymnasium_s():
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("Pendulum-v1")
    world = Pendulum(1)
    world.reset(generator=torch.Generator().manual_seed(0))
    env.reset(seed=0)
    env.unwrapped.state = world.state[0].numpy().copy()
    rng = np.random.default_rng(0)
    for count in range(200):
        action = rng.uniform(-3, 3, 1).astype(np.float32)
        theirs = env.step(np.clip(action, -3, 3))
        ours = world.step(torch.from_numpy(action)[None])
        np.testing.assert_allclose(ours.obs[0].numpy(), theirs[0], atol=1e-6)
        assert float(ours.reward[0]) == pytest.approx(float(theirs[1]), rel=1e-6, abs=1e-6)
        assert bool(ours.truncated[0]) == theirs[3] == (count == 199)


@pytest.mark.parametrize(
    ("make", "expert", "low", "high"),
    [(PointOrbit, orbit_expert, -20, -15), (Pendulum, pendulum_expert, -200, -150)],
)
def test_experts_return_what_a_study_relies_on(make, expert, low, high):
    generator = torch.Generator().manual_seed(0)
    done = rollout(make(256), lambda obs: expert(obs, generator=generator), generator=generator)
    assert low < float(done.returns.mean()) < high


def test_the_noise_of_the_effect_is_independent_in_every_dimension():
    """Given the state, the next observation has a diagonal covariance: what makes the diagonal class exact."""
    n = 20_000
    world = PointOrbit(n)
    generator = torch.Generator().manual_seed(0)
    world.reset(generator=generator)
    world.state = torch.tensor([0.8, 0.3, -0.2, 0.5]).expand(n, 4).clone()
    world.time.zero_()
    following = world.step(orbit_expert(world.state, generator=generator)).obs
    correlation = np.corrcoef(following.T.numpy())
    assert np.abs(correlation - np.eye(4)).max() < 0.03
    spread = [0.01, 0.01, math.hypot(0.06, 0.03), math.hypot(0.06, 0.03)]
    assert following.std(0).tolist() == pytest.approx(spread, rel=0.03)


def test_copies_restart_one_by_one():
    world = PointOrbit(3)
    world.reset(generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        before = world.step(torch.ones(3, 2)).obs
    after = world.reset(where=torch.tensor([True, False, False]))
    assert torch.equal(after[1:], before[1:])
    assert after[0, 2:].tolist() == [0, 0]
    assert world.time.tolist() == [0, 5, 5]


def test_the_same_generator_gives_the_same_episode():
    def episode():
        generator = torch.Generator().manual_seed(4)
        return rollout(Pendulum(2), lambda obs: pendulum_expert(obs, generator=generator), generator=generator).obs

    assert torch.equal(episode(), episode())


def test_unfit_arguments_are_refused():
    with pytest.raises(ValueError, match="n: expected at least 1"):
        PointOrbit(0)
    world = Pendulum(2)
    world.reset()
    with pytest.raises(ValueError, match=r"action: expected \(2, 1\)"):
        world.step(torch.zeros(2))


def test_a_world_is_a_vector_env():
    gymnasium = pytest.importorskip("gymnasium")
    env = PointOrbit(4).as_gymnasium()
    assert isinstance(env, gymnasium.vector.VectorEnv)
    obs, _ = env.reset(seed=3)
    same, _ = env.reset(seed=3)
    assert np.array_equal(obs, same)
    assert env.observation_space.contains(obs)
    for _ in range(100):
        obs, reward, terminal, truncated, _ = env.step(env.action_space.sample())
    assert truncated.all()
    assert not terminal.any()
    assert reward.shape == (4,)
    fresh, _ = env.reset(options={"reset_mask": np.array([True, False, False, False])})
    assert np.array_equal(fresh[1:], obs[1:])
    assert fresh[0, 2:].tolist() == [0, 0]


def test_gymnasium_s_pendulum_is_a_world():
    pytest.importorskip("gymnasium")
    from paperworks.worlds import GymnasiumWorld

    world = GymnasiumWorld("Pendulum-v1", 3, seed=1)
    assert (world.obs_dim, world.action_dim, world.low, world.high, world.horizon) == (3, 1, -2.0, 2.0, 200)
    twin = Pendulum(3)
    twin.reset()
    obs = world.reset(generator=torch.Generator().manual_seed(0))
    again = world.reset(generator=torch.Generator().manual_seed(0))
    assert torch.equal(obs, again)
    twin.state = torch.stack([torch.atan2(obs[:, 1], obs[:, 0]), obs[:, 2]], -1).double()
    action = torch.tensor([[1.0], [-2.0], [5.0]])
    ours, theirs = twin.step(action), world.step(action)
    torch.testing.assert_close(ours.obs, theirs.obs, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.reward, theirs.reward, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="cannot make 'Nowhere-v0'"):
        GymnasiumWorld("Nowhere-v0", 1)
    with pytest.raises(ValueError, match="continuous actions"):
        GymnasiumWorld("CartPole-v1", 1)
