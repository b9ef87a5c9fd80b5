"""The loss of AdaMatch (Berthelot et al., ICLR 2022, arXiv 2106.04732) as functions of logits.

    l_S  = lam l_alone + (1 - lam) l_together,  lam ~ U(0, 1) for every logit           random logit interpolation
    c    = tau mean_i max_k softmax(l_S^w)_ik                                           relative confidence threshold
    q    = normalise(softmax(l_T^w) (1e-6 + m_S) / (1e-6 + m_T))                        distribution alignment
    L    = (CE(l_S^w, y) + CE(l_S^s, y)) / 2 + mu mean_i [max_k q_ik >= c] CE(l_T^s, argmax_k q_i)

w and s are a weak and a strong view; m_S is an average over batches of the mean prediction on weak source images, m_T
that on weak target images. Rows of logits come in pairs: weak, strong, weak, strong, ...

Notes: what public re-implementations get wrong.
1. m_S and m_T have one entry per *class*. A mean over batch and classes is always 1 / C, and aligns nothing.
2. Rows of q are divided by their sum. Dividing by the Euclidean norm inflates the maximum and lets masks through.
3. The mean of the masked loss is over the whole target batch, not over what the mask keeps.
4. The mask looks at the aligned q; the threshold at the interpolated, weak, source predictions.
5. `l_alone` uses the statistics of its own batch, never the running ones; see `AdaMatch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

# The paper's, and its code's.
TAU = 0.9
EPS = 1e-6
DECAY, WINDOW = 0.999, 128
FINAL_RATE = 0.25

Interpolation: TypeAlias = Callable[[Tensor, Tensor, "torch.Generator | None"], Tensor]
Alignment: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
Threshold: TypeAlias = Callable[[Tensor, float], Tensor]


class AdaMatchOutput(NamedTuple):
    """What a step computed, over the n_T unlabelled images of its batch.

    loss: the scalar to differentiate; supervised, unsupervised: its parts, before mu; mask (n_T,): which pseudo-labels
    count; threshold: the scalar c; pseudo_labels (n_T,): argmax of the aligned predictions; kl: KL(m_S || m_T).
    """

    loss: Tensor
    supervised: Tensor
    unsupervised: Tensor
    mask: Tensor
    threshold: Tensor
    pseudo_labels: Tensor
    kl: Tensor


# The three mechanisms ------------------------------------------------------------------------------------------------


def interpolate_logits(alone: Tensor, together: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """lam alone + (1 - lam) together with lam ~ U(0, 1) drawn for every logit; (B, C) each.

    The gradient reaches both.

    Raises:
        ValueError: shapes that differ.
    """
    if alone.shape != together.shape:
        raise ValueError(
            f"alone, together: expected logits of the same images, got {tuple(alone.shape)}, {tuple(together.shape)}"
        )
    device = alone.device if generator is None else generator.device
    lam = torch.rand(alone.shape, generator=generator, device=device, dtype=alone.dtype).to(alone.device)
    return together + (alone - together) * lam


def relative_threshold(source_probs: Tensor, *, tau: float = TAU) -> Tensor:
    """c = tau mean_i max_k p_ik of predictions (n, C) on weak source images; a scalar without gradient.

    Raises:
        ValueError: `tau` not in (0, 1], or probabilities of another form.
    """
    if not 0 < tau <= 1:
        raise ValueError(f"tau: expected a number in (0, 1], got {tau}")
    if source_probs.ndim != 2 or not len(source_probs):
        raise ValueError(f"source_probs: expected (n, classes) with n above 0, got {tuple(source_probs.shape)}")
    return tau * source_probs.detach().amax(1).mean()


def align_distribution(probs: Tensor, source_mean: Tensor, target_mean: Tensor, *, eps: float = EPS) -> Tensor:
    """q = p (eps + m_S) / (eps + m_T), rows divided by their sum; (B, C) without gradient.

    Args:
        probs: (B, C) predictions on weak target images.
        source_mean, target_mean: (C,) mean predictions.

    Raises:
        ValueError: means without one entry per class.
    """
    for name, mean in (("source_mean", source_mean), ("target_mean", target_mean)):
        if mean.shape != probs.shape[1:]:
            raise ValueError(f"{name}: expected ({probs.shape[1]},), one entry per class, got {tuple(mean.shape)}")
    moved = probs.detach() * ((eps + source_mean) / (eps + target_mean))
    return moved / moved.sum(1, keepdim=True)


class DistributionAverages(nn.Module):
    """m_S, an exponential average, and m_T, the mean of the last `window` batches; both start uniform.

    `update` takes in one batch and returns both. With several processes the batch's means are averaged over them first;
    all processes must have equally many images.

    Args:
        n_classes: C.
        decay: what m_S keeps of itself per batch.
        window: batches in m_T.

    Raises:
        ValueError: an option out of range; when updated, means of another form.
    """

    source: Tensor
    recent: Tensor
    position: Tensor

    def __init__(self, n_classes: int, *, decay: float = DECAY, window: int = WINDOW):
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"n_classes: expected at least 2, got {n_classes}")
        if not 0 <= decay < 1 or window < 1:
            raise ValueError(f"decay, window: expected 0 <= decay < 1 and at least 1 batch, got {decay}, {window}")
        self.n_classes, self.decay, self.window = n_classes, decay, window
        self.register_buffer("source", torch.full((n_classes,), 1 / n_classes))
        self.register_buffer("recent", torch.full((window, n_classes), 1 / n_classes))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @property
    def target(self) -> Tensor:
        """m_T, (C,)."""
        return self.recent.mean(0)

    @torch.no_grad()
    def update(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(m_S, m_T) after a batch whose mean predictions are `source` and `target`, (C,) each."""
        if source.shape != self.source.shape or target.shape != self.source.shape:
            got = f"{tuple(source.shape)} and {tuple(target.shape)}"
            raise ValueError(f"source, target: expected ({self.n_classes},) each, got {got}")
        both = _mean_over_processes(torch.stack([source.detach(), target.detach()])).to(self.source)
        # At least float32: (1 - decay) of a bfloat16 number would be rounded away.
        self.source.lerp_(both[0], 1 - self.decay)
        self.recent.index_copy_(0, self.position[None], both[1:])
        self.position.copy_((self.position + 1) % self.window)
        return self.source.clone(), self.target

    def extra_repr(self) -> str:
        return f"{self.n_classes}, decay={self.decay:g}, window={self.window}"


