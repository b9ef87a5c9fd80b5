"""The adjoint gradient: right numbers, the seminorm's invariances, and the ways a user meets it."""

import math
import warnings

import pytest
import torch
from torch import nn

from paperworks.science import Solver, SolverWarning, odeint, odeint_adjoint, record_solves

T = torch.tensor([0.0, 1.5], dtype=torch.float64)


def test_the_gradient_of_a_linear_system_is_that_of_the_matrix_exponential(fields):
    c = torch.tensor([0.3, -1.2])
    A = fields.linear().A.detach().requires_grad_()
    start = torch.tensor([1.0, -0.4], requires_grad=True)
    truth = torch.autograd.grad(torch.matrix_exp(A * 1.5) @ start @ c, [start, A])
    errors = []
    tolerances = (1e-3, 1e-5, 1e-7, 1e-10)
    for tolerance in tolerances:
        field, y0 = fields.linear(), start.detach().clone().requires_grad_()
        y = odeint_adjoint(field, y0, T, rtol=tolerance, atol=tolerance)
        found = torch.autograd.grad(y[-1] @ c, [y0, field.A])
        errors.append(max(float((mine - true).norm() / true.norm()) for mine, true in zip(found, truth, strict=True)))
    assert all(error < 30 * tolerance for error, tolerance in zip(errors, tolerances, strict=True)), errors
    slope = math.log(errors[-1] / errors[0]) / math.log(tolerances[-1] / tolerances[0])
    assert 0.7 < slope < 1.3


@pytest.mark.parametrize("norm", ["full", "seminorm", "seminorm_t", "rms", "linf", "l2"])
def test_gradcheck(fields, norm):
    field = fields.mlp(4)
    y0 = torch.tensor([[0.3, -0.7], [1.1, 0.2]], requires_grad=True)
    t = torch.tensor([0.0, 0.4, 1.0], requires_grad=True)
    weights = torch.linspace(-1, 1, 12).view(3, 2, 2)

    def loss(y0, t, *params):
        y = odeint_adjoint(field, y0, t, rtol=1e-10, atol=1e-12, adjoint_norm=norm, time_grad=True)
        return (y * weights).sum()

    assert torch.autograd.gradcheck(loss, (y0, t, *field.parameters()), atol=1e-6)


@pytest.mark.parametrize("method", ["dopri5_classic", "tsit5", "bosh3", "heun21", "dopri8"])
@pytest.mark.parametrize("endpoint", ["clip", "interpolate"])
def test_every_method_agrees_with_back_propagation(fields, method, endpoint):
    tolerance = 1e-6 if method == "heun21" else 1e-9
    options = {"endpoint": endpoint} | ({"step_t": [0.0, 0.5, 1.0]} if method == "dopri8" else {})

    def run(solve, **how):
        field, y0 = fields.mlp(8), torch.linspace(-1, 1, 6).view(3, 2).requires_grad_()
        y = solve(field, y0, torch.tensor([0.0, 0.5, 1.0]), **how)
        return torch.autograd.grad(y[1:].square().sum(), [y0, *field.parameters()])

    truth = run(odeint, rtol=1e-11, atol=1e-12)
    found = run(odeint_adjoint, rtol=tolerance, atol=tolerance, method=method, options=options)
    for mine, true in zip(found, truth, strict=True):
        assert float((mine - true).norm()) <= 300 * tolerance * float(true.norm())


# The seminorm looks at the state alone, so what the parameters are called and how they are cut does not matter --------


class Scaled(nn.Module):
    """theta = s phi: the same field with other parameters."""

    def __init__(self, base, scale):
        super().__init__()
        self.phi = nn.ParameterList([nn.Parameter(p.detach() / scale) for p in base.parameters()])
        self.scale = scale

    def forward(self, t, y):
        w1, b1, w2, b2 = (self.scale * phi for phi in self.phi)
        inputs = torch.cat([y, t.expand(*y.shape[:-1], 1)], -1)
        return nn.functional.linear(nn.functional.linear(inputs, w1, b1).tanh(), w2, b2)


