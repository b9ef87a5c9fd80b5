import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import kv

from paperworks.representation.ssl_hsic.features import FourierFeatures
from paperworks.representation.ssl_hsic.kernels import imq_kernel, linear_kernel, rbf_kernel

FORMS = [("sincos", True, True), ("sincos", False, False), ("phase", False, False), ("phase", True, True)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def plain(x, y, kernel):
    x, y = x.numpy(), y.numpy()
    return np.array([[kernel(((a - b) ** 2).sum()) for b in y] for a in x])


def test_kernels_are_what_they_say():
    x, y = torch.randn(4, 3, generator=seeded()).double(), torch.randn(5, 3, generator=seeded(1)).double()
    np.testing.assert_allclose(imq_kernel(x, y, c=0.7), plain(x, y, lambda s: 0.7 / math.sqrt(0.49 + s)), rtol=1e-12)
    np.testing.assert_allclose(rbf_kernel(x, y, c=0.7), plain(x, y, lambda s: math.exp(-s / 0.98)), rtol=1e-12)
    np.testing.assert_allclose(linear_kernel(x, y), x.numpy() @ y.numpy().T, rtol=1e-12)


@given(scale=st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_scaling_width_and_points_together_changes_nothing(scale):
    x = torch.randn(6, 3, generator=seeded()).double()
    torch.testing.assert_close(imq_kernel(scale * x, scale * x, c=scale * 0.5), imq_kernel(x, x, c=0.5))


def test_gradient_is_finite_where_rows_are_equal():
    x = torch.ones(3, 2, requires_grad=True)
    imq_kernel(x, x).sum().backward()
    assert torch.equal(x.grad, torch.zeros(3, 2))


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
@pytest.mark.parametrize(("form", "stratified", "orthogonal"), FORMS)
@pytest.mark.parametrize("dim", [1, 8, 64])
def test_features_estimate_the_kernel_without_bias(kernel, form, stratified, orthogonal, dim):
    """Mean over 400 draws within 4.5 standard errors of the exact value, at three distances, the width not 1."""
    x = torch.zeros(4, dim)
    x[1, 0], x[2, -1], x[3] = 0.5, 1.4, 2 / math.sqrt(dim)
    generator = seeded()
    features = FourierFeatures(dim, 32, kernel=kernel, form=form, stratified=stratified, orthogonal=orthogonal)
    draws = []
    for _ in range(400):
        phi = features(x, 0.8, features.draw(generator=generator))
        draws.append((phi[:1] @ phi[1:].T)[0])
    estimates = torch.stack(draws).double()
    exact = (imq_kernel if kernel == "imq" else rbf_kernel)(x[:1], x[1:], c=0.8)[0]
    error = estimates.std(0) / math.sqrt(len(draws))
    assert ((estimates.mean(0) - exact).abs() < 4.5 * error + 1e-6).all()


def test_amplitudes_have_the_paper_s_bessel_law():
    """Density of |w| proportional to a^((d-1)/2) K_((d-1)/2)(a); its distribution function by quadrature."""
    dim = 16
    frequencies = FourierFeatures(dim, 20_000, form="phase").draw(generator=seeded()).frequencies
    grid = np.linspace(1e-9, 60, 60_001)
    density = grid ** ((dim - 1) / 2) * kv((dim - 1) / 2, grid)
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    distribution = stats.kstest(
        frequencies.norm(dim=1).numpy(), lambda a: np.interp(a, grid, cumulative / cumulative[-1])
    )
    assert distribution.statistic < 0.012
    wrong = frequencies.norm(dim=1).numpy() * 1.05
    assert stats.kstest(wrong, lambda a: np.interp(a, grid, cumulative / cumulative[-1])).statistic > 0.015


def test_variance_falls_from_phase_to_pairs_to_strata_to_orthogonal_directions():
    """The paper's setting, 512 features of 256 dimensions: standard deviations .040, .035, .029, .022."""
    dim, generator = 256, seeded()
    z = torch.nn.functional.normalize(torch.randn(24, dim, generator=generator), dim=1)
    exact = imq_kernel(z, z)
    off = ~torch.eye(24, dtype=torch.bool)

    def spread(form, stratified, orthogonal):
        features = FourierFeatures(dim, 512, form=form, stratified=stratified, orthogonal=orthogonal)
        errors = []
        for _ in range(12):
            phi = features(z, 1.0, features.draw(generator=generator))
            errors.append((phi @ phi.T - exact)[off])
        return float(torch.stack(errors).square().mean().sqrt())

    spreads = [spread(*setting) for setting in [FORMS[2], FORMS[1], ("sincos", True, False), FORMS[0]]]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] == pytest.approx(0.040, rel=0.1)
    assert spreads[-1] <= 0.024


def test_orthogonal_blocks():
    frequencies = FourierFeatures(8, 40).draw(generator=seeded()).frequencies
    assert frequencies.shape == (20, 8)
    for block in frequencies.split(8):
        gram = torch.nn.functional.normalize(block, dim=1) @ torch.nn.functional.normalize(block, dim=1).T
        torch.testing.assert_close(gram, torch.eye(len(block)), atol=1e-5, rtol=0)


def test_sine_and_cosine_keep_one_tensor_and_have_the_right_gradient():
    features = FourierFeatures(3, 8)
    draw = features.draw(generator=seeded())
    x = torch.randn(5, 3, generator=seeded(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: features(z, 0.7, draw), (x,))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        phi = features(x, 0.7, draw)
    wide = [tensor for tensor in saved if tensor.shape[-1] == 8]
    assert [tensor.data_ptr() for tensor in wide] == [phi.data_ptr()]
    torch.testing.assert_close(phi.square().sum(1), torch.ones(5, dtype=torch.float64))


def test_half_precision_input_is_lifted():
    features = FourierFeatures(4, 8)
    draw = features.draw(generator=seeded())
    x = 30 * torch.randn(6, 4, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        phi = features(x.bfloat16(), 1.0, draw)
    torch.testing.assert_close(phi, features(x.bfloat16().float(), 1.0, draw))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": 7}, "features: expected an even number"),
        ({"kernel": "linear"}, "kernel: expected imq or rbf"),
        ({"form": "cos"}, "form: expected sincos or phase"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FourierFeatures(3, **arguments)


def test_width_must_be_positive():
    features = FourierFeatures(3, 8)
    with pytest.raises(ValueError, match=r"c: must be positive, got -0\.1"):
        features(torch.zeros(2, 3), -0.1, features.draw())
