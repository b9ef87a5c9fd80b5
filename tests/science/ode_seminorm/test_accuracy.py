"""Gradient errors are what they say: against an analytic gradient, and for every norm."""

import pytest
import torch

from paperworks.science import gradient_error, work_precision
from paperworks.science.ode_seminorm.accuracy import reference_gradient

T = torch.tensor([0.0, 1.5], dtype=torch.float64)


def loss(solution):
    return solution[-1].square().sum()


def test_the_reference_is_the_matrix_exponential_s(fields):
    field, y0 = fields.linear(), torch.tensor([[1.0, -0.4]])
    leaf, A = y0.clone().requires_grad_(), field.A.detach().clone().requires_grad_()
    value = (torch.matrix_exp(A * 1.5) @ leaf[0]).square().sum()
    truth = torch.cat([grad.reshape(-1) for grad in torch.autograd.grad(value, [leaf, A])])
    torch.testing.assert_close(reference_gradient(field, y0, T, loss), truth, rtol=1e-7, atol=1e-8)


def test_gradient_error_is_the_distance_to_the_reference(fields):
    field, y0 = fields.mlp(), torch.linspace(-1, 1, 8).view(4, 2)
    truth = reference_gradient(field, y0, T, loss)
    loose, tight = (gradient_error(field, y0, T, loss, rtol=tol, atol=tol) for tol in (1e-3, 1e-8))
    assert tight.relative < 1e-6 < loose.relative
    assert loose.stats.backward.nfe > 0
    doubled = gradient_error(field, y0, T, loss, rtol=1e-8, atol=1e-8, reference=2 * truth)
    assert doubled.relative == pytest.approx(0.5, abs=1e-5)
    assert doubled.relative_y0 == pytest.approx(0.5, abs=1e-5)
    assert doubled.relative_params == pytest.approx(0.5, abs=1e-5)
    with pytest.raises(ValueError, match="reference: expected 'direct64'"):
        gradient_error(field, y0, T, loss, reference="exact")


@pytest.mark.parametrize("name", ["mlp", "pair"])
def test_work_and_precision_go_together(fields, name):
    if name == "mlp":
        field, y0, of = fields.mlp(), torch.linspace(-1, 1, 8).view(4, 2), loss
    else:
        field, y0 = fields.pair(), (torch.linspace(-1, 1, 10).view(5, 2), torch.zeros(5))
        of = lambda s: s[0][-1].square().sum() + s[1][-1].sum()  # noqa: E731
    table = work_precision(field, y0, T, of, norms=("full", "seminorm"), tolerances=((1e-2, 1e-4), (1e-7, 1e-9)))
    assert table["norm"].tolist() == ["full", "full", "seminorm", "seminorm"]
    for _, rows in table.groupby("norm"):
        assert rows["nfe"].is_monotonic_increasing
        assert rows["error"].iloc[1] < min(1e-5, rows["error"].iloc[0] / 5)
    assert (table["nfe"] == 2 + 6 * (table["accepted"] + table["rejected"])).all()
    # Fewer things to watch never need more watching here.
    assert table["nfe"].iloc[2] <= table["nfe"].iloc[0]
    with pytest.raises(ValueError, match="adjoint_norm: expected one of"):
        work_precision(field, y0, T, of, norms=("half",))
