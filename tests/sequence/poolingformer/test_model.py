"""The model, its heads, its planning, and what it takes from RoBERTa."""

import pytest
import torch

from paperworks.sequence.poolingformer.checkpoint import poolingformer_from_roberta
from paperworks.sequence.poolingformer.model import Poolingformer, PoolingformerConfig
from paperworks.sequence.poolingformer.planning import attention_footprint, receptive_field
from paperworks.sequence.poolingformer.pooling import cell_band

SMALL = {"vocab_size": 50, "dim": 16, "depth": 3, "heads": 2, "ffn_dim": 32, "max_length": 128}


def config(**changes):
    return PoolingformerConfig(**(SMALL | {"window": 2, "pooled_window": 6} | changes))


@pytest.fixture(scope="module")
def roberta():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = transformers.RobertaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=66, initializer_range=0.3, type_vocab_size=1,
    )  # fmt: skip
    return transformers.RobertaModel(sizes, add_pooling_layer=False).eval()


def ids_and_mask(length, lengths):
    ids = torch.randint(3, 50, (len(lengths), length), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(length) < torch.tensor(lengths)[:, None]
    return ids.masked_fill(~mask, 1), mask


def test_with_a_wide_window_alone_it_is_roberta(roberta):
    model = poolingformer_from_roberta(roberta, max_length=64, window=64, second_level_layers=())
    ids, mask = ids_and_mask(64, [64, 40])
    expected = roberta(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(model(ids, mask=mask).states[mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_longer_models_repeat_positions_and_copy_projections(roberta, tmp_path):
    roberta.save_pretrained(tmp_path)
    model = poolingformer_from_roberta(tmp_path, max_length=4096, window=8, pooled_window=24, second_level_layers=[1])
    positions = model.embedding.position.weight
    torch.testing.assert_close(positions[64:128], positions[:64])
    torch.testing.assert_close(positions[:64], roberta.embeddings.position_embeddings.weight[2:])
    lower, upper = (layer.mixer for layer in model.encoder.layers)
    assert lower.level2 is None
    torch.testing.assert_close(upper.level2.qkv.weight, upper.level1.qkv.weight)
    assert upper.level2.qkv.weight is not upper.level1.qkv.weight
    assert upper.level2.pool_weight.abs().max() == 0
    ids, mask = ids_and_mask(4096, [4096, 90])
    model.train()(ids, mask=mask).states[mask].square().mean().backward()
    assert upper.level2.pool_weight.grad.abs().max() > 0


def test_other_models_are_refused(roberta):
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
        )
    )
    with pytest.raises(ValueError, match=r"name_or_path: expected one of roberta, .* got a bert model"):
        poolingformer_from_roberta(bert, max_length=8)
    with pytest.raises(ValueError, match="max_length: must be at least 1, got 0"):
        poolingformer_from_roberta(roberta, max_length=0)
    with pytest.raises(ValueError, match=r"second_level_layers: expected numbers in 0..1, got 2"):
        poolingformer_from_roberta(roberta, max_length=8, second_level_layers=[2])


def test_heads_share_the_encoder_and_have_their_shapes():
    model = Poolingformer(config()).eval()
    ids, mask = ids_and_mask(30, [30, 11])
    assert model.for_token_classification(4)(ids, mask=mask).shape == (2, 30, 4)
    assert model.for_sequence_classification(3)(ids, mask=mask).shape == (2, 3)
    answering = model.for_question_answering()
    question = torch.arange(30).expand(2, -1) < 4
    answers = answering(ids, mask=mask, context={"global_mask": question})
    assert answers.start.shape == answers.end.shape == (2, 30)
    assert answers.answer_type.shape == (2, 5)
    assert (answers.start.isfinite() == mask).all()
    assert answering.encoder is model.encoder
    plain = model(ids, mask=mask).states
    assert not torch.allclose(model(ids, mask=mask, global_mask=question).states, plain)


def test_second_level_where_it_is_asked_for():
    model = Poolingformer(config(second_level_layers=range(1, 3)))
    assert [layer.mixer.level2 is not None for layer in model.encoder.layers] == [False, True, True]


@pytest.mark.parametrize("layers", [(), (1,), None])
@pytest.mark.parametrize("pool_size", [1, 4, 5])
def test_sees_as_far_as_it_is_promised_and_no_farther(layers, pool_size):
    stride = min(pool_size, 4)
    sizes = config(
        depth=2, second_level_layers=layers, pool_size=pool_size, stride=stride, positions="none", pool="mean"
    )
    model = Poolingformer(sizes).double().eval()
    x = torch.randn(1, 101, 16, dtype=torch.double, requires_grad=True)
    for depth, reach in zip((1, 2), receptive_field(sizes), strict=True):
        farthest = [0, 0]
        for token in range(44, 52):
            states = x
            for layer in model.encoder.layers[:depth]:
                states = layer(states)
            (slope,) = torch.autograd.grad(states[0, token].sin().sum(), x)
            seen = slope[0].abs().sum(-1).nonzero().flatten()
            farthest = [max(farthest[0], token - int(seen[0])), max(farthest[1], int(seen[-1]) - token)]
        assert farthest == list(reach)


def test_a_causal_model_looks_back_alone():
    assert all(reach.right == 0 for reach in receptive_field(config(causal=True)))


def test_footprint_counts_the_pairs():
    for length in (1, 7, 50, 129):
        found = attention_footprint(length, window=3, pooled_window=10, stride=4, heads=2, dim=8)
        position = torch.arange(length)
        pairs = int(((position[:, None] - position).abs() <= 3).sum())
        pairs += int(cell_band(10, 5, 4, False, torch.device("cpu")).allowed(length, (length + 1) // 4 + 1).sum())
        assert found == {"scores": pairs, "flops": 32 * pairs, "bytes": 8 * pairs}
    full = attention_footprint(64, window=63, pooled_window=None, stride=4)
    assert full["scores"] == 64**2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attention_footprint(0, window=1, pooled_window=None, stride=1), "length: must be at least 1, got 0"),
        (lambda: attention_footprint(9, window=5, pooled_window=4, stride=4), "pooled_window: must be >= window"),
        (lambda: config(second_level_layers=(3,)), r"second_level_layers: expected numbers in 0..2, got 3"),
        (lambda: Poolingformer(config())(torch.zeros(1, 129, dtype=torch.long)), "ids: length 129 exceeds the 128"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
