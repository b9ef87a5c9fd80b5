"""The study as an instrument: its measures on made-up tables, its arms and settings, and one small run."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from paperworks.lab.claim import NotMeasurable, judge
from paperworks.lab.run import Options, run
from paperworks.lab.study import Request
from paperworks.learning.adamatch import study, trials, views
from paperworks.learning.adamatch.domains import fonts_to_digits
from paperworks.learning.adamatch.method import AdaMatch, FixMatch, SourceOnly

_spec = importlib.util.spec_from_file_location("adamatch_domains", Path(__file__).with_name("test_domains.py"))
assert _spec is not None
assert _spec.loader is not None
_domains = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_domains)
TINY = replace(study.SCALES["smoke"], steps=3, batch=4, every=3)


class Silent:
    """A progress that reports to nobody."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, fraction, **fields):
        pass


@pytest.fixture(scope="module")
def pair():
    return fonts_to_digits(per_glyph=1)


# Claims on made-up trials --------------------------------------------------------------------------------------------

GOOD = {
    "source_only": 0.55, "fixmatch": 0.7, "adamatch": 0.95, "no_interpolation": 0.4, "no_alignment": 0.3,
    "true_law": 0.9, "fixed_threshold": 0.8, "oracle": 0.98, "fixmatch_twice": 0.8, "public_ports": 0.1,
}  # fmt: skip


def table(
    accuracy=lambda point, seed: GOOD[point["arm"]] + 0.02 * point["labels"] ** 0.5, *, seeds=range(10, 15), **changed
):
    config = replace(study.SCALES["laptop"], settings="all")
    points = study.points(config, dict.fromkeys(study.PAIRS))
    return pd.DataFrame(
        point | {
            "seed": seed, "accuracy": accuracy(point, seed) + 0.004 * (seed % 3 - 1) * (point["arm"] == "adamatch"),
            "mask_rate": 0.8, "pseudo_accuracy": 0.9, "parameters": 7e4, "steps": 700.0, "labelled": 32.0,
            "unlabelled": 96.0, "network_images": 320.0, "tuning_trials": 0.0, "cpu_seconds": 1.0, "recipe": "a",
        } | changed
        for point in points for seed in seeds
    )  # fmt: skip


def verdicts(frame):
    found = judge(study.CLAIMS, frame, budget=study.budget(frame), equal=study.STUDY.equal)
    return {verdict.id: verdict for verdict in found}


def test_every_claim_holds_on_a_good_table_with_the_gains_that_were_put_in():
    found = verdicts(table())
    assert {name: verdict.state for name, verdict in found.items()} == dict.fromkeys(found, "holds")
    assert len(found) == 9
    gains = {name: [f.interval.estimate for f in verdict.findings] for name, verdict in found.items()}
    jitter = 0.004 * np.mean([seed % 3 - 1 for seed in range(10, 15)])
    for pair_name in study.PAIRS:
        assert gains[f"uda_{pair_name}"] == pytest.approx([0.4 + jitter, 0.25 + jitter])
    assert gains["few_labels"] == pytest.approx([0.02, 0.02 * (5**0.5 - 1)])
    assert gains["one_recipe"] == pytest.approx([0.25 + jitter])
    assert gains["predicted_law"] == pytest.approx([0.05 + jitter])
    assert {claim.id for claim in study.CLAIMS} == {item["id"] for item in study_card().statements()}


def study_card():
    from paperworks import catalog

    return catalog.find("adamatch")


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"fixmatch": 0.97}, "uda_fonts_digits"),
        ({"source_only": 0.97}, "uda_mnist_usps"),
        ({"no_interpolation": 0.97}, "interpolation"),
        ({"no_alignment": 0.97}, "alignment"),
        ({"true_law": 0.97}, "predicted_law"),
        ({"fixed_threshold": 0.97}, "relative_threshold"),
        ({"fixmatch": 0.99}, "one_recipe"),
    ],
)
def test_a_rival_that_is_better_refutes(change, claim):
    frame = table(lambda point, seed: (GOOD | change)[point["arm"]])
    assert verdicts(frame)[claim].state == "does not hold"


def test_non_inferiority_forgives_a_point_but_not_three():
    close, far = (
        table(lambda point, seed, by=by: GOOD["adamatch"] + by * (point["arm"] == "fixmatch")) for by in (0.01, 0.03)
    )
    assert verdicts(close)["one_recipe"].state == "holds"
    assert verdicts(far)["one_recipe"].state == "does not hold"


