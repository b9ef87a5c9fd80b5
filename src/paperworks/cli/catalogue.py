"""`list`, `which`, `show`, `cite`: what there is. No torch."""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from paperworks.catalog import Card, cards, find


def register(commands: Any) -> None:
    listing = commands.add_parser("list", help="all papers: area, slug, title, state of their claims")
    listing.add_argument("--area", help="only this area, e.g. sequence")
    listing.add_argument("--tag", help="only papers with this tag")
    listing.add_argument("--symptom", help="only papers that answer this problem (words)")
    listing.add_argument("--lang", choices=("en", "zh"), default="en", help="language of the titles")
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.set_defaults(handler=run_list)

    which = commands.add_parser("which", help="the papers that answer a problem you describe")
    which.add_argument("words", nargs="*", help="the problem, e.g. long sequences; nothing: all problems we know")
    which.add_argument("--json", action="store_true", help="for programs")
    which.set_defaults(handler=run_which)

    show = commands.add_parser("show", help="one paper: what it is, its claims and our stored results")
    show.add_argument("slug")
    show.add_argument("--lang", choices=("en", "zh"), default="en")
    show.add_argument("--json", action="store_true", help="for programs")
    show.set_defaults(handler=run_show)

    cite = commands.add_parser("cite", help="BibTeX of the papers that you used")
    cite.add_argument("slugs", nargs="+", metavar="slug")
    cite.set_defaults(handler=run_cite)


def run_list(parsed: argparse.Namespace) -> int:
    chosen = [
        card
        for card in cards()
        if (parsed.area is None or card.area == parsed.area)
        and (parsed.tag is None or parsed.tag.lower() in map(str.lower, card.tags))
        and (parsed.symptom is None or _score(card, _words(parsed.symptom)) > 0)
    ]
    titles = [card.title_zh if parsed.lang == "zh" else card.title for card in chosen]
    rows = [(card.area, card.slug, title, card.state()) for card, title in zip(chosen, titles, strict=True)]
    if parsed.json:
        print(json.dumps([dict(zip(("area", "slug", "title", "state"), row, strict=True)) for row in rows]))
    else:
        print_rows(("area", "slug", "title", "state"), rows)
    return 0


def run_which(parsed: argparse.Namespace) -> int:
    words = _words(" ".join(parsed.words))
    if not words:
        rows = [(symptom, card.slug) for card in cards() for symptom in card.symptoms]
    else:
        scored = sorted(((_score(card, words), card) for card in cards()), key=lambda pair: -pair[0])
        rows = [(_best_symptom(card, words), card.slug) for score, card in scored if score > 0][:5]
    if parsed.json:
        print(json.dumps([{"symptom": symptom, "slug": slug} for symptom, slug in rows]))
    elif rows:
        print_rows(("problem", "paper"), rows)
    else:
        print("no paper here answers that; `paperworks which` lists the problems we know", file=sys.stderr)
        return 1
    return 0


def run_show(parsed: argparse.Namespace) -> int:
    card = find(parsed.slug)
    recorded = card.recorded()
    if parsed.json:
        facts = {name: value for name, value in vars(card).items() if name not in ("folder", "mixers")}
        print(json.dumps(facts | {"claims": card.statements(), "recorded": recorded}, ensure_ascii=False))
        return 0
    print(card.title_zh if parsed.lang == "zh" else card.title)
    print(f"{', '.join(card.authors)}, {card.year}. {card.link}\n")
    print(_wrap(card.summary_zh if parsed.lang == "zh" else card.summary))
    print(f"\nUse it:        from paperworks.{card.area} import ...   (python -c 'help(\"{card.module}\")')")
    if card.has("study"):
        print(f"Does it hold?  paperworks run {card.slug}")
    if card.has("apply"):
        print(f"On my data:    paperworks apply {card.slug} --help")
    elif card.has("study"):
        print(f"On my data:    paperworks run {card.slug} --data FILE")
    states = {
        verdict["id"]: f"{verdict['state']} ({scale}, {verdict['seeds']} seeds)"
        for scale, run in recorded.items()
        for verdict in run["verdicts"]
    }
    print("\nClaims:")
    for statement in card.statements():
        print(_wrap(f"{statement['id']}: {statement['text']}", indent="  "))
        print(f"    paper: {statement['paper']}\n    ours:  {states.get(statement['id'], 'no stored run')}")
    return 0


def run_cite(parsed: argparse.Namespace) -> int:
    print("\n\n".join(find(slug).bibtex.strip() for slug in parsed.slugs))
    return 0


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if len(word) > 2]


def _score(card: Card, words: Sequence[str]) -> float:
    """Share of the words that the card knows; its own problems count more than its summary."""
    close = " ".join((*card.symptoms, *card.tags, card.title)).lower()
    far = card.summary.lower()
    hits = sum(1.0 if _stem(word) in close else 0.4 if _stem(word) in far else 0.0 for word in words)
    return hits / len(words) if words and hits >= 0.5 else 0.0


def _stem(word: str) -> str:
    return re.sub(r"(ies|es|s|ed|ing)$", "", word) if len(word) > 4 else word


def _best_symptom(card: Card, words: Sequence[str]) -> str:
    return max(card.symptoms, key=lambda symptom: sum(_stem(word) in symptom.lower() for word in words))


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(" ".join(text.split()), width=100, initial_indent=indent, subsequent_indent=indent)


def print_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns on a terminal, tab-separated lines with no header for pipes."""
    rows = [tuple(map(str, row)) for row in rows]
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
