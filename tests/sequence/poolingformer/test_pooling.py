"""Cells and pooling attention against loops over tokens in NumPy, written from the definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.nn import local_attention
from paperworks.sequence.poolingformer.pooling import cell_band, pooled_cells, pooling_attention
from paperworks.testing import peak_bytes


def cell(x, c, *, size, stride, pool, kept):
    """One cell of (n, d) in float64, or None."""
    first = c * stride - size // 2
    run = [j for j in range(first, first + size) if 0 <= j < len(x) and kept[j]]
    if not run:
        return None
    if isinstance(pool, str):
        return x[run].mean(0) if pool == "mean" else x[run].max(0)
    middle = c * stride
    exists = 0 <= middle < len(x) and kept[middle]
    logits = pool @ (x[middle] if exists else np.zeros(x.shape[1]))
    weights = np.exp([logits[j - first] for j in run])
    return (weights / weights.sum()) @ x[run]


def loop(q, k, v, *, window, size, stride, pools, mask, causal):
    q, k, v = (x.detach().double().numpy() for x in (q, k, v))
    batch, heads, length, width = q.shape
    z = np.zeros_like(q)
    for b, h in np.ndindex(batch, heads):
        kept = np.ones(length, bool) if mask is None else mask[b].numpy()
        of_keys, of_values = (p if isinstance(p, str) else p[h].double().numpy() for p in pools)
        found, c = {}, 0
        while c * stride - size // 2 <= length - 1:
            options = {"size": size, "stride": stride, "kept": kept}
            one = cell(k[b, h], c, pool=of_keys, **options)
            if one is not None:
                found[c] = one, cell(v[b, h], c, pool=of_values, **options)
            c += 1
        for i in range(length):
            seen = [
                c
                for c in found
                if abs(c * stride - i) <= window and (not causal or c * stride - size // 2 + size - 1 <= i)
            ]
            if not seen or not kept[i]:
                continue
            logits = np.array([found[c][0] @ q[b, h, i] for c in seen]) / np.sqrt(width)
            weights = np.exp(logits - logits.max())
            z[b, h, i] = weights / weights.sum() @ np.stack([found[c][1] for c in seen])
    return torch.from_numpy(z)


def draw(length, size, kind, *, seed=0, masked=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 2, length, 4, generator=generator, dtype=dtype) * 2 for _ in range(3))
    mask = torch.rand(2, length, generator=generator) < 0.7 if masked else None
    if masked:
        mask[0] = False
    weights = tuple(torch.randn(2, size, 4, generator=generator, dtype=dtype) for _ in range(2))
    return q, k, v, mask, weights if kind == "ldconv" else (kind, kind)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["mean", "max", "ldconv"])
@pytest.mark.parametrize(
    ("length", "window", "size", "stride"),
    [(1, 0, 1, 1), (2, 3, 5, 4), (7, 4, 5, 4), (64, 9, 4, 3), (129, 0, 3, 3), (129, 60, 5, 4)],
)
def test_equals_the_loop(length, window, size, stride, kind, causal):
    for masked in (False, True):
        q, k, v, mask, pools = draw(length, size, kind, masked=masked)
        z = pooling_attention(
            q, k, v, window=window, pool_size=size, stride=stride,
            pool=pools if kind == "ldconv" else kind, mask=mask, causal=causal,
        )  # fmt: skip
        expected = loop(q, k, v, window=window, size=size, stride=stride, pools=pools, mask=mask, causal=causal)
        torch.testing.assert_close(z.double(), expected, atol=1e-5, rtol=1e-5)


def test_equals_the_loop_on_a_long_sequence():
    test_equals_the_loop(1000, 20, 5, 4, "ldconv", causal=False)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    length=st.integers(1, 30),
    window=st.integers(0, 40),
    size=st.integers(1, 7),
    data=st.data(),
    kind=st.sampled_from(["mean", "max", "ldconv"]),
    causal=st.booleans(),
)
def test_equals_the_loop_for_any_numbers(seed, length, window, size, data, kind, causal):
    stride = data.draw(st.integers(1, size))
    q, k, v, mask, pools = draw(length, size, kind, seed=seed, dtype=torch.float64)
    options = {"window": window, "stride": stride, "mask": mask, "causal": causal}
    z = pooling_attention(q, k, v, pool_size=size, pool=pools if kind == "ldconv" else kind, **options)
    torch.testing.assert_close(z, loop(q, k, v, size=size, pools=pools, **options))


@pytest.mark.parametrize("kind", ["mean", "max", "ldconv"])
@pytest.mark.parametrize("length", [7, 8, 11, 12, 150])
def test_padding_changes_no_kept_output(length, kind):
    q, k, v, _, pools = draw(length, 5, kind, masked=False)
    options = {"window": 6, "pool_size": 5, "stride": 4, "pool": pools if kind == "ldconv" else kind}
    alone = pooling_attention(q, k, v, **options)
    for more in (1, 2, 3, 4, 90):
        wide = [torch.cat([x, torch.full((2, 2, more, 4), 1e3)], 2) for x in (q, k, v)]
        mask = (torch.arange(length + more) < length).expand(2, -1)
        padded = pooling_attention(*wide, mask=mask, **options)
        torch.testing.assert_close(padded[:, :, :length], alone, atol=1e-6, rtol=1e-6)
        assert (padded[:, :, length:] == 0).all()


def test_cells_run_on_while_they_meet_the_sequence():
    x = torch.arange(8.0)[None, None, :, None]
    cells, visible, centres = pooled_cells(x, pool_size=5, stride=4)
    assert centres.tolist() == [0, 4, 8]
    assert cells.flatten().tolist() == [1.0, 4.0, 6.5]
    assert visible.tolist() == [[True, True, True]]
    mask = torch.tensor([[True] * 2 + [False] * 6])
    cells, visible, _ = pooled_cells(x, pool_size=5, stride=4, mask=mask)
    assert visible.tolist() == [[True, False, False]]
    assert cells.flatten().tolist() == [0.5, 0.0, 0.0]


def test_every_token_is_in_a_cell():
    for length in range(1, 40):
        for size in range(1, 7):
            for stride in range(1, size + 1):
                x = torch.zeros(1, 1, length, 1, requires_grad=True)
                (slope,) = torch.autograd.grad(pooled_cells(x, pool_size=size, stride=stride).cells.sum(), x)
                assert (slope > 0).all(), (length, size, stride)


def test_ldconv_without_weights_is_the_mean():
    x = torch.randn(2, 3, 50, 4)
    mask = torch.rand(2, 50) < 0.7
    for kept in (None, mask):
        mean = pooled_cells(x, pool_size=5, stride=4, mask=kept)
        dynamic = pooled_cells(x, pool_size=5, stride=4, pool=torch.zeros(3, 5, 4), mask=kept)
        torch.testing.assert_close(dynamic.cells, mean.cells)


def test_cells_of_one_token_are_a_sliding_window():
    q, k, v, mask, _ = draw(150, 1, "mean")
    for causal in (False, True):
        z = pooling_attention(q, k, v, window=9, pool_size=1, stride=1, mask=mask, causal=causal)
        expected = local_attention(q, k, v, window=9, mask=mask, causal=causal, backend="dense")
        torch.testing.assert_close(z, expected, atol=1e-5, rtol=1e-5)


def test_a_shift_by_whole_strides_shifts_interior_outputs():
    q, k, v, _, pools = draw(200, 5, "ldconv", masked=False)
    shifted = [x.roll(8, 2) for x in (q, k, v)]
    options = {"window": 12, "pool_size": 5, "stride": 4, "pool": pools}
    one, two = pooling_attention(q, k, v, **options), pooling_attention(*shifted, **options)
    torch.testing.assert_close(one[:, :, 30:160], two[:, :, 38:168], atol=1e-6, rtol=1e-6)
    off = pooling_attention(*(x.roll(6, 2) for x in (q, k, v)), **options)
    assert (one[:, :, 30:160] - off[:, :, 36:166]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["mean", "max", "ldconv"])
@pytest.mark.parametrize("window", [2, 30])
def test_gradients_by_finite_differences(kind, window):
    q, k, v, mask, pools = draw(11, 3, kind, dtype=torch.float64)
    leaves = [x[1:, :1].clone().requires_grad_() for x in (q, k, v)]
    weights = [w[:1].clone().requires_grad_() for w in pools] if kind == "ldconv" else []

    def attend(q, k, v, *given):
        return pooling_attention(
            q, k, v, window=window, pool_size=3, stride=2, pool=given or kind, mask=mask[1:]
        )  # fmt: skip

    assert torch.autograd.gradcheck(attend, (*leaves, *weights))


def test_memory_grows_with_the_length_alone():
    q, k, v = (torch.randn(1, 1, 32768, 8, requires_grad=True) for _ in range(3))

    def step():
        z = pooling_attention(q, k, v, window=64, pool_size=5, stride=4)
        torch.autograd.grad(z.sum(), (q, k, v))

    assert peak_bytes(step) < 14 * q.numel() * 4 + 2**22


def test_blocks_are_whole_strides():
    for stride in (1, 3, 4, 7, 100):
        band = cell_band(200, 100, stride, False, torch.device("cpu"))
        assert band.block == band.step * stride


def refused(**changes):
    x = torch.zeros(1, 2, 6, 4)
    return lambda: pooling_attention(**({"q": x, "k": x, "v": x, "window": 2, "pool_size": 5, "stride": 4} | changes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (refused(window=-1), "window: must be >= 0, got -1"),
        (refused(stride=8), r"stride: must be in 1..pool_size, got 8 > 5 \(gaps lose tokens\)"),
        (refused(stride=0), "stride: must be in 1..pool_size, got 0"),
        (refused(pool_size=0), "pool_size: must be >= 1, got 0"),
        (refused(q=torch.zeros(2, 6, 4)), r"q: expected \(batch, heads, length, head_dim\), got \(2, 6, 4\)"),
        (refused(mask=torch.ones(1, 6)), r"mask: expected \(batch, length\) bool"),
        (refused(pool="sum"), "pool: expected mean, max or LDConv's weight, a tensor, got 'sum'"),
        (refused(pool=torch.zeros(2, 4, 4)), r"pool: expected \(heads, pool_size, head_dim\) = \(2, 5, 4\), got"),
        (lambda: pooled_cells(torch.zeros(2, 6, 4), pool_size=5, stride=4), r"x: expected \(batch, heads, length"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
