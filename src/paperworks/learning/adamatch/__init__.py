"""AdaMatch: one recipe for semi-supervised learning, domain adaptation, and both at once (Berthelot et al., 2022).

Use it when labels come from one place and the images that matter from another, or when few images have labels. It needs
the same classes in both, in about the same proportions, and a network with batch norm.

    from paperworks.learning import fit_adapt
    from paperworks.learning.adamatch.domains import read_domain

    source = read_domain("catalogue/", image_size=32, labelled=True)      # class sub-folders
    target = read_domain("phone_photos/", image_size=32)                  # no labels
    classifier = fit_adapt(source, target, steps=2000, seed=0)
    classifier.predict("more_photos/")                                    # file, label, confidence

In a training loop of your own: `AdaMatch(model, n_classes).training_step((weak, strong, labels), (weak, strong),
progress=step / steps).loss.backward()`. `paperworks run adamatch` tests the paper's claims.
"""

from typing import TYPE_CHECKING

from paperworks._lazy import attach

if TYPE_CHECKING:
    from paperworks.learning.adamatch.adapt import Classifier, fit_adapt
    from paperworks.learning.adamatch.ctaugment import CTAugment
    from paperworks.learning.adamatch.loss import (
        AdaMatchOutput,
        DistributionAverages,
        Rules,
        adamatch_loss,
        align_distribution,
        interpolate_logits,
        mu_schedule,
        quarter_cosine,
        relative_threshold,
    )
    from paperworks.learning.adamatch.method import AdaMatch, FixMatch, SourceOnly
    from paperworks.learning.adamatch.networks import cnn5, wide_resnet

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "AdaMatch": "method",
        "AdaMatchOutput": "loss",
        "CTAugment": "ctaugment",
        "Classifier": "adapt",
        "DistributionAverages": "loss",
        "FixMatch": "method",
        "Rules": "loss",
        "SourceOnly": "method",
        "adamatch_loss": "loss",
        "align_distribution": "loss",
        "cnn5": "networks",
        "fit_adapt": "adapt",
        "interpolate_logits": "loss",
        "mu_schedule": "loss",
        "quarter_cosine": "loss",
        "relative_threshold": "loss",
        "wide_resnet": "networks",
    },
)
__all__ = [
    "AdaMatch",
    "AdaMatchOutput",
    "CTAugment",
    "Classifier",
    "DistributionAverages",
    "FixMatch",
    "Rules",
    "SourceOnly",
    "adamatch_loss",
    "align_distribution",
    "cnn5",
    "fit_adapt",
    "interpolate_logits",
    "mu_schedule",
    "quarter_cosine",
    "relative_threshold",
    "wide_resnet",
]
