"""Attention weights of models from four libraries, and models left as they were."""

import pytest
import torch
from torch import nn

from paperworks.nn import (
    AttentionMixing,
    BlockOptions,
    CrossAttentionMixing,
    MixerDecoder,
    MixerEncoder,
    SequenceClassifier,
    TextEmbedding,
)
from paperworks.nn.attention_maps import attentions_of
from paperworks.testing import assert_module_state_restored

BLOCK = BlockOptions(ffn_dim=32, norm="pre")
IDS = torch.randint(2, 40, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(7) < torch.tensor([7, 4, 2])[:, None]


def transformers_model(name, **options):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = getattr(transformers, name + options.pop("head", "Model"))
    model = model(getattr(transformers, name + "Config")(vocab_size=40, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def bert(**options):
    return transformers_model(
        "Bert", hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, **options
    )


def t5(**options):
    return transformers_model(
        "T5", d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0, **options
    )


def expect_rows(maps, shape):
    for weights in maps:
        assert weights.shape == shape
        torch.testing.assert_close(weights.sum(-1), torch.ones(shape[:-1]))


def test_bert_under_the_default_kernel() -> None:
    model = bert()
    assert model.config._attn_implementation == "sdpa"
    maps = attentions_of(model, {"input_ids": IDS, "attention_mask": MASK.long()})
    assert (len(maps.encoder), maps.decoder, maps.cross) == (2, (), ())
    expect_rows(maps.encoder, (3, 4, 7, 7))
    eager = bert(attn_implementation="eager").eval()
    expected = eager(input_ids=IDS, attention_mask=MASK.long(), output_attentions=True).attentions
    for found, wanted in zip(maps.encoder, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert model.config._attn_implementation == "sdpa"
    assert model.training


def test_causal_language_models_are_decoders() -> None:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16}
    for head in ("Model", "LMHeadModel"):
        maps = attentions_of(transformers_model("GPT2", head=head, **sizes), IDS)
        assert (maps.encoder, len(maps.decoder), maps.cross) == ((), 2, ())
        expect_rows(maps.decoder, (3, 4, 7, 7))
        assert maps.decoder[0].triu(1).abs().max() == 0


def test_encoder_decoder() -> None:
    target = IDS[:, :5]
    maps = attentions_of(t5(head="ForConditionalGeneration"), {"input_ids": IDS, "decoder_input_ids": target})
    assert (len(maps.encoder), len(maps.decoder), len(maps.cross)) == (2, 2, 2)
    expect_rows(maps.encoder, (3, 4, 7, 7))
    expect_rows(maps.decoder, (3, 4, 5, 5))
    expect_rows(maps.cross, (3, 4, 5, 7))
    encoder_alone = attentions_of(transformers_model("T5", head="EncoderModel", d_model=16, d_kv=4, num_layers=2), IDS)
    assert len(encoder_alone.encoder) == 2
    assert encoder_alone.decoder == ()


def test_a_model_without_attention_is_refused() -> None:
    model = transformers_model("FNet", hidden_size=16, num_hidden_layers=1, intermediate_size=32)
    with pytest.raises(ValueError, match=r"FNetModel returned no attentions.*attn_implementation='eager'"):
        attentions_of(model, IDS)
    with pytest.raises(ValueError, match="found no attention in Linear"):
        attentions_of(nn.Linear(3, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"expected an nn\.Module, got str"):
        attentions_of("bert", IDS)  # pyright: ignore


def test_settings_and_modes_return_even_after_an_exception() -> None:
    model = bert()
    model.encoder.layer[0].eval()
    modes = [part.training for part in model.modules()]
    with pytest.raises(Exception, match="index out of range"):
        attentions_of(model, IDS + 1000)
    assert model.config._attn_implementation == "sdpa"
    assert modes == [part.training for part in model.modules()]


def vit():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=3, num_classes=4, patch_size=8
    )


def test_timm_vit_equals_its_fused_self() -> None:
    model, images = vit(), torch.randn(2, 3, 32, 32)
    seen = []
    attention = model.blocks[1].attn
    hook = attention.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    maps = attentions_of(model, images)
    hook.remove()
    expect_rows(maps.encoder, (2, 3, 17, 17))
    assert len(maps.encoder) == 2
    query, key, _ = attention.qkv(seen[0]).reshape(2, 17, 3, 3, 8).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(maps.encoder[1], (query @ key.mT / 8**0.5).softmax(-1))
    assert all(block.attn.fused_attn for block in model.blocks)


def test_windows_are_no_sequence() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, depths=(1,), num_heads=(2,), embed_dim=8, num_classes=2
    )
    with pytest.raises(ValueError, match="within windows"):
        attentions_of(model, torch.randn(2, 3, 56, 56))


def test_multihead_attention_keeps_its_callers_answers() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    x = torch.randn(2, 5, 16)
    _, expected = attention(x, x, x, average_attn_weights=False)
    maps = attentions_of(attention, (x, x, x))
    torch.testing.assert_close(maps.encoder[0], expected)

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x):
            self.plain = self.attention(x, x, x)
            self.without = self.attention(x, x, x, None, False)
            return self.attention(query=x, key=x, value=x, need_weights=True, average_attn_weights=False)

    caller = Caller()
    assert len(attentions_of(caller, x).encoder) == 3
    torch.testing.assert_close(caller.plain[1], expected.mean(1))
    assert caller.without[1] is None


def test_torch_transformer_off_its_fast_path() -> None:
    torch.manual_seed(0)
    model = nn.Transformer(16, 4, 2, 2, 32, batch_first=True)
    source, target = torch.randn(3, 7, 16), torch.randn(3, 5, 16)
    with torch.no_grad():
        maps = attentions_of(model, (source, target))
    expect_rows(maps.encoder, (3, 4, 7, 7))
    expect_rows(maps.decoder, (3, 4, 5, 5))
    expect_rows(maps.cross, (3, 4, 5, 7))
    assert (len(maps.encoder), len(maps.decoder), len(maps.cross)) == (2, 2, 2)
    assert torch.backends.mha.get_fastpath_enabled()
    first = model.eval().encoder.layers[0].self_attn
    _, expected = first(source, source, source, average_attn_weights=False)
    torch.testing.assert_close(maps.encoder[0], expected)
    time_first = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32), 1, enable_nested_tensor=False)
    expect_rows(attentions_of(time_first, torch.randn(7, 3, 16)).encoder, (3, 4, 7, 7))


