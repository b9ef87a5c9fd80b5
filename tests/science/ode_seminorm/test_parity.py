"""Against torchdiffeq in float64: the same evaluations, integer for integer, and the same numbers to 1e-10.

Three things of torchdiffeq 0.2.5 are stepped around, since they are mistakes there:
    it integrates a_t also where no gradient of the times is wanted (`t_.requires_grad_()` works in place), so fields
    that
    depend on time are compared with `time_grad`;
    a step that ends on a jump by itself, as equal steps between equally spaced knots do, leaves it waiting for that
    jump
    for ever, and later jumps are not seen: knots are irregular here, regular ones are tested in `test_solve.py`;
    for decreasing times it turns the sign of the backward jumps once too often: it is given them turned.
"""

import dataclasses

import pytest
import torch

from paperworks.science import LinearPath, odeint, odeint_adjoint
from paperworks.science.ode_seminorm.tableaux import METHODS

torchdiffeq = pytest.importorskip("torchdiffeq", reason="needs the peer torchdiffeq")

# torchdiffeq's dense output of these two has another middle, which is felt where it overshoots.
THEIR_MIDDLE = {"bosh3": (0.0, 0.5, 0.0, 0.0), "heun21": (0.5, 0.0)}
THEIR_NAME = {"heun21": "adaptive_heun"}
pytestmark = pytest.mark.filterwarnings("ignore::paperworks.science.SolverWarning")
TIGHT = {"rtol": 1e-4, "atol": 1e-6}


def our_method(name):
    tableau = METHODS[name]
    return dataclasses.replace(tableau, mid=THEIR_MIDDLE[name]) if name in THEIR_MIDDLE else tableau


def flat(value):
    return torch.cat([part.reshape(-1) for part in value]) if isinstance(value, tuple) else value.reshape(-1)


def states(shape_or_shapes):
    generator = torch.Generator().manual_seed(1)
    draw = lambda shape: torch.randn(shape, generator=generator).requires_grad_()  # noqa: E731
    return tuple(map(draw, shape_or_shapes)) if isinstance(shape_or_shapes[0], tuple) else draw(shape_or_shapes)


def measure(
    library, field, y0, times, *, method, norm, tolerances, time_grad=False, jumps=None, wrong_sign=False, **more
):
    """Evaluations forward and backward, the solution, and all gradients of a loss over it."""
    t = torch.tensor(times).requires_grad_(time_grad)
    field.calls = 0
    if library == "torchdiffeq":
        options = more if jumps is None else {"jump_t": jumps}
        backward = dict(more) if jumps is None else {"jump_t": jumps}
        backward |= {key: -backward[key] for key in ("jump_t", "step_t") if wrong_sign and key in backward}
        if norm != "full":
            backward["norm"] = "seminorm" if norm == "seminorm_t" else norm
        solution = torchdiffeq.odeint_adjoint(
            field, y0, t, method=THEIR_NAME.get(method, method), options=options, adjoint_options=backward, **tolerances
        )
    else:
        options = {"endpoint": "interpolate"} | more | ({} if jumps is None else {"jump_t": jumps})
        solution = odeint_adjoint(
            field, y0, t, method=our_method(method), options=options, adjoint_norm=norm, time_grad=time_grad,
            **tolerances,
        )  # fmt: skip
    forward = field.calls
    parts = solution if isinstance(solution, tuple) else (solution,)
    loss = sum((index + 1) * part[1:].square().sum() for index, part in enumerate(parts))
    leaves = [*(y0 if isinstance(y0, tuple) else (y0,)), *field.parameters(), *([t] if time_grad else [])]
    grads = torch.autograd.grad(loss, leaves)
    return (forward, field.calls - forward), flat(tuple(parts)).detach(), [grad.detach() for grad in grads]


def assert_parity(make, shape, times, **how):
    (ours_nfe, ours, our_grads), (theirs_nfe, theirs, their_grads) = (
        measure(library, make(), states(shape), times, **how) for library in ("ours", "torchdiffeq")
    )
    assert ours_nfe == theirs_nfe
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for mine, other in zip(our_grads, their_grads, strict=True):
        assert (mine - other).norm() <= 1e-10 * other.norm() + 1e-14


INCREASING, DECREASING, SEVERAL = [0.0, 1.0], [2.0, 0.0], [0.0, 0.3, 2.0]


@pytest.mark.parametrize("norm", ["full", "seminorm_t"])
@pytest.mark.parametrize("times", [INCREASING, DECREASING, SEVERAL], ids=["up", "down", "several"])
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "heun21"])
@pytest.mark.parametrize("width", [16, 220])
def test_methods_directions_and_norms(fields, width, method, times, norm):
    how = {"method": method, "norm": norm, "tolerances": TIGHT, "time_grad": True}
    assert_parity(lambda: fields.mlp(width), (8, 2), times, **how)


