"""The study as an instrument: claims are measured as their words say, and what is absent is not tested."""

import numpy as np
import pandas as pd
import pytest

from paperworks.data.responses import Responses
from paperworks.evaluation.irt import experiments, study, views
from paperworks.evaluation.irt.simulate import simulate_responses
from paperworks.lab.claim import NotMeasurable
from paperworks.lab.run import Options, run

SETS = ("quoref", "hellaswag", "mctaco", "newsqa", "boolq", "snli", "mnli", "cb", "rte")


@pytest.fixture(scope="module")
def small():
    return simulate_responses(60, 120, model="2pl", seed=0)[0]


def fits(leh, log_a=None, *, estimator="vi", seeds=(10, 11), draws=40, noise=0.0):
    """Trials as the benchmark part returns them, with these upper quartiles of headroom."""
    rng = np.random.default_rng(0)
    leh, log_a = np.asarray(leh, float), np.asarray(leh if log_a is None else log_a, float)
    boxes = {"leh": np.repeat(leh[:, None], 5, 1), "log_a": np.repeat(log_a[:, None], 5, 1), "leh_at_bert": leh}
    return [
        {
            "part": "benchmark", "estimator": estimator, "seed": seed, "sets": np.array(SETS),
            "items": np.full(len(SETS), 50), "log_a_mean": log_a,
            "leh_draws": leh + noise * rng.normal(size=(draws, len(SETS))), **boxes,
        }
        for seed in seeds
    ]  # fmt: skip


FALLING = np.linspace(0.9, 0.1, len(SETS))


def test_c1_counts_draws_in_which_exactly_the_three_are_on_top():
    certain = study.top_share("vi")(pd.DataFrame(fits(FALLING)))
    assert (certain.estimate, certain.count) == (1.0, 80)
    swapped = FALLING.copy()
    swapped[[2, 3]] = swapped[[3, 2]]
    assert study.top_share("vi")(pd.DataFrame(fits(swapped))).estimate == 0.0
    mixed = study.top_share("vi")(pd.DataFrame(fits(FALLING, seeds=(10,)) + fits(swapped, seeds=(11,))))
    assert mixed.estimate == 0.5
    assert 0 < study.top_share("vi")(pd.DataFrame(fits(FALLING, noise=0.1))).estimate < 1


def test_c2_asks_for_all_three_among_the_lowest_five():
    assert study.bottom_share("vi")(pd.DataFrame(fits(FALLING))).estimate == 1.0
    raised = FALLING.copy()
    raised[SETS.index("cb")] = 2.0
    assert study.bottom_share("vi")(pd.DataFrame(fits(raised))).estimate == 0.0


def test_c3_compares_span_sets_with_the_others_by_items():
    log_a = np.where(np.isin(SETS, study.SPAN_SETS), 0.5, 0.2)
    interval = study.span_advantage(pd.DataFrame(fits(FALLING, log_a)))
    assert interval.estimate == pytest.approx(0.3)
    assert (interval.low, interval.high) == (pytest.approx(0.3), pytest.approx(0.3))
    assert study.span_advantage(pd.DataFrame(fits(FALLING, -log_a))).high < 0


def test_c4_correlates_by_name_even_where_a_set_has_vanished():
    frame = pd.DataFrame(fits(FALLING) + fits(FALLING[::-1], estimator="vi_trimmed"))
    assert study.quartile_correlation("leh", "vi_trimmed")(frame) == pytest.approx([-1.0, -1.0])
    shuffled = fits(FALLING, estimator="vi_trimmed")
    order = np.random.default_rng(1).permutation(len(SETS))[:-2]
    for row in shuffled:
        for name in ("sets", "leh", "log_a"):
            row[name] = row[name][order]
    frame = pd.DataFrame(fits(FALLING) + shuffled)
    assert study.quartile_correlation("leh", "vi_trimmed")(frame) == pytest.approx([1.0, 1.0])


def test_claims_about_the_benchmark_are_not_measurable_without_it():
    for measure in (study.top_share("vi"), study.bottom_share("vi"), study.span_advantage):
        with pytest.raises(NotMeasurable, match="nlu_irt"):
            measure(pd.DataFrame([{"part": "unseen", "seed": 10}]))


def test_the_sentence_says_what_c1_rests_on():
    lost = FALLING.copy()
    lost[[2, 3]] = lost[[3, 2]]
    frame = pd.DataFrame(fits(FALLING) + fits(lost, estimator="mml_2pl", seeds=(10,)))
    said = views.sentences(frame)[0]
    assert "on top by the paper's estimator" in said
    assert "not by weighted 2PL (its three: Quoref, HellaSwag, NewsQA)" in said
    assert "does not rest" in views.sentences(pd.DataFrame(fits(FALLING)))[0]


def test_row_column_logistic_knows_main_effects_and_nothing_else(small):
    chance = experiments.row_column_logistic(small)
    assert chance.mean() == pytest.approx(small.values.mean(), abs=0.01)
    order = np.argsort(small.accuracy())
    assert (np.diff(chance[order], axis=0) >= -1e-12).all()