class WithDummies(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.dummy = base, nn.Parameter(torch.full((50,), 3.0))

    def forward(self, t, y):
        return self.base(t, y) + 0.0 * self.dummy.sum()


class Split(Scaled):
    """The first weight in two tensors."""

    def __init__(self, base):
        super().__init__(base, 1.0)
        first = self.phi[0].detach()
        self.top, self.bottom = nn.Parameter(first[:3].clone()), nn.Parameter(first[3:].clone())

    def forward(self, t, y):
        w1 = torch.cat([self.top, self.bottom])
        _, b1, w2, b2 = self.phi
        inputs = torch.cat([y, t.expand(*y.shape[:-1], 1)], -1)
        return nn.functional.linear(nn.functional.linear(inputs, w1, b1).tanh(), w2, b2)


def backward_steps(field, norm):
    with record_solves() as log, warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        y0 = torch.linspace(-1, 1, 12).view(6, 2)
        y = odeint_adjoint(field, y0.requires_grad_(), torch.tensor([0.0, 0.6, 2.0]), rtol=1e-5, atol=1e-7,
                           adjoint_norm=norm)  # fmt: skip
        y[1:].square().sum().backward()
    return log[1].ts, log[1].hs, log[1].kept


# Powers of two, so that theta is the same number to the last bit.
CHANGES = {
    "scaled up": lambda base: Scaled(base, 1024.0),
    "scaled down": lambda base: Scaled(base, 2.0**-10),
    "dummies": WithDummies,
    "split": Split,
}


@pytest.mark.parametrize("change", CHANGES)
def test_seminorm_steps_do_not_know_the_parameters(fields, change):
    base = backward_steps(Scaled(fields.mlp(8), 1.0), "seminorm")
    assert backward_steps(CHANGES[change](fields.mlp(8)), "seminorm") == base


def test_full_norm_steps_do(fields):
    base = backward_steps(Scaled(fields.mlp(8), 1.0), "full")
    assert backward_steps(Scaled(fields.mlp(8), 1024.0), "full") != base
    assert backward_steps(Scaled(fields.mlp(8), 2.0**-10), "full") != base


def test_fixed_steps_have_no_norm(fields):
    def run(norm):
        field, y0 = fields.mlp(), torch.linspace(-1, 1, 6).view(3, 2).requires_grad_()
        y = odeint_adjoint(field, y0, T, method="rk4", options={"step_size": 0.1}, adjoint_norm=norm)
        return torch.autograd.grad(y[-1].sum(), [y0, *field.parameters()])

    assert all(torch.equal(a, b) for a, b in zip(run("full"), run("seminorm"), strict=True))


def test_unused_parameters_get_zero_and_frozen_ones_nothing(fields):
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.frozen = (nn.Parameter(torch.tensor(0.5)) for _ in range(3))
            self.frozen.requires_grad_(False)

        def forward(self, t, y):
            return -self.used * y * self.frozen

    for norm in ("full", "seminorm"):
        field = Partly()
        odeint_adjoint(field, torch.ones(2), T, adjoint_norm=norm)[-1].sum().backward()
        assert float(field.used.grad) == pytest.approx(-1.5 * math.exp(-0.375), abs=1e-6)
        assert float(field.unused.grad) == 0.0
        assert field.frozen.grad is None


def test_independent_systems_side_by_side_have_their_own_gradients(fields):
    class Both(nn.Module):
        def __init__(self, one, two):
            super().__init__()
            self.one, self.two = one, two

        def forward(self, t, state):
            return self.one(t, state[0]), self.two(t, state[1])

    def gradients(field, y0):
        y = odeint_adjoint(field, y0, T, rtol=1e-8, atol=1e-9)
        parts = y if isinstance(y, tuple) else (y,)
        return torch.autograd.grad(sum(part[-1].square().sum() for part in parts), list(field.parameters()))

    left, right = fields.mlp(6, seed=1), fields.mlp(9, seed=2)
    a, b = torch.ones(2, 2), torch.full((3, 2), -0.3)
    together = gradients(Both(left, right), (a, b))
    alone = (*gradients(left, a), *gradients(right, b))
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-7)


def test_no_parameters_and_plain_functions():
    y0 = torch.ones(2, requires_grad=True)
    y = odeint_adjoint(lambda t, y: -y, y0, T, adjoint_params=())
    (grad,) = torch.autograd.grad(y[-1].sum(), y0)
    torch.testing.assert_close(grad, torch.full((2,), math.exp(-1.5)), rtol=1e-6, atol=1e-7)
    constant = odeint_adjoint(lambda t, y: torch.ones_like(y), y0, T, adjoint_params=())
    torch.testing.assert_close(torch.autograd.grad(constant[-1].sum(), y0)[0], torch.ones(2))


