"""The decoder against PyTorch's, its masks and its streams."""

import pytest
import torch
from torch import Tensor, nn

from paperworks.nn import AttentionMixing, BlockOptions, CrossAttentionMixing, MixerDecoder
from paperworks.testing import assert_bf16_close, assert_causal, assert_mask_respected

DIM, HEADS = 16, 4


def decoder_of(*, depth: int = 2, causal: bool = True, **options) -> MixerDecoder:
    torch.manual_seed(0)
    decoder = MixerDecoder(
        lambda layer: AttentionMixing(DIM, HEADS, causal=causal),
        lambda layer: CrossAttentionMixing(DIM, HEADS),
        dim=DIM,
        depth=depth,
        block=BlockOptions(ffn_dim=32, **options),
    )
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return decoder.eval()


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_equals_pytorchs_decoder_layer(norm: str) -> None:
    ours = decoder_of(depth=1, norm=norm, norm_eps=1e-5, activation="relu", final_norm=False)
    layer = ours.layers[0]
    peer = nn.TransformerDecoderLayer(DIM, HEADS, 32, activation="relu", batch_first=True, norm_first=norm == "pre")
    cross = layer.cross
    state = {
        "self_attn.in_proj_weight": layer.mixer.qkv.weight,
        "self_attn.in_proj_bias": layer.mixer.qkv.bias,
        "self_attn.out_proj.weight": layer.mixer.output.weight,
        "self_attn.out_proj.bias": layer.mixer.output.bias,
        "multihead_attn.in_proj_weight": torch.cat([cross.query.weight, cross.key_value.weight]),
        "multihead_attn.in_proj_bias": torch.cat([cross.query.bias, cross.key_value.bias]),
        "multihead_attn.out_proj.weight": cross.output.weight,
        "multihead_attn.out_proj.bias": cross.output.bias,
        "linear1.weight": layer.feed_forward.inner.weight,
        "linear1.bias": layer.feed_forward.inner.bias,
        "linear2.weight": layer.feed_forward.outer.weight,
        "linear2.bias": layer.feed_forward.outer.bias,
    }
    residuals = (layer.mixer_residual, layer.cross_residual, layer.feed_forward_residual)
    for number, residual in enumerate(residuals, 1):
        state |= {f"norm{number}.{name}": tensor for name, tensor in residual.norm.state_dict().items()}
    peer.load_state_dict({name: tensor.detach() for name, tensor in state.items()})
    x, memory = torch.randn(2, 5, DIM), torch.randn(2, 7, DIM)
    memory_mask = torch.arange(7) < torch.tensor([7, 3])[:, None]
    future = ~torch.ones(5, 5, dtype=torch.bool).tril()
    expected = peer.eval()(x, memory, tgt_mask=future, memory_key_padding_mask=~memory_mask)
    got = ours(x, memory, memory_mask=memory_mask).states
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_streaming_equals_parallel(norm: str) -> None:
    decoder = decoder_of(norm=norm)
    x, memory = torch.randn(3, 6, DIM), torch.randn(3, 4, DIM)
    memory_mask = torch.arange(4) < torch.tensor([4, 2, 1])[:, None]
    state = decoder.init_state(memory, memory_mask=memory_mask)
    outputs = []
    for position in range(6):
        y, state = decoder.step(x[:, position], state)
        outputs.append(y)
    parallel = decoder(x, memory, memory_mask=memory_mask).states
    torch.testing.assert_close(torch.stack(outputs, 1), parallel, atol=1e-5, rtol=1e-5)


def test_masks_and_causality() -> None:
    decoder = decoder_of(causal=False)
    x, memory = torch.randn(3, 6, DIM), torch.randn(3, 4, DIM)
    assert_mask_respected(lambda y, mask=None: decoder(y, memory, mask=mask), x)
    mask = torch.tensor([[True, False, True, True], [False, True, False, False], [True] * 4])
    clean = decoder(x, memory, memory_mask=mask).states
    poisoned = memory.masked_fill(~mask[..., None], float("nan"))
    torch.testing.assert_close(decoder(x, poisoned, memory_mask=mask).states, clean)
    assert not torch.allclose(decoder(x, memory).states, clean)
    assert_causal(lambda y: decoder_of()(y, memory), x)
    assert_bf16_close(decoder, x, memory, memory_mask=mask)


def test_flops_and_traits() -> None:
    decoder = decoder_of()
    assert decoder.causal
    assert decoder.streams
    layer = decoder.layers[0]
    one = layer.mixer.flops(6) + layer.cross.flops(6, 4) + 4 * 6 * DIM * 32
    assert decoder.flops(6, 4) == 2 * one


def test_compiles_in_one_graph() -> None:
    decoder = decoder_of()
    x, memory = torch.randn(3, 6, DIM), torch.randn(3, 4, DIM)
    compiled = torch.compile(decoder, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, memory).states, decoder(x, memory).states)


class Deaf(nn.Module):
    def forward(self, x: Tensor, memory: Tensor, *, memory_mask: Tensor | None = None) -> Tensor:
        return x + memory.mean(1, keepdim=True)


def test_refuses() -> None:
    decoder = decoder_of()
    x, memory = torch.zeros(2, 3, DIM), torch.zeros(2, 4, DIM)
    cases = [
        (lambda: decoder(x, memory[:1]), r"memory: expected \(2, states, dim\), got shape \(1, 4, 16\)"),
        (lambda: decoder(x, memory[..., :3]), r"memory: expected \(batch, states, 16\)"),
        (lambda: decoder(x, memory, memory_mask=torch.ones(2, 3, dtype=torch.bool)), "memory_mask: expected"),
        (lambda: decoder(x[..., :2], memory), "x: expected"),
        (lambda: decoder(x, memory, context={"a": 1}), "context: no layer takes 'a'"),
        (lambda: decoder_of(causal=False).init_state(memory), "cannot stream, it is not causal"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    deaf = MixerDecoder(
        lambda layer: AttentionMixing(DIM, HEADS, causal=True),
        lambda layer: Deaf(),
        dim=DIM,
        depth=1,
        block=BlockOptions(ffn_dim=32),
    )
    assert deaf(x, memory).states.shape == x.shape
    assert not deaf.streams
    with pytest.raises(ValueError, match="Deaf cannot stream, it has no read and attend"):
        deaf.init_state(memory)
    with pytest.raises(ValueError, match="Deaf has no flops"):
        deaf.flops(3, 4)