def test_labels_that_do_not_help_refute():
    frame = table(lambda point, seed: GOOD[point["arm"]] - 0.01 * point["labels"])
    assert verdicts(frame)["few_labels"].state == "does not hold"


def test_guards_void_verdicts():
    at_chance = table(lambda point, seed: 0.15 if point["arm"] == "source_only" else GOOD[point["arm"]])
    assert verdicts(at_chance)["uda_fonts_digits"].state == "inconclusive"
    assert "twice chance" in verdicts(at_chance)["uda_fonts_digits"].reason
    closed = verdicts(table(mask_rate=0.05))
    assert {closed[name].state for name in ("uda_usps_mnist", "few_labels", "one_recipe", "alignment")} == {
        "inconclusive"
    }


def test_unequal_budgets_get_no_verdict():
    frame = table()
    frame.loc[frame["arm"] == "fixmatch", "steps"] = 1400.0
    assert "unequal budget" in verdicts(frame)["uda_fonts_digits"].reason
    assert "unequal budget" in verdicts(frame)["one_recipe"].reason


def test_what_was_not_run_is_not_tested():
    frame = table()
    found = verdicts(frame[(frame["part"] == "uda") & (frame["pair"] == study.FONTS)])
    assert found["few_labels"].state == found["one_recipe"].state == found["uda_usps_mnist"].state == "not tested"
    assert found["uda_fonts_digits"].state == found["alignment"].state == "holds"
    with pytest.raises(NotMeasurable):
        study.semi_supervised_gain(frame[frame["part"] == "uda"])


def test_sentences_tell_of_a_weak_baseline_and_of_the_long_tail():
    said = " ".join(views.sentences(table(lambda point, seed: (GOOD | {"fixmatch": 0.4})[point["arm"]])))
    assert "FixMatch+ (0.400) is not above source-only training (0.550)" in said
    assert "Long-tailed target" in said
    assert "is not above" not in " ".join(views.sentences(table()))


def test_tables_have_a_row_for_each_arm():
    frame = table()
    accuracy = views.accuracy_table(frame)
    assert accuracy is not None
    assert len(accuracy) == len(frame.groupby(["part", "pair", "labels", "arm"]))
    assert accuracy.loc[0, "target accuracy, %"] == "55.0 ± 0.0"
    assert views.own_table(frame) is None


def test_sentences_tell_of_masks_that_are_still_closed():
    frame = table()
    assert "masks are open" not in " ".join(views.sentences(frame))
    frame.loc[(frame["arm"] == "fixmatch") & (frame["pair"] == study.FONTS), "mask_rate"] = 0.3
    said = [text for text in views.sentences(frame) if "masks are open" in text]
    assert len(said) == 1
    assert said[0].startswith("fonts_digits".replace("_", " -> ") + ": at the end 30% of FixMatch+'s masks are open")


def test_a_plain_run_is_the_first_pair_with_ablations_and_settings_add_the_rest(monkeypatch):
    loaded = []
    monkeypatch.setattr(study, "_load_pair", lambda name, config: loaded.append(name))
    monkeypatch.setattr(study, "_describe", str)
    monkeypatch.setattr(study, "_loaded", lambda found, notes: found)
    plain = study.SCALES["laptop"]
    assert len(study.points(plain, study.load(plain, Request()))) == len(study.ARMS) + len(study.ABLATIONS)
    assert plain.steps == 700
    study.load(replace(plain, settings="all"), Request())
    study.load(replace(plain, pairs=("mnist_usps",)), Request())
    assert loaded == [study.FONTS, *study.PAIRS, "mnist_usps"]


# Arms and settings ---------------------------------------------------------------------------------------------------


