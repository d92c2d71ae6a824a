"""
The command line: `beta-clip COMMAND …`.

The module of a command is imported when the command is chosen. docs/command_line.md describes the commands.
"""

import argparse
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .commands import COMMANDS, GROUPS, MODELS, Command
from .errors import sentence_of


# Exit codes, beside 0 and argparse's 2: as in sysexits.h, and 128 with the number of the signal.
ERROR, FAULT, INTERRUPTED, OUTPUT_CLOSED = 1, 70, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command and return its exit code: 0 done, 1 an error told in one sentence, 70 a fault of the program, 130
    interrupted, 141 nobody reads the output any more.

    Args:
        argv: The words after `beta-clip`; `None` takes those of the process.

    Raises:
        SystemExit: as argparse does: 0 after `--help` and `--version`, 2 after a wrong usage.
        Exception: any error, with `--debug`.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    logging.basicConfig(format="%(message)s")
    for package in ("beta_clip_hf", __package__):
        logging.getLogger(package).setLevel(logging.INFO)
    models: list[str] = []
    try:
        try:
            parser = build_parser(find_command(argv))
            args = parser.parse_args(argv)
            models = _models(parser, args)
            return args.run(args)
        finally:
            sys.stdout.flush()  # what goes wrong there is told below
    except BrokenPipeError:
        _let_go_of_output()
        return OUTPUT_CLOSED
    except KeyboardInterrupt:
        sys.stderr.write("beta-clip: interrupted\n")
        return INTERRUPTED
    except Exception as error:
        if "--debug" in argv:
            raise
        sentence = sentence_of(error, models)
        if sentence is None:
            sys.stderr.write(f"beta-clip: fault: {_told_as_fault(error)}\n")
            return FAULT
        sys.stderr.write(f"beta-clip: error: {sentence}\n")
        _let_go_of_output()
        return ERROR


def _let_go_of_output() -> None:
    """Where the standard output cannot be written, Python would complain once more as it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def find_command(argv: Sequence[str]) -> Command | None:
    """The command that the words of `argv` name, if they do: options before it take no values."""
    words = tuple(word for word in argv if not word.startswith("-"))
    return next((command for command in COMMANDS if words[: len(command.words)] == command.words), None)


def build_parser(*chosen: Command | None) -> argparse.ArgumentParser:
    """The parser of the whole command line; of the commands, only `chosen` are imported and have their arguments."""
    summary = "Train, evaluate and convert β-CLIP and FG-CLIP models."
    parser = argparse.ArgumentParser(prog="beta-clip", **_page(summary, "beta-clip train --help"))
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    groups: dict[tuple[str, ...], Any] = {(): parser.add_subparsers(title="commands", metavar="COMMAND", required=True)}
    for command in COMMANDS:
        group, name = command.words[:-1], command.words[-1]
        if group not in groups:
            page = _page(GROUPS[group[0]], f"beta-clip {' '.join(command.words)} --help")
            group_parser = groups[()].add_parser(group[0], help=GROUPS[group[0]], **page)
            groups[group] = group_parser.add_subparsers(title="kinds", metavar="KIND", required=True)
        page = _page(command.summary, command.example)
        subparser = groups[group].add_parser(name, help=command.summary, **page)
        if command in chosen:
            module = import_module(command.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def _version() -> str:
    """The version of the installed package, read without importing it; or of its source, if it is not installed."""
    try:
        return version("beta-clip-hf")
    except PackageNotFoundError:
        from beta_clip_hf.version import __version__

        return __version__


def parsers_of(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A parser and those of all its commands."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [one for subparser in action.choices.values() for one in parsers_of(subparser)]
    return found


def _models(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    """The names of the models that a command was given."""
    actions = [action for one in parsers_of(parser) for action in one._actions if action.metavar in MODELS]
    names = dict.fromkeys(getattr(args, action.dest, None) for action in actions)
    return [name for name in names if name]


def _told_as_fault(error: Exception) -> str:
    """A sentence about an error that no user can mend; its traceback goes to a file."""
    with tempfile.NamedTemporaryFile("w", prefix="beta-clip-", suffix=".txt", delete=False, encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    message = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {message}. This is not your mistake: please report it, with {file.name}"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Ends the help of an option with its default, if it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        has_default = action.option_strings and not any(default is one for one in (None, False, argparse.SUPPRESS))
        if not has_default or default == []:
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        return f"{action.help} (default: {shown.replace('%', '%%')})"


def _page(summary: str, example: str) -> dict[str, Any]:
    """What the help of every command has: a description, `--debug`, and an example at the end."""
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return {
        "parents": [debug],
        "description": summary,
        "epilog": f"example:\n  {example}",
        "formatter_class": HelpFormatter,
        "allow_abbrev": False,
    }
