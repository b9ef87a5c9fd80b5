"""`fourier_mix` against complex FFTs, a cosine sum written out, and what the mathematics says of the map."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paperworks.sequence.fnet import mixing
from paperworks.sequence.fnet.mixing import fourier_mix

SIZES = (1, 2, 3, 5, 7, 8, 64, 100, 127, 512)
BACKENDS = ("fft", "matmul")
small = st.integers(1, 9)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def reference(x: Tensor) -> Tensor:
    return torch.fft.fftn(x.double(), dim=(1, 2)).real


def error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm().clamp(min=1e-300))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", SIZES)
def test_equals_the_real_part_of_a_complex_transform(backend, length):
    for dim in SIZES:
        x = normal(2, length, dim, seed=length * 1000 + dim)
        assert error(fourier_mix(x, backend=backend), reference(x)) <= 1e-12, dim
        assert error(fourier_mix(x.float(), backend=backend), reference(x.float())) <= 1e-6, dim
        if backend == "matmul":
            assert error(fourier_mix(x.bfloat16(), backend=backend), reference(x.bfloat16())) <= 1e-2, dim


@given(small, small, st.integers(0, 10**6))
def test_equals_the_cosine_sum_written_out(length, dim, seed):
    x = np.random.default_rng(seed).normal(size=(length, dim))
    m, e = np.arange(length), np.arange(dim)
    expected = np.array(
        [
            [
                np.sum(x * np.cos(2 * np.pi * (n * m[:, None] / length + d * e[None] / dim)))
                for d in range(dim)
            ]
            for n in range(length)
        ]
    )  # fmt: skip
    for backend in BACKENDS:
        assert np.allclose(fourier_mix(torch.tensor(x)[None], backend=backend)[0], expected, atol=1e-10)


@given(small, small, st.sampled_from(BACKENDS))
def test_linear_self_adjoint_and_twice_gives_the_even_part(length, dim, backend):
    def mix(t: Tensor) -> Tensor:
        return fourier_mix(t, backend=backend)

    x, y = normal(2, length, dim, seed=1), normal(2, length, dim, seed=2)
    assert torch.allclose(mix(2 * x - 3 * y), 2 * mix(x) - 3 * mix(y))
    assert torch.allclose((mix(x) * y).sum(), (x * mix(y)).sum())
    reversed_x = x[:, (-torch.arange(length)) % length][:, :, (-torch.arange(dim)) % dim]
    assert torch.allclose(mix(mix(x)), length * dim * (x + reversed_x) / 2)
    mirrored = mix(x)[:, (-torch.arange(length)) % length][:, :, (-torch.arange(dim)) % dim]
    assert torch.allclose(mix(x), mirrored)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding", ["mix", "zero", "exact"])
def test_gradients_are_right_twice_over(backend, padding):
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    x = normal(2, 5, 6).requires_grad_()

    def call(t: Tensor) -> Tensor:
        return fourier_mix(t, mask=mask, padding=padding, backend=backend)

    assert torch.autograd.gradcheck(call, (x,))
    assert torch.autograd.gradgradcheck(call, (x,))


@pytest.mark.parametrize("backend", BACKENDS)
def test_backward_keeps_no_activation(backend):
    kept = []
    x = normal(2, 8, 6, dtype=torch.float32).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        (x * x).sum()
        assert kept != [], "the hook does not see what it should"
        kept.clear()
        y = fourier_mix(x, backend=backend)
    assert kept == []
    y.sum().backward()
    assert torch.allclose(x.grad, fourier_mix(torch.ones_like(x)), atol=1e-4)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(1, 6), st.sampled_from(BACKENDS))
def test_exact_padding_is_the_unpadded_call_of_each_example(lengths, dim, backend):
    x = normal(len(lengths), 7, dim, dtype=torch.float32)
    mask = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    x = x.masked_fill(~mask[..., None], float("nan"))
    mixed = fourier_mix(x, mask=mask, padding="exact", backend=backend)
    for row, length in enumerate(lengths):
        assert (mixed[row, length:] == 0).all()
        if length:
            alone = fourier_mix(x[row : row + 1, :length], backend=backend)[0]
            assert torch.allclose(mixed[row, :length], alone, atol=1e-6 * float(alone.abs().max()) + 1e-6)


@pytest.mark.parametrize("way", ["numpy", "tensors", "pieces"])
@pytest.mark.parametrize("shape", [(5, 8, 6), (5, 7, 9), (5, 1, 4), (5, 4, 1), (5, 2, 2)])
def test_every_way_to_mirror_is_the_same(way, shape, monkeypatch):
    monkeypatch.setattr(mixing, "_numpy_is_faster", lambda out: way == "numpy")
    monkeypatch.setattr(mixing, "_PIECE", 0 if way == "pieces" else 2**19)
    x = normal(*shape)
    assert len(mixing._pieces(x)) == (5 if way == "pieces" else 1)
    assert torch.allclose(fourier_mix(x, backend="fft"), reference(x), atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_under_autocast_is_that_of_the_same_map(backend):
    x, incoming = (normal(2, 16, 12, dtype=torch.float32, seed=seed) for seed in (0, 1))
    x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = fourier_mix(x, backend=backend)
    y.backward(incoming)
    assert y.dtype == x.grad.dtype == torch.float32
    assert error(x.grad, reference(incoming)) < (1e-6 if backend == "fft" else 2e-2)


def test_mix_ignores_the_mask_and_zero_silences_it():
    x, mask = normal(2, 6, 4), torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    assert torch.equal(fourier_mix(x, mask=mask), fourier_mix(x))
    loud = x.masked_fill(~mask[..., None], 1e6)
    assert torch.allclose(fourier_mix(loud, mask=mask, padding="zero"), fourier_mix(x * mask[..., None]))


def test_order_of_the_batch_empty_batches_and_strided_inputs():
    x = normal(5, 16, 12)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(fourier_mix(x[order]), fourier_mix(x)[order])
    assert fourier_mix(x[:0]).shape == (0, 16, 12)
    strided = normal(12, 16, 5).permute(2, 1, 0)
    assert error(fourier_mix(strided), reference(strided)) < 1e-12
    assert error(fourier_mix(x[:, ::2, ::3]), reference(x[:, ::2, ::3])) < 1e-12


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_half_precision_works_on_a_cpu(backend):
    x = normal(2, 64, 32, dtype=torch.float32)
    half = fourier_mix(x.bfloat16(), backend=backend)
    assert half.dtype == torch.bfloat16
    assert error(half, reference(x)) < 2e-2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert error(fourier_mix(x, backend=backend), reference(x)) < 2e-2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3, 4)}, r"x: expected \(batch, length, dim\), got shape \(3, 4\)"),
        ({"x": torch.zeros(3, 0, 4)}, "x: expected"),
        ({"x": torch.zeros(2, 3, 4, dtype=torch.long)}, "floating point"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, "mask: expected"),
        ({"mask": torch.ones(2, 3)}, "mask: expected"),
        ({"padding": "reflect"}, "padding"),
        ({"backend": "fftw"}, "backend"),
        ({"padding": "exact", "mask": torch.tensor([[True, True, True], [True, False, True]])}, "row 1 is not"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        fourier_mix(**({"x": torch.zeros(2, 3, 4)} | arguments))
