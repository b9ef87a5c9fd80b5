"""The benchmark's contenders compute the same, so that its ratios mean something."""

import pytest
import torch

from paperworks.vision.wavelet_depth import bench
from paperworks.vision.wavelet_depth.sparse import up2


@pytest.mark.parametrize("workload", bench.workloads(quick=True), ids=lambda workload: workload.name)
def test_contenders_agree(workload):
    ours = workload.ours.build()()
    compared = [peer for peer in workload.peers if peer.available]
    assert compared
    for peer in compared:
        theirs = peer.build()()
        assert workload.agree(ours, theirs) is None
        assert workload.agree(ours + 1, theirs) is not None


def test_masks_are_nested_and_as_large_as_asked():
    outer = bench.blobs(0.4, 24, 40)
    inner = bench.blobs(0.1, 48, 80, within=up2(outer), seed=1)
    assert float(outer.float().mean()) == pytest.approx(0.4, abs=1e-3)
    assert float(inner.float().mean()) == pytest.approx(0.1, abs=1e-3)
    assert not (inner & ~up2(outer)).any()


def test_promised_ratios_and_growth_stand():
    targets = [workload.target for workload in bench.workloads()]
    assert targets == [2.5, 2.5, 1.0, 3.0, 1.5, 0.91, 0.91, 3.0]
    assert [row.limit for row in bench.growth()] == [1.15]
    assert torch.is_tensor(bench.growth()[0].build(100)())
