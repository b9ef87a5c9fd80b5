"""Forward passes whose batches leave no trace in the running statistics of batch norm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


@contextlib.contextmanager
def frozen_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Within, layers in training mode normalise by their batch as ever, and the running statistics stand still.

    Neither means, variances nor `num_batches_tracked` move, also where `momentum` is None (a cumulative average), in
    `SyncBatchNorm` and in timm's layers. Layers in evaluation mode keep using their running statistics. This is not
    `model.eval()`, which would normalise by the running ones. Afterwards, also after an exception, everything is as it
    was.

    >>> import torch
    >>> model = torch.nn.BatchNorm1d(3)
    >>> with frozen_batch_statistics(model):
    ...     _ = model(torch.randn(8, 3))
    >>> model.num_batches_tracked.item(), model.running_mean.tolist()
    (0, [0.0, 0.0, 0.0])
    """
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, _InstanceNorm):
                # Its forward hands the running statistics over whatever the flag says.
                stack.enter_context(_attribute(module, "momentum", 0.0))
            elif isinstance(module, _BatchNorm):
                if module.training:
                    stack.enter_context(_attribute(module, "track_running_stats", False))
            elif isinstance(getattr(module, "running_mean", None), Tensor):
                stack.enter_context(_buffers(module))
        yield


@contextlib.contextmanager
def _attribute(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextlib.contextmanager
def _buffers(module: nn.Module) -> Iterator[None]:
    """A normalisation of unknown make: what it wrote is written over."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in module.named_buffers(recurse=False):
                buffer.copy_(before[name])
