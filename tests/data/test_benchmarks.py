"""The registry of benchmark files: only the registered bytes ever come out of it."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import threading
import zipfile
from pathlib import Path

import pytest

from paperworks.data import benchmarks
from paperworks.data.benchmarks import (
    benchmark_content,
    benchmark_file,
    benchmark_folder,
    benchmark_members,
    list_benchmarks,
    verify_benchmark,
)
from paperworks.data.errors import DataCorrupt, DataMissing

CONTENT = b"text,label\n" + b"good,1\n" * 100


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A registry of one data set, an own folder that holds it, and an empty cache."""
    own = tmp_path / "own" / "toy"
    (own / "raw").mkdir(parents=True)
    (own / "a.csv").write_bytes(CONTENT)
    (own / "raw" / "b.csv").write_bytes(CONTENT[::-1])
    with zipfile.ZipFile(own / "c.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"pos/{number}.txt", f"text {number}")
    entries = "".join(
        f'[[file]]\npath = "{path}"\nbytes = {len(content)}\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n{more}'
        for path, more in [
            ("a.csv", ""),
            ("raw/b.csv", ""),
            ("c.zip", '[[file.members]]\npattern = "pos/*"\ncount = 3\n'),
        ]
        for content in [(own / path).read_bytes()]
    )
    registry = tmp_path / "registry"
    registry.mkdir()
    head = 'name = "toy"\ntitle = "Toy"\nlicence = "CC0"\ncitation = "none"\nused_by = ["fnet"]\n'
    (registry / "toy.toml").write_text(head + entries)
    monkeypatch.setattr(benchmarks, "REGISTRY", registry)
    monkeypatch.setattr(benchmarks, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setenv("PAPERWORKS_DATA", str(tmp_path / "own"))
    return own


@pytest.fixture
def served(toy, tmp_path, monkeypatch):
    """The toy data set with addresses at a local server; returns the folder it serves."""
    folder = tmp_path / "served"
    toy.rename(folder)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known = benchmarks._registry(benchmarks.REGISTRY)["toy"]
    files = tuple(
        dataclasses.replace(entry, url=f"http://127.0.0.1:{server.server_port}/{entry.path}") for entry in known.files
    )
    toy_with_urls = dataclasses.replace(known, files=files)
    monkeypatch.setattr(benchmarks, "_registry", lambda folder: {"toy": toy_with_urls})
    monkeypatch.delenv("PAPERWORKS_DATA")
    yield folder
    server.shutdown()


def test_own_folder_comes_first(toy, tmp_path):
    (tmp_path / "cache" / "toy").mkdir(parents=True)
    (tmp_path / "cache" / "toy" / "a.csv").write_bytes(CONTENT)
    assert benchmark_file("toy", "a.csv") == toy / "a.csv"
    assert benchmark_file("toy", "raw/b.csv") == toy / "raw" / "b.csv"
    assert benchmark_folder("toy") == toy
    assert [status.state for status in verify_benchmark("toy")] == ["ok", "ok", "ok"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"\n",
        lambda content: content[:50] + bytes([content[50] ^ 1]) + content[51:],
        lambda content: b"",
    ],
)
def test_one_changed_byte_is_detected(toy, damage):
    path = toy / "a.csv"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataCorrupt, match=r"a\.csv: .*expected.*copy it again"):
        benchmark_file("toy", "a.csv")
    with pytest.raises(DataCorrupt, match=r"a\.csv"):
        benchmark_folder("toy")
    assert {status.file: status.state for status in verify_benchmark("toy")} == {
        "a.csv": "corrupt", "raw/b.csv": "ok", "c.zip": "ok",
    }  # fmt: skip


def test_a_packed_copy_serves_for_the_content(toy):
    (toy / "a.csv").unlink()
    packed = toy / "a.csv.gz"
    packed.write_bytes(gzip.compress(CONTENT))
    assert benchmark_content("toy", "a.csv") == CONTENT
    assert {file.file: file.state for file in verify_benchmark("toy")} == {
        "a.csv": "ok",
        "raw/b.csv": "ok",
        "c.zip": "ok",
    }
    with pytest.raises(DataMissing, match=r"a\.csv is not on this machine"):
        benchmark_file("toy", "a.csv")
    for content in (gzip.compress(CONTENT + b"!"), gzip.compress(CONTENT)[:-9], b"not packed"):
        packed.write_bytes(content)
        with pytest.raises(DataCorrupt, match=r"a\.csv\.gz: "):
            benchmark_content("toy", "a.csv")
        assert verify_benchmark("toy")[0].state == "corrupt"


def test_a_file_without_an_address_says_where_to_put_it(toy):
    (toy / "raw" / "b.csv").unlink()
    with pytest.raises(DataMissing, match=r"set PAPERWORKS_DATA to a folder in which it is toy/raw/b\.csv"):
        benchmark_file("toy", "raw/b.csv")
    assert verify_benchmark("toy")[1].state == "missing"
    assert benchmark_folder("toy", ["a.csv"]) == toy


