"""What frozen features are worth: a linear classifier, nearest neighbours, and measures that need no labels.

Nothing here draws random numbers: same features, same answer. Labels of the test part are used once, to count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from paperworks.train.random import module_mode

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_FOLDS = 3
# Largest entry of the gradient of the mean loss at the end: of the fit that answers, and of those that only compare.
_TOLERANCE, _ROUGH = 1e-5, 1e-4
_ITERATIONS = 500


class Probe(NamedTuple):
    """Share of right answers on the test part, those answers, and the penalty that was chosen (nan: there is none)."""

    accuracy: float
    predictions: np.ndarray
    penalty: float


def linear_probe(
    train_x: Any, train_y: Any, test_x: Any, test_y: Any, *, penalties: Sequence[float] = PENALTIES
) -> Probe:
    """Multinomial logistic regression on standardised features.

    min_W,b  mean_i CE(W x_i + b, y_i) + penalty / 2 |W|^2, which is scikit-learn's with C = 1 / (N penalty).

    The penalty is the one with the best accuracy over 3 folds of the training part (item i of each class goes to fold
    i mod 3; ties: the larger penalty); then all of the training part is fitted. Features that do not vary are left out.

    Args:
        train_x, test_x: (N, D), (M, D) features, tensors or arrays.
        train_y, test_y: (N,), (M,) labels of any kind.
        penalties: to choose from; one alone is taken as it is.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, a single class, penalties that are not positive.
    """
    train_x, train_y, test_x, test_y = _check(train_x, train_y, test_x, test_y)
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties: expected positive numbers, got {tuple(penalties)}")
    classes, labels = np.unique(train_y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"train_y: expected at least two classes, got only {classes[0]!r}")
    chosen = _choose(train_x, labels, len(classes), sorted(penalties, reverse=True))
    mean, scale = _scaling(train_x)
    weights = _fit((train_x - mean) * scale, labels, len(classes), [chosen])[0]
    predictions = classes[_answer((test_x - mean) * scale, weights)]
    return Probe(float((predictions == test_y).mean()), predictions, chosen)


def knn_probe(
    train_x: Any, train_y: Any, test_x: Any, test_y: Any, *, k: int = 20, temperature: float = 0.07, chunk: int = 1024
) -> Probe:
    """Votes of the `k` training items of highest cosine, each with weight exp(cosine / temperature).

    Equal sums: the smaller label. The weighting is that of Wu et al. 2018, arXiv 1805.01978.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, `k` not in 1..N, a temperature not positive.
    """
    train_x, train_y, test_x, test_y = _check(train_x, train_y, test_x, test_y)
    if not 1 <= k <= len(train_x):
        raise ValueError(f"k: expected 1 to {len(train_x)} neighbours, got {k}")
    if not temperature > 0:
        raise ValueError(f"temperature: must be positive, got {temperature}")
    classes, labels = np.unique(train_y, return_inverse=True)
    bank, queries = (nn.functional.normalize(torch.from_numpy(x), dim=1) for x in (train_x, test_x))
    known, answers = torch.from_numpy(labels), []
    for part in queries.split(chunk):
        cosine, nearest = (part @ bank.T).topk(k, dim=1)
        votes = torch.zeros(len(part), len(classes), dtype=cosine.dtype)
        # Differences to 1 keep the exponentials from overflowing at low temperatures.
        votes.scatter_add_(1, known[nearest], ((cosine - 1) / temperature).exp())
        answers.append(votes.argmax(1))
    predictions = classes[torch.cat(answers).numpy()]
    return Probe(float((predictions == test_y).mean()), predictions, math.nan)


def embed_images(model: Any, images: Tensor, *, batch_size: int = 512) -> Tensor:
    """`model.embed(images)` in evaluation mode, without gradients, part by part: (N, D) float32 on the CPU.

    Images are uint8, which are divided by 255, or floats; they go to the device of the model, whose mode is put back.

    Raises:
        ValueError: no images.
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images: expected (number, channels, height, width), got {tuple(images.shape)}")
    parameter = next(model.parameters(), None)
    device = images.device if parameter is None else parameter.device
    with module_mode(model, training=False), torch.inference_mode():
        parts = [model.embed(_as_float(part.to(device))).float().cpu() for part in images.split(batch_size)]
    return torch.cat(parts).clone()


