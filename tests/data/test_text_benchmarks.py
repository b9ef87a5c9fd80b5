"""The public text tasks: sizes of the papers, sound labels, parts that do not overlap."""

from collections import Counter

import numpy as np
import pytest

from paperworks.data.text_benchmarks import ag_news, seeded_split, sst2, subjectivity


@pytest.fixture
def texts(benchmark_data):
    for name in ("ag_news_test", "sst2", "subjectivity"):
        benchmark_data(name)


def sizes(data):
    return tuple(len(data.part(part)[0]) for part in ("train", "dev", "test"))


@pytest.mark.usefixtures("texts")
def test_ag_news():
    data = ag_news()
    assert sizes(data) == (5_400, 600, 1_600)
    assert set(data.classes) == {"World", "Sports", "Business", "Sci/Tech"}
    assert np.bincount(data.labels).tolist() == [1_900] * 4
    assert data.texts[0].startswith("Fears for T N pension after talks Unions representing workers at Turner")
    assert data.classes[data.labels[0]] == "Business"
    assert not any("\\" in text or "\n" in text for text in data.texts)


@pytest.mark.usefixtures("texts")
def test_sst2():
    data = sst2()
    assert sizes(data) == (6_920, 872, 1_821)
    assert data.classes == ("negative", "positive")
    assert data.texts[0].startswith("a stirring , funny and finally transporting")
    assert data.classes[data.labels[0]] == "positive"
    assert Counter(data.part("test")[1].tolist()) == {0: 912, 1: 909}


@pytest.mark.usefixtures("texts")
def test_subjectivity():
    data = subjectivity()
    assert sizes(data) == (7_200, 800, 2_000)
    assert np.bincount(data.labels).tolist() == [5_000, 5_000]
    assert data.texts[0].startswith("the movie begins in the past where a young boy named sam")
    assert data.classes[data.labels[0]] == "objective"


@pytest.mark.usefixtures("texts")
def test_the_seed_decides_the_parts_and_nothing_else():
    first, again, other = ag_news(seed=1), ag_news(seed=1), ag_news(seed=2)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.texts == other.texts
    assert (first.split != other.split).mean() > 0.2


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize(("load", "repeated"), [(ag_news, 0), (sst2, 2), (subjectivity, 0)])
def test_repeated_texts_are_counted_in_the_notes(load, repeated):
    data = load()
    seen = set(data.part("train")[0]) | set(data.part("dev")[0])
    assert sum(text in seen for text in data.part("test")[0]) == repeated
    assert data.notes[-1] == f"{repeated} test texts also stand in train or dev"


def test_seeded_split():
    split = np.array(seeded_split(1_000, test=200, seed=0))
    assert Counter(split.tolist()) == {"train": 720, "dev": 80, "test": 200}
    # Drawn, not cut off: every part is spread over the whole file.
    for part in ("train", "dev", "test"):
        assert abs(np.flatnonzero(split == part).mean() - 500) < 100
    for test in (0, 1_000):
        with pytest.raises(ValueError, match="test: expected between 1 and 999"):
            seeded_split(1_000, test=test, seed=0)
