"""The scorer's table, thresholds and errors; the report; adapters to what others made."""

import numpy as np
import pandas as pd
import pytest

from paperworks.language.nmt_hallucinations import (
    HallucinationScorer,
    Translations,
    detection_report,
    embedding_similarity,
    reference_risk,
    token_hallucination,
)
from paperworks.language.nmt_hallucinations.adapters import comet_qe, labse_encoder
from paperworks.language.nmt_hallucinations.scorer import threshold

PAIRS = Translations(["a b c", "d e f", "g"], ["x y", "x y", "la la la la la la la"], reference=["x y", "z", "la"])


def test_one_column_a_detector_and_custom_ones_beside():
    scorer = HallucinationScorer(
        detectors=["repeated_target", "chrf2", "top_ngram"], custom={"mine": lambda s, o: np.arange(len(s))}
    )
    scores = scorer.score(PAIRS)
    assert list(scores) == ["repeated_target", "chrf2", "top_ngram", "mine"]
    assert scores["repeated_target"].tolist() == [2, 2, 1]
    assert scores["top_ngram"].tolist() == [0, 0, 4]
    assert scores["chrf2"][0] == 0
    flags = scorer.flag(scores)
    assert flags["repeated_target"].tolist() == [True, True, False]
    assert flags["top_ngram"].tolist() == [False, False, True]
    assert not flags["mine"].any()


def test_thresholds_flag_a_share_or_reach_a_recall():
    risks = np.arange(100.0)
    assert (risks >= threshold(risks, flag_fraction=0.05)).sum() == 5
    labels = np.zeros(100, dtype=bool)
    labels[[10, 20, 30, 40, 50, 60, 70, 80, 90, 99]] = True
    at = threshold(risks, labels=labels, recall=0.9)
    assert at == 20.0
    assert (risks[labels] >= at).mean() == 0.9
    with pytest.raises(ValueError, match="flag_fraction"):
        threshold(risks, flag_fraction=0.0)
    with pytest.raises(ValueError, match="at least one True, got 0 True"):
        threshold(risks, labels=np.zeros(100, dtype=bool))
    with pytest.raises(ValueError, match="recall"):
        threshold(risks, labels=labels, recall=1.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"detectors": ["magic"]}, "unknown 'magic'; there are: top_ngram.*seq_logprob needs model="),
        ({"detectors": ["alti"]}, "alti needs model= and tokenizer=; without: top_ngram"),
        ({"model": object()}, "give both or neither"),
        ({"custom": {"top_ngram": len}}, "is the name of a detector"),
    ],
)
def test_detectors_that_lack_something_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        HallucinationScorer(**options)


def test_missing_references_and_bad_custom_scores_are_named():
    bare = Translations(["a"], ["b"])
    with pytest.raises(ValueError, match="chrf2: needs references"):
        HallucinationScorer(detectors=["chrf2"]).score(bare)
    with pytest.raises(ValueError, match="mine returned shape"):
        HallucinationScorer(custom={"mine": lambda s, o: [1.0, 2.0]}).score(bare)
    with pytest.raises(ValueError, match="attention_transport needs model="):
        HallucinationScorer().fit_reference(bare)


def test_adapters_take_callables():
    embed = lambda texts: np.array([[len(t), 1.0] for t in texts])  # noqa: E731
    found = embedding_similarity(["aa", "a"], ["bb", "bbbb"], encoder=embed)
    assert found[0] == pytest.approx(0.0)
    assert found[1] == pytest.approx(1 - 5 / np.sqrt(2 * 17))
    share = token_hallucination(["a", "b"], ["x y", ""], classifier=lambda s, o: [[0.5, 0.1], []])
    assert share.tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match=r"encoder: expected \(2, dim\)"):
        embedding_similarity(["a", "b"], ["c", "d"], encoder=lambda texts: np.zeros(3))
    with pytest.raises(ValueError, match="classifier: expected one row per output"):
        token_hallucination(["a"], ["b"], classifier=lambda s, o: [])


def test_what_is_not_installed_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package comet; install it with: pip install unbabel-comet"):
        comet_qe()
    with pytest.raises(ValueError, match="sentence_transformers"):
        labse_encoder()
    with pytest.raises(ValueError, match="needs the package sacrebleu"):
        reference_risk(["a"], ["b"], metric="bleu")


def test_bleu_is_sacrebleus():
    metrics = pytest.importorskip("sacrebleu.metrics")
    outputs, references = ["the cat sat on a mat", "no"], ["the cat sat on the mat", "yes yes"]
    expected = [
        1 - metrics.BLEU(effective_order=True).sentence_score(o, [r]).score / 100
        for o, r in zip(outputs, references, strict=True)
    ]
    np.testing.assert_allclose(reference_risk(outputs, references, metric="bleu"), expected)
    with pytest.raises(ValueError, match="metric: expected one of chrf2"):
        reference_risk(outputs, references, metric="ter")


def test_a_category_is_judged_against_clean_rows_and_against_all_others():
    labels = pd.DataFrame({"a": [1, 1, 0, 0, 0, 0], "b": [0, 0, 1, 0, 0, 0]}).astype(bool)
    scores = {"d": [3.0, 2.0, 4.0, 1.0, 0.0, 2.5]}
    report = detection_report(scores, labels, categories={"a": ["a"], "any": ["a", "b"]}, bootstrap=50)
    table = report.table.set_index(["category", "negatives", "metric"])["value"]
    # a against the three clean rows: of 6 comparisons 5 are won; against b as well two more are lost.
    assert table["a", "clean", "auroc"] == pytest.approx(5 / 6)
    assert table["a", "rest", "auroc"] == pytest.approx(5 / 8)
    assert table["any", "clean", "auroc"] == table["any", "rest", "auroc"] == pytest.approx(8 / 9)
    assert report.table["few"].all()
    assert report.wide().loc["d", "a"] == pytest.approx(5 / 8)
    assert detection_report(scores, labels, bootstrap=0).table["low"].isna().all()


def test_a_bad_report_is_named():
    labels = pd.DataFrame({"a": [True, False]})
    with pytest.raises(ValueError, match="expected a row per score, 3, got 2"):
        detection_report({"d": [1.0, 2.0, 3.0]}, labels)
    with pytest.raises(ValueError, match="no label 'b'; there are a"):
        detection_report({"d": [1.0, 2.0]}, labels, categories=["b"])
    with pytest.raises(ValueError, match="metrics: expected some of auroc"):
        detection_report({"d": [1.0, 2.0]}, labels, metrics=["f1"])
    with pytest.raises(ValueError, match="'a' has 2 of 2 rows"):
        detection_report({"d": [1.0, 2.0]}, labels | True)