def _mean_over_processes(values: Tensor) -> Tensor:
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    values = values.contiguous()
    distributed.all_reduce(values)
    return values / distributed.get_world_size()


# Variants ------------------------------------------------------------------------------------------------------------


def _interpolate(alone: Tensor, together: Tensor, generator: torch.Generator | None) -> Tensor:
    return interpolate_logits(alone, together, generator=generator)


def _relative(source_probs: Tensor, tau: float) -> Tensor:
    return relative_threshold(source_probs, tau=tau)


def fixed_threshold(source_probs: Tensor, tau: float) -> Tensor:
    """c = tau whatever the predictions, as FixMatch has it."""
    return source_probs.new_tensor(tau)


def no_alignment(probs: Tensor, source_mean: Tensor, target_mean: Tensor) -> Tensor:
    """The predictions as they are."""
    return probs.detach()


def overall_mean_alignment(probs: Tensor, source_mean: Tensor, target_mean: Tensor) -> Tensor:
    """What public ports have for distribution alignment: one ratio of means over batch and classes, rows of norm 1.

    The ratio is 1 (both means are 1 / C), so nothing is aligned, and the Euclidean norm raises every maximum.
    """
    return F.normalize(probs.detach() * (source_mean.mean() / target_mean.mean()), p=2, dim=1)


@dataclass(frozen=True)
class Rules:
    """The parts of the loss that an ablation exchanges; the defaults are the method.

    Attributes:
        interpolate: (alone, together, generator) -> logits (B, C); None: there is no pass of the labelled images alone.
        align: (probs, m_S, m_T) -> q (B, C) without gradient.
        threshold: (source predictions, tau) -> scalar c without gradient.
        law: what m_S averages: the "predictions" on weak source images, or their true "labels" (as ReMixMatch does).
    """

    interpolate: Interpolation | None = _interpolate
    align: Alignment = align_distribution
    threshold: Threshold = _relative
    law: Literal["predictions", "labels"] = "predictions"


ADAMATCH = Rules()


# The loss ------------------------------------------------------------------------------------------------------------


def adamatch_loss(
    logits_alone: Tensor | None,
    logits_together: Tensor,
    labels: Tensor,
    n_source: int,
    *,
    state: DistributionAverages,
    mu: float,
    tau: float = TAU,
    rules: Rules = ADAMATCH,
    align_to: Literal["source", "labelled_target"] = "source",
    generator: torch.Generator | None = None,
) -> AdaMatchOutput:
    """The loss of one batch, without weight decay (which the optimiser adds); moves the averages of `state`.

    Rows alternate weak, strong. Labelled images are those of the source, then (semi-supervised domain adaptation) those
    of the target: each part's cross-entropy is averaged over itself and has weight 1.

    Args:
        logits_alone: (2 N, C) of the N labelled images, computed without the unlabelled ones; None only where the rules
            do not interpolate.
        logits_together: (2 N + 2 n_T, C), the same images and then the unlabelled ones, in one pass.
        labels: (N,) class indices or (N, C) one-hot.
        n_source: how many of the N labelled images are of the source.
        state: the averages m_S and m_T.
        mu: weight of the unsupervised part; see `mu_schedule`.
        tau: share of the source's mean confidence.
        rules: the method's parts, for ablations.
        align_to: whose predictions m_S averages. The paper's code: the source's. "labelled_target" where that small set
            is known to follow the target's class frequencies.
        generator: of lam.

    Raises:
        ValueError: shapes that do not fit each other, labels of another form, an option out of range.
    """
    count = _count_labelled(logits_alone, logits_together, labels, n_source, rules)
    classes = logits_together.shape[1]
    targets = class_indices(labels, classes)
    wide = torch.promote_types(logits_together.dtype, torch.float32)
    labelled, unlabelled = logits_together.to(wide).split([2 * count, len(logits_together) - 2 * count])
    if rules.interpolate is not None and logits_alone is not None:
        labelled = rules.interpolate(logits_alone.to(wide), labelled, generator)
    weak, strong = labelled[::2], labelled[1::2]
    target_weak, target_strong = unlabelled[::2], unlabelled[1::2]

    supervised = supervised_loss(weak, strong, targets, n_source)
    source_probs, target_probs = weak.detach().softmax(1), target_weak.detach().softmax(1)
    threshold = rules.threshold(source_probs[:n_source], tau)
    part = _aligned_to(align_to, n_source, count)
    law = source_probs[part] if rules.law == "predictions" else F.one_hot(targets[part], classes).to(wide)
    source_mean, target_mean = (mean.to(wide) for mean in state.update(law.mean(0), target_probs.mean(0)))
    confidence, pseudo_labels = rules.align(target_probs, source_mean, target_mean).max(1)
    mask = confidence >= threshold
    unsupervised = (F.cross_entropy(target_strong, pseudo_labels, reduction="none") * mask).mean()
    kl = (source_mean * (source_mean.clamp_min(1e-30) / target_mean.clamp_min(1e-30)).log()).sum()
    return AdaMatchOutput(
        supervised + mu * unsupervised, supervised, unsupervised, mask, threshold, pseudo_labels, kl
    )  # fmt: skip


