"""Losses against slow twins written from the papers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperworks.train.rl import awac_loss, gae, gaussian_kl, mpo_losses, mpo_temperature_dual, ppo_losses, sac_losses


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sac_losses_against_a_loop():
    q, next_q, new_q = draw(2, 3, 5, seed=1), draw(2, 3, 5, seed=2), draw(2, 3, 5, seed=3)
    log_prob, next_log_prob, reward = draw(3, 5, seed=4), draw(3, 5, seed=5), draw(3, 5, seed=6)
    terminal = (draw(3, 5, seed=7) > 0.5).double()
    losses = sac_losses(q=q, next_q=next_q, next_log_prob=next_log_prob, reward=reward, terminal=terminal,
                        new_q=new_q, log_prob=log_prob, discount=0.9, entropy=0.3)  # fmt: skip
    for s in range(3):
        critic = actor = 0.0
        for b in range(5):
            soft = min(next_q[0, s, b], next_q[1, s, b]) - 0.3 * next_log_prob[s, b]
            y = reward[s, b] + 0.9 * (1 - terminal[s, b]) * soft
            critic += ((q[0, s, b] - y) ** 2 + (q[1, s, b] - y) ** 2) / 5
            actor += (0.3 * log_prob[s, b] - min(new_q[0, s, b], new_q[1, s, b])) / 5
        assert float(losses.critic[s]) == pytest.approx(float(critic))
        assert float(losses.actor[s]) == pytest.approx(float(actor))


def test_sac_stops_the_target():
    parts = {name: draw(2, 1, 4, seed=i).requires_grad_() for i, name in enumerate(("q", "next_q", "new_q"))}
    rest = {"next_log_prob": draw(1, 4), "reward": draw(1, 4), "terminal": torch.zeros(1, 4), "log_prob": draw(1, 4)}
    sum(sac_losses(**parts, **rest, discount=0.9, entropy=0.1)).sum().backward()
    assert parts["next_q"].grad is None
    assert parts["q"].grad.abs().sum() > 0


def test_awac_weights_are_a_softmax_and_stopped():
    log_prob, advantage = draw(2, 6).requires_grad_(), draw(2, 6, seed=1).requires_grad_()
    loss = awac_loss(log_prob, advantage, temperature=0.5)
    weight = np.exp(advantage.detach().numpy() / 0.5)
    weight = 6 * weight / weight.sum(1, keepdims=True)
    np.testing.assert_allclose(loss.detach(), -(weight * log_prob.detach().numpy()).mean(1))
    loss.sum().backward()
    assert advantage.grad is None
    np.testing.assert_allclose(log_prob.grad, -weight / 6)
    torch.testing.assert_close(awac_loss(log_prob, advantage, temperature=1e9), -log_prob.mean(1))
    with pytest.raises(ValueError, match="temperature"):
        awac_loss(log_prob, advantage, temperature=0.0)


def test_ppo_is_the_policy_gradient_at_the_old_policy_and_clips_beyond():
    log_prob = draw(1, 5).requires_grad_()
    advantage, value, returns = draw(1, 5, seed=1), draw(1, 5, seed=2), draw(1, 5, seed=3)
    same = ppo_losses(
        log_prob=log_prob, old_log_prob=log_prob.detach(), advantage=advantage, value=value, returns=returns
    )
    (grad,) = torch.autograd.grad(same.policy.sum(), log_prob)
    torch.testing.assert_close(grad, -advantage / 5)
    assert float(same.value) == pytest.approx(float(((value - returns) ** 2).mean()))
    assert float(same.clipped) == 0
    moved = torch.tensor([[0.5, 0.5, -0.5, -0.5]], dtype=torch.float64).requires_grad_()
    signs = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    zero = torch.zeros(1, 4, dtype=torch.float64)
    far = ppo_losses(log_prob=moved, old_log_prob=zero, advantage=signs, value=zero, returns=zero)
    (grad,) = torch.autograd.grad(far.policy.sum(), moved)
    # Ratios above 1.2 with a positive advantage, and below .8 with a negative one, get no gradient.
    assert (grad[0] == 0).tolist() == [True, False, False, True]


@given(st.integers(0, 1000))
def test_gae_against_a_plain_recursion(seed):
    rng = np.random.default_rng(seed)
    steps, discount, lam = 7, 0.9, 0.8
    rewards, values, following = rng.normal(size=(3, steps))
    terminal = rng.random(steps) < 0.2
    truncated = ~terminal & (rng.random(steps) < 0.2)
    expected, running = np.zeros(steps), 0.0
    for t in reversed(range(steps)):
        bootstrap = 0.0 if terminal[t] else following[t]
        delta = rewards[t] + discount * bootstrap - values[t]
        running = delta + (0.0 if terminal[t] or truncated[t] else discount * lam * running)
        expected[t] = running
    tensors = [torch.from_numpy(x) for x in (rewards, values, terminal, truncated)]
    advantages, targets = gae(*tensors, discount=discount, lam=lam, next_values=torch.from_numpy(following))
    np.testing.assert_allclose(advantages, expected)
    np.testing.assert_allclose(targets, expected + values)


def test_gae_asks_for_the_values_it_needs():
    x = torch.zeros(4, 2)
    cut = torch.zeros(4, 2)
    cut[1] = 1
    with pytest.raises(ValueError, match="values: expected 5"):
        gae(x, x, x, x, discount=0.9, lam=0.9)
    with pytest.raises(ValueError, match="next_values"):
        gae(x, torch.zeros(5, 2), x, cut, discount=0.9, lam=0.9)


# MPO -----------------------------------------------------------------------------------------------------------------


def mpo_inputs(samples=64, batch=5, dim=2):
    return {
        "q": draw(samples, 1, batch, seed=1),
        "u": draw(samples, 1, batch, dim, seed=2),
        "mean": draw(1, batch, dim, seed=3),
        "log_std": 0.1 * draw(1, batch, dim, seed=4),
        "target_mean": draw(1, batch, dim, seed=5),
        "target_log_std": 0.1 * draw(1, batch, dim, seed=6),
        "eta": torch.tensor([0.7], dtype=torch.float64),
        "alpha_mean": torch.tensor([[1.5, 0.5]], dtype=torch.float64),
        "alpha_std": torch.tensor([[2.0, 3.0]], dtype=torch.float64),
    }


def test_mpo_against_numpy():
    inputs = mpo_inputs()
    losses = mpo_losses(**inputs, epsilon=0.1, epsilon_mean=0.01, epsilon_std=0.001)
    n = {name: value.numpy()[:, 0] if name in ("q", "u") else value.numpy()[0] for name, value in inputs.items()}
    weight = np.exp(n["q"] / 0.7)
    dual = 0.7 * 0.1 + 0.7 * np.mean(np.log(weight.mean(0)))
    weight /= weight.sum(0)

    def log_normal(mean, log_std):
        z = (n["u"] - mean) / np.exp(log_std)
        return (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)

    likelihood = weight * (log_normal(n["mean"], n["target_log_std"]) + log_normal(n["target_mean"], n["log_std"]))
    variance, target_variance = np.exp(2 * n["log_std"]), np.exp(2 * n["target_log_std"])
    kl_mean = (0.5 * (n["mean"] - n["target_mean"]) ** 2 / target_variance).mean(0)
    kl_std = (0.5 * (target_variance / variance - 1 + np.log(variance / target_variance))).mean(0)
    policy = -likelihood.sum(0).mean() + (n["alpha_mean"] * kl_mean + n["alpha_std"] * kl_std).sum()
    dual += (n["alpha_mean"] * (0.01 - kl_mean) + n["alpha_std"] * (0.001 - kl_std)).sum()
    assert float(losses.policy) == pytest.approx(policy)
    assert float(losses.dual) == pytest.approx(dual)
    np.testing.assert_allclose(losses.kl_mean[0], kl_mean)
    np.testing.assert_allclose(losses.kl_std[0], kl_std)


def test_the_temperature_of_the_dual_keeps_the_e_step_at_its_limit():
    """At the dual's minimum the weights' KL from uniform is epsilon: the Lagrange condition."""
    q = draw(4000, 1, 8, seed=0)
    raw = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        mpo_temperature_dual(q, raw.exp(), epsilon=0.1).sum().backward()
        optimizer.step()
    weight = torch.softmax(q / raw.exp().detach()[:, None], 0)
    divergence = (weight * torch.log(weight * len(q))).sum(0).mean()
    assert float(divergence) == pytest.approx(0.1, rel=0.01)


def test_gaussian_kl_against_torch():
    mean, log_std, other, other_std = (draw(2, 3, 2, seed=i) for i in range(4))
    p, q = torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(other, other_std.exp())
    torch.testing.assert_close(gaussian_kl(mean, log_std, other, other_std), torch.distributions.kl_divergence(p, q))


def test_mpo_weights_are_no_path_for_gradients():
    inputs = {name: value.requires_grad_() for name, value in mpo_inputs().items()}
    losses = mpo_losses(**inputs)
    names = list(inputs)
    policy = torch.autograd.grad(losses.policy.sum(), [inputs[n] for n in names], allow_unused=True, retain_graph=True)
    dual = torch.autograd.grad(losses.dual.sum(), [inputs[n] for n in names], allow_unused=True)
    assert {n for n, g in zip(names, policy, strict=True) if g is not None} == {"mean", "log_std"}
    assert {n for n, g in zip(names, dual, strict=True) if g is not None} == {"eta", "alpha_mean", "alpha_std"}
