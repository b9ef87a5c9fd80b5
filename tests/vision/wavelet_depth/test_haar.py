"""The Haar transform against independent ones, and what an orthonormal transform must do."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperworks.vision import haar_dwt2d, haar_idwt2d

sides = st.integers(1, 5).map(lambda half: 2 * half)


def maps(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_coefficients_are_the_four_signed_sums_of_a_block():
    a, b, c, d = 1.0, 2.0, 5.0, 11.0
    ll, detail = haar_dwt2d(torch.tensor([[[[a, b], [c, d]]]]))
    assert ll.item() == (a + b + c + d) / 2
    lh, hl, hh = detail.flatten().tolist()
    assert (lh, hl, hh) == ((a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2)


def test_transform_is_pywavelets_transform():
    pywt = pytest.importorskip("pywt")
    x = maps(2, 3, 10, 6)
    ll, detail = haar_dwt2d(x)
    expected_ll, expected = pywt.dwt2(x.numpy(), "haar", axes=(-2, -1))
    np.testing.assert_allclose(ll.numpy(), expected_ll, atol=1e-12)
    np.testing.assert_allclose(detail.numpy(), np.stack(expected, 2), atol=1e-12)
    back = pywt.idwt2((ll.numpy(), tuple(detail.numpy().transpose(2, 0, 1, 3, 4))), "haar", axes=(-2, -1))
    np.testing.assert_allclose(haar_idwt2d(ll, detail).numpy(), back, atol=1e-12)


def test_transform_is_ptwt_transform():
    ptwt = pytest.importorskip("ptwt")
    x = maps(3, 8, 12)
    low, detail = ptwt.wavedec2(x, "haar", level=1, mode="zero")
    ll, ours = haar_dwt2d(x[None])
    torch.testing.assert_close(ll[0], low.view_as(ll[0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(ours[0], torch.stack(tuple(detail), 1).view_as(ours[0]), atol=1e-6, rtol=0)


@given(height=sides, width=sides, seed=st.integers(0, 100))
def test_inverse_restores_and_energy_is_kept(height, width, seed):
    x = maps(1, 2, height, width, seed=seed)
    ll, detail = haar_dwt2d(x)
    torch.testing.assert_close(haar_idwt2d(ll, detail), x, atol=1e-12, rtol=0)
    torch.testing.assert_close(ll.square().sum() + detail.square().sum(), x.square().sum(), atol=1e-10, rtol=1e-12)


def test_transform_is_linear():
    x, y = maps(1, 1, 4, 4), maps(1, 1, 4, 4, seed=1)
    for mixed, left, right in zip(haar_dwt2d(2 * x - 3 * y), haar_dwt2d(x), haar_dwt2d(y), strict=True):
        torch.testing.assert_close(mixed, 2 * left - 3 * right)


def test_pyramid_of_a_constant_doubles_with_every_level():
    ll, details = haar_dwt2d(torch.full((1, 1, 16, 24), 0.7), levels=3)
    torch.testing.assert_close(ll, torch.full((1, 1, 2, 3), 0.7 * 8))
    assert [detail.shape[-2:] for detail in details] == [(8, 12), (4, 6), (2, 3)]
    assert all(float(detail.abs().max()) < 1e-6 for detail in details)


def test_pyramid_is_restored():
    x = maps(2, 2, 16, 24)
    torch.testing.assert_close(haar_idwt2d(*haar_dwt2d(x, levels=3)), x, atol=1e-12, rtol=0)


def test_gradients_are_right():
    x = maps(1, 1, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: haar_dwt2d(x), x)
    ll, detail = maps(1, 1, 2, 3).requires_grad_(), maps(1, 1, 3, 2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(haar_idwt2d, (ll, detail))


def test_both_ways_of_the_inverse_agree():
    ll, detail = maps(2, 3, 5, 7), maps(2, 3, 3, 5, 7, seed=1)
    with torch.no_grad():
        written = haar_idwt2d(ll, detail)
    assert torch.equal(written, haar_idwt2d(ll.requires_grad_(), detail).detach())


def test_unfit_maps_are_refused():
    with pytest.raises(ValueError, match=r"x: height and width must be even for a Haar step, got \(2, 1, 95, 320\)"):
        haar_dwt2d(torch.zeros(2, 1, 95, 320))
    with pytest.raises(ValueError, match=r"x: expected \(B, C, H, W\), got \(4, 4\)"):
        haar_dwt2d(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="levels: expected at least 1, got 0"):
        haar_dwt2d(torch.zeros(1, 1, 4, 4), levels=0)
    with pytest.raises(ValueError, match="detail: expected"):
        haar_idwt2d(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 4, 4))


def test_nothing_imports_pytorch_wavelets():
    code = (
        "import sys, paperworks.vision as v; [getattr(v, n) for n in v.__all__];"
        "sys.exit('pytorch_wavelets' in sys.modules or 'ptwt' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
