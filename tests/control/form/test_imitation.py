"""The training loop: what is stored, when rewards are computed, what is read, and that it learns."""

# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportAttributeAccessIssue=false

import mujoco
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from paperworks.control.form.adversarial import (
    DiscriminatorConfig,
    GAIfO,
    discriminator_loss,
    discriminator_reward,
    gradient_penalty,
    spectral_logits,
)
from paperworks.control.form.agents import MPO, AgentConfig, SoftActorCritic
from paperworks.control.form.cloning import BCO, CloningConfig
from paperworks.control.form.demonstrations import Demonstrations
from paperworks.control.form.form import FORM, EffectConfig
from paperworks.control.form.imitation import LoopConfig
from paperworks.control.form.references import BC, ActionGAIL, TrueReward
from paperworks.control.form.statistics import Statistics
from paperworks.control.form.tasks import TASKS, Setting, demonstrate
from paperworks.nn.seed_mlp import SeedMLP
from paperworks.worlds import AbsorbingState, FrameStack, PointOrbit, Step, World, add_distractors, rollout

SMALL = LoopConfig(agent=AgentConfig(hidden=(16, 16), lr=1e-3), batch=16, warmup=10, window=200)
EFFECT = EffectConfig(hidden=(16,), components=2, epochs=2)


@pytest.fixture(scope="module")
def demos():
    return demonstrate(TASKS["orbit"], Setting(), episodes=6, seed=0)


def small(kind, env, data, **options):
    settings = {FORM: {"effect": EFFECT}, GAIfO: {"discriminator": DiscriminatorConfig(hidden=(16,))}}
    settings[BCO] = {"cloning": CloningConfig(hidden=(16,), rounds=2)}
    return kind(env, data, loop=SMALL, **(settings.get(kind, {}) | options))


def transitions(arm, count=50, seed=0):
    return arm.replay.sample(count, generator=torch.Generator().manual_seed(seed))


def test_rewards_follow_the_imitator_s_model_and_nothing_else(demos):
    form = small(FORM, PointOrbit(8), demos[0], seeds=2)
    form.train(40)
    batch = transitions(form)
    first = form.reward(batch)
    assert torch.equal(first, form.reward(batch))
    assert not first.requires_grad
    frozen = [parameter.clone() for parameter in form.demonstrator.parameters()]
    form.learn_reward()
    assert not torch.equal(first, form.reward(batch))
    assert all(torch.equal(a, b) for a, b in zip(frozen, form.demonstrator.parameters(), strict=True))
    with torch.no_grad():
        expected = form.demonstrator.log_prob(batch["obs"], batch["next_obs"])
        expected = (expected - form.imitator.log_prob(batch["obs"], batch["next_obs"])).clamp(-50, 50) / 20
    torch.testing.assert_close(form.reward(batch), expected)
    assert "reward" not in form.replay.fields


def test_the_reward_starts_at_zero_from_the_demonstrator_s_weights(demos):
    form = small(FORM, PointOrbit(4), demos[0])
    form.fit_demonstrator()
    obs = torch.randn(1, 5, 4)
    assert form.reward_model(obs, obs + 0.1).abs().max() == 0
    fresh = small(FORM, PointOrbit(4), demos[0], effect=EffectConfig(hidden=(16,), epochs=1, init_imitator="fresh"))
    fresh.fit_demonstrator()
    assert fresh.reward_model(obs, obs + 0.1).abs().max() > 0


def test_the_ablation_rewards_the_demonstrator_s_density_alone(demos):
    effect = EffectConfig(hidden=(16,), components=2, epochs=2, imitator_term=False)
    form = small(FORM, PointOrbit(4), demos[0], effect=effect)
    form.train(15)
    batch = transitions(form)
    known = form.demonstrator
    units = known.statistics.delta_std.log().sum()
    with torch.no_grad():
        expected = (known.log_prob(batch["obs"], batch["next_obs"]) + units).clamp(-50, 50) / 20
    torch.testing.assert_close(form.reward(batch), expected)
    before = form.reward(batch)
    form.learn_reward()
    assert torch.equal(before, form.reward(batch))


def test_transitions_are_the_world_s_and_never_cross_an_episode(demos):
    form = small(FORM, PointOrbit(4), demos[0], seeds=2)
    form.train(120)
    held = form.replay.newest(240)
    p, v = held["obs"][..., :2], held["obs"][..., 2:]
    assert (held["next_obs"][..., :2] - (p + 0.1 * v).clamp(-2.5, 2.5)).abs().max() < 0.06
    assert (held["next_obs"][..., 2:] - 0.9 * v - 0.3 * held["action"]).abs().max() < 0.2


