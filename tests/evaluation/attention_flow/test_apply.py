"""`paperworks apply attention_flow`: texts with a model's folder, saved weights, and what it refuses."""

import numpy as np
import pandas as pd
import pytest
from flow_twins import random_attention
from small_models import make_model, make_tokenizer

from paperworks.evaluation.attention_flow.apply import OUTPUTS, apply
from paperworks.evaluation.attention_flow.flow import attention_flow, flow_bounds
from paperworks.evaluation.attention_flow.report import FlowReport

TEXTS = ["the film was great", "i hated this slow movie but the acting is good", "boring"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    make_model("BertForSequenceClassification").save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "texts.csv"
    pd.DataFrame({"review": TEXTS, "stars": ["positive", "negative", "negative"]}).to_csv(path, index=False)
    return path


def test_texts_and_a_model(folder, table, tmp_path):
    out = tmp_path / "out"
    said = apply(str(table), model=str(folder), out=out, column="review")
    assert {path.name for path in out.iterdir()} == set(OUTPUTS)
    tokens, summary = pd.read_csv(out / "tokens.csv"), pd.read_csv(out / "summary.csv")
    assert tokens.columns.tolist() == [
        "row", "position", "token", "flow", "shapley", "rollout", "raw", "model_shapley", "model_shapley_stderr",
        "low", "high",
    ]  # fmt: skip
    assert summary["row"].tolist() == ["line 2", "line 3", "line 4"]
    report = FlowReport.from_text(make_model("BertForSequenceClassification"), make_tokenizer(), TEXTS[0])
    first = tokens[tokens["row"] == "line 2"]
    assert first["token"].tolist() == ["[CLS]", "the", "film", "was", "great", "[SEP]"]
    for method in ("flow", "shapley", "rollout", "raw", "model_shapley"):
        np.testing.assert_allclose(first[method], report.values[method], atol=1e-6)
    assert summary["prediction"][0] == report.label
    assert summary["correlation_flow"][0] == pytest.approx(report.correlations()["flow"])
    assert np.isnan(summary["correlation_flow"][2])
    assert "Degeneracy in 3 texts" in said
    page = (out / "report.html").read_text()
    assert page.count('<section class="af-text">') == 3
    assert page.count("column sums of the first layer") == 4


def test_targets_from_a_column_or_by_name(folder, table, tmp_path):
    apply(str(table), model=str(folder), out=tmp_path / "a", column="review", target="stars", methods="flow,model_loo")
    summary = pd.read_csv(tmp_path / "a" / "summary.csv")
    assert summary["prediction"].tolist() == ["positive", "negative", "negative"]
    apply(str(table), model=str(folder), out=tmp_path / "b", column="review", target="negative", methods="flow")
    other = pd.read_csv(tmp_path / "b" / "summary.csv")
    assert other["prediction"].tolist() == ["negative"] * 3
    assert other["probability"][0] == pytest.approx(1 - summary["probability"][0], abs=1e-6)


def test_saved_weights(tmp_path):
    causal, full = random_attention(0, 3, 5, heads=2, causal=True), random_attention(1, 12, 6)
    path = tmp_path / "a.npz"
    np.savez(path, **{"first": causal.numpy(), "second": full.numpy(), "first.tokens": list("abcde")})
    said = apply(attentions=path, out=tmp_path / "out")
    tokens = pd.read_csv(tmp_path / "out" / "tokens.csv")
    first, second = tokens[tokens["row"] == "first"], tokens[tokens["row"] == "second"]
    assert first["token"].tolist() == list("abcde")
    np.testing.assert_allclose(first["flow"], attention_flow(causal, sources=[-1])[0, 0], atol=1e-7)
    np.testing.assert_allclose(second["shapley"], attention_flow(full, sources=[0], mode="shapley")[0, 0], atol=1e-7)
    np.testing.assert_allclose(second["low"], flow_bounds(full, sources=[0]).low[0, 0], atol=1e-7)
    np.testing.assert_allclose(first["raw"], causal[-1].mean(0)[-1], atol=1e-7)
    assert "in 2 texts" in said
    apply(attentions=path, out=tmp_path / "out", output=2, methods="rollout")
    again = pd.read_csv(tmp_path / "out" / "tokens.csv")
    assert (again[again["row"] == "first"]["rollout"] > 0).tolist() == [True, True, True, False, False]


def test_flow_that_means_nothing_is_said_to(tmp_path):
    path = tmp_path / "deep.npz"
    np.savez(path, deep=random_attention(2, 12, 8).numpy())
    said = apply(attentions=path, out=tmp_path / "out")
    assert "100% of flows" in said
    assert "flow is no evidence" in said
    np.savez(path, shallow=random_attention(2, 2, 8).numpy())
    assert "no evidence" not in apply(attentions=path, out=tmp_path / "out")


def test_the_command_line(command, folder, table, tmp_path):
    answer = command(
        "apply", "attention_flow", table, "--model", folder, "--column", "review", "--out", tmp_path / "out",
        "--methods", "flow,rollout", check=0,
    )  # fmt: skip
    assert "report:" in answer.stdout
    assert (tmp_path / "out" / "report.html").exists()
    answer = command("apply", "attention_flow", table, "--out", tmp_path / "none")
    assert answer.returncode != 0
    assert "--model FOLDER" in answer.stderr
    assert not (tmp_path / "none").exists()


def test_unfit_input_is_named(folder, table, tmp_path):
    out = tmp_path / "out"
    empty = tmp_path / "empty.csv"
    empty.write_text('text,x\n"fine",1\n"",2\n')
    saved = tmp_path / "a.npz"
    np.savez(saved, bad=0.5 * random_attention(0, 2, 4).numpy())
    flat = tmp_path / "flat.npz"
    np.savez(flat, flat=np.zeros((4, 4)))
    junk = tmp_path / "junk.npz"
    junk.write_bytes(b"no archive")
    for arguments, options, words in [
        ((), {}, "model: give either texts and --model FOLDER"),
        ((), {"model": str(folder)}, "texts: --model needs a table"),
        ((str(table),), {"model": str(folder)}, "no column 'text'"),
        ((str(empty),), {"model": str(folder)}, "line 3: 'text' is empty"),
        ((str(table),), {"model": str(tmp_path), "column": "review"}, "model: cannot load"),
        ((str(table),), {"model": str(folder), "column": "review", "target": "sad"}, "line 2: target: the model has"),
        ((str(table),), {"model": str(folder), "column": "review", "methods": "lime"}, "methods: expected some of"),
        ((), {"attentions": saved, "methods": "model_loo"}, "methods: model_loo needs --model"),
        ((), {"attentions": saved}, "array 'bad': attentions: layer 0 rows sum to 0.50"),
        ((), {"attentions": flat}, r"array 'flat': expected floating-point \(L, H, n, n\)"),
        ((), {"attentions": junk}, "not an npz of plain arrays"),
        ((), {"attentions": tmp_path / "none.npz"}, "no such file"),
        ((), {"attentions": saved, "permutations": 1}, "permutations: expected at least 4"),
    ]:
        with pytest.raises(ValueError, match=words):
            apply(*arguments, out=out, **options)
        assert not out.exists()
    taken = tmp_path / "tokens.csv"
    table.rename(taken)
    with pytest.raises(ValueError, match="is read and would be written"):
        apply(str(taken), model=str(folder), column="review", out=tmp_path)
