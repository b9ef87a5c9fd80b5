"""All operators against sums over pairs in double precision, at ordinary inputs and where others fail."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.sequence.aft import band, tile
from paperworks.sequence.aft.functional import aft_conv1d, aft_conv2d, aft_full, aft_local, aft_simple


def oracle(q, k, v, w, mask=None, causal=False):
    """Pair by pair with log-sum-exp: q, k, v (B, T, D), w (T, T) or (D, T, T); float64."""
    q, k, v, w = (np.asarray(x, dtype=np.float64) for x in (q, k, v, w))
    _, length, dim = v.shape
    w = np.broadcast_to(w, (dim, length, length))
    exponents = k.transpose(0, 2, 1)[:, :, None, :] + w[None]
    if causal:
        exponents = np.where(np.tri(length, dtype=bool), exponents, -np.inf)
    if mask is not None:
        exponents = np.where(np.asarray(mask)[:, None, None, :], exponents, -np.inf)
    top = exponents.max(-1, keepdims=True)
    share = np.exp(exponents - np.where(np.isfinite(top), top, 0))
    below = share.sum(-1, keepdims=True)
    share = np.divide(share, below, out=np.zeros_like(share), where=below > 0)
    y = np.einsum("bdts,bsd->btd", share, v)
    return y / (1 + np.exp(-np.clip(q, -700, 700)))


def draw(seed, *shape, std=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def qkv(seed, batch=2, length=23, dim=6, std=1.0):
    return (
        draw(seed, batch, length, dim),
        draw(seed + 1, batch, length, dim, std=std),
        draw(seed + 2, batch, length, dim),
    )


def local_weights(band_, window, causal):
    length = len(band_)
    offsets = np.arange(length) - np.arange(length)[:, None]
    index = np.clip(offsets + window - 1, 0, band_.shape[1] - 1)
    w = np.take_along_axis(np.asarray(band_, dtype=np.float64), index, 1)
    return np.where(np.abs(offsets) < window, w, 0)


def conv_weights(weight, length, dim, causal):
    heads, taps = weight.shape
    offsets = np.arange(length) - np.arange(length)[:, None]
    tap = offsets + (taps - 1 if causal else taps // 2)
    w = np.where((tap >= 0) & (tap < taps), np.asarray(weight, dtype=np.float64)[:, np.clip(tap, 0, taps - 1)], 0)
    return np.repeat(w, dim // heads, axis=0)


def close(found, expected, tolerance=1e-5):
    expected = np.asarray(expected)
    assert torch.isfinite(found).all()
    np.testing.assert_allclose(found.detach().double().numpy(), expected, atol=tolerance * np.abs(expected).max())


MASK = torch.ones(2, 23, dtype=torch.bool)
MASK[0, 17:] = False
MASK[1, :3] = False


@pytest.mark.parametrize("std", [1.0, 30.0])
@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("causal", [False, True])
class TestAgainstPairs:
    def test_full(self, causal, mask, std):
        q, k, v = qkv(0, std=std)
        w = draw(9, 23, 23, std=std)
        close(aft_full(q, k, v, bias=w, mask=mask, causal=causal), oracle(q, k, v, w, mask, causal), 2e-5)

    def test_full_of_rank_three(self, causal, mask, std):
        q, k, v = qkv(0, std=std)
        row, column = draw(8, 23, 3), draw(9, 23, 3)
        expected = oracle(q, k, v, row.double() @ column.double().T, mask, causal)
        close(aft_full(q, k, v, bias=(row, column), mask=mask, causal=causal), expected, 2e-5)

    def test_simple(self, causal, mask, std):
        q, k, v = qkv(3, std=std)
        close(aft_simple(q, k, v, mask=mask, causal=causal), oracle(q, k, v, np.zeros((23, 23)), mask, causal))

    @pytest.mark.parametrize("window", [1, 2, 7, 40])
    def test_local(self, window, causal, mask, std):
        q, k, v = qkv(4, std=std)
        w = draw(5, 23, window if causal else 2 * window - 1, std=std)
        found = aft_local(q, k, v, band=w, window=window, mask=mask, causal=causal)
        close(found, oracle(q, k, v, local_weights(w, window, causal), mask, causal), 2e-5)

    @pytest.mark.parametrize("taps", [1, 3, 9, 51])
    @pytest.mark.parametrize("narrow", [True, False])
    def test_conv1d(self, narrow, taps, causal, mask, std):
        q, k, v = qkv(6, std=std)
        weight = draw(7, 2, taps, std=std)
        keys = k[..., :2] if narrow else k
        expected = oracle(
            q, keys.repeat_interleave(3, 2) if narrow else k, v, conv_weights(weight, 23, 6, causal), mask, causal
        )
        close(aft_conv1d(q, keys, v, weight=weight, mask=mask, causal=causal), expected, 2e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 96, 150])
def test_any_length_with_more_than_one_block(length, causal):
    q, k, v = qkv(0, length=length)
    for window in (5, 33):
        w = draw(1, length, window if causal else 2 * window - 1)
        found = aft_local(q, k, v, band=w, window=window, causal=causal)
        close(found, oracle(q, k, v, local_weights(w, window, causal), causal=causal))
    close(aft_simple(q, k, v, causal=causal), oracle(q, k, v, np.zeros((length, length)), causal=causal))


def test_full_over_several_blocks(monkeypatch):
    from paperworks.sequence.aft import full

    monkeypatch.setattr(full, "BLOCK", 16)
    q, k, v = (x.requires_grad_() for x in qkv(0, length=53))
    row, column = draw(8, 53, 3).requires_grad_(), draw(9, 53, 3).requires_grad_()
    for causal in (False, True):
        found = aft_full(q, k, v, bias=(row, column), causal=causal)
        close(found, oracle(q.detach(), k.detach(), v.detach(), (row @ column.T).detach(), causal=causal))
        grads = torch.autograd.grad(found.square().sum(), (row, column, k, v))
        dense = aft_full(q, k, v, bias=row @ column.T, causal=causal)
        for mine, other in zip(grads, torch.autograd.grad(dense.square().sum(), (row, column, k, v)), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def traps():
    """Keys, weights of local offsets, and whether causal: where one maximum for all, or exp(w) - 1, fails."""
    length, window = 40, 4
    plain = draw(0, 1, length, 3)
    quiet = torch.zeros(length, 2 * window - 1)
    last, huge, wide = plain.clone(), plain.clone(), draw(1, 1, length, 3, std=60.0)
    last[:, -1] = 120
    huge[:, 20] = 1e4
    against = plain.clone()
    against[:, 10] = -200
    lifted = quiet.clone()
    lifted[8:13] = 200
    under = plain.clone()
    under[:, 20] = 20
    return {
        "a large last key": (last, quiet),
        "one key of 1e4": (huge, quiet),
        "w = 200 on a key of -200": (against, lifted),
        "both wide": (wide, draw(2, length, 2 * window - 1, std=60.0)),
        "w = -40 over a key of 20": (under, torch.full_like(quiet, -40.0)),
        "all keys alike": (torch.full_like(plain, 3.0), quiet),
    }


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", traps())
def test_traps(name, causal):
    k, w = traps()[name]
    q, v, window = draw(3, 1, 40, 3), draw(4, 1, 40, 3), 4
    taps = w[:, :window] if causal else w
    expected = oracle(q, k, v, local_weights(taps, window, causal), causal=causal)
    close(aft_local(q, k, v, band=taps, window=window, causal=causal), expected, 2e-5)
    close(
        aft_full(q, k, v, bias=torch.tensor(local_weights(taps, window, causal)).float(), causal=causal), expected, 2e-5
    )
    weight = taps[10][None].expand(3, -1)
    found = aft_conv1d(q, k, v, weight=weight, causal=causal)
    close(found, oracle(q, k, v, conv_weights(weight, 40, 3, causal), causal=causal), 2e-5)


def test_absent_pairs_and_empty_rows():
    q, k, v = qkv(0, length=12)
    w = draw(1, 12, 12).masked_fill(draw(2, 12, 12) > 0, -torch.inf)
    w[5] = -torch.inf
    found = aft_full(q, k, v, bias=w)
    close(found, oracle(q, k, v, w))
    assert (found[:, 5] == 0).all()
    nothing = torch.zeros(2, 12, dtype=torch.bool)
    assert (aft_simple(q, k, v, mask=nothing) == 0).all()
    assert (aft_local(q, k, v, band=torch.zeros(12, 3), window=2, mask=nothing) == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 500), st.booleans())
def test_any_finite_input_gives_a_convex_mean(seed, reach, causal):
    rng = np.random.default_rng(seed)
    k, w = (torch.tensor(rng.uniform(-reach, reach, size)).float() for size in ((1, 37, 2), (37, 5)))
    v = torch.tensor(rng.normal(size=(1, 37, 2))).float().requires_grad_()
    k.requires_grad_()
    band_ = (w[:, :3] if causal else w).requires_grad_()
    y = aft_local(torch.full_like(v, 40.0), k, v, band=band_, window=3, causal=causal)
    assert (y >= v.amin(1, keepdim=True) - 1e-4).all()
    assert (y <= v.amax(1, keepdim=True) + 1e-4).all()
    for grad in torch.autograd.grad(y.square().sum(), (k, v, band_)):
        assert torch.isfinite(grad).all()


def test_ordinary_inputs_need_no_repair_and_wide_ones_do(monkeypatch):
    for std, repaired in ((1.0, False), (60.0, True)):
        monkeypatch.setattr(tile.Count, "forward", 0)
        monkeypatch.setattr(tile.Count, "backward", 0)
        q, k, v = qkv(0, length=200, std=std)
        k.requires_grad_()
        for y in (
            aft_full(q, k, v, bias=draw(1, 200, 200, std=std), causal=True),
            aft_local(q, k, v, band=draw(1, 200, 63, std=std), window=32),
            aft_simple(q, k, v, causal=True),
        ):
            y.sum().backward()
        assert (tile.Count.forward > 0) is repaired
        assert (tile.Count.backward > 0) is repaired


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("std", [1.0, 60.0])
def test_gradients(causal, std, monkeypatch):
    """Against differences in double precision; the wide inputs go through the repairs."""
    monkeypatch.setattr(band, "CHUNK", 1000)
    q, k, v = (x.double().requires_grad_() for x in qkv(0, batch=1, length=9, dim=2, std=std))
    w = draw(1, 9, 9, std=std).double().requires_grad_()
    taps = draw(2, 9, 2 if causal else 3, std=std).double().requires_grad_()
    weight = draw(3, 1, 3, std=std).double().requires_grad_()
    narrow = k[..., :1].detach().requires_grad_()
    mask = torch.tensor([[True] * 7 + [False] * 2])
    check = lambda f, *inputs: torch.autograd.gradcheck(f, inputs, eps=1e-6, atol=1e-6)  # noqa: E731
    assert check(lambda *x: aft_full(*x[:3], bias=x[3], mask=mask, causal=causal), q, k, v, w)
    assert check(lambda *x: aft_local(*x[:3], band=x[3], window=2, mask=mask, causal=causal), q, k, v, taps)
    assert check(lambda *x: aft_simple(*x, mask=mask, causal=causal), q, k, v)
    assert check(lambda *x: aft_conv1d(*x[:3], weight=x[3], mask=mask, causal=causal), q, narrow, v, weight)
    assert check(lambda *x: aft_conv1d(*x[:3], weight=x[3], causal=causal), q, k, v, weight)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_over_many_blocks(causal):
    """Blocks left and right of the window, in both directions, against autograd through the pairs themselves."""
    length, window = 170, 5
    q, k, v = (x.double().requires_grad_() for x in qkv(0, length=length, dim=3))
    taps = draw(2, length, window if causal else 2 * window - 1).double().requires_grad_()
    offsets = torch.arange(length) - torch.arange(length)[:, None]
    w = taps.gather(1, (offsets + window - 1).clamp(0, taps.shape[1] - 1)).masked_fill(offsets.abs() >= window, 0)
    w = w.masked_fill(offsets > 0, -torch.inf) if causal else w
    share = torch.softmax(k.transpose(1, 2)[:, :, None] + w, -1)
    pairs = torch.sigmoid(q) * torch.einsum("bdts,bsd->btd", share, v)
    found = aft_local(q, k, v, band=taps, window=window, causal=causal)
    torch.testing.assert_close(found, pairs, rtol=1e-10, atol=1e-12)
    upstream = draw(5, *found.shape).double()
    for mine, other in zip(
        *(torch.autograd.grad((y * upstream).sum(), (q, k, v, taps)) for y in (found, pairs)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


# Identities ----------------------------------------------------------------------------------------------------------


def test_full_without_weights_is_simple_and_a_wide_window_is_full():
    q, k, v = qkv(0)
    for causal in (False, True):
        simple = aft_simple(q, k, v, causal=causal)
        torch.testing.assert_close(aft_full(q, k, v, bias=torch.zeros(23, 23), causal=causal), simple)
        row, column = draw(1, 23, 4), draw(2, 23, 4)
        torch.testing.assert_close(
            aft_local(q, k, v, band=(row, column), window=23, causal=causal),
            aft_full(q, k, v, bias=(row, column), causal=causal),
        )


def test_conv_on_a_line_is_conv1d_and_on_maps_equals_pairs():
    q, k, v = (x.transpose(1, 2)[:, :, None] for x in qkv(0))
    weight = draw(1, 2, 5, 5)
    flat = [x[:, :, 0].transpose(1, 2) for x in (q, k, v)]
    line = aft_conv2d(q, k, v, weight=weight)[:, :, 0].transpose(1, 2)
    torch.testing.assert_close(line, aft_conv1d(*flat, weight=weight[:, 2]))
    q, k, v = (draw(seed, 2, 6, 4, 5) for seed in (1, 2, 3))
    for taps, keys in ((3, k), (3, k[:, :2]), (11, k)):
        weight = draw(4, 2, taps, taps)
        rows, columns = np.divmod(np.arange(20), 5)
        di, dj = (x - x[:, None] + taps // 2 for x in (rows, columns))
        inside = (di >= 0) & (di < taps) & (dj >= 0) & (dj < taps)
        w = np.where(inside, weight.double().numpy()[:, np.clip(di, 0, taps - 1), np.clip(dj, 0, taps - 1)], 0)
        full = keys.repeat_interleave(3, 1) if keys.shape[1] == 2 else keys
        expected = oracle(*[x.flatten(2).transpose(1, 2) for x in (q, full, v)], w=np.repeat(w, 3, 0))
        found = aft_conv2d(q, keys, v, weight=weight).flatten(2).transpose(1, 2)
        close(found, expected)


def test_what_changes_nothing():
    q, k, v = qkv(0)
    w = draw(1, 23, 23)
    torch.testing.assert_close(
        aft_full(q, k + draw(2, 1, 1, 6), v, bias=w), aft_full(q, k, v, bias=w), rtol=1e-4, atol=1e-5
    )
    shifted = aft_full(q, k, v, bias=w + draw(2, 23, 1))
    torch.testing.assert_close(shifted, aft_full(q, k, v, bias=w), rtol=1e-4, atol=1e-5)
    changed = v.clone()
    changed[:, 15:] = 1e6
    taps = draw(3, 23, 4)
    for y in (
        lambda v: aft_local(q, k, v, band=taps, window=4, causal=True),
        lambda v: aft_simple(q, k, v, causal=True),
    ):
        torch.testing.assert_close(y(changed)[:, :15], y(v)[:, :15])


def test_half_precision_keeps_its_sums_in_single():
    q, k, v = (x.bfloat16() for x in qkv(0, length=300))
    taps = draw(1, 300, 9).bfloat16()
    found = aft_local(q, k, v, band=taps, window=5)
    assert found.dtype == torch.bfloat16
    expected = oracle(*[x.float() for x in (q, k, v)], w=local_weights(taps.float(), 5, False))
    close(found, expected, 2e-2)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, k, v: aft_full(q[0], k, v, bias=k), r"q: expected \(batch, length, dim\), got \(5, 4\)"),
        (lambda q, k, v: aft_full(q, k[..., :3], v, bias=k), r"k: expected .* = \(2, 5, 4\), got \(2, 5, 3\)"),
        (lambda q, k, v: aft_full(q, k, v, bias=torch.zeros(5, 4)), r"bias: expected \(5, 5\), got \(5, 4\)"),
        (lambda q, k, v: aft_full(q, k, v, bias=(k[0], v[0, :4])), r"bias: expected two of \(5, rank\)"),
        (lambda q, k, v: aft_local(q, k, v, band=torch.zeros(5, 3), window=0), "window: must be >= 1, got 0"),
        (lambda q, k, v: aft_local(q, k, v, band=torch.zeros(5, 4), window=2), r"band: expected \(5, 3\)"),
        (lambda q, k, v: aft_conv1d(q, k, v, weight=torch.zeros(2, 4)), "window: must be odd for causal=False, got 4"),
        (lambda q, k, v: aft_conv1d(q, k, v, weight=torch.zeros(3, 3)), "weight: 3 heads do not divide 4 channels"),
        (lambda q, k, v: aft_simple(q, k, v, mask=torch.ones(2, 4, dtype=torch.bool)), r"mask: expected"),
        (lambda q, k, v: aft_simple(q[:, :0], k[:, :0], v[:, :0]), "q: expected at least one position"),
        (lambda q, k, v: aft_conv2d(q, k, v, weight=torch.zeros(2, 3, 3)), "q, k, v: expected"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    q, k, v = qkv(0, length=5, dim=4)
    with pytest.raises(ValueError, match=message):
        call(q, k, v)
