"""Features of all processes, with gradients to each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def gather_rows(rows: Tensor) -> Tensor:
    """(B, ...) of this process -> (processes x B, ...), in the order of the ranks; the same tensor without processes.

    The gradient reaches every process's rows. A loss over all rows that each process computes alike then has, averaged
    over processes as DDP does, exactly the gradient of one process with the joint batch. All processes must have
    equally many rows.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    # What comes back is sent as it lies in memory, so it must lie as the rows do.
    return _Contiguous.apply(torch.cat(all_gather(rows.contiguous())))  # pyright: ignore[reportReturnType]


class _Contiguous(torch.autograd.Function):
    """The identity; its gradient is contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous()
