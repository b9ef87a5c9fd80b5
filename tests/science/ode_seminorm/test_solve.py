"""The forward solver: accuracy, statistics, jumps, endpoints, early ends, and what is refused at the door."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.science import SolverError, SolverWarning, odeint, odeint_adjoint, odeint_checkpointed, record_solves
from paperworks.science.ode_seminorm.tableaux import METHODS

ADAPTIVE = [name for name, table in METHODS.items() if table.adaptive]


def rotation(t, y):
    return torch.stack([y[..., 1], -y[..., 0]], -1)


def exact(t):
    return torch.stack([t.sin(), t.cos()], -1)


START = torch.tensor([0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_error_follows_the_tolerance(method):
    t = torch.linspace(0, 6, 13)
    loose, tight = (
        float((odeint(rotation, START, t, rtol=tol, atol=tol, method=method) - exact(t)).abs().max())
        for tol in (1e-4, 1e-7)
    )
    assert loose < 40 * 1e-4
    # heun21 accumulates errors over many steps; every method gains at least a factor of 100 from a factor of 1,000.
    assert tight < max(loose / 100, 1e-9)


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_fixed_steps_converge_at_their_order(method):
    t = torch.tensor([0.0, 2.0])
    errors = [
        float((odeint(rotation, START, t, method=method, options={"step_size": h})[-1] - exact(t[-1])).norm())
        for h in (0.05, 0.025)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(METHODS[method].order, abs=0.1)


def test_fixed_steps_land_on_every_output():
    t = torch.tensor([0.0, 0.33, 1.0])
    y, stats = odeint(rotation, START, t, method="rk4", options={"step_size": 0.1}, return_stats=True)
    assert float((y - exact(t)).abs().max()) < 1e-5
    assert stats.accepted == 4 + 7
    assert stats.nfe == 4 * 11


def test_clip_never_asks_beyond_the_last_time_and_interpolate_does(fields):
    for endpoint, beyond in (("clip", False), ("interpolate", True)):
        asked = []

        def field(t, y, asked=asked):
            asked.append(float(t))
            return rotation(t, y)

        odeint(field, START, torch.tensor([0.0, 0.7, 1.3]), rtol=1e-4, atol=1e-6, options={"endpoint": endpoint})
        assert (max(asked) > 1.3) == beyond
        assert min(asked) >= 0


def test_statistics_count_every_evaluation(fields):
    field = fields.mlp()
    y0 = torch.randn(4, 2, requires_grad=True)
    with record_solves() as log:
        y, stats = odeint_adjoint(field, y0, torch.tensor([0.0, 1.0, 2.0]), rtol=1e-6, atol=1e-8, return_stats=True)
        forward = field.calls
        assert stats.backward is None
        y.sum().backward()
    assert [entry.kind for entry in log] == ["forward", "backward"]
    assert (log[0].nfe, log[1].nfe) == (forward, field.calls - forward)
    assert stats is log[0]
    assert stats.backward is log[1]
    for entry, intervals in ((log[0], 1), (log[1], 2)):
        assert entry.nfe == entry.initial_nfe + 6 * (entry.accepted + entry.rejected)
        assert entry.initial_nfe == 2 * intervals
        assert entry.status == "done"
    # Accepted steps join end to end.
    ends = [t + h for t, h, kept in zip(log[0].ts, log[0].hs, log[0].kept, strict=True) if kept]
    starts = [t for t, kept in zip(log[0].ts, log[0].kept, strict=True) if kept]
    assert starts[1:] == pytest.approx(ends[:-1])
    assert ends[-1] == 2.0
    with record_solves() as outer, record_solves() as inner:
        odeint(field, y0, torch.tensor([0.0, 1.0]))
    assert len(outer) == len(inner) == 1


def test_rejected_steps_are_counted_and_leave_no_trace():
    kink = lambda t, y: torch.where(t < 0.5, 1.0, -40.0) * torch.ones_like(y)  # noqa: E731
    y, stats = odeint(kink, START, torch.tensor([0.0, 1.0]), rtol=1e-7, atol=1e-7, return_stats=True)
    assert stats.rejected > 3
    assert float((y[-1] - START - 0.5 + 20).abs().max()) < 5e-5
    jump, known = odeint(kink, START, torch.tensor([0.0, 1.0]), options={"jump_t": [0.5]}, return_stats=True)
    assert known.rejected == 0
    # One more evaluation, on the other side of the jump.
    assert known.nfe == 2 + 6 * known.accepted + 1
    assert float((jump[-1] - START - 0.5 + 20).abs().max()) < 1e-12


def test_a_step_that_ends_on_a_jump_by_itself_passes_it():
    saw = lambda t, y: torch.where(torch.floor(t) % 2 == 0, 1.0, -1.0) * torch.ones_like(y)  # noqa: E731
    t = torch.tensor([0.0, 8.0])
    for times in (t, t.flip(0)):
        options = {"jump_t": torch.arange(0.0, 9.0), "first_step": 1.0, "ifactor": 1.0}
        y, stats = odeint(saw, START, times, options=options, return_stats=True)
        assert (stats.accepted, stats.rejected) == (8, 0)
        assert float((y[-1] - START).abs().max()) < 1e-12


@pytest.mark.parametrize("times", [[0.0, 1.0, 2.0], [0.0, 2.0]])
def test_a_solve_that_begins_on_a_jump_looks_the_way_it_goes(times):
    step = lambda t, y: torch.where(t < 1.0, 1.0, 3.0) * torch.ones_like(y)  # noqa: E731
    t = torch.tensor(times).flip(0)[: len(times)]
    y, stats = odeint(step, START, t - 1.0 + 1.0, options={"jump_t": [1.0]}, return_stats=True)
    assert stats.rejected == 0
    assert float((y[-1] - START + 4).abs().max()) < 1e-12
    down, stats = odeint(step, START, torch.tensor([1.0, 0.0]), options={"jump_t": [1.0]}, return_stats=True)
    assert stats.rejected == 0
    assert float((down[-1] - START + 1).abs().max()) < 1e-12


def test_stops_are_among_the_steps():
    _, stats = odeint(rotation, START, torch.tensor([0.0, 2.0]), options={"step_t": [0.123, 1.5]}, return_stats=True)
    assert {0.123, 1.5} <= set(stats.ts)


def test_partial_solutions_on_demand():
    t = torch.linspace(0, 20, 21)
    with pytest.raises(SolverError, match=r"12 steps attempted \(t = .*state"):
        odeint(rotation, START, t, options={"max_num_steps": 12})
    with pytest.warns(SolverWarning, match="ended at t ="):
        y, stats = odeint(
            rotation, START, t, options={"max_num_steps": 12, "on_max_steps": "return"}, return_stats=True
        )
    known = t <= stats.reached
    assert stats.status == "max_steps"
    assert 0 < int(known.sum()) < len(t)
    assert float((y[known] - exact(t[known])).abs().max()) < 1e-6
    assert torch.equal(y[~known], y[-1].expand(int((~known).sum()), 2))
    assert float((y[-1] - exact(torch.tensor(stats.reached))).abs().max()) < 1e-6


def test_explosions_are_errors_that_say_where():
    explode = lambda t, y: y**2  # noqa: E731
    with pytest.raises(SolverError, match=r"invisible \(t = (1|0\.99).*state"):
        odeint(explode, torch.ones(1), torch.tensor([0.0, 2.0]))
    with pytest.raises(SolverError, match="below min_step"):
        odeint(explode, torch.ones(1), torch.tensor([0.0, 2.0]), options={"min_step": 1e-3})
    with pytest.raises(SolverError, match="not finite"):
        odeint(lambda t, y: y / 0, torch.ones(1), torch.tensor([0.0, 1.0]))
    with pytest.raises(SolverError, match="not finite"):
        odeint(explode, 1e200 * torch.ones(1), torch.tensor([0.0, 1.0]), method="euler")


@given(
    low=st.floats(-3, 3), span=st.floats(0.1, 3), inner=st.lists(st.floats(0.05, 0.95), max_size=3, unique=True),
    method=st.sampled_from(["dopri5", "dopri8", "tsit5"]),
)  # fmt: skip
@settings(max_examples=15)
def test_reversing_time_undoes_the_solve(low, span, inner, method):
    t = torch.tensor([low, *[low + span * share for share in sorted(inner)], low + span], dtype=torch.float64)
    if bool((t.diff() < 1e-3).any()):
        return
    field = lambda t, y: rotation(t, y) * (1 + 0.3 * torch.cos(t))  # noqa: E731
    there = odeint(field, START, t, rtol=1e-8, atol=1e-8, method=method)
    back = odeint(field, there[-1], t.flip(0), rtol=1e-8, atol=1e-8, method=method)
    torch.testing.assert_close(back.flip(0), there, rtol=1e-5, atol=1e-6)


def test_two_systems_side_by_side_are_each_alone():
    t = torch.tensor([0.0, 2.0])
    pair = odeint(lambda t, s: (rotation(t, s[0]), -s[1]), (START, torch.ones(3)), t, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pair[0][-1], exact(t[-1]), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(pair[1][-1], torch.full((3,), math.exp(-2)), rtol=1e-7, atol=1e-7)
    assert [part.shape for part in pair] == [(2, 2), (2, 3)]


def test_scalar_and_empty_shapes():
    y = odeint(lambda t, y: -y, torch.tensor(1.0), torch.tensor([0.0, 1.0]))
    assert y.shape == (2,)
    assert float(y[-1]) == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_checkpointed_gradients_are_those_of_the_steps(fields, method):
    t = torch.tensor([0.0, 0.4, 1.0])

    def run(solve, **more):
        field, y0 = fields.mlp(seed=3), torch.linspace(-1, 1, 8).view(4, 2).requires_grad_()
        y = solve(field, y0, t, rtol=1e-5, atol=1e-7, method=method, **more)
        return field, y, torch.autograd.grad((y[1:] ** 2).sum(), [y0, *field.parameters()])

    # Steps end on the outputs in both.
    _, direct, direct_grads = run(odeint, options={"step_t": [0.4]})
    field, checkpointed, grads = run(odeint_checkpointed)
    torch.testing.assert_close(checkpointed, direct, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grads, direct_grads, rtol=1e-11, atol=1e-12)
    with record_solves() as log:
        counted, _, _ = run(odeint_checkpointed)
    assert log[0].nfe + log[1].nfe == counted.calls == field.calls
    assert log[1].nfe == 7 * log[0].accepted if method == "dopri5" else log[1].nfe == 4 * log[0].accepted


class Wrong:
    state = torch.ones(2)
    t = torch.tensor([0.0, 1.0])
    field = staticmethod(lambda t, y: -y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": torch.tensor([[0.0, 1.0]])}, r"t: .*one dimension, got shape \(1, 2\)"),
        ({"t": torch.tensor([0.0])}, "t: expected at least two times"),
        ({"t": torch.tensor([0.0, 1.0, 0.5])}, "t: .*strictly increasing or strictly decreasing"),
        ({"t": torch.tensor([0.0, 0.0])}, "t: .*strictly"),
        ({"t": torch.tensor([0, 1])}, "t: expected a floating-point tensor, got int64"),
        ({"t": [0.0, 1.0]}, "t: expected a floating-point tensor, got list"),
        ({"t": torch.tensor([0.0, 1.0], requires_grad=True)}, "time_grad=True"),
        ({"y0": torch.ones(2, dtype=torch.int64)}, "y0: expected a float32 or float64 tensor"),
        ({"y0": torch.ones(2, dtype=torch.bfloat16)}, "y0: expected a float32 or float64"),
        ({"y0": (torch.ones(2).double(), torch.ones(2, dtype=torch.float32))}, "one dtype and device"),
        ({"y0": ()}, "y0: the tuple is empty"),
        ({"rtol": 0.0}, "rtol: expected a positive number, got 0.0"),
        ({"atol": -1.0}, "atol: expected a positive number"),
        ({"rtol": "tight"}, "rtol: expected a positive number, got 'tight'"),
        ({"method": "rk45"}, "method: expected one of dopri5, .*got 'rk45'"),
        ({"norm": "seminorm"}, "use adjoint_norm='seminorm'"),
        ({"norm": "rmse"}, "norm: expected one of rms, linf, l2 or a callable, got 'rmse'"),
        ({"options": {"norm": "rms"}}, "options: 'norm' is an argument of its own"),
        ({"options": {"first_stepp": 1}}, "options: dopri5 takes .*got 'first_stepp'"),
        ({"options": {"step_size": 0.1}}, "options: dopri5 takes .*got 'step_size'"),
        ({"method": "rk4", "options": {"jump_t": [0.5]}}, "options: rk4 takes .*got 'jump_t'"),
        ({"options": {"jump_t": [0.5], "step_t": [0.5]}}, "both jump_t and step_t"),
        ({"options": {"jump_t": [0.5, 0.5]}}, r"options\['jump_t'\]: a time is listed twice"),
        ({"options": {"jump_t": [math.nan]}}, r"options\['jump_t'\]: expected finite times"),
        ({"options": {"min_step": 2.0, "max_step": 1.0}}, "0 <= min_step <= max_step"),
        ({"options": {"first_step": -1.0}}, "first_step.*positive"),
        ({"options": {"dfactor": 1.5}}, "0 < dfactor < 1"),
        ({"options": {"endpoint": "cut"}}, "endpoint.*clip or interpolate, got 'cut'"),
        ({"func": lambda t, y: y[:1]}, r"func: expected dy/dt of shape \(2,\), as y0, got \(1,\)"),
        ({"func": lambda t, y: None}, r"func: expected dy/dt of shape \(2,\), as y0, got NoneType"),
        ({"func": lambda t, s: (s[0],), "y0": (torch.ones(2), torch.ones(1))}, "func: expected a tuple of shapes"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {"func": Wrong.field, "y0": Wrong.state, "t": Wrong.t} | change
    with pytest.raises(ValueError, match=message):
        odeint(given.pop("func"), given.pop("y0"), given.pop("t"), **given)


def test_checkpointed_refuses_fixed_steps():
    with pytest.raises(ValueError, match="method: expected an adaptive one, got 'rk4'"):
        odeint_checkpointed(Wrong.field, Wrong.state, Wrong.t, method="rk4")
    with pytest.raises(ValueError, match=r"params: func is no nn\.Module"):
        odeint_checkpointed(Wrong.field, Wrong.state, Wrong.t)


def test_norms_of_the_forward_solve():
    many = torch.cat([START, torch.zeros(98)])
    field = lambda t, y: torch.cat([5 * rotation(t, y[:2]), torch.zeros(98)])  # noqa: E731
    nfe = {}
    for norm in ("rms", "linf", "l2", lambda e: e.abs().max()):
        _, stats = odeint(field, many, Wrong.t, rtol=1e-6, atol=1e-6, norm=norm, return_stats=True)
        nfe[norm if isinstance(norm, str) else "own"] = stats.nfe
    # 98 components at rest hide the two that move from a mean, not from a maximum.
    assert nfe["rms"] < min(nfe["linf"], nfe["l2"])
    assert nfe["linf"] == nfe["own"]


def test_float32_times_keep_their_steps():
    y, stats = odeint(
        lambda t, y: torch.cos(t) * torch.ones_like(y), torch.zeros(1, dtype=torch.float32),
        torch.tensor([1000.0, 1001.0]), rtol=1e-5, atol=1e-5, return_stats=True,
    )  # fmt: skip
    assert y.dtype == torch.float32
    assert float(y[-1]) == pytest.approx(np.sin(1001) - np.sin(1000), abs=1e-3)
    assert all(isinstance(step, float) for step in stats.hs)
