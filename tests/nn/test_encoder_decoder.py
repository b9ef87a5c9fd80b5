"""The encoder-decoder: teacher forcing is causal, caches change nothing, beam search finds what enumeration finds."""

import itertools

import pytest
import torch

from paperworks.nn import AttentionMixing, BlockOptions, CrossAttentionMixing, MixerDecoder, TextEmbedding
from paperworks.nn.encoder_decoder import EncoderDecoder
from paperworks.nn.log_prob import sequence_log_prob, token_log_prob

BOS, EOS = 1, 2


def make(vocabulary=9, seed=0, scale=8.0, **options):
    torch.manual_seed(seed)
    model = EncoderDecoder.small(12, vocabulary, bos_id=BOS, eos_id=EOS, dim=16, heads=2, ffn_dim=32, **options).eval()
    with torch.no_grad():
        # Far from the uniform distribution of a fresh model.
        model.head.weight.mul_(scale)
    return model


def sources(seed=0, count=3, length=6):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 12, (count, length), generator=generator)
    mask = torch.arange(length) < torch.tensor([length, 4, 2] * count)[:count, None]
    return ids, mask


def force(model, ids, mask, target):
    """Log-probability of one target (without padding) for one source."""
    logits = model(ids[None, mask], torch.tensor([target]))
    return float(token_log_prob(logits, torch.tensor([target])).sum())


def test_a_target_position_sees_only_what_comes_before_it_and_padding_is_nothing():
    model = make()
    ids, mask = sources()
    target = torch.randint(3, 9, (3, 5), generator=torch.Generator().manual_seed(1))
    logits = model(ids, target, source_mask=mask)
    later = target.clone()
    later[:, 3] = 8 - later[:, 3] + 3
    changed = model(ids, later, source_mask=mask)
    torch.testing.assert_close(changed[:, :4], logits[:, :4])
    assert not torch.allclose(changed[:, 4], logits[:, 4])
    alone = model(ids[1:2, :4], target[1:2, :3])
    torch.testing.assert_close(logits[1:2, :3], alone, atol=1e-5, rtol=1e-5)
    spoiled = model(ids.masked_fill(~mask, 3), target, source_mask=mask)
    torch.testing.assert_close(spoiled, logits)
    seen = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    padded = model(ids, target.masked_fill(~seen, 0), source_mask=mask, target_mask=seen)
    torch.testing.assert_close(padded[seen], logits[seen], atol=1e-5, rtol=1e-5)


def test_greedy_search_takes_the_most_probable_token_each_time():
    model = make()
    ids, mask = sources()
    found = model.generate(ids, source_mask=mask, max_new_tokens=8)
    for row in range(len(ids)):
        sequence = []
        while len(sequence) < 8 and EOS not in sequence:
            read = torch.tensor([[*sequence, 0]])
            sequence.append(int(model(ids[row : row + 1, mask[row]], read)[0, -1].argmax()))
        assert found.ids[row, 0][found.mask[row, 0]].tolist() == sequence
        assert float(found.log_prob[row, 0]) == pytest.approx(force(model, ids[row], mask[row], sequence), abs=1e-4)


def test_log_probabilities_are_those_of_forced_decoding_for_every_beam():
    model = make()
    ids, mask = sources()
    found = model.generate(ids, source_mask=mask, max_new_tokens=10, num_beams=4, num_return=4)
    for row, beam in itertools.product(range(3), range(4)):
        sequence = found.ids[row, beam][found.mask[row, beam]].tolist()
        assert float(found.log_prob[row, beam]) == pytest.approx(force(model, ids[row], mask[row], sequence), abs=1e-3)
    lengths = found.mask.sum(-1)
    scores = found.log_prob / lengths
    assert (scores[:, :-1] >= scores[:, 1:] - 1e-6).all()


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_wide_beam_finds_the_best_of_all_sequences(seed, penalty):
    model = make(vocabulary=5, seed=seed, scale=4.0)
    ids, mask = sources(seed)
    limit = 3
    found = model.generate(ids, source_mask=mask, max_new_tokens=limit, num_beams=64, length_penalty=penalty)
    candidates = [
        (*start, EOS) for size in range(limit) for start in itertools.product([0, 1, 3, 4], repeat=size)
    ] + list(itertools.product([0, 1, 3, 4], repeat=limit))
    for row in range(2):
        best = max(candidates, key=lambda t, row=row: force(model, ids[row], mask[row], t) / len(t) ** penalty)
        assert tuple(found.ids[row, 0][found.mask[row, 0]].tolist()) == best


