"""Keeping a run's result in the paper's room, where the documentation and `paperworks show` find it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paperworks._files import write_atomic
from paperworks.lab import facts
from paperworks.lab.claim import FIRST_JUDGING_SEED
from paperworks.lab.drawing import LARGEST_SVG, svg
from paperworks.lab.environment import environment
from paperworks.lab.report import finished_on

if TYPE_CHECKING:
    from paperworks.lab.run import Run


def record(run: Run) -> Path:
    """Write `recorded/run-<scale>.json` and its figures into the room, and return the JSON file.

    Raises:
        ValueError: the run is not one that others can repeat: trials failed or are missing, data or a baseline of the
            user's own took part, pilot seeds were used, or the code has changes that no commit holds.
    """
    if reason := _unfit(run):
        raise ValueError(f"record: {reason}")
    scale = run.options.scale
    folder = run.card.folder / "recorded"
    folder.mkdir(exist_ok=True)
    drawn = {name: svg(plot) for name, plot in run.figures.items()}
    if large := [name for name, text in drawn.items() if len(text.encode()) >= LARGEST_SVG]:
        raise ValueError(f"record: figure {large[0]!r} has {len(drawn[large[0]])} bytes, expected below {LARGEST_SVG}")
    names = {name: f"run-{scale}-{name}.svg" for name in drawn}
    for stale in set(folder.glob(f"run-{scale}-*.svg")) - {folder / name for name in names.values()}:
        stale.unlink()
    for name, text in drawn.items():
        write_atomic(folder / names[name], text)
    path = folder / f"run-{scale}.json"
    write_atomic(path, json.dumps(_content(run, names), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def _unfit(run: Run) -> str | None:
    """Why this run is not to be kept, or None."""
    if run.failures:
        return f"{len(run.failures)} trials failed; mend them and run again"
    if missing := len(run.plan.tasks) - len(run.frame):
        return f"{missing} trials are not finished; run again without --record first"
    if run.request.path is not None:
        return f"the data are the user's own ({run.request.path}); only runs that others can repeat are kept"
    if run.options.baseline is not None:
        return f"the baseline is the user's own ({run.options.baseline}); only runs that others can repeat are kept"
    if (lowest := facts.seeds(run)[0]) < FIRST_JUDGING_SEED:
        return f"seed {lowest} is a pilot seed; use --first-seed {FIRST_JUDGING_SEED} or higher"
    if environment()["commit"].endswith("+"):
        return "src has changes that are not committed; commit them and run again"
    if "+" in facts.environments(run).get("commit", ""):
        return "some trials were computed by code with changes that were not committed; run again in a new --store"
    return None


def _content(run: Run, figures: dict[str, str]) -> dict[str, Any]:
    captions = {figure.name: figure.caption for figure in run.study.figures}
    trials = facts.environments(run)
    return {
        "slug": run.card.slug,
        "scale": run.options.scale,
        "date": finished_on(run),
        "command": facts.command(run),
        "seeds": facts.seeds(run),
        "trials": len(run.frame),
        "seconds": round(sum(run.frame["seconds"].tolist()), 1),
        "commit": trials["commit"],
        "environment": trials,
        "data": {"description": list(run.loaded.description), "fingerprint": run.loaded.fingerprint},
        "config": facts.plain(run.config),
        "verdicts": [facts.verdict_facts(verdict) for verdict in run.verdicts],
        "budget": facts.budget_facts(run),
        "tables": facts.tables_facts(run),
        "sentences": run.sentences,
        "figures": [{"name": name, "file": file, "caption": captions[name]} for name, file in figures.items()],
    }
