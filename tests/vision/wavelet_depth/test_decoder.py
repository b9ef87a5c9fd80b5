"""Dense decoders against slow twins; sparse execution against the dense network with masked coefficients."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.nn.macs import count_macs
from paperworks.testing import assert_compiles
from paperworks.vision import DepthDecoder, WaveletDepthDecoder, haar_idwt2d
from paperworks.vision.wavelet_depth.execution import Packed, Tally, run_level
from paperworks.vision.wavelet_depth.sparse import up2

_spec = importlib.util.spec_from_file_location("wavelet_depth_twin", Path(__file__).with_name("twin.py"))
twin = importlib.util.module_from_spec(_spec)
sys.modules["wavelet_depth_twin"] = twin
_spec.loader.exec_module(twin)

ENC, DEC = (5, 6, 7, 8, 9), (4, 4, 6, 8, 12)


def features(batch=2, height=64, width=96, enc=ENC, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, c, height >> k, width >> k, generator=g, dtype=dtype) for k, c in enumerate(enc, 1)]


def decoder(seed=0, target="disparity", levels=None, **options):
    torch.manual_seed(seed)
    return WaveletDepthDecoder(ENC, num_ch_dec=DEC, target=target, levels=levels, **options).double().eval()


def sparsely(own):
    """Every level that can be is executed sparsely."""
    own.break_even, own.overhead = 10.0, 0.0


# Dense ----------------------------------------------------------------------------------------------------------------


def test_dense_decoder_is_the_papers_equations_under_the_authors_names():
    state = twin.official_state(ENC, DEC, np.random.default_rng(0))
    own = decoder().from_official({name: torch.from_numpy(value) for name, value in state.items()})
    maps = features(batch=2)
    with torch.no_grad():
        out = own(maps)
    for number in range(2):
        expected, details = twin.disparity_decoder(state, [f[number].numpy() for f in maps])
        assert np.ptp(expected[-1]) > 0.2
        for got, want in zip(out.maps, expected[::-1], strict=True):
            np.testing.assert_allclose(got[number, 0].numpy(), want, atol=1e-12)
        for got, want in zip(out.details, details[::-1], strict=True):
            np.testing.assert_allclose(got[number, 0].numpy(), want, atol=1e-12)
    assert [m.shape[-1] for m in out.maps] == [96, 48, 24, 12]


def test_the_pyramid_a_decoder_returns_inverts_to_its_finest_map():
    own = decoder()
    out = own(features())
    torch.testing.assert_close(haar_idwt2d(out.ll, out.details).clamp(0, 1), out.maps[0])


def test_depth_decoder_is_the_papers_equations():
    """DenseDepth style: 1x1, then up, concatenate, 3x3 mirrored, LeakyReLU 0.2; linear heads with zero borders."""
    own, maps = decoder(target="depth"), features(batch=1)
    weights = {name: value.detach().numpy() for name, value in own.state_dict().items()}

    def conv(x, name, mode):
        return twin.conv(x, weights[f"{name}.weight"], weights[f"{name}.bias"], mode)

    arrays = [f[0].numpy() for f in maps]
    x = conv(arrays[4], "bottleneck", "reflect")
    expected, ll = [], None
    for k, scale in enumerate((4, 2, 1)):
        x = conv(np.concatenate((twin.up2(x), arrays[3 - k])), f"levels.{k}.merge", "reflect")
        x = np.where(x > 0, x, 0.2 * x)
        if ll is None:
            ll = 8 * conv(x, "low_pass", "reflect")[0]
            expected.append(ll / 8)
        ll = twin.idwt(ll, scale * conv(x, f"levels.{k}.detail", "constant"))
        expected.append(ll / scale)
    out = own(maps)
    assert len(out.maps) == 4
    assert out.maps[0].shape[-2:] == (32, 48)
    for got, want in zip(out.maps, expected[::-1], strict=True):
        np.testing.assert_allclose(got[0, 0].detach().numpy(), want, atol=1e-12)


@pytest.mark.parametrize("finest", [0, 1])
def test_baseline_decoder_is_its_equations(finest):
    torch.manual_seed(0)
    own, maps = DepthDecoder(ENC, num_ch_dec=DEC, finest=finest).double(), features(batch=1)
    weights = {name: value.detach().numpy() for name, value in own.state_dict().items()}

    def conv(x, name):
        return twin.conv(x, weights[f"{name}.weight"], weights[f"{name}.bias"], "constant")

    arrays = [f[0].numpy() for f in maps]
    x, expected = arrays[4], []
    for k, i in enumerate(range(4, finest - 1, -1)):
        x = twin.up2(twin.elu(conv(x, f"reduce.{k}")))
        x = np.concatenate((x, arrays[i - 1])) if i else x
        x = twin.elu(conv(x, f"merge.{k}"))
        if i <= 3:
            expected.append(twin.sigmoid(conv(x, f"outputs.{k - 1}")))
    out = own(maps)
    assert out.maps[0].shape[-1] == 96 >> finest
    for got, want in zip(out.maps, expected[::-1], strict=True):
        np.testing.assert_allclose(got[0].detach().numpy(), want, atol=1e-12)


def test_published_sizes():
    """R18 at 192 x 640: 3.47 GMAC against the baseline's 3.57; DenseNet161 widths halve from 1104."""
    channels = (64, 64, 128, 256, 512)
    maps = features(1, 192, 640, channels, dtype=torch.float32)
    with torch.no_grad():
        assert WaveletDepthDecoder(channels)(maps).macs == pytest.approx(3.47e9, rel=2e-3)
        assert DepthDecoder(channels)(maps).macs == pytest.approx(3.57e9, rel=2e-3)
    nyu = WaveletDepthDecoder((96, 96, 192, 384, 2208), target="depth")
    assert nyu.bottleneck.weight.shape == (1104, 2208, 1, 1)
    assert [level.merge.out_channels for level in nyu.levels] == [552, 276, 138]


