"""`bench`: our components against every installed peer."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    bench = commands.add_parser("bench", help="time a component against every installed peer")
    bench.add_argument("slug")
    bench.add_argument("--quick", action="store_true", help="small workloads, a few rounds")
    bench.add_argument("--rounds", type=int, help="timed rounds per workload")
    bench.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads for our side and the peers'")
    bench.add_argument("--record", action="store_true", help="store the result in the room, for the documentation")
    bench.add_argument("--out", type=Path, help="write the result as JSON to this file")
    bench.add_argument("--json", action="store_true", help="for programs")
    bench.set_defaults(handler=run_bench)


def run_bench(parsed: argparse.Namespace) -> int:
    from paperworks.catalog import find

    card = find(parsed.slug)
    if not card.has("bench"):
        raise ValueError(f"{parsed.slug}: this room has no benchmark")
    if parsed.record and parsed.quick:
        raise ValueError("--record: a quick benchmark is not stored")

    import torch

    from paperworks.lab import bench as lab

    torch.set_num_threads(parsed.threads)
    room = card.part("bench")
    rows = []
    for row in lab.measure(room.workloads(quick=parsed.quick), rounds=parsed.rounds):
        rows.append(row)
        if not parsed.json:
            print(_line(row), flush=True)
    growth = [] if parsed.quick or not hasattr(room, "growth") else list(map(lab.measure_growth, room.growth()))
    for item in growth if not parsed.json else ():
        limit = "" if item.limit is None else f" (promised at most {item.limit:g})"
        print(f"{item.name}: time grows as size^{item.exponent:.2f} +- {item.error:.2f}{limit}")
    if parsed.json:
        print(json.dumps([vars(row) for row in rows]))
    for path in _targets(parsed, card.folder):
        lab.save(path, parsed.slug, rows, growth, threads=parsed.threads)
        print(f"written: {path}", file=sys.stderr)
    return 1 if any(row.status in ("outputs differ", "failed") for row in rows) else 0


def _targets(parsed: argparse.Namespace, room: Path) -> list[Path]:
    if parsed.record:
        (room / "recorded").mkdir(exist_ok=True)
    return ([parsed.out] if parsed.out else []) + ([room / "recorded" / "bench.json"] if parsed.record else [])


def _line(row: Any) -> str:
    if row.status != "measured":
        return f"{row.workload}\t{row.peer}\t{row.status}: {row.note}"
    target = "" if row.target is None else f"\ttarget {row.target:g}"
    if row.memory_ratio is not None:
        target += f"\tpeak {row.ours_mb:.4g} MB against {row.peer_mb:.4g}, target 1/{row.memory_target:g}"
    return (
        f"{row.workload}\t{row.peer}\t{row.ratio:.2f}x [{row.ratio_low:.2f}, {row.ratio_high:.2f}]"
        f"\tours {row.ours_ms:.4g} ms, peer {row.peer_ms:.4g} ms{target}"
    )