@pytest.mark.parametrize("norm", ["full", "seminorm_t"])
@pytest.mark.parametrize("times", [INCREASING, DECREASING], ids=["up", "down"])
def test_dopri8(fields, times, norm):
    # From the usual small first step its error estimate is rounding noise, and so would be its steps; and its quartic
    # dense output makes that noise visible, so steps end on both ends.
    how = {"method": "dopri8", "norm": norm, "tolerances": {"rtol": 1e-11, "atol": 1e-13}, "first_step": 0.1}
    how |= {"step_t": torch.tensor(times), "wrong_sign": times[0] > times[1]}
    assert_parity(lambda: fields.mlp(16, time=False), (8, 2), times, **how)


@pytest.mark.parametrize("norm", ["full", "seminorm_t"])
@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
@pytest.mark.parametrize("times", [INCREASING, DECREASING, SEVERAL], ids=["up", "down", "several"])
def test_tuple_states(fields, times, method, norm):
    how = {"method": method, "norm": norm, "tolerances": TIGHT, "time_grad": True}
    assert_parity(fields.pair, ((5, 2), (5,)), times, **how)


@pytest.mark.parametrize("norm", ["full", "seminorm_t"])
@pytest.mark.parametrize("name", ["linear", "van_der_pol"])
def test_linear_and_stiff_fields(fields, name, norm):
    make = fields.linear if name == "linear" else fields.van_der_pol
    assert_parity(make, (3, 2), [0.0, 1.5], method="dopri5", norm=norm, tolerances={"rtol": 1e-6, "atol": 1e-8})


def largest_entry(parts):
    return max(part.abs().max() for part in parts[1:])


def states_only_linf(parts):
    return max(part.abs().max() for part in parts[1:3])


@pytest.mark.parametrize("norm", [largest_entry, states_only_linf])
def test_norms_of_one_s_own(fields, norm):
    assert_parity(lambda: fields.mlp(16), (8, 2), SEVERAL, method="dopri5", norm=norm, tolerances=TIGHT)


def test_a_norm_of_one_s_own_gets_the_parts_of_a_tuple_state(fields):
    seen = []

    def norm(parts):
        seen.append([tuple(part.shape) for part in parts])
        return max(part.abs().max() for part in parts)

    assert_parity(fields.pair, ((5, 2), (5,)), INCREASING, method="dopri5", norm=norm, tolerances=TIGHT)
    assert all(shapes[:5] == [(), (5, 2), (5,), (5, 2), (5,)] for shapes in seen)


KNOTS = [0.0, 0.93, 2.07, 2.88, 4.21, 5.02, 5.91, 7.13, 8.0]


class Driven(torch.nn.Module):
    """A controlled equation with a smooth field; the path's derivative jumps at the knots."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 12), torch.nn.Tanh(), torch.nn.Linear(12, 12), torch.nn.Tanh()
        )
        self.path = LinearPath(torch.randn(5, 9, 3).cumsum(1), torch.tensor(KNOTS))
        self.calls = 0

    def forward(self, t, z):
        self.calls += 1
        return torch.bmm(self.net(z).view(-1, 4, 3), self.path.derivative(t)[..., None])[..., 0]


@pytest.mark.parametrize("norm", ["full", "seminorm_t"])
# An output on a knot would begin an interval there, on the wrong side in torchdiffeq.
@pytest.mark.parametrize("times", [[0.0, 8.0], [0.0, 2.5, 5.3, 8.0], [8.0, 0.0]], ids=["up", "several", "down"])
def test_knots_are_jumps(times, norm):
    jumps = torch.tensor(KNOTS[1:-1])
    how = {"method": "dopri5", "norm": norm, "tolerances": {"rtol": 1e-3, "atol": 1e-6}, "jumps": jumps}
    assert_parity(Driven, (5, 4), times, **how, wrong_sign=times[0] > times[1])


@pytest.mark.parametrize(
    "options", [{"step_t": [0.31, 0.7]}, {"first_step": 0.05}, {"max_step": 0.11}, {"safety": 0.7}]
)
def test_step_options(fields, options):
    def run(solve, more):
        field = fields.mlp(16)
        given = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in options.items()}
        y = solve(field, states((8, 2)), torch.tensor([0.0, 0.5, 1.0]), options=given | more, **TIGHT)
        return field.calls, y

    ours, theirs = run(odeint, {"endpoint": "interpolate"}), run(torchdiffeq.odeint, {})
    assert ours[0] == theirs[0]
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_fixed_steps(fields, method):
    def run(solve):
        field, y0 = fields.mlp(16), states((8, 2))
        y = solve(field, y0, torch.tensor([0.0, 0.5, 1.0]), method=method, options={"step_size": 0.125})
        return y, torch.autograd.grad(y.square().sum(), [y0, *field.parameters()])

    for solve, theirs in ((odeint, torchdiffeq.odeint), (odeint_adjoint, torchdiffeq.odeint_adjoint)):
        (mine, my_grads), (other, other_grads) = run(solve), run(theirs)
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(my_grads, other_grads, rtol=1e-10, atol=1e-12)
