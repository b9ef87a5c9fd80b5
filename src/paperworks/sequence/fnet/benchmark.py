"""What token mixers cost: time, peak memory and operations against length, for mixers of every room and your own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.nn import build_mixer
from paperworks.testing import cost_exponent, peak_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Step = Callable[[], object]


@dataclass(frozen=True)
class MixerTiming:
    """One mixer at one length.

    `ms`: median of one step on a whole batch (forward, and backward where asked for). `peak_bytes`: the most memory
    that the step held beyond its input and the parameters. `tokens_per_second`: of those steps. `flops`: operations of
    one forward pass of the batch as the mixer counts them, a multiply-add counting two; None where it does not count.
    """

    name: str
    length: int
    ms: float
    peak_bytes: int
    tokens_per_second: float
    flops: int | None


def benchmark_mixers(
    names: Sequence[str] | Mapping[str, Callable[[int], nn.Module]],
    lengths: Sequence[int],
    *,
    dim: int = 768,
    heads: int | None = None,
    batch: int = 4,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    backward: bool = True,
    rounds: int = 10,
) -> list[MixerTiming]:
    """Time mixing sublayers, interleaved: in every round each mixer runs once, so a drifting machine favours none.

    Args:
        names: names of mixers (`paperworks.nn.mixer_cards()` has all of them), or a dictionary of names to factories
            `length -> module` for mixers of your own.
        lengths: tokens per sequence.
        dim, heads, batch, dtype, device: of the input and the mixers; heads None: dim / 64, at least 1.
        backward: time forward and backward, in training mode; else forward alone, in evaluation mode.
        rounds: timed rounds; the median counts. One untimed round comes first.

    Returns:
        One entry per mixer and length, in the order given.

    Raises:
        ValueError: an unknown mixer, or a length, batch or number of rounds below 1.
    """
    for name, values in {"lengths": lengths, "batch": [batch], "rounds": [rounds]}.items():
        if not values or min(values) < 1:
            raise ValueError(f"{name}: expected numbers of at least 1, got {values}")
    heads = heads or max(1, dim // 64)
    results: dict[tuple[str, int], MixerTiming] = {}
    for length in lengths:
        x = torch.randn(batch, length, dim, dtype=dtype, device=device)
        mixers = {name: _build(names, name, dim=dim, heads=heads, length=length).to(x) for name in names}
        steps = {name: _step(mixer.train(backward), x, backward=backward) for name, mixer in mixers.items()}
        times = _interleaved(steps, x.device, rounds)
        peaks = {name: peak_bytes(step, device=x.device) for name, step in steps.items()}
        for name, ms in times.items():
            rate = batch * length / ms * 1e3
            results[name, length] = MixerTiming(
                name, length, ms, peaks[name], rate, _flops(mixers[name], batch, length)
            )
    return [results[name, length] for name in names for length in lengths]


def growth_exponents(timings: Sequence[MixerTiming]) -> dict[str, float]:
    """The exponent b of `ms = a * length^b` for every mixer, least squares on logarithms.

    Raises:
        ValueError: fewer than three lengths.
    """
    exponents = {}
    for name in dict.fromkeys(timing.name for timing in timings):
        own = sorted((timing for timing in timings if timing.name == name), key=lambda timing: timing.length)
        exponents[name] = cost_exponent([timing.length for timing in own], [timing.ms for timing in own])
    return exponents


def plot_timings(timings: Sequence[MixerTiming]) -> Figure:
    """Time and peak memory against length, both axes logarithmic, with the exponents of time in the legend.

    Exponents are given from three lengths on.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(timing.name for timing in timings))
    slopes = growth_exponents(timings) if len({timing.length for timing in timings}) > 2 else {}
    for name in names:
        own = sorted((timing for timing in timings if timing.name == name), key=lambda timing: timing.length)
        lengths = [timing.length for timing in own]
        label = f"{name} (N^{slopes[name]:.2f})" if name in slopes else name
        left.plot(lengths, [timing.ms for timing in own], marker="o", label=label)
        right.plot(lengths, [timing.peak_bytes / 2**20 for timing in own], marker="o")
    for axes, title in ((left, "step, ms"), (right, "peak memory, MiB")):
        axes.set(xscale="log", yscale="log", xlabel="length, tokens", ylabel=title)
        axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper")
    return figure


def _build(
    names: Sequence[str] | Mapping[str, Callable[[int], nn.Module]], name: str, *, dim: int, heads: int, length: int
) -> nn.Module:
    if isinstance(names, Mapping):
        return names[name](length)
    return build_mixer(name, dim=dim, heads=heads, length=length)(0)


def _step(mixer: nn.Module, x: Tensor, *, backward: bool) -> Step:
    if not backward:

        @torch.no_grad()
        def forward() -> Tensor:
            return mixer(x)

        return forward
    x = x.detach().requires_grad_()
    incoming = torch.randn_like(x)
    wanted = [x, *(parameter for parameter in mixer.parameters() if parameter.requires_grad)]

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(mixer(x), wanted, incoming)

    return both


def _interleaved(steps: Mapping[str, Step], device: torch.device, rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            _wait(device)
            start = time.perf_counter()
            step()
            _wait(device)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: float(np.median(series[1:])) for name, series in times.items()}


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _flops(mixer: nn.Module, batch: int, length: int) -> int | None:
    count = getattr(mixer, "flops", None)
    return batch * count(length) if count else None
