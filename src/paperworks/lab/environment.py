"""What a result was obtained with: machine, versions, commit."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

# Stored results are written by runs and change none; recording one room must not stain the next.
RESULTS = ":(exclude,glob)src/**/recorded/**"
NOTED = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "transformers", "tokenizers", "lightning-fabric")


@functools.cache
def environment() -> dict[str, str]:
    """Machine, Python, library versions and commit, as short texts."""
    versions = {name: version(name) for name in NOTED}
    return {
        "paperworks": version("paperworks") or "unknown",
        "commit": commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": str(os.cpu_count()),
        **{name: found for name, found in versions.items() if found},
    }


def version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def commit() -> str:
    """The commit of the checkout that this package runs from ("+" when it has changes), or "release"."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return "release"
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    return head + ("+" if changed(root) else "")


def changed(root: Path) -> bool:
    """Whether the code of a checkout differs from its commit, stored results aside."""
    return bool(_git(root, "status", "--porcelain", "--", "src", RESULTS))


def _git(root: Path, *arguments: str) -> str:
    try:
        answer = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() if answer.returncode == 0 else "unknown"


@functools.cache
def cpu_name() -> str:
    """The processor's name and the vector extensions that decide the speed of matrix products."""
    if sys.platform != "linux":
        return platform.processor() or platform.machine()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines[:40] if ":" in line)
    fields = {name.strip(): text.strip() for name, text in fields.items()}
    flags = fields.get("flags", "").split()
    notable = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join([fields.get("model name", platform.machine()), *notable])
