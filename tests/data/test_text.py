"""Own texts: every door gives the same rows, parts never share a text, and bad files are refused with their line."""

import json
import sys
import types
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.data.errors import DataError, DataMissing
from paperworks.data.text import TextClassification, hash_split, read_text_classification
from paperworks.data.topic_text import topic_text

ROWS = [(f"text number {row}", "bad" if row % 3 else "good") for row in range(120)]


def write_csv(path, rows, header=("text", "label")):
    pd.DataFrame(rows, columns=list(header)).to_csv(path, index=False)
    return path


def as_rows(data):
    return {
        (text, data.classes[label], part) for text, label, part in zip(data.texts, data.labels, data.split, strict=True)
    }


def test_a_csv(tmp_path):
    data = read_text_classification(write_csv(tmp_path / "reviews.csv", ROWS))
    assert data.classes == ("bad", "good")
    assert list(zip(data.texts, [data.classes[label] for label in data.labels], strict=True)) == ROWS
    counts = Counter(zip(data.split.tolist(), data.labels.tolist(), strict=True))
    assert counts == {
        ("train", 0): 56, ("dev", 0): 8, ("test", 0): 16, ("train", 1): 28, ("dev", 1): 4, ("test", 1): 8,
    }  # fmt: skip
    texts, labels = data.part("test")
    assert len(texts) == len(labels) == 24
    assert all((text, data.classes[label]) in ROWS for text, label in zip(texts, labels, strict=True))
    assert data.notes[0] == "120 rows, 0 exact duplicates removed"
    assert data.notes[-1] == "84 train, 12 dev, 24 test"


def test_every_door_gives_the_same_rows_and_fingerprint(tmp_path):
    expected = read_text_classification(write_csv(tmp_path / "a.csv", ROWS))
    frame = pd.DataFrame(ROWS, columns=["text", "label"])
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS))
    for name in ("a.tsv", "a.parquet", "a.jsonl"):
        assert read_text_classification(tmp_path / name).fingerprint == expected.fingerprint
    for number, (text, label) in enumerate(ROWS):
        (tmp_path / "folder" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / label / f"{number}.txt").write_text(text + "\n")
    assert as_rows(read_text_classification(tmp_path / "folder")) == as_rows(expected)


def test_the_order_of_the_rows_does_not_matter_but_the_rows_do(tmp_path):
    forward = read_text_classification(write_csv(tmp_path / "a.csv", ROWS))
    backward = read_text_classification(write_csv(tmp_path / "b.csv", ROWS[::-1]))
    assert as_rows(forward) == as_rows(backward)
    changed = read_text_classification(write_csv(tmp_path / "c.csv", [("another text", "good"), *ROWS[1:]]))
    relabelled = read_text_classification(write_csv(tmp_path / "d.csv", [(ROWS[0][0], "bad"), *ROWS[1:]]))
    assert len({forward.fingerprint, changed.fingerprint, relabelled.fingerprint}) == 3


def test_duplicates_and_contradictions_are_removed_and_counted(tmp_path):
    extra = [ROWS[0], ROWS[0], (f" {ROWS[1][0]} ", ROWS[1][1]), (ROWS[2][0], "good")]
    data = read_text_classification(write_csv(tmp_path / "a.csv", ROWS + extra))
    assert len(data.texts) == len(set(data.texts)) == 119
    assert ROWS[2][0] not in data.texts
    assert data.notes[0] == "124 rows, 3 exact duplicates removed"
    assert data.notes[1] == "1 texts with more than one label left out (2 rows)"


def test_names_of_columns_can_differ(tmp_path):
    path = write_csv(tmp_path / "a.csv", ROWS, header=("review", "stars"))
    data = read_text_classification(path, columns={"text": "review", "label": "stars"})
    assert data.classes == ("bad", "good")


def test_whole_number_labels_are_sorted_by_value(tmp_path):
    rows = [(f"text {row}", row % 11) for row in range(300)]
    assert read_text_classification(write_csv(tmp_path / "a.csv", rows)).classes == tuple(map(str, range(11)))


