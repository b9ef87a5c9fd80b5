"""CTAugment: how bins are drawn, what a probe does to rates, what happens to images."""

import numpy as np
import pytest
import torch
from scipy import stats

from paperworks.data.augment import OPERATIONS
from paperworks.learning import CTAugment
from paperworks.learning.adamatch.ctaugment import Policy, proximity


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_update(rates, augment, policy, closeness, decay):
    """One image, one operation, one parameter after the other."""
    names = [operation.name for operation in augment.operations]
    for chosen, levels, value in zip(policy.chosen, policy.levels, closeness, strict=True):
        for index, level in zip(chosen.tolist(), levels.tolist(), strict=True):
            for rate, position in zip(rates[names[index]], level, strict=False):
                hit = int(position * len(rate) * 0.999)
                rate[hit] = decay * rate[hit] + (1 - decay) * float(value)


def test_bins_and_first_rates_are_those_of_the_paper():
    rates = CTAugment().rates
    assert len(rates) == 19
    sizes = {name: tuple(len(part) for part in parts) for name, parts in rates.items()}
    assert sizes["posterize"] == (8,)
    assert sizes["rescale"] == (17, 6)
    assert sizes["identity"] == ()
    assert {size for name, size in sizes.items() if name not in ("posterize", "rescale", "identity")} == {(17,)}
    assert all((part == 1).all() for parts in rates.values() for part in parts)


@pytest.mark.parametrize("decay", [0.99, 0.5])
def test_rates_after_scripted_probes_equal_updates_one_by_one(decay):
    augment = CTAugment(("posterize", "rescale", "identity", "rotate"), decay=decay, depth=3)
    expected = augment.rates
    for step in range(4):
        # 64 images on few operations: most bins are hit several times in one batch.
        policy = augment.sample(64, probe=True, generator=seeded(step))
        closeness = torch.rand(64, generator=seeded(10 + step))
        augment.update(policy, closeness)
        slow_update(expected, augment, policy, closeness, decay)
    for name, parts in augment.rates.items():
        for ours, theirs in zip(parts, expected[name], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, err_msg=name)


def test_one_hit_moves_one_bin_by_the_formula():
    augment = CTAugment()
    index = list(OPERATIONS).index("rotate")
    level = torch.tensor([[[3.5 / 17, 0.9], [0.5, 0.5]]])
    identity = list(OPERATIONS).index("identity")
    augment.update(Policy(torch.tensor([[index, identity]]), level, torch.tensor([False])), torch.tensor([0.25]))
    changed = augment.rates["rotate"][0]
    assert changed[3] == pytest.approx(0.99 + 0.01 * 0.25)
    others = [
        np.delete(changed, 3),
        *(part for name, parts in augment.rates.items() if name != "rotate" for part in parts),
    ]
    assert all((part == 1).all() for part in others)


def test_proximity_is_one_less_half_the_distance_to_the_label():
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])
    labels = torch.tensor([0, 1])
    distance = (probs - torch.nn.functional.one_hot(labels, 3)).abs().sum(1)
    torch.testing.assert_close(proximity(probs, labels), 1 - distance / 2)


def test_bins_are_drawn_in_proportion_to_rates_and_weak_ones_are_left_out():
    augment = CTAugment(("rotate",), depth=1)
    rates = torch.linspace(0.5, 1.0, 17)
    augment.table[0, 0] = rates
    policy = augment.sample(40_000, generator=seeded())
    drawn = np.bincount((policy.levels[:, 0, 0] * 17).long().clamp(max=16).numpy(), minlength=17)
    weights = rates.double().numpy() + 0.01
    weights[weights / weights.max() < 0.8] = 0
    assert ((drawn > 0) == (weights > 0)).all()
    open_bins = weights > 0
    assert stats.chisquare(drawn[open_bins], 40_000 * weights[open_bins] / weights.sum()).pvalue > 1e-3
    # Equal weights would be refuted.
    assert stats.chisquare(drawn[open_bins]).pvalue < 1e-3


def test_operations_are_uniform_levels_are_uniform_in_their_bin_and_probes_ignore_rates():
    augment = CTAugment(depth=2)
    augment.table[:, 0, 1:] = 0.0
    policy = augment.sample(20_000, generator=seeded())
    assert stats.chisquare(np.bincount(policy.chosen.flatten().numpy(), minlength=19)).pvalue > 1e-3
    assert policy.final_cutout.all()
    rotations = policy.levels[policy.chosen == list(OPERATIONS).index("rotate")][:, 0]
    assert rotations.max() < 1 / 17
    assert stats.kstest(rotations.numpy() * 17, "uniform").pvalue > 1e-3
    probe = augment.sample(20_000, probe=True, generator=seeded())
    assert not probe.final_cutout.any()
    assert stats.kstest(probe.levels[..., 0].flatten().numpy(), "uniform").pvalue > 1e-3


