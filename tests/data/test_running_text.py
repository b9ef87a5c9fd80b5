import numpy as np
import pytest

from paperworks.data.errors import DataError, DataMissing
from paperworks.data.running_text import byte_pairs, copying_text, divide, read_running_text, tiny_shakespeare

TEXT = "Zürich ist groß.\n" * 4000


def test_the_last_tenth_validates_and_nothing_is_lost():
    text = divide("toy", TEXT)
    whole = (text.train.tobytes() + text.validation.tobytes()).decode()
    assert whole == TEXT
    assert text.characters == round(0.1 * len(TEXT))
    assert len(text.validation) > text.characters  # two letters of a line have two bytes


def test_files_and_folders(tmp_path):
    (tmp_path / "b.txt").write_text(TEXT, encoding="utf-8-sig")
    (tmp_path / "a.txt").write_bytes(TEXT.replace("\n", "\r\n").encode())
    one, both = read_running_text(tmp_path / "b.txt"), read_running_text(tmp_path)
    assert one.fingerprint == divide("x", TEXT).fingerprint
    assert both.fingerprint == divide("x", TEXT + "\n\n" + TEXT).fingerprint
    assert "2 files" in both.notes[0]


def test_bad_input(tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(DataError, match=r"short\.txt: has 9 characters, too few"):
        read_running_text(tmp_path / "short.txt")
    (tmp_path / "latin.txt").write_bytes(b"line\n" * 20_000 + "groß".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt: line 20001: not UTF-8"):
        read_running_text(tmp_path / "latin.txt")
    with pytest.raises(DataMissing, match="no such file"):
        read_running_text(tmp_path / "none.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataMissing, match=r"the folder has no \.txt file"):
        read_running_text(tmp_path / "empty")
    with pytest.raises(ValueError, match="validation: expected a share"):
        divide("x", TEXT, validation=1.0)


def test_the_generated_text_copies_at_the_distances_that_it_says():
    text = copying_text(60_000, seed=3)
    line = (text.train.tobytes() + text.validation.tobytes()).decode()
    places = [
        place
        for place, letter in enumerate(line[:-1])
        if letter in "01234" and place > 66 and line[place - 1] not in "01234"
    ]
    right = [line[place + 1] == line[place + 1 - 2 ** (int(line[place]) + 2)] for place in places]
    assert len(places) > 3000
    assert np.mean(right) > 0.99
    depth = 0
    for letter in line:
        depth += (letter in "([{") - (letter in ")]}")
        assert 0 <= depth <= 4
    assert copying_text(60_000, seed=3).fingerprint == text.fingerprint
    assert copying_text(60_000, seed=4).fingerprint != text.fingerprint


def test_tiny_shakespeare(benchmark_data):
    benchmark_data("tiny_shakespeare")
    text = tiny_shakespeare()
    assert len(text.train) + len(text.validation) == 1_115_394
    assert text.characters == len(text.validation) == 111_539
    assert len(np.unique(np.concatenate([text.train, text.validation]))) == 65


def test_byte_pairs_spell_the_same_text_in_fewer_tokens():
    text = divide("names", "Zoë said: “no” — and Zoë meant it.\n\tThen " * 2_000)
    pairs = byte_pairs(text, vocabulary=400)
    assert 256 < pairs.vocabulary <= 400
    assert pairs.train.max() < pairs.vocabulary
    assert len(pairs.train) < 0.5 * len(text.train)
    assert pairs.tokenizer.decode(pairs.validation) == text.validation.tobytes().decode("utf-8")
    assert pairs.characters == text.characters
    assert pairs.fingerprint != text.fingerprint
    assert "byte pairs" in pairs.notes[-1]
    with pytest.raises(ValueError, match="text: has a tokenizer already"):
        byte_pairs(pairs, vocabulary=400)
    with pytest.raises(ValueError, match="vocab_size: expected at least 261"):
        byte_pairs(text, vocabulary=100)
