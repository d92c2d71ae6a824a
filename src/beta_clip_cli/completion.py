"""`beta-clip completion`: writes a script by which a shell completes commands, options, choices and paths."""

import argparse
import logging
import sys

from .commands import COMMANDS, MODELS, Command
from .evaluate import TASKS
from .main import build_parser
from .parser import parsers_of


logger = logging.getLogger(__name__)

SHELLS = ("bash", "zsh", "fish")
# The metavar of an argument tells what completes it.
DIRECTORIES = ("DIR", "INDEX", *MODELS)
FILES = ("FILE", "DATA")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip completion`."""
    parser.add_argument("shell", choices=SHELLS, help="your shell")


def run(args: argparse.Namespace) -> int:
    """Writes the script to the standard output."""
    sys.stdout.write(completion_script(args.shell) + "\n")
    return 0


def completion_script(shell: str) -> str:
    """
    Builds the script for one of `SHELLS`. It does not start Python when it runs.

    A command whose module cannot be imported, because an extra is missing, is there without its options.

    Raises:
        ImportError: if shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError("completion needs shtab: pip install shtab") from error
    importable = [command for command in COMMANDS if _is_importable(command)]
    parser = build_parser(*importable)
    for command_parser in parsers_of(parser):
        for action in command_parser._actions:
            # shtab reads this attribute, which argparse does not know.
            if action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar in DIRECTORIES:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.dest == "tasks":
                # Only here: the words between the commas are checked by the command.
                action.choices = TASKS
    return shtab.complete(parser, shell)


def _is_importable(command: Command) -> bool:
    """Tells whether the module of a command can be imported; if not, the log says why."""
    try:
        build_parser(command)
    except ImportError as error:
        logger.warning("options of beta-clip %s are left out: %s", " ".join(command.words), error)
        return False
    return True
