"""Encoders of the transformers library behind the face of ours."""

import pytest
import torch
from torch import nn

from paperworks.nn import PaddingMixedIn, SequenceClassifier, TransformersEncoder, contract
from paperworks.testing import assert_mask_respected

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
}
IDS = torch.randint(2, 40, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(7) < torch.tensor([7, 4, 2])[:, None]


def bert() -> nn.Module:
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**SIZES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def test_equals_the_model_itself() -> None:
    model = bert()
    encoder = TransformersEncoder(model)
    states, mask = encoder(encoder.input_embeddings()(IDS), mask=MASK)
    expected = model(input_ids=IDS, attention_mask=MASK.long()).last_hidden_state
    torch.testing.assert_close(states[MASK], expected[MASK], atol=1e-5, rtol=1e-5)
    assert mask is MASK
    assert (encoder.dim, encoder.max_length, encoder.supports_mask, encoder.causal) == (16, 24, True, False)


def test_masks() -> None:
    assert_mask_respected(TransformersEncoder(bert()), torch.randn(3, 7, 16))


def test_classifier_on_top_saves_the_word_table_once() -> None:
    encoder = TransformersEncoder(bert())
    model = SequenceClassifier(encoder.input_embeddings(), encoder, num_classes=2, pooling="mean").eval()
    states = encoder.model(input_ids=IDS, attention_mask=MASK.long()).last_hidden_state
    pooled = torch.stack([row[kept].mean(0) for row, kept in zip(states, MASK, strict=True)])
    torch.testing.assert_close(model(IDS, mask=MASK), model.output(pooled), atol=1e-5, rtol=1e-5)
    batch = transformers.BatchEncoding({"input_ids": IDS, "attention_mask": MASK.long()})
    torch.testing.assert_close(model(batch), model(IDS, mask=MASK))
    state = model.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    other_encoder = TransformersEncoder(bert())
    other = SequenceClassifier(other_encoder.input_embeddings(), other_encoder, num_classes=2, pooling="mean").eval()
    other.load_state_dict(state)
    torch.testing.assert_close(other(IDS, mask=MASK), model(IDS, mask=MASK))


def test_fnet_takes_no_mask(monkeypatch) -> None:
    monkeypatch.setattr(contract, "_warned", set())
    sizes = {name: value for name, value in SIZES.items() if name != "num_attention_heads"}
    model = transformers.FNetModel(transformers.FNetConfig(**sizes)).eval()
    encoder = TransformersEncoder(model)
    assert not encoder.supports_mask
    x = encoder.input_embeddings()(IDS)
    with pytest.warns(PaddingMixedIn, match="FNetModel does not honour masks"):
        masked = encoder(x, mask=MASK).states
    torch.testing.assert_close(masked, model(input_ids=IDS).last_hidden_state, atol=1e-5, rtol=1e-5)


def test_roberta_counts_positions_after_its_padding_id() -> None:
    model = transformers.RobertaModel(transformers.RobertaConfig(**SIZES, pad_token_id=1)).eval()
    encoder = TransformersEncoder(model)
    assert encoder.max_length == 22
    assert encoder(torch.zeros(1, 22, 16)).states.shape == (1, 22, 16)
    with pytest.raises(ValueError, match="length 23 exceeds the 22"):
        encoder(torch.zeros(1, 23, 16))


def test_refuses() -> None:
    with pytest.raises(ValueError, match="model: expected a transformers encoder that takes inputs_embeds, got Linear"):
        TransformersEncoder(nn.Linear(2, 2))
    encoder = TransformersEncoder(bert())
    with pytest.raises(ValueError, match="x: expected"):
        encoder(torch.zeros(1, 3, 5))
    with pytest.raises(ValueError, match="mask: expected"):
        encoder(torch.zeros(1, 3, 16), mask=torch.ones(1, 3))
    with pytest.raises(ValueError, match="context: no layer takes"):
        encoder(torch.zeros(1, 3, 16), context={"a": 1})
