"""The equal search: five trials for each arm on pilot seeds, and the file that keeps all of them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from paperworks.representation.ssl_hsic.training import ARMS, Setting

FILE = Path(__file__).parent / "tuning.toml"
RATES = (2e-3, 4e-3, 8e-3)
# What an arm has besides the rate, its default, and the two further values that it is tried with.
KNOBS: dict[str, tuple[str, float, tuple[float, float]]] = {
    "ssl_hsic": ("gamma", 3.0, (1.0, 10.0)),
    "ssl_hsic_target": ("momentum", 0.99, (0.9, 0.97)),
    "simclr": ("temperature", 0.2, (0.1, 0.5)),
    "byol": ("momentum", 0.99, (0.9, 0.97)),
    "gamma0": ("rate", 4e-3, (1e-3, 1.6e-2)),
}
TRIALS = len(RATES) + 2
Tuned: TypeAlias = tuple[tuple[str, float, str, float, int], ...]


@cache
def tuned_settings() -> Tuned:
    """(arm, rate, name and value of what is its own, trials behind the choice) as `tuning.toml` has them."""
    content = tomllib.loads(FILE.read_text(encoding="utf-8"))
    counts = [trial["arm"] for trial in content.get("trial", ())]
    found = []
    for arm in ARMS:
        chosen, knob = content["chosen"][arm], KNOBS[arm][0]
        found.append((arm, float(chosen["rate"]), knob, float(chosen[knob]), counts.count(arm)))
    return tuple(found)


def search_rows() -> list[dict[str, Any]]:
    """All trials of the search behind `tuning.toml`; empty where there was none."""
    return list(tomllib.loads(FILE.read_text(encoding="utf-8")).get("trial", ()))


def setting_of(arm: str, tuned: Tuned) -> tuple[Setting, int]:
    """An arm's setting and the number of trials behind it; a user's own arm gets the first arm's rate, untuned."""
    known = {name: (rate, knob, value, trials) for name, rate, knob, value, trials in tuned}
    rate, knob, value, trials = known.get(arm, (known[ARMS[0]][0], "gamma", 3.0, 0))
    return replace(Setting(rate), **{knob: value}), trials


def search(arm: str, accuracy: Callable[[Setting, int], float], *, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Three rates with the default, then two further values at the best rate (mean over seeds; ties: the earlier).

    `accuracy(setting, seed)` trains and measures. Returns rates (5,), values (5,) and accuracies (5, seeds).
    """
    knob, default, further = KNOBS[arm]

    def tried(setting: Setting) -> list[float]:
        return [accuracy(setting, seed) for seed in seeds]

    settings = [replace(Setting(rate), **({} if knob == "rate" else {knob: default})) for rate in RATES]
    scores = [tried(setting) for setting in settings]
    best = settings[int(np.argmax(np.mean(scores, axis=1)))]
    for value in further:
        settings.append(replace(best, **{knob: value}))
        scores.append(tried(settings[-1]))
    return {
        "search_rates": np.array([setting.rate for setting in settings]),
        "search_values": np.array([getattr(setting, knob) for setting in settings]),
        "search_accuracies": np.array(scores),
    }


def write_tuning(frame: pd.DataFrame, path: Path) -> None:
    """`tuning.toml` from the table of a search's trials: the best setting of each arm, and all that were tried."""
    from paperworks._files import write_atomic

    rows = {str(row["arm"]): row for _, row in frame.sort_values("seed").iterrows()}
    lines = [
        "# Learning rate and one value of its own for each arm, as an equal search found them: the best mean linear",
        "# accuracy over the pilot seeds, five trials an arm: paperworks run ssl_hsic --scale search --first-seed 0",
        "",
        "[chosen]",
    ]
    trials = []
    for arm in ARMS:
        if arm not in rows:
            raise ValueError(f"search: has no finished trials of {arm}; run it again")
        row, knob = rows[arm], KNOBS[arm][0]
        best = int(np.argmax(np.mean(row["search_accuracies"], axis=1)))
        lines.append(f"{arm} = {_inline(row, best, knob)}")
        for index in range(len(row["search_rates"])):
            scores = ", ".join(f"{score:.4f}" for score in row["search_accuracies"][index])
            fields = _inline(row, index, knob)[2:-2].replace(", ", "\n")
            trials += ["", "[[trial]]", f'arm = "{arm}"', fields, f"accuracy = [{scores}]"]
    write_atomic(path, "\n".join([*lines, *trials, ""]))


def _inline(row: Mapping[str, Any], index: int, knob: str) -> str:
    own = "" if knob == "rate" else f", {knob} = {float(row['search_values'][index])!r}"
    return f"{{ rate = {float(row['search_rates'][index])!r}{own} }}"
