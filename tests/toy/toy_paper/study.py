"""Arms whose difference is known, and others that misbehave in every way that a trial can."""

import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd

from paperworks.lab.claim import Claim, Condition, difference
from paperworks.lab.study import Loaded, Study


@dataclass(frozen=True)
class Config:
    arms: tuple[str, ...] = ("a", "b")
    """Arms to run."""
    effect: float = 0.1
    """How much better b is."""
    pause: float = 0.0
    """Seconds that a trial sleeps."""


def load(config, request):
    return Loaded(data=[1.0, 2.0], fingerprint=f"toy-{request.path}", description=("two numbers",))


def points(config, data):
    return [{"arm": arm} for arm in config.arms]


def trial(point, seed, config, data, progress):
    arm = point["arm"]
    if log := os.environ.get("TOY_LOG"):
        with open(log, "a") as stream:
            stream.write(f"{arm}-{seed}\n")
    for step in range(10):
        progress(step / 10, loss=1 / (step + 1))
        time.sleep(config.pause / 10)
    if arm == "raises":
        raise RuntimeError("this arm always raises")
    if arm == "hangs":
        time.sleep(60)
    if arm == "hogs":
        return {"accuracy": float(len(np.ones(2**30)))}
    if arm == "takes a name":
        return {"accuracy": 0.5, "seconds": np.arange(3.0)}
    if arm == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    rng = np.random.default_rng(seed)
    shared = rng.normal(scale=0.1)
    noise = np.random.default_rng([seed, ord(arm[0])]).normal(scale=0.01)
    return {"accuracy": 0.5 + shared + noise + (config.effect if arm == "b" else 0.0), "curve": np.arange(3.0) + seed}


def budget(frame):
    arms = sorted(frame["arm"].unique())
    return pd.DataFrame({"steps": [10] * len(arms)}, index=pd.Index(arms, name="arm"))


STUDY = Study(
    slug="toy_paper",
    scales={"smoke": Config(), "laptop": Config()},
    seeds={"smoke": 2, "laptop": 5},
    load=load,
    points=points,
    trial=trial,
    claims=(Claim("better", (Condition("b - a", difference("accuracy", {"arm": "b"}, {"arm": "a"}), 0.05),)),),
    budget=budget,
    equal=("steps",),
    baseline_factor="arm",
)
