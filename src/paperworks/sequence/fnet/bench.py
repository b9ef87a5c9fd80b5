"""Workloads of `paperworks bench fnet`: the mixing sublayer and a whole FNet-Base against complex FFTs.

The peer of the sublayer is what public versions do, `torch.fft.fftn(x, dim=(1, 2)).real`, with its own backward; the
peer of the encoder is `transformers.FNetModel`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from paperworks.lab.bench import Contender, Growth, Workload
from paperworks.sequence.fnet.mixing import fourier_mix

Mix = Callable[[Tensor], Tensor]
Call = Callable[[], Any]

LENGTHS = (128, 192, 256, 384, 512, 768, 1000, 1024, 1536, 2048, 4096)


def workloads(*, quick: bool = False) -> list[Workload]:
    """The rows, with the ratios that are promised."""
    if quick:
        return [_mixing((4, 256, 768), backward=True, target=None, rounds=5)]
    rows = [
        _mixing((8, 512, 768), backward=False, target=1.5),
        _mixing((8, 512, 768), backward=True, target=1.8),
        _mixing((16, 128, 768), backward=False, target=1.5),
        _mixing((16, 128, 768), backward=True, target=1.5),
    ]
    rows += [_mixing((4, length, 768), backward=False, target=1.0) for length in LENGTHS]
    # The study's size: too small for the trick to pay, shown all the same.
    rows += [_mixing((32, 48, 96), backward=both, target=None) for both in (False, True)]
    rows += [_encoder(batch=2, backward=False), _encoder(batch=1, backward=True)]
    return rows


def growth() -> list[Growth]:
    """N log N in time. The wider rows leave the cache on the way, where the FFT library's own growth is steeper."""
    sizes = (512, 1024, 2048, 4096, 8192, 16384)
    return [
        Growth(f"fourier_mix (1, N, {dim})", sizes, partial(_growing, dim=dim), limit=1.15) for dim in (64, 256, 768)
    ]


def fftn_real(x: Tensor) -> Tensor:
    """The public way: a complex transform, half of which is thrown away."""
    return torch.fft.fftn(x, dim=(1, 2)).real


def _growing(length: int, *, dim: int) -> Call:
    x = _normal((1, length, dim), seed=0)
    return lambda: fourier_mix(x)


def _mixing(shape: tuple[int, int, int], *, backward: bool, target: float | None, rounds: int = 20) -> Workload:
    x = _normal(shape, seed=0)
    incoming = _normal(shape, seed=1)

    def contender(name: str, mix: Mix) -> Contender:
        return Contender(name, lambda: _both(mix, x, incoming) if backward else lambda: mix(x))

    return Workload(
        f"mixing {shape}, forward{' + backward' if backward else ''}",
        contender("fourier_mix", fourier_mix),
        (contender("torch fftn(x).real", fftn_real),),
        _agree,
        target=target,
        rounds=rounds,
    )


def _both(mix: Mix, x: Tensor, incoming: Tensor) -> Call:
    leaf = x.clone().requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        y = mix(leaf)
        (gradient,) = torch.autograd.grad(y, leaf, incoming)
        return y.detach(), gradient

    return step


def _encoder(*, batch: int, backward: bool) -> Workload:
    """FNet-Base, same weights on both sides, no dropout; the step's gradients are those of all parameters."""
    ids = torch.randint(32_000, (batch, 512), generator=torch.Generator().manual_seed(0))

    def ours() -> Call:
        from paperworks.sequence.fnet.checkpoint import convert_state
        from paperworks.sequence.fnet.model import FNet, FNetConfig

        model = FNet(FNetConfig.base(dropout=0.0))
        model.load_state_dict(convert_state(_reference().state_dict())[0])
        return _run(model, lambda: model(ids).states, backward)

    def theirs() -> Call:
        model = _reference()
        return _run(model, lambda: model(ids).last_hidden_state, backward)

    what = "step" if backward else "forward"
    return Workload(
        f"FNet-Base encoder ({batch}, 512), {what}",
        Contender("FNet", ours, requires="transformers"),
        (Contender("transformers FNetModel", theirs, requires="transformers"),),
        _agree,
        target=1.15 if backward else None,
        rounds=7,
    )


def _reference() -> torch.nn.Module:
    from transformers import FNetConfig, FNetModel

    torch.manual_seed(0)
    return FNetModel(FNetConfig(hidden_dropout_prob=0.0))


def _run(model: torch.nn.Module, forward: Callable[[], Tensor], backward: bool) -> Call:
    if not backward:
        return torch.no_grad()(forward)

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        states = forward()
        states.square().mean().backward()
        return states.detach()

    return step


def _agree(ours: Any, theirs: Any) -> str | None:
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
    for name, (mine, other) in zip(("output", "gradient"), pairs, strict=False):
        error = float((mine - other).norm() / other.norm())
        if not error <= 1e-5:
            return f"{name}: relative difference {error:.1e}"
    return None


def _normal(shape: tuple[int, int, int], *, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
