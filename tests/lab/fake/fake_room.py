"""A paper that does not exist, with one claim for every state that a verdict can have, and runs of its study."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from paperworks.catalog import read_card
from paperworks.lab.claim import Claim, Condition, difference, ratio
from paperworks.lab.run import Options, Run, complete
from paperworks.lab.runner import make_plan
from paperworks.lab.store import Store
from paperworks.lab.study import Figure, Loaded, Request, Study, Table

CARD = """
area = "learning"
title = "A <Fake> Paper & its Claims"
title_zh = "虚构的论文"
authors = ["A. Tester", "B. Tester"]
year = 2021
link = "https://example.org/paper"
digest = "none"
tags = ["fake"]
symptoms = ["the report needs something to show"]
summary = "The first sentence. The second one has `code`."
summary_zh = "摘要。"
bibtex = "@misc{fake}"
"""
CLAIMS = """
[[claim]]
id = "better"
text = "Arm b beats arm a by at least 0.05 <script>alert(1)</script>."
source = "table 1"
paper = "0.1"

[[claim]]
id = "much_better"
text = "Arm b beats arm a by at least 0.2."
source = "table 2"
paper = "0.3"

[[claim]]
id = "both"
text = "Arm b is better, and faster by a factor of 1.3."
source = "abstract"
paper = "1.8 times"
"""


@dataclass(frozen=True)
class Config:
    arms: tuple[str, ...] = ("a", "b")
    effect: float = 0.1
    points_on_a_figure: int = 3
    careful: bool = True


def _points(config, data):
    return [{"arm": arm} for arm in config.arms]


def _trial(point, seed, config, data, progress):
    if point["arm"] == "raises":
        raise RuntimeError("this arm <always> raises")
    rng = np.random.default_rng([seed, ord(point["arm"])])
    shared = np.random.default_rng(seed).normal(scale=0.1)
    better = point["arm"] == "b"
    return {
        "accuracy": 0.5 + shared + rng.normal(scale=0.01) + better * config.effect,
        "speed": 1.0 + better * 0.25 + rng.normal(scale=0.1),
        "curve": np.arange(3.0),
    }


def _draw(frame):
    from matplotlib.figure import Figure as Plot

    plot = Plot(figsize=(5, 3))
    axes = plot.subplots()
    for arm, rows in frame.groupby("arm"):
        axes.plot(rows["seed"], rows["accuracy"], marker="o", label=arm)
    axes.set(xlabel="seed", ylabel="accuracy <share>")
    axes.legend()
    return plot


def many_points(frame, marks=5000):
    from matplotlib.figure import Figure as Plot

    plot = Plot(figsize=(5, 3))
    x = np.random.default_rng(0).normal(size=(2, marks))
    plot.subplots().scatter(*x, s=4)
    return plot


def _budget(frame):
    arms = sorted(frame["arm"].unique())
    seconds = [frame.loc[frame["arm"] == arm, "seconds"].mean() for arm in arms]
    return pd.DataFrame({"steps": [10] * len(arms), "seconds": seconds}, index=pd.Index(arms, name="arm"))


def _by_arm(frame):
    return frame.groupby("arm")[["accuracy", "speed"]].mean()


BETTER = difference("accuracy", {"arm": "b"}, {"arm": "a"})
STUDY = Study(
    slug="fake",
    scales={"smoke": Config(), "laptop": Config()},
    seeds={"smoke": 2, "laptop": 6},
    load=lambda config, request: Loaded([1.0], "f1n9e4", ("two <numbers>",)),
    points=_points,
    trial=_trial,
    claims=(
        Claim("better", (Condition("b - a", BETTER, 0.05),), family="one"),
        Claim("much_better", (Condition("b - a", BETTER, 0.2),), family="two"),
        Claim(
            "both",
            (
                Condition("b - a", BETTER, 0.05),
                Condition("b / a", ratio("speed", {"arm": "b"}, {"arm": "a"}), 1.3, refuted_below=1.1),
            ),
            family="three",
            shown=(Condition("a - b", difference("accuracy", {"arm": "a"}, {"arm": "b"}), 0.0),),
            post_hoc=True,
        ),
        Claim("without_words", (Condition("c - a", difference("accuracy", {"arm": "c"}, {"arm": "a"}), 0.0),)),
    ),
    figures=(Figure("accuracy", "Accuracy by seed.", _draw),),
    tables=(Table("arms", "Means of each arm.", _by_arm),),
    sentences=lambda frame: ["The result rests on `a` and b."],
    budget=_budget,
    equal=("steps",),
    baseline_factor="arm",
)
CLOUD = Figure("cloud", "Many points.", many_points)


def make_room(folder):
    """The fake paper's folder and card."""
    room = folder / "fake"
    room.mkdir(parents=True, exist_ok=True)
    (room / "card.toml").write_text(CARD)
    (room / "claims.toml").write_text(CLAIMS)
    return read_card(room, module="fake_room")


def make_run(folder, *, seeds=6, first_seed=10, scale="laptop", config=None, data=None, baseline=None):
    """Run the fake study, trials and all, in this process."""
    config = config or Config()
    store = Store(folder / "run")
    loaded = STUDY.load(config, None)
    plan = make_plan(STUDY, config, loaded, range(first_seed, first_seed + seeds), store)
    options = Options(scale, seeds, first_seed, backend="inline", store=store.folder, baseline=baseline)
    return complete(
        Run(make_room(folder), STUDY, config, options, Request(data), loaded, store, plan),
    )