def test_arms_are_what_they_are_called_and_start_from_the_same_weights():
    config, kinds, first = study.SCALES["laptop"], {}, {}
    for arm in (*study.ARMS, *study.ABLATIONS, *study.REFERENCES):
        method: Any = trials.build_method(arm, config, 10, 1, seed=11)
        kinds[arm] = type(method)
        first[arm] = torch.cat([item.flatten() for item in method.model.parameters()])
        assert method.model.body[0][0].momentum == config.norm_momentum
    assert all(torch.equal(item, first["adamatch"]) for item in first.values())
    assert kinds["oracle"] is kinds["source_only"] is SourceOnly
    assert kinds["fixmatch"] is kinds["fixmatch_twice"] is FixMatch
    assert {kinds[arm] for arm in (*study.ABLATIONS, "public_ports")} == {AdaMatch}
    rules = {arm: trials.rules_of(arm, config) for arm in ("adamatch", *study.ABLATIONS)}
    assert len({repr(item) for item in rules.values()}) == 5
    for arm in (*study.ARMS, *study.ABLATIONS):
        assert trials.training_of(replace(config, strong="simple"), arm).strong == "simple"
    ports: Any = trials.build_method("public_ports", config, 10, 1, seed=11)
    assert ports.first_pass == "running"
    assert trials.training_of(config, "public_ports").optimizer == "adam"
    right: Any = trials.build_method("public_ports", replace(config, mistakes=()), 10, 1, seed=11)
    assert right.first_pass == "batch"
    with pytest.raises(ValueError, match="arm: expected"):
        trials.rules_of("mixmatch", config)


def test_one_configuration_serves_every_setting(pair, tmp_path):
    """SSL, UDA and SSDA differ in their images alone; a hyperparameter that differed would change the fingerprint."""
    config = replace(TINY, settings="all")
    seen = {}
    for part, labels in (("uda", 0), ("ssda", 1), ("ssl", 4), ("long_tail", 0)):
        point = {"part": part, "pair": study.FONTS, "arm": "adamatch", "labels": labels}
        found = study.trial(point, 11, config, {study.FONTS: pair}, Silent(tmp_path))
        seen[part] = found["recipe"]
        assert found["labelled"] == (8 if part == "ssda" else 4)
        assert found["network_images"] == (56 if part == "ssda" else 40)
    assert len(set(seen.values())) == 1
    base = trials.recipe_of(trials.training_of(config, "adamatch"), config)
    assert seen["uda"] == base
    for change in ({"rate": 0.02}, {"tau": 0.8}, {"norm_momentum": 0.1}, {"steps": 4}, {"unlabelled_ratio": 2}):
        other = replace(config, **change)
        assert trials.recipe_of(trials.training_of(other, "adamatch"), other) != base
    for arm in (*study.ARMS, *study.ABLATIONS):
        assert trials.recipe_of(trials.training_of(config, arm), config) == base


def test_no_target_label_is_read_by_training(pair, tmp_path):
    """With permuted target labels what is measured changes, and what is trained does not."""
    order = torch.randperm(len(pair.target), generator=torch.Generator().manual_seed(0))
    mixed = replace(pair, target=replace(pair.target, labels=pair.target.labels[order]))
    point = {"part": "uda", "pair": study.FONTS, "arm": "adamatch", "labels": 0}
    one, two = (study.trial(point, 11, TINY, {study.FONTS: data}, Silent(tmp_path)) for data in (pair, mixed))
    for name in ("curve", "confusion", "predicted_law", "augment_rates", "mask_curve"):
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    np.testing.assert_array_equal(one["features"][:, :3], two["features"][:, :3])
    assert one["pseudo_accuracy"] != two["pseudo_accuracy"]
    again = study.trial(point, 11, TINY, {study.FONTS: pair}, Silent(tmp_path))
    np.testing.assert_array_equal(one["features"], again["features"])


def test_settings_take_the_images_they_should(pair):
    def sets(part, arm, labels=0) -> Any:
        return trials._sets({"part": part, "arm": arm, "labels": labels}, 11, study.SCALES["laptop"], pair)

    source, target, more = sets("ssda", "adamatch", 5)
    assert (source is pair.source, target is pair.target, len(more)) == (True, True, 50)
    source, target, more = sets("ssl", "adamatch", 4)
    assert (len(source), target is pair.target, more) == (40, True, None)
    source, target, more = sets("reference", "oracle")
    assert source is target is pair.target
    assert len(sets("long_tail", "adamatch")[1]) < 0.6 * len(pair.target)
    assert torch.equal(sets("ssda", "adamatch", 5)[2].images, sets("ssda", "adamatch", 5)[2].images)


