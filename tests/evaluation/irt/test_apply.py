"""`paperworks apply irt`: what it writes, from every kind of input, and what it refuses."""

import html.parser
import io
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from paperworks.data.responses import Responses
from paperworks.evaluation.irt.analysis import analyse, findings
from paperworks.evaluation.irt.apply import OUTPUTS, apply, read_answers
from paperworks.evaluation.irt.fit import IRTFit, fit_irt, score_responders
from paperworks.evaluation.irt.report_page import report_page
from paperworks.evaluation.irt.simulate import simulate_responses


@pytest.fixture(scope="module")
def responses():
    return simulate_responses(40, 30, model="2pl", seed=0, groups=3, missing=0.1)[0]


@pytest.fixture
def table(responses, tmp_path):
    """Items in rows with the column of their set."""
    frame = responses.to_frame().T
    frame.insert(0, "set", responses.groups)
    path = tmp_path / "answers.csv"
    frame.rename_axis("item").to_csv(path)
    return path


@pytest.fixture
def fitted(table, tmp_path):
    said = apply((str(table),), out=tmp_path / "fit", group_column="set", bootstrap=50)
    return tmp_path / "fit", said


def test_all_files_are_written_and_agree_with_the_fit(fitted, responses):
    folder, said = fitted
    assert {path.name for path in folder.iterdir()} == set(OUTPUTS)
    fit = fit_irt(responses, model="2pl", weights=None)
    items, responders, groups, summary = (
        pd.read_csv(folder / f"{name}.csv") for name in ("items", "responders", "groups", "summary")
    )
    assert items.columns.tolist() == (
        [
            "group",
            "item",
            "a",
            "b",
            "c",
            "se_a",
            "se_b",
            "se_c",
            "p_correct",
            "n",
            "leh",
            "point_biserial",
            "infit",
            "outfit",
            "flag",
        ]
    )
    np.testing.assert_allclose(items["b"], fit.b, rtol=1e-6)
    np.testing.assert_allclose(items["leh"], fit.leh(), rtol=1e-6)
    assert responders.columns.tolist() == ["responder", "theta", "sd", "accuracy", "n"]
    np.testing.assert_allclose(responders["theta"], fit.theta, rtol=1e-6)
    assert groups["rank"].tolist() == [1, 2, 3]
    first = groups["group"][0]
    assert groups["leh_q75"][0] == pytest.approx(np.quantile(fit.leh()[fit.groups == first], 0.75), rel=1e-6)
    total = fit.information(fit.theta.max())[fit.groups == first].sum()
    assert groups["test_information"][0] == pytest.approx(total, rel=1e-6)
    facts = dict(zip(summary["fact"], summary["value"], strict=True))
    assert (facts["model"], facts["method"], facts["responders"], facts["items"]) == ("2pl", "mml", "40", "30")
    assert facts["best_responder"] == fit.best
    assert float(facts["missing_share"]) == pytest.approx(responses.missing_share)
    assert float(facts["loglik"]) == pytest.approx(fit.loglik)
    assert float(facts["mean_leh"]) == pytest.approx(fit.leh().mean())
    assert f"Ablest: {fit.best}" in said


def test_the_input_is_not_touched_and_a_repeat_writes_the_same(table, tmp_path):
    before = table.read_bytes()
    for name in ("one", "two"):
        apply((str(table),), out=tmp_path / name, group_column="set", bootstrap=20)
    assert table.read_bytes() == before
    for name in OUTPUTS:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_scores_come_from_the_frozen_items(fitted, responses, tmp_path):
    folder, _ = fitted
    new = Responses.from_array([[1, 0, 1], [0, 0, np.nan]], items=["item_3", "item_9", "item_1"], responders=["x", "y"])
    new.to_frame().rename_axis("model").to_csv(tmp_path / "new.csv")
    frozen = {path.name: path.read_bytes() for path in folder.iterdir()}
    said = apply(score=(str(tmp_path / "new.csv"),), fit=folder, out=tmp_path / "scores")
    written = pd.read_csv(tmp_path / "scores" / "responders.csv")
    expected = score_responders(IRTFit.load(folder), new)
    pd.testing.assert_frame_equal(written, expected, check_dtype=False, rtol=1e-6)
    assert frozen == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "2 responders" in said