# Sparse ---------------------------------------------------------------------------------------------------------------


def masked_twin(own, maps, masks):
    """The dense network, its coefficients multiplied by `masks` (finest first): all maps, finest first."""
    with torch.no_grad():
        full = own(maps)
        ll, out = full.ll, []
        for k in reversed(range(len(masks))):
            ll = haar_idwt2d(ll, full.details[k] * masks[k][:, None, None])
            scaled = ll / 2**k
            out.append(scaled.clamp(0, 1) if own.target == "disparity" else scaled)
    return full, out[::-1]


def largest_gap(own, maps, out):
    """Between the coefficients of a sparse run and the dense ones at active positions, over their range, by level."""
    with torch.no_grad():
        full = own(maps)
    gaps = []
    for sparse, dense, mask in zip(out.details, full.details, out.masks, strict=True):
        gap = ((sparse - dense) * mask[:, None, None]).abs().max()
        gaps.append(float(gap / (dense.max() - dense.min())))
    return gaps


@pytest.mark.parametrize("target", ["disparity", "depth"])
def test_threshold_zero_is_the_dense_network(target):
    own, maps = decoder(target=target), features()
    for own.break_even, own.overhead in ((0.0, 0.0), (10.0, 0.0)):
        with torch.no_grad():
            full, out = own(maps), own(maps, threshold=0.0)
        for sparse, dense in zip(out.maps, full.maps, strict=True):
            torch.testing.assert_close(sparse, dense, atol=1e-12, rtol=0)
        assert out.macs == full.macs
        assert out.level_macs == full.level_macs


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    threshold=st.sampled_from([0.02, 0.1, 0.2, 0.3]),
    target=st.sampled_from(["disparity", "depth"]),
    padding=st.sampled_from(["reflect", "zeros"]),
    break_even=st.sampled_from([0.0, 0.5, 10.0]),
)
def test_exact_halo_gives_the_dense_network_with_masked_coefficients(seed, threshold, target, padding, break_even):
    own, maps = decoder(seed, target, levels=4, padding=padding), features(seed=seed)
    own.break_even, own.overhead = break_even, 0.0
    with torch.no_grad():
        out = own(maps, threshold=threshold)
    _, expected = masked_twin(own, maps, out.masks)
    for got, want in zip(out.maps, expected, strict=False):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    for finer, coarser in zip(out.masks, out.masks[1:], strict=False):
        assert not (finer & ~up2(coarser)).any()


def test_thresholds_of_a_batch_are_each_image_s_own():
    own, maps = decoder(3), features(3, seed=3)
    sparsely(own)
    thresholds = torch.tensor([0.05, 0.3, 0.15])
    with torch.no_grad():
        together = own(maps, threshold=thresholds)
        for number, threshold in enumerate(thresholds.tolist()):
            alone = own([f[number : number + 1] for f in maps], threshold=threshold)
            torch.testing.assert_close(together.maps[0][number : number + 1], alone.maps[0], atol=1e-12, rtol=0)
            assert torch.equal(together.masks[0][number : number + 1], alone.masks[0])


def test_next_level_lives_below_coefficients_above_the_share_of_the_low_pass_range():
    own, maps = decoder(), features()
    threshold = 0.2
    with torch.no_grad():
        out = own(maps, threshold=threshold)
        low = haar_idwt2d(out.ll, out.details[3])
    spread = low.flatten(1).amax(1) - low.flatten(1).amin(1)
    large = out.details[3][:, 0].abs().amax(1) > threshold * spread[:, None, None]
    assert torch.equal(out.masks[2], up2(large))
    assert 0 < large.double().mean() < 1


