"""The shared encoder against PyTorch's and BERT's, its masks, limits, context, streams, and what it saves."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from paperworks.nn import (
    AttentionMixing,
    BlockOptions,
    Encoded,
    MixerEncoder,
    MixerLayer,
    PaddingMixedIn,
    Traits,
    hybrid,
    normal_init,
    traits_of,
)
from paperworks.nn import contract as contract_module
from paperworks.testing import assert_bf16_close, assert_compiles, assert_mask_respected, check_mixer

DIM, HEADS = 16, 4
BLOCK = BlockOptions(ffn_dim=32)


class Shift(nn.Module):
    """Each token becomes the one before it, times a learned vector: a causal mixer of few lines that streams."""

    causal = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, dim))

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        x = x if mask is None else x.masked_fill(~mask[..., None], 0)
        return self.scale * torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)

    def init_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, self.dim)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * state, x

    def flops(self, length: int) -> int:
        return length * self.dim


class Average(nn.Module):
    """Every token becomes the mean of all, padding included; for one length only."""

    supports_mask = False

    def __init__(self, dim: int, *, length: int | None = None) -> None:
        super().__init__()
        self.min_length = self.max_length = length

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        if self.max_length is not None and x.shape[1] != self.max_length:
            raise ValueError(f"Average: built for length {self.max_length}, got {x.shape[1]}")
        return x.mean(1, keepdim=True).expand_as(x)

    def flops(self, length: int) -> int:
        return length


class Tilted(nn.Module):
    """Adds a tensor that the call may bring along."""

    context_names = ("tilt",)

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, *, mask: Tensor | None = None, tilt: Tensor | None = None) -> Tensor:
        return x if tilt is None else x + x.roll(1, -1) * tilt[..., None]

    def flops(self, length: int) -> int:
        return 0


def encoder_of(mixer, *, depth: int = 2, **options) -> MixerEncoder:
    torch.manual_seed(0)
    return MixerEncoder(mixer, dim=DIM, depth=depth, block=BlockOptions(ffn_dim=32, **options)).eval()


def attention(layer: int) -> nn.Module:
    return AttentionMixing(DIM, HEADS)


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize(("activation", "peer_activation"), [("relu", "relu"), ("gelu", "gelu")])
def test_equals_pytorchs_encoder_layer(norm: str, activation: str, peer_activation: str) -> None:
    ours = encoder_of(attention, depth=1, norm=norm, activation=activation, norm_eps=1e-5, mixer_dropout=0.1)
    layer = ours.layers[0]
    peer = nn.TransformerEncoderLayer(
        DIM, HEADS, 32, activation=peer_activation, batch_first=True, norm_first=norm == "pre"
    )
    copies = {
        "self_attn.in_proj_weight": layer.mixer.qkv.weight,
        "self_attn.in_proj_bias": layer.mixer.qkv.bias,
        "self_attn.out_proj.weight": layer.mixer.output.weight,
        "self_attn.out_proj.bias": layer.mixer.output.bias,
        "linear1.weight": layer.feed_forward.inner.weight,
        "linear1.bias": layer.feed_forward.inner.bias,
        "linear2.weight": layer.feed_forward.outer.weight,
        "linear2.bias": layer.feed_forward.outer.bias,
        "norm1.weight": layer.mixer_residual.norm.weight,
        "norm1.bias": layer.mixer_residual.norm.bias,
        "norm2.weight": layer.feed_forward_residual.norm.weight,
        "norm2.bias": layer.feed_forward_residual.norm.bias,
    }
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(0.0, 0.5)
    peer.load_state_dict({name: tensor.detach() for name, tensor in copies.items()})
    x = torch.randn(3, 6, DIM)
    mask = torch.arange(6) < torch.tensor([6, 4, 1])[:, None]
    expected = peer.eval()(x, src_key_padding_mask=~mask)
    states = ours(x, mask=mask).states
    if norm == "pre":
        expected = ours.final_norm(expected)
    torch.testing.assert_close(states[mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_equals_bert() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=DIM, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=32
    )
    torch.manual_seed(0)
    bert = transformers.BertModel(config).eval()
    ours = encoder_of(attention, activation="gelu", mixer_dropout=0.1)
    with torch.no_grad():
        for parameter in bert.encoder.parameters():
            parameter.normal_(0.0, 0.3)
        for layer, other in zip(ours.layers, bert.encoder.layer, strict=True):
            attn = other.attention
            parts = (attn.self.query, attn.self.key, attn.self.value)
            layer.mixer.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
            layer.mixer.qkv.bias.copy_(torch.cat([part.bias for part in parts]))
            layer.mixer.output.load_state_dict(attn.output.dense.state_dict())
            layer.mixer_residual.norm.load_state_dict(attn.output.LayerNorm.state_dict())
            layer.feed_forward.inner.load_state_dict(other.intermediate.dense.state_dict())
            layer.feed_forward.outer.load_state_dict(other.output.dense.state_dict())
            layer.feed_forward_residual.norm.load_state_dict(other.output.LayerNorm.state_dict())
    ids = torch.randint(50, (2, 7))
    mask = torch.arange(7) < torch.tensor([7, 4])[:, None]
    expected = bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    got = ours(bert.embeddings(ids), mask=mask).states
    torch.testing.assert_close(got[mask], expected[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_t5_options(norm: str) -> None:
    encoder = encoder_of(lambda layer: Shift(DIM), norm=norm, norm_layer=nn.RMSNorm, norm_eps=1e-6, bias=False)
    assert not [name for name in encoder.state_dict() if "bias" in name]
    x = torch.randn(2, 5, DIM)
    expected = x
    for layer in encoder.layers:
        first, second = layer.mixer_residual.norm, layer.feed_forward_residual.norm

        def feed(y: Tensor, ffn: nn.Module = layer.feed_forward) -> Tensor:
            return nn.functional.gelu(y @ ffn.inner.weight.T, approximate="tanh") @ ffn.outer.weight.T

        if norm == "pre":
            expected = expected + layer.mixer(first(expected))
            expected = expected + feed(second(expected))
        else:
            expected = first(expected + layer.mixer(expected))
            expected = second(expected + feed(expected))
    if norm == "pre":
        rms = expected.pow(2).mean(-1, keepdim=True).add(1e-6).sqrt()
        expected = expected / rms
    torch.testing.assert_close(encoder(x).states, expected, atol=1e-5, rtol=1e-5)


def test_final_norm() -> None:
    assert isinstance(encoder_of(attention).final_norm, nn.Identity)
    assert isinstance(encoder_of(attention, norm="pre").final_norm, nn.LayerNorm)
    assert isinstance(encoder_of(attention, norm="pre", final_norm=False).final_norm, nn.Identity)
    assert isinstance(encoder_of(attention, final_norm=True).final_norm, nn.LayerNorm)


def test_dropouts_sit_where_the_paper_has_them() -> None:
    layer = encoder_of(lambda layer: Shift(DIM), dropout=0.3).layers[0]
    assert layer.mixer_residual.dropout.p == 0.0
    assert layer.feed_forward_residual.dropout.p == 0.3
    layer.train()
    x = torch.randn(2, 5, DIM)
    assert torch.equal(layer.mix(x, None, {}), layer.mix(x, None, {}))
    assert not torch.equal(layer.feed(x), layer.feed(x))


def test_defaults_are_fnets() -> None:
    layer = encoder_of(attention).layers[0]
    assert layer.mixer_residual.norm.eps == 1e-12
    assert layer.feed_forward_residual.norm.eps == 1e-12
    x = torch.linspace(-3, 3, 50)
    torch.testing.assert_close(layer.feed_forward.activation(x), nn.functional.gelu(x, approximate="tanh"))
    assert not torch.equal(layer.feed_forward.activation(x), nn.functional.gelu(x))


def test_initialisation_is_a_function() -> None:
    def fnet(feed_forward: nn.Module) -> None:
        normal_init(feed_forward)
        nn.init.normal_(feed_forward.inner.bias, std=0.02)

    torch.manual_seed(0)
    plain = MixerEncoder(lambda layer: Shift(256), dim=256, depth=1, block=BlockOptions(ffn_dim=512))
    drawn = MixerEncoder(lambda layer: Shift(256), dim=256, depth=1, block=BlockOptions(ffn_dim=512, init=fnet))
    for encoder in (plain, drawn):
        part = encoder.layers[0].feed_forward
        assert abs(part.inner.weight.std().item() - 0.02) < 0.001
        assert abs(part.outer.weight.std().item() - 0.02) < 0.001
        assert not part.outer.bias.any()
    assert not plain.layers[0].feed_forward.inner.bias.any()
    assert abs(drawn.layers[0].feed_forward.inner.bias.std().item() - 0.02) < 0.003


@pytest.mark.parametrize(
    "factory", [lambda layer: Shift(8), lambda layer: AttentionMixing(8, 2), lambda layer: Tilted(8)]
)
def test_small_mixers_keep_the_contract(factory) -> None:
    check_mixer(factory, dim=8)


def test_mixers_without_masks_keep_the_contract() -> None:
    check_mixer(lambda layer: Average(8), dim=8)
    check_mixer(lambda layer: Average(8, length=5), dim=8)
    check_mixer(lambda layer: Tilted(8), dim=8, context={"tilt": torch.ones(3, 12)})


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_masks(norm: str) -> None:
    encoder = encoder_of(attention, norm=norm)
    x = torch.randn(3, 6, DIM)
    assert_mask_respected(encoder, x)
    mask = torch.tensor([[True] * 4 + [False] * 2, [False] * 6, [True] * 6])
    poisoned = x.masked_fill(~mask[..., None], float("nan"))
    out = encoder(poisoned, mask=mask)
    assert out.states.isfinite().all()
    assert out.mask is mask
    torch.testing.assert_close(out.states[0, :4], encoder(x[:1, :4]).states[0], atol=1e-5, rtol=1e-5)


def test_a_mask_that_cannot_be_honoured_warns_once(monkeypatch) -> None:
    monkeypatch.setattr(contract_module, "_warned", set())
    encoder = encoder_of(lambda layer: Average(DIM))
    x, mask = torch.randn(2, 4, DIM), torch.tensor([[True] * 4, [True, True, False, False]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder(x)
    with pytest.warns(PaddingMixedIn, match="Average does not honour masks") as caught:
        masked = [encoder(x, mask=mask).states for _ in range(2)]
    assert len(caught) == 1
    torch.testing.assert_close(masked[1], encoder(x).states)


def test_traits_follow_from_the_layers() -> None:
    class Short(Shift):
        max_length = 9

    class Wide(Tilted):
        context_names = ("tilt", "roll")

    layers = [Short(DIM), Wide(DIM), Average(DIM)]
    encoder = encoder_of(lambda layer: layers[layer], depth=3)
    assert encoder.traits == Traits(
        causal=False, supports_mask=False, min_length=None, max_length=9, context_names=("tilt", "roll")
    )
    assert not encoder.streams
    causal = encoder_of(lambda layer: Shift(DIM))
    assert causal.causal
    assert causal.supports_mask
    assert causal.streams
    assert traits_of(nn.Linear(2, 2)) == Traits()


@pytest.mark.parametrize("length", [4, 6])
def test_lengths_outside_raise_before_any_work(length: int) -> None:
    calls = []

    class Spy(Shift):
        def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
            calls.append(x.shape)
            return super().forward(x, mask=mask)

    layers = [Spy(DIM), Average(DIM, length=5)]
    encoder = encoder_of(lambda layer: layers[layer])
    with pytest.raises(ValueError, match=f"built for length 5, got {length}"):
        encoder(torch.zeros(1, length, DIM))
    assert not calls
    encoder(torch.zeros(1, 5, DIM))
    assert len(calls) == 1


def test_context_goes_to_those_who_declare_it() -> None:
    layers = [Shift(DIM), Tilted(DIM)]
    encoder = encoder_of(lambda layer: layers[layer])
    x, tilt = torch.randn(2, 3, DIM), torch.randn(2, 3)
    first = encoder.layers[0](x)
    expected = encoder.layers[1](first, context={"tilt": tilt})
    torch.testing.assert_close(encoder(x, context={"tilt": tilt}).states, expected)
    assert not torch.allclose(encoder(x).states, expected)
    with pytest.raises(ValueError, match="context: no layer takes 'tild'; the layers take tilt"):
        encoder(x, context={"tild": tilt})
    with pytest.raises(ValueError, match="takes 'tilt'; the layers take no context at all"):
        encoder_of(attention)(x, context={"tilt": tilt})


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("rotary", [False, True])
def test_streaming_equals_parallel(norm: str, rotary: bool) -> None:
    kinds = [
        lambda: AttentionMixing(DIM, HEADS, causal=True, rotary=rotary),
        lambda: Shift(DIM),
        lambda: AttentionMixing(DIM, HEADS, causal=True),
    ]
    encoder = encoder_of(lambda layer: kinds[layer](), depth=3, norm=norm)
    x = torch.randn(3, 9, DIM)
    state = encoder.init_state(3)
    outputs = []
    for position in range(9):
        y, state = encoder.step(x[:, position], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), encoder(x).states, atol=1e-5, rtol=0)


def test_streams_refuse() -> None:
    with pytest.raises(ValueError, match="AttentionMixing cannot stream, it is not causal"):
        encoder_of(attention).init_state(1)

    class Deaf(Tilted):
        causal = True

    with pytest.raises(ValueError, match="Deaf cannot stream, it has no init_state and step"):
        encoder_of(lambda layer: Deaf(DIM)).init_state(1)

    class Short(Shift):
        max_length = 2

    encoder = encoder_of(lambda layer: Short(DIM))
    state = encoder.init_state(1)
    for _ in range(2):
        _, state = encoder.step(torch.zeros(1, DIM), state)
    with pytest.raises(ValueError, match="token 3 exceeds the 2"):
        encoder.step(torch.zeros(1, DIM), state)
    with pytest.raises(ValueError, match=r"x: expected \(batch, 16\), got shape \(1, 3\)"):
        encoder.step(torch.zeros(1, 3), state)


def test_hybrid_follows_its_layout() -> None:
    factory = hybrid(lambda layer: Shift(DIM), attention, [False, True, False])
    encoder = encoder_of(factory, depth=3)
    assert [type(layer.mixer) for layer in encoder.layers] == [Shift, AttentionMixing, Shift]
    for depth in (2, 4):
        with pytest.raises(ValueError, match=f"layout: has 3 layers, the encoder has depth {depth}"):
            encoder_of(factory, depth=depth)


def test_flops() -> None:
    encoder = encoder_of(attention)
    one_layer = AttentionMixing(DIM, HEADS).flops(10) + 2 * 10 * 2 * DIM * 32
    assert encoder.flops(10) == 2 * one_layer
    with pytest.raises(ValueError, match="Identity has no flops"):
        encoder_of(lambda layer: nn.Identity()).flops(10)


STATE_NAMES = [
    "mixer.qkv.weight",
    "mixer.qkv.bias",
    "mixer.output.weight",
    "mixer.output.bias",
    "mixer_residual.norm.weight",
    "mixer_residual.norm.bias",
    "feed_forward.inner.weight",
    "feed_forward.inner.bias",
    "feed_forward.outer.weight",
    "feed_forward.outer.bias",
    "feed_forward_residual.norm.weight",
    "feed_forward_residual.norm.bias",
]


def test_names_in_the_state_are_pinned() -> None:
    assert list(encoder_of(attention).state_dict()) == [f"layers.{n}.{name}" for n in (0, 1) for name in STATE_NAMES]
    final = ["final_norm.weight", "final_norm.bias"]
    assert list(encoder_of(attention, norm="pre").state_dict())[-2:] == final


class Slope(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.randn(HEADS))
        self.register_buffer("unit", torch.ones(1))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        return self.slope[:, None, None] * (queries[:, None] - keys).abs() * self.unit


def shared_encoder() -> MixerEncoder:
    slope = Slope()
    return MixerEncoder(lambda layer: AttentionMixing(DIM, HEADS, bias=slope), dim=DIM, depth=3, block=BLOCK).eval()


def test_shared_modules_are_saved_once(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    first, second = shared_encoder(), shared_encoder()
    names = [name for name in first.state_dict() if "slope" in name or "unit" in name]
    assert names == ["layers.0.mixer.bias.slope", "layers.0.mixer.bias.unit"]
    save_file(first.state_dict(), tmp_path / "model.safetensors")
    x = torch.randn(2, 5, DIM)
    assert not torch.allclose(first(x).states, second(x).states)
    second.load_state_dict(load_file(tmp_path / "model.safetensors"))
    torch.testing.assert_close(first(x).states, second(x).states)
    assert second.layers[0].mixer.bias.slope is second.layers[2].mixer.bias.slope


def test_shared_modules_inside_a_larger_model_and_a_whole_shared_mixer() -> None:
    import copy

    outer = nn.ModuleDict({"encoder": shared_encoder(), "head": nn.Linear(DIM, 2)})
    other = nn.ModuleDict({"encoder": shared_encoder(), "head": nn.Linear(DIM, 2)})
    assert sum("slope" in name for name in outer.state_dict()) == 1
    other.load_state_dict(copy.deepcopy(outer).state_dict())
    x = torch.randn(2, 5, DIM)
    torch.testing.assert_close(outer["encoder"](x).states, other["encoder"](x).states)
    mixer = AttentionMixing(DIM, HEADS)
    encoder = MixerEncoder(lambda layer: mixer, dim=DIM, depth=3, block=BLOCK)
    assert sum("qkv.weight" in name for name in encoder.state_dict()) == 1
    with pytest.raises(RuntimeError, match="Missing key"):
        encoder.load_state_dict({})


def test_shared_modules_train_as_one() -> None:
    encoder = shared_encoder()
    encoder(torch.randn(2, 5, DIM)).states.pow(3).sum().backward()
    gradient = encoder.layers[0].mixer.bias.slope.grad
    assert gradient is encoder.layers[2].mixer.bias.slope.grad
    assert gradient.any()
    assert sum(parameter is encoder.layers[0].mixer.bias.slope for parameter in encoder.parameters()) == 1


def test_bfloat16() -> None:
    assert_bf16_close(encoder_of(attention), torch.randn(2, 7, DIM))
    assert_bf16_close(
        encoder_of(lambda layer: AttentionMixing(DIM, HEADS, rotary=True, causal=True, bias=Slope()), norm="pre"),
        torch.randn(2, 7, DIM),
        mask=torch.tensor([[True] * 7, [True] * 3 + [False] * 4]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_compiles_in_one_graph(causal: bool) -> None:
    encoder = encoder_of(lambda layer: AttentionMixing(DIM, HEADS, causal=causal, rotary=True))
    x = torch.randn(3, 7, DIM)
    assert_compiles(encoder, x, more=((torch.randn(4, 7, DIM),), (torch.randn(5, 7, DIM),)))
    assert_compiles(encoder, x, mask=torch.arange(7) < torch.tensor([7, 3, 1])[:, None])


def test_graph_is_whole_without_a_compiler() -> None:
    """Tracing needs no C++ compiler, so this half of the promise is tested everywhere."""
    encoder = encoder_of(lambda layer: AttentionMixing(DIM, HEADS, causal=True, rotary=True))
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    x, mask = torch.randn(3, 7, DIM), torch.arange(7) < torch.tensor([7, 3, 1])[:, None]
    torch.testing.assert_close(compiled(x, mask=mask).states, encoder(x, mask=mask).states)
    torch.testing.assert_close(compiled(x).states, encoder(x).states)


def test_layer_alone() -> None:
    layer = MixerLayer(AttentionMixing(DIM, HEADS), dim=DIM, block=BLOCK).eval()
    x = torch.randn(2, 4, DIM)
    encoder = MixerEncoder(lambda index: AttentionMixing(DIM, HEADS), dim=DIM, depth=1, block=BLOCK).eval()
    encoder.layers[0].load_state_dict(layer.state_dict())
    assert isinstance(encoder(x), Encoded)
    torch.testing.assert_close(layer(x), encoder(x).states)
    with pytest.raises(ValueError, match=r"x: expected \(batch, length, 16\)"):
        layer(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="mask: expected"):
        layer(x, mask=torch.ones(2, 4))


class Wrong(nn.Module):
    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        return x[:, :1]


class Contradictory(Shift):
    min_length, max_length = 9, 3


class Bare(Shift):
    context_names = "tilt"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: encoder_of(AttentionMixing(DIM, HEADS)), "mixer: expected a factory layer_index -> module"),
        (lambda: encoder_of(lambda layer: None), "mixer: expected an nn.Module for layer 0, got NoneType"),
        (lambda: encoder_of(attention, depth=0), "depth: must be at least 1, got 0"),
        (
            lambda: encoder_of(attention)(torch.zeros(2, DIM)),
            r"x: expected \(batch, length, dim\), got shape \(2, 16\)",
        ),
        (lambda: encoder_of(attention)(torch.zeros(1, 2, 3)), r"x: expected \(batch, length, 16\)"),
        (lambda: encoder_of(attention)(torch.zeros(1, 0, DIM)), "expected at least 1 token"),
        (lambda: encoder_of(attention)(torch.zeros(1, 2, DIM), mask=torch.ones(1, 2).long()), r"pass mask.bool\(\)"),
        (
            lambda: encoder_of(lambda layer: Wrong())(torch.zeros(1, 2, DIM)),
            r"expected an output of shape \(1, 2, 16\)",
        ),
        (lambda: encoder_of(lambda layer: Contradictory(DIM)), "at least 9 tokens are needed and at most 3"),
        (lambda: encoder_of([Average(DIM, length=4), Average(DIM, length=5)].__getitem__), "at least 5 tokens"),
        (lambda: encoder_of(lambda layer: Bare(DIM)), r'write \("tilt",\)'),
        (lambda: MixerLayer(None, dim=DIM, block=BLOCK), "mixer: expected an nn.Module, got NoneType"),
        (lambda: BlockOptions(ffn_dim=0), "ffn_dim: must be at least 1, got 0"),
        (lambda: BlockOptions(ffn_dim=8, norm="middle"), "norm: expected one of post, pre, got 'middle'"),
        (lambda: BlockOptions(ffn_dim=8, activation="swish"), "activation: expected one of gelu_tanh, gelu, relu"),
        (lambda: BlockOptions(ffn_dim=8, dropout=1), r"dropout: expected a number in \[0, 1\), got 1"),
        (lambda: BlockOptions(ffn_dim=8, mixer_dropout=-0.1), "mixer_dropout: expected"),
    ],
)
def test_bad_input(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