def test_images_end_with_a_cutout_of_half_the_side_and_probes_do_not():
    augment = CTAugment(("identity",), depth=1)
    images = torch.ones(200, 1, 16, 16)
    shown = augment.apply(images, augment.sample(200, generator=seeded()), fill=0.0, generator=seeded(1))
    holes = (shown == 0).sum((1, 2, 3))
    # Side 2 floor((1 + floor(.499 x 16)) / 2) = 8, clipped at the border.
    assert holes.max() == 64
    assert holes.min() >= 16
    probe = augment.sample(200, probe=True, generator=seeded())
    torch.testing.assert_close(augment.apply(images, probe, generator=seeded(1)), images)
    mixed = augment.sample(3, generator=seeded()) + augment.sample(2, probe=True, generator=seeded())
    assert ((augment.apply(images[:5], mixed, fill=0.0) == 0).flatten(1).any(1)).tolist() == [True] * 3 + [False] * 2


def test_official_translation_moves_by_less_than_a_pixel():
    images = torch.zeros(1, 1, 16, 16)
    images[..., 8, 8] = 1.0
    moved = {}
    for translate in ("side", "official"):
        augment = CTAugment(("translate_x",), depth=1, translate=translate)
        policy = Policy(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, 2), torch.tensor([False]))
        moved[translate] = augment.apply(images, policy, fill=0.0)[0, 0]
    assert moved["official"][8, 8] == pytest.approx(0.7, abs=1e-4)
    assert moved["side"][8, 8] == 0
    assert moved["side"].sum() == pytest.approx(1.0, abs=1e-4)


def test_moves_bring_in_black_and_cutouts_are_grey():
    """PIL, by which the published code moves, fills with black; grey around a digit would be a sign of its own."""
    images = torch.ones(300, 1, 16, 16)
    moves = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    augment = CTAugment(moves)
    shown = augment.apply(images, augment.sample(300, generator=seeded()), fill=0.5, generator=seeded(1))
    assert (shown == 0).flatten(1).any(1).float().mean() > 0.9
    assert (shown == 0.5).flatten(1).any(1).all()
    moved = augment.apply(images, augment.sample(300, probe=True, generator=seeded()), fill=0.5)
    assert set(moved.mul(100).round().div(100).unique().tolist()) == {0.0, 1.0}
    grey = CTAugment(moves, surround=None)
    moved = grey.apply(images, grey.sample(300, probe=True, generator=seeded()), fill=0.5)
    assert set(moved.mul(100).round().div(100).unique().tolist()) == {0.5, 1.0}
    with pytest.raises(ValueError, match="surround"):
        CTAugment(surround=2.0)


def test_same_generator_same_images_and_rates_travel_with_the_state():
    augment = CTAugment()
    images = torch.rand(6, 3, 16, 16, generator=seeded())
    torch.testing.assert_close(augment(images, generator=seeded(1)), augment(images, generator=seeded(1)))
    augment.update(augment.sample(6, probe=True, generator=seeded()), torch.zeros(6))
    other = CTAugment()
    other.load_state_dict(augment.state_dict())
    torch.testing.assert_close(other.table, augment.table)
    assert other.table.min() < 1


def test_bad_options_are_refused():
    for options, message in (
        ({"ops": ("rotate", "twist")}, "ops: expected different names"),
        ({"ops": ()}, "ops"),
        ({"depth": 0}, "depth, threshold, decay"),
        ({"threshold": 1.5}, "depth, threshold, decay"),
        ({"decay": 1.0}, "depth, threshold, decay"),
        ({"translate": "pixel"}, "translate: expected side or official"),
    ):
        with pytest.raises(ValueError, match=message):
            CTAugment(**options)
    augment = CTAugment()
    policy = augment.sample(3, probe=True)
    with pytest.raises(ValueError, match="n: expected"):
        augment.sample(0)
    with pytest.raises(ValueError, match=r"proximity: expected \(3,\)"):
        augment.update(policy, torch.zeros(2))
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        augment.update(policy, torch.full((3,), 2.0))
    with pytest.raises(ValueError, match="chosen"):
        augment.apply(torch.rand(2, 1, 8, 8), policy)
