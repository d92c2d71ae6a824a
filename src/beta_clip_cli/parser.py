"""The parser of the command line: argparse, whose errors also name what was probably meant."""

import argparse
import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from typing import NoReturn


_WRONG_CHOICE = re.compile(r"invalid choice: '([^']*)'")
# Options share their first characters: below this likeness a suggestion is as likely to mislead.
_LIKENESS = 0.75
_UNKNOWN = re.compile(r"unrecognized arguments: (.*)")
# The metavars of a command and of its kind. If one is missing, the list of commands helps more than the usage.
_LACKS_COMMAND = re.compile(r"arguments are required: (COMMAND|KIND)$")


class CommandParser(argparse.ArgumentParser):
    """A parser that suggests the command, option or value that looks like a misspelt one."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with code 2, after the usage and one sentence."""
        if _LACKS_COMMAND.search(message):
            self.print_help(sys.stderr)
            self.exit(2, f"\n{self.prog}: error: {message}\n")
        wrong_choice, unknown = _WRONG_CHOICE.search(message), _UNKNOWN.search(message)
        suggestions: list[str] = []
        if wrong_choice is not None:
            suggestions = get_close_matches(wrong_choice[1], self._choices())
        elif unknown is not None:
            options: list[str] = []
            for parser in parsers_of(self):
                options += parser._option_string_actions
            for word in unknown[1].split():
                if word.startswith("-"):
                    suggestions += get_close_matches(word.partition("=")[0], options, n=1, cutoff=_LIKENESS)
        if suggestions:
            message += f"; did you mean {' or '.join(dict.fromkeys(suggestions))}?"
        super().error(message)

    def _choices(self) -> list[str]:
        """Returns all values that arguments of this parser may have."""
        values: list[str] = []
        for action in self._actions:
            values += map(str, action.choices or ())
        return values


def parsers_of(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Returns a parser and the parsers of all its commands."""
    parsers = [parser]
    for command_parser in _command_parsers(parser):
        parsers += parsers_of(command_parser)
    return parsers


def _command_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()
