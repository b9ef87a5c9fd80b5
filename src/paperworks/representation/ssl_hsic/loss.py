"""The SSL-HSIC objective: features should depend on image identity, and not on anything more than they must.

    L = gamma sqrt(HSIC(Z, Z)) - HSIC(Z, Y)

for unit vectors z_i^p of B images in M views, Y the image's identity. With n = M B and the Gram matrix K:

    hsic_zy = sum_{same image} K / (B M (M - 1)) - mean K           (pairs of a view with itself included)
    hsic_zz = |H K H|_F^2 / n^2

and the same from features phi, psi of two independent draws, in time linear in B:

    hsic_zy = sum_i |sum_p phi(z_i^p)|^2 / (B M (M - 1)) - |sum phi|^2 / n^2
    hsic_zz = |sum (phi - mean phi)(psi - mean psi)^T|_F^2 / n^2

Notes:
    - one draw for both factors of hsic_zz would be biased upwards; the two draws make its expectation exact;
    - all views share the draw, or hsic_zy would compare cosines of different frequencies;
    - the root is taken of a Frobenius norm: at full collapse the loss is 0 and its gradient finite;
    - the kernel width c gets no gradient from here (see `width.py`).

Reference: Li et al. 2021, arXiv 2106.08320, section 3; constants as in the official code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from paperworks.representation.ssl_hsic.estimators import centred
from paperworks.representation.ssl_hsic.features import Draw, FourierFeatures
from paperworks.representation.ssl_hsic.kernels import check_width, imq_kernel, linear_kernel, rbf_kernel

_WITH_WIDTH = {"imq": imq_kernel, "rbf": rbf_kernel}


class HsicTerms(NamedTuple):
    """The loss and its two parts, scalars."""

    loss: Tensor
    hsic_zy: Tensor
    hsic_zz: Tensor


def ssl_hsic_loss(
    views: Tensor | Sequence[Tensor],
    *,
    gamma: float = 3.0,
    c: float | Tensor = 1.0,
    features: int = 512,
    estimator: Literal["auto", "exact", "features"] = "auto",
    kernel: Literal["imq", "rbf", "linear"] = "imq",
    draws: tuple[Draw, Draw] | None = None,
    constant: bool = False,
    validate: bool = True,
    generator: torch.Generator | None = None,
) -> HsicTerms:
    """gamma sqrt(HSIC(Z, Z)) - HSIC(Z, Y) of M views of B images.

    Args:
        views: (M, B, D), or M tensors (B, D); rows of unit length.
        gamma: weight of the regulariser. c: width of the kernel, a constant to the gradient.
        estimator: "exact" from Gram matrices (no noise, quadratic in M B), "features" (linear), or "auto": exact up to
            M B = 2 `features`, where it is also the faster one.
        kernel: the paper's inverse multiquadric, the Gaussian, or z . z', whose features are z itself (and which has
            no width).
        draws: two draws of `FourierFeatures(D, features)`, to repeat a call; used by the features only.
        constant: subtract the 1 / (M - 1) that pairs of a view with itself add to hsic_zy: the paper's estimate, of
            which the official code leaves this constant out.
        validate: look whether rows have unit length (one wait for the device).

    Raises:
        ValueError: fewer than 2 views, unequal shapes, rows not of unit length, c or gamma out of range.
    """
    z = _stacked(views)
    if gamma < 0:
        raise ValueError(f"gamma: must be >= 0, got {gamma:g}")
    check_width(c)
    c = c.detach() if isinstance(c, Tensor) else c
    if validate:
        _check_unit(z)
    count, batch, dim = z.shape
    exact = estimator == "exact" or (estimator == "auto" and count * batch <= 2 * features)
    if estimator not in ("auto", "exact", "features"):
        raise ValueError(f"estimator: expected auto, exact or features, got {estimator!r}")
    if kernel not in ("imq", "rbf", "linear"):
        raise ValueError(f"kernel: expected imq, rbf or linear, got {kernel!r}")
    with torch.autocast(z.device.type, enabled=False):
        z = z if z.dtype == torch.float64 else z.float()
        if exact:
            hsic_zy, root = _exact(z, c, kernel)
        elif kernel == "linear":
            hsic_zy, root = _from_features(z, *[z.reshape(-1, dim)] * 2)
        else:
            pair = _features(z, c, FourierFeatures(dim, features, kernel=kernel), draws, generator)
            hsic_zy, root = _from_features(z, *pair)
    if constant:
        hsic_zy = hsic_zy - 1 / (count - 1)
    return HsicTerms(gamma * root - hsic_zy, hsic_zy, root.square())


def _exact(z: Tensor, c: float | Tensor, kernel: str) -> tuple[Tensor, Tensor]:
    count, batch, dim = z.shape
    n = count * batch
    flat = z.reshape(n, dim)
    k = linear_kernel(flat, flat) if kernel == "linear" else _WITH_WIDTH[kernel](flat, flat, c=c)
    same = k.view(count, batch, count, batch).diagonal(dim1=1, dim2=3).sum()
    hsic_zy = same / (batch * count * (count - 1)) - k.mean()
    return hsic_zy, torch.linalg.vector_norm(centred(k)) / n


def _features(
    z: Tensor,
    c: float | Tensor,
    features: FourierFeatures,
    draws: tuple[Draw, Draw] | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Features (M B, D) of two independent draws, each of which all views share."""
    flat = z.reshape(-1, z.shape[2])
    if draws is None:
        # Drawn where the generator lives, so that a seed means the same on every device.
        device = z.device if generator is None else generator.device
        first, second = (features.draw(generator=generator, device=device) for _ in range(2))
    else:
        first, second = draws
        form = "sincos" if first.phases is None else "phase"
        features = FourierFeatures(z.shape[2], _outputs(first), kernel=features.kernel, form=form)
    return features(flat, c, first), features(flat, c, second)


