"""Cost: exponents of known growth, bytes of known sizes."""

import time

import pytest
import torch
from torch.nn import functional as F

from paperworks.testing import (
    assert_linear_cost,
    assert_peak_memory,
    cost_exponent,
    measure_bytes,
    measure_seconds,
    peak_bytes,
)

SIZES = (256, 512, 1024, 2048)


def linear(size: int):
    x = torch.randn(size, 64)
    return lambda: torch.relu(x)


def quadratic(size: int):
    x = torch.randn(size, 64)
    return lambda: (x @ x.T).relu()


def test_exponent() -> None:
    assert cost_exponent((1, 2, 4, 8), (3.0, 6.0, 12.0, 24.0)) == pytest.approx(1)
    assert cost_exponent((1, 2, 4), (1.0, 4.0, 16.0)) == pytest.approx(2)
    for sizes, costs in (((1, 2), (1.0, 2.0)), ((1, 2, 2), (1.0, 2.0, 3.0)), ((1, 2, 4), (1.0, 2.0))):
        with pytest.raises(ValueError, match="sizes: expected at least 3 growing"):
            cost_exponent(sizes, costs)
    with pytest.raises(ValueError, match="costs: must be positive"):
        cost_exponent((1, 2, 4), (0.0, 1.0, 2.0))


def test_memory_growth() -> None:
    assert assert_linear_cost(linear, SIZES, measure=measure_bytes) == pytest.approx(1, abs=0.01)
    with pytest.raises(AssertionError, match=r"exponent 2\.0\d, more than 1\.15"):
        assert_linear_cost(quadratic, SIZES, measure=measure_bytes)


def test_time_growth(monkeypatch) -> None:
    """The clock advances with the work done, so that no other process can bend the slope."""
    clock = [0.0]
    monkeypatch.setattr("paperworks.testing.cost._on_cuda", lambda: False)
    monkeypatch.setattr("paperworks.testing.cost.time.process_time", lambda: clock[0])

    def working(power: int):
        def call(size: int) -> None:
            clock[0] += float(size) ** power

        return lambda size: lambda: call(size)

    sizes = (512, 1024, 2048, 4096)
    with pytest.raises(AssertionError, match=r"cost grows with exponent 2\.0"):
        assert_linear_cost(working(2), sizes)
    assert assert_linear_cost(working(1), sizes) == pytest.approx(1, abs=1e-6)


def test_seconds_take_the_quietest_round(monkeypatch) -> None:
    calls: list[int] = []
    measure_seconds([lambda: calls.append(0), lambda: calls.append(1)], rounds=3)
    assert calls == [0, 1] * 4
    clock = iter([0.0, 5.0, 10.0, 11.0, 20.0, 29.0])
    monkeypatch.setattr("paperworks.testing.cost._on_cuda", lambda: False)
    monkeypatch.setattr("paperworks.testing.cost.time.process_time", lambda: next(clock))
    assert measure_seconds([lambda: None], rounds=3) == [1.0]


def test_seconds_leave_out_what_others_do() -> None:
    """Sleeping stands for the time slices that other processes get."""

    def interrupted() -> None:
        time.sleep(0.05)

    if not torch.cuda.is_available():
        assert measure_seconds([interrupted], rounds=2)[0] < 0.02


def test_peak_is_that_of_the_moment() -> None:
    big = 4 * 1000 * 1000
    x = torch.randn(1000, 1000)

    def one_after_another() -> None:
        for _ in range(5):
            torch.empty(1000, 1000)

    def side_by_side() -> list[torch.Tensor]:
        return [torch.empty(1000, 1000) for _ in range(5)]

    assert peak_bytes(one_after_another) == big
    assert peak_bytes(side_by_side) == 5 * big
    assert peak_bytes(lambda: x) == 0
    # A temporary inside of one expression counts.
    assert 2 * big <= peak_bytes(lambda: (x * 2).relu()) < 2.01 * big


def test_peak_counts_what_backward_keeps() -> None:
    x = torch.randn(1000, 100, requires_grad=True)
    piece = 4 * 1000 * 100

    def chain(depth: int):
        def work() -> None:
            y = x
            for _ in range(depth):
                y = y.exp()
            y.sum().backward()
            x.grad = None

        return work

    assert peak_bytes(chain(10)) - peak_bytes(chain(5)) == pytest.approx(5 * piece, rel=0.02)


def test_peak_sees_inside_operators() -> None:
    """Attention with a fused kernel holds no N x N matrix; written out it does."""
    q = torch.randn(1, 1, 1024, 16)
    square = 4 * 1024 * 1024
    assert_peak_memory(lambda: F.scaled_dot_product_attention(q, q, q), square // 2)
    with pytest.raises(AssertionError, match=r"peak memory is [\d,]+ bytes, more than 2,097,152"):
        assert_peak_memory(lambda: (q @ q.transpose(-1, -2)).softmax(-1) @ q, square // 2)
