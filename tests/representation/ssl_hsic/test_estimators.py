import numpy as np
import pytest
import torch

from paperworks.representation.ssl_hsic.estimators import _permutation, hsic, hsic_test, mmd2
from paperworks.representation.ssl_hsic.kernels import imq_kernel, rbf_kernel


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_biased_hsic_is_the_covariance_of_feature_maps():
    """With linear kernels: the squared Frobenius norm of the covariance matrix."""
    x, y = normal(20, 3), normal(20, 2, seed=1)
    cross = np.cov(x.T, y.T, bias=True)[:3, 3:]
    linear = hsic(x, y, kernel_x="linear", kernel_y="linear")
    assert float(linear) == pytest.approx((cross**2).sum(), abs=1e-12)


def test_unbiased_hsic_averages_over_distinct_quadruples():
    """Against the definition: h(i, j, q, r) summed over all ordered quadruples of distinct rows."""
    x, y = normal(6, 2), normal(6, 2, seed=1)
    k, other = rbf_kernel(x, x).numpy(), rbf_kernel(y, y).numpy()
    total, count = 0.0, 0
    for i in range(6):
        for j in range(6):
            for q in range(6):
                for r in range(6):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q])
                        count += 1
    unbiased = hsic(x, y, kernel_x="rbf", kernel_y="rbf", estimator="unbiased")
    assert float(unbiased) == pytest.approx(total / count, abs=1e-12)


def test_features_estimate_the_biased_hsic():
    x = normal(30, 2)
    y = x.square()
    exact = float(hsic(x, y))
    generator = torch.Generator().manual_seed(0)
    draws = [float(hsic(x, y, estimator="features", features=64, generator=generator)) for _ in range(300)]
    assert abs(np.mean(draws) - exact) < 4 * np.std(draws) / 300**0.5


def test_mmd_of_shifted_samples():
    x, y = normal(8, 2), normal(5, 2, seed=1) + 1
    own, others, cross = (imq_kernel(a, b).numpy() for a, b in ((x, x), (y, y), (x, y)))
    assert float(mmd2(x, y)) == pytest.approx(own.mean() + others.mean() - 2 * cross.mean(), abs=1e-12)
    off = [(a.sum() - np.trace(a)) / (len(a) * (len(a) - 1)) for a in (own, others)]
    assert float(mmd2(x, y, estimator="unbiased")) == pytest.approx(sum(off) - 2 * cross.mean(), abs=1e-12)
    assert float(mmd2(x, x)) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_the_test_holds_its_level():
    """500 independent pairs at 5 %: between 3 and 7 % rejected (three standard errors)."""
    generator = torch.Generator().manual_seed(0)
    rejected = 0
    for _ in range(500):
        x, y = (torch.randn(30, 1, generator=generator, dtype=torch.float64) for _ in range(2))
        rejected += hsic_test(x, y, permutations=199, generator=generator).p_value <= 0.05
    assert 0.03 <= rejected / 500 <= 0.07


def test_it_sees_what_correlation_does_not():
    x = normal(100, 1)
    generator = torch.Generator().manual_seed(0)
    assert abs(np.corrcoef(x[:, 0], x[:, 0] ** 2)[0, 1]) < 0.3
    assert hsic_test(x, x.square(), permutations=199, generator=generator).p_value == 1 / 200


def test_constant_input_is_independent():
    result = hsic_test(torch.ones(20, 1), normal(20, 1).float(), permutations=99)
    assert (result.statistic, result.p_value) == (0.0, 1.0)


def test_permutations_stay_within_groups():
    groups = torch.tensor([0, 1, 0, 2, 1, 0, 2, 1])
    seen = set()
    generator = torch.Generator().manual_seed(0)
    for _ in range(800):
        order = _permutation(8, groups, generator)
        assert sorted(order.tolist()) == list(range(8))
        assert torch.equal(groups[order], groups)
        seen.add(tuple(order.tolist()))
    assert len(seen) == 6 * 6 * 2  # every arrangement within three, three and two rows


def test_dependence_through_the_group_alone_is_not_found_within_groups():
    groups = torch.arange(60) % 3
    x, y = (5.0 * groups[:, None] + normal(60, 1, seed=seed) for seed in (0, 1))
    generator = torch.Generator().manual_seed(0)
    assert hsic_test(x, y, permutations=199, generator=generator).p_value == 1 / 200
    assert hsic_test(x, y, permutations=199, groups=groups, generator=generator).p_value > 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hsic(normal(5, 1), normal(4, 1)), "x, y: expected tables with paired rows"),
        (lambda: hsic(normal(5), normal(5)), "x, y: expected tables with paired rows"),
        (lambda: hsic(normal(3, 1), normal(3, 1), estimator="unbiased"), "at least 4 rows, got 3"),
        (lambda: hsic(normal(5, 1), normal(5, 1), estimator="exact"), "estimator: expected biased"),
        (lambda: hsic(normal(5, 1), normal(5, 1), kernel_y="cosine"), "kernel_y: expected one of"),
        (lambda: hsic(normal(5, 1), normal(5, 1), kernel_x="linear", estimator="features"), "kernel_x: the estimate"),
        (lambda: hsic_test(normal(5, 1), normal(5, 1), permutations=0), "permutations: expected at least 1"),
        (lambda: hsic_test(normal(5, 1), normal(5, 1), groups=torch.zeros(4)), "groups: expected one integer"),
        (lambda: mmd2(normal(5, 1), normal(5, 2)), "tables of equal width"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
