"""The tuned rows of the grids, as `tuning.toml` keeps them: where they come from is part of what a report says."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

SEARCH_TRIALS = 6


class Tuning(NamedTuple):
    """`pilot_seeds`: those of the equal search; none where it has not been run and the settings are a pilot's.

    `rows`: (arm, distractors, row of the arm's grid).
    """

    pilot_seeds: tuple[int, ...]
    rows: tuple[tuple[str, int, int], ...]

    @property
    def searched(self) -> bool:
        return bool(self.pilot_seeds)

    def words(self) -> str:
        """Where the settings come from."""
        if self.searched:
            seeds = ", ".join(map(str, self.pilot_seeds))
            return f"settings by the equal search ({SEARCH_TRIALS} a rival and level, pilot seeds {seeds})"
        return (
            "settings are first guesses: the equal search (--scale search) has not been run, and a claim against a "
            "rival that was not tuned proves nothing"
        )


@cache
def tuning() -> Tuning:
    """What `tuning.toml` says."""
    content = tomllib.loads((Path(__file__).parent / "tuning.toml").read_text(encoding="utf-8"))
    seeds = tuple(content.pop("pilot_seeds"))
    rows = tuple((arm, int(dims), row) for arm, table in content.items() for dims, row in table.items())
    return Tuning(seeds, rows)
