"""`paperworks apply nmt_hallucinations`: what it writes, from every kind of input, and what it refuses."""

import html.parser

import numpy as np
import pandas as pd
import pytest

from paperworks.data.errors import DataError
from paperworks.data.translations import Translations
from paperworks.language.nmt_hallucinations import experiments
from paperworks.language.nmt_hallucinations.apply import apply
from paperworks.language.nmt_hallucinations.checked import check, order
from paperworks.language.nmt_hallucinations.page import suspicious_page

from .conftest import make_model, make_tokenizer

AGAIN = "w9 w9 w9 w9 w9 w9 w9 w9 w9"


def make_rows(count=40):
    rng = np.random.default_rng(0)
    words = lambda: " ".join(f"w{number}" for number in rng.integers(1, 39, size=rng.integers(3, 9)))  # noqa: E731
    rows = [{"source": words(), "output": words()} for _ in range(count)]
    rows[3]["output"] = AGAIN
    rows[7]["output"] = rows[8]["output"] = "w1 w2 w3"
    return rows


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "pairs.tsv"
    pd.DataFrame(make_rows()).to_csv(path, sep="\t", index=False)
    return path


@pytest.fixture
def model(monkeypatch):
    """A tiny model in place of one of the hub."""
    loaded = make_model("marian"), make_tokenizer(False)
    monkeypatch.setattr(experiments, "load_model", lambda name: loaded)