def test_batch_composition_changes_nothing_and_beams_are_distinct():
    model = make()
    ids, mask = sources(count=3)
    together = model.generate(ids, source_mask=mask, max_new_tokens=9, num_beams=3, num_return=3)
    for row in range(3):
        alone = model.generate(ids[row : row + 1, mask[row]], max_new_tokens=9, num_beams=3, num_return=3)
        for beam in range(3):
            one = together.ids[row, beam][together.mask[row, beam]].tolist()
            assert one == alone.ids[0, beam][alone.mask[0, beam]].tolist()
    for row in range(3):
        assert len({tuple(together.ids[row, beam][together.mask[row, beam]].tolist()) for beam in range(3)}) == 3


class Unstreamed(AttentionMixing):
    step = property()  # pyright: ignore


def test_without_streams_the_result_is_the_same():
    streaming = make()
    block = BlockOptions(ffn_dim=32, norm="pre", norm_eps=1e-5, activation="relu", mixer_dropout=0.1)
    decoder = MixerDecoder(
        lambda layer: Unstreamed(16, 2, causal=True), lambda layer: CrossAttentionMixing(16, 2),
        dim=16, depth=2, block=block,
    )  # fmt: skip
    target = TextEmbedding(9, 16, max_length=64, norm=False)
    model = EncoderDecoder(streaming.source, streaming.encoder, target, decoder, bos_id=BOS, eos_id=EOS)
    model.load_state_dict(streaming.state_dict())
    model.eval()
    assert not model.decoder.streams
    ids, mask = sources()
    options = {"source_mask": mask, "max_new_tokens": 8, "num_beams": 3, "num_return": 3}
    one, two = streaming.generate(ids, **options), model.generate(ids, **options)
    assert torch.equal(one.ids, two.ids)
    torch.testing.assert_close(one.log_prob, two.log_prob, atol=1e-4, rtol=1e-4)


def test_it_learns_to_copy():
    torch.manual_seed(0)
    model = EncoderDecoder.small(12, 12, bos_id=BOS, eos_id=EOS, dim=32, heads=2, ffn_dim=64, depth=1, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(200):
        ids = torch.randint(3, 12, (32, 5), generator=torch.Generator().manual_seed(step))
        ids[:, -1] = EOS
        loss = -token_log_prob(model(ids, ids), ids).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    ids = torch.randint(3, 12, (50, 5), generator=torch.Generator().manual_seed(999))
    ids[:, -1] = EOS
    found = model.generate(ids, max_new_tokens=7, num_beams=2)
    copied = [
        row[kept].tolist() == wanted.tolist()
        for row, kept, wanted in zip(found.ids[:, 0], found.mask[:, 0], ids, strict=True)
    ]
    assert sum(copied) >= 45
    total = sequence_log_prob(token_log_prob(model(ids, ids), ids), torch.ones_like(ids, dtype=torch.bool))
    assert float(total.mean().detach()) > -0.2


def test_bad_input_is_named():
    model = make()
    ids, mask = sources()
    with pytest.raises(ValueError, match="num_return: expected 1 to num_beams = 2, got 3"):
        model.generate(ids, max_new_tokens=3, num_beams=2, num_return=3)
    with pytest.raises(ValueError, match="must be at least 1"):
        model.generate(ids, max_new_tokens=0)
    with pytest.raises(ValueError, match="exceed the 64 positions"):
        model.generate(ids, max_new_tokens=65)
    with pytest.raises(ValueError, match="source_mask"):
        model(ids, ids, source_mask=mask[:, :3])
    with pytest.raises(ValueError, match="target_mask"):
        model(ids, ids, target_mask=mask[:, :3])
    block = BlockOptions(ffn_dim=8)
    decoder = MixerDecoder(
        lambda layer: AttentionMixing(16, 2), lambda layer: CrossAttentionMixing(16, 2), dim=16, depth=1, block=block
    )
    with pytest.raises(ValueError, match="not causal"):
        EncoderDecoder(model.source, model.encoder, model.target, decoder, bos_id=1, eos_id=2)
