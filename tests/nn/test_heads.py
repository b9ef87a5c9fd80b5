"""Embedding, pooling and heads against their equations, with masks and with what tokenizers give."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paperworks.nn import (
    AttentionMixing,
    AttentivePooling,
    BlockOptions,
    Encoded,
    MaskedLM,
    MixerEncoder,
    SequenceClassifier,
    TextEmbedding,
    TokenTagger,
    masked_mean,
)
from paperworks.testing import assert_bf16_close

DIM, VOCABULARY = 16, 30


def encoder() -> MixerEncoder:
    block = BlockOptions(ffn_dim=32)
    return MixerEncoder(lambda layer: AttentionMixing(DIM, 4), dim=DIM, depth=2, block=block)


class Halves(nn.Module):
    """An encoder that returns fewer states than tokens: the mean of each pair, kept where either is."""

    dim = DIM

    def forward(self, x: Tensor, *, mask: Tensor | None = None, context: object = None) -> Encoded:
        pairs = x.unflatten(1, (-1, 2)).mean(2)
        return Encoded(pairs, None if mask is None else mask.unflatten(1, (-1, 2)).any(2))


def classifier(**options) -> SequenceClassifier:
    torch.manual_seed(0)
    model = SequenceClassifier(TextEmbedding(VOCABULARY, DIM), encoder(), num_classes=3, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def ids_and_mask() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (3, 6), generator=generator)
    return ids, torch.arange(6) < torch.tensor([6, 4, 1])[:, None]


# --- embedding


def test_embedding_is_the_sum_normalised_and_projected() -> None:
    torch.manual_seed(0)
    embedding = TextEmbedding(VOCABULARY, DIM, embed_dim=10, max_length=8, types=2).eval()
    ids, _ = ids_and_mask()
    types = ids % 2
    total = embedding.word.weight[ids] + embedding.position.weight[:6] + embedding.token_type.weight[types]
    centred = total - total.mean(-1, keepdim=True)
    normal = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-12).sqrt()
    expected = normal @ embedding.projection.weight.T + embedding.projection.bias
    torch.testing.assert_close(embedding(ids, types=types), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(embedding(ids), expected)
    torch.testing.assert_close(embedding(ids), embedding(ids, types=torch.zeros_like(ids)))


def test_embedding_options() -> None:
    ids, _ = ids_and_mask()
    assert list(TextEmbedding(VOCABULARY, DIM).state_dict()) == [
        "word.weight",
        "position.weight",
        "norm.weight",
        "norm.bias",
    ]
    # FNet has the dense layer even where it changes no width.
    assert "projection.weight" in TextEmbedding(VOCABULARY, DIM, embed_dim=DIM).state_dict()
    plain = TextEmbedding(VOCABULARY, DIM, positions="none", norm=False).eval()
    assert list(plain.state_dict()) == ["word.weight"]
    assert torch.equal(plain(ids), plain.word.weight[ids])
    assert plain.max_length is None
    assert plain(torch.zeros(1, 2000, dtype=torch.int64)).shape == (1, 2000, DIM)


def test_embedding_initialisation() -> None:
    torch.manual_seed(0)
    embedding = TextEmbedding(2000, 300, embed_dim=200)
    assert abs(embedding.word.weight.std().item() - 0.02) < 0.001
    assert abs(embedding.position.weight.std().item() - 0.02) < 0.001
    kernel = embedding.projection.weight
    assert abs(kernel.std().item() - 200**-0.5) < 0.001
    assert kernel.abs().max() <= 2 * 200**-0.5 / 0.8796
    assert not embedding.projection.bias.any()


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray])
def test_embedding_starts_from_vectors(kind) -> None:
    vectors = np.random.default_rng(0).standard_normal((VOCABULARY, DIM)).astype(np.float32)
    embedding = TextEmbedding(VOCABULARY, DIM, init=kind(vectors))
    np.testing.assert_array_equal(embedding.word.weight.detach().numpy(), vectors)
    assert embedding.word.weight.requires_grad
    vectors[0] = 7
    assert (embedding.word.weight[0] != 7).any()


def test_embedding_goes_on_where_a_stream_stands() -> None:
    embedding = TextEmbedding(VOCABULARY, DIM, max_length=6).eval()
    ids, _ = ids_and_mask()
    pieces = [embedding(ids[:, start : start + 2], start=start) for start in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(pieces, 1), embedding(ids))
    with pytest.raises(ValueError, match="length 7 exceeds the 6 learned positions"):
        embedding(ids[:, :1], start=6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TextEmbedding(9, 4, positions="sine"), "positions: expected one of learned, none, got 'sine'"),
        (lambda: TextEmbedding(9, 4, init=torch.zeros(9, 5)), r"init: expected word vectors of shape \(9, 4\)"),
        (lambda: TextEmbedding(9, 4, dropout=2), "dropout: expected"),
        (lambda: TextEmbedding(9, 4)(torch.zeros(3, dtype=torch.int64)), r"ids: expected \(batch, length\) int64"),
        (lambda: TextEmbedding(9, 4)(torch.zeros(1, 3)), r"got \(1, 3\) float32"),
        (lambda: TextEmbedding(9, 4)([[1, 2]]), 'ids: expected a tensor, got list; tokenize with return_tensors="pt"'),
        (lambda: TextEmbedding(9, 4)(torch.tensor([[1, 9]])), "ids: expected 0..8, got 9"),
        (lambda: TextEmbedding(9, 4)(torch.tensor([[1, -1]])), "ids: expected 0..8, got -1"),
        (lambda: TextEmbedding(9, 4, max_length=2)(torch.tensor([[1, 1, 1]])), "length 3 exceeds the 2"),
        (lambda: TextEmbedding(9, 4)(torch.tensor([[1]]), types=torch.tensor([[0]])), "types: this embedding has none"),
        (lambda: TextEmbedding(9, 4, types=2)(torch.tensor([[1]]), types=torch.tensor([[2]])), "types: expected 0..1"),
        (lambda: TextEmbedding(9, 4, types=2)(torch.tensor([[1]]), types=torch.tensor([0])), "types: expected"),
    ],
)
def test_embedding_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- pooling


def test_attentive_pooling_equals_the_loops() -> None:
    torch.manual_seed(0)
    pooling = AttentivePooling(DIM, 5)
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.normal_()
    x, mask = torch.randn(3, 6, DIM), ids_and_mask()[1].clone()
    mask[2] = False
    pooled, weights = pooling(x.masked_fill(~mask[..., None], float("nan")), mask=mask)
    for row in range(3):
        kept = [j for j in range(6) if mask[row, j]]
        scores = [
            (pooling.query.weight[0] @ torch.tanh(pooling.inner.weight @ x[row, j] + pooling.inner.bias)).item()
            for j in kept
        ]
        shares = np.exp(scores) / np.exp(scores).sum() if kept else np.zeros(0)
        expected = np.zeros(6)
        expected[kept] = shares
        np.testing.assert_allclose(weights[row].detach().numpy(), expected, atol=1e-5)
        mixture = (torch.as_tensor(expected).float()[:, None] * x[row]).sum(0)
        torch.testing.assert_close(pooled[row], mixture, atol=1e-5, rtol=1e-5)
    assert torch.equal(weights[2], torch.zeros(6))
    unmasked = pooling(x[:1])[0]
    torch.testing.assert_close(unmasked[0], pooled[0], atol=1e-5, rtol=1e-5)


def test_attentive_pooling_gradient() -> None:
    pooling = AttentivePooling(3, 2).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False, True], [False] * 4])
    assert torch.autograd.gradcheck(lambda y: pooling(y, mask=mask), x)


def test_masked_mean() -> None:
    x, mask = torch.randn(3, 6, DIM), ids_and_mask()[1].clone()
    mask[1] = False
    got = masked_mean(x.masked_fill(~mask[..., None], float("nan")), mask)
    torch.testing.assert_close(got, torch.stack([x[0].mean(0), torch.zeros(DIM), x[2, 0]]))
    torch.testing.assert_close(masked_mean(x), x.mean(1))


def test_pooling_refuses() -> None:
    with pytest.raises(ValueError, match="x: expected"):
        AttentivePooling(4)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="mask: expected"):
        AttentivePooling(4)(torch.zeros(2, 3, 4), mask=torch.ones(2, 2, dtype=torch.bool))


# --- classifier


@pytest.mark.parametrize("pooling", ["cls", "mean", "attentive"])
def test_classifier_pools_and_projects(pooling: str) -> None:
    model = classifier(pooling=pooling)
    ids, mask = ids_and_mask()
    states = model.encoder(model.embedding(ids), mask=mask).states
    if pooling == "cls":
        pooled = torch.tanh(states[:, 0] @ model.pooling.dense.weight.T + model.pooling.dense.bias)
    elif pooling == "mean":
        pooled = torch.stack([row[kept].mean(0) for row, kept in zip(states, mask, strict=True)])
    else:
        pooled = model.pooling(states, mask=mask)[0]
    expected = pooled @ model.output.weight.T + model.output.bias
    torch.testing.assert_close(model(ids, mask=mask), expected, atol=1e-5, rtol=1e-5)
    assert (model(ids, mask=mask) - model(ids)).abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["cls", "mean", "attentive"])
def test_classifier_does_not_see_padding(pooling: str) -> None:
    model = classifier(pooling=pooling)
    ids, mask = ids_and_mask()
    expected = model(ids, mask=mask)
    torch.testing.assert_close(model(ids.masked_fill(~mask, 7), mask=mask), expected)
    torch.testing.assert_close(model(ids[1:2, :4]), expected[1:2], atol=1e-5, rtol=1e-5)
    empty = mask.clone()
    empty[1] = False
    assert model(ids, mask=empty).isfinite().all()


@pytest.mark.parametrize("pooling", ["cls", "mean", "attentive"])
def test_classifier_over_fewer_states(pooling: str) -> None:
    model = SequenceClassifier(TextEmbedding(VOCABULARY, DIM), Halves(), num_classes=2, pooling=pooling).eval()
    ids, mask = ids_and_mask()
    expected = model(ids, mask=mask)
    other = ids.clone()
    other[1, 4:] = 3
    torch.testing.assert_close(model(other, mask=mask), expected)


def test_batch_encoding_as_it_comes() -> None:
    transformers = pytest.importorskip("transformers")
    model = classifier(pooling="mean")
    ids, mask = ids_and_mask()
    batch = transformers.BatchEncoding(
        {
            "input_ids": ids,
            "attention_mask": mask.long(),
            "token_type_ids": torch.zeros_like(ids),
            "special_tokens_mask": torch.zeros_like(ids),
            "labels": torch.zeros(3),
        }
    )
    torch.testing.assert_close(model(batch), model(ids, mask=mask))
    torch.testing.assert_close(model({"input_ids": ids}), model(ids))
    tagger = TokenTagger(TextEmbedding(VOCABULARY, DIM, types=2), encoder(), num_classes=2).eval()
    with torch.no_grad():
        tagger.embedding.token_type.weight.normal_()
    batch["token_type_ids"] = ids % 2
    torch.testing.assert_close(tagger(batch), tagger(ids, mask=mask, types=ids % 2))
    assert not torch.allclose(tagger(batch), tagger(ids, mask=mask))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, ids, mask: m({"input_ids": ids}, mask=mask), "mask: given beside a batch encoding"),
        (lambda m, ids, mask: m({"attention_mask": mask}), "ids: expected a batch encoding with input_ids"),
        (lambda m, ids, mask: m({"input_ids": ids, "position_ids": ids}), "would not be used: position_ids"),
        (lambda m, ids, mask: m({"input_ids": ids.tolist()}), 'input_ids: expected a tensor, got list; .*"pt"'),
        (lambda m, ids, mask: m(ids, mask=mask.long()), r"mask: expected .* pass mask.bool\(\)"),
        (lambda m, ids, mask: m(ids, mask=mask[:1]), "mask: expected"),
        (lambda m, ids, mask: m(ids, context={"x": 1}), "context: no layer takes 'x'"),
        (lambda m, ids, mask: m(ids, types=ids), "types: this embedding has none"),
    ],
)
def test_classifier_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(classifier(), *ids_and_mask())


def test_construction_refuses() -> None:
    embedding = TextEmbedding(VOCABULARY, DIM)
    with pytest.raises(ValueError, match="pooling: expected one of cls, mean, attentive, got 'max'"):
        SequenceClassifier(embedding, encoder(), num_classes=2, pooling="max")
    with pytest.raises(ValueError, match="num_classes: must be at least 1, got 0"):
        SequenceClassifier(embedding, encoder(), num_classes=0)
    with pytest.raises(ValueError, match="embedding: has width 8, the encoder has 16"):
        SequenceClassifier(TextEmbedding(VOCABULARY, 8), encoder(), num_classes=2)
    with pytest.raises(ValueError, match="embedding: expected a TextEmbedding"):
        MaskedLM(nn.Embedding(VOCABULARY, DIM), encoder())
    with pytest.raises(ValueError, match="gave 3 states for 6 tokens"):
        TokenTagger(embedding, Halves(), num_classes=2)(ids_and_mask()[0])


# --- tagger and masked language model


def test_tagger_is_the_head_on_every_state() -> None:
    torch.manual_seed(0)
    model = TokenTagger(TextEmbedding(VOCABULARY, DIM), encoder(), num_classes=4).eval()
    ids, mask = ids_and_mask()
    states = model.encoder(model.embedding(ids), mask=mask).states
    expected = states @ model.output.weight.T + model.output.bias
    torch.testing.assert_close(model(ids, mask=mask), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("embed_dim", [None, 10])
def test_masked_language_model(embed_dim: int | None) -> None:
    torch.manual_seed(0)
    model = MaskedLM(TextEmbedding(VOCABULARY, DIM, embed_dim=embed_dim), encoder()).eval()
    with torch.no_grad():
        model.bias.normal_()
    ids, mask = ids_and_mask()
    logits = model(ids, mask=mask)
    states = model.encoder(model.embedding(ids), mask=mask).states
    hidden = nn.functional.gelu(states @ model.dense.weight.T + model.dense.bias, approximate="tanh")
    hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:], eps=1e-12)
    torch.testing.assert_close(logits, hidden @ model.embedding.word.weight.T + model.bias, atol=1e-4, rtol=1e-4)
    positions = torch.tensor([[5, 0], [3, 3], [0, 1]])
    some = model(ids, mask=mask, positions=positions)
    for row in range(3):
        torch.testing.assert_close(some[row], logits[row, positions[row]])
    assert sum("word" in name for name in model.state_dict()) == 1
    for wrong in (positions[:2], positions[0]):
        with pytest.raises(ValueError, match=r"positions: expected \(batch, positions\) = \(3, positions\)"):
            model(ids, positions=wrong)


def test_masked_language_model_learns_through_its_table() -> None:
    model = MaskedLM(TextEmbedding(VOCABULARY, DIM), encoder())
    ids, mask = ids_and_mask()
    model(ids, mask=mask).sum().backward()
    # Words that are not in the text have a gradient as outputs only.
    absent = [word for word in range(VOCABULARY) if word not in ids.unique().tolist()]
    assert model.embedding.word.weight.grad[absent].abs().sum(1).all()


def test_bfloat16() -> None:
    ids, mask = ids_and_mask()
    model = classifier(pooling="attentive")
    expected = model(ids, mask=mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (model(ids, mask=mask).float() - expected).norm() < 0.02 * expected.norm()
    pooling = AttentivePooling(DIM)
    assert_bf16_close(pooling, torch.randn(3, 6, DIM), mask=mask)
