"""`run`, `apply`, `report`: the work itself."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paperworks.lab.run import Options, Run


def register(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="put a paper's claim to the test, with a verdict",
        description="Put a paper's claim to the test. A second call continues where the first stopped.",
        add_help=False,
        # A study's own flag may be the beginning of one of these.
        allow_abbrev=False,
    )
    run.add_argument("slug", nargs="?")
    run.add_argument("-h", "--help", action="store_true", help="this help, and with a slug the study's own settings")
    run.add_argument("--scale", default="laptop", help="smoke, demo, laptop (default) or paper")
    run.add_argument("--seeds", type=int, help="how many seeds (default: the study's own number)")
    run.add_argument("--first-seed", type=int, default=10, help="seeds below 10 are pilots and never judge")
    run.add_argument("--data", help="your csv, tsv, jsonl, parquet, folder, or hf:name")
    run.add_argument("--columns", help="names in your file by role, e.g. text=review,label=stars")
    run.add_argument("--baseline", help="an arm of your own, file.py:function")
    run.add_argument("--jobs", type=int, help="trials at the same time (default: one per core)")
    run.add_argument("--backend", default="processes", help="processes (default), inline, or ray")
    run.add_argument("--store", type=Path, help="folder of the run (default: runs/SLUG)")
    run.add_argument("--trial-seconds", type=float, help="give up a trial after so many seconds")
    run.add_argument("--trial-memory", type=float, help="give up a trial beyond so many GiB")
    run.add_argument("--trial-gpus", type=float, default=0.0, help="GPUs to reserve per trial (ray)")
    run.add_argument("--check", action="store_true", help="exit with 3 when a claim does not hold")
    run.add_argument("--record", action="store_true", help="store the result in the room, for the documentation")
    run.add_argument("--json", action="store_true", help="print verdicts for programs")
    run.set_defaults(handler=run_study, takes_rest=True, parser=run)

    apply = commands.add_parser("apply", help="let a method do its job on your files", add_help=False)
    apply.add_argument("slug")
    apply.set_defaults(handler=run_apply, takes_rest=True)

    report = commands.add_parser("report", help="write the report of a run again, from what is stored")
    report.add_argument("slug")
    report.add_argument("--store", type=Path, help="folder of the run (default: runs/SLUG)")
    report.set_defaults(handler=run_report)


def run_study(parsed: argparse.Namespace) -> int:
    if parsed.slug is None:
        parsed.parser.print_help()
        return 0 if parsed.help else 2
    from paperworks.catalog import find

    card = find(parsed.slug)
    if not card.has("study"):
        raise ValueError(f"{parsed.slug}: this room has no study to run")
    if parsed.help:
        parsed.parser.print_help()
        print(f"\nSettings of the {parsed.slug} study at scale {parsed.scale}:\n")
    overrides = _overrides(card.part("study").STUDY, parsed)

    from paperworks.cli.live import watch
    from paperworks.lab import record
    from paperworks.lab.run import complete, prepare, remember

    run = prepare(
        parsed.slug, data=parsed.data, columns=_columns(parsed.columns), options=_options(parsed), overrides=overrides
    )
    remember(run, overrides)
    with watch(run) as on_outcome:
        complete(run, on_outcome=on_outcome)
    if parsed.record:
        print(f"recorded: {record.record(run)}", file=sys.stderr)
    _print_result(run, as_json=parsed.json)
    if run.failures:
        return 1
    refuted = any(verdict.state == "does not hold" for verdict in run.verdicts)
    return 3 if parsed.check and refuted else 0


def _options(parsed: argparse.Namespace) -> Options:
    from paperworks.lab.run import Options
    from paperworks.lab.trials import Limits

    jobs = {} if parsed.jobs is None else {"jobs": parsed.jobs}
    return Options(
        scale=parsed.scale,
        seeds=parsed.seeds,
        first_seed=parsed.first_seed,
        backend=parsed.backend,
        store=parsed.store,
        baseline=parsed.baseline,
        limits=Limits(parsed.trial_seconds, parsed.trial_memory, parsed.trial_gpus),
        **jobs,
    )


def _overrides(study: Any, parsed: argparse.Namespace) -> dict[str, Any]:
    """The study's own settings among the arguments: the fields of its Config are flags."""
    import dataclasses

    import tyro

    default = study.config(parsed.scale)
    arguments = ["--help"] if parsed.help else parsed.rest
    chosen = tyro.cli(type(default), default=default, args=arguments, prog=f"paperworks run {parsed.slug}")
    fields = {item.name for item in dataclasses.fields(default)}
    return {name: getattr(chosen, name) for name in fields if getattr(chosen, name) != getattr(default, name)}


def _columns(text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    pairs = [part.partition("=") for part in text.split(",")]
    if wrong := [left for left, equals, right in pairs if not (left and equals and right)]:
        raise ValueError(f"--columns: expected role=name pairs like text=review,label=stars; cannot read {wrong[0]!r}")
    return {left.strip(): right.strip() for left, _, right in pairs}


def _print_result(run: Run, *, as_json: bool) -> None:
    from paperworks.cli.live import print_verdicts

    if as_json:
        print(
            json.dumps({"verdicts": [_verdict_facts(verdict) for verdict in run.verdicts], "report": str(run.report)})
        )
        return
    print_verdicts(run)
    for path in run.files:
        print(f"written: {path}")
    print(f"report: {run.report}")


def _verdict_facts(verdict: Any) -> dict[str, Any]:
    findings = [
        {
            "name": finding.name,
            "estimate": finding.interval.estimate,
            "low": finding.interval.low,
            "high": finding.interval.high,
            "at_least": finding.at_least,
        }
        for finding in verdict.findings
    ]
    return {
        "id": verdict.id,
        "state": verdict.state,
        "leaning": verdict.leaning,
        "reason": verdict.reason,
        "seeds": verdict.seeds,
        "findings": findings,
    }


def run_apply(parsed: argparse.Namespace) -> int:
    import tyro

    from paperworks.catalog import cards, find

    card = find(parsed.slug)
    if not card.has("apply"):
        able = ", ".join(other.slug for other in cards() if other.has("apply"))
        raise ValueError(f"{parsed.slug} is parts to import, not a job on files; jobs: {able}")
    result = tyro.cli(card.part("apply").apply, args=parsed.rest, prog=f"paperworks apply {parsed.slug}")
    print(result)
    return 0


def run_report(parsed: argparse.Namespace) -> int:
    from paperworks.cli.live import print_verdicts
    from paperworks.lab.report import write_report
    from paperworks.lab.run import recall

    run = recall(parsed.slug, parsed.store or Path("runs") / parsed.slug)
    write_report(run, run.report)
    print_verdicts(run)
    print(f"report: {run.report}")
    return 0
