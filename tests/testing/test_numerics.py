"""Half precision and compilation: right modules pass, wrong ones do not."""

import unittest

import pytest
import torch
from torch import Tensor, nn

from paperworks.testing import assert_bf16_close, assert_compiles, numerics

X = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))


class Sine(nn.Module):
    """Of a hundred times the input: eight bits are not enough."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(100 * x)


class Upcast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


class Endless(nn.Module):
    """Overflows in bfloat16's neighbour float16, and in bfloat16 by a cast through it."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 1e5).half().float() if x.dtype == torch.bfloat16 else x * 1e5


class RoughGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        return grads[0] * (1.0 if grads[0].dtype == torch.float32 else 0.5)


class Rough(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return RoughGradient.apply(x)


class Needs32(nn.Module):
    """Works in float32 alone, as an FFT does."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).real


def test_bf16_accepts() -> None:
    torch.manual_seed(0)
    assert_bf16_close(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.LayerNorm(8)), X)
    assert_bf16_close(torch.tanh, X)
    assert_bf16_close(nn.Embedding(10, 8), torch.randint(10, (2, 3)))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Sine(), "the output is off by"),
        (Upcast(), "expected an output in bfloat16, got torch.float32"),
        (Endless(), "expected an output in bfloat16|off by inf"),
        (Rough(), "in bfloat16: the gradient is off by"),
    ],
)
def test_bf16_rejects(module: nn.Module, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_bf16_close(module, X)


def test_bf16_lets_the_crash_through() -> None:
    with pytest.raises(RuntimeError):
        assert_bf16_close(Needs32(), X)


def test_bf16_leaves_the_module_alone() -> None:
    layer = nn.Linear(8, 8)
    assert_bf16_close(layer, X)
    assert layer.weight.dtype == torch.float32
    assert layer.weight.grad is None


def test_bf16_sees_autocast_alone() -> None:
    class Coarse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.round() if torch.is_autocast_enabled("cpu") else x

    with pytest.raises(AssertionError, match="under autocast: the output is off by"):
        assert_bf16_close(Coarse(), X)


class Breaks(nn.Module):
    """Asks for a number on the host, in the middle."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


class Differs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (2 if torch.compiler.is_compiling() else 1)


class PerBatch(nn.Module):
    """Written for each batch size anew."""

    def forward(self, x: Tensor) -> Tensor:
        return x + sum(float(n) for n in range(x.shape[0]) if x.shape[0] % 2 == n % 2) * torch.ones(
            int(x.shape[0]), 1, 1
        )


@pytest.fixture
def eager_backend(monkeypatch) -> None:
    """Trace as always, but run the graph with PyTorch itself: no C++ compiler, and fast."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **options: compile_(module, backend="eager", **options))
    monkeypatch.setattr(numerics, "missing_compiler", lambda: None)


@pytest.mark.usefixtures("eager_backend")
def test_compiles_accepts() -> None:
    layer = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    assert_compiles(layer, X, more=[(X[:2],), (X[:3],)])
    assert_compiles(lambda x, *, scale: x * scale, X, scale=2.0)


@pytest.mark.usefixtures("eager_backend")
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Breaks(), "does not compile"),
        (Differs(), "compiled output differs by"),
        (torch.rand_like, "two calls on one input differ"),
    ],
)
def test_compiles_rejects(module, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_compiles(module, X)


@pytest.mark.usefixtures("eager_backend")
def test_compiles_rejects_a_graph_per_batch() -> None:
    big = torch.randn(9, 6, 8)
    with pytest.raises(AssertionError, match=r"compiled \d+ graphs for 4 inputs; at most 2"):
        assert_compiles(PerBatch(), big, more=[(big[:3],), (big[:5],), (big[:4],)])


@pytest.mark.slow
def test_compiles_with_the_real_compiler() -> None:
    assert_compiles(nn.Linear(8, 8), X)


def test_a_missing_compiler_is_a_skip_with_its_reason(monkeypatch) -> None:
    monkeypatch.setattr(numerics.shutil, "which", lambda name: None)
    with pytest.raises(unittest.SkipTest, match=r"no C\+\+ compiler found"):
        assert_compiles(nn.Linear(8, 8), X)
