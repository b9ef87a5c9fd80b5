"""FNet against `transformers`, weights copied over, and the door through which public weights come in."""

import copy
import warnings

import pytest
import torch

from paperworks.sequence.fnet.model import FNet, FNetConfig, FNetForPreTraining

transformers = pytest.importorskip("transformers", reason="the sequence extra is not installed")

LENGTH = 16


@pytest.fixture(scope="module")
def peer():
    """A small `transformers` FNet with random weights; its biases too, so that a lost one would show."""
    torch.manual_seed(0)
    config = transformers.FNetConfig(
        vocab_size=120, hidden_size=24, num_hidden_layers=3, intermediate_size=48, max_position_embeddings=LENGTH,
        type_vocab_size=3,
    )  # fmt: skip
    model = transformers.FNetForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.fixture
def folder(peer, tmp_path):
    peer.save_pretrained(tmp_path / "fnet")
    return tmp_path / "fnet"


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 120, (4, LENGTH), generator=generator)
    return ids, torch.randint(0, 3, (4, LENGTH), generator=generator)


def test_hidden_states_and_both_heads_match(peer, folder):
    ids, types = batch()
    with torch.no_grad():
        theirs = peer(ids, token_type_ids=types, output_hidden_states=True)
        ours = FNetForPreTraining.from_pretrained(folder)(ids, types=types)
        states = FNet.from_pretrained(folder)(ids, types=types)
    assert torch.allclose(states.states, theirs.hidden_states[-1], atol=1e-5)
    assert torch.allclose(states.pooled, peer.fnet(ids, token_type_ids=types).pooler_output, atol=1e-5)
    assert torch.allclose(
        ours.token_logits, theirs.prediction_logits, atol=1e-5 * float(theirs.prediction_logits.abs().max())
    )
    assert torch.allclose(ours.next_logits, theirs.seq_relationship_logits, atol=1e-5)


def test_every_layer_matches(peer, folder):
    ids, types = batch(1)
    model = FNet.from_pretrained(folder)
    with torch.no_grad():
        expected = peer.fnet(ids, token_type_ids=types, output_hidden_states=True).hidden_states
        x = model.embedding(ids, types=types)
        for layer, after in zip(model.encoder.layers, expected[1:], strict=True):
            x = layer(x)
            assert torch.allclose(x, after, atol=1e-5)


def test_a_batch_encoding_and_a_mask_are_taken_as_they_come(folder):
    ids, types = batch()
    model = FNet.from_pretrained(folder)
    encoding = transformers.BatchEncoding(
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(model(encoding).states, model(ids, types=types).states)


def test_the_trunk_also_loads_from_a_folder_without_heads(peer, tmp_path):
    peer.fnet.save_pretrained(tmp_path / "trunk")
    ids, types = batch()
    with torch.no_grad():
        ours = FNet.from_pretrained(tmp_path / "trunk")(ids, types=types).states
        assert torch.allclose(ours, peer.fnet(ids, token_type_ids=types).last_hidden_state, atol=1e-5)
    with pytest.raises(ValueError, match="no pre-training heads"):
        FNetForPreTraining.from_pretrained(tmp_path / "trunk")


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_keys_that_are_missing_or_unknown_raise(folder, change):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    state = load_file(path)
    if change == "missing":
        state.pop("fnet.pooler.dense.weight")
    else:
        state["fnet.encoder.layer.0.attention.weight"] = torch.zeros(1)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="pooler" if change == "missing" else "attention"):
        FNet.from_pretrained(folder)


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        FNet.from_pretrained(tmp_path / "nowhere")


def test_running_weights_at_another_length_warns(folder):
    model = FNet.from_pretrained(folder)
    with pytest.warns(UserWarning, match="trained on inputs padded to 16 tokens and are run at length 9"):
        model(torch.zeros(1, 9, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.zeros(1, LENGTH, dtype=torch.long))
        FNet(FNetConfig(vocab_size=20, dim=8, depth=1, ffn_dim=8, max_length=8))(torch.zeros(1, 5, dtype=torch.long))


def test_exact_padding_makes_a_ragged_batch_equal_to_single_texts():
    torch.manual_seed(0)
    config = FNetConfig(vocab_size=50, dim=12, depth=2, ffn_dim=24, max_length=10, padding="exact")
    model = FNet(config).eval()
    ids = torch.randint(0, 50, (3, 10))
    lengths = (10, 4, 7)
    mask = torch.arange(10)[None] < torch.tensor(lengths)[:, None]
    together = model(ids, mask=mask).states
    for row, length in enumerate(lengths):
        alone = model(ids[row : row + 1, :length]).states[0]
        assert torch.allclose(together[row, :length], alone, atol=1e-6)


def test_initialisation_is_the_papers():
    torch.manual_seed(0)
    model = FNet(FNetConfig(vocab_size=500, dim=96, depth=2, ffn_dim=384, max_length=64))
    layer = model.encoder.layers[0].feed_forward
    for weight in (layer.inner.weight, layer.outer.weight, layer.inner.bias, model.embedding.word.weight):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert (layer.outer.bias == 0).all()
    projection = [p for name, p in model.embedding.named_parameters() if p.shape == (96, 96)]
    assert float(projection[0].detach().std()) == pytest.approx(96**-0.5, rel=0.1)
    norms = [module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert set(norms) == {1e-12}


def test_published_sizes():
    def count(config):
        with torch.device("meta"):
            return sum(p.numel() for p in FNet(config).parameters())

    assert FNetConfig.base().depth == 12
    assert (FNetConfig.large().dim, FNetConfig.large().depth, FNetConfig.large().ffn_dim) == (1024, 24, 4096)
    peer = transformers.FNetModel(transformers.FNetConfig(num_hidden_layers=1))
    ours = count(FNetConfig.base(depth=1))
    assert ours == sum(p.numel() for p in peer.parameters())


def test_bfloat16_works_on_a_cpu():
    torch.manual_seed(0)
    model = FNet(FNetConfig(vocab_size=50, dim=32, depth=2, ffn_dim=64, max_length=16)).eval()
    ids = torch.randint(0, 50, (2, 16))
    exact = model(ids).states
    half = copy.deepcopy(model).bfloat16()(ids).states
    assert half.dtype == torch.bfloat16
    assert float((half.float() - exact).norm() / exact.norm()) < 0.05
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float((model(ids).states.float() - exact).norm() / exact.norm()) < 0.05


def test_pre_training_loss_is_the_sum_of_two_means():
    model = FNetForPreTraining(FNetConfig(vocab_size=20, dim=8, depth=1, ffn_dim=8, max_length=6)).eval()
    ids, labels = torch.randint(0, 20, (3, 6)), torch.full((3, 6), -100)
    labels[0, 1], labels[2, 4] = 7, 3
    next_labels = torch.tensor([0, 1, 1])
    output = model(ids)
    tokens = -(output.token_logits[0, 1].log_softmax(-1)[7] + output.token_logits[2, 4].log_softmax(-1)[3]) / 2
    pairs = -output.next_logits.log_softmax(-1)[torch.arange(3), next_labels].mean()
    assert torch.allclose(model.loss(output, labels=labels, next_labels=next_labels), tokens + pairs)
    picked = model(ids, positions=torch.tensor([[1], [2], [4]])).token_logits
    assert torch.allclose(picked[2, 0], output.token_logits[2, 4], atol=1e-6)
