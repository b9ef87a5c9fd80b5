"""Translations from every kind of file, whole, and refused with the line that is wrong."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.data.errors import DataError, DataMissing
from paperworks.data.translations import Translations

ROWS = [
    {
        "id": "a",
        "source": "Guten Tag, Welt",
        "output": "Hello, world",
        "reference": "Good day",
        "detached": 0,
        "other": 1,
    },
    {"id": "b", "source": "007", "output": "NA", "reference": "007", "detached": 1, "other": 0},
    {"id": "c", "source": 'Er sagte "ja"', "output": "", "reference": "He said yes", "detached": 1, "other": 0},
]


def write(path, rows):
    frame = pd.DataFrame(rows)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_all_formats_say_the_same(tmp_path, ending):
    found = Translations.read(write(tmp_path / f"pairs.{ending}", ROWS))
    for column in ("source", "output", "reference"):
        assert list(getattr(found, column)) == [row[column] for row in ROWS]
    assert found.ids == ("a", "b", "c")
    assert found.categories == ("detached", "other")
    assert found.any_of(["detached"]).tolist() == [False, True, True]
    assert found.any_of(["detached", "other"]).tolist() == [True, True, True]
    same = Translations.read(write(tmp_path / "again.csv", ROWS))
    assert found.fingerprint == same.fingerprint


def test_columns_are_renamed_and_categories_chosen(tmp_path):
    rows = [{"de": "x", "en": "y", "bad": 1, "seen": 0}, {"de": "u", "en": "v", "bad": 0, "seen": 1}]
    path = write(tmp_path / "pairs.csv", rows)
    found = Translations.read(path, columns={"source": "de", "output": "en"}, categories=["bad"])
    assert (found.source, found.ids, found.categories) == (("x", "u"), ("1", "2"), ("bad",))


def test_scores_of_others_come_along(tmp_path):
    rows = [{"source": "x", "output": "y", "risk_comet": 0.5}, {"source": "u", "output": "v", "risk_comet": -1}]
    found = Translations.read(write(tmp_path / "pairs.csv", rows))
    assert found.labels is None
    assert found.risks["comet"].tolist() == [0.5, -1.0]
    rows[1]["risk_comet"] = "high"
    with pytest.raises(DataError, match=r"line 3: the score 'comet' is 'high', expected a number"):
        Translations.read(write(tmp_path / "pairs.csv", rows))


def test_line_aligned_files(tmp_path):
    (tmp_path / "a.de").write_text("eins\nzwei drei\n", encoding="utf-8")
    (tmp_path / "a.en").write_bytes("one\r\n\u2028two".encode())
    found = Translations.read_lines(tmp_path / "a.de", tmp_path / "a.en")
    assert found.output == ("one", "\u2028two")
    assert found.reference is None
    (tmp_path / "a.en").write_text("one\n")
    with pytest.raises(DataError, match=r"a\.de has 2 lines, .*a\.en has 1"):
        Translations.read_lines(tmp_path / "a.de", tmp_path / "a.en")
    (tmp_path / "a.de").write_text("eins\n\n")
    (tmp_path / "a.en").write_text("one\ntwo\n")
    with pytest.raises(DataError, match="line 2: the source is empty"):
        Translations.read_lines(tmp_path / "a.de", tmp_path / "a.en")
    with pytest.raises(DataMissing, match="no such file"):
        Translations.read_lines(tmp_path / "b.de", tmp_path / "a.en")
    (tmp_path / "a.en").write_bytes(b"one\n\xff\n")
    with pytest.raises(DataError, match="line 2 is not UTF-8"):
        Translations.read_lines(tmp_path / "a.en", tmp_path / "a.en")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("source,output\nx,y\nu,v,w\n", "line 3: 3 cells, the header has 2"),
        ("source,output\nx,y\n,v\n", "line 3: 'source' is empty"),
        ("source,translation\nx,y\n", "no column 'output'.*--columns output="),
        ("id,source,output\na,x,y\na,u,v\n", "id 'a' stands for two rows"),
        ("id,source,output\na,x,y\n,u,v\n", "line 3: 'id' is empty"),
    ],
)
def test_a_bad_table_is_named_by_line(tmp_path, content, words):
    path = tmp_path / "pairs.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=words):
        Translations.read(path)


def test_labels_that_are_neither_yes_nor_no_are_refused_where_asked_for(tmp_path):
    rows = [{"source": "x", "output": "y", "bad": 0}, {"source": "u", "output": "v", "bad": 2}]
    path = write(tmp_path / "pairs.csv", rows)
    assert Translations.read(path).labels is None
    with pytest.raises(DataError, match="line 3: 'bad' is 2, expected 0 or 1"):
        Translations.read(path, categories=["bad"])
    with pytest.raises(DataError, match="no column 'worse'"):
        Translations.read(path, categories=["worse"])
    with pytest.raises(ValueError, match="columns: expected some of source"):
        Translations.read(path, columns={"label": "bad"})


def test_lists_are_checked_too():
    with pytest.raises(DataError, match="2 sources, 1 in output"):
        Translations(["a", "b"], ["c"])
    with pytest.raises(DataError, match="row 2: the source is empty"):
        Translations(["a", " "], ["c", "d"])
    with pytest.raises(DataError, match="row 1: output is None"):
        Translations(["a"], [None])
    with pytest.raises(DataError, match="expected a list of texts"):
        Translations("abc", ["a", "b", "c"])
    with pytest.raises(DataError, match="no pairs"):
        Translations([], [])
    with pytest.raises(DataError, match="no label 'worse'"):
        Translations(["a"], ["b"], labels=pd.DataFrame({"bad": [1]})).any_of(["worse"])


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), min_size=1, max_size=6), st.data())
def test_selection_keeps_rows_together(pairs, data):
    sources = [f"s{source}" for source, _ in pairs]
    whole = Translations(sources, [o for _, o in pairs], labels=pd.DataFrame({"bad": np.arange(len(pairs)) % 2}))
    rows = data.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=1, unique=True))
    part = whole.select(rows)
    assert [(part.source[i], part.output[i], part.ids[i]) for i in range(len(part))] == [
        (sources[row], pairs[row][1], str(row + 1)) for row in rows
    ]
    assert part.any_of(["bad"]).tolist() == [row % 2 == 1 for row in rows]
    assert (part.fingerprint == whole.fingerprint) == (rows == list(range(len(pairs))))
