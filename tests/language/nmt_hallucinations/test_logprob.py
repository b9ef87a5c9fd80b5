"""Sequence log-probability against the models' own losses, whatever the batch, and under dropout."""

import numpy as np
import pytest
import torch

from paperworks.language.nmt_hallucinations import mc_logprob, seq_logprob
from paperworks.language.nmt_hallucinations.models import translator
from paperworks.testing import assert_module_state_restored

from .conftest import FAMILIES, make_model, make_tokenizer


def own_loss(model, tokenizer, source, output, languages):
    """The model's loss for one pair, a mean over all labels but a language token."""
    if languages:
        tokenizer.src_lang, tokenizer.tgt_lang = languages["source_language"], languages["target_language"]
    batch = tokenizer([source], text_target=[output], return_tensors="pt")
    labels = batch["labels"].clone()
    if languages:
        labels[:, 0] = -100
        # Both begin with </s>: M2M-100 by its config, mBART because it wraps the last token around.
        batch["decoder_input_ids"] = torch.cat([torch.ones(1, 1).long(), batch["labels"][:, :-1]], 1)
    batch.pop("token_type_ids", None)
    batch["labels"] = labels
    with torch.no_grad():
        return float(model(**batch).loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_models_own_loss_pair_by_pair(tiny, pairs, family):
    model, tokenizer, languages = tiny(family)
    sources, outputs = pairs
    expected = [own_loss(model, tokenizer, s, o, languages) for s, o in zip(sources, outputs, strict=True)]
    found = seq_logprob(model, tokenizer, sources, outputs, **languages)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    assert np.ptp(found) > 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_the_batch_changes_nothing(tiny, pairs, family):
    model, tokenizer, languages = tiny(family)
    whole = seq_logprob(model, tokenizer, *pairs, **languages)
    for tokens in (1, 12, 10_000):
        again = seq_logprob(model, tokenizer, *pairs, batch_tokens=tokens, **languages)
        np.testing.assert_allclose(again, whole, atol=2e-5)
    order = [3, 0, 4, 2, 1]
    shuffled = seq_logprob(model, tokenizer, *([part[row] for row in order] for part in pairs), **languages)
    np.testing.assert_allclose(shuffled, whole[order], atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_autocast_changes_little(tiny, pairs, family):
    model, tokenizer, languages = tiny(family)
    exact = seq_logprob(model, tokenizer, *pairs, **languages)
    with torch.autocast("cpu", torch.bfloat16):
        rough = seq_logprob(model, tokenizer, *pairs, **languages)
    np.testing.assert_allclose(rough, exact, atol=0.05)
    assert not np.array_equal(rough, exact)


@pytest.mark.parametrize("family", ["marian", "m2m"])
def test_the_sum_counts_the_end_token_and_no_language_token(tiny, pairs, family):
    model, tokenizer, languages = tiny(family)
    sources, outputs = pairs
    lengths = np.array([len(output.split()) + 1 for output in outputs])
    mean = seq_logprob(model, tokenizer, sources, outputs, **languages)
    total = seq_logprob(model, tokenizer, sources, outputs, normalize=False, **languages)
    np.testing.assert_allclose(total, mean * lengths, rtol=1e-5)


def test_equals_the_transition_scores_of_greedy_search(tiny):
    model, tokenizer, _ = tiny("marian")
    source = "w4 w5 w6"
    batch = tokenizer([source], return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        made = model.generate(
            **batch, num_beams=1, do_sample=False, max_new_tokens=8, output_scores=True, return_dict_in_generate=True,
            suppress_tokens=[0, 2, 3, 4], bad_words_ids=None,
        )  # fmt: skip
        ids = made.sequences[0, 1:]
        scores = model.compute_transition_scores(made.sequences, made.scores, normalize_logits=False)[0]
        face = translator(model, tokenizer)
        states = face.decode(
            face.encode(batch["input_ids"], batch["attention_mask"].bool()), ids[None], torch.ones(1, len(ids)).bool()
        )
        forced = face.head(states)[0].gather(1, ids[:, None])[:, 0]
    torch.testing.assert_close(scores, forced, atol=1e-4, rtol=1e-4)


def test_sources_are_encoded_once_a_batch(tiny, pairs):
    model, tokenizer, _ = tiny("marian")
    seen = []
    hook = model.get_encoder().register_forward_pre_hook(
        lambda _, args, named: seen.append(len(named["input_ids"])), with_kwargs=True
    )
    face = translator(model, tokenizer)
    seen.clear()
    seq_logprob(face, None, ["w1 w2 w3"] * 6 + ["w4"], ["w20 w21"] * 7)
    hook.remove()
    assert seen == [2]


@pytest.mark.parametrize("family", ["marian", "m2m", "t5"])
def test_draws_are_repeatable_and_leave_the_model_alone(tiny, pairs, family):
    model, tokenizer, languages = tiny(family)
    draw = lambda seed: mc_logprob(  # noqa: E731
        model, tokenizer, *pairs, n=4, generator=torch.Generator().manual_seed(seed), **languages
    )
    state = torch.get_rng_state()
    drawn = []
    assert_module_state_restored(model, lambda _: drawn.append(draw(0)))
    one = drawn[0]
    assert torch.equal(torch.get_rng_state(), state)
    two, other = draw(0), draw(1)
    np.testing.assert_array_equal(one.mean, two.mean)
    assert not np.allclose(one.mean, other.mean)
    assert (one.variance > 0).all()


def test_without_dropout_a_draw_is_the_deterministic_score(pairs):
    model, tokenizer = make_model("marian", dropout=0.0), make_tokenizer(False)
    drawn = mc_logprob(model, tokenizer, *pairs, n=3)
    np.testing.assert_allclose(drawn.mean, seq_logprob(model, tokenizer, *pairs), atol=2e-5)
    assert drawn.variance.max() < 1e-9


def test_many_draws_have_the_mean_of_single_draws(pairs):
    model, tokenizer = make_model("t5", dropout=0.05, noise=0.1), make_tokenizer(False)
    drawn = mc_logprob(model, tokenizer, *pairs, n=400, generator=torch.Generator().manual_seed(0))
    halves = mc_logprob(model, tokenizer, *pairs, n=400, generator=torch.Generator().manual_seed(7))
    error = np.sqrt(drawn.variance / 400 + halves.variance / 400)
    assert (np.abs(drawn.mean - halves.mean) < 5 * error).all()


def test_too_long_texts_and_unequal_lists_are_refused(tiny, pairs):
    model, tokenizer, _ = tiny("marian")
    long = " ".join(["w1"] * 40)
    with pytest.raises(ValueError, match="output: row 2 has 41 tokens, the model takes 40"):
        seq_logprob(model, tokenizer, ["w1", "w2"], ["w3", long])
    with pytest.raises(ValueError, match="source: row 1 has 41 tokens"):
        seq_logprob(model, tokenizer, [long], ["w3"])
    with pytest.raises(ValueError, match="one per source, 2, got 1"):
        seq_logprob(model, tokenizer, ["w1", "w2"], ["w3"])
    with pytest.raises(ValueError, match="batch_tokens"):
        seq_logprob(model, tokenizer, ["w1"], ["w3"], batch_tokens=0)
    with pytest.raises(ValueError, match="n: expected at least 2"):
        mc_logprob(model, tokenizer, *pairs, n=1)
    with pytest.raises(ValueError, match="has no languages"):
        seq_logprob(model, tokenizer, ["w1"], ["w3"], source_language="deu_Latn")
    with pytest.raises(ValueError, match="expected a transformers encoder-decoder"):
        translator(torch.nn.Linear(2, 2), None)