def supervised_loss(weak: Tensor, strong: Tensor, targets: Tensor, n_source: int) -> Tensor:
    """Cross-entropy of both views, averaged: of the source's images, plus that of the target's labelled ones."""
    both = (F.cross_entropy(weak, targets, reduction="none") + F.cross_entropy(strong, targets, reduction="none")) / 2
    parts = [part.mean() for part in (both[:n_source], both[n_source:]) if len(part)]
    return torch.stack(parts).sum()


def class_indices(labels: Tensor, classes: int) -> Tensor:
    """(B,) class indices from indices or one-hot rows.

    Raises:
        ValueError: neither, or an index out of range.
    """
    if labels.ndim == 2 and labels.shape[1] == classes:
        ones = (labels == 1).sum(1)
        if bool(((labels == 0) | (labels == 1)).all()) and bool((ones == 1).all()):
            return labels.argmax(1)
        raise ValueError("labels: expected one-hot (B, C) or class indices (B,), got rows that are not one-hot")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        got = f"{tuple(labels.shape)} {labels.dtype}"
        raise ValueError(f"labels: expected one-hot (B, {classes}) or class indices (B,), got {got}")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels: expected class indices below {classes}, got {int(labels.min())} to {int(labels.max())}"
        )
    return labels.long()


def _aligned_to(align_to: str, n_source: int, count: int) -> slice:
    if align_to == "source":
        return slice(0, n_source)
    if align_to != "labelled_target":
        raise ValueError(f"align_to: expected source or labelled_target, got {align_to!r}")
    if n_source == count:
        raise ValueError("align_to: labelled_target needs labelled target images, and there are none")
    return slice(n_source, count)


def _count_labelled(alone: Tensor | None, together: Tensor, labels: Tensor, n_source: int, rules: Rules) -> int:
    """N, after a look at all shapes."""
    if together.ndim != 2 or not together.is_floating_point():
        raise ValueError(f"logits_together: expected (rows, classes) floats, got {tuple(together.shape)}")
    count = len(labels)
    if not 1 <= n_source <= count:
        raise ValueError(f"n_source: expected 1 to {count}, the number of labels, got {n_source}")
    if len(together) % 2 or len(together) < 2 * count + 2:
        raise ValueError(
            f"logits_together: expected two rows for each of {count} labelled images and of at least one unlabelled, "
            f"got {len(together)} rows"
        )
    if rules.interpolate is not None:
        expected = (2 * count, together.shape[1])
        if alone is None or tuple(alone.shape) != expected:
            got = None if alone is None else tuple(alone.shape)
            raise ValueError(f"logits_alone: expected {expected}, two rows for each labelled image, got {got}")
    return count


# Schedules -----------------------------------------------------------------------------------------------------------


def mu_schedule(progress: float) -> float:
    """mu = 1/2 - cos(min(pi, 2 pi progress)) / 2: from 0 to 1 over the first half of training.

    Raises:
        ValueError: `progress`, the step over the number of steps, is not in [0, 1].
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: expected a part of the training in [0, 1], got {progress}")
    return 0.5 - math.cos(min(math.pi, 2 * math.pi * progress)) / 2


def quarter_cosine(total: int, *, final: float = FINAL_RATE) -> Callable[[int], float]:
    """factor(step) = cos(arccos(final) step / total): a learning rate that ends at a quarter.

    Raises:
        ValueError: `total` is below 1, or `final` not in [0, 1].
    """
    if total < 1 or not 0 <= final <= 1:
        raise ValueError(f"total, final: expected at least 1 step and a part in [0, 1], got {total}, {final}")
    return lambda step: math.cos(math.acos(final) * min(step, total) / total)
