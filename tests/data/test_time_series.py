"""The door for time series: every form reads to the same series, and what is wrong is named with file and row."""

import gzip

import numpy as np
import pandas as pd
import pytest

from paperworks.data.errors import DataCorrupt, DataError, DataMissing
from paperworks.data.time_series import read_time_series, uea_series

HEAD = "# a comment\n@problemName toy\n@timeStamps false\n@classLabel true up down\n@data\n"
TS = HEAD + "1,2,3:4,5,6:up\n7,8:9,10:down\n0,?,2:1,?,3:up\n"


def write(path, text):
    path.write_text(text)
    return path


def long_rows():
    rows = []
    for key, label, one, two in [("a", "up", [1, 2, 3], [4, 5, 6]), ("b", "down", [7, 8], [9, 10])]:
        rows += [(key, step, label, x, y) for step, (x, y) in enumerate(zip(one, two, strict=True))]
    return pd.DataFrame(rows, columns=["id", "time", "label", "c1", "c2"])


def test_ts(tmp_path):
    series = read_time_series(write(tmp_path / "toy.ts", TS))
    assert series.classes == ("up", "down")
    assert series.labels.tolist() == [0, 1, 0]
    assert series.mask.tolist() == [[True] * 3, [True, True, False], [True, False, True]]
    assert series.x[0].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert series.x[1].tolist() == [[7, 9], [8, 10], [0, 0]]
    assert series.x.dtype == np.float32
    (tmp_path / "toy.ts.gz").write_bytes(gzip.compress(TS.encode()))
    assert read_time_series(tmp_path / "toy.ts.gz").fingerprint == series.fingerprint


def test_npz_and_long_tables_read_to_the_same_series(tmp_path):
    long_rows().to_csv(tmp_path / "long.csv", index=False)
    table = read_time_series(tmp_path / "long.csv")
    x = np.array([[[1, 4], [2, 5], [3, 6]], [[7, 9], [8, 10], [np.nan, np.nan]]])
    np.savez(tmp_path / "toy.npz", x=x, y=np.array(["up", "down"]))
    archive = read_time_series(tmp_path / "toy.npz")
    assert table.classes == archive.classes == ("down", "up")
    for name in ("x", "mask", "labels"):
        assert np.array_equal(getattr(table, name), getattr(archive, name)), name
    # Unequal lengths: times of their own, increasing also where nothing was observed.
    assert table.times.shape == (2, 3)
    assert (np.diff(table.times) > 0).all()
    assert archive.times is None


def test_columns_are_named_by_role_and_common_times_are_common(tmp_path):
    frame = long_rows()[:3].rename(columns={"id": "patient", "label": "outcome"})
    other = frame.assign(patient="z", outcome="down", c1=0.0)
    pd.concat([frame, other]).to_csv(tmp_path / "long.csv", index=False)
    series = read_time_series(tmp_path / "long.csv", columns={"id": "patient", "label": "outcome"})
    assert series.times.tolist() == [0.0, 1.0, 2.0]
    assert series.x.shape == (2, 3, 2)
    with pytest.raises(ValueError, match="columns: expected some of id, time, label, got 'group'"):
        read_time_series(tmp_path / "long.csv", columns={"group": "c1"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, r"toy\.ts: no data lines"),
        (HEAD.replace("@data\n", "1,2:3,4:up\n"), r"line 5: a data line before @data"),
        (TS.replace("@classLabel true up down\n", ""), r"line 5: data without class labels"),
        (TS.replace(":down", ":sideways"), r"line 7: label 'sideways' is none of up, down"),
        (TS.replace("9,10", "9,ten"), r"line 7: channel 2: 'ten' is no number"),
        (TS.replace("9,10", "9,10,11"), r"line 7: its channels have 2, 3 values"),
        (TS.replace("7,8:9,10", "7,8"), r"series 2 has 1 channels, the first one 2"),
        (TS.replace("1,?,3:up", "1,2,3:up"), r"series 3, step 2: channel 1 is nan while others are there"),
        (TS.replace("7,8:9,10", "?,?:?,?"), r"series 2 is observed nowhere"),
        (TS.replace("@timeStamps false", "@timeStamps true"), r"line 3: time stamps inside"),
    ],
)
def test_what_is_wrong_in_a_ts_file_is_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_time_series(write(tmp_path / "toy.ts", text))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 3, 1))}, r"no array 'y' \(has x\)"),
        (
            {"x": np.zeros((2, 3)), "y": np.zeros(2)},
            r"x: expected numbers \(n, length, channels\), got float64 \(2, 3\)",
        ),
        ({"x": np.zeros((2, 3, 1)), "y": np.zeros(3)}, r"y: expected \(2,\), one label per series of x, got \(3,\)"),
        ({"x": np.zeros((2, 3, 1)), "y": np.zeros(2), "mask": np.ones((2, 3))}, r"mask: expected bool \(2, 3\)"),
        ({"x": np.zeros((2, 3, 1)), "y": np.zeros(2), "times": np.zeros(3)}, r"those of series 1 do not increase"),
        ({"x": np.zeros((2, 3, 1)), "y": np.zeros(2), "times": np.zeros(4)}, r"times: expected \(3,\) or \(2, 3\)"),
        ({"x": np.array(["a"], dtype=object), "y": np.zeros(2)}, r"not a NumPy archive of plain arrays"),
    ],
)
def test_what_is_wrong_in_an_npz_file_is_named(tmp_path, arrays, message):
    np.savez(tmp_path / "toy.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_time_series(tmp_path / "toy.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="label"), "no column 'label'"),
        (lambda f: f.drop(columns=["c1", "c2"]), "no channel beside id, time and label"),
        (lambda f: f.assign(c1=["1", "2", "x", "4", "5"]), r"line 4: column 'c1': 'x' is no number"),
        (lambda f: f.assign(c1=[1, 2, None, 4, 5]), r"series 1, step 3: channel 1 is nan"),
        (lambda f: f.assign(label=["up", "up", "down", "down", "down"]), r"line 4: series 'a' is labelled 'up' before"),
        (lambda f: f.assign(time=[0, 2, 1, 0, 1]), r"line 4: the times of series 'a' do not increase"),
        (lambda f: f.assign(time=[0, None, 2, 0, 1]), r"line 3: no time"),
        (lambda f: f.assign(label=["up", "up", "up", None, "down"]), r"line 5: no label"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path, change, message):
    change(long_rows()).to_csv(tmp_path / "long.csv", index=False)
    with pytest.raises(DataError, match=message):
        read_time_series(tmp_path / "long.csv")


