"""Buckets: least padding, nothing lost, and the way back to reading order."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperworks.data import train_tokenizer
from paperworks.data.benchmarks import benchmark_members
from paperworks.data.sentences import SPLITTER_VERSION
from paperworks.sequence.hi_transformer import DocumentTokenizer, PackedDocuments
from paperworks.sequence.hi_transformer.packing import best_widths, pack

TEXTS = [
    "A good film. I liked it very much, and so did everybody else who saw it with me on that evening.",
    "No.",
    "First. Second one. Third one here, Dr. Who. Fourth!",
]


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(TEXTS, vocab_size=300)


def padding(lengths, widths) -> int:
    return sum(min(width for width in widths if width >= length) for length in lengths) - sum(lengths)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(1, 4))
def test_widths_have_the_least_padding(lengths, groups) -> None:
    widths = best_widths(np.array(lengths), groups)
    sizes = sorted(set(lengths))
    choices = [
        (*choice, sizes[-1])
        for count in range(min(groups, len(sizes)))
        for choice in itertools.combinations(sizes[:-1], count)
    ]
    assert widths[-1] == sizes[-1]
    assert widths == sorted(set(widths))
    assert len(widths) <= groups
    assert padding(lengths, widths) == min(padding(lengths, choice) for choice in choices)


@st.composite
def batches(draw):
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    columns = draw(st.integers(2, 7))
    rows = st.lists(st.booleans(), min_size=columns, max_size=columns).filter(lambda row: sum(row) > 1)
    mask = np.array([draw(rows) for _ in range(sum(counts))])
    doc_index = np.repeat(np.arange(len(counts)), counts)
    sentence_index = np.concatenate([np.arange(count) for count in counts])
    return mask, doc_index, sentence_index, len(counts)


@given(batches(), st.sampled_from(["end", "start"]), st.sampled_from([1, 9, 100]))
def test_every_token_is_found_again(batch, cls, max_tokens) -> None:
    mask, doc_index, sentence_index, documents = batch
    layout = pack(mask, doc_index, sentence_index, batch=documents, cls=cls, max_tokens=max_tokens)
    values = torch.from_numpy(np.arange(mask.size).reshape(mask.shape).astype(np.float32))
    buckets = [values[bucket.rows][:, : bucket.width, None] for bucket in layout.sentences]
    assert layout.tokens == mask.sum()
    assert torch.equal(layout.read_tokens(buckets)[:, 0], values[torch.from_numpy(mask)])
    places = [np.flatnonzero(row)[-1 if cls == "end" else 0] for row in mask]
    states = layout.read_sentences([here.states(x) for here, x in zip(layout.sentences, buckets, strict=True)])
    assert torch.equal(states[:, 0], values[np.arange(len(mask)), places])
    for here, x in zip(layout.sentences, buckets, strict=True):
        kept = torch.ones(x.shape[:2], dtype=torch.bool) if here.mask is None else here.mask
        assert torch.equal(kept, torch.from_numpy(mask)[here.rows][:, : here.width])
        assert torch.equal(here.words.sum(1), kept.sum(1) - 1)
        assert not here.words[torch.arange(len(x)), here.place].any()
        replaced = here.put(x, here.states(x) + 1000)
        assert torch.equal(replaced - x, torch.where(kept & ~here.words, 1000.0, 0.0)[..., None])
    sentences = torch.arange(len(mask), dtype=torch.float32)[:, None]
    rows = [here.gather(sentences) for here in layout.documents]
    assert torch.equal(layout.read_documents(rows), sentences)
    assert sorted(int(row) for here in layout.documents for row in here.rows) == list(range(documents))
    for here, x in zip(layout.documents, rows, strict=True):
        for document, row in zip(here.rows.tolist(), x[..., 0], strict=True):
            assert row[: (doc_index == document).sum()].tolist() == np.flatnonzero(doc_index == document).tolist()


def test_fixed_widths_and_pieces() -> None:
    lengths = np.array([3, 3, 5, 8])
    mask = np.arange(8) < lengths[:, None]
    options = {"doc_index": np.zeros(4, dtype=np.int64), "sentence_index": np.arange(4), "batch": 1}
    assert [bucket.width for bucket in pack(mask, **options, widths=[4, 16]).sentences] == [4, 16]
    assert [len(bucket.rows) for bucket in pack(mask, **options, widths=[8], max_tokens=16).sentences] == [2, 2]
    with pytest.raises(ValueError, match=r"widths: the longest sentence has 8 tokens, the widths are \[4\]"):
        pack(mask, **options, widths=[4])
    assert pack(mask, **options, widths=[8]).waste == pytest.approx(13 / 32)


# --- texts


def decode(packed: PackedDocuments, bpe) -> list[list[str]]:
    texts: list[list[str]] = [[] for _ in range(len(packed))]
    ids = packed.packing.read_tokens([part[..., None] for part in packed.input_ids])[:, 0]
    sentences = torch.split(ids, packed.packing.lengths.tolist())
    for document, sentence in zip(packed.packing.doc_index.tolist(), sentences, strict=True):
        texts[document].append(bpe.decode(sentence.tolist()).strip())
    return texts


@pytest.mark.parametrize("cls", ["end", "start"])
def test_texts_become_sentences_with_a_sentence_token(bpe, cls) -> None:
    packed = DocumentTokenizer(bpe, max_sentence_length=200, max_sentences=9, cls=cls)(TEXTS)
    assert decode(packed, bpe) == [
        ["a good film.", TEXTS[0][13:].strip().lower()],
        ["no."],
        ["first.", "second one.", "third one here, dr. who.", "fourth!"],
    ]
    for bucket, ids in zip(packed.packing.sentences, packed.input_ids, strict=True):
        assert (ids.gather(1, bucket.place[:, None]) == 2).all()
        assert (ids == 2).sum() == len(ids)
        if cls == "start":
            assert not bucket.place.any()
    assert packed.cuts.splitter == SPLITTER_VERSION
    assert packed.unit_index.tolist() == [0, 1, 0, 0, 1, 2, 3]


def test_long_units_are_divided_and_none_is_lost(bpe) -> None:
    tokenizer = DocumentTokenizer(bpe, max_sentence_length=8, max_sentences=99)
    packed = tokenizer(units=[[TEXTS[0], "", "no."], ["no."]])
    assert "".join("".join(decode(packed, bpe)[0]).split()) == "".join((TEXTS[0] + "no.").lower().split())
    assert int(packed.packing.lengths.max()) == 8
    pieces = packed.packing.lengths[packed.packing.doc_index == 0][:-2]
    assert int(pieces.max() - pieces.min()) <= 1
    assert packed.unit_index.tolist() == [0] * len(pieces) + [1, 2, 0]
    assert (packed.cuts.divided_units, packed.cuts.tokens, packed.cuts.splitter) == (1, 0, None)


def test_short_sentences_are_merged_on_request(bpe) -> None:
    plain = DocumentTokenizer(bpe, max_sentence_length=40, max_sentences=9)
    merged = DocumentTokenizer(bpe, max_sentence_length=40, max_sentences=9, merge_short=True)
    rows, _ = plain.divide([10, 20, 9, 1, 50])
    assert [len(row) for row in rows] == [1] * 6
    rows, _ = merged.divide([10, 20, 9, 1, 50])
    assert [[(part.unit, part.start, part.stop) for part in row] for row in rows] == [
        [(0, 0, 10), (1, 0, 20), (2, 0, 9)],
        [(3, 0, 1), (4, 0, 25)],
        [(4, 25, 50)],
    ]


@pytest.mark.parametrize(("truncate", "kept"), [("head", [0, 1]), ("middle", [1, 2]), ("tail", [2, 3])])
def test_truncation_says_what_it_cuts(bpe, truncate, kept) -> None:
    tokenizer = DocumentTokenizer(bpe, max_sentence_length=200, max_sentences=2, truncate=truncate)
    packed = tokenizer(TEXTS[2:])
    assert packed.unit_index.tolist() == kept
    assert packed.cuts.sentences == 2
    whole = DocumentTokenizer(bpe, max_sentence_length=200, max_sentences=4)(TEXTS[2:])
    # The sentence tokens of the two lost sentences are no text.
    assert packed.cuts.tokens == whole.packing.tokens - packed.packing.tokens - 2


@pytest.mark.parametrize("cls", ["end", "start"])
def test_words_are_those_of_the_text(bpe, cls) -> None:
    tokenizer = DocumentTokenizer(bpe, max_sentence_length=200, max_sentences=9, cls=cls)
    text = "Éric saw “it”. Was it good?"
    packed = tokenizer([text])
    sentences = tokenizer.words(text)
    assert [sentence for sentence, _ in sentences] == ["Éric saw “it”.", "Was it good?"]
    assert [word.text for word in sentences[0][1]][:2] == ["Éric", "saw"]
    first = 1 if cls == "start" else 0
    for (_, words), length in zip(sentences, packed.packing.lengths.tolist(), strict=True):
        assert [token for word in words for token in word.tokens] == list(range(first, length - 1 + first))


def test_fast_tokenizers_of_transformers_serve_too(bpe) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=bpe.backend, cls_token="[CLS]", pad_token="[PAD]")
    theirs(TEXTS, padding=True, truncation=True, max_length=3)
    options = {"max_sentence_length": 200, "max_sentences": 9}
    expected = DocumentTokenizer(bpe, **options)(TEXTS)
    got = DocumentTokenizer(theirs, **options)(TEXTS)
    for ours, other in zip(expected.input_ids, got.input_ids, strict=True):
        assert torch.equal(ours, other)


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"max_sentences": 2}, {"texts": TEXTS}, "max_sentences: document 2 has 4 sentences, 2 are allowed"),
        ({}, {"texts": ["a", " "]}, "documents: document 1 has no word"),
        ({}, {"units": [["", ""]]}, "documents: document 0 has no word"),
        ({}, {"texts": "a"}, "texts: expected a list of texts, got one text: 'a'"),
        ({}, {"units": ["a"]}, "units: expected a list of units per document, got a string"),
        ({}, {}, "texts: give either texts or units"),
        ({}, {"texts": []}, "documents: expected at least one document, got none"),
        ({"max_sentence_length": 1}, {"texts": TEXTS}, "max_sentence_length: expected at least 2"),
        ({"max_sentences": 0}, {"texts": TEXTS}, "max_sentences: must be at least 1, got 0"),
        ({"truncate": "all"}, {"texts": TEXTS}, "truncate: expected one of head, middle, tail or None, got 'all'"),
        ({"cls": "both"}, {"texts": TEXTS}, "cls: expected one of end, start, got 'both'"),
        ({"tokenizer": str.split}, {"texts": TEXTS}, "tokenizer: expected a paperworks Tokenizer or a fast tokenizer"),
    ],
)
def test_bad_input(bpe, options, call, message) -> None:
    options = {"tokenizer": bpe, "max_sentence_length": 200, "max_sentences": 9} | options
    with pytest.raises(ValueError, match=message):
        DocumentTokenizer(options.pop("tokenizer"), **options)(**call)


def test_long_reviews_waste_little(benchmark_data) -> None:
    """The promise is at most a quarter, for batches of 16 reviews of one sentence a line."""
    benchmark_data("movie_reviews")
    members = benchmark_members("movie_reviews", "movie_reviews.zip", "movie_reviews/pos/*.txt")
    texts = [members[name].decode("latin-1") for name in sorted(members)[:160]]
    bpe = train_tokenizer(texts, vocab_size=2000)
    tokenizer = DocumentTokenizer(bpe, max_sentence_length=128, max_sentences=128)
    documents = [text.strip().split("\n") for text in texts]
    packed = [tokenizer(units=documents[start : start + 16]).packing for start in range(0, 160, 16)]
    waste = 1 - sum(layout.tokens for layout in packed) / sum(layout.padded_tokens for layout in packed)
    print(f"padding in the buckets: {waste:.1%}")
    assert waste <= 0.25