def test_an_unstable_backward_solve_warns(fields):
    contracting = nn.Linear(1, 1, bias=False)
    nn.init.constant_(contracting.weight, -30.0)
    field = nn.Module()
    field.inner, field.forward = contracting, lambda t, y: contracting(y)
    y0 = torch.ones(1, 1, requires_grad=True)
    with pytest.warns(SolverWarning, match="misses the stored state by"):
        odeint_adjoint(field, y0, T, rtol=1e-5, atol=1e-6)[-1].sum().backward()


def test_memory_of_a_backward_solve_is_a_few_times_the_parameters(fields):
    from paperworks.testing import peak_bytes

    extra = []
    for width in (100, 1000):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))
        field = nn.Module()
        field.net, field.forward = net.float(), lambda t, y, net=net: net(y)
        y0 = torch.randn(4, 2, dtype=torch.float32).requires_grad_()
        end = odeint_adjoint(field, y0, T.float(), rtol=1e-4, atol=1e-6)[-1].sum()
        leaves = [y0, *field.parameters()]
        peak = peak_bytes(lambda end=end, leaves=leaves: torch.autograd.grad(end, leaves, retain_graph=True))
        extra.append(peak / 4 / sum(p.numel() for p in field.parameters()))
    # Totals, the step's sum, the opening slope and the newest one: four, however many there are.
    assert extra[1] < 4.2
    assert extra[1] <= extra[0]


