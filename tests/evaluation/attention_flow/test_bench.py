"""The benchmark's rows agree with every peer before anything is timed."""

import pytest

from paperworks.evaluation.attention_flow.bench import growth, workloads
from paperworks.lab.bench import measure


def test_outputs_agree_with_every_installed_peer():
    pytest.importorskip("networkx")
    pytest.importorskip("igraph")
    rows = list(measure(workloads(quick=True), rounds=1))
    assert [row.status for row in rows] == ["measured"] * 4, rows


def test_promised_ratios():
    targets = {row.name: row.target for row in workloads()}
    assert targets["all 256 top pairs, 12 layers x 16 tokens"] == 1000
    assert targets["all 1024 top pairs, 12 layers x 32 tokens"] == 15
    assert targets["all 1024 top pairs, 12 layers x 32 tokens; networkx 4"] == 30000 / 256
    assert all(row.limit == 3.5 for row in growth())
