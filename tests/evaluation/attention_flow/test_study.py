"""The study as an instrument: measures of known arrays, tasks with the cause they claim, verdicts that can fail."""

import numpy as np
import pandas as pd
import pytest
import torch
from small_models import make_model, make_tokenizer

from paperworks.evaluation.attention_flow import experiments, study, tasks, views
from paperworks.lab.claim import NotMeasurable, judge
from paperworks.lab.run import Options, run


def test_measures_on_arrays_made_by_hand():
    values = np.array([[0.1, 0.5, 0.2], [0.3, 0.3, 0.3], [0.9, 0.1, 0.1]])
    cause = np.array([1, 0, 2])
    np.testing.assert_allclose(experiments.auc_of_cause(values, cause), [1.0, 0.5, 0.25])
    np.testing.assert_allclose(experiments.cause_on_top(values, cause), [1.0, 1 / 3, 0.0])
    truth = np.array([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    np.testing.assert_allclose(experiments.rank_correlation(values, truth), [1.0, 0.0, -np.sqrt(3) / 2])
    # Two tokens; the payoff is 1 with token 0 alone: deleting it first leaves 0, deleting it last keeps 1 once more.
    tables = np.array([[0.0, 1.0, 0.0, 1.0]] * 2)
    found = experiments.deletion_area(np.array([[2.0, 1.0], [1.0, 2.0]]), tables)
    np.testing.assert_allclose(found, [1 / 3, 2 / 3])


@pytest.mark.parametrize("name", ["lookup", "agreement"])
def test_the_label_follows_from_the_cause_alone(name):
    batch = tasks.TASKS[name].draw(400, np.random.default_rng(0))
    assert batch.ids.shape[1] == tasks.LENGTH
    token = batch.ids[torch.arange(400), batch.cause]
    if name == "lookup":
        assert (token[:, 1] - 1 == batch.labels).all()
        assert (token[:, 0] == batch.ids[:, -1, 0]).all()
        assert (batch.ids[:, :-1, 0].sort(1).values == torch.arange(1, 9)).all()
    else:
        nouns = batch.ids[:, :, 0] >= tasks._NOUN
        nouns[:, -1] = False
        assert ((token[:, 0] >= tasks._NOUN + tasks.NOUNS).long() == batch.labels).all()
        assert nouns[torch.arange(400), batch.cause].all()
        # Only the free noun has no preposition before it, and there always are attractors.
        before = torch.cat([torch.zeros(400, 1, dtype=torch.long), batch.ids[:, :-1, 0]], 1)
        free = nouns & ~((before >= 1) & (before < tasks._ADJECTIVE))
        assert (free.sum(1) == 1).all()
        assert (nouns.sum(1) >= 2).all()
    assert 0.2 < batch.labels.double().mean() / (tasks.TASKS[name].classes - 1) < 0.8
    assert len(tasks.TASKS[name].words(batch.ids[0])) == tasks.LENGTH


def test_half_of_the_sequences_are_masked_somewhere():
    ids = tasks.TASKS["lookup"].draw(2000, np.random.default_rng(1)).ids
    masked = tasks.mask_some(ids, np.random.default_rng(2))
    gone = (masked == tasks.MASK).all(-1)
    assert ((masked == ids) | gone[..., None]).all()
    assert 0.4 < gone.any(1).double().mean() < 0.5
    assert 0.2 < gone.double().mean() < 0.3


def test_model_tables_are_probabilities_of_masked_sequences():
    torch.manual_seed(0)
    task = tasks.TASKS["lookup"]
    model = tasks.Reader(task, dim=16, depth=1, heads=2, ffn_ratio=2).eval()
    batch = task.draw(2, np.random.default_rng(0))
    tables = experiments.model_tables(model, batch)
    ids = batch.ids[1:2].clone()
    ids[0, [0, 2, 3, 4, 5, 6, 7]] = 0  # left: tokens 1 and 8
    with torch.no_grad():
        expected = model(ids).softmax(-1)[0, batch.labels[1]]
    assert tables[1, (1 << 1) | (1 << 8)] == pytest.approx(expected.item(), abs=1e-6)
    arms = experiments.model_arms(model, batch, tables, seed=0)
    assert arms["model_loo"][0, 3] == pytest.approx(tables[0, -1] - tables[0, 511 - 8])


def trials(flow, raw, *, accuracy=1.0, residual=0.0, loo=0.3, distance=0.2, seeds=range(10, 15)):
    """What task trials return, with these means for two arms."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in seeds:
        for task in ("lookup", "agreement"):
            row = {"part": "task", "task": task, "seed": seed, "accuracy": accuracy, "auc_model_shapley": 1.0}
            for metric in ("spearman", "auc"):
                for arm in experiments.ARMS:
                    row[f"{metric}_{arm}"] = {"flow": flow, "raw": raw, "random": 0.0}.get(arm, 0.6)
                    row[f"{metric}_{arm}"] += 0.01 * rng.normal()
            many = np.ones(48)
            row |= {"residual": residual * many, "rollout_excess": 0 * many, "loo_sum": loo * many}
            row |= {"raw_distance": distance * many, "raw_excess": many}
            rows.append(row)
    return pd.DataFrame(rows)


def verdicts(frame):
    return {verdict.id: verdict for verdict in judge(study.CLAIMS, frame)}


def test_verdicts_can_go_either_way():
    good = verdicts(trials(0.6, 0.3))
    assert {name: verdict.state for name, verdict in good.items()} == {"T1": "holds", "T2": "holds", "T3": "holds"}
    assert verdicts(trials(0.2, 0.3))["T3"].state == "does not hold"
    assert verdicts(trials(0.3, 0.3))["T3"].state == "inconclusive"
    assert verdicts(trials(0.6, 0.3, loo=1.0))["T2"].state == "does not hold"
    assert verdicts(trials(0.6, 0.3, distance=1e-4))["T2"].state == "does not hold"
    one = trials(0.6, 0.3)
    one.at[3, "residual"] = np.r_[np.zeros(47), 1e-3]
    assert verdicts(one)["T1"].state == "does not hold"


def test_a_model_that_did_not_learn_tests_nothing():
    verdict = verdicts(trials(0.6, 0.3, accuracy=0.9))["T3"]
    assert verdict.state == "not tested"
    assert "model did not learn the task: accuracy 0.900" in verdict.reason


def test_guards_void_the_verdict():
    frame = trials(0.6, 0.3)
    frame["auc_model_shapley"] = 0.6
    assert verdicts(frame)["T3"].state == "inconclusive"
    frame = trials(0.6, 0.3)
    frame["spearman_model_loo"] = frame["spearman_random"]
    assert "chance" in verdicts(frame)["T3"].reason


def test_a_seed_with_one_task_is_left_out():
    frame = trials(0.6, 0.3).drop(index=0)
    assert len(study.gain("spearman", "flow", "raw")(frame)) == 4
    with pytest.raises(NotMeasurable, match="needs a trained model"):
        study.gain("spearman", "flow", "raw")(pd.DataFrame([{"part": "random", "seed": 10}]))


def test_smoke(tmp_path):
    result = run("attention_flow", options=Options("smoke", backend="inline", store=tmp_path))
    assert not result.failures
    states = {verdict.id: verdict for verdict in result.verdicts}
    assert states["T1"].state == "holds"  # exact, so it does not wait for seeds
    assert states["T3"].state == "not tested"
    assert any("column sums of the first layer" in sentence for sentence in result.sentences)
    assert set(result.figures) == {"depth", "speed"}
    assert set(result.tables) == {"depth", "graphs"}
    assert "Degeneracy on random attention" in result.report.read_text()


def test_a_small_trained_trial_has_all_that_the_views_need(tmp_path):
    config = study.Config(tasks=("lookup",), sentences=3, dim=16, depth=2, heads=2, lookup_steps=5)

    class Silent:
        folder = tmp_path

        def __call__(self, fraction, **fields):
            pass

    point = {"part": "task", "task": "lookup"}
    first, second = (study.trial(point, 10, config, {}, Silent()) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first if name != "flow_seconds")
    frame = pd.DataFrame([{**point, "seed": 10, **first}])
    for view in (*views.FIGURES, *views.TABLES):
        drawn = view.draw(frame) if hasattr(view, "draw") else view.build(frame)
        assert drawn is not None or view.name == "speed"
    assert "What to use instead" in views.sentences(frame)[-1]
    assert verdicts(frame)["T3"].state == "not tested"


def test_own_texts_and_model(tmp_path):
    make_model("BertForSequenceClassification").save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    texts = ["the film was great", "i hated this slow movie", "boring plot but good acting", "it was very funny"]
    pd.DataFrame({"review": texts}).to_csv(tmp_path / "texts.csv", index=False)
    options = Options("smoke", seeds=2, backend="inline", store=tmp_path / "run")
    result = run(
        "attention_flow",
        data=str(tmp_path / "texts.csv"),
        columns={"text": "review"},
        options=options,
        model=str(tmp_path / "model"),
        sentences=3,
        permutations=4,
        speed_sizes=(),
    )
    assert not result.failures, result.failures
    states = {verdict.id: verdict.state for verdict in result.verdicts}
    assert states["T1"] == "not tested"
    assert states["T2"] in ("indicative", "inconclusive")
    assert states["T3"] in ("indicative", "inconclusive")
    assert any("Degeneracy on your texts" in sentence for sentence in result.sentences)
    assert {"arms"} <= set(result.figures)


def test_unfit_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="model: texts of your own need a model"):
        study.load(study.Config(), study.Request(path="texts.csv"))
    with pytest.raises(ValueError, match="tasks: expected some of lookup, agreement, got 'sorting'"):
        study.points(study.Config(tasks=("sorting",)), {})
    (tmp_path / "a.csv").write_text('text,x\n"a",1\n"",2\n')
    with pytest.raises(ValueError, match="line 3: 'text' is empty"):
        study.load(study.Config(model="m"), study.Request(path=str(tmp_path / "a.csv")))
