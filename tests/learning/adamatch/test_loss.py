"""The loss against a twin in NumPy, its gradients, and what each mechanism must do."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from paperworks.learning import (
    DistributionAverages,
    Rules,
    adamatch_loss,
    align_distribution,
    interpolate_logits,
    mu_schedule,
    quarter_cosine,
    relative_threshold,
)
from paperworks.learning.adamatch.loss import no_alignment, overall_mean_alignment

_spec = importlib.util.spec_from_file_location("adamatch_twin", Path(__file__).with_name("twin.py"))
assert _spec is not None
assert _spec.loader is not None
twin = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(twin)


def batch(classes=4, n=5, n_target_labelled=0, unlabelled=9, seed=0, dtype=torch.float64, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    count = n + n_target_labelled
    alone = scale * torch.randn(2 * count, classes, generator=generator, dtype=dtype)
    together = scale * torch.randn(2 * count + 2 * unlabelled, classes, generator=generator, dtype=dtype)
    return alone, together, torch.randint(classes, (count,), generator=generator), n


def lam_of(alone, seed):
    """The numbers that a generator of this seed gives the interpolation."""
    return torch.rand(alone.shape, generator=torch.Generator().manual_seed(seed), dtype=alone.dtype).numpy()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("n_target_labelled", [0, 5])
@pytest.mark.parametrize("classes", [2, 4, 345])
def test_every_output_equals_the_twin_over_several_batches(dtype, tolerance, n_target_labelled, classes):
    state = DistributionAverages(classes, window=3).to(dtype)
    # 1 / 345 in float32 is not that in float64.
    state.source.fill_(1 / classes)
    state.recent.fill_(1 / classes)
    averages = twin.Averages(classes, window=3)
    opened, tau = set(), 0.8 if classes < 10 else 0.5
    for step in range(5):
        alone, together, labels, n = batch(classes, 5, n_target_labelled, seed=step, dtype=dtype)
        found = adamatch_loss(
            alone, together, labels, n, state=state, mu=0.3 + 0.1 * step, tau=tau,
            generator=torch.Generator().manual_seed(100 + step),
        )  # fmt: skip
        expected = twin.loss(
            alone.double().numpy(), together.double().numpy(), labels.numpy(), n,
            lam_of(alone, 100 + step).astype(float), averages, mu=0.3 + 0.1 * step, tau=tau,
        )  # fmt: skip
        for name, value in expected.items():
            np.testing.assert_allclose(
                getattr(found, name).numpy(), value, rtol=tolerance, atol=tolerance, err_msg=name
            )
        opened |= set(found.mask.tolist())
    assert opened == {True, False}, opened


def test_one_hot_labels_are_the_same_as_indices():
    alone, together, labels, n = batch()
    both = [
        adamatch_loss(
            alone, together, given, n, state=DistributionAverages(4), mu=1.0, generator=torch.Generator().manual_seed(1)
        ).loss
        for given in (labels, torch.nn.functional.one_hot(labels, 4).double())
    ]
    assert both[0] == both[1]


def test_gradient_is_that_of_the_loss_with_pseudo_labels_mask_and_threshold_held_fixed():
    alone, together, labels, n = batch()
    leaves = [alone.requires_grad_(), together.requires_grad_()]

    def value(first, second):
        state = DistributionAverages(4).double()
        return adamatch_loss(
            first, second, labels, n, state=state, mu=0.7, tau=1.0, generator=torch.Generator().manual_seed(3)
        )

    output = value(*leaves)
    assert output.mask.any()
    assert not output.mask.all()
    gradients = torch.autograd.grad(output.loss, leaves)
    # Pseudo-labels and masks are constant around here, so finite differences see exactly what is differentiated.
    for leaf, gradient in zip(leaves, gradients, strict=True):
        for place in range(0, leaf.numel(), 5):
            step = torch.zeros(leaf.numel(), dtype=torch.float64)
            step[place] = 1e-5
            step = step.view_as(leaf)
            ends = [
                value(*[item + sign * step if item is leaf else item for item in leaves]).loss.item()
                for sign in (1, -1)
            ]
            assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(gradient.flatten()[place].item(), abs=1e-8)
    # Both passes learn; weak target images only make pseudo-labels, and learn through the network's statistics alone.
    rows = gradients[1][2 * len(labels) :]
    assert gradients[0].abs().min() > 0
    assert gradients[1][: 2 * len(labels)].abs().min() > 0
    assert rows[0::2].abs().max() == 0
    assert (rows[1::2].abs().sum(1) > 0).tolist() == output.mask.tolist()


@pytest.mark.parametrize("name", ["threshold", "kl"])
def test_no_gradient_leaves_threshold_or_averages(name):
    alone, together, labels, n = batch()
    output = adamatch_loss(alone.requires_grad_(), together, labels, n, state=DistributionAverages(4), mu=1.0)
    assert not getattr(output, name).requires_grad
    assert not output.pseudo_labels.requires_grad


# The mechanisms ------------------------------------------------------------------------------------------------------


def test_lam_is_drawn_for_every_logit():
    alone, together = torch.ones(6, 7), torch.zeros(6, 7)
    lam = interpolate_logits(alone, together, generator=torch.Generator().manual_seed(0))
    assert lam.unique().numel() == 42
    assert 0 <= lam.min() < 0.2 < 0.8 < lam.max() <= 1
    # lam weighs the pass of the labelled images alone.
    torch.testing.assert_close(
        interpolate_logits(together, alone, generator=torch.Generator().manual_seed(0)), 1 - lam, rtol=0, atol=1e-6
    )


def test_threshold_is_relative_to_the_mean_confidence_of_the_source():
    probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]], requires_grad=True)
    threshold = relative_threshold(probs, tau=0.5)
    assert threshold.item() == pytest.approx(0.5 * (0.9 + 0.6) / 2)
    assert not threshold.requires_grad


def test_alignment_is_by_class_and_rows_sum_to_one():
    probs = torch.tensor([[0.6, 0.4], [0.5, 0.5]], dtype=torch.float64)
    aligned = align_distribution(probs, torch.tensor([0.2, 0.8]), torch.tensor([0.5, 0.5]))
    # Row 1: .6 x .4 against .4 x 1.6.
    torch.testing.assert_close(
        aligned, torch.tensor([[0.24 / 0.88, 0.64 / 0.88], [0.2, 0.8]], dtype=torch.float64), atol=1e-5, rtol=0
    )
    assert aligned.argmax(1).tolist() == [1, 1]
    expected = twin.pseudo_labels(np.log(probs.numpy()), np.array([0.2, 0.8]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(aligned.numpy(), expected, atol=1e-7)


def test_alignment_with_equal_means_changes_nothing():
    probs = torch.randn(5, 6, dtype=torch.float64).softmax(1)
    mean = torch.randn(6, dtype=torch.float64).softmax(0)
    torch.testing.assert_close(align_distribution(probs, mean, mean), probs)
    assert not align_distribution(probs.requires_grad_(), mean, mean).requires_grad


def test_the_ports_alignment_aligns_nothing_and_inflates_confidence():
    probs = torch.tensor([[0.6, 0.4]])
    skewed, even = torch.tensor([0.1, 0.9]), torch.tensor([0.5, 0.5])
    wrong = overall_mean_alignment(probs, skewed, even)
    assert wrong.argmax(1).item() == 0
    assert wrong.max().item() == pytest.approx(0.6 / math.hypot(0.6, 0.4))
    assert align_distribution(probs, skewed, even).argmax(1).item() == 1


def test_the_mask_looks_at_aligned_probabilities():
    """Target predictions that lean to a class the source hardly has lose their masks."""
    labels = torch.tensor([0, 1])
    alone = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    unlabelled = torch.tensor([[2.0, 0.0], [0.0, 0.0]]).repeat(4, 1)
    outputs = [
        adamatch_loss(
            alone, torch.cat([alone, unlabelled]), labels, 2, state=DistributionAverages(2, window=1), mu=1.0,
            rules=Rules(align=align),
        )
        for align in (align_distribution, no_alignment)
    ]  # fmt: skip
    assert not outputs[0].mask.any()
    assert outputs[1].mask.all()


def test_permuted_images_have_permuted_masks():
    alone, together, labels, n = batch(unlabelled=12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    head, tail = together[:10], together[10:].view(12, 2, 4)
    outputs = [
        adamatch_loss(
            alone, rows, labels, n, state=DistributionAverages(4).double(), mu=1.0, tau=0.6,
            generator=torch.Generator().manual_seed(0),
        )
        for rows in (together, torch.cat([head, tail[order].flatten(0, 1)]))
    ]  # fmt: skip
    assert outputs[0].mask[order].tolist() == outputs[1].mask.tolist()
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss)


def test_interpolation_between_equal_passes_changes_nothing():
    _, together, labels, n = batch()
    outputs = [
        adamatch_loss(together[:10], together, labels, n, state=DistributionAverages(4), mu=1.0, rules=rules)
        for rules in (Rules(), Rules(interpolate=None))
    ]
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss)


def test_true_labels_as_law_and_the_labelled_target_as_law():
    alone, together, labels, n = batch(n_target_labelled=5)
    state = DistributionAverages(4, decay=0.0).double()
    adamatch_loss(alone, together, labels, n, state=state, mu=1.0, rules=Rules(law="labels"))
    np.testing.assert_allclose(state.source.numpy(), np.bincount(labels[:5], minlength=4) / 5)
    adamatch_loss(
        alone, together, labels, n, state=state, mu=1.0, rules=Rules(law="labels"), align_to="labelled_target"
    )
    np.testing.assert_allclose(state.source.numpy(), np.bincount(labels[5:], minlength=4) / 5)


def test_averages_start_uniform_and_forget_what_leaves_the_window():
    state, obvious = DistributionAverages(3, decay=0.9, window=2).double(), twin.Averages(3, decay=0.9, window=2)
    np.testing.assert_allclose(state.source, 1 / 3)
    np.testing.assert_allclose(state.target, 1 / 3)
    rng = np.random.default_rng(0)
    for _ in range(5):
        source, target = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3))
        found = state.update(torch.from_numpy(source), torch.from_numpy(target))
        for ours, theirs in zip(found, obvious.update(source, target), strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)
    assert set(state.state_dict()) == {"source", "recent", "position"}


def test_half_precision_logits_are_judged_in_float32():
    alone, together, labels, n = batch(dtype=torch.float32)
    low = [tensor.bfloat16() for tensor in (alone, together)]
    found, expected = (
        adamatch_loss(
            *pair, labels, n, state=DistributionAverages(4), mu=1.0, tau=0.6, rules=Rules(interpolate=lambda a, t, g: a)
        )
        for pair in (low, [tensor.float() for tensor in low])
    )
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.loss, expected.loss)


# Schedules -----------------------------------------------------------------------------------------------------------


def test_schedules_at_their_landmarks():
    assert mu_schedule(0.0) == 0.0
    assert mu_schedule(0.25) == pytest.approx(0.5)
    assert [mu_schedule(progress) for progress in (0.5, 0.75, 1.0)] == pytest.approx([1.0] * 3)
    factor = quarter_cosine(1000)
    assert factor(0) == 1.0
    assert 0.03 * factor(1000) == pytest.approx(0.0075)
    assert factor(500) == pytest.approx(math.cos(math.acos(0.25) / 2))


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.full((5,), 9)}, "class indices below 4, got 9"),
        ({"labels": torch.rand(5)}, r"labels: expected one-hot \(B, 4\) or class indices"),
        ({"labels": torch.full((5, 4), 0.25)}, "not one-hot"),
        ({"n_source": 6}, "n_source: expected 1 to 5"),
        ({"n_source": 0}, "n_source"),
        ({"logits_alone": torch.zeros(9, 4)}, r"logits_alone: expected \(10, 4\)"),
        ({"logits_alone": None}, "logits_alone"),
        ({"logits_together": torch.zeros(10, 4)}, "logits_together: expected two rows"),
        ({"logits_together": torch.zeros(13, 4)}, "logits_together"),
        ({"align_to": "target"}, "align_to: expected source or labelled_target"),
        ({"align_to": "labelled_target"}, "there are none"),
        ({"tau": 0.0}, "tau"),
    ],
)  # fmt: skip
def test_bad_batches_are_refused(change, message):
    alone, together, labels, n = batch()
    given = {"logits_alone": alone, "logits_together": together, "labels": labels, "n_source": n, "mu": 1.0}
    with pytest.raises(ValueError, match=message):
        adamatch_loss(**(given | {"state": DistributionAverages(4)} | change))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="same images"):
        interpolate_logits(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="source_mean: expected"):
        align_distribution(torch.rand(2, 3), torch.tensor(0.5), torch.rand(3))
    with pytest.raises(ValueError, match="target_mean"):
        align_distribution(torch.rand(2, 3), torch.rand(3), torch.rand(2))
    with pytest.raises(ValueError, match="source_probs"):
        relative_threshold(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="progress"):
        mu_schedule(1.5)
    with pytest.raises(ValueError, match="total, final"):
        quarter_cosine(0)
    with pytest.raises(ValueError, match="n_classes"):
        DistributionAverages(1)
    with pytest.raises(ValueError, match="decay, window"):
        DistributionAverages(3, window=0)
    with pytest.raises(ValueError, match=r"expected \(3,\)"):
        DistributionAverages(3).update(torch.rand(3), torch.tensor(0.3))