def test_one_new_responder_can_be_scored_beside_a_fit(tmp_path):
    long = tmp_path / "long.csv"
    long.write_text("who,what,right\n" + "".join(f"m{r},q{i},{(r + i) % 2}\n" for r in range(4) for i in range(5)))
    (tmp_path / "new_long.csv").write_text("who,what,right\nz,q3,1\n")
    apply(
        (str(long),), long="who,what,right", score=(str(tmp_path / "new_long.csv"),), out=tmp_path / "both", bootstrap=5
    )
    assert pd.read_csv(tmp_path / "both" / "scored.csv")["responder"].tolist() == ["z"]


def test_items_of_two_files_keep_their_names_when_one_file_is_scored(tmp_path):
    for name in ("easy", "hard"):
        rows = "".join(f"m{r},{int(r > 1)},{int(r > 2)}\n" for r in range(6))
        (tmp_path / f"{name}.csv").write_text("model,q1,q2\n" + rows)
    files = (str(tmp_path / "easy.csv"), str(tmp_path / "hard.csv"))
    apply(files, out=tmp_path / "fit", bootstrap=5)
    assert pd.read_csv(tmp_path / "fit" / "items.csv")["item"].tolist() == ["easy/q1", "easy/q2", "hard/q1", "hard/q2"]
    apply(score=(files[1],), fit=tmp_path / "fit", out=tmp_path / "scores")
    assert pd.read_csv(tmp_path / "scores" / "responders.csv")["n"].tolist() == [2] * 6


def test_standard_input_is_read(monkeypatch, tmp_path):
    class Input:
        buffer = io.BytesIO(b"model,q1,q2\na,1,0\nb,0,0\nc,1,1\n")

    monkeypatch.setattr(sys, "stdin", Input)
    apply(("-",), out=tmp_path / "fit", bootstrap=5)
    assert len(pd.read_csv(tmp_path / "fit" / "responders.csv")) == 3


def test_logs_of_a_harness_are_recognised(tmp_path):
    for model, right in (("one", [1, 0, 1]), ("two", [0, 0, 1])):
        folder = tmp_path / "logs" / model
        folder.mkdir(parents=True)
        rows = [json.dumps({"doc_id": k, "acc": float(value)}) for k, value in enumerate(right)]
        (folder / "samples_arc_easy_2024-01-01T00-00-00.jsonl").write_text("\n".join(rows))
    assert read_answers([str(tmp_path / "logs")]).values.tolist() == [[1, 0, 1], [0, 0, 1]]
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="is a folder without samples"):
        read_answers([str(tmp_path / "other")])


def test_families_are_used_for_the_intervals_and_the_page_says_so(responses):
    families = [f"f{r % 5}" for r in range(40)]
    clustered = replace(responses, families=np.array(families))
    found = analyse(clustered, bootstrap=40, refits=4)
    assert found.clustered
    assert "whole families of responders" in report_page(found)
    plain = analyse(responses, bootstrap=40)
    assert not plain.clustered
    assert "responders are taken" in report_page(plain)


def test_guessing_is_fitted_from_two_hundred_responders_on(tmp_path):
    for count, model in ((199, "2pl"), (200, "3pl")):
        drawn, _ = simulate_responses(count, 6, model="2pl", seed=0)
        drawn.to_frame().rename_axis("model").to_csv(tmp_path / "t.csv")
        apply((str(tmp_path / "t.csv"),), out=tmp_path / "o", bootstrap=5)
        assert json.loads((tmp_path / "o" / "fit.json").read_text())["model"] == model


def test_weights_are_per_group_only_where_there_are_many_groups():
    few, _ = simulate_responses(30, 38, model="2pl", seed=0, groups=19)
    many, _ = simulate_responses(30, 41, model="2pl", seed=0, groups=20)
    assert (analyse(few, bootstrap=5).fit.weights == 1).all()
    assert set(analyse(many, bootstrap=5).fit.weights) == {1 / 2, 1 / 3}
    assert set(analyse(few, weights="per_group", bootstrap=5).fit.weights) == {1 / 2}


