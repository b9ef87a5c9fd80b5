"""`data`: the benchmark data sets: which there are, where they are, whether they are whole."""

from __future__ import annotations

import argparse
import json
from typing import Any

from paperworks.cli.catalogue import print_rows


def register(commands: Any) -> None:
    data = commands.add_parser("data", help="benchmark data: list, where, verify, fetch")
    data.add_argument("action", choices=("list", "where", "verify", "fetch"))
    data.add_argument("names", nargs="*", help="data sets (default: all)")
    data.add_argument("--json", action="store_true", help="for programs")
    data.set_defaults(handler=run_data)


def run_data(parsed: argparse.Namespace) -> int:
    from paperworks.data import benchmarks

    known = {entry.name: entry for entry in benchmarks.list_benchmarks()}
    if unknown := [name for name in parsed.names if name not in known]:
        raise ValueError(f"unknown data set {unknown[0]!r}; known: {', '.join(known)}")
    chosen = [known[name] for name in parsed.names or known]
    if parsed.action == "list":
        sizes = [sum(file.bytes for file in entry.files) / 1e6 for entry in chosen]
        rows = [(e.name, e.title, e.licence, f"{size:.1f} MB") for e, size in zip(chosen, sizes, strict=True)]
        header = ("name", "title", "licence", "size")
    elif parsed.action == "fetch":
        rows = [
            (entry.name, file.path, str(benchmarks.benchmark_file(entry.name, file.path)))
            for entry in chosen
            for file in entry.files
            # Files without an address were derived from others; they exist where somebody has put them.
            if file.url is not None
        ]
        header = ("name", "file", "path")
    else:
        found = [(entry.name, status) for entry in chosen for status in benchmarks.verify_benchmark(entry.name)]
        rows = [(name, status.file, str(status.path or "absent"), status.state) for name, status in found]
        header = ("name", "file", "path", "state")
    if parsed.json:
        print(json.dumps([dict(zip(header, row, strict=True)) for row in rows]))
    else:
        print_rows(header, rows)
    return 1 if parsed.action == "verify" and any(row[-1] == "corrupt" for row in rows) else 0
