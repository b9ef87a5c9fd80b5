"""The small tokenizer: lossless but for case, deterministic, and of the shapes promised."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.data.errors import DataError, DataMissing
from paperworks.data.tokenization import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK, Tokenizer, train_tokenizer
from paperworks.data.topic_text import topic_text

TEXTS = topic_text(seed=0).part("train")[0]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=400)


def test_special_tokens_and_size(tokenizer):
    assert tokenizer.vocab_size == 400
    assert (
        [tokenizer.backend.token_to_id(token) for token in SPECIAL_TOKENS] == [PAD, UNK, CLS, SEP, MASK] == [*range(5)]
    )


def test_ids_and_mask(tokenizer):
    ids, mask = tokenizer.encode_batch(["", "bada", " ".join(TEXTS)], length=12)
    assert ids.shape == mask.shape == (3, 12)
    assert ids.dtype == np.int64
    assert mask.dtype == np.bool_
    assert (ids[:, 0] == CLS).all()
    lengths = tokenizer.lengths(["", "bada", " ".join(TEXTS)])
    assert lengths[0] == 1
    assert mask.sum(1).tolist() == np.minimum(lengths, 12).tolist()
    assert (ids[~mask] == PAD).all()
    assert (ids[mask] != PAD).all()
    assert (mask == (np.arange(12) < mask.sum(1, keepdims=True))).all()


def test_cutting_keeps_the_beginning(tokenizer):
    short, _ = tokenizer.encode_batch(TEXTS[:5], length=8)
    full, _ = tokenizer.encode_batch(TEXTS[:5], length=64)
    assert (short == full[:, :8]).all()


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet=st.characters(codec="ascii", exclude_characters="[]"), max_size=40))
def test_decoding_gives_the_lower_cased_text(tokenizer, text):
    ids, mask = tokenizer.encode_batch([text], length=200)
    assert UNK not in ids
    assert tokenizer.decode(ids[0][mask[0]]) == text.lower()


def test_case_does_not_matter_and_other_scripts_survive(tokenizer):
    upper, _ = tokenizer.encode_batch(["BADA ÄRGER"], length=40)
    lower, _ = tokenizer.encode_batch(["bada ärger"], length=40)
    assert (upper == lower).all()
    ids, mask = tokenizer.encode_batch(["日本語 😀"], length=60)
    assert tokenizer.decode(ids[0][mask[0]]) == "日本語 😀"


def test_a_larger_vocabulary_means_fewer_tokens(tokenizer):
    small = train_tokenizer(TEXTS, vocab_size=261)
    assert small.lengths(TEXTS).sum() == sum(len(text) + 1 for text in TEXTS)
    assert tokenizer.lengths(TEXTS).sum() < 0.7 * small.lengths(TEXTS).sum()


def test_the_first_merge_is_the_most_frequent_pair():
    tokenizer = train_tokenizer(["xyxyxy ab", "xyab"], vocab_size=262)
    ids, mask = tokenizer.encode_batch(["xy ab"], length=10)
    assert mask.sum() == 1 + 4
    assert tokenizer.decode([ids[0, 1]]) == "xy"


def test_a_pair_separator_becomes_one_token(tokenizer):
    ids, _ = tokenizer.encode_batch(["bada [SEP] bada"], length=20)
    assert (ids == SEP).sum() == 1


def test_training_does_not_depend_on_order_or_process(tokenizer):
    backward = train_tokenizer(TEXTS[::-1], vocab_size=400)
    assert backward.backend.to_str() == tokenizer.backend.to_str()
    code = (
        "import hashlib; from paperworks.data import topic_text, train_tokenizer;"
        "made = train_tokenizer(topic_text(seed=0).part('train')[0], vocab_size=400);"
        "print(hashlib.sha256(made.backend.to_str().encode()).hexdigest())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads},
            stdout=subprocess.PIPE,
        )
        for seed, threads in (("1", "1"), ("2", "2"))
    ]
    assert len({process.communicate()[0] for process in processes}) == 1


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    loaded = Tokenizer.load(path)
    assert (loaded.encode_batch(TEXTS, length=30)[0] == tokenizer.encode_batch(TEXTS, length=30)[0]).all()
    assert json.loads(path.read_text())["model"]["type"] == "BPE"


def test_bad_input_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="texts: expected at least one text"):
        train_tokenizer([], vocab_size=300)
    with pytest.raises(ValueError, match="vocab_size: expected at least 261, got 260"):
        train_tokenizer(TEXTS, vocab_size=260)
    for call in (lambda: train_tokenizer("a text", vocab_size=300), lambda: tokenizer.encode_batch("a", length=4)):
        with pytest.raises(ValueError, match="texts: expected a list of texts"):
            call()
    with pytest.raises(ValueError, match="length: expected at least 2"):
        tokenizer.encode_batch(["a"], length=1)
    with pytest.raises(DataMissing, match="no such file"):
        Tokenizer.load(tmp_path / "nowhere.json")
    content = tokenizer.backend.to_str()
    for damaged in ("", content[:-20], "{}", content.replace("[CLS]", "[KLS]")):
        (tmp_path / "damaged.json").write_text(damaged)
        with pytest.raises(DataError, match="not a tokenizer written by"):
            Tokenizer.load(tmp_path / "damaged.json")