def test_no_evidence_is_said_where_there_is_none():
    rng = np.random.default_rng(0)
    same = Responses.from_array(rng.integers(0, 2, (12, 40)), groups=np.repeat(["x", "y"], 20))
    found = analyse(same, bootstrap=200)
    said = " ".join(findings(found))
    assert "No evidence that any of the 2 groups" in said
    assert "cannot be told from it" in said


# The page ------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Collects text, addresses and whether every tag is closed."""

    void = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        assert tag != "script"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_needs_nothing_else_and_shows_the_worst_fifty(responses):
    many, _ = simulate_responses(30, 80, model="2pl", seed=1)
    text = report_page(analyse(many, bootstrap=20))
    page = Page(text)
    assert page.open == []
    assert all(address.startswith(("#", "https://arxiv.org")) for address in page.addresses)
    table = re.search(r"Most suspect items.*?</table>", text, re.DOTALL).group(0)
    assert table.count("<tr>") == 51
    assert text.count("<figure") == 4  # one group has no comparison of groups
    assert report_page(analyse(responses, bootstrap=20)).count("<figure") == 5


@pytest.mark.filterwarnings("error")
def test_names_cannot_break_the_page_or_the_figures():
    names = ["<script>alert(1)</script>", "a & b", "$x^{2", 'quote"d', "名前", "long" * 30]
    rng = np.random.default_rng(0)
    table = Responses.from_array(
        rng.integers(0, 2, (6, 6)), responders=names, items=[f"{name}?" for name in names], groups=[*names[:3]] * 2
    )
    text = report_page(analyse(table, bootstrap=10))
    page = Page(text)
    assert page.open == []
    assert "<script>alert" in "".join(page.words)
    assert "名前" in "".join(page.words)


# Refusals ------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "answers: expected at least one table"),
        (("t.csv",), {"fit": "fit"}, "fit: give either tables"),
        ((), {"score": ("t.csv",)}, "fit: give either tables"),
        (("t.csv",), {"long": "who,what"}, "long: expected three columns"),
        (("t.csv", "."), {}, "either folders of logs or tables|without samples"),
        (("items.csv",), {"out": "."}, "out: items.csv is read and would be written"),
        (("t.csv",), {"out": "t.csv"}, "out: t.csv is a file"),
        (("one.csv",), {}, "at least two responders"),
        (("t.csv",), {"score": ("u.csv",)}, "score: 1 of 2 items are not in the fit"),
    ],
)
def test_unfit_arguments_are_refused_before_anything_is_written(arguments, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("t.csv", "items.csv"):
        (tmp_path / name).write_text("model,q1,q2\na,1,0\nb,0,1\n")
    (tmp_path / "u.csv").write_text("model,q1,q9\nc,1,0\n")
    (tmp_path / "one.csv").write_text("model,q1,q2\na,1,0\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        apply(arguments, bootstrap=5, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_scores_never_replace_the_fit_s_own_responders(fitted, table):
    folder, _ = fitted
    with pytest.raises(ValueError, match="out: scores would replace"):
        apply(score=(str(table),), fit=folder, out=folder)


def test_the_command_line_is_the_function(table, tmp_path, capsys):
    from paperworks.cli import main

    out = tmp_path / "cli"
    arguments = ["apply", "irt", str(table), "--group-column", "set", "--model", "1pl", "--out", str(out)]
    assert main([*arguments, "--bootstrap", "5"]) == 0
    assert "report.html" in capsys.readouterr().out
    assert set(pd.read_csv(out / "items.csv")["a"]) == {1.0}
    (tmp_path / "bad.csv").write_text("model,q1\na,1\nb,7\n")
    assert main(["apply", "irt", str(tmp_path / "bad.csv"), "--out", str(out)]) == 2
    assert "expected values in {0, 1, NaN}, got {7} in column 'q1'" in capsys.readouterr().err
