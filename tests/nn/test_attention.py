"""Attention against PyTorch's own module and against equations written out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paperworks.nn import AttentionMixing, BlockOptions, CrossAttentionMixing, MixerEncoder
from paperworks.nn.attention import apply_rotary
from paperworks.testing import (
    assert_causal,
    assert_mask_respected,
    assert_permutation_equivariant,
    check_mixer,
)

DIM, HEADS = 16, 4


def loud(mixer: nn.Module, seed: int = 0) -> nn.Module:
    """Weights large enough for attention to be far from uniform, biases that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return mixer.eval()


class DistanceBias(nn.Module):
    """A learned number per head and clipped distance."""

    def __init__(self, heads: int, reach: int = 3) -> None:
        super().__init__()
        self.reach = reach
        self.table = nn.Parameter(torch.randn(heads, 2 * reach + 1))

    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return self.table[:, (queries[:, None] - keys).clamp(-self.reach, self.reach) + self.reach]


def peer(mixer: AttentionMixing) -> nn.MultiheadAttention:
    other = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    with torch.no_grad():
        other.in_proj_weight.copy_(mixer.qkv.weight)
        other.in_proj_bias.copy_(mixer.qkv.bias)
        other.out_proj.weight.copy_(mixer.output.weight)
        other.out_proj.bias.copy_(mixer.output.bias)
    return other.eval()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_multihead_attention(causal: bool, masked: bool) -> None:
    mixer = loud(AttentionMixing(DIM, HEADS, causal=causal))
    x = torch.randn(3, 7, DIM)
    mask = torch.arange(7) < torch.tensor([7, 4, 1])[:, None] if masked else None
    future = ~torch.ones(7, 7, dtype=torch.bool).tril() if causal else None
    expected, weights = peer(mixer)(
        x, x, x, key_padding_mask=None if mask is None else ~mask, attn_mask=future, average_attn_weights=False
    )
    kept = torch.ones(3, 7, dtype=torch.bool) if mask is None else mask
    torch.testing.assert_close(mixer(x, mask=mask)[kept], expected[kept], atol=1e-5, rtol=1e-5)
    ours = mixer.attention_weights(x, mask=mask).transpose(1, 2)[kept]
    torch.testing.assert_close(ours, weights.transpose(1, 2)[kept], atol=1e-5, rtol=1e-5)