@pytest.mark.parametrize("kind", [FORM, GAIfO, BCO])
def test_the_demonstrator_s_actions_are_never_read(kind, demos, tmp_path):
    data = demos[0]
    lengths = [len(e) - 1 for e in data.observations]
    parts = {"obs": np.concatenate(data.observations), "indices": np.cumsum(lengths[:-1]), "terminal": data.terminal}
    np.savez(tmp_path / "absent.npz", **parts)
    np.savez(tmp_path / "nan.npz", **parts, acts=np.full((sum(lengths), 2), np.nan))
    results = []
    for name in ("absent", "nan"):
        arm = small(kind, PointOrbit(4), Demonstrations.from_path(tmp_path / f"{name}.npz"))
        arm.train(30)
        results.append(arm.policy(torch.ones(4, 4)))
    assert torch.isfinite(results[0]).all()
    assert torch.equal(results[0], results[1])


@pytest.mark.parametrize("kind", [FORM, GAIfO, BCO])
def test_training_is_a_function_of_its_seed(kind, demos):
    def run(seed):
        arm = small(kind, PointOrbit(4), demos[0], seed=seed)
        arm.train(25)
        return arm.policy(torch.ones(4, 4))

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


# The adversary and the clones ----------------------------------------------------------------------------------------


def test_discriminator_reward_and_loss_are_the_public_formulas():
    """As `imitation` has them: the logit reward in softplus form, and binary cross-entropy with logits."""
    demo, mine = (
        5 * torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1)
    )
    chance = torch.sigmoid(mine)
    torch.testing.assert_close(discriminator_reward(mine, "softplus"), -torch.log1p(-chance))
    torch.testing.assert_close(discriminator_reward(mine, "logit"), chance.log() - torch.log1p(-chance))
    labels = torch.cat([torch.ones(2, 9), torch.zeros(2, 9)], 1).double()
    expected = F.binary_cross_entropy_with_logits(torch.cat([demo, mine], 1), labels, reduction="none").mean(1)
    torch.testing.assert_close(discriminator_loss(demo, mine), expected)


def test_gradient_penalty_against_finite_differences():
    torch.manual_seed(0)
    network = SeedMLP(2, (3, 8, 1), activation=torch.tanh).double()
    left, right, mix = torch.randn(2, 4, 3).double(), torch.randn(2, 4, 3).double(), torch.rand(2, 4, 1).double()
    point = left + mix * (right - left)
    slopes = []
    for dim in range(3):
        move = torch.zeros(3, dtype=torch.float64)
        move[dim] = 1e-6
        slopes.append((network(point + move) - network(point - move)).squeeze(-1) / 2e-6)
    expected = (torch.stack(slopes).square().sum(0).sqrt() - 1).square().mean(-1)
    torch.testing.assert_close(gradient_penalty(network, left, right, mix), expected, rtol=1e-5, atol=1e-7)


def test_spectral_normalisation_leaves_layers_of_norm_one(demos):
    torch.manual_seed(0)
    network = SeedMLP(2, (3, 8, 8, 1))
    x = torch.randn(2, 5, 3)
    hidden = x
    for layer, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        normed = torch.stack([matrix / torch.linalg.svdvals(matrix)[0] for matrix in weight])
        hidden = hidden @ normed + bias
        hidden = F.relu(hidden) if layer < 2 else hidden
    torch.testing.assert_close(spectral_logits(network, x), hidden)
    arm = small(GAIfO, PointOrbit(4), demos[0], discriminator=DiscriminatorConfig(hidden=(16,), spectral=True))
    arm.train(20)
    point = arm.train_inputs[0][None, :50].clone().requires_grad_()
    (slope,) = torch.autograd.grad(arm.logits(point).sum(), point)
    assert slope.norm(dim=-1).max() <= 1 + 1e-5
    pair = first_pair(demos[0])
    torch.testing.assert_close(arm.reward_model(*pair), F.softplus(arm.logits(arm.observed(*pair))[..., 0]).detach())


def first_pair(data):
    episode = torch.from_numpy(data.observations[0])
    return episode[None, :-1], episode[None, 1:]


