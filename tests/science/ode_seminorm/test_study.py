"""The study as an instrument: it can say no, it judges only what can be compared, and it works on one's own data."""

import csv
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from paperworks.lab.claim import NotMeasurable, judge
from paperworks.lab.run import Options, run
from paperworks.science.ode_seminorm import measures, own_field, study, training, views

TOLERANCES = np.array([1e-2, 1e-3, 1e-4, 1e-5, 1e-6])


@pytest.fixture(autouse=True)
def single():
    """Studies train in float32."""
    torch.set_default_dtype(torch.float32)


def trials(*, saved=0.4, worse=1.0, metric=(0.9, 0.9), seeds=range(10, 15), nfe=200.0, task="vowels", accuracy=True):
    """Trials in which the seminorm saves a share of evaluations, and its errors are `worse` times what an equally long
    default solve would have."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in seeds:
        cost = nfe * (TOLERANCES / 1e-4) ** -0.25
        curve_nfe = np.stack([cost, cost * (1 - saved)])[None]
        # Error falls with the fifth power of the evaluations, whatever the norm.
        curve_error = 1e-4 * (curve_nfe / nfe) ** -5.0 * np.array([1.0, worse])[:, None]
        noise = np.exp(0.02 * rng.normal(size=curve_error.shape))
        for arm, value in zip(("full", "seminorm"), metric, strict=True):
            row = {
                "part": "train", "task": task, "arm": arm, "rtol": 1e-3, "seed": seed, "steps": 40, "parameters": 100,
                "metric": value + 0.001 * rng.normal(), "floor": 0.2 if accuracy else 2.0, "is_loss": not accuracy,
                "backward_nfe": 1000.0 * (1 - saved * (arm == "seminorm")), "forward_nfe": 1.0, "train_seconds": 1.0,
                "peak_mib": 1.0,
            }  # fmt: skip
            if arm == "full":
                jitter = 1 + 0.01 * rng.normal()
                replay = np.stack([cost[1:4], cost[1:4] * (1 - saved) * jitter])[None]
                row |= {
                    "replay_nfe": replay, "replay_error": curve_error[..., 1:4], "curve_nfe": curve_nfe,
                    "curve_error": curve_error * noise, "default_nfe": nfe, "claimed": 0.2,
                }  # fmt: skip
            rows.append(row)
    return pd.DataFrame(rows)


def states(frame):
    verdicts = judge(study.CLAIMS, frame, budget=study.budget(frame), equal=study.STUDY.equal)
    return {verdict.id: verdict.state for verdict in verdicts}


def test_a_saving_without_a_price_holds():
    assert states(trials(worse=0.9)) == {"saving": "holds", "quality": "holds", "price": "holds"}


def test_an_arm_whose_gradient_error_doubles_is_refuted():
    frame = trials(worse=2.0)
    assert measures.log_error_ratios(frame) == pytest.approx([np.log(2)] * 5, abs=0.1)
    assert states(frame) == {"saving": "holds", "quality": "holds", "price": "does not hold"}


def test_too_small_a_saving_and_too_large_a_loss_are_refuted():
    assert measures.reductions(trials(saved=0.05)) == pytest.approx([0.05] * 5, abs=0.03)
    assert states(trials(saved=0.05))["saving"] == "does not hold"
    assert states(trials(metric=(0.9, 0.86)))["quality"] == "does not hold"
    assert states(trials(metric=(1.0, 1.2), accuracy=False, task="moons"))["quality"] == "does not hold"
    assert states(trials(metric=(1.0, 0.9), accuracy=False, task="moons"))["quality"] == "holds"


def test_a_negative_loss_that_falls_is_better():
    frame = trials(metric=(-1.0, -1.2), accuracy=False, task="moons")
    assert measures.quality("loss")(frame) == pytest.approx([20.0] * 5, abs=1)


def test_short_solves_are_listed_and_not_judged():
    short = trials(nfe=20.0, task="digits")
    assert set(states(short).values()) == {"not tested", "holds"}
    assert states(short)["saving"] == states(short)["price"] == "not tested"
    both = pd.concat([trials(saved=0.4), trials(saved=-0.5, nfe=20.0, task="digits")])
    assert measures.reductions(both) == pytest.approx([0.4] * 5, abs=0.03)
    assert any("digits" in said and "not judged" in said for said in views.sentences(both))
    with pytest.raises(NotMeasurable, match="no checkpoint was replayed"):
        measures.reductions(pd.DataFrame({"part": ["train"], "seed": [10]}))


def test_guards_speak_before_verdicts():
    assert states(trials(metric=(0.15, 0.15)))["saving"] == "inconclusive"
    rough = trials()
    rough["curve_error"] = rough["curve_error"].map(lambda e: e if isinstance(e, float) else np.full_like(e, 0.2))
    assert states(rough)["price"] == "inconclusive"


def test_unequal_steps_get_no_verdict():
    frame = trials()
    frame.loc[frame["arm"] == "seminorm", "steps"] = 80
    assert set(states(frame).values()) == {"not tested"}


def test_the_paper_s_margin_counts_at_paper_scale():
    frame = trials(saved=0.3)
    assert states(frame)["saving"] == "holds"
    frame.loc[frame["arm"] == "full", "claimed"] = study.SCALES["paper"].saving
    assert states(frame)["saving"] == "does not hold"


def test_curves_are_read_in_log_log():
    nfe, error = np.array([10.0, 100.0]), np.array([1e-2, 1e-4])
    assert np.exp(measures.read_curve(nfe, error, np.sqrt(1000.0))) == pytest.approx(1e-3)
    assert np.exp(measures.read_curve(nfe, error, 1000.0)) == pytest.approx(1e-6)
    # Two tolerances may cost the same: their errors' geometric mean stands there.
    tied = measures.read_curve(np.array([10.0, 10.0, 100.0]), np.array([1e-1, 1e-3, 1e-4]), 10.0)
    assert np.exp(tied) == pytest.approx(1e-2)
    assert measures.read_curve(np.array([20.0, 20.0]), np.array([1e-3, 1e-3]), 50.0) == pytest.approx(np.log(1e-3))


def quick(folder, **overrides):
    return run("ode_seminorm", options=Options("smoke", seeds=1, backend="inline", store=folder), **overrides)


def test_smoke_study(tmp_path):
    result = quick(tmp_path, tasks=("gaussians", "digits"))
    assert not result.failures
    assert {"training", "curves", "steps", "saving"} == set(result.figures)
    assert {"replay", "training"} == set(result.tables)
    rows = result.frame[result.frame["arm"] == "full"]
    for _, row in rows.iterrows():
        assert row["curve_nfe"].shape == (1, 2, 3)
        assert (row["curve_nfe"][:, 1] <= row["curve_nfe"][:, 0]).all()
        assert (row["curve_error"] < 0.1).all()
        assert len(row["nfe_per_step"]) == row["steps"]
        assert row["nfe_per_step"].sum() == row["backward_nfe"]
    same = result.frame.pivot_table(index="task", columns="arm", values="steps")
    assert (same["full"] == same["seminorm"]).all()


def test_arms_start_from_the_same_weights_on_the_same_batches(tmp_path):
    from paperworks.science.ode_seminorm.tasks import make_task

    config = study.SCALES["smoke"]
    results = {}
    for arm in ("full", "seminorm", "direct", "checkpointed"):
        task = make_task("digits", data={}, seed=3, config=config)
        measured, kept = training.train(
            task, arm, rtol=1e-6, atol=1e-8, steps=2, seed=3, progress=lambda *a, **k: None, keep=2
        )
        results[arm] = (measured, kept)
    for arm, (measured, kept) in results.items():
        for name, value in results["full"][1][0].items():
            assert torch.equal(kept[0][name], value), arm
        assert measured["train_loss"] == pytest.approx(results["full"][0]["train_loss"], rel=1e-4)
    assert results["direct"][0]["backward_nfe"] == 0
    # Every accepted step is taken once more, with its opening slope.
    assert results["checkpointed"][0]["backward_nfe"] > results["direct"][0]["forward_nfe"]
    with pytest.raises(ValueError, match="arms: expected some of full"):
        training.arm_solver("semi", 1e-3, 1e-6)
    with pytest.raises(ValueError, match="tasks: expected some of"):
        make_task("vowel", data={}, seed=0, config=config)


def test_absent_benchmark_data_are_left_out_and_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PAPERWORKS_DATA", str(tmp_path))
    monkeypatch.setattr("paperworks.data.benchmarks.cache_folder", lambda: tmp_path / "cache")
    import pooch

    def unreachable(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", unreachable)
    loaded = study.load(study.SCALES["laptop"], study.Request())
    assert loaded.data == {}
    assert any("left out" in line and "JapaneseVowels" in line for line in loaded.description)
    assert {point["task"] for point in study.points(study.SCALES["laptop"], loaded.data)} == {
        "gaussians", "moons", "acrobot", "digits",
    }  # fmt: skip


def own_series(path):
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["patient", "time", "label", "pulse", "pressure"])
        for number in range(24):
            label = "sick" if number % 2 else "well"
            times = np.cumsum(rng.uniform(0.2, 1.0, size=rng.integers(4, 7)))
            for t in times:
                wave = np.sin(t) if label == "sick" else np.cos(t)
                writer.writerow([f"p{number}", f"{t:.4f}", label, f"{wave:.4f}", f"{rng.normal():.4f}"])
    return path


def test_own_series_run_end_to_end_with_one_command(tmp_path, command):
    own_series(tmp_path / "mine.csv")
    answer = command(
        "run", "ode_seminorm", "--data", "mine.csv", "--columns", "id=patient", "--scale", "smoke", "--seeds", "1",
        "--backend", "inline", check=0,
    )  # fmt: skip
    assert "saving" in answer.stdout
    report = (tmp_path / "runs" / "ode_seminorm" / "report.html").read_text()
    assert "24 series of up to 6 steps, 2 channels, 2 classes" in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "one.csv"], "all series have one label"),
        (["--data", "none.csv"], "no such file"),
        (["--field", "nowhere:f", "--y0", "y0.npy"], "field: cannot import 'nowhere:f'"),
        (["--field", "math:pi", "--y0", "y0.npy"], "field: expected module:function"),
        (["--field", "math:cos", "--y0", "absent.npy"], "y0: expected an .npy file"),
        (["--field", "math:cos", "--y0", "y0.npy", "--t", "0"], "t: expected at least two times"),
        (["--field", "math:cos", "--y0", "y0.npy", "--t", "a,b"], "t: expected numbers separated by commas"),
    ],
)
def test_what_does_not_fit_is_said_at_the_door(tmp_path, command, arguments, message):
    rows = "".join(f"{i},{t},same,{t}\n" for i in range(5) for t in range(3))
    (tmp_path / "one.csv").write_text("id,time,label,x\n" + rows)
    np.save(tmp_path / "y0.npy", np.ones(2))
    answer = command("run", "ode_seminorm", "--scale", "smoke", *arguments)
    assert answer.returncode == 2
    assert message in " ".join(answer.stderr.split())


def test_a_field_of_one_s_own_gets_a_table_and_a_recommendation(tmp_path, command, monkeypatch):
    (tmp_path / "my_field.py").write_text(
        "import torch\n"
        "class Field(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))\n"
        "    def forward(self, t, y):\n"
        "        return self.net(y)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    np.save(tmp_path / "y0.npy", np.random.default_rng(0).normal(size=(8, 2)))
    answer = command(
        "run", "ode_seminorm", "--field", "my_field:Field", "--y0", "y0.npy", "--t", "0,2", "--scale", "smoke",
        "--seeds", "1", "--backend", "inline", check=0,
    )  # fmt: skip
    sys.modules.pop("my_field", None)
    assert "Use adjoint_norm=" in " ".join(answer.stdout.split())
    table = pd.read_csv(tmp_path / "runs" / "ode_seminorm" / "field.csv")
    assert set(table["norm"]) == {"full", "seminorm", "seminorm_t"}
    assert (table["MiB"] > 0).all()
    chosen = table[table["recommended"] == "yes"].iloc[0]
    good = table[table["gradient error"] <= 1e-3]
    assert chosen["gradient error"] <= 1e-3
    assert chosen["backward evaluations"] == good["backward evaluations"].min()


def test_what_counts_as_a_field():
    module = torch.nn.Identity()
    assert own_field.as_module(module) is module
    assert isinstance(own_field.as_module(lambda: module), torch.nn.Identity)
    wrapped = own_field.as_module(lambda t, y: -y)
    assert torch.equal(wrapped(torch.tensor(0.0), torch.ones(2)), -torch.ones(2))
    with pytest.raises(ValueError, match=r"a function of \(t, y\), got one of 3 arguments"):
        own_field.as_module(lambda t, y, z: y)
    with pytest.raises(ValueError, match=r"the class must be an nn\.Module"):
        own_field.as_module(dict)
