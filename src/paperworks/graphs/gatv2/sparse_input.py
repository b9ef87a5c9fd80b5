"""Node features that are mostly zero: a CSR matrix that knows its transpose, so that no step sorts it again."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SparseFeatures:
    """A fixed (N, F) sparse matrix, for `x` of the graph layers. Only weights get gradients, not its values.

    Made from a torch sparse tensor (CSR or COO), or from a scipy matrix. `torch.sparse.mm` transposes and sorts the
    matrix in every backward pass; here that is done once.
    """

    ndim = 2

    def __init__(self, matrix: Any):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            csr = _as_csr(matrix)
        self.shape = csr.shape
        self.crow, self.col, self.values = csr.crow_indices(), csr.col_indices(), csr.values()
        places = torch.sparse_csr_tensor(
            self.crow, self.col, torch.arange(len(self.col), device=csr.device), csr.shape, check_invariants=False
        )
        back = places.to_sparse_csc()
        self.ccol, self.row, self.places = back.ccol_indices(), back.row_indices(), back.values()

    def __len__(self) -> int:
        return self.shape[0]

    def drop(self, rate: float, training: bool) -> SparseFeatures:
        """With dropout of its values."""
        if not training or rate == 0:
            return self
        other = object.__new__(SparseFeatures)
        other.__dict__ |= self.__dict__ | {"values": F.dropout(self.values, rate, True)}
        return other

    def times(self, weight: Tensor) -> Tensor:
        """x weight^T: (N, F), (out, F) -> (N, out)."""
        return _Times.apply(weight, self)  # pyright: ignore[reportReturnType]


class _Times(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: SparseFeatures) -> Tensor:
        ctx.x = x
        matrix = torch.sparse_csr_tensor(x.crow, x.col, x.values.to(weight), x.shape, check_invariants=False)
        return matrix @ weight.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, grad = ctx.x, gradients[0]
        values = x.values[x.places].to(grad)
        shape = (x.shape[1], x.shape[0])
        matrix = torch.sparse_csr_tensor(x.ccol, x.row, values, shape, check_invariants=False)
        return (matrix @ grad).t(), None


def project(x: Tensor | SparseFeatures, linear: nn.Linear) -> Tensor:
    """`linear(x)`, for dense and sparse x."""
    if isinstance(x, Tensor) and x.layout == torch.strided:
        return linear(x)
    sparse = x if isinstance(x, SparseFeatures) else SparseFeatures(x)
    out = sparse.times(linear.weight)
    return out if linear.bias is None else out + linear.bias


def drop(x: Tensor | SparseFeatures, rate: float, training: bool) -> Tensor | SparseFeatures:
    """Dropout; of a sparse matrix, of its values."""
    if isinstance(x, Tensor) and x.layout == torch.strided:
        return F.dropout(x, rate, training)
    return (x if isinstance(x, SparseFeatures) else SparseFeatures(x)).drop(rate, training)


def _as_csr(matrix: Any) -> Tensor:
    if isinstance(matrix, Tensor):
        if matrix.ndim != 2:
            raise ValueError(f"x: expected (nodes, features), got {tuple(matrix.shape)}")
        return matrix.detach().to_sparse_csr()
    csr = matrix.tocsr().copy()
    csr.sum_duplicates()
    return torch.sparse_csr_tensor(
        torch.from_numpy(csr.indptr.astype("int64")),
        torch.from_numpy(csr.indices.astype("int64")),
        torch.from_numpy(csr.data),
        csr.shape,
        check_invariants=True,
    )