def test_every_method_acts_and_learns_as_often(demos):
    data, actions = demos
    counted = {}
    for kind in (FORM, GAIfO, BCO, TrueReward):
        arm = small(kind, PointOrbit(4), data)
        arm.train(25)
        counted[kind] = (arm.acted, arm.learned)
    # The adversarial loop's first actions are random and teach the policy nothing yet.
    assert set(counted.values()) == {(25, 15), (25, 25)}
    assert counted[FORM] == counted[GAIfO] == counted[TrueReward]
    seen = []
    clone = BC(PointOrbit(4), data, actions=[actions], loop=SMALL)
    clone.train(20, every=5, watch=seen.append)
    assert seen == [5, 10, 15, 20]
    assert (clone.acted, clone.learned) == (0, 20)


def test_the_discriminator_learns_to_tell_and_sees_no_action(demos):
    arm = small(GAIfO, PointOrbit(8), demos[0], discriminator=DiscriminatorConfig(hidden=(32,), lr=1e-2, penalty=0.1))
    for _ in range(30):
        arm.act(random=True)
    assert float(arm.accuracy()) < 0.8
    for _ in range(200):
        arm.learn_reward()
    assert float(arm.accuracy()) > 0.9
    batch = transitions(arm)
    assert torch.equal(arm.reward(batch), arm.reward(batch | {"action": batch["action"] + 1}))
    # More demonstrator-like transitions are worth more.
    shown = arm.held_inputs[0][None]
    assert arm.network(shown).mean() > arm.network(arm._batch_inputs(batch)).mean()


def test_the_inverse_model_recovers_actions_and_labels_the_demonstrations(demos):
    data, actions = demos
    arm = BCO(PointOrbit(8), data, loop=SMALL, cloning=CloningConfig(hidden=(32,), lr=3e-3))
    for _ in range(200):
        arm.act(random=True)
    arm.fit_inverse(800)
    arm.label()
    # v' - .9 v = .3 a + .03 e: labels cannot be better than the noise, .1.
    error = (arm.labels[0] - actions.clamp(-1, 1)).square().mean().sqrt()
    assert float(error) < 0.3
    assert np.corrcoef(arm.labels[0].flatten(), actions.flatten())[0, 1] > 0.9


def test_cloning_with_actions_imitates_the_expert(demos):
    data, actions = demonstrate(TASKS["orbit"], Setting(), episodes=30, seed=1)
    loop = LoopConfig(agent=AgentConfig(hidden=(32, 32)), batch=128)
    arm = BC(PointOrbit(4), data, actions=[actions], loop=loop, cloning=CloningConfig(lr=3e-3))
    arm.train(1500)
    test = PointOrbit(50)
    score = rollout(test, arm.policy, generator=torch.Generator().manual_seed(0)).returns.mean()
    assert score > -60
    with pytest.raises(ValueError, match="actions: expected one for each of 3000"):
        BC(PointOrbit(4), data, actions=[actions[:5]], loop=loop).train(1)


def test_action_gail_sees_actions_and_true_reward_stores_it(demos):
    data, actions = demos
    gail = ActionGAIL(
        PointOrbit(4), data, actions=[actions], discriminator=DiscriminatorConfig(hidden=(8,)), loop=SMALL
    )
    gail.train(20)
    batch = transitions(gail)
    assert not torch.equal(gail.reward(batch), gail.reward(batch | {"action": batch["action"] + 1}))
    reference = TrueReward(PointOrbit(4), data, loop=SMALL, scale=0.5)
    reference.train(20)
    held = transitions(reference)
    p, v = held["obs"][..., :2], held["obs"][..., 2:]
    from paperworks.worlds.points import orbit_velocity

    expected = -(v - orbit_velocity(p)).square().sum(-1) - (p.norm(dim=-1) - 1).square()
    torch.testing.assert_close(reference.reward(held), 0.5 * expected)


# Learners ------------------------------------------------------------------------------------------------------------


class Bandit(World):
    """One step; the reward is highest at the action .5, whatever is observed."""

    obs_dim, action_dim, low, high, horizon = 1, 1, -1.0, 1.0, 1

    def __init__(self, n):
        self.n = n

    def reset(self, *, task=None, where=None, generator=None):
        return torch.randn(self.n, 1, generator=generator)

    def step(self, action):
        over = torch.ones(self.n, dtype=torch.bool)
        return Step(torch.randn(self.n, 1), -((action[:, 0] - 0.5) ** 2), over, ~over)


