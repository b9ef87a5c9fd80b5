"""Probes against scikit-learn, measures in closed form, and no way for test labels to help."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from paperworks.train.probes import (
    PENALTIES,
    alignment,
    effective_rank,
    embed_images,
    knn_probe,
    linear_probe,
    uniformity,
)


def features(rows: int, seed: int, classes: int = 5, dim: int = 12, spread: float = 1.6):
    """Gaussian clouds with correlated, unequally scaled features."""
    rng = np.random.default_rng(0)
    centres, mixing = rng.normal(size=(classes, dim)), rng.normal(size=(dim, dim)) * np.logspace(0, 2, dim)
    rng = np.random.default_rng(seed + 1)
    labels = rng.integers(classes, size=rows)
    return (centres[labels] + spread * rng.normal(size=(rows, dim))) @ mixing, labels


TRAIN, TEST = features(300, 0), features(400, 1)


@pytest.mark.parametrize("penalty", [1e-3, 0.1])
def test_linear_probe_is_scikit_learns_logistic_regression(penalty):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(TRAIN[0])
    peer = LogisticRegression(C=1 / (len(TRAIN[0]) * penalty), tol=1e-8, max_iter=5000)
    peer.fit(scaler.transform(TRAIN[0]), TRAIN[1])
    expected = peer.predict(scaler.transform(TEST[0]))
    ours = linear_probe(*TRAIN, *TEST, penalties=[penalty])
    assert (ours.predictions == expected).mean() > 0.99
    assert ours.accuracy == pytest.approx((expected == TEST[1]).mean(), abs=0.006)
    assert ours.penalty == penalty
    assert 0.4 < ours.accuracy < 0.95


def test_linear_probe_reaches_the_optimum():
    """Its loss on the training part is scikit-learn's to 1e-6, which a badly scaled descent would not reach."""
    from sklearn.linear_model import LogisticRegression

    from paperworks.train.probes import _fit, _scaling

    mean, scale = _scaling(TRAIN[0])
    x, labels, penalty = (TRAIN[0] - mean) * scale, TRAIN[1], 1e-3
    weights = _fit(x, labels, 5, [1.0, penalty])[1]
    peer = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-10, max_iter=20_000).fit(x, labels)

    def loss(w, b):
        logits = x @ w + b
        logits = logits - logits.max(1, keepdims=True)
        nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(x)), labels]
        return nll.mean() + penalty / 2 * (w**2).sum()

    assert loss(weights[:-1], weights[-1]) == pytest.approx(loss(peer.coef_.T, peer.intercept_), abs=1e-6)


def test_linear_probe_chooses_its_penalty_on_held_out_folds():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, labels = features(90, 5, dim=40, spread=2.5)
    fold = np.empty(90, int)
    for label in range(5):
        fold[labels == label] = np.arange((labels == label).sum()) % 3
    right = {}
    for penalty in PENALTIES:
        count = 0
        for held_out in range(3):
            inside = fold != held_out
            scaler = StandardScaler().fit(x[inside])
            peer = LogisticRegression(C=1 / (inside.sum() * penalty), tol=1e-8, max_iter=5000)
            peer.fit(scaler.transform(x[inside]), labels[inside])
            count += (peer.predict(scaler.transform(x[~inside])) == labels[~inside]).sum()
        right[penalty] = count
    chosen = linear_probe(x, labels, *features(50, 6, dim=40, spread=2.5)).penalty
    assert right[chosen] >= max(right.values()) - 1
    assert len(set(right.values())) > 1


def test_knn_probe_is_scikit_learns_weighted_vote():
    from sklearn.neighbors import KNeighborsClassifier

    def weigh(distance):
        return np.exp((1 - distance) / 0.07)

    peer = KNeighborsClassifier(20, metric="cosine", weights=weigh, algorithm="brute").fit(*TRAIN)
    ours = knn_probe(*TRAIN, *TEST, chunk=64)
    assert (ours.predictions == peer.predict(TEST[0])).all()
    assert math.isnan(ours.penalty)


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_probes_cannot_see_test_labels(probe):
    honest = probe(*TRAIN, *TEST)
    shuffled = np.random.default_rng(0).permutation(TEST[1])
    blind = probe(*TRAIN, TEST[0], shuffled)
    assert (blind.predictions == honest.predictions).all()
    assert blind.accuracy < 0.3 < honest.accuracy


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_probes_are_deterministic_and_take_tensors_and_names(probe):
    names = np.array(["ash", "birch", "cedar", "elm", "fir"])
    expected = probe(*TRAIN, *TEST)
    given = probe(torch.from_numpy(TRAIN[0]), names[TRAIN[1]], torch.from_numpy(TEST[0]), names[TEST[1]])
    assert (given.predictions == names[expected.predictions]).all()
    assert given.accuracy == expected.accuracy