def test_trace_by_hand():
    from paperworks.learning.adamatch.loss import AdaMatchOutput

    trace = trials.Trace(20, torch.tensor([0, 1, 2, 0]))
    zero = torch.zeros(())
    for step in range(20):
        mask = torch.tensor([True, True, False])
        output = AdaMatchOutput(zero, zero, zero, mask, torch.tensor(0.5), torch.tensor([0, 2, 2]), zero)
        trace(step, output, torch.tensor([0, 1, 2]))
    found = trace.summary()
    assert found["mask_rate"] == pytest.approx(2 / 3)
    assert found["pseudo_accuracy"] == pytest.approx(0.5)
    assert found["threshold"] == 0.5
    assert found["trace_steps"].tolist() == list(range(1, 21))


def test_reliability_and_confusion_count_every_image(pair):
    method = trials.build_method("adamatch", TINY, 10, 1, seed=11)
    found = trials._test_facts(method.model, pair.test)
    assert found["confusion"].sum() == found["reliability"][0].sum() == 600
    assert found["confusion"].sum(1).tolist() == np.bincount(pair.test.labels).tolist()
    assert np.trace(found["confusion"]) == found["reliability"][1].sum()


# The whole -----------------------------------------------------------------------------------------------------------


def test_smoke_study(tmp_path):
    result = run("adamatch", options=Options("smoke", backend="inline", store=tmp_path), steps=6)
    assert not result.failures
    assert len(result.frame) == 2
    assert set(result.figures) == {"accuracy", "curves", "masks", "confusion", "reliability", "features", "rates"}
    assert set(result.tables) == {"accuracy", "recipe"}
    assert len(result.tables["recipe"]) == 1
    assert all(verdict.state == "not tested" for verdict in result.verdicts if verdict.id != "uda_fonts_digits")
    assert (tmp_path / "report.html").exists()


def test_own_folder_runs_with_one_command(tmp_path, command):
    _domains.write_images(tmp_path / "mine" / "source", ("hund", "katze"), count=6)
    _domains.write_images(tmp_path / "mine" / "target", ("hund", "katze"), count=6, seed=1)
    small = ("--scale", "smoke", "--seeds", "1", "--backend", "inline", "--steps", "3", "--image-size", "8")
    answer = command("run", "adamatch", "--data", "mine", *small, "--labels-per-class", "1", check=0)
    assert "NOT TESTED uda_fonts_digits" in answer.stdout
    predictions = pd.read_csv(tmp_path / "runs" / "adamatch" / "predictions.csv")
    assert {"file", "adamatch", "adamatch_confidence", "adamatch_ssda"} <= set(predictions.columns)
    assert len(predictions) == 8
    assert "Your images" in (tmp_path / "runs" / "adamatch" / "report.html").read_text()
    (tmp_path / "flat" / "target").mkdir(parents=True)
    for place in (tmp_path / "mine" / "target" / "hund").glob("*.png"):
        (tmp_path / "flat" / "target" / place.name).write_bytes(place.read_bytes())
    (tmp_path / "mine" / "source").rename(tmp_path / "flat" / "source")
    answer = command("run", "adamatch", "--data", "flat", *small, "--store", "second", check=0)
    assert "NOT TESTED uda_fonts_digits" in answer.stdout
    assert "accuracy is not known" in (tmp_path / "second" / "report.html").read_text()


def test_what_does_not_fit_is_refused_at_the_door(tmp_path, monkeypatch):
    config = study.SCALES["smoke"]
    with pytest.raises(ValueError, match="columns"):
        study.load(config, Request("x", {"text": "y"}))
    (tmp_path / "source").mkdir()
    with pytest.raises(ValueError, match="neither target/ nor"):
        study.load(config, Request(str(tmp_path)))
    with pytest.raises(ValueError, match="pairs: expected some of"):
        study.load(replace(config, pairs=("svhn_mnist",)), Request())
    for field, value in (("arms", ("dann",)), ("mistakes", ("sign",)), ("references", ("prior",))):
        with pytest.raises(ValueError, match=f"{field}.*: expected some of"):
            study.points(replace(config, **{field: value}), {study.FONTS: None})
    monkeypatch.setenv("PAPERWORKS_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    import pooch

    def unreachable(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", unreachable)
    loaded = study.load(replace(config, pairs=("usps_mnist",)), Request())
    assert set(loaded.data) == {study.FONTS}
    assert any("left out" in line for line in loaded.description)
