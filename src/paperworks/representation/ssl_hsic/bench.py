"""Workloads of `paperworks bench ssl_hsic`: the loss and the independence test against the forms they are published in.

Peers are written here, from the equations: no maintained library has the loss. "View by view" is the shape of the
official code: features of each view by itself, in the phase form, those of the first draw computed for both terms.
"Textbook" is tr(K H L H) with the centring matrix written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paperworks.lab.bench import Contender, Growth, Workload
from paperworks.representation.ssl_hsic.estimators import hsic_test
from paperworks.representation.ssl_hsic.features import Draw, FourierFeatures
from paperworks.representation.ssl_hsic.loss import ssl_hsic_loss

Call = Callable[[], Any]
FEATURES = 512


def workloads(*, quick: bool = False) -> list[Workload]:
    """The rows, with the ratios that are promised."""
    if quick:
        return [_against_views(2, 64, 32, same=True, rounds=3), _against_textbook(128, 16, rounds=3)]
    return [
        _against_views(4, 1024, 256, same=False, target=2.0, rounds=9),
        _against_views(4, 1024, 256, same=True, rounds=9),
        _exact_or_features(512, target=1.0),
        _exact_or_features(1024, target=1.0),
        _against_textbook(1024, 128, target=1.0, rounds=9),
        _test_against_textbook(300, 100, target=2.0),
    ]


def growth() -> list[Growth]:
    """Linear in the batch by features; the exact terms are quadratic."""
    return [
        Growth(
            f"loss by {FEATURES} features, forward + backward, 2 x B views of 128 dimensions",
            (256, 512, 1024, 2048, 4096, 8192),
            partial(_growing, "features"),
            limit=1.2,
        ),
        Growth(
            "exact loss, forward + backward, 2 x B views of 128 dimensions",
            (128, 256, 512, 1024, 2048),
            partial(_growing, "exact"),
            limit=2.3,
        ),
    ]


def view_by_view(views: Sequence[Tensor], gamma: float, c: float, draws: Sequence[Draw]) -> Tensor:
    """The loss in the shape of the official code."""
    count, batch = len(views), len(views[0])

    def features(z: Tensor, draw: Draw) -> Tensor:
        phases: Any = draw.phases
        angles = (z / c) @ draw.frequencies.T + phases
        return math.sqrt(2 / len(draw.frequencies)) * torch.cos(angles)

    phis = [features(z, draws[0]) for z in views]
    together = torch.stack(phis).mean(0)
    positive = (together * together).sum(1).mean() * count / (count - 1)
    mean = together.mean(0)
    hsic_zy = positive - (mean * mean).sum()
    pairs = [(features(z, draws[0]), features(z, draws[1])) for z in views]
    means = [torch.stack([pair[side] for pair in pairs]).mean((0, 1)) for side in range(2)]
    cross: Any = sum((first - means[0]).T @ (second - means[1]) for first, second in pairs)
    hsic_zz = ((cross / (count * batch)) ** 2).sum()
    return gamma * torch.sqrt(hsic_zz) - hsic_zy


def textbook(z: Tensor, gamma: float, c: float) -> Tensor:
    """The exact loss, with all matrices written out."""
    count, batch, dim = z.shape
    n = count * batch
    flat = z.reshape(n, dim)
    k = c / torch.sqrt(c * c + ((flat * flat).sum(1)[:, None] + (flat * flat).sum(1) - 2 * flat @ flat.T).clamp(min=0))
    same = (torch.arange(n) % batch)[:, None] == torch.arange(n) % batch
    hsic_zy = (k * same).sum() / (batch * count * (count - 1)) - k.mean()
    h = torch.eye(n, dtype=z.dtype) - 1 / n
    hsic_zz = torch.trace(k @ h @ k @ h) / n**2
    return gamma * torch.sqrt(hsic_zz) - hsic_zy


def _unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _draws(dim: int, form: Any) -> tuple[Draw, Draw]:
    plain = form == "phase"
    kind = FourierFeatures(dim, FEATURES, form=form, stratified=not plain, orthogonal=not plain)
    first, second = (kind.draw(generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    return first, second


def _with_gradient(loss: Callable[[Tensor], Tensor], z: Tensor) -> Call:
    leaf = z.clone().requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        value = loss(leaf)
        return value.detach(), torch.autograd.grad(value, leaf)[0]

    return step


def _against_views(
    count: int, batch: int, dim: int, *, same: bool, target: float | None = None, rounds: int
) -> Workload:
    """`same`: with the same phases and frequencies, or each in its own form."""

    def ours() -> Call:
        draws = _draws(dim, "phase" if same else "sincos")
        loss = partial(ssl_hsic_loss, gamma=3.0, c=0.9, estimator="features", draws=draws, validate=False)
        return _with_gradient(lambda z: loss(z).loss, _unit(count, batch, dim))

    def peer() -> Call:
        draws = _draws(dim, "phase")
        return _with_gradient(lambda z: view_by_view(list(z), 3.0, 0.9, draws), _unit(count, batch, dim))

    form = "same phases and frequencies" if same else "sines and cosines against phases"
    return Workload(
        f"loss and gradient, {count} x {batch:,} views, {dim} dimensions, {FEATURES} features, {form}",
        Contender("ssl_hsic_loss", ours),
        (Contender("view by view", peer),),
        partial(_agree, tolerance=1e-4) if same else partial(_agree, tolerance=None),
        target=target,
        rounds=rounds,
        note="" if same else "frequencies differ: values within 5 %",
    )


def _exact_or_features(n: int, *, target: float) -> Workload:
    def build(estimator: Any, draws: Any = None) -> Call:
        loss = partial(ssl_hsic_loss, estimator=estimator, draws=draws, validate=False)
        return _with_gradient(lambda z: loss(z).loss, _unit(2, n // 2, 128))

    return Workload(
        f"loss and gradient, {n:,} views in all, 128 dimensions",
        Contender("exact", lambda: build("exact")),
        (Contender(f"{FEATURES} features", lambda: build("features", _draws(128, "sincos"))),),
        partial(_agree, tolerance=None),
        target=target,
        note="why auto is exact up to twice the features",
    )


def _against_textbook(n: int, dim: int, *, target: float | None = None, rounds: int) -> Workload:
    def ours() -> Call:
        loss = partial(ssl_hsic_loss, gamma=3.0, c=0.9, estimator="exact", validate=False)
        return _with_gradient(lambda z: loss(z).loss, _unit(2, n // 2, dim))

    return Workload(
        f"exact loss and gradient, {n:,} views in all, {dim} dimensions",
        Contender("ssl_hsic_loss", ours),
        (Contender("textbook", lambda: _with_gradient(partial(textbook, gamma=3.0, c=0.9), _unit(2, n // 2, dim))),),
        partial(_agree, tolerance=1e-3),
        target=target,
        rounds=rounds,
    )


def _test_against_textbook(rows: int, permutations: int, *, target: float) -> Workload:
    def tables() -> tuple[Tensor, Tensor]:
        x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y = torch.randn(rows, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return x, y

    def ours() -> Call:
        x, y = tables()
        return lambda: hsic_test(x, y, permutations=permutations, generator=torch.Generator().manual_seed(2))

    def peer() -> Call:
        x, y = tables()
        return lambda: _textbook_test(x, y, permutations)

    def agree(mine: Any, other: Any) -> str | None:
        same = abs(mine[0] - other[0]) <= 1e-10 and mine[1] == other[1]
        return None if same else f"statistic and p {tuple(mine)} against {other}"

    return Workload(
        f"independence test, {rows} rows, {permutations} permutations",
        Contender("hsic_test", ours),
        (Contender("textbook", peer),),
        agree,
        target=target,
        rounds=5,
    )


def _textbook_test(x: Tensor, y: Tensor, permutations: int) -> tuple[float, float]:
    n = len(x)
    h = torch.eye(n, dtype=x.dtype) - 1 / n

    def gram(z: Tensor) -> Tensor:
        return 1 / torch.sqrt(1 + torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist") ** 2)

    def statistic(other: Tensor) -> float:
        return float(torch.trace(gram(x) @ h @ gram(other) @ h)) / n**2

    observed, generator = statistic(y), torch.Generator().manual_seed(2)
    reached = sum(
        statistic(y[torch.randperm(n, generator=generator)]) >= observed * (1 - 1e-9) for _ in range(permutations)
    )
    return observed, (1 + reached) / (1 + permutations)


def _growing(estimator: Any, batch: int) -> Call:
    draws = _draws(128, "sincos") if estimator == "features" else None
    loss = partial(ssl_hsic_loss, estimator=estimator, draws=draws, validate=False)
    return _with_gradient(lambda z: loss(z).loss, _unit(2, batch, 128))


def _agree(ours: Any, theirs: Any, *, tolerance: float | None) -> str | None:
    """Values and gradients; of other random features (no tolerance) the values only, within 5 %."""
    value = float((ours[0] - theirs[0]).abs() / theirs[0].abs())
    if not value <= (tolerance or 0.05):
        return f"loss: relative difference {value:.1e}"
    if tolerance is None:
        return None
    slope = float((ours[1] - theirs[1]).norm() / theirs[1].norm())
    return None if slope <= tolerance else f"gradient: relative difference {slope:.1e}"
