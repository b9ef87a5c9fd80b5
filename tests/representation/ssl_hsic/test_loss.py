from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

from paperworks.representation.ssl_hsic.estimators import mmd2
from paperworks.representation.ssl_hsic.features import Draw, FourierFeatures
from paperworks.representation.ssl_hsic.kernels import imq_kernel
from paperworks.representation.ssl_hsic.loss import infonce_second_order, ssl_hsic_loss

OFFICIAL = np.load(Path(__file__).parent / "official.npz")


def unit(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def written(z, c):
    """Both terms from loops over pairs, in NumPy."""
    count, batch, _ = z.shape
    flat = z.reshape(count * batch, -1).numpy()
    n = len(flat)
    k = c / np.sqrt(c * c + ((flat[:, None] - flat[None]) ** 2).sum(-1))
    image = np.tile(np.arange(batch), count)
    same = sum(k[i, j] for i in range(n) for j in range(n) if image[i] == image[j])
    centre = np.eye(n) - 1 / n
    return same / (batch * count * (count - 1)) - k.mean(), ((centre @ k @ centre) ** 2).sum() / n**2


@pytest.mark.parametrize("count", [2, 4])
def test_values_and_gradients_of_the_official_code(count):
    """Its frequencies and phases injected: float32 against float32."""
    z = torch.tensor(OFFICIAL[f"z{count}"], requires_grad=True)
    draws = tuple(Draw(*(torch.tensor(OFFICIAL[f"{name}{i}"]) for name in "wb")) for i in range(2))
    terms = ssl_hsic_loss(z, gamma=3.0, c=0.8, estimator="features", draws=draws)
    terms.loss.backward()
    for name, value in (("xy", terms.hsic_zy), ("xx", terms.hsic_zz), ("loss", terms.loss)):
        assert float(value.detach()) == pytest.approx(float(OFFICIAL[f"{name}{count}"]), abs=1e-5)
    np.testing.assert_allclose(z.grad, OFFICIAL[f"slope{count}"], atol=1e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_exact_terms_are_the_written_ones(count):
    z = unit(count, 7, 5)
    terms = ssl_hsic_loss(z, gamma=2.0, c=0.6, estimator="exact")
    hsic_zy, hsic_zz = written(z, 0.6)
    assert float(terms.hsic_zy) == pytest.approx(hsic_zy, abs=1e-12)
    assert float(terms.hsic_zz) == pytest.approx(hsic_zz, abs=1e-12)
    assert float(terms.loss) == pytest.approx(2 * hsic_zz**0.5 - hsic_zy, abs=1e-12)
    assert torch.autograd.gradcheck(
        lambda x: ssl_hsic_loss(F.normalize(x, dim=-1), estimator="exact").loss, (z.clone().requires_grad_(),)
    )


def test_hsic_zy_is_the_mean_discrepancy_between_images():
    """N HSIC(Z, Y) = mean over pairs of images of MMD^2 / 2, self-pairs included on both sides."""
    count, batch = 3, 6
    z = unit(count, batch, 5)
    gaps = [mmd2(z[:, i], z[:, j]) for i in range(batch) for j in range(batch)]
    flat = z.reshape(-1, 5)
    same = torch.stack([imq_kernel(z[:, i], z[:, i]).mean() for i in range(batch)]).mean()
    population = (same - imq_kernel(flat, flat).mean()) / batch
    torch.testing.assert_close(population, torch.stack(gaps).sum() / (2 * batch**3), rtol=1e-10, atol=1e-12)
    terms = ssl_hsic_loss(z, estimator="exact")
    # The batch estimate weighs pairs of one image by 1 / (M (M - 1)) where the population form has 1 / M^2.
    torch.testing.assert_close(terms.hsic_zy, batch * population + same / (count - 1), rtol=1e-10, atol=1e-12)


def test_clusters_in_closed_form():
    """Equal views at mutual distance sqrt 2: without self-pairs hsic_zy is (1 - 1/B)(1 - c / sqrt(c^2 + 2))."""
    batch, count, c = 5, 2, 0.7
    z = torch.eye(batch, dtype=torch.float64).expand(count, batch, batch)
    terms = ssl_hsic_loss(z, c=c, estimator="exact", constant=True)
    assert float(terms.hsic_zy) == pytest.approx((1 - 1 / batch) * (1 - c / (c * c + 2) ** 0.5), abs=1e-12)


@pytest.mark.parametrize("estimator", ["exact", "features"])
@pytest.mark.parametrize("c", [1e-3, 1.0])
def test_full_collapse_has_a_finite_gradient(estimator, c):
    z = torch.zeros(2, 8, 4)
    z[..., 0] = 1
    z.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = ssl_hsic_loss(z, c=c, estimator=estimator, constant=True)
    terms.loss.backward()
    assert float(terms.loss.detach()) == pytest.approx(0, abs=2e-3)
    assert torch.isfinite(z.grad).all()


def test_features_agree_with_the_exact_terms_in_expectation():
    z = unit(2, 12, 6)
    exact = ssl_hsic_loss(z, estimator="exact")
    generator = torch.Generator().manual_seed(0)
    terms = [ssl_hsic_loss(z, features=32, estimator="features", generator=generator) for _ in range(1000)]
    for name in ("hsic_zy", "hsic_zz"):
        draws = torch.stack([getattr(term, name) for term in terms])
        score = (draws.mean() - getattr(exact, name)) / (draws.std() / len(draws) ** 0.5)
        assert abs(float(score)) < 4, name


def test_one_draw_for_both_factors_would_be_biased():
    """The reason for the second draw, and a check that the test above could fail."""
    z = unit(2, 12, 6)
    generator, features = torch.Generator().manual_seed(0), FourierFeatures(6, 32)
    exact = float(ssl_hsic_loss(z, estimator="exact").hsic_zz)
    biased = []
    for _ in range(200):
        draw = features.draw(generator=generator)
        biased.append(float(ssl_hsic_loss(z, estimator="features", draws=(draw, draw)).hsic_zz))
    assert np.mean(biased) > exact + 4 * np.std(biased) / 200**0.5


def test_features_converge_to_the_exact_terms():
    z = unit(2, 16, 8)
    exact = ssl_hsic_loss(z, estimator="exact")
    terms = ssl_hsic_loss(z, features=4096, estimator="features", generator=torch.Generator().manual_seed(0))
    assert float(terms.hsic_zy) == pytest.approx(float(exact.hsic_zy), abs=1e-2)
    assert float(terms.hsic_zz) == pytest.approx(float(exact.hsic_zz), rel=0.05)


def test_all_views_share_their_frequencies():
    """Two equal views: phi(z) . phi(z) = 1 whatever the draw, so the first sum of hsic_zy is exactly B (M = 2)."""
    z = unit(1, 9, 5).expand(2, -1, -1)
    draws = tuple(FourierFeatures(5, 16).draw(generator=torch.Generator().manual_seed(i)) for i in range(2))
    features = FourierFeatures(5, 16)
    phi = features(z[0], 1.0, draws[0])
    terms = ssl_hsic_loss(z, estimator="features", draws=draws)
    assert float(terms.hsic_zy) == pytest.approx(2 - float(phi.mean(0).square().sum()), abs=1e-12)
    other = features(z[1], 1.0, draws[1])  # had the second view its own frequencies
    apart = float((phi + other).square().sum()) / (9 * 2)
    assert abs(apart - 2) > 0.1


@given(seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_order_and_rotation_change_nothing(seed):
    generator = torch.Generator().manual_seed(seed)
    z = unit(3, 6, 4, seed=seed)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    images, views = torch.randperm(6, generator=generator), torch.randperm(3, generator=generator)
    exact = ssl_hsic_loss(z, estimator="exact")
    for other in (z[:, images], z[views], z @ rotation):
        torch.testing.assert_close(ssl_hsic_loss(other, estimator="exact").loss, exact.loss)
    assert float(exact.hsic_zz) >= 0


def test_auto_is_exact_up_to_twice_the_features():
    z = unit(2, 16, 5)
    exact = ssl_hsic_loss(z, estimator="exact")
    assert torch.equal(ssl_hsic_loss(z, features=16).loss, exact.loss)
    assert not torch.equal(ssl_hsic_loss(z, features=14).loss, exact.loss)


def test_the_width_gets_no_gradient():
    c = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    z = unit(2, 6, 4).requires_grad_()
    ssl_hsic_loss(z, c=c, estimator="exact").loss.backward()
    assert c.grad is None


def test_compiles_once_for_all_draws():
    torch._dynamo.reset()
    counter = CompileCounter()
    features = FourierFeatures(5, 16)

    @torch.compile(backend=counter, fullgraph=True)
    def loss(z, w1, w2):
        return ssl_hsic_loss(z, estimator="features", draws=(Draw(w1), Draw(w2))).loss

    z = unit(2, 8, 5, dtype=torch.float32)
    for seed in range(3):
        draws = [features.draw(generator=torch.Generator().manual_seed(10 * seed + i)).frequencies for i in range(2)]
        expected = ssl_hsic_loss(z, estimator="features", draws=(Draw(draws[0]), Draw(draws[1]))).loss
        torch.testing.assert_close(loss(z, *draws), expected)
    assert counter.frame_count == 1


def test_infonce_to_second_order():
    z1, z2 = unit(10, 6), unit(10, 6, seed=1)
    errors = []
    for temperature in (10.0, 20.0):
        s = z1 @ z2.T / temperature
        infonce = F.cross_entropy(s, torch.arange(10)) - np.log(10)
        errors.append(abs(float(infonce - infonce_second_order(z1, z2, temperature=temperature))))
    assert errors[1] < errors[0] / 6  # what is left is of third order
    assert errors[0] < 1e-4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ssl_hsic_loss(unit(1, 4, 3)), "views: expected at least 2 views, got 1"),
        (lambda: ssl_hsic_loss([unit(4, 3)]), "views: expected at least 2 views, got 1"),
        (lambda: ssl_hsic_loss(unit(4, 3)), r"views: expected \(M, B, D\), got \(4, 3\)"),
        (lambda: ssl_hsic_loss([unit(4, 3), unit(5, 3)]), "views: expected equal shapes"),
        (lambda: ssl_hsic_loss(2 * unit(2, 4, 3)), "views: rows must have unit length"),
        (lambda: ssl_hsic_loss(unit(2, 4, 3), c=-0.1), r"c: must be positive, got -0\.1"),
        (lambda: ssl_hsic_loss(unit(2, 4, 3), gamma=-1), "gamma: must be >= 0"),
        (lambda: ssl_hsic_loss(unit(2, 4, 3), estimator="rff"), "estimator: expected auto, exact or features"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
