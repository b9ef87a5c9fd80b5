"""Assertions about modules, for the tests of this library and of yours. They raise `AssertionError`, also under `-O`.

>>> import torch
>>> from paperworks.nn import AttentionMixing
>>> from paperworks.testing import assert_causal, check_mixer
>>> assert_causal(AttentionMixing(8, 2, causal=True), torch.randn(2, 6, 8))
>>> check_mixer(lambda layer: AttentionMixing(8, 2), dim=8)
"""

from typing import TYPE_CHECKING

from paperworks._lazy import attach

if TYPE_CHECKING:
    from paperworks.testing.cost import (
        assert_linear_cost,
        assert_peak_memory,
        cost_exponent,
        measure_bytes,
        measure_seconds,
        peak_bytes,
    )
    from paperworks.testing.mixers import check_mixer
    from paperworks.testing.numerics import assert_bf16_close, assert_compiles
    from paperworks.testing.properties import (
        assert_causal,
        assert_equivariant,
        assert_mask_respected,
        assert_permutation_equivariant,
    )
    from paperworks.testing.state import assert_module_state_restored

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "assert_bf16_close": "numerics",
        "assert_causal": "properties",
        "assert_compiles": "numerics",
        "assert_equivariant": "properties",
        "assert_linear_cost": "cost",
        "assert_mask_respected": "properties",
        "assert_module_state_restored": "state",
        "assert_peak_memory": "cost",
        "assert_permutation_equivariant": "properties",
        "check_mixer": "mixers",
        "cost_exponent": "cost",
        "measure_bytes": "cost",
        "measure_seconds": "cost",
        "peak_bytes": "cost",
    },
)
__all__ = [
    "assert_bf16_close",
    "assert_causal",
    "assert_compiles",
    "assert_equivariant",
    "assert_linear_cost",
    "assert_mask_respected",
    "assert_module_state_restored",
    "assert_peak_memory",
    "assert_permutation_equivariant",
    "check_mixer",
    "cost_exponent",
    "measure_bytes",
    "measure_seconds",
    "peak_bytes",
]
