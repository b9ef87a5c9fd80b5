"""Effect models: densities that integrate to one, invariances, what is left out, early stopping, refusals."""

# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

import numpy as np
import pytest
import torch

from paperworks.control.form.effect_model import EffectModel
from paperworks.control.form.reward import form_reward
from paperworks.control.form.statistics import Statistics
from paperworks.data.trajectories import Trajectories


def walks(episodes=12, steps=40, dim=2, seed=0, scale=None, shift=0.0):
    """Autoregressive episodes; every dimension with noise of its own."""
    rng = np.random.default_rng(seed)
    scale = np.ones(dim) if scale is None else np.asarray(scale)
    x = rng.normal(size=(episodes, dim))
    path = [x]
    for _ in range(steps):
        x = 0.8 * x + 0.3 * np.roll(x, 1, 1) * 0.5 + rng.normal(size=x.shape) * np.linspace(0.2, 0.5, dim)
        path.append(x)
    return Trajectories.from_arrays(np.stack(path, 1) * scale + shift)


def fitted(data, *, seed=0, epochs=6, statistics=None, **options):
    torch.manual_seed(seed)
    model = EffectModel(data.dim, hidden=(16,), **options)
    if statistics is not None:
        model.set_statistics(statistics)
    model.fit(data, epochs=epochs, batch=64, generator=torch.Generator().manual_seed(seed))
    return model


def pair(data):
    previous, following, _ = data.transitions()
    return torch.from_numpy(previous), torch.from_numpy(following)


@pytest.mark.parametrize("options", [{}, {"predict": "absolute"}, {"ensemble": 3}, {"covariance": "full"}])
def test_densities_integrate_to_one_in_the_units_of_the_data(options):
    model = fitted(walks(dim=1, scale=[5.0], shift=3.0), **options)
    x_prev = torch.full((20_001, 1), 4.0)
    grid = torch.linspace(-60, 60, 20_001)[:, None]
    with torch.no_grad():
        mass = model.log_prob(x_prev, grid).double().exp().sum() * 120 / 20_000
    assert float(mass) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("options", [{}, {"covariance": "full"}, {"predict": "absolute"}, {"ensemble": 2}])
def test_samples_follow_the_density(options):
    """The mean log-density of samples is minus the entropy, the same by quadrature."""
    model = fitted(walks(dim=2, scale=[1.0, 3.0]), **options)
    x_prev = torch.tensor([0.5, -2.0])
    drawn = model.sample(x_prev.expand(40_000, 2), generator=torch.Generator().manual_seed(0))
    side = torch.linspace(-1, 1, 300)
    grid = torch.stack(torch.meshgrid(x_prev[0] + 5 * side, x_prev[1] + 15 * side, indexing="ij"), -1).view(-1, 2)
    with torch.no_grad():
        log_prob = model.log_prob(x_prev.expand(len(grid), 2), grid).double()
        sampled = model.log_prob(x_prev.expand(len(drawn), 2), drawn).double()
    density = log_prob.exp() * (10 / 299) * (30 / 299)
    assert float(density.sum()) == pytest.approx(1, abs=0.01)
    assert float(sampled.mean()) == pytest.approx(float((density * log_prob).sum()), abs=0.02)
    np.testing.assert_allclose(drawn.mean(0), (density[:, None] * grid).sum(0), atol=0.05)


def test_affine_units_leave_the_ratio_as_it_is():
    scale, shift = np.array([0.02, 700.0]), np.array([5.0, -30.0])
    ratios = []
    for units in ({}, {"scale": scale, "shift": shift}):
        demos, logs = walks(seed=1, **units), walks(seed=2, episodes=6, **units)
        a = fitted(demos)
        b = fitted(walks(seed=3, **units), seed=1, statistics=a.statistics)
        ratios.append(form_reward(a, b, *pair(logs)))
    # The statistics are refitted; only rounding is left, carried through training.
    torch.testing.assert_close(ratios[0], ratios[1], atol=2e-3, rtol=1e-3)
    plain = fitted(walks(seed=1))
    scaled = EffectModel(2, hidden=(16,)).eval()
    moved = [torch.from_numpy(scale).float() * part + torch.from_numpy(shift).float() for part in pair(walks(seed=1))]
    scaled.set_statistics(Statistics.of([tuple(moved)]))
    scaled.load_state_dict(plain.state_dict())
    x_prev, x = pair(walks(seed=2))
    units = torch.from_numpy(scale).float(), torch.from_numpy(shift).float()
    theirs = scaled.log_prob(*(units[0] * part + units[1] for part in (x_prev, x))) + float(np.log(scale).sum())
    torch.testing.assert_close(plain.log_prob(x_prev, x), theirs, atol=5e-3, rtol=1e-3)


