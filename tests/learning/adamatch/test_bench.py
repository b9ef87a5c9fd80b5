"""Every quick row of the bench: both sides run and agree."""

from paperworks.lab.bench import measure
from paperworks.learning.adamatch import bench


def test_quick_rows_agree():
    rows = list(measure(bench.workloads(quick=True), rounds=1))
    assert [(row.status, row.note) for row in rows if row.status != "measured"] == []
    assert len(rows) == 2


def test_full_rows_have_the_promised_targets():
    rows = bench.workloads()
    assert [row.target for row in rows] == [5.0, None, 2.0, 2.0, 1 / 0.03]
    assert bench.growth()[0].limit == 1.15
