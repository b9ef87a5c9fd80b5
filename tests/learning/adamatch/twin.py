"""The loss of a batch by NumPy and loops, straight from the equations; every number by hand."""

import numpy as np


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def cross_entropy(logits, labels):
    return np.array([-np.log(softmax(row[None])[0, label]) for row, label in zip(logits, labels, strict=True)])


class Averages:
    def __init__(self, classes, decay=0.999, window=128):
        self.source, self.decay = np.full(classes, 1 / classes), decay
        self.batches = [np.full(classes, 1 / classes) for _ in range(window)]

    def update(self, source, target):
        self.source = self.decay * self.source + (1 - self.decay) * source
        self.batches = [*self.batches[1:], target]
        return self.source, np.mean(self.batches, axis=0)


def pseudo_labels(target_weak, source_mean, target_mean):
    aligned = softmax(target_weak) * (1e-6 + source_mean) / (1e-6 + target_mean)
    return aligned / aligned.sum(1, keepdims=True)


def loss(alone, together, labels, n_source, lam, averages, *, mu, tau):
    """Rows alternate weak, strong; `labels` of the source, then of the labelled target images."""
    rows = 2 * len(labels)
    mixed = lam * alone + (1 - lam) * together[:rows]
    weak, strong = mixed[0::2], mixed[1::2]
    target_weak, target_strong = together[rows::2], together[rows + 1 :: 2]
    supervised = 0.0
    for part in (slice(0, n_source), slice(n_source, None)):
        if len(labels[part]):
            both = cross_entropy(weak[part], labels[part]) + cross_entropy(strong[part], labels[part])
            supervised += both.mean() / 2
    source_probs = softmax(weak[:n_source])
    threshold = tau * source_probs.max(1).mean()
    means = averages.update(source_probs.mean(0), softmax(target_weak).mean(0))
    aligned = pseudo_labels(target_weak, *means)
    mask = aligned.max(1) >= threshold
    guesses = aligned.argmax(1)
    unsupervised = (mask * cross_entropy(target_strong, guesses)).sum() / len(mask)
    return {
        "loss": supervised + mu * unsupervised, "supervised": supervised, "unsupervised": unsupervised, "mask": mask,
        "threshold": threshold, "pseudo_labels": guesses, "kl": (means[0] * np.log(means[0] / means[1])).sum(),
    }  # fmt: skip
