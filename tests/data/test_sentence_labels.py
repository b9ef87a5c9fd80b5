"""Labelled sentences: every document in one part, and errors that say where."""

import json

import pytest

from paperworks.data.errors import DataError, DataMissing
from paperworks.data.sentence_labels import PARTS, csabstruct, read_sentence_labels, switching_text


def write(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def rows(count=30):
    return [{"sentences": [f"größe {i}", "b"], "labels": ["x", "y"], "id": i} for i in range(count)]


def test_own_file(tmp_path):
    data = read_sentence_labels(write(tmp_path / "a.jsonl", [*rows(), rows()[0], ""]))
    assert [len(data.parts[part]) for part in PARTS] == [21, 3, 3, 3]
    assert data.classes == ("x", "y")
    assert "1 repeated" in data.notes[0]
    together = [document for part in PARTS for document in data.parts[part]]
    assert len(set(together)) == 30
    again = read_sentence_labels(write(tmp_path / "b.jsonl", reversed(rows())))
    assert again.fingerprint == data.fingerprint


def test_other_names_and_numbers_as_labels(tmp_path):
    renamed = [{"texts": row["sentences"], "roles": [i % 2, 1]} for i, row in enumerate(rows())]
    data = read_sentence_labels(write(tmp_path / "a.jsonl", renamed), columns={"sentences": "texts", "labels": "roles"})
    assert data.classes == ("0", "1")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "a.jsonl: line 2: not JSON"),
        ([1], "line 2: expected an object with sentences and labels, got list"),
        ({"labels": ["x"]}, r"line 2: no field 'sentences', it has 'labels'; .*--columns sentences="),
        ({"sentences": "a", "labels": ["x"]}, "line 2: sentences: expected a list of texts, got 'a'"),
        ({"sentences": ["a", ""], "labels": ["x", "y"]}, "sentences: entry 2: expected a text that is not empty"),
        ({"sentences": ["a"], "labels": [None]}, "labels: entry 1: expected a text that is not empty, got None"),
        ({"sentences": ["a"], "labels": ["x", "y"]}, "line 2: 1 sentences but 2 labels; each sentence needs one"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, row, message):
    bad = [rows()[0], row if isinstance(row, str) else json.dumps(row), *rows()[1:]]
    with pytest.raises(DataError, match=message):
        read_sentence_labels(write(tmp_path / "a.jsonl", bad))


def test_wrong_files(tmp_path):
    with pytest.raises(DataMissing, match="no such file"):
        read_sentence_labels(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="has 5 different documents, too few"):
        read_sentence_labels(write(tmp_path / "a.jsonl", rows(5)))
    with pytest.raises(DataError, match="has 1 label"):
        read_sentence_labels(write(tmp_path / "b.jsonl", [row | {"labels": ["x", "x"]} for row in rows()]))
    (tmp_path / "c.jsonl").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="not UTF-8"):
        read_sentence_labels(tmp_path / "c.jsonl")
    with pytest.raises(ValueError, match="columns: expected some of sentences, labels, got 'text'"):
        read_sentence_labels(tmp_path / "c.jsonl", columns={"text": "t"})


def test_generated_labels_are_those_of_the_last_signal():
    data = switching_text(40, seed=3)
    said = {"ice": "north", "sand": "south", "rain": "west"}
    silent = 0
    for document in data.parts["train"]:
        now = None
        for sentence, label in zip(document.sentences, document.labels, strict=True):
            signals = [said[word] for word in sentence.split() if word in said]
            now = signals[0] if signals else now
            silent += not signals
            assert label == now
    assert silent > 20
    assert switching_text(40, seed=3).fingerprint == data.fingerprint != switching_text(40, seed=4).fingerprint
    with pytest.raises(ValueError, match="documents, sentences, words"):
        switching_text(3)


def test_csabstruct_as_it_is_distributed(benchmark_data):
    benchmark_data("csabstruct")
    data = csabstruct()
    assert data.classes == ("background", "method", "objective", "other", "result")
    assert len(data.parts["train"]) + len(data.parts["held"]) == 1_668
    assert (data.sentences("dev"), data.sentences("test")) == (2_026, 1_349)
    assert 0.07 < len(data.parts["held"]) / 1_668 < 0.13
