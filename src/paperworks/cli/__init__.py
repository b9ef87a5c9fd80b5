"""The command line: parses, calls, prints.

Exit status: 0 done; 1 a trial or a job failed; 2 wrong usage or unfit data; 3 `run --check` and a claim does not hold.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from paperworks.cli import bench, catalogue, data, doctor, work

DESCRIPTION = """\
paperworks: machine-learning papers as components to import, claims to run, and both on your own data.

  paperworks list                                  all papers
  paperworks which "saturated benchmark"           the papers that answer a problem
  paperworks run fnet                              put a paper's claim to the test
  paperworks run fnet --data reviews.csv           ... on your own data
  paperworks apply irt answers.csv --out fit/      let a method do its job on your files
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; building it imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="paperworks", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for module in (catalogue, work, bench, data, doctor):
        module.register(commands)
    return parser


def _version() -> str:
    from paperworks import __version__

    return f"paperworks {__version__}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    # Else PyTorch's profiler, which measures memory, writes of its comings and goings.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    parser = build_parser()
    parsed, rest = parser.parse_known_args(arguments)
    if rest and not getattr(parsed, "takes_rest", False):
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    parsed.rest = rest
    try:
        return parsed.handler(parsed)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        # An error at the door is the user's to mend: one line, no traceback.
        if os.environ.get("PAPERWORKS_TRACEBACK"):
            raise
        print(f"paperworks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("paperworks: stopped; what is finished is kept, the same command continues", file=sys.stderr)
        return 130


def entry() -> None:
    """The console script."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has gone (`paperworks list | head`): nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)
