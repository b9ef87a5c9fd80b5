"""Fields that the room's tests share."""

import pytest
import torch
from torch import nn


class MLPField(nn.Module):
    """tanh MLP of state and time; counts its calls, which the library itself never asks a field to do."""

    def __init__(self, width=16, dim=2, *, seed=0, time=True):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(dim + int(time), width), nn.Tanh(), nn.Linear(width, dim))
        self.time, self.calls = time, 0

    def forward(self, t, y):
        self.calls += 1
        inputs = torch.cat([y, t.expand(*y.shape[:-1], 1)], -1) if self.time else y
        return self.net(inputs)


class Linear(nn.Module):
    """dy/dt = A y, a rotation that grows slowly."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.A = nn.Parameter(torch.tensor([[0.1, 2.0], [-1.5, -0.2]], dtype=dtype))
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        return y @ self.A.T


class VanDerPol(nn.Module):
    """Stiff, mu = 5, with a gradient for mu."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(5.0, dtype=torch.float64))
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        x, v = y[..., 0], y[..., 1]
        return torch.stack([v, self.mu * (1 - x**2) * v - x], -1)


class Pair(nn.Module):
    """A tuple state of two shapes."""

    def __init__(self):
        super().__init__()
        self.field = MLPField(12)
        self.calls = 0

    def forward(self, t, state):
        self.calls += 1
        y, area = state
        return self.field(t, y), y.square().sum(-1) - 0.5 * area


@pytest.fixture(autouse=True)
def double():
    """Parity is a matter of float64; tests of float32 say so themselves."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def fields():
    class Fields:
        mlp, linear, van_der_pol, pair = MLPField, Linear, VanDerPol, Pair

    return Fields
