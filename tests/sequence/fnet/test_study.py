"""The study as an instrument: it must refute what is false, and work on a file of one's own with one command."""

import csv

import numpy as np
import pandas as pd
import pytest

from paperworks.lab.run import Options, run
from paperworks.sequence.fnet import arms, study, training, views
from paperworks.sequence.fnet.classifier import TextClassifier


def smoke(folder, **overrides):
    return run("fnet", options=Options("smoke", backend="inline", store=folder), **overrides)


def finding(result, name):
    return next(item for item in result.verdicts[0].findings if item.name.startswith(name))


def test_identity_in_the_place_of_fourier_mixing_is_refuted(tmp_path, monkeypatch):
    monkeypatch.setitem(training.MIXERS, "fourier", arms.make_identity_mixer)
    result = smoke(tmp_path, arms=("attention", "fourier", "ff_only"))
    assert not result.failures
    assert result.verdicts[0].state == "does not hold"
    assert finding(result, "accuracy ratio").interval.high < 0.92
    assert finding(result, "accuracy fourier - ff_only").interval.high < 0.20


def test_attention_in_the_place_of_fourier_mixing_fails_the_time_condition(tmp_path, monkeypatch):
    monkeypatch.setitem(training.MIXERS, "fourier", arms.make_attention_mixer)
    result = smoke(tmp_path, arms=("attention", "fourier", "ff_only"), speed_dim=256, speed_rounds=15)
    assert finding(result, "accuracy ratio").interval.estimate == pytest.approx(1.0, abs=0.05)
    assert finding(result, "step-time").p_holds > 0.05
    assert result.verdicts[0].state != "holds"


def test_smoke_study_trains_every_arm_and_shows_the_sceptics_control(tmp_path):
    result = smoke(tmp_path, speed_lengths=())
    assert not result.failures
    means = result.frame[result.frame["part"] == "accuracy"].groupby("arm")["accuracy"].mean()
    assert means["attention"] > 0.8
    assert means["bag"] > 0.8
    assert means["ff_only"] < 0.35
    assert result.verdicts[0].state == "not tested"
    assert "length" in result.verdicts[0].reason
    assert set(result.figures) == {"accuracy", "curves", "mixing"}
    budget = result.budget
    assert budget["steps"].nunique() == 1
    assert budget.loc["attention", "parameters"] > budget.loc["fourier", "parameters"]


def test_a_trial_is_a_pure_function(tmp_path):
    config = study.SCALES["smoke"]
    loaded = study.load(config, study.Request())

    class Silent:
        folder = tmp_path

        def __call__(self, fraction, **fields):
            pass

    point = {"part": "accuracy", "task": "topics", "arm": "fourier", "width": 32, "rate": 1e-3}
    first, second = (study.trial(point, 10, config, loaded.data, Silent()) for _ in range(2))
    assert np.array_equal(first["predictions"], second["predictions"])
    assert first["test_loss"] == second["test_loss"]
    assert study.trial(point, 11, config, loaded.data, Silent())["test_loss"] != first["test_loss"]


def own_file(path, rows=420):
    """Three labels, unbalanced; odd characters, quoted newlines, long texts."""
    rng = np.random.default_rng(0)
    words = {"1": ["naïve", "мир", "🙂"], "3": ["l'été", '"so so"', "中文"], "5": ["great;", "smart,", "zażółć"]}
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["review", "stars"])
        for number in range(rows):
            label = rng.choice(["1", "3", "5"], p=[0.6, 0.25, 0.15])
            filler = [f"word{i}" for i in rng.integers(0, 50, size=rng.integers(3, 12))]
            text = " ".join([*filler, *rng.choice(words[label], size=3)]) + f" #{number}"
            if number % 60 == 0:
                text += "\n" + "a very long tail " * 200
            writer.writerow([text, label])
    return path


def test_own_csv_runs_end_to_end_with_one_command(tmp_path, command):
    own_file(tmp_path / "my.csv")
    answer = command(
        "run", "fnet", "--data", "my.csv", "--columns", "text=review,label=stars", "--scale", "smoke", "--seeds", "2",
        "--backend", "inline", "--epochs", "12", "--arms", "attention", "bag", "fourier", "ff_only",
        check=0,
    )  # fmt: skip
    assert "INDICATIVE accuracy_and_speed" in answer.stdout
    folder = tmp_path / "runs" / "fnet"
    table = pd.read_csv(folder / "predictions.csv", dtype=str)
    assert {"text", "label", "attention", "fourier"} <= set(table.columns)
    assert (table["label"] == table["bag"]).mean() > 0.8
    classifier = TextClassifier.load(folder / "best")
    assert classifier.classes == ("1", "3", "5")
    right = np.mean([a == b for a, b in zip(classifier.predict(table["text"]), table["label"], strict=True)])
    assert right > 0.8
    assert "256" not in answer.stderr or "are cut" in answer.stderr
    report = (folder / "report.html").read_text()
    assert "share of each label" in report