def test_the_work_of_a_step_beyond_its_gradients_does_not_know_the_parameters():
    """The same operations on tensors of the same sizes, whether 10^4 or 10^6 parameters stand beside the state."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Log(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.calls = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            self.calls.append((func, getattr(result, "numel", lambda: 0)()))
            return result

    class Idle(nn.Module):
        def __init__(self, unused):
            super().__init__()
            self.rate, self.unused = nn.Parameter(torch.tensor(-0.7)), nn.Parameter(torch.zeros(unused))

        def forward(self, t, y):
            return self.rate * y.sin()

    logs = []
    for unused in (10_000, 1_000_000):
        field, y0 = Idle(unused), torch.linspace(-1, 1, 64).requires_grad_()
        end = odeint_adjoint(field, y0, T, rtol=1e-6, atol=1e-8)[-1].sum()
        with Log() as log, record_solves() as solves:
            torch.autograd.grad(end, [y0, field.rate])
        assert len(solves[0].ts) >= 3
        logs.append(log.calls)
    small, large = ([(func, size) for func, size in calls if size not in (10_000, 1_000_000)] for calls in logs)
    assert small == large
    touching = [func for func, size in logs[1] if size == 1_000_000]
    # Two buffers made once, and per attempted step one cleared and, where accepted, one added.
    assert len(touching) == sum(size == 10_000 for _, size in logs[0]) <= 2 + 2 * len(solves[0].ts)


def test_stages_of_weight_zero_ask_for_no_gradient_of_the_parameters(fields):
    asked = []

    class Spy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            asked.append(1)
            return g

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.eye(2) * 0.5)

        def forward(self, t, y):
            return (y @ Spy.apply(self.w)).tanh()

    with record_solves() as log:
        odeint_adjoint(Field(), torch.ones(1, 2).requires_grad_(), T, rtol=1e-5, atol=1e-7)[-1].sum().backward()
    entry = log[1]
    # The opening slope of the solve; then stages 3 to 6 of each attempt, and the last one where another step follows.
    ends = sum(t + h == 0.0 for t, h in zip(entry.ts, entry.hs, strict=True))
    attempts = entry.accepted + entry.rejected
    assert len(asked) == 1 + 4 * attempts + (attempts - ends)


def test_float32_and_autocast(fields):
    class Half(nn.Module):
        def __init__(self, inner, enabled):
            super().__init__()
            self.inner, self.enabled = inner.float(), enabled

        def forward(self, t, y):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.enabled):
                return self.inner(t, y)

    grads = {}
    for enabled in (False, True):
        field = Half(fields.mlp(), enabled)
        y0 = torch.linspace(-1, 1, 8, dtype=torch.float32).view(4, 2).requires_grad_()
        y = odeint_adjoint(field, y0, T.float(), rtol=1e-2, atol=1e-2)
        assert y.dtype == torch.float32
        grads[enabled] = torch.autograd.grad(y[-1].square().sum(), y0)[0]
        assert grads[enabled].dtype == torch.float32
    assert float((grads[True] - grads[False]).norm() / grads[False].norm()) < 0.05
    assert not torch.equal(grads[True], grads[False])


def test_the_caller_s_autocast_reaches_the_backward_solve(fields):
    seen = []

    class Watch(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner.float()

        def forward(self, t, y):
            seen.append(torch.is_autocast_enabled("cpu"))
            return self.inner(t, y)

    y0 = torch.ones(2, 2, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = odeint_adjoint(Watch(fields.mlp()), y0, T.float(), rtol=1e-2, atol=1e-2)
    y[-1].sum().backward()
    assert all(seen)


@pytest.mark.slow
def test_a_compiled_field(fields):
    field, y0 = fields.mlp(time=False).float(), torch.ones(4, 2, dtype=torch.float32).requires_grad_()
    compiled = torch.compile(field.net)

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = compiled

        def forward(self, t, y):
            return self.net(y)

    grads = [
        torch.autograd.grad(odeint_adjoint(f, y0, T.float(), rtol=1e-4, atol=1e-5)[-1].sum(), y0)[0]
        for f in (field, Field())
    ]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_distributed_training_sees_the_gradients(fields, tmp_path):
    """Data parallel over one process: its hooks must fire for gradients that come out of the adjoint solve."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:

        class Model(nn.Module):
            def __init__(self, field):
                super().__init__()
                self.field = field

            def forward(self, y0):
                return Solver(rtol=1e-5, atol=1e-7).solve(self.field, y0, T)[-1]

        plain, wrapped = Model(fields.mlp()), nn.parallel.DistributedDataParallel(Model(fields.mlp()))
        fired = []
        wrapped.register_comm_hook(None, lambda state, bucket: _note(fired, bucket))
        for model in (plain, wrapped):
            model(torch.ones(3, 2)).square().sum().backward()
        assert fired
        for a, b in zip(plain.parameters(), wrapped.module.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
    finally:
        dist.destroy_process_group()


def _note(fired, bucket):
    fired.append(bucket.index())
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(fields):
    field = fields.mlp().cuda()
    y0 = torch.ones(4, 2, device="cuda", requires_grad=True)
    y = odeint_adjoint(field, y0, T.cuda(), rtol=1e-6, atol=1e-8)
    there = torch.autograd.grad(y[-1].sum(), y0)[0].cpu()
    here = odeint_adjoint(field.cpu(), y0.detach().cpu().requires_grad_(), T, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(y.cpu(), here, rtol=1e-8, atol=1e-8)
    assert torch.isfinite(there).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"adjoint_norm": "semi"},
            "adjoint_norm: expected one of rms, linf, l2, full, seminorm, seminorm_t or a callable",
        ),
        ({"func": lambda t, y: -y}, "adjoint_params: func is no nn.Module"),
        ({"t": torch.tensor([0.0, 1.0], requires_grad=True)}, "time_grad: pass time_grad=True"),
        ({"time_grad": True}, "time_grad: t does not require grad"),
        ({"options": {"on_max_steps": "return"}}, "'return' is for odeint"),
        ({"adjoint_options": {"norm": "seminorm"}}, r"adjoint_options: 'norm' is an argument .* adjoint_norm=\.\.\."),
        ({"adjoint_method": "rk5"}, "adjoint_method: expected one of"),
        ({"adjoint_method": "rk4", "options": {"jump_t": [0.5]}}, "adjoint_options: the forward options do not suit"),
        ({"adjoint_rtol": 0}, "adjoint_rtol: expected a positive number"),
    ],
)
def test_what_does_not_fit_is_refused(fields, change, message):
    given = {"func": fields.mlp(), "y0": torch.ones(2), "t": torch.tensor([0.0, 1.0])} | change
    with pytest.raises(ValueError, match=message):
        odeint_adjoint(given.pop("func"), given.pop("y0"), given.pop("t"), **given)


def test_solver_refuses_unknown_gradients():
    with pytest.raises(ValueError, match="gradient: expected adjoint, direct or checkpointed, got 'symplectic'"):
        Solver(gradient="symplectic")
