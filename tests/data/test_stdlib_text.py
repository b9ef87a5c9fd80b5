"""The docstrings of the standard library: prose only, no leak between parts, the same on every run."""

import importlib
import os
import subprocess
import sys
import textwrap
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from paperworks.data.errors import DataMissing
from paperworks.data.near_duplicates import jaccard, near_duplicate_groups, shingles, similar_pairs
from paperworks.data.stdlib_text import cut, deduplicate, listed_module, read_passages, split_by_unit, stdlib_text

module = importlib.import_module("paperworks.data.stdlib_text")


@pytest.fixture(scope="module")
def passages():
    return deduplicate(list(read_passages(module._source_folder())))


@pytest.fixture(scope="module")
def data(passages):
    return build(passages)


def build(passages, **options):
    """What stdlib_text makes of passages that were read before; a test below compares it with the whole way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_passages", lambda folder: iter(()))
        patch.setattr(module, "deduplicate", lambda found: passages)
        return stdlib_text(**options)


def test_size_families_and_parts(data):
    """The figures for Python 3.11.7 are 4,449, 727 and 1,344 passages; other versions come within a tenth."""
    assert data.classes == tuple(sorted(module.FAMILIES))
    counts = Counter(data.split.tolist())
    assert counts["train"] == pytest.approx(4_457, rel=0.1)
    assert counts["dev"] == pytest.approx(726, rel=0.1)
    assert counts["test"] == pytest.approx(1_339, rel=0.1)
    majority = max(Counter(data.part("test")[1].tolist()).values()) / counts["test"]
    assert majority == pytest.approx(0.169, abs=0.015)
    assert f"{len(data.texts):,} passages, sha256 {data.fingerprint[:6]}" in data.notes[0]


@pytest.mark.skipif(sys.version_info[:3] != (3, 11, 7), reason="the fingerprint is that of Python 3.11.7")
def test_fingerprint_of_python_3_11_7(data):
    assert Counter(data.split.tolist()) == {"train": 4_449, "dev": 727, "test": 1_344}
    assert data.fingerprint == "2b99bec7cbb8507890f385d576e5605541bf2e2dd8182205802cbb26e7b7fcd4"


def test_neither_the_hash_seed_nor_the_modules_read_matter(data):
    code = (
        "import sys; from paperworks.data.stdlib_text import stdlib_text; before = set(sys.modules);"
        "print(stdlib_text().fingerprint, *sorted(set(sys.modules) - before))"
    )
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = os.environ | {"PYTHONHASHSEED": other}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    fingerprint, *imported = run.stdout.split()
    assert fingerprint == data.fingerprint
    assert not set(imported) & set(module.FAMILY)


def test_the_name_is_the_function_whatever_is_imported_first():
    for code in (
        "from paperworks.data import stdlib_text; assert callable(stdlib_text)",
        "import paperworks.data.stdlib_text; from paperworks.data import stdlib_text; assert callable(stdlib_text)",
        "from paperworks.data.stdlib_text import stdlib_text as f; import paperworks.data; "
        "assert paperworks.data.stdlib_text is f",
    ):
        subprocess.run([sys.executable, "-c", code], check=True)


def test_no_test_passage_is_nearly_a_training_passage(data):
    # All pairs by one matrix product, without the prefix filter of the code under test.
    encode = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", binary=True, dtype=np.int32)
    table = encode.fit_transform(data.texts)
    test, rest = table[data.split == "test"], table[data.split != "test"]
    common = (test @ rest.T).tocoo()
    union = np.asarray(test.sum(1)).ravel()[common.row] + np.asarray(rest.sum(1)).ravel()[common.col] - common.data
    nearest = (common.data / union).max()
    assert 0.3 < nearest < 0.5


@pytest.mark.parametrize("kind", ["definition", "file"])
def test_no_unit_is_in_two_parts(passages, kind):
    data = build(passages, split=kind)
    assert list(data.texts) == [passage.text for passage in passages]
    units = defaultdict(set)
    for passage, part in zip(passages, data.split.tolist(), strict=True):
        units[passage.file if kind == "file" else passage.unit].add(part)
        if kind == "definition":
            units[passage.file, passage.definition.partition(".")[0]].add(part)
    assert all(len(parts) == 1 for parts in units.values())
    assert len(units) > 100


def test_passages_are_prose_of_the_right_length(data):
    lengths = [len(text.split()) for text in data.texts]
    assert min(lengths) >= 8
    assert sum(length > 32 for length in lengths) < 0.05 * len(lengths)
    assert max(lengths) <= 60
    assert not any(">>>" in text or "\n" in text for text in data.texts)


def test_a_docstring_is_cut_into_prose():
    docstring = """Sum the numbers of a list, e.g. Those of a table. It is "fast." Always!

    - a bullet that must not be found in any of the passages
    - another bullet

    >>> this_is_an_example_of_nothing(1, 2, 3, 4, 5)

    :param x: a field which is not prose at all and never was
    ----------

    No. A second paragraph of the docstring that has more than
      eight words.
    """
    assert cut(docstring) == [
        'Sum the numbers of a list, e.g. Those of a table. It is "fast."',
        "A second paragraph of the docstring that has more than eight words.",
    ]


def test_sentences_are_packed_whole_into_at_most_32_words():
    sentence = "This one sentence has just nine words in it."
    assert cut(" ".join([sentence] * 7)) == [" ".join([sentence] * 3)] * 2 + [sentence]
    long = "A " + " ".join(["word"] * 40) + "."
    assert cut(f"{sentence} {long} {sentence}") == [sentence, long, sentence]
    assert cut("A " + " ".join(["word"] * 60) + ".") == []
    assert cut("{} [] () 123 456 789 x = y + z ** 2 - 10 == 20 != 40.") == []


@pytest.mark.parametrize(("name", "listed"), [
    ("json", "json"), ("_pydecimal", "decimal"), ("_strptime", "strptime"), ("_pylong", "pylong"),
    ("_threading_local", "threading_local"), ("_collections_abc", "collections_abc"), ("_pyio", "io"),
    ("_pyrepl", None), ("idlelib", None), ("cgi", None), ("site-packages", None),
])  # fmt: skip
def test_which_modules_are_listed(name, listed):
    assert listed_module(name) == listed


def write_sources(folder, files):
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(source))


SENTENCE = "{} is the word that makes this sentence of passages unlike {} others here."


def test_definitions_are_named_and_tests_skipped(tmp_path):
    write_sources(tmp_path, {
        "json/__init__.py": f'"""{SENTENCE.format("Alpha", "seven")}"""\n',
        "json/tool.py": f'''
            if True:
                class Reader:
                    def read(self):
                        """{SENTENCE.format("Bravo", "eight")}"""
        ''',
        "json/test/test_it.py": f'"""{SENTENCE.format("Charlie", "nine")}"""\n',
        "cgi.py": f'"""{SENTENCE.format("Delta", "ten")}"""\n',
        "json/data.txt": "no source",
    })  # fmt: skip
    found = [(each.file, each.definition, each.unit, each.family) for each in read_passages(tmp_path)]
    assert found == [
        ("json/__init__.py", "", "json/__init__.py", "data"),
        ("json/tool.py", "Reader.read", "json:Reader", "data"),
    ]


def test_a_python_without_sources_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(module.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(DataMissing, match=r"only 0 passages .* expected 3,000 or more"):
        stdlib_text()
    monkeypatch.setattr(module.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "python.zip")})
    with pytest.raises(DataMissing, match="no folder"):
        stdlib_text()
    with pytest.raises(ValueError, match="split: expected definition or file, got 'random'"):
        stdlib_text(split="random")  # pyright: ignore


def passage(text, family="data", file="a.py", definition="f"):
    return module.Passage(file, definition, text, f"{file}:{definition}", family)


def test_deduplication_keeps_the_smallest_and_drops_what_two_families_share():
    words = "one two three four five six seven eight nine"
    near = f"{words} ten"
    kept = deduplicate([
        passage(near, file="b.py"), passage(words, file="a.py"), passage(words.upper() + "!", file="c.py"),
        passage("nothing like the others at all in this place"),
        passage("shared by two families of modules word for word", "mail"),
        passage("Shared by two families of modules, word for word.", "web"),
    ])  # fmt: skip
    assert [each.text for each in kept] == ["nothing like the others at all in this place", words]
    assert deduplicate([passage(words, "mail"), passage(near, "web")]) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=8).map(" ".join), max_size=14),
    st.sampled_from([0.2, 0.5, 0.75, 1.0]),
)
def test_the_prefix_filter_misses_no_pair(texts, threshold):
    sets = [shingles(text) for text in texts]
    expected = {
        (first, second)
        for first in range(len(sets))
        for second in range(first + 1, len(sets))
        if jaccard(sets[first], sets[second]) >= threshold
    }
    found = similar_pairs(sets, threshold)
    assert len(found) == len(expected)
    assert {tuple(sorted(pair)) for pair in found} == expected


def test_groups_link_through_others():
    chain = ["a b c d", "b c d e", "c d e f", "x y z"]
    assert near_duplicate_groups(chain, threshold=0.5) == [[0, 1, 2], [3]]
    assert near_duplicate_groups(chain, threshold=0.9) == [[0], [1], [2], [3]]
    assert jaccard(shingles("a b c"), shingles("a b d")) == pytest.approx(3 / 7)
    with pytest.raises(ValueError, match="threshold"):
        near_duplicate_groups(chain, threshold=0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("pq"), st.integers(0, 30).map(str)), min_size=1, max_size=200))
def test_units_stay_together_and_parts_have_their_share(rows):
    rows = [(label, f"{label}{unit}") for label, unit in rows]
    parts = split_by_unit(rows)
    assert len(set(zip(rows, parts, strict=True))) == len(set(rows))
    for label in "pq":
        own = [(unit, part) for (other, unit), part in zip(rows, parts, strict=True) if other == label]
        sizes = Counter(unit for unit, _ in own)
        for part, share in (("test", 0.2), ("dev", 0.1)):
            held = sum(other == part for _, other in own)
            assert held < share * len(own) + 0.1 * len(own) + 1e-9
        assert all(part == "train" for unit, part in own if sizes[unit] > 0.1 * len(own))
