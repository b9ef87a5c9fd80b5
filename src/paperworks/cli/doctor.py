"""`doctor`: what this machine has, what is missing and how to get it."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from typing import Any

from paperworks.cli.catalogue import print_rows


def register(commands: Any) -> None:
    doctor = commands.add_parser("doctor", help="what is missing on this machine and how to get it")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(handler=run_doctor)


def run_doctor(parsed: argparse.Namespace) -> int:
    rows = list(_findings())
    if parsed.json:
        print(json.dumps([dict(zip(("what", "state", "advice"), row, strict=True)) for row in rows]))
    else:
        print_rows(("what", "state", "advice"), rows)
    return 0


def _findings() -> Iterator[tuple[str, str, str]]:
    yield "python", platform.python_version(), ""
    yield from _extras()
    yield from _hardware()
    compiler = shutil.which("gcc") or shutil.which("clang")
    yield "C compiler", compiler or "absent", "" if compiler else "optional: torch.compile on the CPU needs one"
    folder = os.environ.get("PAPERWORKS_DATA")
    advice = "" if folder else "optional: `paperworks data fetch` downloads what a study needs"
    yield "PAPERWORKS_DATA", folder or "not set", advice
    writable = os.access(os.getcwd(), os.W_OK)
    yield "current folder", "writable" if writable else "not writable", "" if writable else "use --store for runs"


def _extras() -> Iterator[tuple[str, str, str]]:
    """Each extra of the package with what it lacks."""
    needs: dict[str, list[str]] = {"core": []}
    for requirement in importlib.metadata.requires("paperworks") or []:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        name = re.match(r"[\w.-]+", requirement)
        if name and name.group() != "paperworks":
            needs.setdefault(extra.group(1) if extra else "core", []).append(name.group())
    for extra, names in needs.items():
        missing = [name for name in names if not _installed(name)]
        advice = f"pip install 'paperworks[{extra}]'" if extra != "core" else "pip install paperworks"
        state = f"lacks {', '.join(missing)}" if missing else "complete"
        yield f"extra {extra}" if extra != "core" else "core", state, advice if missing else ""


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _hardware() -> Iterator[tuple[str, str, str]]:
    from paperworks.lab.environment import cpu_name

    yield "processor", f"{cpu_name()}, {os.cpu_count()} cores", ""
    try:
        import torch
    except ImportError:
        yield "torch", "absent", "pip install torch"
        return
    yield "torch", torch.__version__, ""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield "GPU", ", ".join(gpus) or "none", "" if gpus else "optional: paper-scale studies want one"
