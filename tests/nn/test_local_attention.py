"""Sliding windows against a loop in NumPy, Longformer and PyTorch's own attention, in every backend."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from paperworks.nn import LocalAttentionMixing, local_attention
from paperworks.nn.local_attention import FLEX_BLOCK, flex_blocks, window_keys
from paperworks.testing import assert_causal, check_mixer, peak_bytes

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
BACKENDS = ("band", "flex", "dense")


def loop(q, k, v, *, window, mask=None, causal=False, global_mask=None):
    """The definition, pair by pair, in float64."""
    q, k, v = (x.detach().double().numpy() for x in (q, k, v))
    batch, heads, length, width = q.shape
    kept = np.ones((batch, length), bool) if mask is None else mask.numpy()
    everywhere = np.zeros((batch, length), bool) if global_mask is None else global_mask.numpy() & kept
    y = np.zeros_like(q)
    for b, i in np.ndindex(batch, length):
        seen = [
            j
            for j in range(length)
            if kept[b, j] and (abs(i - j) <= window or everywhere[b, i] or everywhere[b, j]) and (j <= i or not causal)
        ]
        if not kept[b, i]:
            continue
        for h in range(heads):
            logits = k[b, h, seen] @ q[b, h, i] / np.sqrt(width)
            weights = np.exp(logits - logits.max())
            y[b, h, i] = weights / weights.sum() @ v[b, h, seen]
    return torch.from_numpy(y)


def draw(length, *, batch=2, heads=2, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, heads, length, width, generator=generator) * 2 for _ in range(3))
    mask = torch.rand(batch, length, generator=generator) < 0.7
    mask[0] = False
    return q, k, v, mask, torch.rand(batch, length, generator=generator) < 0.1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("length", "window"), [(1, 0), (2, 5), (7, 2), (64, 3), (129, 70), (129, 0), (300, 8)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_loop(backend, length, window, causal):
    q, k, v, mask, _ = draw(length)
    for given in (None, mask):
        y = local_attention(q, k, v, window=window, mask=given, causal=causal, backend=backend)
        expected = loop(q, k, v, window=window, mask=given, causal=causal)
        torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backend", ["band", "dense"])
def test_global_tokens_see_all_and_are_seen_by_all(backend, causal):
    q, k, v, mask, everywhere = draw(90, batch=3)
    everywhere[1] = False
    for given in (None, mask):
        calls = {"window": 4, "mask": given, "causal": causal, "global_mask": everywhere}
        y = local_attention(q, k, v, **calls, backend=backend)
        torch.testing.assert_close(y.double(), loop(q, k, v, **calls), atol=1e-5, rtol=1e-5)


def test_gradients_with_global_tokens_equal_the_dense_ones():
    q, k, v, mask, everywhere = draw(90)
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    calls = {"window": 4, "mask": mask, "global_mask": everywhere}
    slopes = [
        torch.autograd.grad(local_attention(*leaves, **calls, backend=name).sin().sum(), leaves)
        for name in ("band", "dense")
    ]
    for one, two in zip(*slopes, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("window", [99, 1000])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_window_of_the_whole_text_is_full_attention(backend, window):
    q, k, v, _, _ = draw(100)
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(local_attention(q, k, v, window=window, backend=backend), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("half", [4, 16])
def test_equals_longformer_whose_window_is_the_total(half):
    longformer = pytest.importorskip("transformers.models.longformer.modeling_longformer")
    config = longformer.LongformerConfig(
        hidden_size=32, num_attention_heads=2, num_hidden_layers=1, attention_window=[2 * half],
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = longformer.LongformerSelfAttention(config, 0).eval()
    ours = LocalAttentionMixing(32, 2, window=half)
    with torch.no_grad():
        ours.qkv.weight.copy_(torch.cat([theirs.query.weight, theirs.key.weight, theirs.value.weight]))
        ours.qkv.bias.copy_(torch.cat([theirs.query.bias, theirs.key.bias, theirs.value.bias]))
        ours.output.weight.copy_(torch.eye(32))
    x = torch.randn(2, 8 * half, 32)
    nothing = torch.zeros(2, 8 * half)
    expected = theirs(x, nothing, is_index_masked=nothing > 0, is_index_global_attn=nothing > 0, is_global_attn=False)
    torch.testing.assert_close(ours(x), expected[0], atol=1e-5, rtol=1e-5)


def test_no_table_of_all_pairs_at_32768_positions():
    q, k, v = (torch.randn(1, 1, 32768, 8, requires_grad=True) for _ in range(3))

    def step():
        torch.autograd.grad(local_attention(q, k, v, window=16).sum(), (q, k, v))

    # Eleven tensors like q (three gradients, one output among them) and a tile; a table would take 4 GiB.
    assert peak_bytes(step) < 12 * q.numel() * 4 + 2**22


def test_work_falls_with_the_window():
    wide, narrow = (LocalAttentionMixing(64, 4, window=window) for window in (128, 16))
    assert narrow.flops(4096) < 0.6 * wide.flops(4096)
    assert [window_keys(3), window_keys(3, causal=True)] == [7, 4]


@pytest.mark.parametrize("causal", [False, True])
def test_flex_lists_exactly_the_blocks_that_hold_a_pair(causal):
    length, window = 5 * FLEX_BLOCK - 17, FLEX_BLOCK + 3
    blocks = flex_blocks(1, length, window, None, causal, torch.device("cpu"))
    number, listed = blocks.kv_num_blocks[0, 0], blocks.kv_indices[0, 0]
    position = torch.arange(5 * FLEX_BLOCK)
    near = (position[:, None] - position <= window) & (position - position[:, None] <= (0 if causal else window))
    wanted = near.view(5, FLEX_BLOCK, 5, FLEX_BLOCK).any(3).any(1)
    for row in range(5):
        assert sorted(listed[row, : number[row]].tolist()) == wanted[row].nonzero().flatten().tolist()


@pytest.mark.parametrize("causal", [False, True])
def test_mixer_keeps_the_contract(causal):
    everywhere = torch.zeros(3, 70, dtype=torch.bool)
    everywhere[:, 2] = True
    check_mixer(
        lambda _: LocalAttentionMixing(16, 2, window=3, causal=causal, rotary=True),
        dim=16, length=70, context=None if causal else {"global_mask": everywhere},
    )  # fmt: skip


def test_causal_outputs_with_global_tokens_do_not_look_ahead():
    mixer = LocalAttentionMixing(16, 2, window=3, causal=True)
    everywhere = torch.arange(70).expand(2, -1) % 9 == 0
    assert_causal(lambda x: mixer(x, global_mask=everywhere), torch.randn(2, 70, 16))


def test_dropout_acts_in_training_alone():
    mixer, x = LocalAttentionMixing(16, 2, window=3, dropout=0.5), torch.randn(1, 80, 16)
    assert not torch.equal(mixer(x), mixer(x))
    mixer.eval()
    assert torch.equal(mixer(x), mixer(x))


def refused(**changes):
    x = torch.zeros(1, 2, 6, 4)
    return lambda: local_attention(**({"q": x, "k": x, "v": x, "window": 2} | changes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (refused(window=-1), "window: must be >= 0, got -1"),
        (refused(q=torch.zeros(2, 6, 4)), r"q: expected \(batch, heads, length, head_dim\), got \(2, 6, 4\)"),
        (refused(v=torch.zeros(1, 2, 5, 4)), r"v: expected \(1, 2, 6, 4\) as q, got \(1, 2, 5, 4\)"),
        (refused(mask=torch.ones(1, 6)), r"mask: expected \(batch, length\) bool"),
        (refused(global_mask=torch.ones(1, 5, dtype=torch.bool)), r"global_mask: expected \(batch, length\) bool"),
        (refused(backend="fast"), "backend: expected one of auto, band, flex, dense, got 'fast'"),
        (refused(dropout=1.0), r"dropout: expected a number in \[0, 1\)"),
        (refused(backend="flex", dropout=0.5), '"flex" has neither global tokens nor dropout'),
        (refused(backend="flex", q=torch.zeros(1, 2, 6, 4, requires_grad=True)), '"flex" has no backward pass'),
        (lambda: LocalAttentionMixing(6, 4, window=1), "heads: must divide dim 6, got 4"),
        (lambda: LocalAttentionMixing(6, 2, window=1, rotary=True), "rotary: needs an even width per head"),
        (lambda: LocalAttentionMixing(6, 2, window=1)(torch.zeros(1, 3, 5)), r"x: expected \(batch, length, 6\)"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