def test_pairs_of_texts(tmp_path):
    rows = [(f"first {row}", f"second {row}", row % 2) for row in range(80)]
    data = read_text_classification(write_csv(tmp_path / "a.csv", rows, header=("text_a", "text_b", "label")))
    assert data.texts[3] == "first 3 [SEP] second 3"


def test_given_parts_are_respected_and_a_missing_dev_comes_out_of_train(tmp_path):
    rows = [(text, label, "test" if row >= 80 else "Train") for row, (text, label) in enumerate(ROWS)]
    data = read_text_classification(write_csv(tmp_path / "a.csv", rows, header=("text", "label", "split")))
    assert set(data.part("test")[0]) == {text for text, _ in ROWS[80:]}
    assert len(data.part("dev")[0]) == 10
    assert any("an eighth of train" in note for note in data.notes)
    with_dev = [(text, label, ("train", "validation")[row >= 80]) for row, (text, label) in enumerate(ROWS)]
    data = read_text_classification(write_csv(tmp_path / "b.csv", with_dev, header=("text", "label", "split")))
    assert set(data.part("test")[0]) == {text for text, _ in ROWS[80:]}
    assert "no test part given: dev serves as test" in data.notes


def test_a_text_of_two_parts_stays_out_of_training(tmp_path):
    rows = [(text, label, "train" if row < 80 else "test") for row, (text, label) in enumerate(ROWS)]
    rows.append((*ROWS[100], "train"))
    data = read_text_classification(write_csv(tmp_path / "a.csv", rows, header=("text", "label", "split")))
    assert data.split[data.texts.index(ROWS[100][0])] == "test"
    assert len(data.texts) == 120


def test_a_folder_with_parts(tmp_path):
    for number, (text, label) in enumerate(ROWS):
        folder = tmp_path / ("test" if number >= 80 else "train") / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_text(text)
    assert set(read_text_classification(tmp_path).part("test")[0]) == {text for text, _ in ROWS[80:]}


def test_the_hub(monkeypatch):
    class Part:
        def __init__(self, rows, labels):
            self.features = {"sentence": object(), "label": types.SimpleNamespace(names=["bad", "good"])}
            self.frame = pd.DataFrame({"sentence": rows, "label": labels})

        def to_pandas(self):
            return self.frame.copy()

    texts = [text for text, _ in ROWS]
    parts = {
        "train": Part(texts[:80], [row % 2 for row in range(80)]),
        "validation": Part(texts[80:100], [row % 2 for row in range(20)]),
        "test": Part(texts[100:], [-1] * 20),
    }
    asked = []
    library = types.SimpleNamespace(
        load_dataset=lambda name, configuration: asked.append((name, configuration)) or parts,
        __spec__=types.SimpleNamespace(name="datasets"),
    )
    monkeypatch.setitem(sys.modules, "datasets", library)
    data = read_text_classification("hf:glue:sst2", columns={"text": "sentence"})
    assert asked == [("glue", "sst2")]
    assert data.classes == ("bad", "good")
    assert set(data.part("test")[0]) == set(texts[80:100])
    with pytest.raises(DataError, match=r"no column 'text' \(columns: 'sentence'"):
        read_text_classification("hf:glue:sst2")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataMissing, match="pip install"):
        read_text_classification("hf:glue:sst2")


