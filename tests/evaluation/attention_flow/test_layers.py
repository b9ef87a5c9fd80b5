"""Attention weights at the door, rollout, raw weights, and encoder-decoders as one graph."""

import numpy as np
import pytest
import torch
from flow_twins import capacities, networkx_flow, random_attention

from paperworks.evaluation.attention_flow.flow import attention_flow
from paperworks.evaluation.attention_flow.layers import (
    attention_graph,
    attention_rollout,
    encoder_decoder_layers,
    raw_attention,
)
from paperworks.nn.attention_maps import AttentionMaps


def official_rollout(weights):
    """The official code's arithmetic: add I, divide rows by their sum, multiply upwards."""
    weights = weights + np.eye(weights.shape[1])[None]
    weights = weights / weights.sum(-1)[..., None]
    joint = np.zeros(weights.shape)
    joint[0] = weights[0]
    for layer in range(1, len(weights)):
        joint[layer] = weights[layer].dot(joint[layer - 1])
    return joint


def test_rollout_is_the_official_one():
    attention = random_attention(0, 5, 7, heads=4)
    expected = official_rollout(attention.mean(1).numpy())
    np.testing.assert_allclose(attention_rollout(attention, source_layer="all")[0], expected, atol=1e-12)
    np.testing.assert_allclose(attention_rollout(attention, sources=[3])[0, 0], expected[-1, 3], atol=1e-12)


def test_rollout_has_gradients_and_flow_has_none():
    logits = torch.randn(3, 1, 2, 4, 4, requires_grad=True)
    attention = tuple(logits.softmax(-1).unbind(0))
    attention_rollout(attention)[0, -1, 0].backward()
    assert logits.grad.abs().sum() > 0
    assert not attention_flow(attention).requires_grad


def test_raw_weights_have_no_residual():
    attention = random_attention(1, 3, 5, heads=2)
    torch.testing.assert_close(raw_attention(attention)[0], attention[-1].mean(0))
    torch.testing.assert_close(raw_attention(attention, source_layer=0, heads=1)[0], attention[0, 1])
    assert raw_attention(attention, source_layer="all", sources=[0]).shape == (1, 3, 1, 5)


def test_precision_follows_the_weights():
    attention = random_attention(2, 2, 4).float()
    assert attention_rollout(attention).dtype == torch.float32
    assert attention_flow(attention).dtype == torch.float64
    half = attention.to(torch.bfloat16)
    with pytest.raises(ValueError, match="renormalize=True"):
        attention_rollout(torch.stack([half, half]) * 0.9)
    torch.testing.assert_close(
        attention_rollout(half, renormalize=True), attention_rollout(attention), atol=0.02, rtol=0
    )


def test_the_empty_tuple_of_fused_attention_is_named():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )
    config._attn_implementation = "sdpa"
    model = transformers.BertModel(config).eval()
    given = model(torch.arange(4)[None], output_attentions=True).attentions
    with pytest.raises(ValueError, match="attentions is empty: load the model with attn_implementation='eager'"):
        attention_flow(given)


@pytest.mark.parametrize(
    ("attentions", "words"),
    [
        ((), "attentions is empty"),
        ((None, None), "attentions is empty"),
        (torch.rand(4, 4), r"got shape \(4, 4\)"),
        (torch.rand(2, 4, 5), "layer 0: expected a tensor"),
        ((torch.rand(1, 2, 4, 4), torch.rand(1, 2, 5, 5)), "layer 1 has shape"),
        (("a",), "layer 0: expected a tensor"),
        (torch.full((2, 4, 4), torch.nan), "layer 0 holds NaN"),
        (torch.full((2, 2, 2), 0.5) - torch.tensor([1.0, -1.0]), "layer 0 holds negative weights, down to -0.5"),
        (torch.ones(2, 4, 4, dtype=torch.int64), "expected floating-point weights"),
    ],
)
def test_unfit_weights_are_named(attentions, words):
    with pytest.raises(ValueError, match=words):
        attention_graph(attentions)


def test_rows_that_do_not_sum_to_one_name_their_layer():
    attention = random_attention(3, 4, 5)[:, 0]
    attention[3] *= torch.linspace(0.71, 0.99, 5)[:, None]
    words = r"attentions: layer 3 rows sum to 0.71..0.99, expected 1; pass residual= or renormalize=True"
    with pytest.raises(ValueError, match=words):
        attention_graph(attention)
    torch.testing.assert_close(
        attention_graph(attention, renormalize=True).layers, attention_graph(random_attention(3, 4, 5)).layers
    )


def test_a_token_that_attends_to_dropped_tokens_alone():
    attention = torch.eye(3)[[1, 1, 2]].double().expand(2, 3, 3)
    with pytest.raises(ValueError, match="mask: a token attends to dropped tokens alone"):
        attention_graph(attention, mask=torch.tensor([[True, False, True]]))


def test_encoder_decoder_graph_equals_one_drawn_by_hand():
    encoder, decoder = random_attention(4, 2, 4, heads=2), random_attention(5, 2, 3, heads=2, causal=True)
    rng = np.random.default_rng(0)
    cross = rng.random((2, 2, 3, 4))
    cross = torch.from_numpy(cross / cross.sum(-1, keepdims=True))
    maps = AttentionMaps(*(tuple(part[:, None].unbind(0)) for part in (encoder, decoder, cross)))
    layers = encoder_decoder_layers(maps)
    assert layers.shape == (1, 6, 7, 7)
    torch.testing.assert_close(layers.sum(-1), torch.ones(1, 6, 7).double())
    found = attention_flow(layers[:, :, None], residual=0.0, sources=[4, 5, 6])[0].numpy()

    networkx = pytest.importorskip("networkx")
    graph, source_graph, target_graph = networkx.DiGraph(), capacities(encoder), capacities(decoder)
    for layer in range(2):
        for i in range(4):
            for j in range(4):
                graph.add_edge(("e", layer + 1, i), ("e", layer, j), capacity=source_graph[layer, i, j])
        for t in range(3):
            for u in range(3):
                graph.add_edge(("d", 2 * layer + 1, t), ("d", 2 * layer, u), capacity=target_graph[layer, t, u])
            graph.add_edge(("d", 2 * layer + 2, t), ("d", 2 * layer + 1, t), capacity=0.5)
            for j in range(4):
                weight = 0.5 * cross[layer, :, t, j].mean().item()
                graph.add_edge(("d", 2 * layer + 2, t), ("e", 2, j), capacity=weight)
    sinks = [("e", 0, i) for i in range(4)] + [("d", 0, t) for t in range(3)]
    for t in range(3):
        for place, sink in enumerate(sinks):
            expected = networkx.maximum_flow_value(graph, ("d", 4, t), sink)
            assert found[t, place] == pytest.approx(expected, abs=1e-9)
    # Everything that leaves an output arrives at one kind of input or the other.
    assert attention_rollout(layers[:, :, None], residual=0.0)[0, 4:].sum() == pytest.approx(3.0)
    with pytest.raises(ValueError, match="got none for cross"):
        encoder_decoder_layers(AttentionMaps(maps.encoder, maps.decoder))
    assert networkx_flow(capacities(encoder), 0, [0]) > 0
