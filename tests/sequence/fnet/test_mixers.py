"""FNet's mixers against the sums written out, hybrid layouts against the official rules, and both in one encoder."""

import warnings

import pytest
import torch

from paperworks.nn import AttentionMixing, BlockOptions, MixerEncoder, hybrid
from paperworks.sequence.fnet.layouts import hybrid_layout
from paperworks.sequence.fnet.mixers import FourierMixing, IdentityMixing, LinearMixing, RandomMixing
from paperworks.sequence.fnet.mixing import fourier_mix
from paperworks.testing import check_mixer

DIM, LENGTH = 6, 5
MIXERS = {
    "fourier": lambda layer: FourierMixing(DIM),
    "linear": lambda layer: LinearMixing(DIM, length=LENGTH),
    "random": lambda layer: RandomMixing(DIM, length=LENGTH, seed=layer),
    "identity": lambda layer: IdentityMixing(DIM),
    "attention": lambda layer: AttentionMixing(DIM, 2),
}


@pytest.mark.parametrize("name", ["linear", "random"])
def test_dense_mixers_are_the_einsum(name):
    mixer = MIXERS[name](0)
    x = torch.randn(2, LENGTH, DIM)
    expected = torch.einsum("bij,jk,ni->bnk", x, mixer.hidden, mixer.sequence)
    assert torch.allclose(mixer(x), expected, atol=1e-6)


def test_identity_and_fourier_are_what_they_say():
    x = torch.randn(2, LENGTH, DIM)
    assert torch.equal(IdentityMixing(DIM)(x), x)
    assert torch.equal(FourierMixing(DIM)(x), fourier_mix(x))


def test_random_matrices_are_fixed_differ_by_layer_and_have_lecun_variance():
    first, again, other = (RandomMixing(64, length=64, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.sequence, again.sequence)
    assert not torch.equal(first.sequence, other.sequence)
    assert list(first.parameters()) == []
    assert float(first.sequence.var() * 64) == pytest.approx(1.0, abs=0.1)


def test_linear_starts_at_normal_002():
    mixer = LinearMixing(128, length=96)
    assert float(mixer.hidden.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(mixer.sequence.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_another_length_is_refused():
    with pytest.raises(ValueError, match="LinearMixing: built for length 5, got 4"):
        LinearMixing(DIM, length=LENGTH)(torch.zeros(1, 4, DIM))


@pytest.mark.parametrize("padding", ["mix", "zero", "exact"])
def test_fourier_mixing_keeps_the_mixer_contract(padding):
    mask = torch.tensor([[True] * 12, [True] * 7 + [False] * 5, [True] * 3 + [False] * 9])
    check_mixer(lambda layer: FourierMixing(8, padding=padding), dim=8, length=12, mask=mask)


def official(layer: int, attention: int, depth: int, kind: str) -> bool:
    return {
        "bottom": layer < attention,
        "top": layer >= depth - attention,
        "middle": depth - attention <= 2 * layer < depth + attention,
        "mixed": layer % (depth // attention) == 0,
    }[kind]


@pytest.mark.parametrize("kind", ["bottom", "middle", "mixed", "top"])
def test_layouts_are_the_official_ones_for_every_size(kind):
    for depth in range(1, 13):
        for attention in range(1, depth + 1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                got = hybrid_layout(depth, attention, kind)
            assert got == [official(layer, attention, depth, kind) for layer in range(depth)], (depth, attention)
            if kind != "mixed" and not (kind == "middle" and (depth - attention) % 2):
                assert sum(got) == attention


def test_mixed_gives_more_layers_than_asked_and_says_so():
    with pytest.warns(UserWarning, match="the official rule places 6"):
        assert sum(hybrid_layout(12, 5, "mixed")) == 6
    with pytest.raises(ValueError, match="layout: expected one of bottom, middle, mixed, top"):
        hybrid_layout(12, 2, "sides")
    with pytest.raises(ValueError, match="attention_layers: expected 0 to depth = 2, got 3"):
        hybrid_layout(2, 3)


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("kind", ["bottom", "middle", "mixed", "top"])
def test_every_mixer_and_layout_runs_in_the_shared_encoder(name, kind):
    torch.manual_seed(0)
    factory = hybrid(MIXERS[name], MIXERS["attention"], hybrid_layout(4, 2, kind))
    encoder = MixerEncoder(factory, dim=DIM, depth=4, block=BlockOptions(ffn_dim=8, dropout=0.0))
    kinds = [isinstance(layer.mixer, AttentionMixing) for layer in encoder.layers]
    assert kinds == ([True] * 4 if name == "attention" else hybrid_layout(4, 2, kind))
    states, mask = encoder(torch.randn(2, LENGTH, DIM))
    assert states.shape == (2, LENGTH, DIM)
    assert mask is None
    assert states.isfinite().all()
