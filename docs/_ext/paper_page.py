"""One paper's page: what it is, then the three doors in their order, then the reference.

Nothing of a result is typed by hand: what a page shows is what `recorded/*.json` holds.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from docstrings import markdown, prose, reference

from paperworks.catalog import Card
from paperworks.lab.report import in_words, table, tally, verdict_cards
from paperworks.lab.words import number

TUTORIAL = "../tutorials/your_data_in_ten_minutes.md"
SCALES = ("paper", "laptop", "demo")
SHARED = ("paperworks", "paperworks.nn", "paperworks.data", "paperworks.train", "paperworks.testing")


def page(card: Card) -> str:
    """A paper's page."""
    doors = (_head, _use_it, _does_it_hold, _on_my_data, _speed, _reference, _cite)
    return "\n\n".join(part for door in doors for part in door(card) if part) + "\n"


def _head(card: Card) -> Iterator[str]:
    yield f"# {prose(card.title)}"
    yield _html(f'<p class="pw-zh" lang="zh">{in_words(card.title_zh)}</p>')
    yield f"{prose(', '.join(card.authors))}, {card.year}. [{prose(card.link)}]({card.link})"
    yield prose(one_line(card.summary))
    yield _html(f'<p class="pw-zh" lang="zh">{in_words(card.summary_zh)}</p>')
    if card.symptoms:
        yield "Reach for it when you say:"
        yield "\n".join(f"- {prose(symptom)}" for symptom in card.symptoms)
    yield f"The claims in our best stored run: {prose(card.state())}. [Does it hold?](#does-it-hold)"


def _use_it(card: Card) -> Iterator[str]:
    yield "## Use it"
    yield markdown(importlib.import_module(card.module).__doc__ or "")
    path, public = _public(card)
    if public:
        links = ", ".join(f"{{py:obj}}`{name} <{_home(name, public[name]) or path}.{name}>`" for name in public)
        yield f"Public names of `{path}`: {links}"


def _public(card: Card) -> tuple[str, dict[str, Any]]:
    """Where this room's names are imported from, and the names."""
    room = importlib.import_module(card.module)
    path = f"paperworks.{card.area}" if card.module.startswith("paperworks.") else card.module
    return path, {name: getattr(room, name) for name in sorted(getattr(room, "__all__", ()))}


def _home(name: str, thing: Any) -> str | None:
    """The shared package that a re-exported thing comes from, if it is described there."""
    module = getattr(thing, "__module__", None) or ""
    home = next((home for home in SHARED[1:] if f"{module}.".startswith(f"{home}.")), None)
    return home if home and name in getattr(importlib.import_module(home), "__all__", ()) else None


def _reference(card: Card) -> Iterator[str]:
    path, public = _public(card)
    own = {name: thing for name, thing in public.items() if not _home(name, thing)}
    if own:
        yield "## Reference"
        yield from (reference(f"{path}.{name}", thing) for name, thing in own.items())


def _does_it_hold(card: Card) -> Iterator[str]:
    yield "## Does it hold?"
    yield f"```console\n$ paperworks run {card.slug}\n```"
    if card.has("study"):
        yield markdown(card.part("study").__doc__ or "")
    stored = {scale: run for scale, run in card.recorded().items() if scale in SCALES}
    if not stored:
        yield "No run is stored yet. What is put to the test:"
        yield "\n".join(map(_statement, card.statements()))
    for scale in sorted(stored, key=SCALES.index):
        yield from _stored_run(card, stored[scale])


def _statement(claim: Mapping[str, Any]) -> str:
    name, text, source, paper = (prose(claim[field].rstrip(".")) for field in ("id", "text", "source", "paper"))
    return f"- **{name}**: {text}. Source: {source}. The paper: {paper}."


def _stored_run(card: Card, run: Mapping[str, Any]) -> Iterator[str]:
    """One stored run: verdicts, what they rest on, figures, budget, tables, and how it was obtained."""
    scale = run["scale"]
    yield f"### At {scale} scale"
    yield f"[{prose(tally(run['verdicts']))}.]{{.pw-tally}}"
    yield _html(verdict_cards(run["verdicts"], card.statements(), prefix=f"{scale}-"))
    yield "\n".join(f"- {prose(text)}" for text in run["sentences"])
    for figure in run["figures"]:
        options = f":figclass: pw-figure\n:alt: {one_line(figure['caption'])}"
        name = f"figures/{card.slug}-{figure['file']}"
        yield f"```{{figure}} {name}\n{options}\n\n{prose(figure['caption'])}\n```"
    if run["budget"]:
        yield "**Budget of each arm**"
        yield _html(table(run["budget"]))
    for content in run["tables"].values():
        yield _html(table(content))
    yield "**How this was obtained**"
    yield f"```console\n$ {run['command']}\n```"
    yield _html(table({"columns": ["what", "value"], "rows": _provenance(run)}))


def _provenance(run: Mapping[str, Any]) -> list[list[Any]]:
    data = run["data"]
    rows = [
        ["recorded", run["date"]],
        ["commit", run["commit"]],
        ["seeds", ", ".join(map(str, run["seeds"]))],
        ["trials", f"{run['trials']}, {number(run['seconds'])} s in all"],
        ["data", "; ".join(data["description"])],
        ["data fingerprint", data["fingerprint"]],
    ]
    return (
        rows
        + [[name, value] for name, value in run["environment"].items() if name != "commit"]
        + [["settings", ", ".join(f"{name} = {number(value)}" for name, value in run["config"].items())]]
    )


