"""Multiply-adds are those of the operators that ran."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paperworks.nn.macs import count_macs


def test_convolutions_and_products_by_hand():
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
    assert count_macs(conv, torch.zeros(2, 6, 10, 12)).total == 2 * 5 * 6 * 8 * 3 * 9
    assert count_macs(F.linear, torch.zeros(5, 4), torch.zeros(3, 4), torch.zeros(3)).total == 5 * 4 * 3
    assert count_macs(torch.bmm, torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)).total == 2 * 3 * 4 * 5


def test_backward_counts_when_it_runs():
    weight = torch.randn(3, 4, requires_grad=True)
    x = torch.randn(5, 4)
    assert count_macs(lambda: F.linear(x, weight).sum().backward()).total == 2 * 5 * 4 * 3
    x.requires_grad_()
    assert count_macs(lambda: F.linear(x, weight).sum().backward()).total == 3 * 5 * 4 * 3


def test_only_the_branch_that_runs_counts():
    small, large = nn.Linear(4, 2), nn.Linear(4, 200)

    def call(x):
        return large(x) if x.sum() > 0 else small(x)

    assert count_macs(call, -torch.ones(3, 4)).total == 3 * 4 * 2
    assert count_macs(call, torch.ones(3, 4)).total == 3 * 4 * 200


def test_rows_that_are_gathered_count_as_rows():
    x, weight = torch.randn(100, 8), torch.randn(8, 5)
    rows = torch.tensor([3, 50, 51])
    counted = count_macs(lambda: x[rows] @ weight)
    assert counted.total == 3 * 8 * 5
    assert counted.by_operator == {"mm": 3 * 8 * 5}


def test_fourier_transforms_and_embedding_bags():
    assert count_macs(torch.fft.fft2, torch.zeros(2, 8, 8, dtype=torch.complex64)).total == 2.5 * 2 * 64 * 6
    assert count_macs(torch.fft.rfft, torch.zeros(3, 16)).total == 2.5 * 3 * 16 * 4 / 2
    assert count_macs(torch.fft.irfft, torch.zeros(3, 9, dtype=torch.complex64)).total == 2.5 * 3 * 16 * 4 / 2
    assert count_macs(F.embedding_bag, torch.zeros(2, 3, dtype=torch.long), torch.zeros(10, 4)).total == 2 * 3 * 4


def test_further_operators_can_be_taught():
    x = torch.zeros(6, 7)
    assert count_macs(torch.exp, x).total == 0
    taught = {torch.ops.aten.exp: lambda shape, *, out_shape: 2 * shape[0] * shape[1]}
    assert count_macs(torch.exp, x, counts=taught).total == 84
    assert count_macs(torch.exp, x).total == 0


def test_grouping_is_by_operator():
    def call():
        F.conv2d(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3))
        torch.zeros(2, 3) @ torch.zeros(3, 2)

    counted = count_macs(call)
    assert counted.by_operator == {"convolution": 36, "mm": 12}
    assert counted.total == 48


def test_errors_of_the_call_come_through():
    def call():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        count_macs(call)
