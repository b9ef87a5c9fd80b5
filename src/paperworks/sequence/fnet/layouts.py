"""Where attention layers stand in an FNet-Hybrid (arXiv 2105.03824; the rules of the official `f_net/models.py`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

Layout = Literal["bottom", "middle", "mixed", "top"]

# layer, attention layers, depth -> whether the layer is attention
_RULES: dict[str, Callable[[int, int, int], bool]] = {
    "bottom": lambda layer, count, depth: layer < count,
    "middle": lambda layer, count, depth: depth - count <= 2 * layer < depth + count,
    "mixed": lambda layer, count, depth: layer % (depth // count) == 0,
    "top": lambda layer, count, depth: layer >= depth - count,
}


def hybrid_layout(depth: int, attention_layers: int, kind: Layout = "top") -> list[bool]:
    """Which of `depth` layers are attention; the others mix by Fourier transform.

    With A attention layers of L, layer l is attention where
    bottom: l < A;  middle: L - A <= 2 l < L + A;  mixed: l mod (L // A) = 0;  top: l >= L - A (the paper's best).

    Args:
        depth: L, at least 1.
        attention_layers: A, from 0 to L.
        kind: one of bottom, middle, mixed, top.

    Returns:
        One bool per layer, first layer first; the `layout` of `paperworks.nn.hybrid`.

    Raises:
        ValueError: unknown kind, or a number of attention layers that does not fit.

    "mixed" gives more than A layers where A does not divide L (12 layers, A = 5: six): the official rule, kept, with a
    warning. With A = 0 the official "mixed" divides by zero; here it gives no attention like the others.

    >>> hybrid_layout(6, 2, "top")
    [False, False, False, False, True, True]
    """
    if kind not in _RULES:
        raise ValueError(f"layout: expected one of {', '.join(_RULES)}, got {kind!r}")
    if depth < 1:
        raise ValueError(f"depth: must be at least 1, got {depth}")
    if not 0 <= attention_layers <= depth:
        raise ValueError(f"attention_layers: expected 0 to depth = {depth}, got {attention_layers}")
    if attention_layers == 0:
        return [False] * depth
    layout = [_RULES[kind](layer, attention_layers, depth) for layer in range(depth)]
    if sum(layout) != attention_layers:
        warnings.warn(
            f'layout "mixed": {attention_layers} attention layers do not divide {depth} layers; '
            f"the official rule places {sum(layout)}",
            stacklevel=2,
        )
    return layout
