"""The causal language model: what it refuses, and generation against the plain loop."""

import pytest
import torch
from torch import Tensor, nn

from paperworks.nn import AttentionMixing, BlockOptions, CausalLM, MixerEncoder, TextEmbedding
from paperworks.testing import assert_module_state_restored

DIM, VOCABULARY = 16, 11


def model_of(*, embed_dim: int | None = None, max_length: int = 32) -> CausalLM:
    torch.manual_seed(0)
    encoder = MixerEncoder(
        lambda layer: AttentionMixing(DIM, 4, causal=True), dim=DIM, depth=2, block=BlockOptions(ffn_dim=32)
    )
    model = CausalLM(TextEmbedding(VOCABULARY, DIM, embed_dim=embed_dim, max_length=max_length), encoder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


class Reading(nn.Module):
    """The same encoder without its streams."""

    causal = True
    streams = False

    def __init__(self, encoder: MixerEncoder) -> None:
        super().__init__()
        self.inner = encoder
        self.dim = encoder.dim

    def forward(self, x: Tensor, **options) -> tuple[Tensor, Tensor | None]:
        return self.inner(x, **options)


PROMPTS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0]])
MASK = torch.tensor([[True] * 4, [True] * 2 + [False] * 2, [True] + [False] * 3])


def greedy(model: CausalLM, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids


@pytest.mark.parametrize("streams", [True, False])
def test_greedy_equals_the_plain_loop_for_ragged_prompts(streams: bool) -> None:
    model = model_of()
    expected = [greedy(model, [1, 2, 3, 4], 6), greedy(model, [5, 6], 6), greedy(model, [7], 6)]
    if not streams:
        model.encoder = Reading(model.encoder)
    got = model.generate(PROMPTS, mask=MASK, max_new_tokens=6, temperature=0)
    assert [row[kept].tolist() for row, kept in zip(got.ids, got.mask, strict=True)] == expected
    assert len({tuple(row) for row in expected}) == 3


def test_a_row_ends_at_its_end_token() -> None:
    model = model_of()
    free = [greedy(model, [1, 2, 3, 4], 6), greedy(model, [5, 6], 6), greedy(model, [7], 6)]
    end = free[0][5]
    got = model.generate(PROMPTS, mask=MASK, max_new_tokens=6, temperature=0, eos_id=end)
    for row, kept, whole, size in zip(got.ids, got.mask, free, (4, 2, 1), strict=True):
        new = whole[size:]
        stop = size + new.index(end) + 1 if end in new else len(whole)
        assert row[kept].tolist() == whole[:stop]
        assert (row[~kept] == end).all()
    assert got.mask.any(0).all()


def test_drawing() -> None:
    model = model_of()

    def draw(seed: int, **options) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return model.generate(PROMPTS[:1], max_new_tokens=8, generator=generator, **options).ids

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert draw(1, top_k=1)[0].tolist() == greedy(model, [1, 2, 3, 4], 8)
    assert draw(1, temperature=1e-4)[0].tolist() == greedy(model, [1, 2, 3, 4], 8)


def test_draws_follow_the_distribution() -> None:
    model = model_of()
    prompts = PROMPTS[:1].expand(4000, 4)
    logits = model(PROMPTS[:1])[0, -1]
    for temperature, top_k in ((1.0, None), (2.0, 3)):
        drawn = model.generate(
            prompts,
            max_new_tokens=1,
            temperature=temperature,
            top_k=top_k,
            generator=torch.Generator().manual_seed(0),
        ).ids[:, -1]
        shares = torch.bincount(drawn, minlength=VOCABULARY) / 4000
        kept = logits.topk(top_k or VOCABULARY).indices
        expected = torch.zeros(VOCABULARY)
        expected[kept] = (logits[kept] / temperature).softmax(-1)
        assert (shares - expected).abs().max() < 0.03


def test_generation_restores_the_modes() -> None:
    model = model_of()
    assert_module_state_restored(model, lambda m: m.generate(PROMPTS[:1], max_new_tokens=2, temperature=0))
    model.train()
    got = model.generate(PROMPTS[:1], max_new_tokens=5, temperature=0).ids[0].tolist()
    assert got == greedy(model.eval(), [1, 2, 3, 4], 5)


@pytest.mark.parametrize("embed_dim", [None, 10])
def test_logits_use_the_table(embed_dim: int | None) -> None:
    model = model_of(embed_dim=embed_dim)
    states = model.encoder(model.embedding(PROMPTS)).states
    hidden = states if embed_dim is None else states @ model.projection.weight.T
    torch.testing.assert_close(model(PROMPTS), hidden @ model.embedding.word.weight.T + model.bias)
    future = PROMPTS.clone()
    future[:, 3] = 9
    torch.testing.assert_close(model(future)[:, :3], model(PROMPTS)[:, :3])


def test_refuses_an_encoder_that_sees_the_future() -> None:
    encoder = MixerEncoder(lambda layer: AttentionMixing(DIM, 4), dim=DIM, depth=1, block=BlockOptions(ffn_dim=32))
    with pytest.raises(ValueError, match="encoder: is not causal"):
        CausalLM(TextEmbedding(VOCABULARY, DIM), encoder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: must be at least 1, got 0"),
        ({"max_new_tokens": 30}, "need 33 positions, the embedding has 32"),
        ({"max_new_tokens": 1, "temperature": -1.0}, "temperature: must not be negative"),
        ({"max_new_tokens": 1, "top_k": 0}, "top_k: must be at least 1"),
        ({"max_new_tokens": 1, "mask": MASK.flip(1)}, "mask: expected True on a prefix"),
        ({"max_new_tokens": 1, "mask": torch.zeros(3, 4, dtype=torch.bool)}, "ids: every prompt needs at least one"),
        ({"max_new_tokens": 1, "mask": MASK.long()}, "mask: expected"),
    ],
)
def test_generation_bad_input(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_of().generate(PROMPTS, **options)


def test_generation_fills_the_last_position() -> None:
    assert model_of().generate(PROMPTS, max_new_tokens=29, temperature=0).ids.shape == (3, 33)
