"""The small network between a backbone's features and a loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn


class MLPHead(nn.Sequential):
    """Linear - norm - ReLU - ... - Linear: the projector or predictor of self-supervised methods.

    Args:
        dims: widths from the input to the output; `(2048, 4096, 256)` has one hidden layer.
        norm: after each hidden layer: "batch", "layer" or none. Batch norm sees what each call sees: two views in two
            calls are normalised apart.
        last_norm: the same norm, without scale and shift, after the output (SimCLR, MoCo v3).

    All linear layers have biases, as in MoBY; (..., dims[0]) -> (..., dims[-1]), with batch norm (batch, dims[0]) only.

    Raises:
        ValueError: fewer than two widths, widths that are not positive, an unknown norm.
    """

    def __init__(
        self, dims: Sequence[int], *, norm: Literal["batch", "layer"] | None = "batch", last_norm: bool = False
    ):
        if len(dims) < 2 or min(dims) < 1:
            raise ValueError(f"dims: expected at least two positive widths, input to output, got {tuple(dims)}")
        if norm not in ("batch", "layer", None):
            raise ValueError(f"norm: expected batch, layer or None, got {norm!r}")
        if last_norm and norm is None:
            raise ValueError("last_norm: needs norm='batch' or 'layer', got None")
        layers: list[nn.Module] = []
        for width, following in pairwise(dims[:-1]):
            layers += [nn.Linear(width, following), *_norm(norm, following, affine=True), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(dims[-2], dims[-1]))
        if last_norm:
            layers += _norm(norm, dims[-1], affine=False)
        super().__init__(*layers)
        self.dims = tuple(dims)

    def forward(self, input: Tensor) -> Tensor:
        """Outputs for features.

        Raises:
            ValueError: features of another width.
        """
        if input.shape[-1] != self.dims[0]:
            raise ValueError(f"features: expected (batch, {self.dims[0]}), got {tuple(input.shape)}")
        return super().forward(input)


def _norm(norm: str | None, width: int, *, affine: bool) -> list[nn.Module]:
    if norm is None:
        return []
    return [nn.BatchNorm1d(width, affine=affine) if norm == "batch" else nn.LayerNorm(width, elementwise_affine=affine)]
