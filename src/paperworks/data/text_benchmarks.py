"""Three public text-classification tasks, in the form every study takes.

Their rows are left as they are distributed, so that numbers compare with other people's: nothing is deduplicated, but
texts that stand both in test and in train or dev are counted in the notes. Where no dev part is distributed, a tenth
of train is drawn with a seed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np

from paperworks.data.benchmarks import benchmark_file, benchmark_members
from paperworks.data.errors import DataCorrupt
from paperworks.data.text import TextClassification

AG_NEWS_TEST, SUBJECTIVITY_TEST = 1_600, 2_000
DEV_SHARE = 0.1
SENTIMENT = {"0": "negative", "1": "positive"}


def ag_news(*, seed: int = 0) -> TextClassification:
    """AG News, title and description: the 7,600 rows of the official test file as 5,400 train, 600 dev, 1,600 test.

    Raises:
        DataMissing, DataCorrupt: see `benchmark_file`.
    """
    path = benchmark_file("ag_news_test", "test.csv")
    classes = benchmark_file("ag_news_test", "classes.txt").read_text(encoding="utf-8").split("\n")
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    _expect(str(path), len(rows), 7_600)
    # A backslash stands for a line break inside a field.
    texts = [" ".join(f"{title} {description}".replace("\\", " ").split()) for _, title, description in rows]
    labels = [classes[int(label) - 1] for label, _, _ in rows]
    split = seeded_split(len(texts), test=AG_NEWS_TEST, seed=seed)
    note = f"the official test file alone, divided with seed {seed}"
    return _build("AG News", texts, labels, split, note)


def sst2() -> TextClassification:
    """SST-2, whole sentences: 6,920 train, 872 dev, 1,821 test, the parts of the original paper (not GLUE's phrases).

    Raises:
        DataMissing, DataCorrupt: see `benchmark_file`.
    """
    texts: list[str] = []
    labels: list[str] = []
    split: list[str] = []
    for part, expected in (("train", 6_920), ("dev", 872), ("test", 1_821)):
        path = benchmark_file("sst2", f"{part}.tsv")
        rows = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").split("\n") if line]
        _expect(str(path), len(rows), expected)
        texts += [text for text, _ in rows]
        labels += [SENTIMENT[label.strip()] for _, label in rows]
        split += [part] * len(rows)
    return _build("SST-2", texts, labels, split, "the distributed parts")


def subjectivity(*, seed: int = 0) -> TextClassification:
    """Subjectivity 1.0, sentences: 10,000 as 7,200 train, 800 dev, 2,000 test.

    Raises:
        DataMissing, DataCorrupt: see `benchmark_file`.
    """
    texts: list[str] = []
    labels: list[str] = []
    for label, file in (("objective", "plot"), ("subjective", "quote")):
        member = f"subjectivity/{file}.tok.gt9.5000"
        content = benchmark_members("subjectivity", "subjectivity.zip", member)[member].decode("latin-1")
        sentences = [line.strip() for line in content.split("\n") if line.strip()]
        _expect(member, len(sentences), 5_000)
        texts += sentences
        labels += [label] * len(sentences)
    split = seeded_split(len(texts), test=SUBJECTIVITY_TEST, seed=seed)
    return _build("Subjectivity", texts, labels, split, f"no parts are distributed: divided with seed {seed}")


def seeded_split(rows: int, *, test: int, seed: int) -> list[str]:
    """`test` rows drawn for test, a tenth of the others for dev, the rest for train.

    Raises:
        ValueError: fewer than 1 or all of the rows would be test.
    """
    if not 0 < test < rows:
        raise ValueError(f"test: expected between 1 and {rows - 1} of {rows} rows, got {test}")
    order = np.random.default_rng(seed).permutation(rows)
    dev = round(DEV_SHARE * (rows - test))
    split = np.full(rows, "train", dtype="<U5")
    split[order[:test]] = "test"
    split[order[test : test + dev]] = "dev"
    return split.tolist()


def _build(
    name: str, texts: Sequence[str], labels: Sequence[str], split: Sequence[str], note: str
) -> TextClassification:
    seen = {text for text, part in zip(texts, split, strict=True) if part != "test"}
    repeated = sum(part == "test" and text in seen for text, part in zip(texts, split, strict=True))
    notes = (note, f"{repeated:,} test texts also stand in train or dev")
    return TextClassification.build(name, texts, labels, split, notes)


def _expect(name: str, rows: int, expected: int) -> None:
    if rows != expected:
        raise DataCorrupt(f"{name}: {rows:,} rows, expected {expected:,}")
