"""The model against its equations, sentence by sentence, its heads, explanations, and memory for long documents."""

import numpy as np
import pytest
import torch
from torch import Tensor

from paperworks.data import train_tokenizer
from paperworks.sequence.hi_transformer import (
    DocumentTokenizer,
    HiTransformer,
    HiTransformerConfig,
    PackedDocuments,
)
from paperworks.testing import peak_bytes

VOCABULARY, CLS_ID = 40, 2
SIZES = {"vocab_size": VOCABULARY, "dim": 16, "heads": 4, "ffn_dim": 24, "max_sentence_length": 8, "max_sentences": 6}
DOCUMENTS = [[5, 2, 7], [2], [3, 8, 6, 2]]
# More lengths of sentences and of documents than buckets: both levels are padded within buckets.
MANY = [[2 + (count * 5 + index * 3) % 13 for index in range(count)] for count in range(1, 7)]


def ids_and_mask(cls: str = "end", documents: list[list[int]] = DOCUMENTS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = (len(documents), max(map(len, documents)) + 1, max(map(max, documents)))
    ids = torch.randint(5, VOCABULARY, sizes, generator=generator)
    mask = torch.zeros(*sizes, dtype=torch.bool)
    for document, lengths in enumerate(documents):
        for sentence, length in enumerate(lengths):
            mask[document, sentence, :length] = True
            ids[document, sentence, length - 1 if cls == "end" else 0] = CLS_ID
    return ids, mask


def make(**options) -> HiTransformer:
    torch.manual_seed(0)
    model = HiTransformer(HiTransformerConfig(**SIZES | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def packed_of(ids: Tensor, mask: Tensor, cls: str = "end") -> PackedDocuments:
    from paperworks.sequence.hi_transformer.documents import pack_rows

    kept = mask.any(-1)
    doc_index, sentence_index = (np.ascontiguousarray(part) for part in kept.nonzero().numpy().T)
    return pack_rows(
        ids[kept].numpy(),
        mask[kept].numpy(),
        doc_index=doc_index,
        sentence_index=sentence_index,
        unit_index=sentence_index,
        batch=len(ids),
        cls=cls,  # pyright: ignore[reportArgumentType]
    )


def attend(pooling, x: Tensor) -> tuple[Tensor, Tensor]:
    """Attentive pooling of (n, D), written out."""
    scores = [pooling.query.weight[0] @ torch.tanh(pooling.inner.weight @ row + pooling.inner.bias) for row in x]
    weights = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
    return sum(weight * row for weight, row in zip(weights, x, strict=True)), weights


@torch.no_grad()
@pytest.mark.parametrize("cls", ["end", "start"])
def test_model_equals_its_equations_without_padding(cls) -> None:
    model = make(cls=cls)
    ids, mask = ids_and_mask(cls)
    out = model(ids, mask=mask)
    place = -1 if cls == "end" else 0
    words = slice(None, -1) if cls == "end" else slice(1, None)
    embedding, position = model.embedding, model.sentence_position[0].weight
    for document, lengths in enumerate(DOCUMENTS):
        sentences = []
        for sentence, length in enumerate(lengths):
            rows = embedding.word.weight[ids[document, sentence, :length]] + embedding.position.weight[:length]
            sentences.append(embedding.norm(rows))
        for s1, d, s2 in (model.stack.blocks[:3], model.stack.blocks[3:]):
            sentences = [s1(x[None])[0] for x in sentences]
            r = d((torch.stack([x[place] for x in sentences]) + position[: len(lengths)])[None])[0]
            for x, state in zip(sentences, r, strict=True):
                x[place] = state
            sentences = [s2(x[None])[0] for x in sentences]
        pooled = [attend(model.word_pooling, x[words]) for x in sentences]
        vector, weights = attend(model.sentence_pooling, torch.stack([vector for vector, _ in pooled]))
        torch.testing.assert_close(out.document[document], vector, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out.sentence_weights[document, : len(lengths)], weights, atol=1e-5, rtol=1e-5)
        states = torch.stack([x[place] for x in sentences])
        torch.testing.assert_close(out.sentences[document, : len(lengths)], states, atol=1e-5, rtol=1e-5)
        for sentence, (x, (_, weights)) in enumerate(zip(sentences, pooled, strict=True)):
            torch.testing.assert_close(out.tokens[document, sentence, : len(x)], x, atol=1e-5, rtol=1e-5)
            got = out.word_weights[document, sentence, : len(x)]
            torch.testing.assert_close(got[words], weights, atol=1e-5, rtol=1e-5)
            assert not got[place]
    assert not out.tokens[~mask].any()
    assert not out.word_weights[~mask].any()


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cls": "start", "layout": "SD|SD|S", "layers": 1, "sentence_positions": "layer"},
        {"pooling": "mean", "norm": "pre"},
        {"pooled": "sentences", "layout": "SSDD", "layers": 1},
        {"layout": "SS", "layers": 1},
    ],
)
def test_packed_equals_padded_and_documents_are_independent(options) -> None:
    model = make(**options)
    cls = options.get("cls", "end")
    ids, mask = ids_and_mask(cls)
    padded, packed = model(ids, mask=mask), model(packed_of(ids, mask, cls))
    kept = mask.any(-1)
    torch.testing.assert_close(packed.document, padded.document)
    torch.testing.assert_close(packed.sentences, padded.sentences[kept])
    torch.testing.assert_close(packed.tokens, padded.tokens[mask])
    torch.testing.assert_close(packed.sentence_weights, padded.sentence_weights[kept])
    torch.testing.assert_close(padded.sentence_weights.sum(-1), torch.ones(3))
    if padded.word_weights is not None:
        torch.testing.assert_close(packed.word_weights, padded.word_weights[mask])
        torch.testing.assert_close(padded.word_weights.sum(-1)[kept], torch.ones(int(kept.sum())))
    for document in range(3):
        alone = model(ids[document : document + 1], mask=mask[document : document + 1])
        torch.testing.assert_close(alone.document[0], padded.document[document], atol=1e-5, rtol=1e-5)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(model(ids[order], mask=mask[order]).document, padded.document[order])


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["attentive", "mean"])
def test_documents_alone_and_in_padded_buckets(pooling) -> None:
    model = make(max_sentence_length=15, pooling=pooling)
    ids, mask = ids_and_mask(documents=MANY)
    packed = packed_of(ids, mask)
    assert any(here.mask is not None for here in packed.packing.sentences)
    assert any(here.mask is not None for here in packed.packing.documents)
    together, out = model(packed), model(ids, mask=mask)
    for document, lengths in enumerate(MANY):
        alone = model(packed_of(ids[document : document + 1], mask[document : document + 1]))
        torch.testing.assert_close(together.document[document], alone.document[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out.document[document], alone.document[0], atol=1e-5, rtol=1e-5)
        weights = out.sentence_weights[document, : len(lengths)]
        torch.testing.assert_close(weights, alone.sentence_weights, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_words_see() -> None:
    """Another word in one sentence changes words of the others only where an S follows a D."""
    ids, mask = ids_and_mask()
    changed = ids.clone()
    changed[0, 2, 0] = (changed[0, 2, 0] - 4) % (VOCABULARY - 5) + 5
    for layout, seen in (("SDS", True), ("SSD", False), ("SS", False)):
        model = make(layout=layout, layers=1)
        before, after = model(ids, mask=mask), model(changed, mask=mask)
        assert bool((before.tokens - after.tokens)[0, :2].abs().max() > 1e-4) is seen
        # The state of a sentence knows of the others once a D has come.
        assert bool((before.sentences - after.sentences)[0, 0].abs().max() > 1e-4) is ("D" in layout)
        assert not (before.document - after.document)[1:].any()


@torch.no_grad()
def test_sentence_order_matters_through_positions_alone() -> None:
    model = make()
    ids, mask = ids_and_mask()
    order = torch.tensor([1, 0, 2, 3, 4])
    before, after = model(ids, mask=mask), model(ids[:, order], mask=mask[:, order])
    assert (before.document - after.document)[0].abs().max() > 1e-3
    for table in model.sentence_position:
        table.weight.zero_()
    before, after = model(ids, mask=mask), model(ids[:, order], mask=mask[:, order])
    torch.testing.assert_close(before.document, after.document)


@torch.no_grad()
def test_a_sentence_without_words_is_seen_but_not_pooled() -> None:
    model = make()
    ids, mask = ids_and_mask()
    ids[0, 3, 0], mask[0, 3, 0] = CLS_ID, True
    out = model(ids, mask=mask)
    assert not out.sentence_weights[0, 3]
    assert bool(out.document.isfinite().all())
    assert out.sentences[0, 3].abs().sum() > 0


@torch.no_grad()
def test_bfloat16() -> None:
    model = make()
    ids, mask = ids_and_mask()
    expected = model(ids, mask=mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(ids, mask=mask)
    whole = model.to(torch.bfloat16)(ids, mask=mask)
    assert whole.document.dtype == whole.sentences.dtype == torch.bfloat16
    for got in (mixed, whole):
        for name in ("document", "sentences", "tokens"):
            one, two = getattr(got, name).float(), getattr(expected, name)
            assert (one - two).norm() < 0.04 * two.norm(), name


def test_tables_of_positions() -> None:
    assert len(make().sentence_position) == 1
    assert len(make(sentence_positions="layer").sentence_position) == 2
    assert len(make(layout="SDD", sentence_positions="layer").sentence_position) == 2
    assert len(make(layout="S").sentence_position) == 0


def test_every_parameter_learns_through_each_head() -> None:
    ids, mask = ids_and_mask()
    for name, shape in (("document", (3, 4)), ("sentence", (3, 5, 4)), ("token", (3, 5, 8, 4))):
        model = make()
        head = getattr(model, f"for_{name}_classification")(4)
        logits = head(ids, mask=mask)
        assert logits.shape == shape
        kept = {"document": ..., "sentence": mask.any(-1), "token": mask}[name]
        target = torch.arange(logits[kept].shape[0]) % 4
        torch.nn.functional.cross_entropy(logits[kept], target).backward()
        idle = {key for key, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        unused = {key for key, _ in head.named_parameters() if "pooling" in key} if name != "document" else set()
        assert idle == unused
        packed = head(packed_of(ids, mask))
        torch.testing.assert_close(packed, logits[kept], atol=1e-5, rtol=1e-5)


def test_word_vectors_and_mixers_of_ones_own() -> None:
    from paperworks.nn.registry import build_mixer

    vectors = np.random.default_rng(0).standard_normal((VOCABULARY, 16)).astype(np.float32)
    config = HiTransformerConfig(**SIZES, sentence_mixer=build_mixer("aft_full", dim=16, heads=4, length=8))
    model = HiTransformer(config, init=vectors).eval()
    np.testing.assert_array_equal(model.embedding.word.weight.detach().numpy(), vectors)
    ids, mask = ids_and_mask()
    with torch.no_grad():
        torch.testing.assert_close(model(ids, mask=mask).tokens[mask], model(packed_of(ids, mask)).tokens)


# --- texts


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(["It was good. It was bad, really bad. Why?"], vocab_size=290)


def test_explain_maps_weights_to_text(bpe) -> None:
    options = {"vocab_size": bpe.vocab_size, "max_sentence_length": 60}
    tokenizer = DocumentTokenizer(bpe, max_sentence_length=60, max_sentences=6)
    model = make(**options).train()
    text = "It was good. It was extraordinarily bad."
    explained = model.explain(text, tokenizer=tokenizer)
    assert model.training
    assert [sentence for sentence, _, _ in explained] == ["It was good.", "It was extraordinarily bad."]
    assert sum(weight for _, weight, _ in explained) == pytest.approx(1, abs=1e-5)
    for sentence, _, words in explained:
        assert "".join(word for word, _ in words) == sentence.replace(" ", "")
        assert sum(weight for _, weight in words) == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        out = model.eval()(tokenizer([text]))
    first = tokenizer.words(text)[1][1][2]
    assert first.text == "extraordinarily"
    assert len(first.tokens) > 2
    start = int(tokenizer([text]).packing.lengths[0])
    assert explained[1][2][2][1] == pytest.approx(float(out.word_weights[[start + t for t in first.tokens]].sum()))
    with pytest.raises(ValueError, match='explain: a model with pooled="sentences" has no weights of words'):
        make(**options, pooled="sentences").explain(text, tokenizer=tokenizer)


def test_a_document_of_50000_words_needs_little_memory(bpe) -> None:
    sentences = ["it was good , really good . why was it bad ? it was"] * 3847
    assert sum(len(sentence.split()) for sentence in sentences) >= 50_000
    tokenizer = DocumentTokenizer(bpe, max_sentence_length=64, max_sentences=4096)
    model = make(vocab_size=bpe.vocab_size, max_sentence_length=64, max_sentences=4096, layers=1)
    head = model.for_document_classification(2).eval()
    packed = tokenizer(units=[sentences])
    tokens = packed.packing.tokens
    assert all(len(here.rows) * here.width <= 16_384 for here in packed.packing.sentences)

    def classify() -> None:
        with torch.no_grad():
            assert head(packed).shape == (1, 2)

    # States of all tokens a few times over, and one bucket's work; all hidden layers at once would be twice as much.
    per_state = 4 * SIZES["dim"]
    bucket = 16_384 * 4 * (SIZES["ffn_dim"] * 2 + SIZES["dim"] * 8)
    assert peak_bytes(classify) < 4 * tokens * per_state + bucket


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "DS"}, "layout: must start with S"),
        ({"layers": 0}, "layers: must be at least 1, got 0"),
        ({"max_sentence_length": 1}, "max_sentence_length: expected at least 2, got 1"),
        ({"cls": "middle"}, "cls: expected one of end, start, got 'middle'"),
        ({"pooling": "max"}, "pooling: expected one of attentive, mean, got 'max'"),
        ({"pooled": "tokens"}, "pooled: expected one of words, sentences, got 'tokens'"),
        ({"sentence_positions": "none"}, "sentence_positions: expected one of model, layer, got 'none'"),
        ({"heads": 3}, "heads: must divide dim 16, got 3"),
    ],
)
def test_bad_config(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        HiTransformer(HiTransformerConfig(**SIZES | options))


def test_bad_calls() -> None:
    model = make()
    ids, mask = ids_and_mask()
    with pytest.raises(
        ValueError, match=r"input_ids: expected \(batch, sentences, words\) or PackedDocuments, got \(3"
    ):
        model(ids[:, 0])
    with pytest.raises(
        ValueError, match=r"mask: expected \(batch, sentences, words\) bool = \(3, 5, 8\), got \(3, 5\)"
    ):
        model(ids, mask=mask.any(-1))
    empty = mask.clone()
    empty[1, :, 1:] = False
    with pytest.raises(ValueError, match="mask: document 1 has no word"):
        model(ids, mask=empty)
    wrong = ids.clone()
    wrong[0, 1, 1] = 9
    with pytest.raises(ValueError, match=r"sentence 1 of document 0 has id 9 at its end, expected .* token 2"):
        model(wrong, mask=mask)
    with pytest.raises(ValueError, match="mask: given beside PackedDocuments"):
        model(packed_of(ids, mask), mask=mask)
    with pytest.raises(ValueError, match="ids: length 7 exceeds the 6 learned positions"):
        make(max_sentence_length=6)(ids, mask=mask)
    with pytest.raises(ValueError, match="max_sentences: document has 4 sentences, model allows 3"):
        make(max_sentences=3)(ids, mask=mask)
    with pytest.raises(ValueError, match="num_classes: must be at least 1, got 0"):
        model.for_token_classification(0)
