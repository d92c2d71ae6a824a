"""Prints the result of a command: a text for people or, with `--json`, one JSON document and nothing else."""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from functools import wraps
from typing import Any, NamedTuple

from .errors import visible


class Report(NamedTuple):
    """Holds the result of a command."""

    document: Any
    """Ready for JSON; docs/command_line.md describes it for each command. `None` writes nothing: of several processes
    only the first one reports."""
    text: str = ""
    """The result as text for people. Empty if the log says enough."""
    code: int = 0
    """The exit code."""


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`, which [`reporting`] reads."""
    parser.add_argument("--json", action="store_true", help="write one JSON document to the standard output")


def reporting(run: Callable[[argparse.Namespace], Report]) -> Callable[[argparse.Namespace], int]:
    """
    Decorates a function that returns a report, so that it writes the report and returns the exit code.

    With `--json`, anything else that is printed meanwhile, by this package or by others, goes to the standard error.
    """

    @wraps(run)
    def run_and_write(args: argparse.Namespace) -> int:
        """Runs the command and writes its report to the standard output."""
        with redirect_stdout(sys.stderr) if args.json else nullcontext():
            report = run(args)
        if report.document is None:
            return report.code
        text = report.text
        if args.json:
            text = json.dumps(report.document, indent=2, ensure_ascii=False, allow_nan=False)
        if text:
            sys.stdout.write(visible(text) + "\n")
        return report.code

    return run_and_write
