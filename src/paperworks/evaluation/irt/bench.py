"""Workloads of `paperworks bench irt`: the paper's recipe against Pyro, marginal fits against girth and py-irt.

Where the paper's table is on this machine it is used; else a simulated one of 90 x 20,000 in 29 groups. Pyro runs the
official recipe (written here from the paper's equations: weighted bound, one draw, AdamW) for 20 steps; every step
costs the same, so the ratio is that of whole fits.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paperworks.data.errors import DataError
from paperworks.data.nlu_irt import load_nlu_irt
from paperworks.data.responses import Responses
from paperworks.evaluation.irt.fit import fit_irt, item_weights
from paperworks.evaluation.irt.mml import mml_fit
from paperworks.evaluation.irt.priors import Priors
from paperworks.evaluation.irt.simulate import simulate_responses
from paperworks.evaluation.irt.vi import vi_fit
from paperworks.lab.bench import Contender, Growth, Workload

Call = Callable[[], Any]
STEPS = 20
GIRTH_ITERATIONS, PY_IRT_EPOCHS = 60, 100


def workloads(*, quick: bool = False) -> list[Workload]:
    """The rows, with the ratios that are promised."""
    if quick:
        small, _ = simulate_responses(90, 400, model="3pl", seed=0, groups=4)
        return [_recipe("simulated 90 x 400", small, target=None, rounds=2), _marginal(12, target=None, rounds=1)]
    name, table = _paper_table()
    return [
        _recipe(name, table, target=25.0, rounds=3),
        _marginal(30, target=20.0, rounds=3),
        _abilities(60, target=5.0, rounds=3),
    ]


def growth() -> list[Growth]:
    """Linear in the number of items and of responders."""
    return [
        Growth("mml 3PL, 10 iterations, 90 x N", (4000, 8000, 16000, 32000), _growing_items, limit=1.15),
        Growth("mml 2PL, 10 iterations, N x 400", (1000, 2000, 4000, 8000), _growing_responders, limit=1.15),
    ]


@functools.cache
def _paper_table() -> tuple[str, Responses]:
    try:
        table = load_nlu_irt().responses
    except DataError:
        return "simulated 90 x 20,000", simulate_responses(90, 20_000, model="3pl", seed=0, groups=29)[0]
    return f"the paper's {table.shape[0]} x {table.shape[1]:,}", table


def _recipe(name: str, table: Responses, *, target: float | None, rounds: int) -> Workload:
    """The weighted variational 3PL; both return the bound at the last step, which draws make noisy."""
    weights = item_weights(table, "auto")

    def ours() -> Call:
        return lambda: vi_fit(table.values, table.observed, weights, steps=STEPS).objective[-1]

    def agree(mine: float, theirs: float) -> str | None:
        off = abs(mine - theirs) / abs(theirs)
        return None if off < 0.05 else f"bounds after {STEPS} steps: {mine:.1f} and {theirs:.1f}"

    return Workload(
        f"variational 3PL, {STEPS} steps, {name}",
        Contender("vi_fit", ours),
        (Contender("the recipe in Pyro", lambda: _pyro(table, weights), requires="pyro"),),
        agree,
        target=target,
        note="the full recipe is 500 such steps",
        rounds=rounds,
    )


def _pyro(table: Responses, weights: np.ndarray) -> Call:
    import pyro
    from pyro import distributions as dist
    from pyro import poutine
    from pyro.infer import SVI, Trace_ELBO
    from pyro.optim import PyroOptim

    y, v = torch.tensor(table.values, dtype=torch.float32), torch.tensor(weights, dtype=torch.float32)
    responders, items = y.shape
    zero, one = torch.zeros(()), torch.ones(())
    stds = {"log_a": 0.3, "b": 1.0, "logit_c": 1.0}

    def model() -> None:
        abilities: Any = dist.Normal(zero, one).expand([responders])
        theta = pyro.sample("theta", abilities.to_event(1))
        with poutine.scale(scale=v):
            x = {name: pyro.sample(name, dist.Normal(zero, std * one).expand([items])) for name, std in stds.items()}
            c = x["logit_c"].sigmoid()
            p = c + (1 - c) * torch.sigmoid(x["log_a"].exp() * (theta[:, None] - x["b"]))
            # The plain form reaches exactly 0 and 1 in float32, where Pyro would give up.
            pyro.sample("y", dist.Bernoulli(p.clamp(1e-6, 1 - 1e-6)), obs=y)

    def guide() -> None:
        def normal(name: str, size: int, std: float) -> Any:
            mean = pyro.param(f"{name}_mean", torch.zeros(size))
            return dist.Normal(mean, pyro.param(f"{name}_log_std", torch.full((size,), float(np.log(std)))).exp())

        pyro.sample("theta", normal("theta", responders, 1.0).to_event(1))
        with poutine.scale(scale=v):
            for name, std in stds.items():
                pyro.sample(name, normal(name, items, std))

    def call() -> float:
        pyro.clear_param_store()
        pyro.set_rng_seed(101)
        with pyro.validation_enabled(False):
            svi = SVI(model, guide, PyroOptim(torch.optim.AdamW, {"lr": 0.1}), loss=Trace_ELBO())
            losses: list[Any] = [svi.step() for _ in range(STEPS)]
            return -losses[-1]

    return call


def _marginal(items: int, *, target: float | None, rounds: int) -> Workload:
    """An unpenalised 2PL on a large sample, where the two criteria (girth's is not quite likelihood) agree."""
    table, _ = simulate_responses(2000, items, model="2pl", seed=0)

    def ours() -> Call:
        def call() -> tuple[np.ndarray, np.ndarray]:
            fit = mml_fit(table.values, model="2pl", priors=Priors.none(), tol=1e-4)
            return np.exp(fit.params[0]), fit.params[1]

        return call

    def girth() -> Call:
        import girth

        def call() -> tuple[np.ndarray, np.ndarray]:
            fit = girth.twopl_mml(table.values.T.astype(int), {"max_iteration": GIRTH_ITERATIONS})
            return fit["Discrimination"], fit["Difficulty"]

        return call

    def agree(mine: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]) -> str | None:
        off = max(float(np.abs(one - two).max()) for one, two in zip(mine, theirs, strict=True))
        return None if off < 0.15 else f"a or b differ by {off:.3f}"

    return Workload(
        f"marginal 2PL without priors, simulated 2000 x {items}",
        Contender("mml_fit", ours),
        (Contender("girth.twopl_mml", girth, requires="girth"),),
        agree,
        target=target,
        rounds=rounds,
    )


