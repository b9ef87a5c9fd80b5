"""Random Fourier features of the inverse multiquadric and Gaussian kernels.

    k(x, y) = E cos(w . (x - y) / c),      imq: w = n g,  n ~ N(0, 1), g ~ N(0, I)      rbf: w = g

The paper's frequencies (a direction on the sphere times an amplitude with a Bessel density) have exactly the law of
n g: given n the expectation is exp(-n^2 |x - y|^2 / (2 c^2)), and over n it is (1 + |x - y|^2 / c^2)^(-1/2). So a draw
costs two normal samples instead of a table of Bessel functions.

Two reductions of variance, both without bias: amplitudes |n| from the strata of their law, and orthogonal directions.

Reference: Li et al. 2021, arXiv 2106.08320, appendix; Rahimi & Recht 2007; Yu et al. 2016 (orthogonal directions).
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from paperworks.representation.ssl_hsic.kernels import check_width


class Draw(NamedTuple):
    """Frequencies (projections, dim) and, in the phase form, phases (projections,)."""

    frequencies: Tensor
    phases: Tensor | None = None


class FourierFeatures(nn.Module):
    """phi with E phi(x) . phi(y) = k(x, y).

        sincos: phi = sqrt(2/D) [cos(W x / c), sin(W x / c)], D/2 projections, |phi| = 1
        phase:  phi = sqrt(2/D) cos(W x / c + b), D projections, b uniform on [0, 2 pi) (the paper's)

    Args:
        dim: width of the input. features: D, the outputs. kernel: "imq" or "rbf".
        form: "sincos" has less variance than "phase" at the same D.
        stratified: amplitudes |n| one from each of as many strata of equal mass (imq only).
        orthogonal: directions in orthogonal blocks of `dim`.

    Raises:
        ValueError: an odd number of features in the sincos form, an unknown kernel or form.

    Holds no state: a draw is made by `draw` and passed to `forward`, so that all views of a call can share it.
    Differs from the official code in the sampler (see above) and in its defaults; `form="phase", stratified=False,
    orthogonal=False` has the paper's law.
    """

    def __init__(
        self,
        dim: int,
        features: int = 512,
        *,
        kernel: Literal["imq", "rbf"] = "imq",
        form: Literal["sincos", "phase"] = "sincos",
        stratified: bool = True,
        orthogonal: bool = True,
    ) -> None:
        super().__init__()
        if kernel not in ("imq", "rbf"):
            raise ValueError(f"kernel: expected imq or rbf (only these have Fourier features here), got {kernel!r}")
        if form not in ("sincos", "phase"):
            raise ValueError(f"form: expected sincos or phase, got {form!r}")
        if features < 2 or (form == "sincos" and features % 2):
            raise ValueError(f"features: expected an even number of at least 2 in the sincos form, got {features}")
        self.dim, self.features, self.form = dim, features, form
        self.kernel: Literal["imq", "rbf"] = kernel
        self.stratified, self.orthogonal = stratified, orthogonal

    def draw(self, *, generator: torch.Generator | None = None, device: torch.device | str | None = None) -> Draw:
        """Fresh frequencies (and phases), float32."""
        count = self.features // 2 if self.form == "sincos" else self.features
        options: dict[str, Any] = {"generator": generator, "device": device}
        frequencies = _directions(count, self.dim, orthogonal=self.orthogonal, **options)
        if self.kernel == "imq":
            frequencies *= _amplitudes(count, stratified=self.stratified, **options)[:, None]
        if self.form == "sincos":
            return Draw(frequencies)
        return Draw(frequencies, torch.rand(count, **options) * (2 * math.pi))

    def forward(self, x: Tensor, c: float | Tensor, draw: Draw) -> Tensor:
        """(n, dim) -> (n, features), computed in float32 (or float64) also under autocast: cosines of large angles in
        half precision are noise.

        Raises:
            ValueError: c not positive.
        """
        check_width(c)
        with torch.autocast(x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            angles = (x / c) @ draw.frequencies.to(x).T
            if draw.phases is not None:
                return math.sqrt(2 / self.features) * torch.cos(angles + draw.phases.to(x))
            pairs: Any = _SinCos.apply(angles, math.sqrt(2 / self.features))
            return pairs


class _SinCos(torch.autograd.Function):
    """scale [cos a, sin a]; each is the other's derivative, so the result is all that the gradient needs."""

    @staticmethod
    def forward(ctx: Any, angles: Tensor, scale: float) -> Tensor:
        result = torch.cat([angles.cos(), angles.sin()], dim=1).mul_(scale)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (result,) = ctx.saved_tensors
        count = result.shape[1] // 2
        slope = result[:, :count] * grads[0][:, count:]
        return slope - result[:, count:] * grads[0][:, :count], None


def _directions(count: int, dim: int, *, orthogonal: bool, **options: Any) -> Tensor:
    """Rows with the law of N(0, I), (count, dim); within a block of `dim` rows orthogonal where asked for."""
    gaussian = torch.randn(count, dim, **options)
    if not orthogonal:
        return gaussian
    blocks = []
    for start in range(0, count, dim):
        q, r = torch.linalg.qr(torch.randn(dim, dim, **options))
        # With the signs of r's diagonal q is uniform over rotations and reflections.
        blocks.append((q * r.diagonal().sign())[: min(dim, count - start)])
    return torch.cat(blocks) * gaussian.norm(dim=1, keepdim=True)


def _amplitudes(count: int, *, stratified: bool, **options: Any) -> Tensor:
    """|n| with n ~ N(0, 1), (count,); stratified: one from each of `count` intervals of equal mass, in random order."""
    if not stratified:
        return torch.randn(count, **options).abs()
    device, generator = options["device"], options["generator"]
    place = torch.randperm(count, generator=generator, device=device) + torch.rand(count, **options)
    return math.sqrt(2) * torch.erfinv((place / count).clamp(max=1 - 2**-24))
