"""What a run shows while it works, and its verdicts when it is done."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from paperworks.lab.trials import Outcome, Task, read_progress

if TYPE_CHECKING:
    from rich.table import Table

    from paperworks.lab.run import Run

OnOutcome = Callable[["Run", Outcome], None]
COLOURS = {
    "holds": "green",
    "does not hold": "red",
    "inconclusive": "yellow",
    "indicative": "cyan",
    "not tested": "bright_black",
}


@contextlib.contextmanager
def watch(run: Run) -> Iterator[OnOutcome]:
    """Show progress: a live table on a terminal, else one line per trial on standard error."""
    total = len(run.plan.tasks)
    print(f"{run.card.slug}: {total} trials, {len(run.plan.finished)} finished already", file=sys.stderr)
    for line in run.loaded.description:
        print(f"  {line}", file=sys.stderr)
    if sys.stderr.isatty():
        with _live(run) as on_outcome:
            yield on_outcome
    else:
        yield _plain(run)


def _plain(run: Run) -> OnOutcome:
    done = len(run.plan.finished)

    def on_outcome(run: Run, outcome: Outcome) -> None:
        nonlocal done
        done += 1
        note = f"  {outcome.message}" if outcome.message else ""
        words = describe(run.task(outcome.key))
        print(f"{outcome.status} {done}/{len(run.plan.tasks)} {words}{note}", file=sys.stderr, flush=True)

    return on_outcome


@contextlib.contextmanager
def _live(run: Run) -> Iterator[OnOutcome]:
    from rich.console import Console
    from rich.live import Live

    view = _View(run)
    with Live(view, console=Console(stderr=True), refresh_per_second=2, transient=False):
        yield view.on_outcome


class _View:
    """The live table: what runs, how far it is, what failed, and when all will be done."""

    def __init__(self, run: Run):
        self.run = run
        self.done = len(run.plan.finished)
        self.ended = 0
        self.failed: list[str] = []
        self.started = time.monotonic()

    def on_outcome(self, run: Run, outcome: Outcome) -> None:
        self.done += 1
        self.ended += 1
        if outcome.status == "failed":
            self.failed.append(f"{describe(run.task(outcome.key))}: {outcome.message}")

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column(f"{self.done}/{len(self.run.plan.tasks)} trials{self._eta()}")
        table.add_column("progress", justify="right")
        table.add_column("")
        for task in self.run.plan.missing:
            said = read_progress(self.run.store.path(task.key, ".running"))
            if said:
                table.add_row(describe(task), f"{said.get('fraction', 0):.0%}", _fields(said))
        for line in self.failed[-5:]:
            table.add_row(f"[red]failed[/red] {line}", "", "")
        return table

    def _eta(self) -> str:
        if not self.ended:
            return ""
        left = (len(self.run.plan.tasks) - self.done) * (time.monotonic() - self.started) / self.ended
        return f", about {left / 60:.0f} min left" if left > 90 else f", about {left:.0f} s left"


def _fields(said: Any) -> str:
    shown = {name: value for name, value in said.items() if name not in ("pid", "fraction")}
    return "  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{value}" for name, value in shown.items())


def describe(task: Task) -> str:
    """A trial in one line: its point and seed."""
    return " ".join(f"{name}={value}" for name, value in {**task.point, "seed": task.seed}.items())


def print_verdicts(run: Run) -> None:
    """The verdict cards in text, refutations first."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    texts = {statement["id"]: statement["text"] for statement in run.card.statements()}
    for verdict in sorted(run.verdicts, key=lambda verdict: verdict.state != "does not hold"):
        colour = COLOURS[verdict.state]
        leaning = f" (leaning: {verdict.leaning})" if verdict.leaning else ""
        label = " [post hoc]" if verdict.post_hoc else ""
        console.print(f"\n[bold {colour}]{verdict.state.upper()}[/] {escape(verdict.id + leaning + label)}")
        console.print(f"  {escape(texts.get(verdict.id, ''))}")
        for finding in verdict.findings:
            console.print(f"  {escape(f'{finding.name}: {finding.interval}; needs >= {finding.at_least:g}')}")
        for finding in verdict.shown:
            console.print(f"  [dim]beside it, {escape(f'{finding.name}: {finding.interval}')}[/dim]")
        if verdict.reason:
            console.print(f"  {escape(verdict.reason)}")
    for sentence in run.sentences:
        console.print(f"\n{escape(sentence)}")
    for outcome in run.failures.values():
        console.print(f"\n[red]failed[/red] {escape(describe(run.task(outcome.key)))}: {escape(outcome.message)}")