def effective_rank(features: Any) -> float:
    """exp of the entropy of the singular values of centred features (N, D), normalised to sum 1 (Roy & Vetterli 2007).

    Between 1, where all variation is along one direction, and min(N - 1, D); 0 where there is no variation.
    """
    x = _matrix(features, "features")
    values = np.linalg.svd(x - x.mean(0), compute_uv=False)
    total = values.sum()
    if total <= 1e-12 * max(1.0, float(np.abs(x).max())):
        return 0.0
    share = values[values > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def alignment(first: Any, second: Any) -> float:
    """Mean squared distance of unit features of two views of the same images (Wang & Isola 2020, 2005.10242)."""
    a, b = _unit(_matrix(first, "first")), _unit(_matrix(second, "second"))
    if a.shape != b.shape:
        raise ValueError(f"second: expected the shape of first {a.shape}, got {b.shape}")
    return float(((a - b) ** 2).sum(1).mean())


def uniformity(features: Any, *, scale: float = 2.0) -> float:
    """log of the mean of exp(-scale |x - y|^2) over pairs of unit features; lower is more even (Wang & Isola 2020)."""
    x = _unit(_matrix(features, "features"))
    if len(x) < 2:
        raise ValueError(f"features: expected at least 2 rows, got {len(x)}")
    total = sum(float(np.exp(-scale * (2 - 2 * part @ x.T)).sum()) for part in np.array_split(x, -(-len(x) // 1024)))
    # Each row was paired with itself, at distance 0.
    return math.log((total - len(x)) / (len(x) * (len(x) - 1)))


def _choose(x: np.ndarray, labels: np.ndarray, classes: int, penalties: list[float]) -> float:
    """Of penalties from large to small the first with the most right answers on held-out folds."""
    if len(penalties) == 1:
        return penalties[0]
    fold = np.empty(len(labels), int)
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        fold[members] = np.arange(len(members)) % _FOLDS
    right = np.zeros(len(penalties))
    for held_out in range(_FOLDS):
        inside, outside = x[fold != held_out], x[fold == held_out]
        mean, scale = _scaling(inside)
        fits = _fit((inside - mean) * scale, labels[fold != held_out], classes, penalties, tolerance=_ROUGH)
        given = labels[fold == held_out]
        right += [(_answer((outside - mean) * scale, weights) == given).sum() for weights in fits]
    return penalties[int(right.argmax())]


def _fit(
    x: np.ndarray, labels: np.ndarray, classes: int, penalties: list[float], *, tolerance: float = _TOLERANCE
) -> list[np.ndarray]:
    """Weights (D + 1, C), the last row the biases, for each penalty, each starting from the one before.

    L-BFGS in coordinates in which the loss is about equally curved in all directions: the Hessian is close to
    (X'X / N) / C + penalty, whose eigenvectors are those of X'X.
    """
    count, width = x.shape
    spectrum, axes = np.linalg.eigh(x.T @ x / count)
    turned = x @ axes
    onehot = np.zeros((count, classes))
    onehot[np.arange(count), labels] = 1
    weights = np.zeros((width + 1, classes))
    weights[-1] = np.log(onehot.mean(0) + 1e-3)
    found = []
    for penalty in penalties:
        stretch = np.append(1 / np.sqrt(spectrum.clip(0) / classes + penalty), math.sqrt(classes))[:, None]

        def value(flat: np.ndarray, stretch: np.ndarray = stretch, penalty: float = penalty) -> tuple[float, Any]:
            w = flat.reshape(width + 1, classes) * stretch
            logits = turned @ w[:-1] + w[-1]
            logits -= logits.max(1, keepdims=True)
            chosen = (logits * onehot).sum(1)
            np.exp(logits, out=logits)
            total = logits.sum(1)
            logits /= total[:, None]
            logits -= onehot
            slope = np.vstack([turned.T @ logits / count + penalty * w[:-1], logits.mean(0)])
            loss = float((np.log(total) - chosen).mean() + penalty / 2 * (w[:-1] ** 2).sum())
            return loss, (slope * stretch).ravel()

        start = (weights / stretch).ravel()
        options = {"gtol": tolerance, "ftol": 1e-12, "maxiter": _ITERATIONS}
        best = minimize(value, start, jac=True, method="L-BFGS-B", options=options)
        weights = best.x.reshape(width + 1, classes) * stretch
        found.append(np.vstack([axes @ weights[:-1], weights[-1]]))
    return found


def _answer(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (x @ weights[:-1] + weights[-1]).argmax(1)


def _scaling(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and 1 / standard deviation, 0 where nothing varies."""
    mean, spread = x.mean(0), x.std(0)
    varies = spread > 1e-12 * np.abs(x).max(0).clip(1e-300)
    return mean, np.divide(1, spread, out=np.zeros_like(spread), where=varies)


def _check(train_x: Any, train_y: Any, test_x: Any, test_y: Any) -> tuple[np.ndarray, ...]:
    train, test = _matrix(train_x, "train_x"), _matrix(test_x, "test_x")
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"test_x: expected {train.shape[1]} features as in train_x, got {test.shape[1]}")
    labels = []
    for name, given, rows in (("train_y", train_y, len(train)), ("test_y", test_y, len(test))):
        array = given.cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
        if array.shape != (rows,):
            raise ValueError(f"{name}: expected ({rows},), one label for each row, got {array.shape}")
        labels.append(array)
    return train, labels[0], test, labels[1]


def _matrix(given: Any, name: str) -> np.ndarray:
    array = given.detach().cpu().double().numpy() if isinstance(given, Tensor) else np.asarray(given, np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name}: expected (rows, features), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: holds values that are not finite, the first in row {_first_bad(array)}")
    return array


def _first_bad(array: np.ndarray) -> int:
    return int(np.flatnonzero(~np.isfinite(array).all(1))[0])


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-300)


def _as_float(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images
