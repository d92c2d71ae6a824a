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
from .errors import masked, sentence_of, visible
from .parser import CommandParser, parsers_of


# Exit codes beside 0 and argparse's 2: those of sysexits.h, and 128 plus the number of the signal.
ERROR, FAULT, INTERRUPTED, OUTPUT_CLOSED = 1, 70, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """
    Runs one command and returns its exit code.

    The code is 0 if the command is done, 1 after an error that is told in one sentence, 70 after a fault of the
    program, 75 after a signal for which a training has saved a checkpoint, 130 after an interruption, and 141 if
    nobody reads the output any more.

    Args:
        argv: The words after `beta-clip`; `None` takes those of the process.

    Raises:
        SystemExit: from argparse: 0 after `--help` and `--version`, 2 after a wrong usage.
        Exception: any error, with `--debug`.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    log = logging.StreamHandler()
    log.setFormatter(VisibleFormatter("%(message)s"))
    logging.basicConfig(handlers=[log])
    for package in ("beta_clip_hf", __package__):
        logging.getLogger(package).setLevel(logging.INFO)
    parser, args = None, argparse.Namespace()
    try:
        try:
            parser = build_parser(find_command(argv))
            args = parser.parse_args(argv)
            args.words = argv
            return args.run(args)
        finally:
            # A full disk or a closed pipe shows itself only here, where the handlers below report it.
            sys.stdout.flush()
    except BrokenPipeError:
        _let_go_of_output()
        return OUTPUT_CLOSED
    except KeyboardInterrupt:
        sys.stderr.write("beta-clip: interrupted\n")
        return INTERRUPTED
    except Exception as error:
        if "--debug" in argv:
            raise
        # Looked up only now, because a command may have read the name of the model from a file.
        models = _models(parser, args) if parser else []
        return _report_error(error, models)


class VisibleFormatter(logging.Formatter):
    """Formats records of the log without control characters, and without tokens."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line of a record."""
        return visible(masked(super().format(record)))


def _report_error(error: Exception, models: Sequence[str]) -> int:
    """Writes one sentence about an error and returns the exit code."""
    sentence = sentence_of(error, models)
    if sentence is None:
        sys.stderr.write(visible(masked(f"beta-clip: fault: {_fault_sentence(error)}\n")))
        return FAULT
    sys.stderr.write(visible(masked(f"beta-clip: error: {sentence}\n")))
    _let_go_of_output()
    return ERROR


def _let_go_of_output() -> None:
    """Drops what cannot be written to the standard output; Python would complain about it again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def find_command(argv: Sequence[str]) -> Command | None:
    """Finds the command that the words name, or `None`. Options before the command take no values."""
    words = tuple(word for word in argv if not word.startswith("-"))
    for command in COMMANDS:
        if words[: len(command.words)] == command.words:
            return command
    return None


def build_parser(*chosen: Command | None) -> argparse.ArgumentParser:
    """
    Builds the parser of the whole command line.

    Args:
        chosen: The commands whose modules are imported and whose arguments are added. All others have their names only.
    """
    summary = "Train, evaluate, search with, and publish β-CLIP and FG-CLIP models."
    parser = CommandParser(prog="beta-clip", **_parser_options(summary, "beta-clip train --help"))
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    top = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    groups: dict[str, Any] = {}
    for command in COMMANDS:
        *group_words, name = command.words
        parent = top
        for group in group_words:
            if group not in groups:
                example = f"beta-clip {' '.join(command.words)} --help"
                group_parser = top.add_parser(group, help=GROUPS[group], **_parser_options(GROUPS[group], example))
                groups[group] = group_parser.add_subparsers(title="kinds", metavar="KIND", required=True)
            parent = groups[group]
        options = _parser_options(command.summary, command.example)
        command_parser = parent.add_parser(name, help=command.summary, **options)
        if command in chosen:
            module = import_module(command.module)
            module.add_arguments(command_parser)
            command_parser.set_defaults(run=module.run)
    return parser


def _parser_options(summary: str, example: str) -> dict[str, Any]:
    """Returns the parts that the help of every command has: a description, `--debug`, and an example at the end."""
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return {
        "parents": [debug],
        "description": summary,
        "epilog": f"example:\n  {example}",
        "formatter_class": HelpFormatter,
        "allow_abbrev": False,
    }


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Ends the help of an option with its default, if it has one."""

    def add_argument(self, action: argparse.Action) -> None:
        """Adds an argument to the page, with room for the longest name of a command."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            # argparse measures commands without their indent, and breaks the line after the longest one.
            self._action_max_length += self._indent_increment

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        # 0 is a default to show, although it equals False.
        is_empty = default is None or default is False or default is argparse.SUPPRESS or default == []
        if is_empty or not action.option_strings:
            return action.help
        shown = str(default)
        if isinstance(default, list | tuple):
            shown = " ".join(map(str, default))
        # argparse formats the help with `%`.
        return f"{action.help} (default: {shown.replace('%', '%%')})"


def _version() -> str:
    """Reads the version of the installed package without importing it, or that of the source if none is installed."""
    try:
        return version("beta-clip-hf")
    except PackageNotFoundError:
        from beta_clip_hf.version import __version__

        return __version__


def _models(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    """Returns the names of the models that a command was given, each once."""
    names = []
    for command_parser in parsers_of(parser):
        for action in command_parser._actions:
            name = getattr(args, action.dest, None)
            if action.metavar in MODELS and name and name not in names:
                names.append(name)
    return names


def _fault_sentence(error: Exception) -> str:
    """Returns a sentence about an error that no user can mend, and writes its traceback to a file."""
    with tempfile.NamedTemporaryFile("w", prefix="beta-clip-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(masked("".join(traceback.format_exception(error))))
    message = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {message}. This is not your mistake: please report it, with {file.name}"