@pytest.mark.parametrize(
    ("learner", "agent", "steps"),
    [
        ("sac", AgentConfig(hidden=(64,), lr=1e-2), 600),
        ("mpo", AgentConfig(hidden=(32,), lr=3e-3, target_every=20, epsilon_mean=0.05, epsilon_std=0.01), 1200),
    ],
)
def test_learners_find_the_best_action(learner, agent, steps):
    data = Demonstrations.from_arrays([np.random.default_rng(0).normal(size=(5, 1)) for _ in range(2)])
    arm = TrueReward(Bandit(16), data, loop=LoopConfig(agent=agent, batch=64, warmup=100), learner=learner, seeds=2)
    arm.train(steps)
    best = arm.policy(torch.randn(16, 1))
    assert (best - 0.5).abs().mean() < 0.2


def statistics(seeds=1, dim=2):
    return Statistics(*(torch.full((seeds, dim), v) for v in (0.0, 1.0, 0.0, 1.0)))


def random_batch(seeds=1, size=32):
    g = torch.Generator().manual_seed(0)
    batch = {"obs": (2,), "next_obs": (2,), "action": (1,)}
    drawn = {name: torch.randn(seeds, size, *shape, generator=g).tanh() for name, shape in batch.items()}
    return drawn | {"terminal": torch.zeros(seeds, size)}, torch.randn(seeds, size, generator=g)


def test_mpo_stays_where_it_is_when_its_limits_are_nothing():
    """With tiny limits the multipliers hold the policy at the one that drew the actions."""
    obs = torch.randn(1, 64, 2)

    def moved(epsilon_mean, epsilon_std):
        torch.manual_seed(0)
        config = AgentConfig(hidden=(16,), lr=1e-3, dual_lr=0.5, target_every=10_000,
                             epsilon_mean=epsilon_mean, epsilon_std=epsilon_std)  # fmt: skip
        agent = MPO(statistics(), 2, 1, low=-1.0, high=1.0, config=config)
        start = agent.policy.gaussian(obs)[0].detach().clone()
        batch, _ = random_batch()
        generator = torch.Generator().manual_seed(0)
        for _ in range(150):
            agent.update(batch, 5 * batch["action"].squeeze(-1), generator=generator)
        return float((agent.policy.gaussian(obs)[0] - start).abs().mean().detach())

    assert moved(1e-12, 1e-12) < 0.15 * moved(10.0, 10.0)