def _abilities(items: int, *, target: float | None, rounds: int) -> Workload:
    """A 2PL to the abilities, which is what one asks py-irt for; it has no other fit than variational."""
    table, _ = simulate_responses(200, items, model="2pl", seed=1)

    def ours() -> Call:
        return lambda: fit_irt(table, model="2pl").theta

    def py_irt() -> Call:
        from py_irt.config import IrtConfig  # pyright: ignore[reportMissingImports]
        from py_irt.training import IrtModelTrainer  # pyright: ignore[reportMissingImports]

        path = Path(tempfile.mkdtemp()) / "responses.jsonl"
        lines = [
            {"subject_id": name, "responses": dict(zip(table.items, row.tolist(), strict=True))}
            for name, row in zip(table.responders, table.values, strict=True)
        ]
        path.write_text("\n".join(map(json.dumps, lines)))

        def call() -> np.ndarray:
            with contextlib.redirect_stdout(io.StringIO()):
                config = IrtConfig(model_type="2pl", priors="hierarchical", epochs=PY_IRT_EPOCHS)
                trainer = IrtModelTrainer(config=config, data_path=path)
                trainer.train(device="cpu")
            found = trainer.last_params
            ability = dict(zip(found["subject_ids"].values(), found["ability"], strict=True))
            return np.array([ability[name] for name in table.responders])

        return call

    def agree(mine: np.ndarray, theirs: np.ndarray) -> str | None:
        correlation = float(np.corrcoef(mine, theirs)[0, 1])
        return None if correlation > 0.9 else f"abilities correlate {correlation:.3f}"

    return Workload(
        f"2PL abilities, simulated 200 x {items}",
        Contender("fit_irt", ours),
        (Contender(f"py-irt, {PY_IRT_EPOCHS} epochs of its 2,000", py_irt, requires="py_irt"),),
        agree,
        target=target,
        rounds=rounds,
    )


def _growing_items(items: int) -> Call:
    table, _ = simulate_responses(90, items, model="3pl", seed=0)
    return lambda: mml_fit(table.values, steps=10, tol=1e-12, dtype=torch.float32)


def _growing_responders(responders: int) -> Call:
    table, _ = simulate_responses(responders, 400, model="2pl", seed=0)
    return lambda: mml_fit(table.values, model="2pl", steps=10, tol=1e-12, dtype=torch.float32)
