"""`beta-clip completion`: a script by which a shell completes commands, options, choices and paths without Python."""

import argparse
import logging
import sys

from .commands import COMMANDS, MODELS, Command
from .main import build_parser, parsers_of


logger = logging.getLogger(__name__)

SHELLS = ("bash", "zsh", "fish")
# What stands for an argument in the help says what completes it.
DIRECTORIES = ("DIR", "INDEX", *MODELS)
FILES = ("FILE", "DATA")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip completion`."""
    parser.add_argument("shell", choices=SHELLS, help="for which the script is")


def run(args: argparse.Namespace) -> int:
    """Writes the script to the standard output."""
    sys.stdout.write(completion_script(args.shell) + "\n")
    return 0


def completion_script(shell: str) -> str:
    """
    The script for one of `SHELLS`. A command that cannot be imported, as an extra is missing, is without its options.

    Raises:
        ImportError: without shtab.
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError('Completion needs shtab: pip install "beta-clip-hf[completion]"') from error
    parser = build_parser(*filter(_is_importable, COMMANDS))
    for one in parsers_of(parser):
        for action in one._actions:
            if action.metavar in (*DIRECTORIES, *FILES):
                kind = shtab.FILE if action.metavar in FILES else shtab.DIRECTORY
                action.complete = kind  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _is_importable(command: Command) -> bool:
    try:
        build_parser(command)
    except ImportError as error:
        logger.warning("options of beta-clip %s are left out: %s", " ".join(command.words), error)
        return False
    return True