def _speed(card: Card) -> Iterator[str]:
    path = card.folder / "recorded" / "bench.json"
    if not path.exists():
        if card.has("bench"):
            yield "## How fast is it?"
            yield f"```console\n$ paperworks bench {card.slug}\n```"
            yield "No benchmark is stored yet."
        return
    stored = json.loads(path.read_text())
    yield "## How fast is it?"
    yield (
        "A ratio is the peer's time over ours, taken in pairs within one run after the outputs were found equal; the "
        "quartiles over rounds stand beside the median."
    )
    yield _html(table(bench_table(stored["rows"])))
    if stored.get("growth"):
        yield _html(table(growth_table(stored["growth"])))
    yield f"```console\n$ {stored.get('command', f'paperworks bench {card.slug}')}\n```"
    facts = {name: stored[name] for name in ("date", "threads") if name in stored} | stored.get("environment", {})
    yield _html(table({"columns": ["what", "value"], "rows": [[name, str(value)] for name, value in facts.items()]}))


def bench_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Benchmark rows as a table; a promise that is not kept is named as such."""

    def ratio(row: Mapping[str, Any]) -> str:
        if row.get("ratio") is None:
            return row.get("status", "not measured")
        quartiles = f" [{row['ratio_low']:.2f} to {row['ratio_high']:.2f}]" if row.get("ratio_low") is not None else ""
        return f"{row['ratio']:.2f}{quartiles}"

    def promise(row: Mapping[str, Any]) -> str:
        if row.get("target") is None or row.get("ratio") is None:
            return number(row.get("target"))
        return f"{number(row['target'])}, {'kept' if row['ratio'] >= row['target'] else 'NOT kept'}"

    known = {"workload", "ours", "peer", "contender", "status", "ours_ms", "peer_ms", "ms", "note"}
    known |= {"ratio", "ratio_low", "ratio_high", "rounds", "target"}
    known |= {"ours_mb", "peer_mb", "memory_ratio", "memory_target"}
    extra = list(dict.fromkeys(name for row in rows for name in row if name not in known))
    memory = ["peak MB, ours / peer"] if any(row.get("memory_ratio") is not None for row in rows) else []

    def bytes_of(row: Mapping[str, Any]) -> str:
        if row.get("memory_ratio") is None:
            return ""
        kept = "kept" if row["memory_ratio"] >= row["memory_target"] else "NOT kept"
        return f"{row['ours_mb']:.4g} / {row['peer_mb']:.4g} (promised 1/{number(row['memory_target'])}, {kept})"

    return {
        "columns": ["workload", "peer", "ratio", "ours, ms", "peer, ms", "promised", *memory, *extra, "note"],
        "rows": [
            [
                row.get("workload"),
                row.get("peer", row.get("contender")),
                ratio(row),
                row.get("ours_ms"),
                row.get("peer_ms", row.get("ms")),
                promise(row),
                *(bytes_of(row) for _ in memory),
                *(row.get(name) for name in extra),
                row.get("note"),
            ]
            for row in rows
        ],
    }


def growth_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fitted exponents as a table."""

    def promise(row: Mapping[str, Any]) -> str:
        if row["limit"] is None:
            return number(None)
        return f"at most {number(row['limit'])}, {'kept' if row['exponent'] <= row['limit'] else 'NOT kept'}"

    return {
        "caption": "How time grows: the exponent of the size, fitted on the upper half of the sizes.",
        "columns": ["what", "sizes", "exponent", "promised"],
        "rows": [
            [
                row["name"],
                f"{row['sizes'][0]} to {row['sizes'][-1]}",
                f"{row['exponent']:.2f} ± {row['error']:.2f}",
                promise(row),
            ]
            for row in rows
        ],
    }


def _on_my_data(card: Card) -> Iterator[str]:
    if not card.has("apply") and not card.has("study"):
        return
    yield "## On my data"
    if card.has("apply"):
        yield f"```console\n$ paperworks apply {card.slug} --help\n```"
        apply = card.part("apply")
        yield markdown(apply.__doc__ or "")
        yield reference(f"{card.module}.apply.apply", apply.apply)
    if card.has("study"):
        yield f"```console\n$ paperworks run {card.slug} --data FILE\n```"
        yield f"The study above, on your file: [how to read the answer]({TUTORIAL})."


def _cite(card: Card) -> Iterator[str]:
    yield "## Cite"
    yield f"```bibtex\n{card.bibtex.strip()}\n```"


def figures(card: Card) -> dict[str, Path]:
    """The stored figures under the names that the page uses."""
    files = [figure["file"] for scale, run in card.recorded().items() if scale in SCALES for figure in run["figures"]]
    return {f"figures/{card.slug}-{file}": card.folder / "recorded" / file for file in files}


def one_line(text: str) -> str:
    return " ".join(text.split())


def _html(text: str) -> str:
    return f"``````{{raw}} html\n{text}\n``````"
