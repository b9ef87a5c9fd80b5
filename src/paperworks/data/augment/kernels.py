"""Batches handed to the compiled loops of `loops`, where numba is installed; each has a twin of tensor operations.

What a batched operation reads and writes a dozen times, a loop over one image does while the image is in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperworks._compiled import has_numba, in_threads

# Fewer numbers than this are one thread's work.
_PER_THREAD = 1 << 18


def compiled_for(images: Tensor) -> bool:
    """Whether the loops take these images."""
    plain = images.device.type == "cpu" and images.dtype == torch.float32 and images.numel() > 0
    return plain and has_numba() and not (images.requires_grad and torch.is_grad_enabled())


def warp_rows(images: Tensor, rows: Any, moves: Tensor, fill: float) -> None:
    """Move `images[rows]` by `moves` (len(rows), count, 2, 3), one after the other, in place; bilinear.

    `images` lie contiguous.
    """
    _threaded("warp", images.numpy(), rows, moves.contiguous().numpy(), np.float32(fill))


def recolour_rows(images: Tensor, rows: Any, matrices: Tensor) -> None:
    """`colour.recolour` of `images[rows]` by `matrices` (len(rows), 3, 4), in place; `images` lie contiguous."""
    _threaded("recolour", images.numpy(), rows, matrices.contiguous().numpy())


def equalized(images: Tensor) -> Tensor:
    """As `pixels.equalized`."""
    return _changed("equalize", images)


def smoothed(images: Tensor, weight: Tensor | float) -> Tensor:
    """As `pixels.smoothed`."""
    return _changed("smooth", images, _each(weight, images))


def blurred(images: Tensor, weight: Tensor | float) -> Tensor:
    """As `pixels.blurred`."""
    return _changed("blur", images, _each(weight, images))


def _each(weight: Tensor | float, images: Tensor) -> np.ndarray:
    return torch.as_tensor(weight, dtype=torch.float32).expand(len(images)).contiguous().numpy()


def _changed(loop: str, images: Tensor, *arguments: Any) -> Tensor:
    result = torch.empty_like(images, memory_format=torch.contiguous_format)
    _threaded(loop, result.numpy(), images.detach().contiguous().numpy(), *arguments)
    return result


def _threaded(loop: str, written: np.ndarray, *arguments: Any) -> None:
    # Importing numba takes longer than augmenting a few images, and it need not be there.
    from paperworks.data.augment import loops

    run = getattr(loops, loop)
    threads = max(1, min(torch.get_num_threads(), written.size // _PER_THREAD))
    in_threads(lambda thread, count: run(written, *arguments, thread, count), threads)