def _from_features(z: Tensor, phi: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
    count, batch, _ = z.shape
    n = count * batch
    per_image = phi.view(count, batch, -1).sum(0)
    total = per_image.sum(0)
    hsic_zy = per_image.square().sum() / (batch * count * (count - 1)) - total.square().sum() / n**2
    # sum (phi - mean)(psi - mean)^T = sum phi (psi - mean)^T: one of the two need not be centred.
    cross = phi.T @ (psi - psi.mean(0))
    return hsic_zy, torch.linalg.vector_norm(cross) / n


def _outputs(draw: Draw) -> int:
    return len(draw.frequencies) * (2 if draw.phases is None else 1)


def _stacked(views: Tensor | Sequence[Tensor]) -> Tensor:
    if not isinstance(views, Tensor):
        shapes = [tuple(view.shape) for view in views]
        if len(views) < 2:
            raise ValueError(f"views: expected at least 2 views, got {len(views)}")
        if len(set(shapes)) > 1:
            raise ValueError(f"views: expected equal shapes (B, D), got {', '.join(map(str, shapes))}")
        views = torch.stack(list(views))
    if views.ndim != 3:
        raise ValueError(f"views: expected (M, B, D), got {tuple(views.shape)}")
    if len(views) < 2:
        raise ValueError(f"views: expected at least 2 views, got {len(views)}")
    return views


def _check_unit(z: Tensor) -> None:
    if torch.compiler.is_compiling():
        return
    norms = torch.linalg.vector_norm(z.detach().float(), dim=-1)
    if bool(((norms - 1).abs() > 1e-2).any()):
        low, high = float(norms.min()), float(norms.max())
        raise ValueError(
            f"views: rows must have unit length, got {low:.3g} to {high:.3g}; pass F.normalize(z, dim=-1), "
            "or validate=False for another geometry"
        )


def infonce_second_order(z1: Tensor, z2: Tensor, *, temperature: float = 1.0) -> Tensor:
    """InfoNCE to second order in its similarities s = z1 z2^T / temperature, up to the constant log B, a scalar.

        -mean_i s_ii + mean_ij s_ij + 1/2 mean_i var_j s_ij

    The first two terms are -HSIC(Z, Y) with the linear kernel (up to scale), the third penalises variance: the paper's
    reading of InfoNCE (section 4). Exact as the spread of the similarities goes to 0.
    """
    s = z1 @ z2.T / temperature
    return -s.diagonal().mean() + s.mean() + 0.5 * s.var(dim=1, correction=0).mean()