def test_our_encoder_and_classifier() -> None:
    torch.manual_seed(0)
    encoder = MixerEncoder(lambda layer: AttentionMixing(16, 4), dim=16, depth=2, block=BLOCK)
    model = SequenceClassifier(TextEmbedding(40, 16, max_length=8), encoder, num_classes=2)
    maps = attentions_of(model, {"ids": IDS, "mask": MASK})
    expect_rows(maps.encoder, (3, 4, 7, 7))
    assert maps.encoder[0][1, :, :, 4:].max() == 0
    again = attentions_of(model, {"input_ids": IDS, "attention_mask": MASK.long()})
    torch.testing.assert_close(maps.encoder[1], again.encoder[1])
    assert_module_state_restored(model, lambda model: attentions_of(model, IDS))


def test_our_decoder() -> None:
    torch.manual_seed(0)
    model = MixerDecoder(
        lambda layer: AttentionMixing(16, 4, causal=True),
        lambda layer: CrossAttentionMixing(16, 4),
        dim=16,
        depth=2,
        block=BLOCK,
    ).eval()
    x, memory = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    maps = attentions_of(model, {"x": x, "memory": memory, "memory_mask": MASK})
    expect_rows(maps.decoder, (3, 4, 5, 5))
    expect_rows(maps.cross, (3, 4, 5, 7))
    assert maps.encoder == ()
    cross, seen = model.layers[0].cross, []
    cross.register_forward_pre_hook(lambda _, args, named: seen.append(args[0]), with_kwargs=True)
    found = []
    cross.register_forward_hook(lambda _, args, output: found.append(output))
    model(x, memory, memory_mask=MASK)
    values = cross.read(memory, memory_mask=MASK).values
    mixed = (maps.cross[0] @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(cross.output(mixed), found[0])


def test_gradients_follow_the_caller() -> None:
    encoder = MixerEncoder(lambda layer: AttentionMixing(16, 4), dim=16, depth=1, block=BLOCK)
    x = torch.randn(1, 4, 16)
    assert attentions_of(encoder, x).encoder[0].requires_grad
    with torch.no_grad():
        assert not attentions_of(encoder, x).encoder[0].requires_grad
