"""Convolution at chosen positions is the dense convolution, read at those positions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from paperworks.vision import sparse_conv2d
from paperworks.vision.wavelet_depth import sparse

MODES = {"reflect": "reflect", "zeros": "constant"}


def case(seed, batch=2, channels=3, out=5, height=6, width=7, share=0.4, size=3):
    g = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=g)

    x = random(batch, channels, height, width)
    have = torch.rand(batch, height, width, generator=g) < share
    want = torch.rand(batch, height, width, generator=g) < share
    return x, have, want, random(out, channels, size, size), random(out)


def dense(x, weight, bias, mode):
    edge = weight.shape[-1] // 2
    return F.conv2d(F.pad(x, (edge,) * 4, mode=MODES[mode]), weight, bias)


def packed(x, have):
    rows = x.permute(0, 2, 3, 1)[have]
    index = torch.full(have.shape, -1)
    index[have] = torch.arange(len(rows))
    return rows, index


@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(0, 60), share=st.sampled_from([0.0, 0.1, 0.5, 1.0]), size=st.sampled_from([1, 3]))
def test_rows_are_the_dense_result_where_absent_features_are_zero(mode, seed, share, size):
    x, have, want, weight, bias = case(seed, share=share, size=size)
    rows, index = packed(x, have)
    got = sparse_conv2d(rows, index, want, weight, bias, padding_mode=mode)
    # A mirrored position may be absent too: zeros are mirrored with the rest.
    expected = dense(x * have[:, None], weight, bias, mode).permute(0, 2, 3, 1)[want]
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_smallest_grid_with_a_mirror():
    x, _, _, weight, bias = case(3, height=2, width=2)
    rows, index = packed(x, torch.ones(2, 2, 2, dtype=torch.bool))
    got = sparse_conv2d(rows, index, torch.ones(2, 2, 2, dtype=torch.bool), weight, bias)
    torch.testing.assert_close(got.view(2, 2, 2, 5).permute(0, 3, 1, 2), dense(x, weight, bias, "reflect"))


def test_groups_and_pieces_change_nothing(monkeypatch):
    x, _, want, _, bias = case(0, channels=6, out=4, height=20, width=30)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    rows, index = packed(x, torch.ones_like(want))
    monkeypatch.setattr(sparse, "_GATHERED", 9 * 6 * 64)
    table = sparse.neighbours(sparse.border(index, "reflect"), sparse.positions(want), tuple(want.shape))
    assert len(table) > 3 * 64
    got = sparse.gather_conv(rows, table, weight, bias[:4], complete=True, groups=2)
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    expected = F.conv2d(padded, weight, bias[:4], groups=2).permute(0, 2, 3, 1)[want]
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    plain = torch.randn(4, 6, 3, 3, dtype=torch.float64)
    got = sparse.gather_conv(rows, table, plain, None, complete=True)
    torch.testing.assert_close(got, F.conv2d(padded, plain).permute(0, 2, 3, 1)[want], atol=1e-12, rtol=0)


def test_gradients_are_right():
    x, have, want, weight, bias = case(5)
    rows, index = packed(x, have)
    leaves = [leaf.requires_grad_() for leaf in (rows, weight, bias)]
    assert torch.autograd.gradcheck(lambda r, w, b: sparse_conv2d(r, index, want, w, b), leaves)


@given(seed=st.integers(0, 30), radius=st.integers(0, 3))
def test_dilation_is_a_maximum_over_a_square(seed, radius):
    mask = torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(seed)) < 0.1
    expected = F.max_pool2d(mask.double()[:, None], 2 * radius + 1, 1, radius)[:, 0] > 0
    assert torch.equal(sparse.dilate(mask, radius), expected)


def test_parents_are_where_children_come_from():
    mask = torch.rand(3, 4, 5) < 0.5
    children = sparse.positions(sparse.up2(mask))
    assert torch.equal(sparse.up2(mask), F.interpolate(mask[:, None].float(), scale_factor=2)[:, 0] > 0)
    assert torch.equal(sparse.parents(children, 10).unique(), sparse.positions(mask))


def test_unfit_arguments_are_refused():
    x, have, want, weight, bias = case(1)
    rows, index = packed(x, have)
    for wrong, words in (
        ({"padding_mode": "circular"}, "padding_mode: expected 'reflect' or 'zeros', got 'circular'"),
        ({"out_mask": want.long()}, "out_mask: expected"),
        ({"out_mask": want[:1]}, "out_mask: expected"),
        ({"in_index": index.double()}, "in_index: expected"),
        ({"in_index": index + 1000}, "in_index: expected rows of x"),
        ({"x": rows[:, :2]}, "x: expected"),
        ({"weight": torch.zeros(5, 3, 5, 5)}, "weight: expected"),
    ):
        arguments = {"x": rows, "in_index": index, "out_mask": want, "weight": weight, "bias": bias} | wrong
        with pytest.raises(ValueError, match=words):
            sparse_conv2d(**arguments)
    with pytest.raises(ValueError, match="at least 2 x 2"):
        sparse_conv2d(torch.zeros(3, 3).double(), torch.arange(3)[None, None], torch.ones(1, 1, 3).bool(), weight, bias)
