"""AdaMatch as a module around a network, and the two baselines that share its form.

    l_alone    = f([X_S^w, X_S^s])                     labelled images alone; moves no running statistics
    l_together = f([X_S^w, X_S^s, X_T^w, X_T^s])       moves them

Both passes are in training mode: the first normalises by *its own batch*. `model.eval()` would be wrong for it, and so
would a pass that leaves a trace in the running statistics. The gradient flows through both.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from paperworks.learning.adamatch.loss import (
    ADAMATCH,
    EPS,
    TAU,
    AdaMatchOutput,
    DistributionAverages,
    Rules,
    adamatch_loss,
    align_distribution,
    class_indices,
    mu_schedule,
    supervised_loss,
)
from paperworks.nn.modes import evaluating
from paperworks.train.batch_statistics import frozen_batch_statistics

Labelled: TypeAlias = tuple[Tensor, Tensor, Tensor]
Unlabelled: TypeAlias = tuple[Tensor, Tensor]


class Adaptation(nn.Module, ABC):
    """What all methods here share: a network, the number of classes, and the checks of a step's batches.

    Raises:
        ValueError: an option out of range; in a step, batches of another form.
    """

    def __init__(self, model: nn.Module, n_classes: int, *, unlabelled_ratio: int | None = 3):
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"n_classes: expected at least 2, got {n_classes}")
        if unlabelled_ratio is not None and unlabelled_ratio < 1:
            raise ValueError(f"unlabelled_ratio: expected at least 1, or None for any, got {unlabelled_ratio}")
        self.model, self.n_classes, self.unlabelled_ratio = model, n_classes, unlabelled_ratio

    @abstractmethod
    def training_step(
        self,
        labelled: Labelled,
        unlabelled: Unlabelled,
        target_labelled: Labelled | None = None,
        *,
        progress: float,
        generator: torch.Generator | None = None,
    ) -> AdaMatchOutput:
        """The loss of one batch.

        Args:
            labelled: weak views (n, C, H, W), strong views, and labels (n,) or one-hot, of the source.
            unlabelled: weak and strong views of u n target images.
            target_labelled: for semi-supervised domain adaptation, n labelled target images.
            progress: the step over the number of steps, in [0, 1].
            generator: of whatever is drawn.
        """

    def _rows(
        self, labelled: Labelled, unlabelled: Unlabelled, target_labelled: Labelled | None
    ) -> tuple[Tensor, Tensor, int]:
        """All views, weak and strong alternating and labelled first; class indices; number of source images."""
        sets = [labelled] if target_labelled is None else [labelled, target_labelled]
        n_source = len(labelled[2])
        for name, (weak, strong, labels) in zip(("labelled", "target_labelled"), sets, strict=False):
            _check_views(name, weak, strong)
            if len(labels) != len(weak):
                raise ValueError(f"{name}: expected one label for each of {len(weak)} images, got {len(labels)}")
        if target_labelled is not None and len(target_labelled[2]) != n_source:
            raise ValueError(
                f"target_labelled: expected {n_source} images, as many as labelled ones, got {len(target_labelled[2])}"
            )
        _check_views("unlabelled", *unlabelled)
        if self.unlabelled_ratio is not None and len(unlabelled[0]) != self.unlabelled_ratio * n_source:
            raise ValueError(
                f"unlabelled: expected {self.unlabelled_ratio} x {n_source} images, got {len(unlabelled[0])}; "
                "give unlabelled_ratio= another number, or None for any"
            )
        targets = torch.cat([class_indices(labels, self.n_classes) for _, _, labels in sets])
        views = [interleave(weak, strong) for weak, strong, _ in sets] + [interleave(*unlabelled)]
        return torch.cat(views), targets, n_source


class AdaMatch(Adaptation):
    """Semi-supervised learning, domain adaptation, and both at once, by one recipe.

    Semi-supervised learning: labelled = the labelled subset, unlabelled = all images. Unsupervised domain adaptation:
    labelled = source, unlabelled = target. Semi-supervised domain adaptation: a labelled target batch as well.

    >>> import torch
    >>> from paperworks.learning import AdaMatch, cnn5
    >>> method = AdaMatch(cnn5(10), 10)
    >>> views = lambda count: (torch.rand(count, 1, 16, 16), torch.rand(count, 1, 16, 16))
    >>> step = method.training_step((*views(4), torch.arange(4)), views(12), progress=0.25)
    >>> step.loss.backward()
    >>> step.mask.shape
    torch.Size([12])

    Args:
        model: images (B, C, H, W) -> logits (B, n_classes), with batch norm. Where it has the parts `stem` and `body`,
            the stem (which must not mix images: a convolution) runs once for both passes.
        n_classes: C.
        tau: share of the source's mean confidence that a pseudo-label must reach.
        unlabelled_ratio: unlabelled images per labelled one, checked in each step; None: any.
        rules: exchange parts of the loss, for ablations.
        align_to: whose predictions m_S averages; see `adamatch_loss`.
        first_pass: "batch" statistics; "running" ones are a mistake of public ports, kept for the comparison.

    Raises:
        ValueError: an option out of range; in a step, batches of another form.

    A network without batch norm is warned about: both passes then agree, and interpolation does nothing.

    Differences to the official code (google-research/adamatch @ 7a0b40c): weight decay is the optimiser's.
    """

    def __init__(
        self,
        model: nn.Module,
        n_classes: int,
        *,
        tau: float = TAU,
        unlabelled_ratio: int | None = 3,
        rules: Rules = ADAMATCH,
        align_to: Literal["source", "labelled_target"] = "source",
        first_pass: Literal["batch", "running"] = "batch",
    ):
        super().__init__(model, n_classes, unlabelled_ratio=unlabelled_ratio)
        if not 0 < tau <= 1:
            raise ValueError(f"tau: expected a number in (0, 1], got {tau}")
        for name, value, known in (
            ("align_to", align_to, ("source", "labelled_target")),
            ("first_pass", first_pass, ("batch", "running")),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected {' or '.join(known)}, got {value!r}")
        if rules.interpolate is not None and not has_batch_norm(model):
            warnings.warn(
                "model: has no batch norm, so logits of labelled images do not depend on the unlabelled ones, and "
                "random logit interpolation does nothing; alignment and threshold work as ever",
                stacklevel=2,
            )
        self.tau, self.rules, self.first_pass = tau, rules, first_pass
        self.align_to: Literal["source", "labelled_target"] = align_to
        self.averages = DistributionAverages(n_classes)

    def training_step(
        self,
        labelled: Labelled,
        unlabelled: Unlabelled,
        target_labelled: Labelled | None = None,
        *,
        progress: float,
        generator: torch.Generator | None = None,
    ) -> AdaMatchOutput:
        images, targets, n_source = self._rows(labelled, unlabelled, target_labelled)
        alone, together = self._two_passes(images, 2 * len(targets))
        return adamatch_loss(
            alone, together, targets, n_source, state=self.averages, mu=mu_schedule(progress), tau=self.tau,
            rules=self.rules, align_to=self.align_to, generator=generator,
        )  # fmt: skip

    def _two_passes(self, images: Tensor, labelled: int) -> tuple[Tensor | None, Tensor]:
        stem, body = _parts(self.model)
        if self.rules.interpolate is None:
            return None, self.model(images)
        if self.first_pass == "running":
            with evaluating(self.model):
                alone = self.model(images[:labelled])
            return alone, self.model(images)
        shared = stem(images)
        with frozen_batch_statistics(self.model):
            alone = body(shared[:labelled])
        return alone, body(shared)

    def extra_repr(self) -> str:
        return f"n_classes={self.n_classes}, tau={self.tau:g}"


class SourceOnly(Adaptation):
    """Training on the labelled images alone. The target passes through batch norm, as in the official baseline."""

    def training_step(
        self,
        labelled: Labelled,
        unlabelled: Unlabelled,
        target_labelled: Labelled | None = None,
        *,
        progress: float,
        generator: torch.Generator | None = None,
    ) -> AdaMatchOutput:
        images, targets, _ = self._rows(labelled, unlabelled, target_labelled)
        logits = _wide(self.model(images))
        known, unknown = logits[: 2 * len(targets)], logits[2 * len(targets) :]
        # All labelled images are of one kind here, also with labelled target images, as in the published code.
        supervised = supervised_loss(known[::2], known[1::2], targets, len(targets))
        guesses, nothing = unknown.detach()[::2].argmax(1), supervised.new_zeros(())
        mask = torch.zeros_like(guesses, dtype=torch.bool)
        return AdaMatchOutput(supervised, supervised, nothing, mask, nothing + 1, guesses, nothing)


class FixMatch(Adaptation):
    """FixMatch (Sohn et al. 2020, arXiv 2001.07685) with distribution alignment: the paper's "FixMatch+".

    One joint pass; cross-entropy on the weak labelled view only; pseudo-labels on labelled *and* unlabelled images,
    their loss divided by all of them; m_S averages the *true* label frequencies; a fixed threshold; no warm-up of mu.
    Give it the same strong augmentation as AdaMatch. A fixed threshold opens late where the domains differ: its masks
    tell whether training was long enough.

    Args:
        threshold: least aligned confidence of a pseudo-label.
    """

    def __init__(self, model: nn.Module, n_classes: int, *, threshold: float = 0.9, unlabelled_ratio: int | None = 3):
        super().__init__(model, n_classes, unlabelled_ratio=unlabelled_ratio)
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold: expected a number in (0, 1], got {threshold}")
        self.threshold = threshold
        self.averages = DistributionAverages(n_classes)

    def training_step(
        self,
        labelled: Labelled,
        unlabelled: Unlabelled,
        target_labelled: Labelled | None = None,
        *,
        progress: float,
        generator: torch.Generator | None = None,
    ) -> AdaMatchOutput:
        images, targets, _ = self._rows(labelled, unlabelled, target_labelled)
        logits = _wide(self.model(images))
        weak, strong = logits[::2], logits[1::2]
        # Labelled target images are labelled images like others here, as in the published code.
        supervised = F.cross_entropy(weak[: len(targets)], targets)
        probs = weak.detach().softmax(1)
        law = F.one_hot(targets, self.n_classes).to(probs).mean(0)
        source_mean, target_mean = (mean.to(probs) for mean in self.averages.update(law, probs.mean(0)))
        confidence, pseudo_labels = align_distribution(probs, source_mean, target_mean).max(1)
        mask = confidence >= self.threshold
        unsupervised = (F.cross_entropy(strong, pseudo_labels, reduction="none") * mask).mean()
        kl = (source_mean * ((EPS + source_mean) / (EPS + target_mean)).log()).sum()
        return AdaMatchOutput(
            supervised + unsupervised, supervised, unsupervised, mask[len(targets) :],
            probs.new_tensor(self.threshold), pseudo_labels[len(targets) :], kl,
        )  # fmt: skip


def interleave(weak: Tensor, strong: Tensor) -> Tensor:
    """(2 B, ...): weak, strong, weak, strong, ... from two tensors (B, ...)."""
    return torch.stack([weak, strong], 1).flatten(0, 1)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether an image's logits depend on the other images of its batch."""
    return any(
        isinstance(module, _BatchNorm)
        or ("BatchNorm" in type(module).__name__ and isinstance(getattr(module, "running_mean", None), Tensor))
        for module in model.modules()
    )


def _parts(model: nn.Module) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The part before any batch norm, and the rest."""
    stem, body = getattr(model, "stem", None), getattr(model, "body", None)
    if isinstance(stem, nn.Module) and isinstance(body, nn.Module) and not has_batch_norm(stem):
        return stem, body
    return lambda images: images, model


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _check_views(name: str, weak: Tensor, strong: Tensor) -> None:
    if weak.ndim != 4 or weak.shape != strong.shape or not len(weak):
        raise ValueError(
            f"{name}: expected a weak and a strong view (B, C, H, W) of the same images, got {tuple(weak.shape)} and "
            f"{tuple(strong.shape)}"
        )
    if not weak.is_floating_point():
        raise ValueError(f"{name}: expected floats, got {weak.dtype}; augment or divide by 255 first")
