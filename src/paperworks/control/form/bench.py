"""Workloads of `paperworks bench form`: the mixture density, seeds in one program, and scoring of logs.

The density's peer is `torch.distributions.MixtureSameFamily`. There is no row against GAIL of the `imitation` library:
it asks for gymnasium 0.29 and stable-baselines3 2.2, an environment of its own, and has not been measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from paperworks.control.form.effect_model import EffectModel
from paperworks.control.form.mixture import mixture_log_prob
from paperworks.control.form.statistics import Statistics
from paperworks.lab.bench import Contender, Growth, Workload

Call = Callable[[], Any]
SHAPE = (4096, 4, 64)


def workloads(*, quick: bool = False) -> list[Workload]:
    """The rows, with the ratios that are promised."""
    if quick:
        return [_density((256, 4, 16), backward=True, target=None, rounds=3)]
    return [
        _density(SHAPE, backward=False, target=None, rounds=20),
        _density(SHAPE, backward=True, target=2.0, rounds=20),
        _scoring(),
        _seeds_together(),
    ]


def growth() -> list[Growth]:
    """Linear in transitions, components and dimensions."""
    return [
        Growth("log_prob, N transitions, K 4, d 17", (8192, 16384, 32768, 65536), _growing_rows, limit=1.15),
        Growth("density, K components, B 4096, d 16", (4, 8, 16, 32), _growing_components, limit=1.15),
        Growth("density, d dimensions, B 4096, K 4", (16, 32, 64, 128), _growing_dims, limit=1.15),
    ]


def torch_mixture(x: Tensor, logits: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """The public way."""
    from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

    parts = Independent(Normal(mean, log_scale.exp(), validate_args=False), 1, validate_args=False)
    return MixtureSameFamily(Categorical(logits=logits, validate_args=False), parts, validate_args=False).log_prob(x)


def _density(shape: tuple[int, int, int], *, backward: bool, target: float | None, rounds: int) -> Workload:
    arguments = _drawn(shape)

    def contender(name: str, density: Callable[..., Tensor]) -> Contender:
        return Contender(name, lambda: _both(density, arguments) if backward else lambda: density(*arguments))

    return Workload(
        f"mixture density B, K, d = {shape}, forward{' + backward' if backward else ''}",
        contender("mixture_log_prob", mixture_log_prob),
        (contender("torch MixtureSameFamily", torch_mixture),),
        _agree,
        target=target,
        rounds=rounds,
    )


def _drawn(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, components, dim = shape
    generator = torch.Generator().manual_seed(0)
    sizes = ((batch, dim), (batch, components), (batch, components, dim), (batch, components, dim))
    x, logits, mean, log_scale = (torch.randn(size, generator=generator) for size in sizes)
    return x, logits, mean, 0.3 * log_scale


def _both(density: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> Call:
    x, *parameters = arguments
    leaves = [parameter.clone().requires_grad_() for parameter in parameters]

    def step() -> tuple[Tensor, ...]:
        value = density(x, *leaves)
        return value.detach(), *torch.autograd.grad(value.sum(), leaves)

    return step


def _agree(ours: Any, theirs: Any) -> str | None:
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
    for mine, other in pairs:
        error = float((mine - other).norm() / other.norm())
        if not error <= 1e-5:
            return f"relative difference {error:.1e}"
    return None


def _model(dim: int, *, seeds: int = 1) -> EffectModel:
    torch.manual_seed(0)
    model = EffectModel(dim, hidden=(64, 64), seeds=seeds)
    ones, zeros = torch.ones(seeds, dim), torch.zeros(seeds, dim)
    model.set_statistics(Statistics(zeros, ones, zeros, ones))
    return model.eval()


def _scoring() -> Workload:
    """1e6 transitions of dimension 17 through both models: an absolute promise, 10 s on two cores."""
    model = _model(17)
    generator = torch.Generator().manual_seed(0)
    previous = torch.randn(1_000_000, 17, generator=generator)
    following = previous + torch.randn(previous.shape, generator=generator)

    def run(density: Callable[[Tensor, Tensor], Tensor]) -> Call:
        chunks = range(0, len(previous), 16_384)

        @torch.no_grad()
        def score() -> Tensor:
            return torch.cat([density(previous[c : c + 16_384], following[c : c + 16_384]) for c in chunks])

        return score

    def ours(a: Tensor, b: Tensor) -> Tensor:
        return model.log_prob(a, b)

    def theirs(a: Tensor, b: Tensor) -> Tensor:
        logits, mean, log_scale, _ = model._heads(a.unsqueeze(0))
        target = model._target(a.unsqueeze(0), b.unsqueeze(0))
        return torch_mixture(target, logits, mean, log_scale)[0]

    return Workload(
        "scoring 1e6 transitions, d 17, one model",
        Contender("EffectModel.log_prob", lambda: run(ours)),
        (Contender("the same network, MixtureSameFamily", lambda: run(theirs)),),
        _agree,
        note="scoring runs two models; promised: both below 10 s on two cores",
        rounds=3,
    )


def _seeds_together() -> Workload:
    """Five seeds in one program against a loop over five programs."""

    def loop() -> Call:
        single = [_loop(1, steps=50) for _ in range(5)]
        return lambda: [run() for run in single] and None

    return Workload(
        "FORM on Pendulum, 50 steps of 5 seeds",
        Contender("one program", lambda: _loop(5, steps=50)),
        (Contender("a loop over seeds", loop),),
        lambda mine, other: None,
        note="equal work by construction; results differ by their random streams",
        rounds=5,
    )


def _loop(seeds: int, *, steps: int) -> Call:
    from paperworks.control.form.agents import AgentConfig
    from paperworks.control.form.form import FORM, EffectConfig
    from paperworks.control.form.imitation import LoopConfig
    from paperworks.control.form.tasks import TASKS, Setting, demonstrate
    from paperworks.worlds.points import Pendulum

    demos, _ = demonstrate(TASKS["pendulum"], Setting(), episodes=5, seed=0)
    loop = LoopConfig(agent=AgentConfig(hidden=(64, 64)), batch=128, warmup=10)
    form = FORM(Pendulum(8 * seeds), demos, effect=EffectConfig(hidden=(64, 64), epochs=1), loop=loop, seeds=seeds)
    form.train(20)
    return lambda: form.train(steps)


def _growing_rows(size: int) -> Call:
    model = _model(17)
    x = torch.randn(size, 17, generator=torch.Generator().manual_seed(0))
    return torch.no_grad()(lambda: [model.log_prob(x[c : c + 4096], x[c : c + 4096]) for c in range(0, size, 4096)])


def _growing_components(size: int) -> Call:
    return _both(mixture_log_prob, _drawn((4096, size, 16)))


def _growing_dims(size: int) -> Call:
    return _both(mixture_log_prob, _drawn((4096, 4, size)))
