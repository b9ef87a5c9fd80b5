"""Where a model is fitted: devices, processes and precision, by Lightning Fabric."""

from __future__ import annotations

import functools
import logging
from typing import Literal, TypeAlias, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.deepspeed import DeepSpeedStrategy
from lightning_fabric.strategies.fsdp import FSDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor

Precision: TypeAlias = Literal["mixed", "32-true", "64-true", "bf16-mixed", "bf16-true"]
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
            "mixed": that where the device multiplies bfloat16 in hardware, "32-true" elsewhere (`multiplies_bfloat16`).
        accelerator: "cpu", "cuda", "mps" or "auto", the best there is.
        nodes: machines, under `torchrun` or SLURM.

    With more than one process, start the program with `torchrun --nproc-per-node N`, or let Fabric start the other
    processes: it runs the same script again for each of them.

    Raises:
        ValueError: unknown precision, or a number of devices that is not positive.
        Exception: Fabric's own, where the devices are not there.
    """
    if precision not in (*PRECISIONS, "mixed"):
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, mixed, got {precision!r}")
    if devices != "auto" and (not str(devices).isdigit() or int(devices) < 1):
        raise ValueError(f"devices: expected a positive number or 'auto', got {devices!r}")
    if precision == "mixed":
        precision = "bf16-mixed" if multiplies_bfloat16(_device_type(accelerator)) else "32-true"
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


@functools.cache
def multiplies_bfloat16(device: str = "cpu") -> bool:
    """Whether a kind of device ("cpu", "cuda", ...) has instructions for products in bfloat16.

    Without them they are emulated: on a processor that knows AVX-512 but not AVX512-BF16 or AMX, autocast made matrix
    products five times slower than float32, not faster.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def mixed_precision(device: str = "cpu") -> torch.autocast:
    """Autocast to bfloat16 where the kind of device multiplies it in hardware; elsewhere nothing happens."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=multiplies_bfloat16(device))


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


def _device_type(accelerator: str) -> str:
    """The kind of device that Fabric will choose."""
    if accelerator not in ("auto", "gpu"):
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _hush() -> None:
    """Fabric announces seeds, hardware and tips through logging; a library stays silent."""
    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