def test_reward_is_zero_for_one_model_and_refused_for_other_statistics():
    model = fitted(walks())
    x_prev, x = pair(walks(seed=5))
    assert form_reward(model, model, x_prev, x).abs().max() == 0
    other = fitted(walks(seed=9))
    with pytest.raises(ValueError, match="must share normalisation statistics"):
        form_reward(model, other, x_prev, x)


def test_reward_is_clipped_scaled_and_without_gradient():
    a = fitted(walks())
    b = fitted(walks(seed=3), seed=1, statistics=a.statistics)
    x_prev, x = pair(walks(seed=5))
    far = x + 100
    raw = (a.log_prob(x_prev, far) - b.log_prob(x_prev, far)).detach()
    reward = form_reward(a, b, x_prev, far, clip=10.0, scale=0.5)
    torch.testing.assert_close(reward, 0.5 * raw.clamp(-10, 10))
    assert not reward.requires_grad


def test_constant_differences_are_inputs_but_not_likelihood():
    data = walks()
    static = [np.concatenate([e, np.full((len(e), 1), float(i % 2))], 1) for i, e in enumerate(data.observations)]
    data = Trajectories.from_arrays(static)
    model = fitted(data)
    assert model.statistics.moving.tolist() == [0, 1]
    x_prev, x = pair(data)
    per_dim = model.log_prob_per_dim(x_prev, x)
    assert (per_dim[:, 2] == 0).all()
    assert (per_dim[:, :2] != 0).any()
    jumped = x.clone()
    jumped[:, 2] += 5
    torch.testing.assert_close(model.log_prob(x_prev, x), model.log_prob(x_prev, jumped))
    flipped = x_prev.clone()
    flipped[:, 2] = 1 - flipped[:, 2]
    moved = x.clone()
    moved[:, 2] = flipped[:, 2]
    assert not torch.allclose(model.log_prob(x_prev, x), model.log_prob(flipped, moved))
    # An absolute model has them in its likelihood: the value varies between episodes.
    assert fitted(data, predict="absolute", epochs=1).statistics.varying.tolist() == [0, 1, 2]


def test_fixed_dimensions_stay_in_the_likelihood():
    data = Trajectories.from_arrays([np.pad(e, ((0, 0), (0, 1))) for e in walks().observations])
    model = EffectModel(3, hidden=(16,))
    model.fit(data, epochs=60, fixed=(2,), generator=torch.Generator().manual_seed(0))
    x_prev, x = pair(data)
    jumped = x.clone()
    jumped[:, 2] = 1
    assert (model.log_prob(x_prev, jumped) < model.log_prob(x_prev, x) - 20).all()


def test_appended_constants_leave_the_reward_to_refit_noise():
    """The same data with constant dimensions: the ratio moves no more than with another seed."""
    demos, logs = walks(episodes=60, seed=1), walks(episodes=60, seed=2)

    def reward(pad, seed):
        sides = [
            Trajectories.from_arrays([np.pad(e, ((0, 0), (0, pad)), constant_values=3.0) for e in part.observations])
            for part in (demos, logs)
        ]
        a = fitted(sides[0], seed=seed)
        b = fitted(sides[1], seed=seed + 50, statistics=a.statistics)
        return form_reward(a, b, *pair(sides[1]), scale=1.0)

    plain, other, padded = reward(0, 0), reward(0, 1), reward(3, 0)
    assert (plain - padded).abs().mean() < 2 * (plain - other).abs().mean()
    assert abs(float(padded.mean())) < 0.05


def test_an_independent_dimension_with_equal_marginals_adds_nothing():
    demos, logs = walks(episodes=60, seed=1), walks(episodes=60, seed=2)
    rng = np.random.default_rng(0)
    sides = [
        Trajectories.from_arrays([np.c_[e, rng.normal(size=len(e))] for e in part.observations])
        for part in (demos, logs)
    ]
    a = fitted(sides[0], epochs=15)
    b = fitted(sides[1], seed=1, epochs=15, statistics=a.statistics)
    fresh = Trajectories.from_arrays([np.c_[e, rng.normal(size=len(e))] for e in walks(60, seed=7).observations])
    with torch.no_grad():
        ratio = a.log_prob_per_dim(*pair(fresh)) - b.log_prob_per_dim(*pair(fresh))
    episodes = ratio[:, 2].view(60, -1).mean(1)
    assert abs(float(episodes.mean())) < 3 * float(episodes.std()) / 60**0.5


