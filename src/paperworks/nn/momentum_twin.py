"""A slowly moving copy of a network: the target of self-supervised methods, the average that is evaluated."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

Buffers: TypeAlias = Literal["own", "copy", "ema"]


class MomentumTwin(nn.Module):
    """A frozen copy whose parameters follow the original's: theta <- m theta + (1 - m) theta_online.

    Each `update(m)` is one such move. The copy is `twin.module`; calling the twin calls it. Its parameters require no
    gradient, and are part of the state dict; the original is only referred to, and is not. Nobody moves the twin but
    `update`: when, and with which m, is the method's affair (before the step's gradient in MoCo, after it in BYOL).

    Args:
        online: the original, in full precision (autocast is fine): in half precision small updates would be lost.
        buffers: what becomes of running statistics and other buffers. "own": the twin's own forward passes in training
            mode fill them, as in MoCo and BYOL; "copy": the original's; "ema": averaged like the parameters, whole
            numbers copied, as for an average to be evaluated.

    Raises:
        ValueError: an unknown choice of buffers, or parameters in half precision.

    Reference: He et al. 2020, arXiv 1911.05722 (momentum encoder); Tarvainen & Valpola 2017, arXiv 1703.01780.
    """

    _online: tuple[nn.Module]

    def __init__(self, online: nn.Module, *, buffers: Buffers = "own"):
        super().__init__()
        if buffers not in ("own", "copy", "ema"):
            raise ValueError(f"buffers: expected own, copy or ema, got {buffers!r}")
        half = sorted({str(p.dtype) for p in online.parameters() if p.dtype in (torch.float16, torch.bfloat16)})
        if half:
            raise ValueError(f"online: expected parameters in full precision, got {', '.join(half)}; use autocast")
        self.buffers_follow: Buffers = buffers
        # In a tuple, where torch does not take it for a part of this module.
        self._online = (online,)
        self.module = deepcopy(online).requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the copy says."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Move by a part 1 - `momentum` of the way to the original; 0 makes the twin equal to it, 1 changes nothing.

        Raises:
            ValueError: `momentum` is not in [0, 1].
        """
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: expected a number in [0, 1], got {momentum}")
        pairs = list(zip(self.module.parameters(), self._online[0].parameters(), strict=True))
        if self.buffers_follow != "own":
            floats, others = _split(zip(self.module.buffers(), self._online[0].buffers(), strict=True))
            averaged = floats if self.buffers_follow == "ema" else []
            pairs += averaged
            for ours, theirs in others if averaged else [*floats, *others]:
                ours.copy_(theirs)
        if pairs:
            ours, theirs = zip(*pairs, strict=True)
            torch._foreach_lerp_(list(ours), list(theirs), 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]

    def extra_repr(self) -> str:
        return f"buffers={self.buffers_follow!r}"


def _split(pairs: Any) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """Pairs of floating-point tensors, and all others."""
    floats, others = [], []
    for ours, theirs in pairs:
        (floats if ours.is_floating_point() else others).append((ours, theirs))
    return floats, others
