"""The report of a run: one HTML file that needs nothing else, with the verdicts first and refutations before all.

Given the same trials it is the same file, except for what was measured with a clock: that stands only in elements of
class `time`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from paperworks._files import write_atomic
from paperworks.lab import facts
from paperworks.lab.claim import FIRST_JUDGING_SEED
from paperworks.lab.drawing import inline, interval_bar, svg
from paperworks.lab.words import number, p_words, span

if TYPE_CHECKING:
    from jinja2 import Environment, Template

    from paperworks.lab.run import Run

TEMPLATES = Path(__file__).parent / "templates"
WIDE = 6.5  # inches; narrower figures share a row
_CLOCK = re.compile(r"(^|[_\s(])(seconds?|minutes|hours|time|ms|s)($|[_\s)])", re.IGNORECASE)


def write_report(run: Run, path: Path) -> None:
    """Write the report of a run, finished or not, as one HTML file; the file appears whole or not at all."""
    # What a trial or a user's file says may hold lone surrogates, which UTF-8 cannot.
    page = jinja().get_template("report.html").render(**_content(run))
    write_atomic(path, page.encode("utf-8", errors="replace"))


def _content(run: Run) -> dict[str, Any]:
    verdicts = refutations_first([facts.verdict_facts(verdict) for verdict in run.verdicts])
    finished = finished_on(run)
    return {
        "card": run.card,
        "lead": first_sentence(run.card.summary),
        "scale": run.options.scale,
        "seeds": facts.seeds(run),
        "planned": len(run.plan.tasks),
        "finished": len(run.frame),
        "tally": tally(verdicts),
        "notes": _notes(run),
        "verdicts": verdicts,
        "statements": by_id(run.card.statements()),
        "failures": _failures(run),
        "sentences": run.sentences,
        "budget": facts.budget_facts(run),
        "equal": run.study.equal,
        "figures": _figures(run),
        "tables": facts.tables_facts(run),
        "trials": _trials(run),
        "description": run.loaded.description,
        "own_data": run.request.path,
        "fingerprint": run.loaded.fingerprint,
        "command": facts.command(run),
        "finished_on": finished,
        "config": facts.plain(run.config),
        "environment": facts.environments(run),
        "css": css(),
    }


def _notes(run: Run) -> list[str]:
    notes = []
    unfinished = len(run.plan.tasks) - len(run.frame) - len(run.failures)
    if unfinished:
        notes.append(f"{unfinished} trials are not finished; the command below continues.")
    if run.options.scale == "smoke":
        notes.append("Smoke scale shows that everything works; it is no evidence about the claims.")
    if facts.seeds(run)[0] < FIRST_JUDGING_SEED:
        notes.append(f"Seeds below {FIRST_JUDGING_SEED} are pilots: nothing is judged.")
    if run.options.baseline is not None:
        notes.append(f"With a baseline of your own: {run.options.baseline}.")
    return notes


def _failures(run: Run) -> list[dict[str, str]]:
    def words(key: str) -> str:
        task = run.task(key)
        return ", ".join(f"{name}={number(value)}" for name, value in {**task.point, "seed": task.seed}.items())

    return [
        {"words": words(outcome.key), "message": outcome.message, "details": outcome.details}
        for outcome in sorted(run.failures.values(), key=lambda outcome: words(outcome.key))
    ]


def _figures(run: Run) -> list[dict[str, Any]]:
    captions = {figure.name: figure.caption for figure in run.study.figures}
    return [
        {
            "name": name,
            "caption": captions[name],
            "svg": inline(svg(plot), name, captions[name]),
            "wide": plot.get_figwidth() > WIDE,
        }
        for name, plot in run.figures.items()
    ]


def _trials(run: Run) -> dict[str, Any]:
    """Every finished trial: what it was, what it measured, how long it took. Arrays stay in the trials' files."""
    hidden = {"seconds", "cpu_seconds", "peak_bytes", "key"}
    arrays = {name for name, column in run.frame.items() if any(isinstance(value, np.ndarray) for value in column)}
    shown = [name for name in run.frame.columns if name not in hidden | arrays]
    return facts.table_facts(run.frame.reindex(columns=[*shown, "seconds"]))


def finished_on(run: Run) -> str:
    """The day on which the last trial was finished, or nothing."""
    moment = facts.finished_at(run)
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


# Pieces that the documentation uses too ------------------------------------------------------------------------------


def refutations_first(verdicts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What does not hold, then what leans that way, then the rest, each in the study's order."""
    refuted = "does not hold"
    return sorted(verdicts, key=lambda verdict: (verdict["state"] != refuted, verdict["leaning"] != refuted))


def by_id(statements: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {statement["id"]: statement for statement in statements}


def tally(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """How many claims are in which state, refutations first."""
    if not verdicts:
        return "No claim is judged yet"
    states = [verdict["state"] for verdict in verdicts]
    ordered = [
        state for state in ("does not hold", "holds", "inconclusive", "indicative", "not tested") if state in states
    ]
    counts = [
        f"{states.count(state)} {'hold' if state == 'holds' and states.count(state) > 1 else state}"
        for state in ordered
    ]
    noun = "claim" if len(states) == 1 else "claims"
    return f"{len(states)} {noun}: {', '.join(counts)}"


def first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0]


def verdict_cards(
    verdicts: Sequence[Mapping[str, Any]], statements: Sequence[Mapping[str, Any]], *, prefix: str = ""
) -> Markup:
    """The verdict cards of a stored run; `prefix` keeps the ids of several runs on one page apart."""
    return _macro("verdict_cards")(refutations_first(verdicts), by_id(statements), prefix)


def css() -> Markup:
    """The style sheet of reports and pages."""
    return Markup("".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "parts.css")))


def table(content: Mapping[str, Any]) -> Markup:
    """A stored table: `columns`, `rows`, maybe a `caption`."""
    return _macro("table")({"caption": ""} | dict(content))


def in_words(text: str) -> Markup:
    """Plain words in which `backticks` mark code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(" ".join(str(text).split())))))


def _macro(name: str) -> Any:
    return getattr(_parts().module, name)


@functools.cache
def _parts() -> Template:
    return jinja().get_template("parts.html")


@functools.cache
def jinja(folder: Path | None = None) -> Environment:
    """The templates of the laboratory, and before them those of a folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folders = [TEMPLATES] if folder is None else [folder, TEMPLATES]
    environment = Environment(
        loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "number": number,
        "span": lambda finding: span(finding["low"], finding["high"]),
        "bar": lambda finding, decides: interval_bar(finding, decides=decides),
        "p": p_words,
        "slug": lambda text: re.sub(r"\W+", "-", text),
        "inline": in_words,
        "cell": _cell,
    }
    return environment


def _cell(column: str, value: Any) -> str:
    """The classes of a table's cell."""
    kind = "number"
    if isinstance(value, str):
        kind = "long" if len(value) > 40 else "short" if len(value) <= 24 else ""
    return f"{kind} time" if _CLOCK.search(column) else kind
