"""Log-probabilities by gather and logsumexp against the plain softmax, their gradients, and their memory."""

import pytest
import torch
from torch.nn import functional as F

from paperworks.nn.log_prob import CHUNK, linear_log_prob, sequence_log_prob, token_log_prob
from paperworks.testing import peak_bytes

B, T, V, D = 3, 5, 11, 7


def make(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(B, T, D, generator=generator, dtype=dtype)
    weight, bias = torch.randn(V, D, generator=generator, dtype=dtype), torch.randn(V, generator=generator, dtype=dtype)
    ids = torch.randint(V, (B, T), generator=generator)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True, False, True, False, False]])
    return states, weight, bias, ids, mask


@pytest.mark.parametrize("chunk", [1, 2 * V, CHUNK])
def test_equals_the_log_softmax(chunk):
    states, weight, bias, ids, mask = make()
    logits = F.linear(states, weight, bias)
    expected = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0] * mask
    torch.testing.assert_close(
        token_log_prob(logits, ids, mask=mask, chunk=chunk).double(), expected, atol=1e-5, rtol=0
    )
    fused = linear_log_prob(states, weight, ids, bias=bias, mask=mask, chunk=chunk)
    torch.testing.assert_close(fused.double(), expected, atol=1e-5, rtol=0)


def test_ignored_ids_and_infinite_logits_under_the_mask_do_no_harm():
    states, weight, bias, ids, mask = make()
    logits = F.linear(states, weight, bias)
    spoiled, wrong = logits.masked_fill(~mask[..., None], float("nan")), ids.masked_fill(~mask, -100)
    torch.testing.assert_close(token_log_prob(spoiled, wrong, mask=mask), token_log_prob(logits, ids, mask=mask))


def test_gradients_are_those_of_cross_entropy():
    states, weight, bias, ids, mask = make(dtype=torch.float32)
    leaves = [tensor.clone().requires_grad_() for tensor in (states, weight, bias)]
    ours = torch.autograd.grad(
        -linear_log_prob(leaves[0], leaves[1], ids, bias=leaves[2], mask=mask, chunk=V).sum(), leaves
    )
    labels = ids.masked_fill(~mask, -100)
    loss = F.cross_entropy(F.linear(*leaves).flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    for mine, theirs in zip(ours, torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_sequences_are_summed_or_averaged_over_what_counts():
    _, _, _, _ids, mask = make()
    tokens = torch.arange(15.0).reshape(B, T)
    assert sequence_log_prob(tokens, mask, normalize=False).tolist() == [10.0, 18.0, 22.0]
    assert sequence_log_prob(tokens, mask).tolist() == [2.0, 6.0, 11.0]
    with pytest.raises(ValueError, match="sequence 1 has no token"):
        sequence_log_prob(tokens, mask & torch.tensor([[True], [False], [True]]))


def test_memory_is_that_of_one_chunk_not_of_all_logits():
    states, weight = torch.randn(8, 64, 16), torch.randn(4096, 16)
    ids = torch.randint(4096, (8, 64))
    with torch.no_grad():
        small = peak_bytes(lambda: linear_log_prob(states, weight, ids, chunk=16 * 4096))
    assert small < 8 * 64 * 4096 * 4 / 4


def test_bad_input_is_named():
    states, weight, bias, ids, mask = make()
    logits = F.linear(states, weight, bias)
    with pytest.raises(ValueError, match="logits: expected"):
        token_log_prob(logits[:, :-1], ids)
    with pytest.raises(ValueError, match="states: expected"):
        linear_log_prob(states[..., :-1], weight, ids)
    with pytest.raises(ValueError, match=r"ids: expected 0\.\.10, got -100; mask out the padding"):
        token_log_prob(logits, ids.masked_fill(~mask, -100))
    with pytest.raises(ValueError, match="chunk"):
        token_log_prob(logits, ids, chunk=0)
    with pytest.raises(ValueError, match="mask"):
        token_log_prob(logits, ids, mask=mask.float())
