"""ALTI: hand-made answers, the formulas once more in loops of NumPy, and decompositions that add up on real models."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from torch import nn

from paperworks.language.nmt_hallucinations import alti, alti_contributions, block_contributions, roll_out
from paperworks.language.nmt_hallucinations.alti_models import _blocks, alti_risk, model_contributions
from paperworks.language.nmt_hallucinations.models import translator
from paperworks.nn.attention_maps import attentions_of
from paperworks.testing import peak_bytes

from .conftest import FAMILIES


def random_block(seed, *, heads=2, width=4, length=4, dim=6, head_dim=5):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(heads, length, width))
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return {
        "weights": weights,
        "values": rng.normal(size=(heads, width, head_dim)),
        "projection": rng.normal(size=(dim, heads * head_dim)),
        "residual": rng.normal(size=(length, dim)),
        "bias": rng.normal(size=dim),
    }


def slow_contributions(
    weights, values, projection, residual, bias, *, gain=None, shift=None, eps=1e-5, own_column=False
):
    """One target at a time, straight from the equations."""
    heads, length, width = weights.shape
    dim, head_dim = len(projection), values.shape[2]
    per_head = projection.reshape(dim, heads, head_dim)
    rows = []
    for t in range(length):
        vectors = [sum(weights[h, t, j] * (per_head[:, h] @ values[h, j]) for h in range(heads)) for j in range(width)]
        if own_column:
            vectors.append(residual[t])
        else:
            vectors[t] = vectors[t] + residual[t]
        total = sum(vectors) + bias
        if gain is not None:
            deviation = np.sqrt(total.var() + eps)
            vectors = [(v - v.mean()) * gain / deviation for v in vectors]
            total = (total - total.mean()) / deviation * gain + shift
        row = [max(0.0, np.abs(total).sum() - np.abs(total - v).sum()) for v in vectors]
        # A target to which nothing contributes stays with its residual.
        residual_only = np.eye(len(row))[-1 if own_column else t]
        rows.append(np.array(row) / sum(row) if sum(row) else residual_only)
    return np.array(rows)


def tensors(block):
    named = {
        name: torch.tensor(value)[None] for name, value in block.items() if name in ("weights", "values", "residual")
    }
    return named | {"projection": torch.tensor(block["projection"]), "bias": torch.tensor(block["bias"])}


@pytest.fixture(params=["compiled", "plain"])
def either_way(request, monkeypatch):
    """The compiled pass, and what serves where numba is missing."""
    if request.param == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(alti, "has_numba", lambda: False)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("post", [False, True])
@pytest.mark.parametrize("own_column", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_formulas_in_numpy(seed, own_column, post):
    width = 7 if own_column else 4
    block = random_block(seed, width=width)
    norm, named = None, {}
    if post:
        torch.manual_seed(seed)
        norm = nn.LayerNorm(6, dtype=torch.float64)
        with torch.no_grad():
            norm.weight.normal_(1, 0.3)
            norm.bias.normal_()
        named = {"gain": norm.weight.detach().numpy(), "shift": norm.bias.detach().numpy()}
    expected = slow_contributions(**block, **named, own_column=own_column)
    for chunk in (1, 2**22):
        with torch.no_grad():
            found = block_contributions(**tensors(block), norm=norm, own_column=own_column, chunk=chunk)[0]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)
    assert found.shape == (4, width + own_column)


def test_a_linear_toy_by_hand():
    # One head that copies: attention (.75, .25) over values e1 and e2, residual 0. o = (.75, .25), |o|_1 = 1;
    # |o - T_1|_1 = .25, |o - T_2|_1 = .75, so c = (.75, .25), already of sum one.
    weights = torch.tensor([[[[0.75, 0.25], [0.0, 1.0]]]])
    values, eye = torch.eye(2)[None, None], torch.eye(2)
    found = block_contributions(weights, values, eye, torch.zeros(1, 2, 2))
    torch.testing.assert_close(found[0], torch.tensor([[0.75, 0.25], [0.0, 1.0]]))
    # With a residual e1 of its own: o = (1.75, .25); |o| = 2, distances (1.25, 1.75, 1.0), closer (.75, .25, 1).
    residual = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    cross = block_contributions(weights, values, eye, residual, own_column=True)
    torch.testing.assert_close(cross[0, 0], torch.tensor([0.75, 0.25, 1.0]) / 2)
    # Inside position t the residual joins its own vector: T_1 = (1.75, 0), closer (1.75, .25).
    own = block_contributions(weights, values, eye, residual)
    torch.testing.assert_close(own[0, 0], torch.tensor([1.75, 0.25]) / 2)


def test_layers_are_chained_as_the_paper_says():
    rng = np.random.default_rng(0)
    rows = lambda *shape: (lambda x: x / x.sum(-1, keepdims=True))(rng.random(shape))  # noqa: E731
    encoder = [rows(3, 3), rows(3, 3)]
    decoder = [np.tril(rows(2, 2)) for _ in range(2)]
    decoder = [d / d.sum(-1, keepdims=True) for d in decoder]
    cross = [rows(2, 4) for _ in range(2)]
    words = encoder[1] @ encoder[0]
    first = np.concatenate([cross[0][:, :3] @ words, cross[0][:, 3:] * decoder[0]], 1)
    source, prefix = cross[1][:, :3] @ words, cross[1][:, 3:] * decoder[1]
    second = np.concatenate([source + prefix @ first[:, :3], prefix @ first[:, 3:]], 1)
    second /= second.sum(1, keepdims=True)
    found = roll_out(*([torch.tensor(x)[None] for x in part] for part in (encoder, decoder, cross)))[0]
    np.testing.assert_allclose(found.numpy(), second, atol=1e-12)
    assert found.sum(1).tolist() == pytest.approx([1.0, 1.0])


def test_a_block_without_a_positive_contribution_stays_with_its_residual():
    weights = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]]])
    values = torch.tensor([[[[1.0], [-1.0]]]])
    found = block_contributions(weights, values, torch.eye(1), torch.zeros(1, 2, 1))
    assert found[0].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    cross = block_contributions(weights, values, torch.eye(1), torch.zeros(1, 2, 1), own_column=True)
    assert cross[0].tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_models_rows_sum_to_one_and_the_batch_changes_nothing(tiny, pairs, family):
    model, tokenizer, languages = tiny(family)
    together = alti_contributions(model, tokenizer, *pairs, **languages)
    special = 2 if languages else 1
    for found, source, output in zip(together, *pairs, strict=True):
        width, length = len(source.split()) + special, len(output.split()) + special
        assert found.shape == (length, width + length)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
        assert (found >= 0).all()
        # The first token has read nothing but the begin token.
        np.testing.assert_allclose(np.triu(found[:, width:], 1), 0, atol=1e-6)
    for row in (1, 4):
        alone = alti_contributions(model, tokenizer, [pairs[0][row]], [pairs[1][row]], **languages)[0]
        np.testing.assert_allclose(together[row], alone, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "pre"), [("marian", False), ("bart", False), ("m2m", True), ("mbart", True), ("t5", True)]
)
def test_the_parts_of_each_block_add_up_to_what_the_model_computes(tiny, family, pre):
    """Exactly: attention-weighted values plus bias plus residual is the next thing that the model reads."""
    model, tokenizer, languages = tiny(family)
    face = translator(model, tokenizer, **languages)
    source, target = face.sources(["w1 w2 w3"])[0].ids, face.targets(["w20 w21"])[0].ids
    ids, labels = torch.tensor([source]), torch.tensor([target])
    inputs = face.inputs(ids, torch.ones_like(ids).bool(), labels, torch.ones_like(labels).bool())
    blocks = _blocks(model)
    reached = {}
    hooks = []
    for place, block in enumerate(blocks):
        hooks.append(block.output.register_forward_hook(lambda _, i, o, place=place: reached.__setitem__(place, o)))
    with ExitStack() as undo, torch.no_grad():
        for block in blocks:
            block.watch(undo)
        maps = attentions_of(model, inputs)
    for hook in hooks:
        hook.remove()
    queues = {"encoder": list(maps.encoder), "decoder": list(maps.decoder), "cross": list(maps.cross)}
    for place, block in enumerate(blocks):
        weights = queues[block.part].pop(0)
        values = block.seen["values"].unflatten(-1, (block.heads, -1)).transpose(1, 2)
        mixed = block.output((weights @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixed, reached[place], atol=1e-5, rtol=1e-4)
        assert (block.seen["first"] == "normed") == pre
        if not pre:
            # After the block the norm reads exactly residual plus output.
            torch.testing.assert_close(block.seen["normed"], block.seen["read"] + mixed, atol=1e-5, rtol=1e-4)
        else:
            torch.testing.assert_close(block.norm(block.seen["normed"]), block.seen["read"], atol=1e-5, rtol=1e-4)


def test_a_marian_layer_equals_the_formulas_in_numpy(tiny):
    """All three blocks of a one-layer post-norm model, from its own weights and states, and their chain."""
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(3)
    config = MarianConfig(
        vocab_size=45, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0,
        max_position_embeddings=20,
    )  # fmt: skip
    model = MarianMTModel(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "decoder_input_ids": torch.tensor([[0, 9, 10]])}
    encoder, decoder = model.get_encoder(), model.get_decoder()
    states = {}

    def keep(name):
        return lambda module, args, named: states.__setitem__(
            name, (args[0] if args else named["hidden_states"]).detach()[0].numpy()
        )

    encoder_layer, decoder_layer = encoder.layers[0], decoder.layers[0]
    hooks = [
        encoder_layer.self_attn.register_forward_pre_hook(keep("encoder"), with_kwargs=True),
        decoder_layer.self_attn.register_forward_pre_hook(keep("decoder"), with_kwargs=True),
        decoder_layer.encoder_attn.register_forward_pre_hook(keep("cross"), with_kwargs=True),
    ]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**inputs, output_attentions=True, use_cache=False)
    for hook in hooks:
        hook.remove()
    memory = output.encoder_last_hidden_state[0].numpy()
    parts = []
    for name, attention, norm, read, weights in (
        (
            "encoder",
            encoder_layer.self_attn,
            encoder_layer.self_attn_layer_norm,
            states["encoder"],
            output.encoder_attentions,
        ),
        (
            "decoder",
            decoder_layer.self_attn,
            decoder_layer.self_attn_layer_norm,
            states["decoder"],
            output.decoder_attentions,
        ),
        ("cross", decoder_layer.encoder_attn, decoder_layer.encoder_attn_layer_norm, memory, output.cross_attentions),
    ):
        array = lambda p: p.detach().numpy()  # noqa: E731
        values = read @ array(attention.v_proj.weight).T + array(attention.v_proj.bias)
        values = values.reshape(len(values), 2, -1).transpose(1, 0, 2)
        parts.append(
            slow_contributions(
                weights[0][0].numpy(), values, array(attention.out_proj.weight), states[name],
                array(attention.out_proj.bias),
                gain=array(norm.weight), shift=array(norm.bias), eps=norm.eps, own_column=name == "cross",
            )
        )  # fmt: skip
    expected = np.concatenate([parts[2][:, :4] @ parts[0], parts[2][:, 4:] * parts[1]], 1)
    with torch.no_grad():
        found = model_contributions(model, inputs | {"use_cache": False})[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_our_encoder_decoder_is_read_too(toy):
    world, face = toy
    sources = world.sentences(4, seed=5)
    outputs = [world.translate(source) for source in sources]
    found = alti_contributions(face, None, sources, outputs)
    for part, source, output in zip(found, sources, outputs, strict=True):
        assert part.shape == (len(output.split()) + 1, len(source.split()) + len(output.split()) + 2)
        np.testing.assert_allclose(part.sum(1), 1, atol=1e-5)
    shares = [1 - part[:, : len(s.split()) + 1].sum(1).mean() for part, s in zip(found, sources, strict=True)]
    np.testing.assert_allclose(alti_risk(face, sources, outputs), shares, atol=1e-5)


def test_memory_is_a_chunk_and_the_matrices_themselves():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(1, 4, 128, 128, generator=generator).softmax(-1)
    values, projection = torch.rand(1, 4, 128, 16, generator=generator), torch.rand(64, 64, generator=generator)
    residual = torch.rand(1, 128, 64, generator=generator)
    small = peak_bytes(lambda: block_contributions(weights, values, projection, residual, chunk=2**16))
    # All vectors at once would be 128 x 128 x 64 numbers of four bytes.
    assert small < 128 * 128 * 64 * 4 / 2


def test_bad_input_is_named():
    block = tensors(random_block(0))
    with pytest.raises(ValueError, match="values: expected"):
        block_contributions(**block | {"values": block["values"][:, :, 1:]})
    with pytest.raises(ValueError, match="residual: expected"):
        block_contributions(**block | {"residual": block["residual"][:, 1:]})
    with pytest.raises(ValueError, match="self-attention is square"):
        block_contributions(**tensors(random_block(0, width=7)))
    with pytest.raises(ValueError, match="does not know the attention blocks of Linear"):
        model_contributions(nn.Linear(2, 2), {})
    with pytest.raises(ValueError, match="as many layers each"):
        roll_out([torch.ones(1, 2, 2)], [torch.ones(1, 2, 2)], [])