def test_unseen_answers_are_really_unseen():
    # Answers that are pure chance cannot be predicted better than log 2 by anyone who has not seen them.
    values = (np.random.default_rng(0).random((80, 60)) < 0.5).astype(np.uint8)
    found = experiments.predict_unseen(Responses.from_array(values), share=0.2, seed=0)
    for model in ("accuracy_only", "1pl", "2pl", "3pl"):
        assert found[f"loglik_{model}"] < -np.log(2) + 0.01
        assert found[f"brier_{model}"] > 0.24


def test_the_true_model_predicts_unseen_answers_better_than_accuracies():
    rng = np.random.default_rng(3)
    theta, b, a = rng.normal(size=(400, 1)), rng.normal(size=60), np.exp(rng.normal(scale=1.0, size=60))
    values = (rng.random((400, 60)) < 1 / (1 + np.exp(-a * (theta - b)))).astype(np.uint8)
    found = experiments.predict_unseen(Responses.from_array(values), share=0.1, seed=0)
    assert found["loglik_2pl"] > found["loglik_accuracy_only"] + 0.005
    assert found["loglik_2pl"] > found["loglik_1pl"] + 0.005


def test_spoiling_changes_only_the_chosen_labels():
    from paperworks.data.sklearn_responses import sklearn_responses

    table = study._some(sklearn_responses(train=0.3, seed=1), 12)
    spoiled, wrong = experiments.spoil(table, share=0.03, rng=np.random.default_rng(0))
    assert wrong.sum() == round(0.03 * len(table.items))
    assert np.array_equal(spoiled.values[:, ~wrong], table.values[:, ~wrong])
    # An answer that was right cannot be right under another label.
    assert (spoiled.values[:, wrong] & table.values[:, wrong]).sum() == 0


def test_answers_that_change_places_are_found_by_their_sign(small):
    found = experiments.find_wrong_labels(small, share=0.05, draws=2, seed=0)
    assert found["auroc_point_biserial"] > 0.95
    # Half of this table's answers are right: exchanging right and wrong leaves the error rate where it was.
    assert found["auroc_error_rate"] == pytest.approx(0.5, abs=0.15)


def test_wrong_labels_are_found_far_above_chance_where_answers_are_known():
    from paperworks.data.sklearn_responses import sklearn_responses

    table = study._some(sklearn_responses(train=0.3, seed=1), 20)
    found = experiments.find_wrong_labels(table, share=0.03, draws=1, seed=0)
    assert found["auroc_expert_logit"] > 0.9
    assert found["auroc_error_rate"] > 0.9


def test_scoring_on_few_items_uses_only_unseen_families():
    responses, _ = simulate_responses(60, 150, model="2pl", seed=5)
    families = np.array([f"f{index // 6}" for index in range(60)])
    table = Responses(responses.values, None, responses.responders, responses.items, None, families)
    found = experiments.score_on_few(table, unseen_families=3, count=40, draws=1, seed=0, model="2pl")
    assert found["error_random_theta"] < 0.08
    assert found["tau_random_theta"] > 0.5
    # Informative items are not average items: raw accuracy on them is a poor estimate.
    assert found["error_chosen_raw"] > found["error_random_raw"]


def test_smoke_study_runs_without_benchmark_data_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERWORKS_DATA", str(tmp_path))
    import pooch

    def unreachable(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", unreachable)
    monkeypatch.setattr("paperworks.data.benchmarks.cache_folder", lambda: tmp_path / "cache")
    result = run("irt", options=Options("smoke", seeds=1, backend="inline", store=tmp_path / "run"), few=50)
    assert not result.failures
    states = {verdict.id: verdict.state for verdict in result.verdicts}
    assert {states[name] for name in ("C1", "C2", "C3", "C4")} == {"not tested"}
    assert {states[name] for name in ("E1", "E2", "E3", "E4")} == {"indicative"}
    assert any("C1-C4 are not tested" in line for line in result.loaded.description)
    assert {"unseen", "suspects", "few"} <= set(result.tables)
    assert next(verdict for verdict in result.verdicts if verdict.id == "E4").post_hoc


def test_own_table_is_fitted_and_its_groups_ranked(tmp_path, command):
    responses, _ = simulate_responses(40, 60, model="2pl", seed=1, groups=2)
    frame = responses.to_frame().astype(int)
    frame.insert(0, "model", list(responses.responders))
    frame.to_csv(tmp_path / "answers.csv", index=False)
    answer = command(
        "run", "irt", "--data", "answers.csv", "--scale", "smoke", "--seeds", "2", "--backend", "inline", check=0
    )
    assert "INDICATIVE E1" in answer.stdout
    assert "NOT TESTED C1" in answer.stdout
    assert "Your groups of items" in (tmp_path / "runs" / "irt" / "report.html").read_text()
