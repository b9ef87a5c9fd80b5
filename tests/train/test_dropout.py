"""Dropout at prediction time touches dropout alone and leaves no trace."""

import pytest
import torch
from torch import nn

from paperworks.nn import AttentionMixing, BlockOptions, MixerEncoder
from paperworks.train.dropout import is_attention, mc_dropout


class Mixed(nn.Module):
    """A dropout, a batch norm, an attention with functional dropout, and parts in unequal modes."""

    def __init__(self, rate=0.5):
        super().__init__()
        self.first, self.dropout = nn.Linear(8, 8), nn.Dropout(rate)
        self.norm, self.attention = nn.BatchNorm1d(8), nn.MultiheadAttention(8, 2, dropout=rate, batch_first=True)
        self.layerdrop = 0.3
        self.norm.eval()

    def forward(self, x):
        assert self.layerdrop == 0.0 or not self.training
        x = self.norm(self.dropout(self.first(x)))
        return self.attention(x[None], x[None], x[None])[0][0]


def modes(model):
    return {name: part.training for name, part in model.named_modules()}


def test_draws_differ_are_repeatable_and_leave_the_batch_norm_alone():
    model, x = Mixed(), torch.randn(5, 8)
    model.eval()
    before = model.norm.running_mean.clone()
    with mc_dropout(model):
        torch.manual_seed(0)
        one, two = model(x), model(x)
        torch.manual_seed(0)
        again = model(x)
    assert torch.equal(one, again)
    assert not torch.allclose(one, two)
    assert torch.equal(model.norm.running_mean, before)


def test_without_dropout_it_is_the_deterministic_model():
    model, x = Mixed(rate=0.0).eval(), torch.randn(5, 8)
    expected = model(x)
    with mc_dropout(model):
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("training", [True, False])
def test_state_is_restored_even_after_an_exception(training):
    model = Mixed().train(training)
    model.dropout.train(not training)
    before = modes(model)
    seen = []

    def fail():
        with mc_dropout(model, attention=False):
            seen.append((model.layerdrop, model.dropout.training))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert seen == [(0.0, True)]
    assert modes(model) == before
    assert model.layerdrop == 0.3


def test_attention_weights_can_be_left_out():
    model, x = Mixed().eval(), torch.randn(5, 8)
    model.dropout.p = 0.0
    expected = model(x)
    with mc_dropout(model, attention=False):
        torch.testing.assert_close(model(x), expected)
    with mc_dropout(model):
        assert not torch.allclose(model(x), expected)


def test_our_attention_and_that_of_transformers_are_recognised():
    encoder = MixerEncoder(lambda layer: AttentionMixing(8, 2), dim=8, depth=1, block=BlockOptions(ffn_dim=8))
    assert [name for name, part in encoder.named_modules() if is_attention(part)] == ["layers.0.mixer"]
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(vocab_size=10, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with torch.device("meta"):
        model = transformers.T5ForConditionalGeneration(config)
    found = [name for name, part in model.named_modules() if is_attention(part)]
    # Not T5LayerSelfAttention, whose dropout is on the residual.
    assert found == [
        "encoder.block.0.layer.0.SelfAttention",
        "decoder.block.0.layer.0.SelfAttention",
        "decoder.block.0.layer.1.EncDecAttention",
    ]
    config = transformers.BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    with torch.device("meta"):
        model = transformers.BertModel(config)
    assert [name for name, part in model.named_modules() if is_attention(part)] == ["encoder.layer.0.attention.self"]


def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match="model: expected a torch module, got int"), mc_dropout(3):
        pass
