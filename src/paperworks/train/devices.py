"""Where a model is fitted: devices, processes and precision, by Lightning Fabric."""

from __future__ import annotations

import logging
from typing import Literal, TypeAlias, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.deepspeed import DeepSpeedStrategy
from lightning_fabric.strategies.fsdp import FSDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor

Precision: TypeAlias = Literal["32-true", "64-true", "bf16-mixed", "bf16-true"]
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")


def make_fabric(
    *,
    devices: int | str = 1,
    strategy: str = "auto",
    precision: Precision = "32-true",
    accelerator: str = "auto",
    nodes: int = 1,
) -> Fabric:
    """A launched Fabric.

    Args:
        devices: how many processes on this machine, each with one device; "auto": all there are.
        strategy: "auto", "ddp", "fsdp", ... as Fabric names them. Where it shards the weights, `fit` refuses
            checkpoints, averages and early stopping, which need them whole.
        precision: "bf16-mixed" is autocast: weights and optimiser stay float32. (float16 needs loss scaling: left out.)
        accelerator: "cpu", "cuda", "mps" or "auto", the best there is.
        nodes: machines, under `torchrun` or SLURM.

    With more than one process, start the program with `torchrun --nproc-per-node N`, or let Fabric start the other
    processes: it runs the same script again for each of them.

    Raises:
        ValueError: unknown precision, or a number of devices that is not positive.
        Exception: Fabric's own, where the devices are not there.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    if devices != "auto" and (not str(devices).isdigit() or int(devices) < 1):
        raise ValueError(f"devices: expected a positive number or 'auto', got {devices!r}")
    _hush()
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices if devices == "auto" else int(devices),
        strategy=strategy,
        precision=precision,
        num_nodes=nodes,
    )
    fabric.launch()
    return fabric


def agree(fabric: Fabric, flag: bool) -> bool:
    """Whether any process says so; all processes get the same answer, so that they stop or save together."""
    if fabric.world_size == 1:
        return flag
    votes = fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum")
    return float(cast(Tensor, votes)) > 0


def shards_weights(fabric: Fabric) -> bool:
    """Whether each process holds only a part of the weights (FSDP, tensor parallel, DeepSpeed)."""
    return isinstance(fabric.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy))


def precision_of(fabric: Fabric) -> str:
    """The precision by its name in `make_fabric`."""
    return str(fabric.strategy.precision.precision)


def _hush() -> None:
    """Fabric announces seeds, hardware and tips through logging; a library stays silent."""
    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
