"""The published figures on the annotated corpus that need only text, and the recount of the human labels."""

import numpy as np
import pandas as pd
import pytest

from paperworks.data.errors import DataError, DataMissing
from paperworks.lab.detection import auroc, mcnemar, precision_at_recall
from paperworks.language.nmt_hallucinations import (
    detection_report,
    length_ratio,
    reference_risk,
    repeated_targets,
    top_ngram_excess,
)
from paperworks.language.nmt_hallucinations.corpus import (
    CATEGORIES,
    HALLUCINATIONS,
    PUBLISHED,
    mitigation_labels,
    published_scores,
)

TABLE = {
    "chrf++": ((0.754332, 0.778798, 0.895462), (0.1444, 0.1655)),
    "chrf2": ((0.742103, 0.764955, 0.876842), (0.1432, None)),
}
CHOSEN = ("any hallucination", "detached", "fully detached")


def test_the_corpus_has_the_published_counts(corpus):
    assert len(corpus) == 3415
    assert corpus.any_of(HALLUCINATIONS).sum() == 323
    counts = {name: int(corpus.any_of([name]).sum()) for name in corpus.categories}
    assert counts == {
        "repetitions": 86, "named-entities": 41, "omission": 204, "strong-unsupport": 164, "full-unsupport": 129,
    }  # fmt: skip


@pytest.mark.parametrize("metric", TABLE)
def test_reference_rows_of_the_table(corpus, metric):
    risk = reference_risk(corpus.output, corpus.reference, metric=metric)
    areas, precisions = TABLE[metric]
    for name, expected in zip(CHOSEN, areas, strict=True):
        assert auroc(risk, corpus.any_of(CATEGORIES[name])) == pytest.approx(expected, abs=1e-6)
    assert precision_at_recall(risk, corpus.any_of(HALLUCINATIONS)) == pytest.approx(precisions[0], abs=5e-5)
    if precisions[1] is not None:
        assert precision_at_recall(risk, corpus.any_of(["full-unsupport"])) == pytest.approx(precisions[1], abs=5e-5)


def test_heuristic_rows_of_the_table(corpus):
    wrong = corpus.any_of(HALLUCINATIONS)
    flagged = top_ngram_excess(corpus.source, corpus.output) >= 2
    assert (flagged.sum(), (flagged & wrong).sum(), (flagged & corpus.any_of(["repetitions"])).sum()) == (23, 22, 22)
    repeated = repeated_targets(corpus.source, corpus.output)
    assert ((repeated >= 2).sum(), ((repeated >= 2) & wrong).sum()) == (276, 133)
    assert auroc(repeated, corpus.any_of(["full-unsupport"])) == pytest.approx(0.8660, abs=5e-5)
    ratio = length_ratio(corpus.source, corpus.output)
    for name, expected in zip(CHOSEN, (0.6487, 0.6675, 0.6592), strict=True):
        assert auroc(ratio, corpus.any_of(CATEGORIES[name])) == pytest.approx(expected, abs=5e-5)


def test_the_report_gives_the_same_numbers_with_intervals(corpus):
    risk = reference_risk(corpus.output, corpus.reference, metric="chrf++")
    report = detection_report({"chrf++": risk}, corpus.labels, categories=CATEGORIES, bootstrap=100)
    assert report.wide().loc["chrf++", list(CHOSEN)].tolist() == pytest.approx(TABLE["chrf++"][0], abs=1e-6)
    clean = report.table[(report.table["negatives"] == "clean") & (report.table["category"] == "fully detached")]
    # The other hallucinations are left out: 3,415 - 323 rows are clean.
    assert set(clean["negative_rows"]) == {3092}
    assert (report.table["low"] <= report.table["value"]).all()
    assert (report.table["value"] <= report.table["high"]).all()


def test_human_labels_of_repairs_by_recount(corpus):
    labels = mitigation_labels()
    assert [int(labels.hallucinated(system).sum()) for system in ("default", "comet", "alti", "labse")] == [
        107,
        45,
        45,
        33,
    ]
    assert [labels.counts(system)["correct"] for system in ("default", "comet", "alti", "labse")] == [40, 109, 99, 112]
    assert mcnemar(labels.hallucinated("default"), labels.hallucinated("comet")).p < 1e-9


def write_scores(path, rows=3415, **columns):
    pd.DataFrame({"idx": np.arange(rows)} | columns).to_csv(path, sep="\t", index=False)
    return path


def test_published_scores_are_joined_by_name(tmp_path):
    values = np.random.default_rng(0).normal(size=3415)
    path = write_scores(tmp_path / "detection_metrics.tsv", mt_log_loss_avg=values, laser_something=values)
    found = published_scores(path)
    assert list(found) == ["seq_logprob"]
    np.testing.assert_allclose(found["seq_logprob"], values)
    import zipfile

    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.write(path, "computed_data/detection_metrics.tsv")
    pd.testing.assert_frame_equal(published_scores(tmp_path / "data.zip"), found)
    assert set(PUBLISHED.values()) >= {"seq_logprob", "comet", "comet_qe", "alti", "labse"}


def test_published_scores_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(DataError, match="3 rows with 1 known scores, expected 3415"):
        published_scores(write_scores(tmp_path / "a.tsv", rows=3, mt_log_loss_avg=[1, 2, 3]))
    with pytest.raises(DataError, match="0 known scores"):
        published_scores(write_scores(tmp_path / "a.tsv", other=np.zeros(3415)))
    with pytest.raises(DataMissing, match="no such file"):
        published_scores(tmp_path / "b.tsv")