def test_members_of_an_archive(toy):
    assert benchmark_members("toy", "c.zip", "pos/*") == {f"pos/{n}.txt": f"text {n}".encode() for n in range(3)}
    with pytest.raises(ValueError, match=r"c\.zip of 'toy' has pos/\*, got 'neg/\*'"):
        benchmark_members("toy", "c.zip", "neg/*")


def test_unknown_names_list_the_known_ones(toy, monkeypatch):
    with pytest.raises(ValueError, match="expected one of toy, got 'Toy'"):
        benchmark_file("Toy", "a.csv")
    with pytest.raises(ValueError, match=r"has a\.csv, raw/b\.csv, c\.zip, got 'b\.csv'"):
        benchmark_file("toy", "b.csv")
    with pytest.raises(ValueError, match="at least one file"):
        benchmark_folder("toy", [])
    monkeypatch.setenv("PAPERWORKS_DATA", str(toy / "nowhere"))
    with pytest.raises(DataMissing, match=r"PAPERWORKS_DATA: .* is no folder"):
        benchmark_file("toy", "a.csv")


def test_files_are_fetched_once_and_then_found(served, tmp_path):
    path = benchmark_file("toy", "raw/b.csv")
    assert path == tmp_path / "cache" / "toy" / "raw" / "b.csv"
    assert path.read_bytes() == CONTENT[::-1]
    (served / "raw" / "b.csv").unlink()
    assert benchmark_file("toy", "raw/b.csv") == path
    assert benchmark_folder("toy") == tmp_path / "cache" / "toy"


def test_a_truncated_cache_is_named_not_used(served):
    path = benchmark_file("toy", "a.csv")
    path.write_bytes(CONTENT[:-7])
    with pytest.raises(DataCorrupt, match=r"a\.csv: 704 bytes, expected 711; delete it and fetch it again from http"):
        benchmark_file("toy", "a.csv")


def test_other_bytes_at_the_address_are_refused_and_not_kept(served, tmp_path):
    (served / "a.csv").write_bytes(CONTENT[:-7] + b"good,2\n")
    with pytest.raises(DataCorrupt, match=r"what http.*a\.csv sent is not a\.csv as registered"):
        benchmark_file("toy", "a.csv")
    assert not list((tmp_path / "cache" / "toy").glob("*.csv"))


def test_an_address_that_does_not_answer_is_missing_data(served):
    (served / "a.csv").unlink()
    with pytest.raises(DataMissing, match="fetching it failed: 404"):
        benchmark_file("toy", "a.csv")


def test_folder_refuses_files_that_are_spread(served, tmp_path, monkeypatch):
    benchmark_file("toy", "a.csv")
    (tmp_path / "own" / "toy").mkdir()
    (served / "c.zip").rename(tmp_path / "own" / "toy" / "c.zip")
    monkeypatch.setenv("PAPERWORKS_DATA", str(tmp_path / "own"))
    with pytest.raises(DataMissing, match="different folders"):
        benchmark_folder("toy", ["a.csv", "c.zip"])


def test_the_registry_is_sound():
    known = {benchmark.name: benchmark for benchmark in list_benchmarks()}
    assert set(known) >= {"ag_news_test", "movie_reviews", "nlu_irt", "sst2", "subjectivity"}
    raw = [entry for entry in known["nlu_irt"].files if entry.path.startswith("raw/") and entry.path.endswith(".csv")]
    assert len(raw) == 29
    for benchmark in known.values():
        assert benchmark.citation.startswith("@")
        assert benchmark.licence
        assert benchmark.used_by
        assert len({entry.path for entry in benchmark.files}) == len(benchmark.files)
        for entry in benchmark.files:
            assert len(entry.sha256) == 64
            assert int(entry.sha256, 16)
            assert entry.bytes > 0
            assert entry.url is None or entry.url.startswith("https://")
            assert not Path(entry.path).is_absolute()
            assert ".." not in Path(entry.path).parts
            # A packed copy has no address; the raw files from which it is made have (one set is made of 25,000 files).
            packed = any(raw.path.startswith("raw/") and raw.url for raw in benchmark.files)
            assert entry.url or packed or benchmark.name == "cifar10_jpeg"


@pytest.mark.parametrize("name", ["ag_news_test", "movie_reviews", "nlu_irt", "sst2", "subjectivity"])
def test_files_at_hand_are_the_registered_ones(benchmark_data, name):
    benchmark_data(name)
    states = {status.file: status.state for status in verify_benchmark(name)}
    assert "ok" in states.values()
    assert "corrupt" not in states.values()


def test_movie_reviews_has_a_thousand_of_each(benchmark_data):
    benchmark_data("movie_reviews")
    for label in ("neg", "pos"):
        assert len(benchmark_members("movie_reviews", "movie_reviews.zip", f"movie_reviews/{label}/*.txt")) == 1000
