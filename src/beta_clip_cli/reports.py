"""What a command reports: a text for people or, with `--json`, one JSON document and nothing else on its output."""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from functools import wraps
from typing import Any, NamedTuple


class Report(NamedTuple):
    """What a command has done."""

    document: Any
    """What JSON can hold; docs/command_line.md says what each command has here. `None` writes nothing: of several
    processes only the first one reports."""
    text: str = ""
    """The same for people. Empty where the log says enough."""
    code: int = 0
    """The exit code."""


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`, which [`reporting`] reads."""
    parser.add_argument("--json", action="store_true", help="write one JSON document to the standard output")


def reporting(run: Callable[[argparse.Namespace], Report]) -> Callable[[argparse.Namespace], int]:
    """
    Makes the `run` of a command from a function that returns its report: it writes the report to the standard output
    and returns the exit code. With `--json`, what else would be written there meanwhile, by this package or by others,
    goes to the standard error.
    """

    @wraps(run)
    def write(args: argparse.Namespace) -> int:
        with redirect_stdout(sys.stderr) if args.json else nullcontext():
            report = run(args)
        if report.document is not None and args.json:
            sys.stdout.write(json.dumps(report.document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        elif report.document is not None and report.text:
            sys.stdout.write(report.text + "\n")
        return report.code

    return write
