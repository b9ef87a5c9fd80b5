"""The study as an instrument: equal arms, verdicts that can be each of the three, and documents of one's own."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from paperworks.lab.claim import judge
from paperworks.lab.run import Options, run
from paperworks.lab.study import Request
from paperworks.nn import build_mixer
from paperworks.sequence.poolingformer import SentenceLabeller, study, training
from paperworks.sequence.poolingformer.attention import PooledLevel
from paperworks.sequence.poolingformer.texts import IGNORED, Recall, encode_documents, encode_task
from paperworks.sequence.poolingformer.variants import ARMS, Sizes, build_tagger

GOOD = {"window": 0.60, "window_wide": 0.63, "poolingformer": 0.68, "full": 0.69}


def jitter(seed):
    return 0.004 * (seed % 3 - 1)


def made_up(scores=GOOD, *, exponent=1.0, seeds=range(10, 15)):
    rows = [
        {"part": "text", "arm": arm, "seed": seed, "micro_f1": score + jitter(seed + place), "majority": 0.3,
         "macro_f1": score, "dev_micro_f1": score, "test_micro_f1": score, "parameters": 1.0, "steps": 5,
         "examples": 5, "cpu_seconds": 1.0}
        for place, (arm, score) in enumerate(scores.items()) for seed in seeds
    ]  # fmt: skip
    rows += [
        {"part": "cost", "length": length, "seed": 10, "poolingformer_ms": float(length) ** exponent}
        for length in (2048, 4096, 8192, 16384)
    ]
    return pd.DataFrame(rows)


def verdict(frame):
    return judge(study.CLAIMS, frame, budget=study.budget(frame), equal=study.STUDY.equal)[0]


@pytest.fixture
def tuned(monkeypatch):
    monkeypatch.setattr(study, "searched", lambda: True)


@pytest.mark.usefixtures("tuned")
@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "holds"),
        ({"scores": GOOD | {"poolingformer": 0.55}}, "does not hold"),
        ({"scores": GOOD | {"window_wide": 0.72}}, "does not hold"),
        ({"scores": GOOD | {"window_wide": 0.679}}, "inconclusive"),
        ({"exponent": 1.2}, "inconclusive"),
        ({"scores": {arm: score - 0.25 for arm, score in GOOD.items()}}, "inconclusive"),
    ],
)
def test_what_holds_what_refutes_and_what_leaves_it_open(change, state):
    found = verdict(made_up(**change))
    assert found.state == state
    if change.get("scores", GOOD)["window"] < 0.4:
        assert "undertrained" in found.reason


def test_without_the_equal_search_nothing_is_judged(monkeypatch):
    monkeypatch.setattr(study, "searched", lambda: False)
    assert "has not been run" in verdict(made_up()).reason


def sizes(**changes):
    given = {
        "dim": 16, "depth": 2, "heads": 2, "ffn_dim": 32, "window": 2, "pooled_window": 12, "pool_size": 5,
        "stride": 4, "wide": 4, "length": 60, "dropout": 0.0,
    }  # fmt: skip
    return Sizes(**(given | changes))


def test_all_arms_have_equally_many_parameters():
    counts = {
        arm: sum(p.numel() for p in build_tagger(arm, sizes(), vocabulary=9, classes=2).parameters()) for arm in ARMS
    }
    assert len(set(counts.values())) == 1, counts
    with pytest.raises(ValueError, match=r"arms: expected some of window, .* got 'wide'"):
        build_tagger("wide", sizes(), vocabulary=9, classes=2)


def test_the_wide_window_has_the_scores_of_the_two_levels():
    assert study.SCALES["laptop"].wide == 16
    two_levels = 17 + 193 / 4
    assert abs(2 * 33 - two_levels) < 2


def test_arms_differ_in_what_they_see():
    torch.manual_seed(0)
    x = torch.randn(1, 60, 16, requires_grad=True)
    reach = {}
    for arm in ARMS:
        mixer = ARMS[arm](sizes())
        (slope,) = torch.autograd.grad(mixer(x)[0, 30].sum(), x)
        reach[arm] = 30 - int(slope[0].abs().sum(-1).nonzero()[0])
    assert (reach["window"], reach["window_wide"], reach["full"]) == (4, 8, 30)
    assert reach["poolingformer"] == reach["mean"] == reach["max"] == reach["no_residual"] == 14
    assert reach["from_x"] == 12


def test_targets_stand_at_the_sep_before_each_sentence():
    data = study.load(study.SCALES["smoke"], Request()).data["task"]
    train = data.parts["train"]
    assert (train.ids[train.targets != IGNORED] == 3).all()
    assert ((train.targets != IGNORED) <= train.mask).all()
    documents = data.source.parts["train"]
    assert train.labels.tolist() == [data.classes.index(label) for one in documents for label in one.labels]
    short = encode_documents(documents[:3], data.tokenizer, data.classes, length=20, sentence_tokens=12)
    assert short.lengths.max() <= 20
    assert 0 < len(short.labels) < 24
    words = data.tokenizer.decode(train.ids[0][train.mask[0]])
    assert words.replace(" ", "") == "".join(documents[0].sentences).replace(" ", "")


def test_recall_is_a_function_of_the_step_and_can_be_solved():
    batch = Recall(symbols=8, length=40, batch=64, seed=1)(5)
    again = Recall(symbols=8, length=40, batch=64, seed=1)(5)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    ids, at = batch["ids"], 39 - batch["distance"]
    row = torch.arange(64)
    assert torch.equal(ids[row, at], ids[:, -1])
    assert torch.equal(ids[row, at + 1] - 8, batch["value"])
    assert ((ids < 8).sum(1) == 2).all()
    assert {int(batch["distance"].min()), int(batch["distance"].max())} <= set(range(2, 40))


def smoke(folder, **overrides):
    return run("poolingformer", options=Options("smoke", seeds=1, backend="inline", store=folder), **overrides)


def test_smoke_study(tmp_path):
    result = smoke(tmp_path)
    assert not result.failures
    rows = result.frame[result.frame["part"] == "text"].set_index("arm")
    assert (rows["micro_f1"] > rows["majority"]).all()
    assert set(result.figures) == {"f1", "recall", "cost"}
    assert set(result.tables) == {"f1", "cost"}
    assert result.budget["parameters"].nunique() == result.budget["examples"].nunique() == 1
    assert (tmp_path / "report.html").exists()


def test_with_the_values_of_the_second_level_zeroed_it_does_not_hold(tmp_path, monkeypatch, tuned):
    forward = PooledLevel.forward
    monkeypatch.setattr(PooledLevel, "forward", lambda self, x, *, mask=None: forward(self, x, mask=mask) * 0)
    monkeypatch.setattr("paperworks.lab.claim.FIRST_JUDGING_SEED", 0)
    options = Options("smoke", seeds=5, backend="inline", store=tmp_path)
    result = run("poolingformer", options=options, recall_steps=0, epochs=1, cost_lengths=())
    frame = pd.concat([result.frame, made_up().query("part == 'cost'")], ignore_index=True)
    assert verdict(frame).state != "holds"


def test_f1_by_hand():
    found = training.f1(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 3)
    assert found["micro_f1"] == 0.75
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0.8 + 0) / 3)


def test_own_documents_run_with_one_command_and_leave_a_model(tmp_path, command):
    rows = [
        {"sentences": [f"größe {i} eis", "und maß", "dann sand"], "labels": ["kalt", "kalt", "warm"]} for i in range(40)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    command(
        "run", "poolingformer", "--data", "own.jsonl", "--scale", "smoke", "--seeds", "1", "--backend", "inline",
        "--arms", "window", "poolingformer", "--cost-lengths", "--recall-steps", "0", check=0,
    )  # fmt: skip
    labeller = SentenceLabeller.load(tmp_path / "runs" / "poolingformer" / "model")
    assert set(labeller.predict(["größe 7 eis", "und maß", "dann sand"])) <= {"kalt", "warm"}
    with pytest.raises(ValueError, match="sentences: expected a list of at least one text, got 'eis'"):
        labeller.predict("eis")
    with pytest.raises(ValueError, match="folder: expected a trained labeller"):
        SentenceLabeller.load(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"sentences": ["a"]}', encoding="utf-8")
    refused = command("run", "poolingformer", "--data", "bad.jsonl", "--scale", "smoke")
    assert refused.returncode == 2
    assert "no field 'labels'" in refused.stderr


def test_absent_benchmark_documents_are_replaced_and_said(monkeypatch):
    from paperworks.data.errors import DataMissing

    def missing():
        raise DataMissing("csabstruct: train.jsonl is not on this machine")

    monkeypatch.setattr("paperworks.data.sentence_labels.csabstruct", missing)
    loaded = study.load(study.STUDY.config("laptop", {"vocabulary": 300}), Request())
    assert "generated documents stand in" in " ".join(loaded.description)
    with pytest.raises(ValueError, match="text: expected csabstruct or switching, got 'bible'"):
        study.load(study.STUDY.config("laptop", {"text": "bible"}), Request())
    with pytest.raises(ValueError, match="columns: given without --data"):
        study.load(study.SCALES["smoke"], Request(columns={"labels": "x"}))


def test_mixers_are_found_by_name():
    for name in ("poolingformer", "local_attention"):
        assert build_mixer(name, dim=16, heads=2, length=40)(0)(torch.zeros(1, 33, 16)).shape == (1, 33, 16)


def test_encoding_counts_what_is_cut():
    source = study.load(study.SCALES["smoke"], Request()).data["task"].source
    task = encode_task(source, vocabulary=300, length=96, sentence_tokens=3)
    assert (task.cut, task.left_out) == (1.0, 0.0)
    # Room for one sentence of three tokens and its [SEP].
    short = encode_task(source, vocabulary=300, length=4, sentence_tokens=3)
    given = [document.sentences for part in source.parts.values() for document in part]
    assert short.left_out == pytest.approx(1 - len(given) / sum(map(len, given)))
