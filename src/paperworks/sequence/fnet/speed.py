"""Timing one layer: attention against Fourier mixing, interleaved, forward and backward, nothing trained."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from paperworks.nn import BlockOptions, MixerLayer
from paperworks.sequence.fnet.training import MIXERS


def time_layers(*, length: int, dim: int, batch: int, rounds: int, seed: int) -> dict[str, float]:
    """Median step time of each layer and of their paired ratio, and the bytes each keeps for backward.

    Neither layer drops anything out: dropout on attention weights keeps a CPU from its fused attention kernel, and the
    baseline should be the fast one.

    Returns:
        `attention_ms`, `fourier_ms`, `step_ratio` (attention over fourier), `attention_bytes`, `fourier_bytes`.
    """
    torch.manual_seed(seed)
    heads = max(1, dim // 64)
    block = BlockOptions(ffn_dim=4 * dim)
    layers = {name: _layer(name, dim=dim, heads=heads, length=length, block=block) for name in ("attention", "fourier")}
    x = torch.randn(batch, length, dim)
    steps = {name: _step(layer, x) for name, layer in layers.items()}
    kept = {name: saved_bytes(layer, x) for name, layer in layers.items()}
    times = np.array([_round(steps, swap=number % 2 == 1) for number in range(rounds)])
    attention, fourier = np.median(times, axis=0)
    return {
        "attention_ms": float(attention),
        "fourier_ms": float(fourier),
        "step_ratio": float(np.median(times[:, 0] / times[:, 1])),
        "attention_bytes": float(kept["attention"]),
        "fourier_bytes": float(kept["fourier"]),
    }


def _layer(name: str, *, dim: int, heads: int, length: int, block: BlockOptions) -> MixerLayer:
    return MixerLayer(MIXERS[name](dim, heads=heads, length=length)(0), dim=dim, block=block).eval()


def _step(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x).sum().backward()

    return step


def _round(steps: dict[str, Callable[[], None]], *, swap: bool) -> tuple[float, float]:
    order = sorted(steps, reverse=swap)
    times = {}
    for name in order:
        start = time.perf_counter()
        steps[name]()
        times[name] = (time.perf_counter() - start) * 1e3
    return times["attention"], times["fourier"]


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes of activations that a layer keeps for its backward pass, parameters not counted."""
    parameters = {parameter.data_ptr() for parameter in layer.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in parameters:
            sizes[pointer] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(x)
    del output
    return sum(sizes.values())
