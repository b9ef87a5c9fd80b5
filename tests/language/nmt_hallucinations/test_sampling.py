"""Draws under dropout, their similarity, and repairs, end to end on a toy translator and on tiny models."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from paperworks.language.nmt_hallucinations import (
    Dehallucinator,
    HallucinationScorer,
    Translations,
    mc_dissimilarity,
    mc_hypotheses,
    seq_logprob,
)
from paperworks.language.nmt_hallucinations.chrf import chrf
from paperworks.language.nmt_hallucinations.sampling import dissimilarity, translate
from paperworks.testing import assert_module_state_restored

HYPOTHESES = [["the cat sat", "the cat", "a dog ran off"], ["x", "x", "x"]]


def test_risk_is_one_minus_the_mean_over_unordered_pairs():
    found = dissimilarity(HYPOTHESES)
    expected = []
    for row in HYPOTHESES:
        values = [(chrf([a], [b])[0] + chrf([b], [a])[0]) / 2 for a, b in itertools.combinations(row, 2)]
        expected.append(1 - np.mean(values))
    np.testing.assert_allclose(found, expected)
    assert found[1] == 0.0


def test_the_output_can_be_compared_instead_and_the_similarity_replaced():
    same = lambda left, right: np.array([float(a == b) for a, b in zip(left, right, strict=True)])  # noqa: E731
    found = dissimilarity(HYPOTHESES, ["the cat", "y"], pairs="output", similarity=same)
    np.testing.assert_allclose(found, [1 - 1 / 3, 1.0])
    np.testing.assert_allclose(dissimilarity(HYPOTHESES, similarity=same), [1.0, 0.0])


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="pairs: expected one of hypotheses, output"):
        dissimilarity(HYPOTHESES, pairs="some")
    with pytest.raises(ValueError, match="draw at least 2"):
        dissimilarity([["a"], ["b"]])
    with pytest.raises(ValueError, match="equally many"):
        dissimilarity([["a", "b"], ["b"]])
    with pytest.raises(ValueError, match="outputs: expected one per source"):
        dissimilarity(HYPOTHESES, pairs="output")


def test_draws_are_repeatable_whole_and_restore_the_model(toy):
    world, face = toy
    sources = world.sentences(5, seed=1)

    def draw(seed):
        return mc_hypotheses(face, None, sources, n=3, num_beams=2, generator=torch.Generator().manual_seed(seed))

    drawn = []
    assert_module_state_restored(face.model, lambda _: drawn.append(draw(0)))
    assert [len(row) for row in drawn[0]] == [3] * 5
    assert draw(0) == drawn[0]
    assert draw(1) != drawn[0]
    # Drawn with dropout, they are not what the model says without.
    assert any(len(set(row)) > 1 for row in drawn[0])


def test_tiny_transformers_models_are_sampled_and_translate(tiny):
    for family in ("marian", "m2m"):
        model, tokenizer, languages = tiny(family)
        sources = ["w1 w2 w3", "w4"]
        hypotheses = mc_hypotheses(
            model, tokenizer, sources, n=2, num_beams=2, generator=torch.Generator().manual_seed(0), **languages
        )
        assert [len(row) for row in hypotheses] == [2, 2]
        best = translate(model, tokenizer, sources, num_beams=2, num_return=2, **languages)
        assert [len(row) for row in best] == [2, 2]
        risk = mc_dissimilarity(
            model,
            tokenizer,
            sources,
            ["w20", "w21"],
            n=2,
            num_beams=1,
            generator=torch.Generator().manual_seed(0),
            **languages,
        )
        assert ((risk >= 0) & (risk <= 1)).all()


def test_forced_language_tokens_are_the_targets_own(tiny):
    model, tokenizer, languages = tiny("m2m")
    seen = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, args, named: seen.append(named["input_ids"]), with_kwargs=True
    )
    translate(model, tokenizer, ["w1 w2"], num_beams=1, **languages)
    hook.remove()
    # The second token that the decoder reads in the generation is the target language.
    generated = [ids for ids in seen if ids.shape[1] == 1]
    assert int(generated[1][0, 0]) == tokenizer.convert_tokens_to_ids("eng_Latn")


def test_repairs_follow_the_scorer_and_touch_only_what_is_suspect(toy):
    world, face = toy
    sources = world.sentences(12, seed=3)
    outputs = [row[0] for row in translate(face, None, sources, num_beams=1)]
    risks = seq_logprob(face, None, sources, outputs)
    seen = []

    def longest(texts, hypotheses):
        seen.append((list(texts), list(hypotheses)))
        return np.array([float(len(h.split())) for h in hypotheses])

    options = {"threshold": float(np.median(risks)), "n": 3, "num_beams": 1, "scorer": longest}
    fixing = Dehallucinator(face, None, **options, generator=torch.Generator().manual_seed(0))
    found = fixing.fix(sources, outputs)
    table = found.table
    assert table["flagged"].tolist() == (risks >= np.median(risks)).tolist()
    np.testing.assert_allclose(table["risk"], risks, atol=1e-6)
    for row, line in table.iterrows():
        if not line["flagged"]:
            assert line["after"] == line["before"]
            assert np.isnan(line["score"])
            continue
        candidates = [line["before"], *found.hypotheses[row]]
        assert line["after"] in candidates
        assert line["score"] == max(len(text.split()) for text in candidates)
    # The scorer is shown sources and hypotheses, nothing else.
    assert set(seen[0][0]) <= set(sources)
    assert len(seen[0][1]) == 4 * int(table["flagged"].sum())
    draws = [found.hypotheses.get(row, [""] * 3) for row in range(12)]
    given = Dehallucinator(face, None, **options).fix(sources, outputs, hypotheses=draws)
    pd.testing.assert_frame_equal(given.table, table)
    with pytest.raises(ValueError, match="hypotheses: expected 3 for each of 12"):
        Dehallucinator(face, None, **options).fix(sources, outputs, hypotheses=draws[1:])
    again = Dehallucinator(face, None, **options, generator=torch.Generator().manual_seed(0)).fix(sources, outputs)
    pd.testing.assert_frame_equal(again.table, table)


def test_without_the_original_a_draw_always_replaces_it(toy):
    world, face = toy
    sources = world.sentences(4, seed=4)
    constant = lambda texts, hypotheses: np.zeros(len(hypotheses))  # noqa: E731
    options = {"threshold": -np.inf, "n": 2, "num_beams": 1, "scorer": constant}
    kept = Dehallucinator(face, None, **options).fix(sources, ["t001"] * 4)
    assert not kept.table["changed"].any()
    replaced = Dehallucinator(face, None, **options, keep_original=False).fix(sources, ["t001"] * 4)
    assert replaced.outputs == [replaced.hypotheses[row][0] for row in range(4)]


def test_nothing_suspect_nothing_drawn_and_outputs_are_made_where_none_are_given(toy):
    world, face = toy
    sources = world.sentences(3, seed=5)
    found = Dehallucinator(face, None, threshold=np.inf, num_beams=2).fix(sources)
    assert found.hypotheses == {}
    assert found.outputs == [row[0] for row in translate(face, None, sources, num_beams=2)]


def test_bad_scorers_and_options_are_named(toy):
    world, face = toy
    sources = world.sentences(2, seed=6)
    wrong = Dehallucinator(face, None, threshold=-np.inf, n=2, num_beams=1, scorer=lambda a, b: np.zeros(1))
    with pytest.raises(ValueError, match="scorer: returned shape"):
        wrong.fix(sources)
    with pytest.raises(ValueError, match="threshold: is NaN"):
        Dehallucinator(face, None, threshold=float("nan"))
    with pytest.raises(ValueError, match="n, num_beams"):
        Dehallucinator(face, None, threshold=0.0, n=0)
    with pytest.raises(ValueError, match="unknown 'logprob'"):
        Dehallucinator(face, None, threshold=0.0, risk="logprob")


def test_all_detectors_run_on_the_toy_and_agree_with_their_functions(toy):
    world, face = toy
    sources = world.sentences(24, seed=7)
    pairs = Translations(
        sources, [world.translate(s) for s in sources], reference=[world.translate(s) for s in sources]
    )
    names = [
        "seq_logprob", "seq_logprob_sum", "mc_logprob", "mc_variance", "mc_dissimilarity", "attention_to_eos",
        "ignored_source", "alti", "attention_transport", "top_ngram", "chrf++",
    ]  # fmt: skip
    scorer = HallucinationScorer(
        model=face, tokenizer=(), detectors=names, n=2, num_beams=1, generator=torch.Generator().manual_seed(0)
    )
    scorer.fit_thresholds(pairs, flag_fraction=0.25)
    scores = scorer.score(pairs)
    assert list(scores) == names
    assert np.isfinite(scores.to_numpy()).all()
    np.testing.assert_allclose(scores["seq_logprob"], seq_logprob(face, None, *(pairs.source, pairs.output)), atol=1e-6)
    assert (scores["chrf++"] == 0).all()
    flagged = scorer.flag(scores)
    assert 0.2 <= flagged["seq_logprob"].mean() <= 0.3
    assert scorer.thresholds["top_ngram"] == 2.0
