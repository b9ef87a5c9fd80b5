"""Response tables: what is accepted, what is refused and how it is said, and that names decide, never positions."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paperworks.data.errors import DataError, DataMissing
from paperworks.data.response_readers import _read_quickly
from paperworks.data.responses import Responses

NAN = float("nan")
cells = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.sampled_from([0.0, 1.0, NAN]))


def write(path, text):
    path.write_text(text)
    return path


# From arrays ------------------------------------------------------------


@given(cells)
def test_an_array_comes_back_as_it_went_in(y):
    table = Responses.from_array(y)
    np.testing.assert_array_equal(table.to_array(), y)
    assert (table.observed is None) == (not np.isnan(y).any())


def test_accuracies_count_only_what_was_asked():
    table = Responses.from_array([[1, 0, NAN], [NAN, 1, NAN]])
    np.testing.assert_allclose(table.accuracy(), [0.5, 1.0])
    np.testing.assert_allclose(table.p_correct(), [1.0, 0.5, NAN])
    assert table.missing_share == pytest.approx(0.5)


def test_a_mask_takes_cells_away():
    table = Responses.from_array(np.ones((2, 2)), mask=np.array([[True, False], [True, True]]))
    np.testing.assert_array_equal(table.to_array(), [[1, NAN], [1, 1]])
    with pytest.raises(ValueError, match="mask: expected bool"):
        Responses.from_array(np.ones((2, 2)), mask=np.ones((2, 2)))


def test_tensors_and_frames_are_taken_with_their_names():
    torch = pytest.importorskip("torch")
    assert Responses.from_array(torch.tensor([[1, 0]])).values.tolist() == [[1, 0]]
    frame = pd.DataFrame({"q": [True, False], "r": ["true", None]}, index=["x", "y"])
    table = Responses.from_array(frame)
    assert (table.responders, table.items) == (("x", "y"), ("q", "r"))
    np.testing.assert_array_equal(table.to_array(), [[1, 1], [0, NAN]])


def test_other_values_are_refused_by_column_and_binarize_helps():
    frame = pd.DataFrame({"q": [0, 1], "x": [0.5, 2.0]})
    with pytest.raises(ValueError, match=r"responses: expected values in \{0, 1, NaN\}, got \{0.5, 2\} in column 'x'"):
        Responses.from_array(frame)
    assert Responses.from_array(frame, binarize=0.6).values.tolist() == [[0, 0], [1, 1]]
    assert Responses.from_array(frame, binarize=0.5).values.tolist() == [[0, 1], [1, 1]]
    with pytest.raises(ValueError, match="column 'item_0'"):
        Responses.from_array([[np.inf], [1]], binarize=0.5)
    with pytest.raises(ValueError, match=r"got \{'maybe'\} in column 'q'"):
        Responses.from_array(pd.DataFrame({"q": ["maybe", "1"]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"responders": ["a", "a"]}, "responders: 'a' appears 2 times"),
        ({"items": ["q", "q"]}, "items: 'q' appears 2 times"),
        ({"items": ["q", ""]}, "items: expected names"),
        ({"responders": ["a"]}, "values: expected uint8 of shape"),
        ({"groups": ["g"]}, "groups: expected an array of 2 words"),
        ({"families": ["f"]}, "families: expected an array of 2 words"),
    ],
)
def test_names_must_fit(change, message):
    with pytest.raises(ValueError, match=message):
        Responses.from_array(np.eye(2), **change)


def test_wrong_shapes_and_empty_tables_are_refused():
    with pytest.raises(ValueError, match="expected a table"):
        Responses.from_array([0, 1])
    with pytest.raises(ValueError, match="at least one responder"):
        Responses.from_array(np.zeros((0, 3)))


def test_the_fingerprint_sees_cells_gaps_and_names():
    y = np.array([[0.0, 1], [1, 1]])
    tables = [
        Responses.from_array(y),
        Responses.from_array(1 - y),
        Responses.from_array(np.where(y == 0, NAN, y)),
        Responses.from_array(y, items=["a", "b"]),
        Responses.from_array(y, responders=["a", "b"]),
        Responses.from_array(y, groups=["g", "g"]),
        Responses.from_array(y, families=["g", "g"]),
    ]
    assert len({table.fingerprint for table in tables}) == len(tables)
    assert tables[0].fingerprint == Responses.from_array(y.astype(bool)).fingerprint


def test_select_keeps_the_order_asked_for():
    y = np.array([[0, 1, NAN], [1, 0, 1]])
    table = Responses.from_array(y, groups=["g", "h", "g"], families=["f", "k"])
    part = table.select(items=["item_2", "item_0"], responders=[1, 0])
    np.testing.assert_array_equal(part.to_array(), y[::-1][:, [2, 0]])
    assert part.groups.tolist() == ["g", "g"]
    assert part.families.tolist() == ["k", "f"]
    assert table.select(items=table.groups == "h").observed is None
    for wrong in (["no"], [7], np.ones(2, bool), []):
        with pytest.raises(ValueError, match="items: "):
            table.select(items=wrong)


# Joining ------------------------------------------------------------


def test_join_goes_by_name_and_leaves_gaps():
    left = Responses.from_array([[1, 0], [0, 1]], responders=["a", "b"], items=["q", "r"])
    right = Responses.from_array([[1], [0]], responders=["c", "a"], items=["s"])
    joined = left.join(right)
    assert (joined.responders, joined.items) == (("a", "b", "c"), ("q", "r", "s"))
    np.testing.assert_array_equal(joined.to_array(), [[1, 0, 0], [0, 1, NAN], [NAN, NAN, 1]])


def test_more_responders_of_the_same_items_join_too():
    top = Responses.from_array([[1, 0]], responders=["a"])
    bottom = Responses.from_array([[0, 1]], responders=["b"])
    np.testing.assert_array_equal(top.join(bottom).to_array(), [[1, 0], [0, 1]])


def test_impossible_joins_are_refused():
    left = Responses.from_array([[1, 0]], responders=["a"], items=["q", "r"])
    with pytest.raises(ValueError, match="join: table 2 shares no responder and no item"):
        left.join(Responses.from_array([[1]], responders=["b"], items=["s"]))
    with pytest.raises(ValueError, match="disagree about responder 'a' on item 'q'"):
        left.join(Responses.from_array([[0]], responders=["a"], items=["q"]))
    with pytest.raises(ValueError, match="some tables have them and others do not"):
        left.join(Responses.from_array([[0]], responders=["a"], items=["s"], groups=["g"]))


# Wide files ------------------------------------------------------------


def test_rows_are_responders_and_the_naming_column_is_found(tmp_path):
    path = write(tmp_path / "t.csv", "q1,userid,q2\n1,a,\n0,b,TRUE\n")
    table = Responses.read_csv(path)
    assert (table.responders, table.items, table.groups) == (("a", "b"), ("q1", "q2"), None)
    np.testing.assert_array_equal(table.to_array(), [[1, NAN], [0, 1]])


@pytest.mark.parametrize("header", ["item", "Question", "question_id"])
def test_items_in_rows_are_recognised_with_their_groups(tmp_path, header):
    path = write(tmp_path / "t.csv", f"set,{header},a,b\nx,q1,1,0\ny,q2,,1\n")
    table = Responses.read_csv(path, group_column="set")
    assert (table.responders, table.items, table.groups.tolist()) == (("a", "b"), ("q1", "q2"), ["x", "y"])
    np.testing.assert_array_equal(table.to_array(), [[1, NAN], [0, 1]])


def test_both_orientations_give_one_table(tmp_path):
    rows = Responses.read_csv(write(tmp_path / "r.csv", "model,q1,q2\na,1,0\nb,,1\n"))
    columns = Responses.read_csv(write(tmp_path / "c.csv", "item,a,b\nq1,1,\nq2,0,1\n"))
    forced = Responses.read_csv(write(tmp_path / "f.csv", "name,a,b\nq1,1,\nq2,0,1\n"), orientation="item_rows")
    assert rows.fingerprint == columns.fingerprint == forced.fingerprint


def test_every_format_gives_one_table(tmp_path):
    frame = pd.DataFrame({"model": ["a", "b"], "q1": [1.0, NAN], "q2": [0.0, 1.0]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_csv(tmp_path / "bom.csv", index=False, encoding="utf-8-sig")
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    names = ("t.csv", "t.tsv", "bom.csv", "t.parquet", "t.jsonl")
    assert len({Responses.read_csv(tmp_path / name).fingerprint for name in names}) == 1


def test_quoted_names_may_hold_commas_and_line_breaks(tmp_path):
    table = Responses.read_csv(write(tmp_path / "t.csv", 'model,"q,1","q\n2"\n"a\nb",1,0\nc,0,1\n'))
    assert (table.responders, table.items) == (("a\nb", "c"), ("q,1", "q\n2"))


def test_files_of_the_same_responders_are_groups_called_like_the_file(tmp_path):
    first = write(tmp_path / "arc_easy.csv", "model,q1\na,1\nb,0\n")
    second = write(tmp_path / "arc_challenge.csv", "model,q1\nb,1\na,0\n")
    table = Responses.read_csv([first, second])
    assert table.groups.tolist() == ["arc_easy", "arc_challenge"]
    assert table.items == ("arc_easy/q1", "arc_challenge/q1")
    np.testing.assert_array_equal(table.select(responders=["a", "b"]).to_array(), [[1, 0], [0, 1]])


def test_files_of_other_responders_are_more_rows(tmp_path):
    first = write(tmp_path / "x.csv", "model,q1\na,1\n")
    second = write(tmp_path / "y.csv", "model,q1\nb,0\n")
    table = Responses.read_csv([first, second])
    assert (table.items, table.groups, table.values.tolist()) == (("q1",), None, [[1], [0]])


def test_prefix_groups_keep_easy_and_challenge_apart(tmp_path):
    path = write(tmp_path / "t.csv", "model,arc_easy_1,arc_easy_2,arc_challenge_1,squad2.0-7\na,1,0,1,0\nb,0,0,1,1\n")
    groups = Responses.read_csv(path, group="prefix").groups
    assert groups.tolist() == ["arc_easy", "arc_easy", "arc_challenge", "squad2.0"]
    for name in ("plain", "12"):
        path = write(tmp_path / "u.csv", f"model,{name}\na,1\nb,0\n")
        with pytest.raises(ValueError, match="group: 'prefix' needs items called"):
            Responses.read_csv(path, group="prefix")


def test_a_family_column_is_no_item(tmp_path):
    table = Responses.read_csv(write(tmp_path / "t.csv", "model,kind,q\na,x,1\nb,y,0\n"), family_column="kind")
    assert (table.items, table.families.tolist()) == (("q",), ["x", "y"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("model,q1\n", "no rows"),
        ("model\na\n", "at least one of answers"),
        ("model,q1\na,1\nb\n", "line 3: 1 cells, the header has 2"),
        ("model,q1\na,1\na,0\n", "responder 'a' appears twice, in line 2 and line 3"),
        ("model,q1\na,1\n,0\n", "line 3: column 'model' is empty"),
        ("model,q1\na,1\nb,0.5\n", r"got \{0.5\} in column 'q1' \(.*t.csv\)"),
        ("model,q1\na,1\nb,yes\n", r"got \{'yes'\} in column 'q1'"),
        ("item,a\nq,1\nq,0\n", "item 'q' appears twice"),
        ("model,q1,q1\na,1,0\n", "'q1' more than once"),
    ],
)
def test_bad_files_are_refused_by_place(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        Responses.read_csv(write(tmp_path / "t.csv", content))


def test_other_encodings_and_absent_files_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("model,q1\nJosé,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 2, byte 4"):
        Responses.read_csv(path)
    with pytest.raises(DataMissing, match="no such file"):
        Responses.read_csv(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="paths: expected at least one"):
        Responses.read_csv([])


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("model,q\na,1\n", {"group_column": "q"}, "group_column: .* has responders in rows|expected a column of names"),
        ("item,a,k\nq,1,x\n", {"family_column": "k"}, "family_column: .* has items in rows"),
        ("model,q\na,1\n", {"group": "first"}, "group: expected one of"),
        ("model,q\na,1\n", {"orientation": "sideways"}, "orientation: expected one of"),
    ],
)
def test_contradicting_options_are_refused(tmp_path, content, options, message):
    with pytest.raises(ValueError, match=message):
        Responses.read_csv(write(tmp_path / "t.csv", content), **options)


@given(
    arrays(np.int8, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 2)),
    st.sampled_from(["model", "item", "x", "userid"]),
    st.sampled_from([",", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\ufeff"]),
)
def test_the_quick_reader_agrees_with_the_general_one(tmp_path_factory, cells, first, comma, end, mark):
    rows = [[first, *(f"q{i}" for i in range(cells.shape[1]))]]
    rows += [[f"name é{r}", *("01"[c] if c < 2 else "" for c in row)] for r, row in enumerate(cells)]
    path = tmp_path_factory.mktemp("plain") / ("t.csv" if comma == "," else "t.tsv")
    path.write_bytes((mark + end.join(comma.join(row) for row in rows) + end).encode())
    quick = _read_quickly(path, "auto")
    assert quick is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paperworks.data.response_readers.read_plain", lambda file: None)
        assert Responses.read_csv(path).fingerprint == quick.fingerprint


@pytest.mark.parametrize(
    "content",
    [
        "model,q\na,1\na,0\n",
        "model,q\na,2\n",
        "model,q\na,/\n",
        "model,q\na,11\n",
        "model,q\na,1,\n",
        "model,q,r\na,1\n",
        'model,q\n"a",1\n',
        "model,q,q\na,1,0\n",
        "q,model\n1,a\n",
        "model,q\n1.0,1\n2.0,0\n",
        "model,q\n,1\n",
        "model,q\na, 1\n",
        "model,q\n",
        "model\na\n",
    ],
)
def test_the_quick_reader_steps_back_from_anything_else(tmp_path, content):
    assert _read_quickly(write(tmp_path / "t.csv", content), "auto") is None


# Long files ------------------------------------------------------------


def long_frame():
    return pd.DataFrame(
        {
            "who": ["a", "b", "a", "a"],
            "what": [1, 1, 2, 1],
            "right": [True, False, True, False],
            "set": ["x", "x", "x", "y"],
        }
    )


def test_long_tables_tell_items_of_two_groups_apart(tmp_path):
    table = Responses.from_long(long_frame(), responder="who", item="what", correct="right", group="set")
    assert (table.items, table.groups.tolist()) == (("x/1", "x/2", "y/1"), ["x", "x", "y"])
    np.testing.assert_array_equal(table.to_array(), [[1, 1, 0], [0, NAN, NAN]])
    path = tmp_path / "long.csv"
    long_frame().to_csv(path, index=False)
    again = Responses.from_long(path, responder="who", item="what", correct="right", group="set")
    assert again.fingerprint == table.fingerprint


def test_long_tables_refuse_two_answers_to_one_item(tmp_path):
    path = tmp_path / "long.csv"
    long_frame().to_csv(path, index=False)
    with pytest.raises(DataError, match="responder 'a' answers item '1' twice, in line 2 and line 5"):
        Responses.from_long(path, responder="who", item="what", correct="right")
    with pytest.raises(DataError, match="no column 'item'"):
        Responses.from_long(long_frame(), responder="who", correct="right")
    three = long_frame().iloc[[0, 1, 3]].assign(what=range(3))
    with pytest.raises(DataError, match="responder 'a' has two families, 'x' and 'y'"):
        Responses.from_long(three, responder="who", item="what", correct="right", family="set")


# Logs of evaluation harnesses ------------------------------------------------------------


def lm_eval_log(folder, model, task, rows, date="2024-05-01T10-00-00.123"):
    path = folder / model / f"samples_{task}_{date}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sample(doc, acc, **more):
    return {"doc_id": doc, "doc": {"text": "?"}, "acc": acc, "acc_norm": 1 - acc, "doc_hash": f"h{doc}", **more}


def test_lm_eval_logs_become_a_table(tmp_path):
    lm_eval_log(tmp_path, "org__one", "arc_easy", [sample(0, 1.0), sample(1, 0.0)])
    lm_eval_log(tmp_path, "org__two", "arc_easy", [sample(1, 1.0)])
    lm_eval_log(tmp_path, "org__two", "arc_challenge", [sample(0, 1.0)])
    table = Responses.from_lm_eval(tmp_path)
    assert table.responders == ("org/one", "org/two")
    part = table.select(items=["arc_easy/0", "arc_easy/1", "arc_challenge/0"])
    assert part.groups.tolist() == ["arc_easy", "arc_easy", "arc_challenge"]
    np.testing.assert_array_equal(part.to_array(), [[1, 0, NAN], [NAN, 1, 1]])
    flipped = Responses.from_lm_eval(tmp_path, metric="acc_norm").select(items=part.items)
    np.testing.assert_array_equal(flipped.to_array(), [[0, 1, NAN], [NAN, 0, 0]])


def test_lm_eval_filters_must_be_chosen_where_there_are_several(tmp_path):
    rows = [
        {"doc_id": 0, "filter": name, "metrics": ["exact_match"], "exact_match": right}
        for name, right in (("strict-match", 0.0), ("flexible-extract", 1.0))
    ]
    lm_eval_log(tmp_path, "m", "gsm8k", rows)
    with pytest.raises(DataError, match=r"which filter for gsm8k.*'strict-match', 'flexible-extract'"):
        Responses.from_lm_eval(tmp_path)
    assert Responses.from_lm_eval(tmp_path, filter="flexible-extract").values.tolist() == [[1]]
    assert Responses.from_lm_eval(tmp_path, filter={"gsm8k": "strict-match"}).values.tolist() == [[0]]


def test_lm_eval_refuses_second_runs_other_documents_and_broken_lines(tmp_path):
    lm_eval_log(tmp_path / "a", "m", "t", [sample(0, 1.0)])
    lm_eval_log(tmp_path / "a", "m", "t", [sample(0, 1.0)], date="2024-06-01T10-00-00")
    with pytest.raises(DataError, match="a second run of t by m"):
        Responses.from_lm_eval(tmp_path / "a")
    lm_eval_log(tmp_path / "b", "m", "t", [sample(0, 1.0)])
    lm_eval_log(tmp_path / "b", "n", "t", [sample(0, 1.0, doc_hash="other")])
    with pytest.raises(DataError, match="document 0 of t is another text"):
        Responses.from_lm_eval(tmp_path / "b")
    lm_eval_log(tmp_path / "c", "m", "t", []).write_text('{"doc_id": 0, "acc"')
    with pytest.raises(DataError, match="line 1"):
        Responses.from_lm_eval(tmp_path / "c")
    with pytest.raises(DataMissing, match="--log_samples"):
        Responses.from_lm_eval(_empty(tmp_path))


def _empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


def helm_run(folder, name, scores, model=None):
    path = folder / name
    path.mkdir(parents=True)
    entries = [
        {
            "instance_id": instance,
            "train_trial_index": 0,
            "stats": [{"name": {"name": "exact_match", "split": "test"}, "count": 1, "sum": right, "mean": right}],
        }
        for instance, right in scores.items()
    ]
    disturbed = {**entries[0], "perturbation": {"name": "typos"}, "stats": []}
    (path / "per_instance_stats.json").write_text(json.dumps([*entries, disturbed]))
    if model:
        (path / "run_spec.json").write_text(json.dumps({"adapter_spec": {"model": model}}))


def test_helm_runs_become_a_table(tmp_path):
    helm_run(tmp_path, "mmlu:subject=anatomy,model=openai_gpt2", {"id1": 1.0, "id2": 0.0}, model="openai/gpt2")
    helm_run(tmp_path, "mmlu:subject=anatomy,model=other", {"id2": 1.0})
    helm_run(tmp_path, "boolq:model=other", {"id2": 0.0})
    table = Responses.from_helm(tmp_path)
    part = table.select(
        responders=["openai/gpt2", "other"],
        items=["mmlu:subject=anatomy/id1", "mmlu:subject=anatomy/id2", "boolq/id2"],
    )
    np.testing.assert_array_equal(part.to_array(), [[1, 0, NAN], [NAN, 1, 0]])
    with pytest.raises(DataError, match="no metric 'f1'"):
        Responses.from_helm(tmp_path, metric="f1")
    with pytest.raises(DataMissing, match="per_instance_stats"):
        Responses.from_helm(_empty(tmp_path))
