"""A real response table that needs no network: 68 scikit-learn classifiers answer the test items of five bundled sets.

The classifiers see 30 % of each set and answer the rest: 105 + 125 + 399 + 1,258 + 310 = 2,197 items. Versions of
scikit-learn differ in about one cell of a thousand, so a result names `versions` and `fingerprint`.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paperworks._files import atomic_file
from paperworks.data.responses import Responses

SETS = ("iris", "wine", "breast_cancer", "digits", "diabetes")
_LAYOUT = "1"  # raise it when classifiers or splits change: older caches are then not read


@dataclass(frozen=True, eq=False, repr=False)
class SklearnResponses(Responses):
    """The embedded table: `Responses` with groups (the five sets) and families, and the answers behind it.

    Args:
        predictions: (R, M) uint8, the class that each classifier gave.
        labels: (M,) uint8, the true class.
        versions: of Python and the libraries that made the table.
    """

    predictions: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    versions: Mapping[str, str] = field(default_factory=dict)

    def classes(self, group: str) -> int:
        """Number of classes of a set.

        Raises:
            ValueError: no such set.
        """
        if group not in self.group_names:
            raise ValueError(f"group: expected one of {', '.join(self.group_names)}, got {group!r}")
        return int(self.labels[self.groups == group].max()) + 1

    def marked_with(self, labels: np.ndarray) -> Responses:
        """The table that these classifiers would have, were these the labels: for wrong labels put in on purpose.

        Raises:
            ValueError: not one label per item.
        """
        labels = np.asarray(labels)
        if labels.shape != self.labels.shape:
            raise ValueError(f"labels: expected {len(self.labels)}, one per item, got shape {labels.shape}")
        right = (self.predictions == labels).astype(np.uint8)
        return Responses(right, None, self.responders, self.items, self.groups, self.families)


def sklearn_responses(*, train: float = 0.3, seed: int = 0, cache: bool = True) -> SklearnResponses:
    """The embedded table; takes seconds the first time, then it lies in the user's cache.

    Args:
        train: share of each set that the classifiers are fitted to, stratified; small, so that they differ.
        seed: of the split and of every classifier.
        cache: keep it on disk, under a name that holds the versions of everything it depends on.

    Raises:
        ValueError: a share that leaves some class without a training or test item.
    """
    if not 0.05 <= train <= 0.95:
        raise ValueError(f"train: expected a share from 0.05 to 0.95, got {train}")
    path = _cache_path(train, seed)
    if cache and (stored := _load(path)) is not None:
        return stored
    table = _compute(train, seed)
    if cache:
        # A cache that cannot be written costs seconds next time, nothing else.
        with contextlib.suppress(OSError):
            _store(path, table)
    return table


def versions() -> dict[str, str]:
    """What decides the table, besides its arguments."""
    import scipy
    import sklearn

    return {
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
    }


def _compute(train: float, seed: int) -> SklearnResponses:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import train_test_split

    from paperworks.data.sklearn_classifiers import classifiers

    models = classifiers(seed)
    predictions, labels, items, groups = [], [], [], []
    for name in SETS:
        x, y = _load_set(name)
        split = train_test_split(np.arange(len(y)), train_size=train, random_state=seed, stratify=y)
        fitted, tested = (np.sort(part) for part in split)
        with warnings.catch_warnings():
            # A classifier stopped early is one more, weaker responder.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            rows = [_answers(model, x[fitted], y[fitted], x[tested]) for _, model in models.values()]
        predictions.append(np.stack(rows).astype(np.uint8))
        labels.append(y[tested].astype(np.uint8))
        items += [f"{name}_{row}" for row in tested]
        groups += [name] * len(tested)
    families = np.array([family for family, _ in models.values()], dtype=np.str_)
    return _table(
        np.concatenate(predictions, axis=1), np.concatenate(labels), tuple(models), families, items, groups, versions()
    )


def _answers(model: Any, x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.base import clone

    fresh: Any = clone(model)
    return fresh.fit(x, y).predict(asked)


def _table(
    predictions: np.ndarray,
    labels: np.ndarray,
    responders: tuple[str, ...],
    families: np.ndarray,
    items: list[str],
    groups: list[str],
    made_with: Mapping[str, str],
) -> SklearnResponses:
    return SklearnResponses(
        (predictions == labels).astype(np.uint8),
        None,
        responders,
        tuple(items),
        np.array(groups, dtype=np.str_),
        families,
        predictions=predictions,
        labels=labels,
        versions=made_with,
    )


def _load_set(name: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    # Diabetes progression is a number; the question put here is whether it is above the median.
    return x, (y > np.median(y)).astype(np.int64) if name == "diabetes" else y


def _cache_path(train: float, seed: int) -> Path:
    from paperworks.data.benchmarks import cache_folder

    words = repr((_LAYOUT, float(train), int(seed), sorted(versions().items())))
    return cache_folder() / "sklearn_responses" / f"{hashlib.sha256(words.encode()).hexdigest()[:16]}.npz"


def _store(path: Path, table: SklearnResponses) -> None:
    content: dict[str, Any] = {
        "predictions": table.predictions,
        "labels": table.labels,
        "responders": np.array(table.responders),
        "families": table.families,
        "items": np.array(table.items),
        "groups": table.groups,
        "fingerprint": np.array(table.fingerprint),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        np.savez_compressed(stream, **content)


def _load(path: Path) -> SklearnResponses | None:
    """The stored table; None where there is none, or one that is not whole."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            table = _table(
                stored["predictions"],
                stored["labels"],
                tuple(stored["responders"].tolist()),
                stored["families"],
                stored["items"].tolist(),
                stored["groups"].tolist(),
                versions(),
            )
            return table if table.fingerprint == str(stored["fingerprint"]) else None
    except Exception:  # whatever a damaged file raises, it is made again
        return None