def numpy_attention(mixer: AttentionMixing, x: np.ndarray, keep: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """One example (N, D), loops over heads and queries, rotary by complex numbers, float64."""
    weight, offset = mixer.qkv.weight.detach().double().numpy(), mixer.qkv.bias.detach().double().numpy()
    query, key, value = np.split(x @ weight.T + offset, 3, axis=1)
    size, width = len(x), DIM // HEADS
    out = np.zeros_like(x)
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        q, k, v = query[:, part], key[:, part], value[:, part]
        if mixer.rotary:
            turn = np.exp(1j * np.arange(size)[:, None] * 10_000.0 ** (-2 * np.arange(width // 2) / width))
            q, k = ((y[:, : width // 2] + 1j * y[:, width // 2 :]) * turn for y in (q, k))
            logits = (q @ k.conj().T).real
        else:
            logits = q @ k.T
        for n in range(size):
            seen = [m for m in range(size) if keep[m] and (m <= n or not mixer.causal)]
            if not seen:
                continue
            scores = np.array([logits[n, m] / width**0.5 + bias[head, n, m] for m in seen])
            scores = np.exp(scores - scores.max())
            out[n, part] = scores @ v[seen] / scores.sum()
    return out @ mixer.output.weight.detach().double().numpy().T + mixer.output.bias.detach().double().numpy()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_equals_the_loops(causal: bool, rotary: bool, biased: bool) -> None:
    torch.manual_seed(1)
    bias = DistanceBias(HEADS) if biased else None
    mixer = loud(AttentionMixing(DIM, HEADS, causal=causal, rotary=rotary, bias=bias))
    x = torch.randn(2, 6, DIM)
    mask = torch.tensor([[True, True, False, True, True, False], [False, True, True, True, True, True]])
    positions = torch.arange(6)
    added = bias(positions, positions).detach().double().numpy() if bias is not None else np.zeros((HEADS, 6, 6))
    got = mixer(x, mask=mask)
    for row in range(2):
        expected = numpy_attention(mixer, x[row].double().numpy(), mask[row].numpy(), added)
        np.testing.assert_allclose(
            got[row][mask[row]].detach().numpy(), expected[mask[row].numpy()], atol=1e-5, rtol=1e-5
        )


@given(shift=st.integers(0, 500), width=st.sampled_from([2, 6, 8]))
def test_rotary_sees_distances_only(shift: int, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    q, k = torch.randn(2, 5, width, generator=generator)
    positions = torch.arange(5)
    near = apply_rotary(q, positions) @ apply_rotary(k, positions).T
    far = apply_rotary(q, positions + shift) @ apply_rotary(k, positions + shift).T
    torch.testing.assert_close(near, far, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(apply_rotary(q, positions).norm(dim=-1), q.norm(dim=-1))
    # A later key is not an earlier one: the sign of the angle matters.
    assert not torch.allclose(near, apply_rotary(q, -positions) @ apply_rotary(k, positions).T, atol=1e-2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_contract(causal: bool, rotary: bool, biased: bool) -> None:
    torch.manual_seed(0)
    bias = DistanceBias(HEADS) if biased else None
    check_mixer(
        lambda layer: loud(AttentionMixing(DIM, HEADS, causal=causal, rotary=rotary, bias=bias), layer), dim=DIM
    )


def test_properties() -> None:
    x = torch.randn(3, 9, DIM)
    assert_permutation_equivariant(loud(AttentionMixing(DIM, HEADS)), x)
    with pytest.raises(AssertionError):
        assert_permutation_equivariant(loud(AttentionMixing(DIM, HEADS, rotary=True)), x)
    with pytest.raises(AssertionError):
        assert_causal(loud(AttentionMixing(DIM, HEADS)), x)


def test_gradients() -> None:
    mixer = loud(AttentionMixing(4, 2, rotary=True, causal=True)).double()
    mask = torch.tensor([[True, False, True]])
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: mixer(y, mask=mask)[mask], x)


def test_attention_weights_are_those_of_forward() -> None:
    mixer = loud(AttentionMixing(DIM, HEADS, rotary=True, bias=DistanceBias(HEADS)))
    x, mask = torch.randn(2, 5, DIM), torch.tensor([[True] * 5, [True, True, True, False, False]])
    weights = mixer.attention_weights(x, mask=mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 5))
    assert not weights[1, :, :, 3:].any()
    value = mixer.qkv(x.masked_fill(~mask[..., None], 0)).chunk(3, -1)[2]
    mixed = weights @ value.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    torch.testing.assert_close(
        mixer.output(mixed.transpose(1, 2).flatten(2)), mixer(x, mask=mask), atol=1e-5, rtol=1e-5
    )


def test_dropout_only_while_training() -> None:
    mixer = loud(AttentionMixing(DIM, HEADS, dropout=0.5))
    x = torch.randn(2, 9, DIM)
    assert torch.equal(mixer(x), mixer(x))
    mixer.train()
    assert not torch.allclose(mixer(x), mixer(x))
    torch.testing.assert_close(mixer.attention_weights(x), mixer.eval().attention_weights(x))


def test_flops_count_what_the_kernels_multiply() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    mixer = AttentionMixing(DIM, HEADS).eval()
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        mixer(torch.randn(1, 10, DIM))
    assert mixer.flops(10) == counter.get_total_flops()
    assert AttentionMixing(DIM, HEADS, causal=True).flops(10) == mixer.flops(10) - 4 * DIM * (100 - 55)


def test_initialisation() -> None:
    torch.manual_seed(0)
    mixer = AttentionMixing(256, 4)
    for layer in (mixer.qkv, mixer.output):
        assert abs(layer.weight.std().item() - 0.02) < 0.001
        assert not layer.bias.any()


def cross_peer(mixer: CrossAttentionMixing, width: int) -> nn.MultiheadAttention:
    other = nn.MultiheadAttention(DIM, HEADS, kdim=width, vdim=width, batch_first=True)
    with torch.no_grad():
        key, value = mixer.key_value.weight.chunk(2)
        other.q_proj_weight.copy_(mixer.query.weight)
        other.k_proj_weight.copy_(key)
        other.v_proj_weight.copy_(value)
        other.in_proj_bias.copy_(torch.cat([mixer.query.bias, mixer.key_value.bias]))
        other.out_proj.weight.copy_(mixer.output.weight)
        other.out_proj.bias.copy_(mixer.output.bias)
    return other.eval()


def test_cross_attention_equals_multihead_attention() -> None:
    mixer = loud(CrossAttentionMixing(DIM, HEADS, memory_dim=10))
    x, memory = torch.randn(3, 5, DIM), torch.randn(3, 8, 10)
    mask = torch.arange(8) < torch.tensor([8, 3, 1])[:, None]
    expected, _ = cross_peer(mixer, 10)(x, memory, memory, key_padding_mask=~mask)
    torch.testing.assert_close(mixer(x, memory, memory_mask=mask), expected, atol=1e-5, rtol=1e-5)
    poisoned = memory.masked_fill(~mask[..., None], float("nan"))
    torch.testing.assert_close(mixer(x, poisoned, memory_mask=mask), expected, atol=1e-5, rtol=1e-5)
    empty = torch.zeros(3, 8, dtype=torch.bool)
    assert mixer(x, memory, memory_mask=empty).isfinite().all()
    assert mixer.flops(5, 8) == 2 * (2 * 5 * DIM**2 + 8 * 10 * 2 * DIM + 2 * 5 * 8 * DIM)


def test_mask_of_scattered_tokens_is_respected_by_the_causal_kernel() -> None:
    mixer = loud(AttentionMixing(DIM, HEADS, causal=True))
    mask = torch.tensor([[False, False, True, False, True, True]]).expand(2, 6).clone()
    assert_mask_respected(mixer, torch.randn(2, 6, DIM), mask)


@pytest.mark.parametrize("causal", [False, True])
def test_weights_are_finite_where_a_query_sees_no_key(causal: bool) -> None:
    """The fused kernel forgives an empty softmax; the weights written out would be NaN."""
    mixer = loud(AttentionMixing(DIM, HEADS, causal=causal))
    mask = torch.tensor([[False, False, True, True], [False] * 4])
    weights = mixer.attention_weights(torch.randn(2, 4, DIM), mask=mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 4))
    assert not weights[0, :, 2:, :2].any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AttentionMixing(10, 4), "heads: must divide dim 10, got 4"),
        (lambda: AttentionMixing(10, 0), "heads: must divide dim 10, got 0"),
        (lambda: AttentionMixing(6, 2, rotary=True), "rotary: needs an even width per head, got 6 / 2 = 3"),
        (lambda: AttentionMixing(8, 2, dropout=1.0), r"dropout: expected a number in \[0, 1\)"),
        (lambda: AttentionMixing(8, 2)(torch.zeros(3, 8)), r"x: expected \(batch, length, dim\), got shape \(3, 8\)"),
        (lambda: AttentionMixing(8, 2)(torch.zeros(1, 3, 9)), r"x: expected \(batch, length, 8\)"),
        (lambda: AttentionMixing(8, 2)(torch.zeros(2, 0, 8)), "expected at least 1 tokens, got 0"),
        (
            lambda: AttentionMixing(8, 2)(torch.zeros(1, 3, 8), mask=torch.ones(1, 3)),
            r"mask: expected \(batch, length\) bool = \(1, 3\), got \(1, 3\) float32",
        ),
        (
            lambda: AttentionMixing(8, 2)(torch.zeros(2, 3, 8), mask=torch.ones(1, 3, dtype=torch.bool)),
            r"mask: expected \(batch, length\) bool = \(2, 3\), got \(1, 3\) bool",
        ),
        (lambda: CrossAttentionMixing(8, 2)(torch.zeros(1, 3, 8), torch.zeros(1, 3, 9)), "memory: expected"),
        (
            lambda: CrossAttentionMixing(8, 2)(torch.zeros(2, 3, 8), torch.zeros(1, 3, 8)),
            r"x: expected \(1, length, 8\)",
        ),
        (
            lambda: CrossAttentionMixing(8, 2)(
                torch.zeros(1, 3, 8), torch.zeros(1, 3, 8), memory_mask=torch.ones(1, 2, dtype=torch.bool)
            ),
            "memory_mask: expected",
        ),
    ],
)
def test_bad_input(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_long_streams_in_bfloat16_autocast() -> None:
    encoder = MixerEncoder(
        lambda layer: loud(AttentionMixing(DIM, HEADS, causal=True, rotary=True), layer),
        dim=DIM,
        depth=2,
        block=BlockOptions(ffn_dim=32),
    ).eval()
    x = torch.randn(2, 6, DIM)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        parallel = encoder(x).states
        state = encoder.init_state(2)
        for position in range(6):
            y, state = encoder.step(x[:, position], state)
            assert (y - parallel[:, position]).abs().max() < 0.1
    assert state.layers[0].keys.dtype == torch.bfloat16