def test_rare_labels_and_missing_columns_are_errors_at_the_door(tmp_path, command):
    own_file(tmp_path / "few.csv", rows=60)
    few = command("run", "fnet", "--data", "few.csv", "--columns", "text=review,label=stars", "--scale", "smoke")
    assert few.returncode == 2
    assert "20" in few.stderr
    absent = command("run", "fnet", "--data", "few.csv", "--columns", "text=review,label=points", "--scale", "smoke")
    assert absent.returncode == 2
    assert "points" in absent.stderr


def test_absent_benchmark_data_are_left_out_and_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PAPERWORKS_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    import pooch

    def unreachable(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", unreachable)
    config = study.SCALES["smoke"].__class__(tasks=("topics", "sst2"), vocabulary=400)
    loaded = study.load(config, study.Request())
    assert set(loaded.data) == {"topics"}
    assert any("left out" in line and "sst2" in line for line in loaded.description)


def test_a_user_s_mixer_is_an_arm(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from paperworks.sequence import IdentityMixing\n"
        "def build(dim, *, heads, length):\n"
        "    return lambda layer: IdentityMixing(dim)\n"
    )
    options = Options("smoke", seeds=1, backend="inline", store=tmp_path / "run", baseline=f"{mine}:build")
    result = run("fnet", options=options, arms=("attention", "ff_only"), epochs=1.0, speed_lengths=())
    arms_run = result.frame.loc[result.frame["part"] == "accuracy"].set_index("arm")["accuracy"]
    own = next(arm for arm in arms_run.index if "mine.py" in arm)
    assert arms_run[own] == arms_run["ff_only"]


def test_the_accuracy_ratio_is_paired_and_averaged_over_tasks_and_widths():
    rows = [
        {"part": "accuracy", "task": task, "width": 64, "arm": arm, "seed": seed, "accuracy": value}
        for seed in (10, 11)
        for task, scores in {"x": (0.5, 0.4), "y": (0.8, 0.8)}.items()
        for arm, value in zip(("attention", "fourier"), scores, strict=True)
    ]
    assert study.accuracy_ratio(pd.DataFrame(rows)) == pytest.approx([0.9, 0.9])


def test_tuned_rates_come_from_the_equal_search():
    config = study.Config()
    for arm in config.arms:
        for width in config.widths:
            assert study.tuned_rate(config, arm, width) in study.SEARCHED_RATES, (arm, width)
    assert {(arm, width) for arm, width, _ in config.tuned} >= {(a, w) for a in study.ARMS for w in (64, 96)}


def test_search_table_names_the_best_rate_of_each_arm():
    rows = [
        {"part": "accuracy", "task": "stdlib", "width": 64, "arm": "bag", "rate": rate, "dev_accuracy": accuracy}
        for rate, accuracy in [(3e-4, 0.2), (1e-3, 0.6), (3e-3, 0.5)]
    ]
    table = views.search_table(pd.DataFrame(rows))
    assert table.loc[0, "best"] == "0.001"


def test_ratio_over_texts_keeps_the_runs_of_a_text_together():
    """Both arms right on the same texts: the ratio is 1 whatever is drawn; on disjoint halves it is not."""
    half = np.r_[np.ones(50), np.zeros(50)].astype(np.uint8)

    def table(fourier):
        rows = [
            {"part": "accuracy", "task": "t", "width": 64, "arm": arm, "seed": seed, "accuracy": 0.5, "correct": right}
            for arm, right in (("attention", half), ("fourier", fourier))
            for seed in (10, 11)
        ]
        return views.ratio_table(pd.DataFrame(rows)).iloc[0]["95 % interval over test texts"]

    assert table(half) == "1.000 to 1.000"
    low, high = (float(bound) for bound in table(1 - half).split(" to "))
    # ratio (n - k) / k with k ~ binomial(100, 1/2): the 2.5 % points of k are 40 and 60
    assert low == pytest.approx(40 / 60, abs=0.03)
    assert high == pytest.approx(60 / 40, abs=0.07)
