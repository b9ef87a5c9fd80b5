"""The study as an instrument: claims are measured as their words say, and what is absent is not tested."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from paperworks.data.translations import Translations
from paperworks.lab.claim import NotMeasurable, judge
from paperworks.lab.detection import auroc
from paperworks.lab.run import Options, run
from paperworks.language.nmt_hallucinations import experiments, study, views
from paperworks.language.nmt_hallucinations.corpus import MitigationLabels

CONFIG = replace(study.SCALES["smoke"], bootstrap=400)


def pairs(count=600, *, labels=True, seed=0, **risks):
    rng = np.random.default_rng(seed)
    wrong = rng.random(count) < 0.2
    frame = {name: strength * wrong + rng.normal(size=count) for name, strength in risks.items()}
    return Translations(
        [f"source {row}" for row in range(count)], [f"output {row}" for row in range(count)],
        labels=pd.DataFrame({"bad": wrong}) if labels else None, risks=pd.DataFrame(frame) if frame else None,
    )  # fmt: skip


def own_frame(given, seeds=range(10, 15)):
    return pd.DataFrame(
        [{"kind": "own", "seed": seed} | experiments.own(given, seed=seed, config=CONFIG) for seed in seeds]
    )


def verdict(frame, name):
    return next(found for found in judge(study.CLAIMS, frame) if found.id == name)


def test_claims_on_given_pairs_hold_and_fall_as_the_scores_are():
    scores = {"attention_to_eos": 0.5, "ignored_source": 0.5, "comet": 2.0, "comet_qe": 0.6}
    frame = own_frame(pairs(seq_logprob=2.0, **scores))
    # chrF++ needs references, which these pairs do not have.
    assert [verdict(frame, name).state for name in ("O1", "O2", "O3")] == ["holds", "not tested", "holds"]
    assert "risk_chrf++" in verdict(frame, "O2").reason
    frame = own_frame(pairs(seq_logprob=0.5, **scores | {"comet_qe": 2.0}))
    assert verdict(frame, "O3").state == "does not hold"


def test_the_difference_is_that_of_the_areas_and_its_draws_are_paired():
    given = pairs(seq_logprob=1.0, comet_qe=1.0)
    frame = own_frame(given)
    wrong = given.any_of(["bad"])
    interval = study.advantage("own", "comet_qe")(frame)
    expected = auroc(given.risks["seq_logprob"], wrong) - auroc(given.risks["comet_qe"], wrong)
    assert interval.estimate == pytest.approx(expected)
    assert interval.low < expected < interval.high
    same = own_frame(
        Translations(
            given.source,
            given.output,
            labels=given.labels,
            risks=given.risks.assign(comet_qe=given.risks["seq_logprob"]),
        )
    )
    assert study.advantage("own", "comet_qe")(same).high == 0.0


def test_without_labels_or_enough_of_them_nothing_is_tested():
    frame = own_frame(pairs(labels=False, seq_logprob=1.0, comet_qe=1.0))
    assert verdict(frame, "O3").state == "not tested"
    assert "no labels" in verdict(frame, "O3").reason
    assert views.agreement_table(frame) is not None
    frame = own_frame(pairs(100, seq_logprob=2.0, comet_qe=0.0))
    assert "needs 60" in verdict(frame, "O3").reason


def toy_rows(training="noisy", seeds=range(10, 15), **values):
    usual = {
        "f1_in_domain": 0.9, "positives": 100, "auroc_seq_logprob": 0.8, "auroc_attention_to_eos": 0.6,
        "auroc_ignored_source": 0.6, "auroc_top_ngram": 0.6, "auroc_repeated_target": 0.6, "rate_before": 0.5,
        "rate_after": 0.2, "rate_chosen": 0.2, "rate_random": 0.3, "rate_second": 0.4, "rate_oracle": 0.1,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    rows = []
    for seed in seeds:
        noisy = {
            name: value + (0.005 * rng.normal() if isinstance(value, float) else 0)
            for name, value in (usual | values).items()
        }
        rows.append({"kind": "toy", "training": training, "seed": seed} | noisy)
    return pd.DataFrame(rows)


def test_toy_claims_are_judged_per_training_corpus():
    frame = pd.concat([toy_rows(), toy_rows("clean", auroc_top_ngram=0.9, rate_after=0.45, rate_second=0.1)])
    states = {found.id: found.state for found in judge(study.CLAIMS, frame)}
    assert [states[f"{claim}_noisy"] for claim in ("C1", "C4a", "C4b")] == ["holds"] * 3
    assert [states[f"{claim}_clean"] for claim in ("C1", "C4a", "C4b")] == ["does not hold"] * 3
    assert states["C1"] == states["C4a"] == "not tested"


def test_a_weak_translator_or_few_hallucinations_void_the_verdict():
    found = verdict(toy_rows(f1_in_domain=0.7), "C1_noisy")
    assert found.state == "inconclusive"
    assert "translator too weak" in found.reason
    found = verdict(toy_rows(positives=59), "C4a_noisy")
    assert found.state == "inconclusive"
    assert "needs 60" in found.reason
    frame = toy_rows()
    frame["rate_before"] = 0.0
    with pytest.raises(NotMeasurable, match="no hallucination among"):
        study.toy_fall("noisy")(frame)


def test_human_falls_are_resampled_over_sources():
    rng = np.random.default_rng(0)
    before = rng.choice(3, size=201, p=[0.2, 0.3, 0.5])
    after = np.where((before == 2) & (rng.random(201) < 0.7), 0, before)
    labels = MitigationLabels({"default": before, "comet": after, "alti": before, "labse": after})
    frame = pd.DataFrame(
        [
            {"kind": "repairs", "seed": seed} | experiments.repairs(labels, draws=500, seed=seed)
            for seed in range(10, 15)
        ]
    )
    interval = study.human_fall("comet")(frame)
    assert interval.estimate == pytest.approx(1 - (after == 2).sum() / (before == 2).sum())
    assert 0.4 < interval.low < interval.estimate < interval.high
    assert verdict(frame, "C4a").state == "does not hold"
    assert frame["flow_comet"][0].sum() == 201
    assert frame["flow_comet"][0][2, 0] == frame["gone_comet"][0]


def test_caught_shares_ties_fairly():
    wrong = np.array([True, True, False, False, False])
    table = experiments._caught({"flat": np.zeros(5), "best": np.array([2.0, 1, 0, 0, 0])}, {"any": wrong}, wrong)
    np.testing.assert_allclose(table[0], [2 / 5, 1.0])


def test_smoke_study_runs_without_benchmark_data_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERWORKS_DATA", str(tmp_path))
    import pooch

    def unreachable(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", unreachable)
    monkeypatch.setattr("paperworks.data.benchmarks.cache_folder", lambda: tmp_path / "cache")
    result = run("nmt_hallucinations", options=Options("smoke", seeds=1, backend="inline", store=tmp_path / "run"))
    assert not result.failures
    states = {found.id: found.state for found in result.verdicts}
    assert {states[name] for name in ("C1", "C2", "C3", "C4a", "O1", "O2", "O3")} == {"not tested"}
    assert any("are not tested" in line for line in result.loaded.description)
    assert any("synthetic" in line for line in result.loaded.description)
    assert {"detection", "toy", "repairs", "caught"} <= set(result.tables)
    assert {"roc", "controls", "length"} <= set(result.figures)
    assert result.frame["training"].tolist() == ["clean", "noisy"]
    columns = (
        "auroc_seq_logprob",
        "auroc_alti",
        "auroc_attention_transport",
        "auroc_mc_dissimilarity",
        "auroc_mc_variance",
    )
    assert np.isfinite(result.frame[list(columns)].to_numpy()).all()


def test_corpus_alone_judges_repairs_and_says_what_is_missing(corpus, tmp_path):
    result = run(
        "nmt_hallucinations", options=Options("smoke", seeds=5, backend="inline", store=tmp_path / "run"),
        kinds=("corpus",), bootstrap=200,
    )  # fmt: skip
    assert not result.failures
    states = {found.id: found for found in result.verdicts}
    assert states["C4a"].state == "holds"
    assert [round(f.interval.estimate, 4) for f in states["C4a"].findings] == [0.5794, 0.5794, 0.6916]
    assert {states[name].state for name in ("C1", "C2", "C3")} == {"not tested"}
    assert "detection_metrics.tsv" in states["C2"].reason
    assert "flow" in result.figures


def test_published_scores_are_judged_where_they_are(corpus, tmp_path):
    wrong = corpus.any_of(["repetitions", "strong-unsupport", "full-unsupport"])
    rng = np.random.default_rng(0)
    scores = pd.DataFrame(
        {
            "mt_log_loss_avg": 2 * wrong + rng.normal(size=3415),
            "comet_qa_neg": rng.normal(size=3415),
            "comet_ref_neg": 2 * wrong + rng.normal(size=3415),
        }
    )
    scores.to_csv(tmp_path / "detection_metrics.tsv", sep="\t", index=False)
    result = run(
        "nmt_hallucinations", options=Options("smoke", seeds=5, backend="inline", store=tmp_path / "run"),
        kinds=("corpus",), scores=str(tmp_path / "detection_metrics.tsv"), bootstrap=200,
    )  # fmt: skip
    states = {found.id: found.state for found in result.verdicts}
    assert (states["C1"], states["C2"], states["C3"]) == ("not tested", "holds", "holds")


def test_own_translations_from_the_command_line(tmp_path, command):
    frame = pd.DataFrame({"de": [f"s {row}" for row in range(300)], "en": [f"o {row % 290}" for row in range(300)]})
    wrong = np.arange(300) % 4 == 0
    frame = frame.assign(
        bad=wrong.astype(int), risk_seq_logprob=wrong + np.linspace(0, 0.5, 300), risk_comet_qe=np.linspace(0, 1, 300)
    )
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    answer = command(
        "run", "nmt_hallucinations", "--data", "pairs.csv", "--columns", "source=de,output=en", "--scale", "smoke",
        "--seeds", "5", "--backend", "inline", check=0,
    )  # fmt: skip
    assert "HOLDS O3" in answer.stdout
    assert "NOT TESTED O1" in answer.stdout
    assert "NOT TESTED C1" in answer.stdout


def test_bad_settings_are_named():
    from paperworks.lab.study import Request

    with pytest.raises(ValueError, match="kinds: expected corpus, toy or both, got 'own'"):
        study.load(replace(CONFIG, kinds=("own",)), Request())
    labels = pd.DataFrame({"bad": [1] * 30})
    with pytest.raises(ValueError, match="all labels are alike"):
        experiments.own(Translations([f"s{i}" for i in range(30)], ["o"] * 30, labels=labels), seed=0, config=CONFIG)
