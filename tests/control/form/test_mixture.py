"""The fused density against torch's own mixture: values, gradients, extremes."""

# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from paperworks.control.form.mixture import (
    full_log_prob,
    full_marginal_scale,
    mixture_log_prob,
    mixture_log_prob_per_dim,
    unpack_lower,
)
from paperworks.testing import peak_bytes


def arguments(shape=(7, 3, 5), dtype=torch.float64):
    *batch, components, dim = shape
    generator = torch.Generator().manual_seed(0)
    sizes = ((*batch, dim), (*batch, components), (*batch, components, dim), (*batch, components, dim))
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]


def reference(x, logits, mean, log_scale):
    parts = Independent(Normal(mean, log_scale.exp()), 1)
    return MixtureSameFamily(Categorical(logits=logits), parts).log_prob(x)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("shape", [(7, 3, 5), (2, 4, 1, 6), (5, 4, 1)])
def test_values_and_gradients_are_torch_s(shape, dtype, tolerance):
    ours = [part.requires_grad_() for part in arguments(shape, dtype)]
    theirs = [part.detach().double().requires_grad_() for part in ours]
    value, expected = mixture_log_prob(*ours), reference(*theirs)
    weight = torch.linspace(-1, 2, value.numel(), dtype=dtype).view(value.shape)
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=10 * tolerance)
    (value * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=20 * tolerance, atol=20 * tolerance)


def test_gradcheck():
    assert torch.autograd.gradcheck(mixture_log_prob, [part.requires_grad_() for part in arguments((2, 2, 3))])


@pytest.mark.parametrize("log_scale", [math.log(0.02), 2.0])
@pytest.mark.parametrize("sigmas", [0.0, 1e3])
def test_extremes_are_finite(log_scale, sigmas):
    x, logits, mean, scale = arguments((4, 3, 5), torch.float32)
    scale = torch.full_like(scale, log_scale).requires_grad_()
    x = mean[..., 0, :] + sigmas * math.exp(log_scale)
    mean = mean.requires_grad_()
    value = mixture_log_prob(x, logits, mean, scale)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(scale.grad).all()


def test_marginals_are_those_of_one_dimension_and_add_up_for_one_gaussian():
    x, logits, mean, log_scale = arguments()
    parts = mixture_log_prob_per_dim(x, logits, mean, log_scale)
    for dim in range(5):
        one = mixture_log_prob(x[:, dim : dim + 1], logits, mean[..., dim : dim + 1], log_scale[..., dim : dim + 1])
        torch.testing.assert_close(parts[:, dim], one)
    single = [x, logits[:, :1], mean[:, :1], log_scale[:, :1]]
    torch.testing.assert_close(mixture_log_prob_per_dim(*single).sum(-1), mixture_log_prob(*single))
    assert not torch.allclose(parts.sum(-1), mixture_log_prob(x, logits, mean, log_scale))


def test_full_covariances_are_torch_s():
    x, logits, mean, log_scale = arguments()
    lower = torch.randn(7, 3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    factor = torch.diag_embed((-log_scale).exp()) @ (torch.eye(5, dtype=torch.float64) + unpack_lower(lower, 5))
    parts = MultivariateNormal(mean, precision_matrix=factor.mT @ factor)
    expected = MixtureSameFamily(Categorical(logits=logits), parts).log_prob(x)
    torch.testing.assert_close(full_log_prob(x, logits, mean, log_scale, lower), expected)
    spread = full_marginal_scale(log_scale, lower).exp()
    torch.testing.assert_close(spread, parts.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt())


def test_shapes_are_not_broadcast():
    x, logits, mean, log_scale = arguments()
    for wrong in (
        (x[:1], logits, mean, log_scale),
        (x, logits[:, :2], mean, log_scale),
        (x, logits, mean, log_scale[:1]),
    ):
        with pytest.raises(ValueError, match="mixture: x"):
            mixture_log_prob(*wrong)


def test_the_backward_pass_keeps_less_than_torch_s():
    def work(density):
        parts = [part.requires_grad_() for part in arguments((512, 4, 32), torch.float32)]
        return lambda: density(*parts).sum().backward()

    assert peak_bytes(work(mixture_log_prob)) < 0.75 * peak_bytes(work(reference))
