"""Weights of BERT and RoBERTa against `transformers`, of HAT against its equations written out with its own names."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from paperworks.sequence.hi_transformer import HiLayer, HiTransformer
from paperworks.sequence.hi_transformer.layer import PaddedLayout

DIM, HEADS, FFN, VOCABULARY, LENGTH, SENTENCES, PAD = 16, 4, 24, 50, 8, 5, 1
LAYOUT = "S|SD|SD|D"
EPS = 1e-5


def hat_config(**changes) -> dict:
    groups = {
        str(index): {"sentence_encoder": "S" in group, "document_encoder": "D" in group}
        for index, group in enumerate(LAYOUT.split("|"))
    }
    return {
        "model_type": "hierarchical-transformer",
        "vocab_size": VOCABULARY,
        "hidden_size": DIM,
        "num_attention_heads": HEADS,
        "intermediate_size": FFN,
        "num_hidden_layers": 4,
        "type_vocab_size": 1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "layer_norm_eps": EPS,
        "pad_token_id": PAD,
        "bos_token_id": 0,
        "max_sentences": SENTENCES,
        "max_sentence_length": LENGTH,
        "encoder_layout": groups,
    } | changes


def hat_state(*, tied: bool) -> dict[str, Tensor]:
    """Random weights under HAT's names."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    state = {
        "embeddings.word_embeddings.weight": draw(VOCABULARY, DIM),
        "embeddings.position_embeddings.weight": draw(LENGTH + PAD + 1, DIM),
        "embeddings.token_type_embeddings.weight": draw(1, DIM),
        "embeddings.LayerNorm.weight": 1 + draw(DIM),
        "embeddings.LayerNorm.bias": draw(DIM),
    }
    shared = draw(SENTENCES + 1, DIM)
    for index, group in enumerate(LAYOUT.split("|")):
        for letter in group:
            level = {"S": "sentence_encoder", "D": "document_encoder"}[letter]
            prefix = f"encoder.layer.{index}.{level}"
            for name in (
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
            ):
                state |= {f"{prefix}.{name}.weight": draw(DIM, DIM), f"{prefix}.{name}.bias": draw(DIM)}
            state |= {
                f"{prefix}.intermediate.dense.weight": draw(FFN, DIM),
                f"{prefix}.intermediate.dense.bias": draw(FFN),
            }
            state |= {f"{prefix}.output.dense.weight": draw(DIM, FFN), f"{prefix}.output.dense.bias": draw(DIM)}
            for name in ("attention.output.LayerNorm", "output.LayerNorm"):
                state |= {f"{prefix}.{name}.weight": 1 + draw(DIM), f"{prefix}.{name}.bias": draw(DIM)}
        if "D" in group:
            table = shared.clone() if tied else draw(SENTENCES + 1, DIM)
            state[f"encoder.layer.{index}.position_embeddings.weight"] = table
    return state


