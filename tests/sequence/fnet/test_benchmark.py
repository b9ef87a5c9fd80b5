import pytest
import torch

from paperworks.nn import AttentionMixing
from paperworks.sequence.fnet.bench import workloads
from paperworks.sequence.fnet.benchmark import benchmark_mixers, growth_exponents, plot_timings
from paperworks.sequence.fnet.mixers import FourierMixing, IdentityMixing, LinearMixing, RandomMixing

SIX = {
    "fourier": lambda length: FourierMixing(32),
    "fourier, exact": lambda length: FourierMixing(32, padding="exact"),
    "linear": lambda length: LinearMixing(32, length=length),
    "random": lambda length: RandomMixing(32, length=length),
    "identity": lambda length: IdentityMixing(32),
    "attention": lambda length: AttentionMixing(32, 2),
}


def test_six_mixers_are_timed_counted_and_drawn():
    timings = benchmark_mixers(SIX, (64, 128, 256), dim=32, batch=2, rounds=3)
    assert [(t.name, t.length) for t in timings] == [(name, length) for name in SIX for length in (64, 128, 256)]
    by_cell = {(t.name, t.length): t for t in timings}
    assert by_cell["attention", 256].flops > 2 * by_cell["attention", 128].flops
    assert by_cell["fourier", 256].peak_bytes >= 2 * 256 * 32 * 4
    for timing in timings:
        assert timing.tokens_per_second == pytest.approx(2 * timing.length / timing.ms * 1e3)
    assert set(growth_exponents(timings)) == set(SIX)
    assert len(plot_timings(timings).axes) >= 1


def test_names_come_from_the_catalogue_and_unknown_ones_are_refused():
    assert [t.name for t in benchmark_mixers(["fourier"], (32,), dim=64, batch=1, rounds=1)] == ["fourier"]
    with pytest.raises(ValueError, match="unknown mixer"):
        benchmark_mixers(["fouriere"], (32,))
    with pytest.raises(ValueError, match="lengths"):
        benchmark_mixers(["fourier"], (0,))


def test_workloads_refuse_outputs_that_differ():
    workload = workloads(quick=True)[0]
    ours, theirs = workload.ours.build()(), workload.peers[0].build()()
    assert workload.agree(ours, theirs) is None
    wrong = tuple(part + 0.1 * part.abs().max() * torch.ones_like(part) for part in theirs)
    assert workload.agree(ours, wrong)
