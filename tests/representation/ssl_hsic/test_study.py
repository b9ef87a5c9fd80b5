"""The study as an instrument: its verdicts on made-up tables, its arms and search, and one small run of everything."""

import hashlib
import io
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from paperworks.data import benchmarks
from paperworks.data.errors import DataError, DataMissing
from paperworks.lab.claim import judge
from paperworks.lab.run import Options, run
from paperworks.lab.study import Request
from paperworks.representation.ssl_hsic import images, study, training, tuning, views
from paperworks.representation.ssl_hsic.spread import estimator_spread

GOOD = {"ssl_hsic": 0.65, "simclr": 0.62, "ssl_hsic_target": 0.50, "byol": 0.44, "gamma0": 0.42, "random_init": 0.23}


def frame_of(accuracy, *, seeds=range(10, 15), trials=tuning.TRIALS, **extra):
    """One row per arm and seed; `accuracy(arm, seed)`."""
    return pd.DataFrame(
        {
            "part": "reference" if arm == "random_init" else "train", "arm": arm, "seed": seed, "diverged": 0.0,
            "accuracy": accuracy(arm, seed), "knn": accuracy(arm, seed) - 0.05, "effective_rank": 20.0 + seed % 3,
            "tuning_trials": float(trials), "parameters": 1.0, "macs": 1.0, "steps": 240.0, "images": 61440.0,
            "cpu_seconds": 1.0, **extra,
        }
        for arm in GOOD for seed in seeds
    )  # fmt: skip


def jitter(arm, seed):
    return 0.004 * ((seed + len(arm)) % 3 - 1)


def verdicts(frame):
    return {v.id: v for v in judge(study.CLAIMS, frame, budget=study.budget(frame), equal=study.STUDY.equal)}


def states(change, **options):
    found = verdicts(frame_of(lambda arm, seed: (GOOD | change)[arm] + jitter(arm, seed), **options))
    return tuple(found[name].state for name in ("infonce", "byol", "regulariser"))


# Claims on made-up trials --------------------------------------------------------------------------------------------


def test_verdicts_follow_the_margins():
    assert states({}) == ("holds", "holds", "holds")
    assert states({"ssl_hsic": 0.612}) == ("holds", "holds", "holds")  # one point below is within the margin
    assert states({"ssl_hsic": 0.55})[0] == "does not hold"
    assert states({"ssl_hsic": 0.60})[0] == "inconclusive"  # at the margin
    assert states({"ssl_hsic_target": 0.38})[1] == "does not hold"
    assert states({"gamma0": 0.68})[2] == "does not hold"
    assert states({"gamma0": 0.65})[2] == "inconclusive"


def test_without_headroom_there_is_no_verdict():
    assert states({"random_init": 0.50}) == ("inconclusive",) * 3
    assert states({"byol": 0.30, "ssl_hsic_target": 0.4}) == ("holds", "inconclusive", "holds")
    frame = frame_of(lambda arm, seed: GOOD[arm] + jitter(arm, seed))
    assert verdicts(frame[frame["arm"] != "random_init"])["infonce"].reason.count("no headroom known") == 1


def test_untuned_unequal_or_diverged_arms_get_no_verdict():
    assert states({}, trials=0) == ("inconclusive",) * 3
    frame = frame_of(lambda arm, seed: GOOD[arm] + jitter(arm, seed))
    frame.loc[frame["arm"] == "simclr", "steps"] = 480.0
    assert "unequal budget" in verdicts(frame)["infonce"].reason
    frame = frame_of(lambda arm, seed: GOOD[arm] + jitter(arm, seed))
    frame.loc[(frame["arm"] == "gamma0") & (frame["seed"] == 12), "diverged"] = 1.0
    assert "gamma0 diverged" in verdicts(frame)["regulariser"].reason


def test_few_or_pilot_seeds_are_indicative():
    assert states({}, seeds=range(10, 13)) == ("indicative",) * 3
    assert states({}, seeds=range(5)) == ("indicative",) * 3


# Arms ----------------------------------------------------------------------------------------------------------------


SMOKE = study.SCALES["smoke"]


