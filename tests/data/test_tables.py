"""The table reader: what a file says comes back unchanged, and what is wrong is named with its line."""

import csv
import io
import json
import sys
import time

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paperworks.data.errors import DataError, DataMissing
from paperworks.data.tables import parse_columns, read_table, row_name

cells = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=12)
rows = st.lists(st.tuples(cells, cells), min_size=1, max_size=8)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def write(folder, content, name="table.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@in_one_folder
@given(rows=rows, delimiter=st.sampled_from([(",", "csv"), ("\t", "tsv")]), bom=st.booleans())
def test_separated_round_trip(tmp_path, rows, delimiter, bom):
    mark, ending = delimiter
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=mark, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    path = write(tmp_path, stream.getvalue().encode("utf-8-sig" if bom else "utf-8"), f"table.{ending}")
    frame = read_table(path, text=("a", "b"))
    assert list(zip(frame["a"], frame["b"], strict=True)) == rows


@in_one_folder
@given(rows=rows)
def test_jsonl_round_trip(tmp_path, rows):
    path = write(tmp_path, "\n".join(json.dumps({"a": a, "b": b}) for a, b in rows), "table.jsonl")
    frame = read_table(path, text=("a", "b"))
    assert list(zip(frame["a"], frame["b"], strict=True)) == rows


@in_one_folder
@given(numbers=st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=9))
def test_whole_numbers_come_back_exactly(tmp_path, numbers):
    frame = read_table(write(tmp_path, "n\n" + "\n".join(map(str, numbers))))
    assert frame["n"].dtype == "int64"
    assert frame["n"].tolist() == numbers


def test_parquet_round_trip(tmp_path):
    expected = pd.DataFrame({"text": ["x", "y\nz"], "n": [1, 2]})
    expected.to_parquet(tmp_path / "table.parquet")
    frame = read_table(tmp_path / "table.parquet")
    assert frame["text"].tolist() == ["x", "y\nz"]
    assert frame["n"].tolist() == [1, 2]
    assert row_name(frame, 1) == "row 2"


def test_only_the_empty_cell_is_missing_and_codes_keep_their_zeros(tmp_path):
    frame = read_table(write(tmp_path, "label,code,n,x\nNA,007,1,0.5\nnull,012,,1e3\n"))
    assert frame["label"].tolist() == ["NA", "null"]
    assert frame["code"].tolist() == ["007", "012"]
    assert frame["n"].isna().tolist() == [False, True]
    assert frame["x"].tolist() == [0.5, 1000.0]


def test_other_cells_can_mean_missing(tmp_path):
    frame = read_table(write(tmp_path, "id,y\na,1\nb,NA\n"), missing=("", "NA"))
    assert frame["y"].isna().tolist() == [False, True]
    assert frame["y"].dtype == float


def test_text_columns_are_not_made_numbers(tmp_path):
    frame = read_table(write(tmp_path, "label,n\n1.0,1\n2.50,2\n"), text=("label",))
    assert frame["label"].tolist() == ["1.0", "2.50"]


def test_rows_know_their_line_across_quoted_breaks_and_blank_lines(tmp_path):
    frame = read_table(write(tmp_path, 'text,label\n"one\ntwo",a\n\nthree,b\n'))
    assert frame["text"].tolist() == ["one\ntwo", "three"]
    assert [row_name(frame, row) for row in range(2)] == ["line 2", "line 5"]


def test_utf16_with_its_mark_is_read(tmp_path):
    frame = read_table(write(tmp_path, "text,label\nä,1\n".encode("utf-16")))
    assert frame["text"].tolist() == ["ä"]


def test_a_cell_may_be_longer_than_the_limit_of_the_csv_module(tmp_path):
    limit = csv.field_size_limit()
    frame = read_table(write(tmp_path, f"text,label\n{'x' * 200_000},1\n"))
    assert len(frame["text"].iloc[0]) == 200_000
    assert csv.field_size_limit() == limit


def test_tsv_without_quoting_keeps_its_quotes(tmp_path):
    frame = read_table(write(tmp_path, 'text\tlabel\n"an open quote\t1\n"two" words\t0\n', "table.tsv"))
    assert frame["text"].tolist() == ['"an open quote', '"two" words']


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "x", "label": 1}\n', {"text": "x", "label": 1}),
        ("text\tlabel\na, b\t1\n", {"text": "a, b", "label": 1}),
        ("text,label\nx,1\n", {"text": "x", "label": 1}),
    ],
)
def test_standard_input_is_recognised(monkeypatch, content, expected):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert read_table("-").iloc[0].to_dict() == expected


