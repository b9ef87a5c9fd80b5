"""The embedded table: what its design promises of it, that it is the same on a repeat, and its cache."""

import sys

import numpy as np
import pytest

from paperworks.data.sklearn_classifiers import classifiers
from paperworks.data.sklearn_responses import sklearn_responses

module = sys.modules[sklearn_responses.__module__]  # the package's attribute of this name is the function


@pytest.fixture(scope="module")
def table():
    return sklearn_responses()


def test_size_groups_and_families(table):
    sizes = {name: int((table.groups == name).sum()) for name in table.group_names}
    assert sizes == {"iris": 105, "wine": 125, "breast_cancer": 399, "digits": 1258, "diabetes": 310}
    assert table.shape == (68, 2197)
    assert len(set(table.families.tolist())) == 24
    assert table.observed is None
    assert {name: table.classes(name) for name in sizes} == {
        "iris": 3, "wine": 3, "breast_cancer": 2, "digits": 10, "diabetes": 2
    }  # fmt: skip


def test_values_are_what_the_predictions_say(table):
    np.testing.assert_array_equal(table.values, table.predictions == table.labels)


def test_labels_are_those_of_the_bundled_sets(table):
    from sklearn.datasets import load_diabetes, load_digits

    rows = [int(item.removeprefix("digits_")) for item in table.items if item.startswith("digits_")]
    np.testing.assert_array_equal(table.labels[table.groups == "digits"], load_digits().target[rows])
    target = load_diabetes().target
    rows = [int(item.removeprefix("diabetes_")) for item in table.items if item.startswith("diabetes_")]
    np.testing.assert_array_equal(table.labels[table.groups == "diabetes"], target[rows] > np.median(target))


def test_responders_differ_from_guessing_to_strong(table):
    accuracy = dict(zip(table.responders, table.accuracy(), strict=True))
    assert accuracy["dummy_stratified"] < 0.35
    assert 0.9 < max(accuracy.values()) < 0.96
    assert np.std(list(accuracy.values())) > 0.1
    everybody = (table.p_correct() == 1).mean()
    assert 0 < everybody < 0.1


def test_wrong_labels_put_in_on_purpose_change_only_their_columns(table):
    labels = table.labels.copy()
    labels[7] = 1 - labels[7] if labels[7] < 2 else 0
    marked = table.marked_with(labels)
    changed = np.flatnonzero((marked.values != table.values).any(0))
    assert changed.tolist() == [7]
    assert marked.fingerprint != table.fingerprint
    np.testing.assert_array_equal(table.marked_with(table.labels).values, table.values)
    with pytest.raises(ValueError, match="labels: expected 2197"):
        table.marked_with(labels[:5])
    with pytest.raises(ValueError, match="group: expected one of"):
        table.classes("mnist")


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Three quick classifiers on two sets, and a cache of the test's own."""
    chosen = ("dummy_stratified", "knn_5_projection_4", "sgd_hinge", "tree_entropy")

    def some(seed):
        return {name: entry for name, entry in classifiers(seed).items() if name in chosen}

    monkeypatch.setattr("paperworks.data.sklearn_classifiers.classifiers", some)
    monkeypatch.setattr(module, "SETS", ("iris", "diabetes"))
    monkeypatch.setattr("paperworks.data.benchmarks.cache_folder", lambda: tmp_path)
    return tmp_path


def test_random_classifiers_repeat_and_seeds_differ(few):
    first, second = sklearn_responses(cache=False), sklearn_responses(cache=False)
    assert first.fingerprint == second.fingerprint
    assert sklearn_responses(seed=1, cache=False).fingerprint != first.fingerprint
    assert sklearn_responses(train=0.5, cache=False).shape[1] < first.shape[1]
    assert not list(few.rglob("*"))


def test_the_cache_gives_the_same_table_and_a_damaged_one_is_made_again(few, monkeypatch):
    fresh = sklearn_responses()
    (path,) = few.rglob("*.npz")
    monkeypatch.setattr(module, "_compute", lambda *arguments: pytest.fail("computed though stored"))
    stored = sklearn_responses()
    assert stored.fingerprint == fresh.fingerprint
    assert (stored.predictions == fresh.predictions).all()
    monkeypatch.undo()
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:300] + b"\0\0\0\0" + whole[304:]):
        path.write_bytes(damaged)
        assert module._load(path) is None or module._load(path).fingerprint == fresh.fingerprint


def test_the_cache_name_holds_versions_and_arguments(few, monkeypatch):
    names = {module._cache_path(0.3, 0), module._cache_path(0.3, 1), module._cache_path(0.4, 0)}
    monkeypatch.setattr(module, "versions", lambda: {"scikit-learn": "0"})
    assert len({*names, module._cache_path(0.3, 0)}) == 4


def test_a_share_out_of_range_is_refused():
    with pytest.raises(ValueError, match="train: expected a share"):
        sklearn_responses(train=1.0)