def test_arms_differ_in_what_they_say_and_start_alike():
    lesson, setting = SMOKE.lesson(), training.Setting(4e-3, gamma=2.0, temperature=0.3, momentum=0.9)
    models = {}
    for arm in training.ARMS:
        torch.manual_seed(4)
        models[arm] = training.build(arm, lesson, setting, 1)
    assert (models["ssl_hsic"].target, models["ssl_hsic"].gamma) == (None, 2.0)
    assert (models["gamma0"].target, models["gamma0"].gamma) == (None, 0.0)
    assert models["ssl_hsic_target"].target is not None
    assert models["ssl_hsic_target"].momentum == models["byol"].momentum == 0.9
    assert models["simclr"].temperature == 0.3
    firsts = [getattr(model, "backbone", None) or model.online["backbone"] for model in models.values()]
    for backbone in firsts:
        for ours, theirs in zip(backbone.parameters(), firsts[0].parameters(), strict=True):
            assert torch.equal(ours, theirs)
    sizes = {arm: training._trainable(model) for arm, model in models.items()}
    assert sizes["ssl_hsic"] == sizes["simclr"] == sizes["gamma0"]
    assert sizes["ssl_hsic_target"] == sizes["byol"]
    with pytest.raises(ValueError, match="arms: expected some of"):
        training.build("moco", lesson, setting, 1)


def test_all_arms_see_the_same_views(monkeypatch):
    seen = {}

    class Noted(images.AffineViews):
        def __call__(self, batch, *, generator=None):
            pair = super().__call__(batch, generator=generator)
            seen.setdefault(self.arm, []).append(hashlib.sha256(torch.stack(pair).numpy().tobytes()).hexdigest())
            return pair

    given = images.glyph_set(6, 12, 6, image_size=12, seed=1)
    for arm in ("ssl_hsic", "byol"):
        noted = Noted()
        object.__setattr__(noted, "arm", arm)
        training.train_arm(arm, SMOKE.lesson(), training.Setting(1e-3), given, noted, seed=3)
    steps = 1 + SMOKE.steps  # the sample that is looked at, and one pair a step
    assert seen["ssl_hsic"][:steps] == seen["byol"][:steps]
    assert len(set(seen["byol"])) >= steps


def test_a_trial_is_a_pure_function(tmp_path):
    loaded = study.load(SMOKE, Request())
    for point in ({"part": "train", "arm": "ssl_hsic_target"}, {"part": "reference", "arm": "supervised"}):
        one, two = (study.trial(point, 11, SMOKE, loaded.data, lambda *a, **k: None) for _ in range(2))
        assert all(np.array_equal(one[name], two[name], equal_nan=True) for name in one)
    other = study.trial(point, 12, SMOKE, loaded.data, lambda *a, **k: None)
    assert other["loss"] != one["loss"]


def test_each_seed_has_its_alphabet():
    sets = [study._images(SMOKE, {"images": None}, seed) for seed in (10, 10, 11)]
    assert torch.equal(sets[0].train, sets[1].train)
    assert not torch.equal(sets[0].train, sets[2].train)
    assert sets[0].train.shape == (72, 1, 12, 12)
    assert torch.bincount(sets[0].test_labels).tolist() == [6] * 6


def test_drawing_glyphs_leaves_torch_s_threads_alone():
    before = torch.get_num_threads()
    images.glyph_set(2, 2, 2, image_size=10, seed=0)
    assert torch.get_num_threads() == before