class Words(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.text, self.pairs = [], 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.pairs += tag == "article"

    def handle_data(self, data):
        self.text.append(data)


def test_without_a_model_the_texts_decide_and_what_is_missing_is_said(table, tmp_path):
    said = apply((str(table),), out=tmp_path / "checked")
    scores = pd.read_csv(tmp_path / "checked" / "scores.csv", keep_default_na=False)
    assert sorted(path.name for path in (tmp_path / "checked").iterdir()) == ["scores.csv", "suspicious.html"]
    assert scores.columns.tolist() == [
        "id", "source", "output", "risk_top_ngram", "risk_repeated_target", "risk_length_ratio", "rank", "suspicion",
        "flagged", "flagged_by",
    ]  # fmt: skip
    assert sorted(scores["rank"]) == list(range(1, 41))
    assert "top_ngram" in scores["flagged_by"][3]
    assert all("repeated_target" in scores["flagged_by"][row] for row in (7, 8))
    assert "repeated_target" not in " ".join(scores["flagged_by"].drop([7, 8]))
    assert scores["flagged"].sum() <= 6
    page = (tmp_path / "checked" / "suspicious.html").read_text()
    words = Words(page)
    assert words.pairs == 40
    assert "without --model these detectors are missing: seq_logprob" in said
    assert any("repeats itself (top_ngram" in text for text in words.text)
    # Most suspect first.
    first = scores.loc[scores["rank"].idxmin(), "output"]
    assert page.index(first) == min(page.index(output) for output in scores["output"] if output)


def test_with_a_model_pairs_are_scored_and_repaired(table, tmp_path, model):
    said = apply(
        (str(table),), out=tmp_path / "c", model="hf:some/model", repair=True, n=2, num_beams=1, flag_fraction=0.1
    )
    scores = pd.read_csv(tmp_path / "c" / "scores.csv", keep_default_na=False)
    assert {"risk_seq_logprob", "risk_attention_to_eos", "risk_ignored_source"} <= set(scores)
    repaired = pd.read_csv(tmp_path / "c" / "repaired.tsv", sep="\t", keep_default_na=False)
    assert repaired["flagged"].sum() == 4
    np.testing.assert_allclose(repaired["risk"], scores["risk_seq_logprob"], atol=1e-5)
    untouched = repaired[~repaired["flagged"]]
    assert (untouched["before"] == untouched["after"]).all()
    assert "repair: 4 suspect pairs" in said


def test_thresholds_come_from_held_out_pairs_where_given(table, tmp_path, model):
    held = tmp_path / "usual.csv"
    pd.DataFrame(make_rows(60)).to_csv(held, index=False)
    detectors = ("seq_logprob", "attention_transport")
    said = apply((str(table),), out=tmp_path / "c", model="m", detectors=detectors, held_out=held)
    assert "(held-out pairs)" in said
    with pytest.raises(ValueError, match="attention_transport: needs fit_reference"):
        apply((str(table),), out=tmp_path / "c", model="m", detectors=detectors)


def test_labels_give_a_report_and_risks_of_others_are_judged_too(tmp_path):
    rows = make_rows(80)
    wrong = np.arange(80) % 2
    frame = pd.DataFrame(rows).assign(bad=wrong, risk_mine=wrong + 0.1 * np.arange(80) / 80)
    path = tmp_path / "pairs.csv"
    frame.to_csv(path, index=False)
    said = apply((str(path),), out=tmp_path / "c", bootstrap=50)
    report = pd.read_csv(tmp_path / "c" / "detection.csv")
    mine = report[(report["detector"] == "mine") & (report["metric"] == "auroc") & (report["negatives"] == "rest")]
    assert mine["value"].tolist() == [1.0]
    assert "bad: found best by mine, AUROC 1.000" in said
    assert "too few to conclude from" in said
    assert "How well the detectors find your labels" in (tmp_path / "c" / "suspicious.html").read_text()


def test_two_text_files_and_a_reference(tmp_path):
    rows = make_rows(30)
    for name in ("source", "output"):
        (tmp_path / name).write_text("".join(row[name] + "\n" for row in rows))
    said = apply(
        source=tmp_path / "source", output=tmp_path / "output", reference=tmp_path / "output", out=tmp_path / "c"
    )
    scores = pd.read_csv(tmp_path / "c" / "scores.csv")
    assert (scores["risk_chrf++"] == 0).all()
    assert "chrf++: flags nothing" in said


def test_texts_are_escaped_and_surrogates_do_no_harm():
    pairs = Translations(["<script>alert(1)</script>", "b", "c \ud800"], ["<b>x</b>", "y", "z"])
    page = suspicious_page(check(pairs))
    assert "<script>alert" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    page.encode("utf-8", errors="replace")


def test_more_flags_come_first_then_the_rarest_risk():
    scores = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [9.0, 0.0, 0.0, 0.0]})
    flags = pd.DataFrame({"a": [False, False, False, True], "b": [False, False, False, False]})
    suspicion, rank = order(scores, flags)
    assert rank.tolist() == [2, 4, 3, 1]
    assert suspicion.tolist() == [0.75, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({}, "give one table, or --source and --output"),
        ({"pairs": ("a.csv", "b.csv")}, "expected one table, got 2"),
        ({"source": "a"}, "give both"),
        ({"repair": True, "table": True}, "repair: needs --model"),
        ({"flag_fraction": 1.0, "table": True}, "flag_fraction: expected a share"),
        ({"detectors": ("alti",), "table": True}, "alti needs model="),
        ({"columns": "src=source", "table": True}, "columns: expected some of source"),
        ({"columns": "source=none", "table": True}, "no column 'none'"),
    ],
)
def test_contradicting_options_are_refused(call, words, table, tmp_path):
    if call.pop("table", False):
        call["pairs"] = (str(table),)
    with pytest.raises(ValueError, match=words):
        apply(call.pop("pairs", ()), out=tmp_path / "c", **call)
    assert not (tmp_path / "c").exists()


def test_inputs_are_never_overwritten(tmp_path):
    path = tmp_path / "scores.csv"
    pd.DataFrame(make_rows()).to_csv(path, index=False)
    with pytest.raises(ValueError, match="is read and would be written"):
        apply((str(path),), out=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        apply((str(path),), out=tmp_path / "file")


def test_too_long_an_output_is_named_by_row(tmp_path, model):
    rows = make_rows(30)
    rows[11]["output"] = " ".join(["w1"] * 60)
    path = tmp_path / "pairs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    with pytest.raises(ValueError, match="output: row 12 has 61 tokens, the model takes 40"):
        apply((str(path),), out=tmp_path / "c", model="m")
    path.write_text("source,output\na,b\nc,d,e\n")
    with pytest.raises(DataError, match="line 3: 3 cells"):
        apply((str(path),), out=tmp_path / "c")


def test_a_model_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="could not be loaded"):
        experiments.load_model(f"hf:{tmp_path}/nothing")


def test_command_line(command, tmp_path, table):
    answer = command("apply", "nmt_hallucinations", str(table), "--out", "checked", check=0)
    assert "written: scores.csv, suspicious.html in checked" in answer.stdout
    answer = command("apply", "nmt_hallucinations", "missing.csv", "--out", "checked")
    assert answer.returncode != 0
    assert "no such file" in answer.stderr
