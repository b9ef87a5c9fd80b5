"""Training a task under one arm, and replaying its checkpoints under both norms.

Two runs that differ in their norm drift apart, and then solve different equations. So each arm is trained on its own
(for quality, and for what training costs), and the checkpoints of the default arm are solved again under both norms
(for cost and error on the very same equations).
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from paperworks.lab.study import Progress
from paperworks.science.ode_seminorm.accuracy import work_precision
from paperworks.science.ode_seminorm.solver import Solver
from paperworks.science.ode_seminorm.stats import SolverWarning, record_solves
from paperworks.science.ode_seminorm.tasks import Equation, Task
from paperworks.train.optim import adamw

ADJOINT_ARMS = ("full", "seminorm")
OTHER_ARMS = ("direct", "checkpointed")


def arm_solver(arm: str, rtol: float, atol: float) -> Solver:
    """The solver of an arm: an adjoint norm, or a way of back-propagating through the steps.

    Raises:
        ValueError: no such arm.
    """
    if arm in (*ADJOINT_ARMS, "seminorm_t"):
        return Solver(rtol=rtol, atol=atol, adjoint_norm=arm)
    if arm in OTHER_ARMS:
        return Solver(rtol=rtol, atol=atol, gradient=arm)  # pyright: ignore[reportArgumentType]
    raise ValueError(f"arms: expected some of {', '.join((*ADJOINT_ARMS, 'seminorm_t', *OTHER_ARMS))}, got {arm!r}")


def train(
    task: Task, arm: str, *, rtol: float, atol: float, steps: int, seed: int, progress: Progress, keep: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train one arm; returns what was measured, and `keep` checkpoints spread over training."""
    torch.manual_seed(seed)
    model = task.build(arm_solver(arm, rtol, atol))
    optimizer = adamw(model, lr=task.rate, weight_decay=0.01)
    at = set(np.linspace(0, steps - 1, keep).round().astype(int).tolist()) if keep else set()
    kept, backward, seconds, last = [], [], 0.0, float("nan")
    totals = {"forward_nfe": 0, "backward_nfe": 0, "accepted": 0, "rejected": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        for step in range(steps):
            if step in at:
                kept.append(copy.deepcopy(model.state_dict()))
            batch = task.batch(step)
            started = time.process_time()
            optimizer.zero_grad(set_to_none=True)
            with record_solves() as log:
                loss = task.loss(model, *batch)
                loss.backward()
            optimizer.step()
            seconds += time.process_time() - started
            backward.append(_count(totals, log))
            last = float(loss.detach())
            progress((step + 1) / steps, loss=last, nfe=backward[-1])
    # Every arm is tested with the same solver: its norm has no part in a forward solve.
    measured = totals | {
        "metric": task.metric(model),
        "floor": task.floor,
        "is_loss": task.is_loss,
        "train_loss": last,
        "train_seconds": seconds,
        "steps": steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "nfe_per_step": np.array(backward),
    }
    return measured, kept


def _count(totals: dict[str, int], log: Sequence[Any]) -> int:
    """Add a step's evaluations; returns the backward ones."""
    spent = 0
    for entry in log:
        totals[f"{entry.kind}_nfe"] += entry.nfe
        if entry.kind == "backward":
            spent += entry.nfe
            totals["accepted"] += entry.accepted
            totals["rejected"] += entry.rejected
    return spent


def replay(
    task: Task,
    checkpoints: Sequence[dict[str, Any]],
    *,
    subset: int,
    tolerances: Sequence[float],
    curve: Sequence[float],
) -> dict[str, Any]:
    """Solve the checkpoints' equations again under both norms, from one precise forward solution each.

    Returns:
        `replay_nfe` (checkpoints, norms, tolerances) and `replay_error`, likewise; `curve_nfe` and `curve_error`, over
        the tolerances of the work-precision curves; `default_nfe`, the default's mean evaluations at (1e-4, 1e-6); and
        of the last checkpoint the times of the backward steps that each norm attempts at (1e-4, 1e-7), and the knots.
    """
    pairs = [*[(rtol, rtol / 1e3) for rtol in tolerances], *[(rtol, rtol / 1e2) for rtol in curve]]
    model = task.build(Solver())
    found: dict[str, list[Any]] = {"replay_nfe": [], "replay_error": [], "curve_nfe": [], "curve_error": []}
    for number, state in enumerate(checkpoints):
        model.load_state_dict(state)
        equation = task.equation(model, *_first(task.batch(10_000 + number), subset))
        table = work_precision(
            equation.func, equation.y0, equation.t, equation.loss,
            norms=ADJOINT_ARMS, tolerances=pairs, options=equation.options,
        )  # fmt: skip
        shape = (len(ADJOINT_ARMS), len(pairs))
        nfe, error = (table[name].to_numpy(float).reshape(shape) for name in ("nfe", "error"))
        cut = len(tolerances)
        for name, part in (("nfe", nfe), ("error", error)):
            found[f"replay_{name}"].append(part[:, :cut])
            found[f"curve_{name}"].append(part[:, cut:])
    arrays: dict[str, Any] = {name: np.array(values) for name, values in found.items()}
    equation = task.equation(model, *_first(task.batch(20_000), subset))
    for norm in ADJOINT_ARMS:
        arrays[f"times_{norm}"], arrays[f"kept_{norm}"] = attempts(equation, norm, rtol=1e-4, atol=1e-7)
    arrays["knots"] = np.array(equation.options.get("jump_t", ()))
    arrays["default_nfe"] = float(arrays["curve_nfe"][:, 0, 2].mean())
    return arrays if task.drift is None else arrays | {"energy_drift": task.drift(model)}


def _first(batch: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """The first rows of every tensor of a batch; times common to all series stay whole."""

    def cut(part: Any) -> Any:
        if isinstance(part, tuple):
            x, times, mask = part
            own = times if times is None or times.ndim == 1 else times[:count]
            return x[:count], own, None if mask is None else mask[:count]
        return part[:count]

    return tuple(cut(part) for part in batch)


def peak_mib(task: Task, arm: str, *, rtol: float, atol: float) -> float:
    """MiB of tensors alive at once in one training step."""
    from paperworks.testing import peak_bytes

    torch.manual_seed(0)
    model, batch = task.build(arm_solver(arm, rtol, atol)), task.batch(0)
    return peak_bytes(lambda: _step(model, task, batch)) / 2**20


def _step(model: nn.Module, task: Task, batch: tuple[Any, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        task.loss(model, *batch).backward()


def attempts(equation: Equation, norm: str, *, rtol: float, atol: float) -> tuple[np.ndarray, np.ndarray]:
    """Times of the backward solve's attempted steps, and which were accepted."""
    from paperworks.science.ode_seminorm.adjoint import odeint_adjoint

    with record_solves() as log, warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        solution = odeint_adjoint(
            equation.func, equation.y0, equation.t, rtol=rtol, atol=atol, options=equation.options, adjoint_norm=norm
        )
        equation.loss(solution).backward()
    return np.array(log[-1].ts), np.array(log[-1].kept)