def test_affine_views_move_and_dim_but_never_mirror():
    picture = torch.zeros(400, 1, 20, 20)
    picture[:, :, 8:12, 14:17] = 1.0
    still = images.AffineViews(0, (1, 1), 0, 0, 0, (1, 1), 0)(picture[:2])
    torch.testing.assert_close(still[0], picture[:2], atol=1e-5, rtol=0)
    plain = images.AffineViews(noise=0.0)
    first, second = plain(picture, generator=torch.Generator().manual_seed(0))
    again, _ = plain(picture, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    mass = first.sum((1, 2, 3))
    assert float(mass.std() / mass.mean()) > 0.2
    centre = (first.sum((1, 2)) @ torch.arange(20.0)) / mass
    assert float(centre.min()) > 9.5  # nothing is mirrored, and what comes in from outside is empty
    assert float(plain(torch.zeros(8, 1, 20, 20))[0].abs().max()) == 0
    assert float(images.AffineViews()(torch.zeros(8, 1, 20, 20))[0].std()) == pytest.approx(0.1, rel=0.4)


def test_colour_images_get_colour_views():
    colour = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    made = images.make_views("auto", colour)
    assert type(made).__name__ == "TwoViews"
    assert made(colour)[0].shape == (4, 3, 16, 16)
    assert isinstance(images.make_views("auto", colour[:, :1]), images.AffineViews)
    with pytest.raises(ValueError, match="views: expected auto, affine or byol"):
        images.make_views("moco", colour)


# The search ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", training.ARMS)
def test_the_search_tries_five_settings_the_last_two_at_the_best_rate(arm):
    asked = []

    def accuracy(setting, seed):
        asked.append((setting, seed))
        return 0.5 + (setting.rate == 8e-3) * 0.1 + 0.01 * seed

    found = tuning.search(arm, accuracy, seeds=range(2))
    knob, default, further = tuning.KNOBS[arm]
    assert len(asked) == 2 * tuning.TRIALS
    assert found["search_accuracies"].shape == (5, 2)
    if knob == "rate":
        assert found["search_rates"].tolist() == [2e-3, 4e-3, 8e-3, 1e-3, 1.6e-2]
    else:
        assert found["search_rates"].tolist() == [2e-3, 4e-3, 8e-3, 8e-3, 8e-3]
        assert found["search_values"].tolist() == [default] * 3 + list(further)


def test_a_search_writes_the_file_that_the_study_reads(tmp_path, monkeypatch):
    rows = []
    for number, arm in enumerate(training.ARMS):
        scores = iter(np.linspace(0.3, 0.6, 10) if number % 2 else np.linspace(0.6, 0.3, 10))
        found = tuning.search(arm, lambda *_, scores=scores: float(next(scores)), seeds=range(2))
        rows.append({"part": "search", "arm": arm, "seed": 0, **found})
    frame = pd.DataFrame(rows)
    (path,) = study.finish(frame, None, tmp_path)
    monkeypatch.setattr(tuning, "FILE", path)
    tuning.tuned_settings.cache_clear()
    try:
        tuned = tuning.tuned_settings()
        assert len(tuning.search_rows()) == 25
        assert views.tuning_table(frame).shape[0] == 25
        assert views.tuning_table(frame_of(lambda *_: 0.5)).query("best == '*'").shape[0] == 5
    finally:
        tuning.tuned_settings.cache_clear()
    assert {trials for *_, trials in tuned} == {5}
    settings = {arm: tuning.setting_of(arm, tuned)[0] for arm in training.ARMS}
    assert settings["ssl_hsic"] == training.Setting(2e-3, gamma=3.0)
    assert settings["ssl_hsic_target"] == training.Setting(8e-3, momentum=0.97)
    assert settings["byol"] == training.Setting(8e-3, momentum=0.97)
    assert settings["gamma0"].rate == 2e-3
    assert study.finish(frame[frame["arm"] != "byol"], None, tmp_path) == ()


def test_the_kept_settings_lie_on_the_grid():
    for arm, rate, knob, value, trials in study.Config().tuned:
        name, default, further = tuning.KNOBS[arm]
        assert name == knob
        assert rate in (*tuning.RATES, 1e-3, 1.6e-2)
        assert value in (rate, default, *further)
        assert trials in (0, tuning.TRIALS)


def test_a_search_runs(tmp_path):
    result = run("ssl_hsic", options=Options("smoke", backend="inline", store=tmp_path, seeds=2, first_seed=0),
                 search=True, arms=("gamma0",), steps=2, looks=0, search_seeds=1)  # fmt: skip
    assert not result.failures
    assert len(result.frame) == 1
    assert result.tables["tuning"].shape[0] == 5


# The whole -----------------------------------------------------------------------------------------------------------


def test_smoke_study(tmp_path):
    result = run("ssl_hsic", options=Options("smoke", seeds=1, backend="inline", store=tmp_path))
    assert not result.failures
    assert [verdict.state for verdict in result.verdicts] == ["inconclusive"] * 3
    assert set(result.figures) == {"accuracy", "terms", "spread", "infonce", "mmd"}
    assert list(result.tables["results"]["arm"]) == [views.NAMES[arm] for arm in (*training.ARMS, *training.REFERENCES)]
    assert result.budget.loc[:, ["steps", "images"]].nunique().tolist() == [1, 1]
    trained = result.frame[result.frame["part"] == "train"]
    assert trained["accuracy"].between(0, 1).all()
    # The matrix of MMD^2: symmetric, zero on its diagonal, never negative.
    for gaps in trained["mmd"]:
        np.testing.assert_allclose(gaps, gaps.T, atol=1e-6)
        np.testing.assert_allclose(np.diag(gaps), 0, atol=1e-6)
        assert gaps.min() > -1e-6
    # Second order, so best at the highest temperature.
    exact, expansion = trained.set_index("arm").loc["simclr", "infonce"]
    assert abs(exact[-1] - expansion[-1]) < 1e-3 + 0.05 * abs(exact[-1])
    assert (tmp_path / "report.html").exists()


def test_ablation_changes_one_thing(tmp_path):
    config = study.STUDY.config("ablation")
    points = study.points(config, {"labelled": True})
    assert len({(point["factor"], point["level"]) for point in points}) == len(points)
    lesson, setting = config.lesson(), training.Setting(4e-3)
    for point in points:
        varied, other = study._varied(point, lesson, setting)
        assert (varied != lesson) + (other != setting) <= 1
        assert varied.batch * varied.steps == pytest.approx(lesson.batch * lesson.steps, rel=0.01)
    point = {"part": "ablation", "arm": "ssl_hsic", "factor": "kernel", "level": "linear"}
    found = study.trial(point, 10, SMOKE, {"images": None, "labelled": True}, lambda *a, **k: None)
    assert views.ablation_table(pd.DataFrame([{**point, **found}])).loc[0, "to"] == "linear"


def test_estimators_one_draw_is_biased_and_two_are_not():
    found = estimator_spread((64, 256), draws=40)
    error = found["spread_zz"] / np.sqrt(40)
    assert (np.abs(found["spread_bias"][:2]) < 4 * error[:2]).all()
    assert (found["spread_bias"][2] > 4 * error[2]).all()
    assert (found["spread_zz"][0] < found["spread_zz"][1]).all()


def pictures(folder, classes=("left", "right"), count=8, *, colour=False, size=14):
    rng = np.random.default_rng(0)
    for label in classes:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(256, size=(size, size + 2, 3) if colour else (size, size + 2), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"bild {number}.png")
    return folder


def test_a_folder_of_pictures(tmp_path):
    found = images.read_image_folder(str(pictures(tmp_path / "a")), 16)
    assert found.train.shape == (12, 1, 16, 16)
    assert found.test_labels.tolist() == [0, 0, 1, 1]
    assert any("smaller than 16 pixels" in note for note in found.notes)
    plain = images.read_image_folder(str(pictures(tmp_path / "b", ("",), colour=True)), 10)
    assert (plain.train.shape, plain.train_labels) == ((6, 3, 10, 10), None)
    square = np.asarray(Image.open(tmp_path / "a" / "left" / "bild 0.png"))[:, 1:15]
    assert torch.equal(images.read_image_folder(str(tmp_path / "a"), 14).train[0, 0], torch.from_numpy(square.copy()))


def test_own_pictures_run_end_to_end_with_one_command(tmp_path, command):
    options = ("--scale", "smoke", "--seeds", "1", "--backend", "inline", "--steps", "2", "--looks", "1",
               "--no-estimators", "--batch", "4", "--arms", "ssl_hsic")  # fmt: skip
    pictures(tmp_path / "own")
    answer = command("run", "ssl_hsic", "--data", "own", *options, "simclr", check=0)
    assert "not tested" in answer.stdout.lower()
    assert "supervised" in (tmp_path / "runs" / "ssl_hsic" / "report.html").read_text()
    pictures(tmp_path / "plain", ("",))
    command("run", "ssl_hsic", "--data", "plain", *options, "--store", "p", check=0)
    assert "label-free measures only" in (tmp_path / "p" / "report.html").read_text()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none", "no such folder"),
        (lambda folder: pictures(folder, ("a",), 3), "holds 3 pictures"),
        (lambda folder: pictures(pictures(folder, ("a",)), ("few",), 2), "few: holds 2 pictures"),
    ],
)
def test_folders_that_do_not_fit(tmp_path, make, message):
    with pytest.raises((DataError, DataMissing), match=message):
        images.read_image_folder(str(make(tmp_path / "own")), 12)