def test_permuting_dimensions_permutes_the_terms():
    model = fitted(walks(dim=3))
    order = torch.tensor([2, 0, 1])
    twin = EffectModel(3, hidden=(16,)).eval()
    known = model.statistics
    twin.set_statistics(Statistics(*(p[:, order] for p in (known.mean, known.std, known.delta_mean, known.delta_std))))
    twin.load_state_dict(model.state_dict())
    k = model.components
    with torch.no_grad():
        twin.network.weights[0].copy_(model.network.weights[0][:, order])
        for ours, theirs in ((twin.network.weights[-1], model.network.weights[-1]),
                             (twin.network.biases[-1], model.network.biases[-1])):  # fmt: skip
            heads = theirs[..., k:].view(*theirs.shape[:-1], 2, k, 3)[..., order]
            ours[..., k:] = heads.reshape(*theirs.shape[:-1], -1)
    x_prev, x = pair(walks(dim=3, seed=4))
    torch.testing.assert_close(
        twin.log_prob_per_dim(x_prev[:, order], x[:, order]), model.log_prob_per_dim(x_prev, x)[:, order]
    )
    torch.testing.assert_close(twin.log_prob(x_prev[:, order], x[:, order]), model.log_prob(x_prev, x))


def test_seeds_side_by_side_are_models_of_their_own():
    sets = [walks(seed=1), walks(seed=2, episodes=7)]
    torch.manual_seed(0)
    both = EffectModel(2, hidden=(16,), seeds=2, ensemble=2)
    history = both.fit(sets, epochs=5, batch=64, generator=torch.Generator().manual_seed(0))
    assert history.train.shape == history.valid.shape == (5, 4)
    x_prev, x = (torch.stack([part, part]) for part in pair(walks(seed=3)))
    together = both.log_prob(x_prev, x)
    for seed in range(2):
        torch.testing.assert_close(both.only(seed).log_prob(x_prev[seed], x[seed]), together[seed])
    assert not torch.allclose(together[0], together[1])


def test_the_kept_epoch_is_the_best_held_out_one():
    torch.manual_seed(0)
    model = EffectModel(2, hidden=(64, 64))
    data = walks(episodes=5, steps=15)
    history = model.fit(data, epochs=60, lr=1e-2, valid_fraction=0.2, generator=torch.Generator().manual_seed(3))
    best = int(history.best[0])
    assert history.valid[best, 0] == history.valid.max()
    assert best < 59
    order = torch.randperm(5, generator=torch.Generator().manual_seed(3))
    previous, following, number = data.transitions()
    held = number == int(order[0])
    with torch.no_grad():
        again = model.log_prob(torch.from_numpy(previous[held]), torch.from_numpy(following[held])).mean()
    assert float(again) == pytest.approx(history.valid.max(), abs=1e-4)


def test_a_fit_that_diverges_is_not_kept():
    torch.manual_seed(0)
    model = EffectModel(2, hidden=(16,))
    data = walks()
    with pytest.raises(ValueError, match="no epoch had a finite held-out likelihood"):
        model.fit(data, epochs=2, lr=float("inf"), generator=torch.Generator().manual_seed(0))


def test_an_ensemble_is_the_mean_of_its_members_densities():
    model = fitted(walks(), ensemble=3)
    x_prev, x = pair(walks(seed=3))
    members = model.member_log_prob(x_prev.expand(3, -1, -1), x.expand(3, -1, -1))
    torch.testing.assert_close(model.log_prob(x_prev, x), members.exp().mean(0).log())
    assert members.std(0).mean() > 0


def test_frames_widen_the_input():
    torch.manual_seed(0)
    model = EffectModel(2, hidden=(8,), frames=3)
    data = walks()
    model.fit(data, epochs=1, generator=torch.Generator().manual_seed(0))
    previous, following, _ = data.transitions(3)
    assert model.log_prob(torch.from_numpy(previous), torch.from_numpy(following)).shape == (data.steps,)
    with pytest.raises(ValueError, match=r"x_prev: expected \(B, 6\)"):
        model.log_prob(torch.zeros(3, 2), torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 0}, "components: expected at least 1"),
        ({"covariance": "block"}, "covariance: expected"),
        ({"predict": "next"}, "predict: expected"),
        ({"noise": -1.0}, "noise, min_scale"),
        ({"min_scale": 2.0}, "noise, min_scale"),
    ],
)
def test_unfit_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EffectModel(2, **options)


def test_unfit_data_are_refused():
    model = EffectModel(3)
    with pytest.raises(ValueError, match="no statistics yet"):
        model.log_prob(torch.zeros(1, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="observation dimension 2, environment expects 3"):
        model.fit(walks())
    with pytest.raises(ValueError, match="expected at least 2 episodes"):
        EffectModel(2).fit(walks(episodes=1))
    with pytest.raises(ValueError, match="expected 1 sets"):
        EffectModel(2).fit([walks(), walks()])
    with pytest.raises(ValueError, match="no dimension ever changes"):
        EffectModel(1).fit(Trajectories.from_arrays([np.ones((4, 1)), np.ones((4, 1))]))
    with pytest.raises(ValueError, match="statistics: expected 1 seeds of dimension 3"):
        model.set_statistics(Statistics.of([pair(walks())]))
