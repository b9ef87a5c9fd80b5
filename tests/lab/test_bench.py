"""A ratio is shown only for equal outputs, is the peer's cost over ours, and says what was promised."""

import numpy as np
import pytest
import torch

from paperworks.lab import bench
from paperworks.lab.bench import Contender, Growth, Workload, measure, measure_growth


@pytest.fixture
def clock(monkeypatch):
    """Time passes only where work says so."""
    now = [0.0]
    monkeypatch.setattr("paperworks.lab.bench.time.perf_counter", lambda: now[0])
    return now


def working(clock, seconds, result=1.0):
    def call():
        clock[0] += seconds
        return result

    return lambda: call


def workload(ours, peer, *, requires=None, **options):
    def agree(mine, theirs):
        return None if np.allclose(mine, theirs) else f"{mine} and {theirs}"

    return Workload("w", Contender("ours", ours), (Contender("peer", peer, requires),), agree, rounds=4, **options)


def test_ratio_is_the_peer_s_time_over_ours(clock):
    (row,) = measure([workload(working(clock, 0.5), working(clock, 2.0), target=3.0)])
    assert (row.status, row.ratio, row.ours_ms, row.peer_ms) == ("measured", 4.0, 500.0, 2000.0)
    assert (row.ratio_low, row.ratio_high, row.rounds, row.target) == (4.0, 4.0, 4, 3.0)
    assert row.memory_ratio is None


def test_who_goes_first_alternates(clock):
    order = []
    ours, peer = (lambda name=name: order.append(name) or 1.0 for name in ("ours", "peer"))
    monotone = iter(np.arange(100.0))
    bench.time.perf_counter = lambda: next(monotone)  # set back by the fixture's monkeypatch
    list(measure([workload(lambda: ours, lambda: peer)]))
    assert order == ["ours", "peer"] + ["ours", "peer", "peer", "ours"] * 2


def test_no_ratio_without_equal_outputs(clock):
    (row,) = measure([workload(working(clock, 1), working(clock, 2, result=3.0))])
    assert (row.status, row.note, row.ratio) == ("outputs differ", "1.0 and 3.0", None)

    def broken():
        raise RuntimeError("no such kernel")

    (row,) = measure([workload(working(clock, 1), broken)])
    assert (row.status, row.note) == ("failed", "RuntimeError: no such kernel")
    (row,) = measure([workload(working(clock, 1), broken, requires="no_such_module")])
    assert (row.status, row.note) == ("not installed", "needs no_such_module")


def test_memory_is_measured_where_a_ratio_is_promised(clock):
    def build(count):
        def call():
            clock[0] += 1
            return float(torch.zeros(count, dtype=torch.uint8)[0])

        return lambda: call

    (row,) = measure([workload(build(1_000_000), build(4_000_000), memory=2.0)])
    assert row.ours_mb == pytest.approx(1, rel=1e-3)
    assert (row.memory_ratio, row.memory_target) == (pytest.approx(4, rel=1e-3), 2.0)


def test_exponent_of_the_upper_half(clock):
    def build(size):
        return working(clock, 1.0 + float(size) ** 2)()

    row = measure_growth(Growth("quadratic", (1, 100, 200, 400), build, limit=1.15))
    assert row.exponent == pytest.approx(2, abs=1e-3)
    assert row.limit == 1.15
