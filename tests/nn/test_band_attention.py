"""Tiles of a band against one dense table, with arbitrary patterns, steps and masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.nn.band_attention import Band, band_attention, band_attention_and_total


def dense(q, k, v, band, key_mask, query_mask):
    allowed = band.allowed(q.shape[2], k.shape[2])[None, None]
    if key_mask is not None:
        allowed = allowed & key_mask[:, None, None]
    scores = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).masked_fill(~allowed, -torch.inf)
    y = torch.where(allowed.any(-1, keepdim=True), scores.softmax(-1), 0) @ v
    if query_mask is not None:
        y = y.masked_fill(~query_mask[:, None, :, None], 0)
    return y, scores.logsumexp(-1)


def example(seed, n, m, band_shape, *, masked=True):
    generator = torch.Generator().manual_seed(seed)
    block, step, front, span = band_shape
    band = Band(torch.rand(block, span, generator=generator) < 0.6, step, front)
    tensors = [torch.randn(2, 3, length, 4, dtype=torch.double, generator=generator) for length in (n, m, m)]
    masks = [torch.rand(2, length, generator=generator) < 0.6 if masked else None for length in (m, n)]
    return [x.requires_grad_() for x in tensors], band, *masks


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 6), st.integers(7, 20)),
    masked=st.booleans(),
    tile=st.sampled_from([1, 60, 400, 2**17]),
)
def test_equals_the_dense_table_forward_and_backward(seed, n, m, shape, masked, tile):
    (q, k, v), band, key_mask, query_mask = example(seed, n, m, shape, masked=masked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paperworks.nn.band_attention.TILE", tile)
        y, total = band_attention_and_total(q, k, v, band=band, key_mask=key_mask, query_mask=query_mask)
        theirs, their_total = dense(q, k, v, band, key_mask, query_mask)
        known = their_total.isfinite()
        if query_mask is not None:
            known = known & query_mask[:, None]
        torch.testing.assert_close(y, theirs)
        torch.testing.assert_close(total[known], their_total[known])
        weights = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(seed))
        mine = torch.autograd.grad((y * weights).sum() + total[known].sin().sum(), (q, k, v))
        expected = (theirs * weights).sum() + torch.where(known, their_total, 0).sin().sum()
        for one, two in zip(mine, torch.autograd.grad(expected, (q, k, v)), strict=True):
            torch.testing.assert_close(one, two.nan_to_num())


def test_gradients_by_finite_differences():
    (q, k, v), band, key_mask, query_mask = example(0, 7, 6, (3, 2, 1, 5))
    calls = {"key_mask": key_mask, "query_mask": query_mask}
    assert torch.autograd.gradcheck(lambda q, k, v: band_attention(q, k, v, band=band, **calls), (q, k, v))


def test_dropout_draws_the_same_weights_in_both_passes():
    (q, k, v), band, _, _ = example(1, 6, 5, (3, 2, 1, 5), masked=False)

    def dropped(*tensors):
        torch.manual_seed(3)
        return band_attention(*tensors, band=band, dropout=0.4)

    assert torch.autograd.gradcheck(dropped, (q, k, v))
    # Over many draws dropout changes nothing on average.
    wide = [x.detach()[:1, :1].expand(400, 5, -1, -1) for x in (q, k, v)]
    mean = dropped(*wide).mean((0, 1))
    torch.testing.assert_close(mean, band_attention(*wide, band=band)[0, 0], atol=0.1, rtol=0)


def test_nothing_hidden_reaches_anything():
    (q, k, v), band, key_mask, query_mask = example(2, 20, 20, (4, 4, 3, 10))
    for x, mask in ((q, query_mask), (k, key_mask), (v, key_mask)):
        x.data.masked_fill_(~mask[:, None, :, None], torch.nan)
    y = band_attention(q, k, v, band=band, key_mask=key_mask, query_mask=query_mask)
    assert y.isfinite().all()
    assert (y[~query_mask[:, None].expand(-1, 3, -1)] == 0).all()
    for slope in torch.autograd.grad(y.sum(), (q, k, v)):
        assert slope.isfinite().all()


def test_a_backward_pass_keeps_the_inputs_alone():
    (q, k, v), band, _, _ = example(3, 64, 64, (8, 8, 8, 24), masked=False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        band_attention(q, k, v, band=band)
    assert {x.data_ptr() for x in kept} == {x.data_ptr() for x in (q, k, v)}


def test_half_precision_is_computed_in_single():
    (q, k, v), band, _, _ = example(4, 50, 50, (8, 8, 8, 24), masked=False)
    half = [x.detach().bfloat16() for x in (q, k, v)]
    y = band_attention(*half, band=band)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, band_attention(*(x.float() for x in half), band=band).bfloat16())
