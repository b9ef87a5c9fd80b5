"""Features of all processes, with gradients to each."""

from __future__ import annotations

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

    return torch.cat(all_gather(rows.contiguous()))