def random_masks(seed, height=8, width=12):
    """Random nested masks of the first three levels of a 128 x 192 picture, two pictures with different ones."""
    g = torch.Generator().manual_seed(seed)
    masks, mask = [], torch.ones(2, height // 2, width // 2, dtype=torch.bool)
    for level in range(3):
        mask = up2(mask) & (torch.rand(2, height << level, width << level, generator=g) < 0.12 * (1 + level))
        masks.append(mask)
    return masks


def sparse_details(own, maps, masks, radii):
    """Coefficients of the four levels, coarse to fine, with given masks and radii."""
    state, details = maps[4], []
    for k, level in enumerate(own.levels):
        mask = masks[k - 1] if k else None
        step = run_level(level, state, maps[3 - k], mask, Tally(), radius=radii[k], break_even=10.0, overhead=0.0)
        assert isinstance(step.state, Packed) == (k > 0)
        state = step.state
        details.append((step.detail, step.active))
    return details


@pytest.mark.parametrize(("radii", "exact"), [((4, 3, 2, 1), True), ((1, 2, 2, 1), False), ((1, 1, 1, 1), False)])
def test_radii_one_two_three_are_needed_and_enough(radii, exact):
    """Whatever the masks: with smaller radii, active coefficients differ from the dense ones."""
    own = decoder(1)
    worst = 0.0
    for seed in range(4):
        maps = features(2, 128, 192, seed=seed)
        with torch.no_grad():
            dense = own(maps)
            found = sparse_details(own, maps, random_masks(seed), radii)
        for k, (detail, active) in enumerate(found):
            scaled = detail * 2.0 ** (3 - k) - dense.details[3 - k][:, 0]
            worst = max(worst, float((scaled * active[:, None]).abs().max()))
    assert worst < 1e-12 if exact else worst > 1e-4


def test_radii_follow_the_recursion():
    assert decoder().radii("exact") == [3, 3, 2, 1]
    assert decoder().radii("official") == [1, 1, 1, 1]
    assert decoder(target="depth", levels=4).radii("exact") == [1, 1, 1, 1]


def test_official_halo_is_inexact_from_the_second_sparse_level_on():
    own, maps = decoder(2), features(2, 128, 192, seed=2)
    sparsely(own)
    with torch.no_grad():
        out = own(maps, threshold=0.2, halo="official")
    finest, second, first, dense = largest_gap(own, maps, out)
    assert dense == 0
    assert first < 1e-12
    assert 1e-4 < second < 0.2
    assert 1e-4 < finest < 0.2
    with torch.no_grad():
        assert out.macs < own(maps, threshold=0.2).macs


def test_no_large_coefficient_leaves_finer_levels_empty():
    own, maps = decoder(), features()
    sparsely(own)
    with torch.no_grad():
        out = own(maps, threshold=0.999)
    assert not out.masks[0].any()
    assert out.level_macs[:3] == [0, 0, 0]
    # Without coefficients each pixel becomes four, each half as large.
    torch.testing.assert_close(out.maps[0], out.maps[3].repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_channels_last_features_give_the_same():
    own, maps = decoder(), features(1, dtype=torch.float64)
    sparsely(own)
    with torch.no_grad():
        plain = own(maps, threshold=0.2).maps[0]
        last = own([f.to(memory_format=torch.channels_last) for f in maps], threshold=0.2).maps[0]
    torch.testing.assert_close(plain, last, atol=1e-12, rtol=0)


def test_small_levels_are_left_dense_and_masked():
    own, maps = decoder(), features()
    with torch.no_grad():
        left_to_itself = own(maps, threshold=0.2)
        sparsely(own)
        sparse = own(maps, threshold=0.2)
        assert left_to_itself.macs == own(maps).macs > sparse.macs
    torch.testing.assert_close(left_to_itself.maps[0], sparse.maps[0], atol=1e-12, rtol=0)


# Multiply-adds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["disparity", "depth"])
def test_dense_count_is_the_analytic_one_and_an_instrumented_one(target):
    own, maps = decoder(target=target), features(1)
    counted = count_macs(own, maps)
    assert counted.total == own(maps).macs
    if target == "disparity":
        expected = 0
        for i, before in ((4, ENC[4]), (3, DEC[4]), (2, DEC[3]), (1, DEC[2])):
            sites, width = (64 >> i) * (96 >> i), DEC[i]
            expected += sites // 4 * 9 * before * width + sites * 9 * (width + ENC[i - 1]) * width
            expected += sites * 2 * (width * width + 27 * width)
            if i == 4:
                expected += sites * (width * (width // 4) + 9 * (width // 4))
        assert counted.total == expected


@pytest.mark.parametrize("target", ["disparity", "depth"])
@pytest.mark.parametrize("halo", ["exact", "official"])
def test_sparse_count_is_what_the_operators_executed(target, halo):
    own, maps = decoder(target=target), features(2)
    sparsely(own)
    for threshold in (0.0, 0.1, 0.3):
        counted = count_macs(own, maps, threshold=threshold, halo=halo)
        assert counted.total == own(maps, threshold=threshold, halo=halo).macs


def test_count_falls_with_the_threshold_and_adds_up():
    own, maps = decoder(), features(2)
    sparsely(own)
    with torch.no_grad():
        outs = [own(maps, threshold=t) for t in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)]
        low_pass = own(maps).macs
    macs = [out.macs for out in outs]
    assert macs == sorted(macs, reverse=True)
    assert macs[0] == low_pass
    assert macs[-1] < 0.5 * macs[0]
    assert all(sum(out.level_macs) == out.macs for out in outs)


# Training -------------------------------------------------------------------------------------------------------------


def finest(module):
    # The coarsest map first: the gradient by it is compared, and the depth decoder never reads the finest.
    return lambda *maps: module(list(maps[::-1])).maps[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disparity", "depth", "baseline"])
def test_decoders_compile(kind):
    torch.manual_seed(0)
    own = (
        DepthDecoder(ENC, num_ch_dec=DEC)
        if kind == "baseline"
        else WaveletDepthDecoder(ENC, num_ch_dec=DEC, target=kind)
    )
    assert_compiles(finest(own), *features(2, dtype=torch.float32)[::-1])


@pytest.mark.parametrize("kind", ["disparity", "depth", "baseline"])
def test_decoders_work_in_bfloat16(kind):
    torch.manual_seed(0)
    own = (
        DepthDecoder(ENC, num_ch_dec=DEC)
        if kind == "baseline"
        else WaveletDepthDecoder(ENC, num_ch_dec=DEC, target=kind)
    )
    maps = features(2, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = own(maps).maps[0]
    assert (low.float() - own(maps).maps[0]).norm() / own(maps).maps[0].norm() < 2e-2
    low.float().square().mean().backward()
    # The coarser outputs of the baseline are not part of this loss.
    used = [p.grad for p in own.parameters() if p.grad is not None]
    assert len(used) >= 14
    assert all(gradient.isfinite().all() for gradient in used)


def test_every_parameter_learns_from_depth_alone():
    own = decoder()
    out = own(features())
    sum((m * torch.randn_like(m)).sum() for m in out.maps).backward()
    assert [name for name, p in own.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_sparse_run_in_bfloat16_is_close():
    own, maps = decoder().float(), features(1, dtype=torch.float32)
    sparsely(own)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        dense, sparse = own(maps).maps[0], own(maps, threshold=0.0).maps[0]
    assert (dense.float() - sparse.float()).norm() / dense.float().norm() < 2e-2


# Bad input ------------------------------------------------------------------------------------------------------------


def test_unfit_features_and_options_are_refused():
    own, maps = decoder(), features()
    for wrong, words in (
        (maps[1:], "features: expected 5 maps with strides 2, 4, 8, 16, 32, got 4 maps"),
        ([*maps[:4], maps[4][:, :3]], "features: expected channels"),
        ([maps[0][..., 1:], *maps[1:]], "features: expected each map half as large"),
        (features(1, 32, 32), "at least 64 x 64"),
    ):
        with pytest.raises(ValueError, match=words):
            own(wrong)
    for threshold, words in (
        (1.5, r"threshold: expected a value in \[0, 1\), got 1.5"),
        (-0.1, r"threshold: expected a value in \[0, 1\), got -0.1"),
        (float("nan"), "got nan"),
        (torch.tensor([0.1, 0.2, 0.3]), "threshold: expected a number or 2"),
    ):
        with pytest.raises(ValueError, match=words):
            own(maps, threshold=threshold)
    with pytest.raises(ValueError, match="halo: expected 'exact' or 'official', got 'none'"):
        own(maps, halo="none")
    for options, words in (
        ({"target": "height"}, "target: expected 'disparity' or 'depth'"),
        ({"levels": 5}, "levels: expected 1 to 4, got 5"),
        ({"num_ch_dec": (4, 4)}, "num_ch_dec: expected 5 widths"),
        ({"padding": "circular"}, "padding: expected"),
    ):
        with pytest.raises(ValueError, match=words):
            WaveletDepthDecoder(ENC, **options)
    with pytest.raises(ValueError, match="num_ch_enc: expected the channels of 5 maps"):
        WaveletDepthDecoder(ENC[1:])
    with pytest.raises(ValueError, match="finest: expected 0 to 3, got 4"):
        DepthDecoder(ENC, finest=4)
    with pytest.raises(ValueError, match="only disparity decoders"):
        decoder(target="depth").from_official({})
