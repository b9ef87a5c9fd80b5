"""The bench's rows at small size: outputs agree before anything is timed, and cost grows with the document linearly."""

import pytest

from paperworks.lab.bench import measure
from paperworks.sequence.hi_transformer import bench
from paperworks.testing import assert_linear_cost, peak_bytes


def test_quick_rows_agree_and_are_measured() -> None:
    rows = list(measure(bench.workloads(quick=True)))
    assert [row.status for row in rows] == ["measured"] * 2, [row.note for row in rows]


def test_layer_costs_grow_linearly() -> None:
    assert_linear_cost(lambda length: bench.growth()[0].build(length), [736, 1472, 2944], limit=1.2)


def test_training_needs_less_memory_than_a_flat_transformer() -> None:
    ours, flat = (contender.build() for contender in _contenders(bench.workloads()[2]))
    assert peak_bytes(ours) <= 0.75 * peak_bytes(flat)


def _contenders(workload):
    if workload.memory is None:
        pytest.fail("expected the row that promises memory")
    return workload.ours, *workload.peers