def twin_block(state: dict[str, Tensor], prefix: str, x: Tensor, mask: Tensor) -> Tensor:
    """A BERT block over rows (n, K, D), padding kept out by the softmax alone."""

    def dense(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{prefix}.{name}.weight"].T + state[f"{prefix}.{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (DIM,), state[f"{prefix}.{name}.weight"], state[f"{prefix}.{name}.bias"], EPS)

    width = DIM // HEADS
    query, key, value = (dense(f"attention.self.{name}", x) for name in ("query", "key", "value"))
    heads = []
    for head in range(HEADS):
        here = slice(head * width, (head + 1) * width)
        scores = query[..., here] @ key[..., here].mT / math.sqrt(width) + torch.where(mask, 0.0, -1e30)[:, None, :]
        heads.append(scores.softmax(-1) @ value[..., here])
    x = norm("attention.output.LayerNorm", dense("attention.output.dense", torch.cat(heads, -1)) + x)
    inner = dense("intermediate.dense", x)
    inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
    return norm("output.LayerNorm", dense("output.dense", inner) + x)


def twin(state: dict[str, Tensor], ids: Tensor, mask: Tensor) -> Tensor:
    """HAT on documents padded to one sequence (B, M K), as it runs: all sentences, empty ones too, at full length."""
    batch, count = ids.shape[0], ids.shape[1] // LENGTH
    places = (torch.arange(LENGTH) + PAD + 1).repeat(count) * (ids != PAD)
    total = (
        state["embeddings.word_embeddings.weight"][ids]
        + state["embeddings.position_embeddings.weight"][places]
        + state["embeddings.token_type_embeddings.weight"][0]
    )
    hidden = F.layer_norm(total, (DIM,), state["embeddings.LayerNorm.weight"], state["embeddings.LayerNorm.bias"], EPS)
    for index, group in enumerate(LAYOUT.split("|")):
        if "S" in group:
            rows = hidden.reshape(batch * count, LENGTH, DIM)
            rows = twin_block(state, f"encoder.layer.{index}.sentence_encoder", rows, mask.reshape(-1, LENGTH))
            hidden = rows.reshape(batch, count * LENGTH, DIM)
        if "D" in group:
            first = hidden[:, ::LENGTH] + state[f"encoder.layer.{index}.position_embeddings.weight"][1 : count + 1]
            document = twin_block(state, f"encoder.layer.{index}.document_encoder", first, mask[:, ::LENGTH])
            hidden = hidden.clone()
            hidden[:, ::LENGTH] = document
    return hidden


def documents() -> tuple[Tensor, Tensor]:
    """Ids (3, 5, 8) with the sentence token first: ragged, of one sentence, and full."""
    torch.manual_seed(1)
    lengths = torch.tensor([[8, 3, 5, 0, 0], [2, 0, 0, 0, 0], [8, 8, 8, 8, 8]])
    mask = torch.arange(LENGTH) < lengths[..., None]
    ids = torch.randint(2, VOCABULARY, mask.shape)
    ids[..., 0] = 0
    return ids.masked_fill(~mask, PAD), mask


def write(folder, config: dict, state: dict[str, Tensor]):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors")
    return folder


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_hat_equals_its_equations(tmp_path, tied) -> None:
    state = hat_state(tied=tied)
    stored = {f"hi_transformer.{name}": tensor for name, tensor in state.items()} | {"lm_head.bias": torch.zeros(3)}
    model = HiTransformer.from_encoder(write(tmp_path / "hat", hat_config(), stored))
    assert model.config.layout == LAYOUT
    assert model.config.sentence_positions == ("model" if tied else "layer")
    assert (model.config.max_sentence_length, model.config.max_sentences) == (LENGTH, SENTENCES)
    ids, mask = documents()
    expected = twin(state, ids.flatten(1), mask.flatten(1)).unflatten(1, (5, LENGTH))
    out = model(ids, mask=mask)
    words = mask.clone()
    words[..., 0] = False
    torch.testing.assert_close(out.sentences[mask.any(-1)], expected[:, :, 0][mask.any(-1)], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.tokens[words], expected[words], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_layer_equals_two_of_hat() -> None:
    """SD|S of HAT is one interactive layer with the sentence token first."""
    state = hat_state(tied=True)
    layer = HiLayer(DIM, heads=HEADS, ffn_dim=FFN, cls="start").eval()
    from paperworks.sequence.hi_transformer.checkpoint import _Block, _block_state

    sources = (
        "encoder.layer.1.sentence_encoder",
        "encoder.layer.1.document_encoder",
        "encoder.layer.2.sentence_encoder",
    )
    loaded = {}
    for index, source in enumerate(sources):
        loaded |= _block_state(state, _Block(index, source))
    layer.load_state_dict(loaded)
    for block in layer.stack.blocks:
        block.mixer_residual.norm.eps = block.feed_forward_residual.norm.eps = EPS
    _, mask = documents()
    x = torch.randn(*mask.shape, DIM)
    table = state["encoder.layer.1.position_embeddings.weight"]
    rows = twin_block(state, sources[0], x.flatten(0, 1), mask.flatten(0, 1)).unflatten(0, mask.shape[:2])
    r = twin_block(state, sources[1], rows[:, :, 0] + table[1:6], mask[..., 0])
    rows = torch.cat([r[:, :, None], rows[:, :, 1:]], 2)
    expected = twin_block(state, sources[2], rows.flatten(0, 1), mask.flatten(0, 1)).unflatten(0, mask.shape[:2])
    out = layer(x, mask=mask, positions=table[1:])
    kept = mask.any(-1)
    torch.testing.assert_close(out.document_aware[kept], r[kept], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.sentences[kept], expected[:, :, 0][kept], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.tokens[mask], expected[mask], atol=1e-5, rtol=1e-5)
    layout = PaddedLayout(mask, None, mask.shape, cls="start", device=x.device)
    packed = layer(layout.enter(x), packing=layout.packing, positions=table[1:])
    torch.testing.assert_close(layout.leave_tokens(packed.tokens)[mask], expected[mask], atol=1e-5, rtol=1e-5)


def save_peer(folder, kind: str):
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaForMaskedLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 120,
        "hidden_size": DIM,
        "num_attention_heads": HEADS,
        "intermediate_size": FFN,
        "num_hidden_layers": 3,
        "initializer_range": 0.3,
    }
    if kind == "bert":
        peer = BertModel(BertConfig(**sizes, max_position_embeddings=LENGTH))
    else:
        peer = RobertaForMaskedLM(RobertaConfig(**sizes, max_position_embeddings=LENGTH + 2, layer_norm_eps=EPS))
    peer.save_pretrained(folder)
    return peer.eval() if kind == "bert" else peer.eval().roberta


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_sentence_level_equals_transformers(tmp_path, kind) -> None:
    peer = save_peer(tmp_path, kind)
    model = HiTransformer.from_encoder(tmp_path, layout="S|S|S")
    assert model.config.cls_id == {"bert": 101, "roberta": 0}[kind]
    torch.manual_seed(2)
    mask = torch.arange(LENGTH) < torch.tensor([[8, 5], [3, 2]])[..., None]
    ids = torch.randint(2, 100, mask.shape).masked_fill(~mask, peer.config.pad_token_id)
    ids[..., 0] = model.config.cls_id
    expected = peer(ids.flatten(0, 1), attention_mask=mask.flatten(0, 1).long()).last_hidden_state
    out = model(ids, mask=mask)
    torch.testing.assert_close(
        out.tokens.flatten(0, 1)[mask.flatten(0, 1)], expected[mask.flatten(0, 1)], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(out.sentences.flatten(0, 1), expected[:, 0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_document_level_starts_from_the_sentence_level(tmp_path, kind) -> None:
    peer = save_peer(tmp_path, kind)
    model = HiTransformer.from_encoder(tmp_path, max_sentences=4)
    assert model.config.layout == "S|S|SD"
    assert torch.equal(model.stack.blocks[3].mixer.qkv.weight, model.stack.blocks[2].mixer.qkv.weight)
    first = 0 if kind == "bert" else 2
    table = peer.embeddings.position_embeddings.weight[first : first + 4]
    assert torch.equal(model.sentence_position[0].weight, table)
    assert HiTransformer.from_encoder(tmp_path, layout="SDSDS").config.layers == 1
    assert HiTransformer.from_encoder(tmp_path, layout="SD", cls_id=7).config.cls_id == 7


def test_bad_folders(tmp_path) -> None:
    state = hat_state(tied=True)
    bad = tmp_path / "bad"
    cases = [
        (hat_config(model_type="gpt2"), state, "model_type: expected one of bert, .* got 'gpt2'"),
        (hat_config(hidden_act="silu"), state, "hidden_act: expected one of gelu, .* got 'silu'"),
        (hat_config(position_embedding_type="relative_key"), state, "position_embedding_type: expected absolute"),
        (
            hat_config(),
            state | {"encoder.layer.0.adapter.weight": torch.zeros(1)},
            "unknown keys encoder.layer.0.adapter",
        ),
        (
            hat_config(),
            {k: v for k, v in state.items() if "layer.2.document_encoder.output.d" not in k},
            "missing; found",
        ),
        (hat_config(intermediate_size=FFN + 1), state, "the weights do not fit config.json"),
        ({k: v for k, v in hat_config().items() if k != "encoder_layout"}, state, "encoder_layout missing"),
    ]
    for config, tensors, message in cases:
        write(bad, config, tensors)
        with pytest.raises(ValueError, match=message):
            HiTransformer.from_encoder(bad)
    write(bad, hat_config(), state)
    with pytest.raises(ValueError, match="layout: these weights have their own"):
        HiTransformer.from_encoder(bad, layout="SD")
    with pytest.raises(ValueError, match="max_sentences: the weights have 5 positions, got 6"):
        HiTransformer.from_encoder(bad, max_sentences=6)
    (bad / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"expected model\.safetensors or pytorch_model\.bin, found neither"):
        HiTransformer.from_encoder(bad)
    (bad / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json missing"):
        HiTransformer.from_encoder(bad)
    peer = tmp_path / "bert"
    save_peer(peer, "bert")
    with pytest.raises(ValueError, match="layout: 'SSSSD' has 4 sentence blocks, the encoder has 3 layers"):
        HiTransformer.from_encoder(peer, layout="SSSSD")
