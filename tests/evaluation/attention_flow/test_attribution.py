"""Attributions of a model's own output, against formulas that are known for simple functions."""

import numpy as np
import pytest
import torch
from flow_twins import capacities, enumerated_shapley, random_attention

from paperworks.evaluation.attention_flow.attribution import input_gradients, leave_one_out, token_shapley
from paperworks.evaluation.attention_flow.flow import attention_flow
from paperworks.evaluation.attention_flow.saturation import degeneracy

WEIGHTS = torch.tensor([3.0, -1.0, 0.5, 2.0])


def linear(inputs):
    return inputs.double() @ WEIGHTS.double()


def test_a_linear_model_gives_its_terms():
    inputs, baseline = torch.tensor([2.0, 1.0, 4.0, -1.0]), 1.0
    expected = (WEIGHTS * (inputs - baseline)).double()
    torch.testing.assert_close(token_shapley(linear, inputs, baseline=baseline).phi, expected)
    torch.testing.assert_close(leave_one_out(linear, inputs, baseline=baseline), expected)
    sampled = token_shapley(linear, inputs, baseline=baseline, exact_up_to=2, n_permutations=4)
    torch.testing.assert_close(sampled.phi, expected)
    assert not sampled.exact
    assert sampled.stderr.max() < 1e-12


def interacting(inputs):
    x = inputs.double()
    return x[:, 0] * x[:, 1] * x[:, 4] + (x[:, 2] > x[:, 3]).double() * x[:, 4]


def test_interactions_against_the_formula():
    inputs = torch.tensor([2.0, 3.0, 1.0, 0.5, 4.0])

    def value(chosen):
        kept = torch.zeros(5)
        kept[list(chosen)] = inputs[list(chosen)]
        return interacting(kept[None]).item()

    expected = enumerated_shapley(value, 5)
    found = token_shapley(interacting, inputs, baseline=0.0, batch_size=7)
    np.testing.assert_allclose(found.phi, expected, atol=1e-12)
    sampled = token_shapley(interacting, inputs, baseline=0.0, exact_up_to=2, n_permutations=800, seed=3)
    assert (np.abs(sampled.phi.numpy() - expected) <= 4 * sampled.stderr.numpy() + 1e-9).all()
    assert sampled.stderr.max() > 0
    loo = leave_one_out(interacting, inputs, baseline=0.0)
    torch.testing.assert_close(loo, torch.tensor([24.0, 24.0, 4.0, 0.0, 28.0]).double())


def test_only_players_are_replaced():
    inputs, players = torch.tensor([2.0, 1.0, 4.0, -1.0]), torch.tensor([True, False, True, False])
    seen = []

    def watched(batch):
        seen.append(batch.clone())
        return linear(batch)

    found = token_shapley(watched, inputs, baseline=0.0, players=players)
    assert len(torch.cat(seen)) == 4
    assert (torch.cat(seen)[:, [1, 3]] == inputs[[1, 3]]).all()
    torch.testing.assert_close(found.phi, torch.tensor([6.0, 0.0, 2.0, 0.0]).double())
    assert leave_one_out(linear, inputs, baseline=0.0, players=players)[1] == 0


def test_tokens_may_be_ids_or_vectors():
    table = torch.randn(5, 3, dtype=torch.float64)
    ids = torch.tensor([4, 2, 0])
    of_ids = token_shapley(lambda batch: table[batch].sum((1, 2)).tanh(), ids, baseline=1)
    of_vectors = token_shapley(lambda batch: batch.sum((1, 2)).tanh(), table[ids], baseline=table[1])
    torch.testing.assert_close(of_ids.phi, of_vectors.phi)


def test_gradients():
    embeddings = torch.randn(4, 3)
    point = embeddings.clone().requires_grad_()
    (point.square().sum(-1) @ WEIGHTS).backward()

    def model(batch):
        return batch.square().sum(-1) @ WEIGHTS

    torch.testing.assert_close(input_gradients(model, embeddings), (point.grad * embeddings).sum(-1).double())
    norms = input_gradients(model, embeddings, times_input=False)
    torch.testing.assert_close(norms, point.grad.norm(dim=-1).double())
    with torch.no_grad():
        torch.testing.assert_close(input_gradients(model, embeddings, times_input=False), norms)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"model_fn: expected one number per input, shape \(16,\), got \(16, 4\)"):
        token_shapley(lambda batch: batch, torch.zeros(4), baseline=0.0)
    with pytest.raises(ValueError, match="n_permutations: expected at least 4"):
        token_shapley(linear, torch.zeros(4), baseline=0.0, n_permutations=2)
    with pytest.raises(ValueError, match="baseline: shape"):
        leave_one_out(linear, torch.zeros(4), baseline=torch.zeros(3))
    with pytest.raises(ValueError, match="players: expected"):
        leave_one_out(linear, torch.zeros(4), baseline=0.0, players=torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"embeddings: expected \(n, d\)"):
        input_gradients(linear, torch.zeros(4))
    with pytest.raises(ValueError, match="does not depend on the embeddings"):
        input_gradients(lambda batch: torch.zeros(len(batch)), torch.zeros(4, 2))


def test_degeneracy_of_deep_and_shallow_graphs():
    attention = random_attention(0, 12, 10)
    deep = degeneracy(attention)
    assert deep.trivial_share.item() == 1.0
    assert deep.variation.item() < 1e-9
    shallow = degeneracy(attention, source_layer=1)
    flows = attention_flow(attention, source_layer=1)[0].numpy()
    trivial = np.minimum(1, capacities(attention)[0].sum(0))
    assert shallow.trivial_share.item() == pytest.approx((np.abs(flows - trivial) < 1e-6).mean())
    assert shallow.variation.item() == pytest.approx(np.ptp(flows, axis=0).mean())
    assert shallow.trivial_share.item() < 0.3
    assert "100% of flows are column sums of the first layer" in str(deep)


def test_degeneracy_counts_kept_tokens_alone():
    attention = random_attention(1, 3, 6, batch=2)
    mask = torch.tensor([[True] * 6, [True, True, True, True, False, False]])
    found = degeneracy(attention, mask=mask)
    small = attention[1][..., :4, :4]
    small = small / small.sum(-1, keepdim=True)
    alone = degeneracy(small)
    assert found.trivial_share[1].item() == pytest.approx(alone.trivial_share.item())
    assert found.variation[1].item() == pytest.approx(alone.variation.item())