def test_a_seed_beside_others_learns_as_it_does_alone():
    """The gradient of one seed's loss is its own: losses are summed, optimisers elementwise."""
    torch.manual_seed(0)
    agent = SoftActorCritic(statistics(seeds=2), 2, 1, low=-1.0, high=1.0, config=AgentConfig(hidden=(8,)))
    batch, reward = random_batch(seeds=2)
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.update(batch, reward, generator=torch.Generator().manual_seed(0))
    first = [p.detach().clone() for p in agent.policy.parameters()]
    torch.manual_seed(0)
    again = SoftActorCritic(statistics(seeds=2), 2, 1, low=-1.0, high=1.0, config=AgentConfig(hidden=(8,)))
    changed = reward.clone()
    changed[1] += 100
    other = {name: value.clone() for name, value in batch.items()}
    other["obs"][1] = 0
    again.update(other, changed, generator=torch.Generator().manual_seed(0))
    for start, ours, theirs in zip(before, first, again.policy.parameters(), strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert not torch.equal(ours[0], start[0])


def test_time_limits_are_no_ends(demos):
    form = small(FORM, PointOrbit(4), demos[0])
    form.train(110)
    assert form.replay.newest(440)["terminal"].sum() == 0


# Ends, frames, warnings ----------------------------------------------------------------------------------------------


class InvertedPendulum(World):
    """Gymnasium's InvertedPendulum-v5 on MuJoCo itself: ends when the pole leans more than .2."""

    obs_dim, action_dim, low, high, horizon = 4, 1, -3.0, 3.0, 60

    def __init__(self, n):
        from pathlib import Path

        import gymnasium

        path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "inverted_pendulum.xml"
        self.n = n
        self.model = mujoco.MjModel.from_xml_path(str(path))
        self.data = [mujoco.MjData(self.model) for _ in range(n)]
        self.time = torch.zeros(n, dtype=torch.long)
        self.rng = np.random.default_rng(0)

    def reset(self, *, task=None, where=None, generator=None):
        if generator is not None:
            self.rng = np.random.default_rng(int(torch.randint(2**31 - 1, (), generator=generator)))
        for copy in range(self.n):
            if where is None or where[copy]:
                mujoco.mj_resetData(self.model, self.data[copy])
                self.data[copy].qpos[:] = self.rng.uniform(-0.01, 0.01, 2)
                self.data[copy].qvel[:] = self.rng.uniform(-0.01, 0.01, 2)
                self.time[copy] = 0
        return self.observe()

    def observe(self):
        return torch.tensor(np.array([np.r_[d.qpos, d.qvel] for d in self.data]), dtype=torch.float32)

    def step(self, action):
        for copy, data in enumerate(self.data):
            data.ctrl[:] = float(action[copy].clamp(-3, 3))
            for _ in range(2):
                mujoco.mj_step(self.model, data)
        self.time += 1
        obs = self.observe()
        return Step(obs, torch.ones(self.n), obs[:, 1].abs() > 0.2, self.time >= self.horizon)


def balance(obs, generator):
    force = obs[..., :4] @ torch.tensor([0.6, 20.0, 1.2, 3.5])
    return (force[..., None] + 0.3 * torch.randn(*force.shape, 1, generator=generator)).clamp(-3, 3)


@pytest.fixture(scope="module")
def balancing():
    pytest.importorskip("gymnasium")
    generator = torch.Generator().manual_seed(0)
    done = rollout(InvertedPendulum(10), lambda obs: balance(obs, generator), generator=generator)
    return Demonstrations.from_arrays(done.episodes(), terminal=done.terminal.numpy()), done


def test_ending_early_does_not_pay_once_there_is_an_absorbing_state(balancing):
    """Rewards are about -KL: without the absorbing state a short episode has the higher return; with it the lower."""
    data, done = balancing
    assert not data.terminal.any()
    assert float(done.returns.mean()) == 60

    def returns(absorbing):
        world = InvertedPendulum(6)
        shown = data.with_absorbing(world.horizon) if absorbing else data
        form = FORM(
            AbsorbingState(world) if absorbing else world, shown, effect=EffectConfig(hidden=(32,), epochs=40),
            loop=LoopConfig(agent=AgentConfig(hidden=(16,)), batch=64, warmup=250, window=4_000), absorbing=absorbing,
        )  # fmt: skip
        form.train(250)
        for _ in range(300):
            form.learn_reward()
        sums = []
        generator = torch.Generator().manual_seed(3)
        for policy in (lambda obs: torch.full((6, 1), 3.0), lambda obs: 0.8 * balance(obs, generator)):
            tried = rollout(form.env, policy, generator=generator)
            reward = form.reward_model(tried.obs[:-1].flatten(0, 1)[None], tried.obs[1:].flatten(0, 1)[None])
            sums.append(float((reward.view(tried.alive.shape) * tried.alive).sum(0).mean()))
        return sums

    falling, living = returns(absorbing=True)
    assert falling < living
    fallen, lived = returns(absorbing=False)
    assert falling - living < fallen - lived


def test_demonstrations_that_end_go_on_in_the_absorbing_state():
    data = Demonstrations.from_arrays([np.ones((3, 2)), np.ones((4, 2))], terminal=[True, False])
    longer = data.with_absorbing(6)
    assert [len(e) for e in longer.observations] == [7, 4]
    assert longer.observations[0][:, 2].tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert (longer.observations[0][2:, :2] == 0).all()
    assert (longer.observations[1][:, 2] == 0).all()
    assert not longer.terminal.any()
    assert longer.columns == ("x0", "x1", "absorbing")


def test_stacked_frames_train(demos):
    for kind in (FORM, GAIfO, BCO):
        arm = small(kind, FrameStack(PointOrbit(4), 2), demos[0], frames=2)
        arm.train(20)
        assert arm.policy(torch.ones(4, 8)).shape == (4, 2)


def test_a_dimension_that_moves_against_the_demonstrations_is_named():
    data, _ = demonstrate(TASKS["orbit"], Setting(dims=3), episodes=4, seed=0)
    moving = add_distractors(PointOrbit(4), "ar1", 3, pool=1, seed=0)
    form = small(FORM, moving, data)
    with pytest.warns(UserWarning, match="dimension x4, x5, x6 never changes in the demonstrations"):
        form.train(15)


def test_unfit_arguments_are_refused(demos):
    data = demos[0]
    with pytest.raises(ValueError, match="learner: expected one of sac, mpo"):
        FORM(PointOrbit(4), data, learner="ppo")
    with pytest.raises(ValueError, match="cannot be shared by 3 seeds"):
        FORM(PointOrbit(4), data, seeds=3)
    with pytest.raises(ValueError, match="one for each of 2 seeds, got 3"):
        FORM(PointOrbit(4), [data] * 3, seeds=2)
    other = add_distractors(PointOrbit(4), "iid", 2, pool=1, seed=0)
    with pytest.raises(ValueError, match="observation dimension 4, environment expects 6"):
        FORM(other, data)