@pytest.mark.parametrize(("rows", "message"), [
    (ROWS[:30], r"got 2 labels: 'good' 10, 'bad' 20; merge or drop rare labels"),
    ([(text, "one") for text, _ in ROWS], "at least 2 labels .* got 1 labels: 'one' 120"),
    ([(ROWS[0][0], "good")] * 60 + ROWS[1::3], "got 2 labels: 'good' 1, 'bad' 40"),
    ([*ROWS, ("", "good"), (" ", "bad")], "line 122: 'text' is empty, in 2 of 122 rows"),
    ([*ROWS, ("x", None)], "line 122: 'label' is empty, in 1 of 121 rows"),
])  # fmt: skip
def test_unusable_tables_are_refused_with_the_counts(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_text_classification(write_csv(tmp_path / "a.csv", rows))


def test_unusable_parts_are_refused(tmp_path):
    def read(split):
        rows = [(*row, split(number)) for number, row in enumerate(ROWS)]
        return read_text_classification(write_csv(tmp_path / "a.csv", rows, header=("text", "label", "split")))

    with pytest.raises(DataError, match="line 7: 'split' is 'holdout', expected one of train"):
        read(lambda number: "holdout" if number == 5 else "train")
    with pytest.raises(DataError, match="expected rows in train and in test"):
        read(lambda number: "train")
    with pytest.raises(DataError, match="no training rows with label 'good'"):
        read(lambda number: "train" if number % 3 else "test")


def test_unusable_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"one folder of \.txt files per label"):
        read_text_classification(tmp_path)
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"1\.txt: byte 4 is not UTF-8"):
        read_text_classification(tmp_path)
    with pytest.raises(DataMissing, match="no such file"):
        read_text_classification(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1, 2])}, "expected int64 from 0 to 1"),
        ({"labels": np.array([0, 1])}, "3 texts, 2 labels, 3 parts"),
        ({"labels": np.array([0.0, 1.0, 0.0])}, "expected int64"),
        ({"split": np.array(["train", "test", "eval"])}, "expected train, dev or test, got 'eval'"),
        ({"split": np.array(["train", "dev", "train"])}, "expected rows in train and in test"),
    ],
)
def test_the_form_itself_refuses_what_does_not_fit(change, message):
    fields = {"labels": np.array([0, 1, 0]), "split": np.array(["train", "test", "train"])} | change
    with pytest.raises(ValueError, match=message):
        TextClassification("x", ("a", "b", "c"), classes=("p", "q"), fingerprint="", **fields)


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="part: expected train, dev or test, got 'valid'"):
        topic_text().part("valid")


@settings(max_examples=40, deadline=None)
@given(st.sets(st.text(min_size=1), min_size=10, max_size=60), st.integers(1, 3))
def test_hash_split_is_stratified_and_each_text_keeps_its_part(texts, kinds):
    rows = [(text, str(number % kinds)) for number, text in enumerate(sorted(texts))]
    parts = hash_split(*zip(*rows, strict=True))
    for label in {label for _, label in rows}:
        own = [part for (_, other), part in zip(rows, parts, strict=True) if other == label]
        assert own.count("test") == round(0.2 * len(own))
        assert own.count("dev") == round(0.1 * len(own))
    assert hash_split(*zip(*rows[::-1], strict=True)) == parts[::-1]


def test_topic_text_is_learnable_balanced_and_its_words_carry_the_label():
    data = topic_text(passages=400, topics=4, seed=3)
    assert np.bincount(data.labels).tolist() == [100] * 4
    assert topic_text(passages=400, seed=3).fingerprint == data.fingerprint
    assert topic_text(passages=400, seed=4).fingerprint != data.fingerprint
    assert _naive_bayes(data) > 0.9
    assert _naive_bayes(topic_text(passages=400, own_share=0.0)) < 0.45
    for wrong in ({"topics": 1}, {"passages": 30}, {"words": 0}, {"own_share": 1.5}, {"topics": 500, "passages": 5000}):
        with pytest.raises(ValueError, match="expected"):
            topic_text(**wrong)


def _naive_bayes(data):
    words = sorted({word for text in data.texts for word in text.split()})
    index = {word: column for column, word in enumerate(words)}

    def counts(texts):
        table = np.zeros((len(texts), len(words)))
        for row, text in enumerate(texts):
            for word in text.split():
                table[row, index[word]] += 1
        return table

    texts, labels = data.part("train")
    table = np.stack([counts(texts)[labels == label].sum(0) + 1 for label in range(len(data.classes))])
    texts, labels = data.part("test")
    return np.mean((counts(texts) @ np.log(table / table.sum(1, keepdims=True)).T).argmax(1) == labels)