def test_a_broken_picture_is_named(tmp_path):
    pictures(tmp_path / "own")
    (tmp_path / "own" / "left" / "bild 3.png").write_text("no picture")
    with pytest.raises(DataError, match=r"bild 3\.png"):
        images.read_image_folder(str(tmp_path / "own"), 12)


@pytest.mark.parametrize(
    ("overrides", "request_", "message"),
    [
        ({"arms": ("moco",)}, Request(), "arms: expected some of"),
        ({"references": ("oracle",)}, Request(), "references: expected some of"),
        ({"images": "mnist"}, Request(), "images: expected glyphs"),
        ({"images": "folder"}, Request(), "needs a folder of pictures"),
        ({"batch": 1000}, Request(), "batch: expected 2 to 72"),
        ({}, Request("own", {"label": "y"}), "columns: pictures in a folder have none"),
        ({"batch": 13}, Request("own"), "fewer than a batch of 13"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_door(tmp_path, monkeypatch, overrides, request_, message):
    pictures(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, DataMissing), match=message):
        study.load(study.STUDY.config("smoke", overrides), request_)


def test_real_sets_are_read_and_split(tmp_path, monkeypatch):
    """Small files of their form, under a registry of their own."""
    folder, registry = tmp_path / "data", tmp_path / "registry"
    for name in ("omniglot_small", "cifar10_jpeg"):
        (folder / name).mkdir(parents=True)
    registry.mkdir()
    ink = np.full((105, 105), 255, np.uint8)
    ink[:20] = 0
    for part, alphabet in ((1, "Greek"), (2, "Latin")):
        with zipfile.ZipFile(folder / "omniglot_small" / f"images_background_small{part}.zip", "w") as archive:
            for kind in ("Greek", alphabet):  # Greek is in both
                for character in (1, 2):
                    for drawer in (1, 14, 15):
                        name = f"set/{kind}/character{character:02d}/0001_{drawer:02d}.png"
                        if name not in archive.namelist():
                            archive.writestr(name, encoded(ink, "PNG"))
    rows = [(split, label, encoded(np.full((32, 32, 3), 20 * label, np.uint8), "JPEG"))
            for split, count in (("train", 3), ("test", 2)) for label in range(2) for _ in range(count)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["split", "label", "image"])
    table.to_parquet(folder / "cifar10_jpeg" / "cifar10_jpeg_25000.parquet")
    for name, members in (("omniglot_small", (6, 12)), ("cifar10_jpeg", None)):
        write_registry(registry, folder / name, members)
    monkeypatch.setattr(benchmarks, "REGISTRY", registry)
    monkeypatch.setenv("PAPERWORKS_DATA", str(folder))
    benchmarks._registry.cache_clear()
    try:
        letters, photos = (images.benchmark_set(name, 16) for name in ("omniglot_small", "cifar10_jpeg"))
    finally:
        benchmarks._registry.cache_clear()
    assert letters.train.shape == (8, 1, 16, 16)
    assert letters.test_labels.tolist() == [0, 1, 2, 3]
    assert int(letters.train[0, 0, 0, 0]) == 255  # ink is high
    assert int(letters.train[0, 0, -1, -1]) == 0
    assert (photos.train.shape, photos.test_labels.tolist()) == ((6, 3, 16, 16), [0, 0, 1, 1])


def encoded(pixels, kind):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def write_registry(registry, folder, members):
    lines = [f'name = "{folder.name}"', 'title = "t"', 'licence = "l"', 'citation = "c"', 'used_by = ["ssl_hsic"]']
    for number, path in enumerate(sorted(folder.iterdir())):
        content = path.read_bytes()
        lines += ["[[file]]", f'path = "{path.name}"', f"bytes = {len(content)}",
                  f'sha256 = "{hashlib.sha256(content).hexdigest()}"']  # fmt: skip
        if members:
            lines += ["[[file.members]]", 'pattern = "*.png"', f"count = {members[number]}"]
    (registry / f"{folder.name}.toml").write_text("\n".join(lines) + "\n")