def test_other_files(tmp_path):
    with pytest.raises(DataMissing, match="no such file"):
        read_time_series(tmp_path / "absent.ts")
    with pytest.raises(DataError, match=r"cannot read time series from '\.wav'"):
        read_time_series(tmp_path / "speech.wav")
    (tmp_path / "cut.ts.gz").write_bytes(gzip.compress(TS.encode())[:-9])
    with pytest.raises(DataCorrupt, match="not a whole gzip file"):
        read_time_series(tmp_path / "cut.ts.gz")
    (tmp_path / "latin.ts").write_bytes(TS.replace("comment", "commentaire né").encode("latin-1"))
    with pytest.raises(DataError, match="line 1: not UTF-8"):
        read_time_series(tmp_path / "latin.ts")
    with pytest.raises(ValueError, match="have no columns to rename"):
        read_time_series(write(tmp_path / "toy.ts", TS), columns={"id": "x"})


def test_a_split_takes_its_share_of_every_class(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "toy.npz", x=rng.normal(3, 5, size=(50, 4, 2)), y=np.repeat([0, 1], [40, 10]))
    series = read_time_series(tmp_path / "toy.npz")
    split = series.with_split(test=0.3, seed=1)
    assert np.bincount(split.part("test").labels).tolist() == [12, 3]
    assert np.array_equal(split.split, series.with_split(test=0.3, seed=1).split)
    assert not np.array_equal(split.split, series.with_split(test=0.3, seed=2).split)
    seen = split.standardised().part("train")
    assert seen.x[seen.mask].mean(0) == pytest.approx([0, 0], abs=1e-6)
    assert seen.x[seen.mask].std(0) == pytest.approx([1, 1], abs=1e-6)
    with pytest.raises(ValueError, match="no split"):
        series.part("test")
    with pytest.raises(DataError, match="class '1' has 3 series"):
        series.select([*range(40), 47, 48, 49]).with_split(test=0.3, seed=0)


def test_the_uea_sets(benchmark_data):
    benchmark_data("uea_time_series")
    vowels, motions = uea_series("JapaneseVowels"), uea_series("BasicMotions")
    assert (len(vowels.part("train")), len(vowels.part("test"))) == (270, 370)
    assert vowels.x.shape == (640, 29, 12)
    assert sorted(set(vowels.mask.sum(1).tolist()))[:1] == [7]
    assert np.bincount(vowels.part("train").labels).tolist() == [30] * 9
    assert vowels.x[0, 0, 0] == pytest.approx(1.860936)
    assert vowels.x[0, 19, 11] == pytest.approx(-0.175986)
    assert (len(motions.part("train")), len(motions.part("test"))) == (40, 40)
    assert motions.classes == ("Standing", "Running", "Walking", "Badminton")
    with pytest.raises(ValueError, match="name: expected one of JapaneseVowels, BasicMotions"):
        uea_series("Vowels")


def test_a_changed_copy_of_a_uea_set_is_refused(tmp_path, monkeypatch):
    (tmp_path / "uea_time_series").mkdir()
    (tmp_path / "uea_time_series" / "BasicMotions_TRAIN.ts.gz").write_bytes(gzip.compress(TS.encode()))
    monkeypatch.setenv("PAPERWORKS_DATA", str(tmp_path))
    with pytest.raises(DataCorrupt, match=r"BasicMotions_TRAIN\.ts\.gz: its content has sha256"):
        uea_series("BasicMotions")