def test_linear_probe_ignores_constant_features_and_units():
    wide = [np.hstack([x * 1e3 + 7, np.full((len(x), 1), 0.1)]) for x in (TRAIN[0], TEST[0])]
    expected = linear_probe(*TRAIN, *TEST)
    assert (linear_probe(wide[0], TRAIN[1], wide[1], TEST[1]).predictions == expected.predictions).mean() > 0.995


def test_effective_rank_in_closed_form():
    basis = np.vstack([np.eye(6), -np.eye(6)])
    assert effective_rank(basis) == pytest.approx(6)
    assert effective_rank(basis + 3) == pytest.approx(6)
    assert effective_rank(np.outer(np.arange(5.0), np.ones(4))) == pytest.approx(1)
    assert effective_rank(np.ones((5, 4)) / 3) == 0
    scaled = basis * np.array([2.0, 1, 1, 0, 0, 0])
    assert effective_rank(scaled) == pytest.approx(math.exp(0.5 * math.log(2) + 0.5 * math.log(4)))


def test_alignment_and_uniformity_against_loops():
    a, b = TRAIN[0][:40], TEST[0][:40]
    unit_a, unit_b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    assert alignment(a, b) == pytest.approx(
        np.mean([((x - y) ** 2).sum() for x, y in zip(unit_a, unit_b, strict=True)])
    )
    pairs = [math.exp(-2 * ((unit_a[i] - unit_a[j]) ** 2).sum()) for i in range(40) for j in range(i)]
    assert uniformity(torch.from_numpy(a)) == pytest.approx(math.log(np.mean(pairs)))


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.5)

    def embed(self, images):
        return self.drop(self.norm(images)).flatten(1)


def test_embedding_is_in_evaluation_mode_part_by_part():
    model = Backbone()
    images = torch.randint(256, (23, 1, 4, 4), dtype=torch.uint8)
    found = embed_images(model, images, batch_size=5)
    assert model.training
    assert model.drop.training
    assert model.norm.num_batches_tracked == 0
    torch.testing.assert_close(found, images.flatten(1) / 255, rtol=1e-4, atol=1e-5)
    assert torch.equal(found, embed_images(model, images / 255, batch_size=23))
    assert not found.requires_grad
    found.requires_grad_()  # an ordinary tensor


@pytest.mark.parametrize(("make", "match"), [
    (lambda: linear_probe(TRAIN[0], TRAIN[1][:-1], *TEST), "train_y"),
    (lambda: linear_probe(TRAIN[0], np.zeros(300), *TEST), "at least two classes"),
    (lambda: linear_probe(*TRAIN, TEST[0][:, :3], TEST[1]), "test_x: expected 12 features"),
    (lambda: linear_probe(*TRAIN, *TEST, penalties=[0.0]), "penalties"),
    (lambda: linear_probe(np.where(TRAIN[0] == TRAIN[0][7], np.nan, TRAIN[0]), TRAIN[1], *TEST), "row 7"),
    (lambda: knn_probe(*TRAIN, *TEST, k=301), "k: expected 1 to 300"),
    (lambda: knn_probe(*TRAIN, *TEST, temperature=0.0), "temperature"),
    (lambda: effective_rank(np.zeros(3)), "features"),
    (lambda: alignment(TRAIN[0], TEST[0]), "second"),
    (lambda: uniformity(np.ones((1, 3))), "at least 2"),
    (lambda: embed_images(Backbone(), torch.zeros(0, 1, 4, 4)), "images"),
])  # fmt: skip
def test_bad_input_is_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()