def test_columns_are_renamed_and_shadowed_ones_give_way(tmp_path):
    path = write(tmp_path, "review,text,stars\ngood,ignored,5\n")
    frame = read_table(path, columns={"text": "review", "label": "stars"}, required=("text", "label"))
    assert frame.iloc[0].to_dict() == {"text": "good", "label": 5}
    swapped = read_table(write(tmp_path, "text,label\nx,y\n"), columns={"text": "label", "label": "text"})
    assert swapped.iloc[0].to_dict() == {"text": "y", "label": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf\n", "the file is empty"),
        (b"a,b\n", "no rows"),
        (b"a,b\n1,2\n1,2,3\n", "line 3: 3 cells, the header has 2"),
        (b'a,b\n"x\ny",2\n1\n', "line 4: 1 cells, the header has 2"),
        (b'a,b\n1,2\n"open,2\n3,4\n', "line 3: a quote is opened and never closed"),
        (b'a,b\n"x"y,2\n', "line 2: ',' expected after"),
        (b"a,b\n1,2\ncaf\xe9,2\n", r"line 3, byte 4: b'\\xe9' is not utf-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "line 1: holds a zero byte"),
        (b"a,a\n1,2\n", "'a' more than once"),
    ],
)
def test_broken_csv_is_an_error_that_says_where(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read_table(write(tmp_path, content))
    assert "table.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a":\n', "line 2, character 6"),
        ('{"a": 1}\n\n[1]\n', "line 3: expected a JSON object"),
        ('{"a": "x"}\n{"a": ["y"]}\n', "line 2: column 'a': expected text"),
    ],
)
def test_broken_jsonl_is_an_error_that_says_where(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, content, "table.jsonl"), text=("a",))


def test_parquet_keeps_an_index_that_has_a_name(tmp_path):
    frame = pd.DataFrame({"model": ["a", "b"], "score": [1, 2]})
    frame.set_index("model").to_parquet(tmp_path / "named.parquet")
    assert read_table(tmp_path / "named.parquet", text=("model",))["model"].tolist() == ["a", "b"]
    frame[::-1].to_parquet(tmp_path / "unnamed.parquet")
    assert sorted(read_table(tmp_path / "unnamed.parquet").columns) == ["model", "score"]


def test_truncated_parquet_is_an_error(tmp_path):
    pd.DataFrame({"a": range(1000)}).to_parquet(tmp_path / "table.parquet")
    content = (tmp_path / "table.parquet").read_bytes()
    for size in (3, len(content) // 2, len(content) - 1):
        with pytest.raises(DataError, match="not a whole parquet file"):
            read_table(write(tmp_path, content[:size], "cut.parquet"))


def test_missing_files_columns_and_formats(tmp_path):
    with pytest.raises(DataMissing, match=r"nowhere\.csv: no such file"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_table(tmp_path)
    with pytest.raises(DataError, match=r"cannot tell the format from '\.xlsx'"):
        read_table(tmp_path / "table.xlsx")
    path = write(tmp_path, "text,lable\nx,1\n")
    with pytest.raises(DataError, match=r"no column 'label'; did you mean 'lable'.*--columns label="):
        read_table(path, required=("label",))
    with pytest.raises(DataError, match=r"no column 'review'.*--columns text="):
        read_table(path, columns={"text": "review"})
    with pytest.raises(ValueError, match="cannot take two names"):
        read_table(path, columns={"text": "text", "label": "text"})


def test_parse_columns():
    assert parse_columns("text=review, label=stars") == {"text": "review", "label": "stars"}
    for wrong in ("", "text", "text=", "=review", "text=a,text=b", "text=a,label=a", "text=a,"):
        with pytest.raises(ValueError, match="columns"):
            parse_columns(wrong)


@pytest.mark.slow
def test_a_million_rows_in_seconds(tmp_path):
    path = tmp_path / "big.csv"
    path.write_text("text,label\n" + "".join(f'"passage {row}, of many",{row % 3}\n' for row in range(1_000_000)))
    begin = time.process_time()
    frame = read_table(path, text=("label",))
    assert time.process_time() - begin < 15
    assert len(frame) == 1_000_000
    assert frame["text"].iloc[-1] == "passage 999999, of many"
