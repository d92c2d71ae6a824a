"""
The command line: `beta-clip COMMAND …`.

A command is a module with `add_arguments(parser)` and `run(args) -> int` (the exit code; see [`reporting`]). It is
imported when it is chosen, so that the help of one command needs nothing that another one depends on. See
docs/command_line.md.
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
from typing import Any, NamedTuple

from .errors import sentence_of


class Command(NamedTuple):
    """One command: its words on the command line, where it lives, and what its help says."""

    words: tuple[str, ...]
    module: str
    summary: str
    example: str
    is_light: bool = False
    """Whether it works without what the package imports: torch and transformers."""


COMMANDS = (
    Command(
        ("train",),
        ".training.run",
        "Train or fine-tune a model on your images and captions.",
        "beta-clip train --config examples/configs/beta_clip_ce.yaml --model openai/clip-vit-base-patch16 "
        "--train-data photos.jsonl --output-dir runs/photos",
    ),
    Command(
        ("evaluate",),
        ".evaluation.suite",
        "Measure a model: retrieval, hard negatives, where phrases point.",
        "beta-clip evaluate --model runs/photos --tasks photos --data photos.jsonl --output runs/photos/evaluation",
    ),
    Command(
        ("hierarchy",),
        ".data.hierarchies",
        "Build the sentences and phrases of all captions once, for training to take as they are.",
        "beta-clip hierarchy photos.jsonl --output photos_hierarchy --shard 0/4",
    ),
    Command(
        ("compare",),
        ".evaluation.compare",
        "Compare two results on the same data: paired differences with intervals.",
        "beta-clip compare runs/before/evaluation/results.json runs/photos/evaluation/results.json",
    ),
    Command(
        ("convert", "b-clip"),
        ".release.convert_b_clip",
        "Turn a checkpoint of the β-CLIP authors into a model directory.",
        "beta-clip convert b-clip checkpoint.pt converted --tokenizer openai/clip-vit-base-patch16",
    ),
    Command(
        ("convert", "fg-clip"),
        ".release.convert_fg_clip",
        "Turn a checkpoint of FG-CLIP into a model directory, or one back.",
        "beta-clip convert fg-clip qihoo360/fg-clip-base converted",
    ),
    Command(
        ("export", "clip"),
        ".release.export",
        "Write a model as a plain CLIPModel, for programs without this package.",
        "beta-clip export clip runs/photos exported",
    ),
    Command(
        ("export", "onnx"),
        ".release.onnx",
        "Write a model as ONNX graphs or torch.export programs, for use without transformers.",
        "beta-clip export onnx runs/photos exported --dtype float16",
    ),
    Command(
        ("interpolate",),
        ".release.interpolate",
        "Mix the weights of a model with those that it was fine-tuned from, against forgetting.",
        "beta-clip interpolate openai/clip-vit-base-patch16 runs/photos runs/mixed --alpha 0 0.25 0.5 0.75 1 "
        "--tasks photos --data photos.jsonl",
    ),
    Command(
        ("index",),
        ".search.index",
        "Embed a collection of photos for search, or bring what was embedded up to date.",
        "beta-clip index photos/ --out photos.index --model runs/photos",
    ),
    Command(
        ("search",),
        ".search.gallery",
        "Search an indexed collection by texts and images.",
        'beta-clip search photos.index "a dog in a red coat on a beach" --top 20 --rerank 200 --html found.html',
    ),
    Command(
        ("show",),
        ".show",
        "Draw where each phrase of a text looks in a picture, and score its regions.",
        'beta-clip show --model runs/photos --image photo.jpg --text "A dog in a red coat. Dunes are behind it."',
    ),
    Command(
        ("demo",),
        ".demo.app",
        "Show a model in the browser: search, where each phrase looks, two captions compared.",
        "beta-clip demo --photos photos/ --model runs/photos",
    ),
    Command(
        ("push",),
        ".release.hub",
        "Upload a model to the Hub with its processor, code, results and model card.",
        "beta-clip push runs/photos my-name/photos --license cc-by-nc-4.0",
    ),
    Command(
        ("doctor",),
        ".doctor",
        "Say what is installed, what is missing, and what the hardware can do.",
        "beta-clip doctor --json",
        is_light=True,
    ),
    Command(
        ("completion",),
        ".completion",
        "Write a script by which a shell completes the words of this command line.",
        'eval "$(beta-clip completion bash)"',
        is_light=True,
    ),
)
# The commands that have commands of their own.
GROUPS = {
    "convert": "Turn a checkpoint of another program into a model directory.",
    "export": "Write a model for other programs.",
}

# Exit codes, beside 0 and argparse's 2: as in sysexits.h, and 128 with the number of the signal.
ERROR, FAULT, INTERRUPTED, OUTPUT_CLOSED = 1, 70, 130, 141


MODELS = ("MODEL", "BASE", "TUNED")  # what stands for a model in the help


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
    logging.getLogger(__package__).setLevel(logging.INFO)
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
            if not command.is_light:
                _import_package()
            module = import_module(command.module, __package__)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def _version() -> str:
    """Of the installed package, which is found without importing it; or of its source, where it is not installed."""
    try:
        return version("beta-clip-hf")
    except PackageNotFoundError:
        _import_package()
        return sys.modules[__package__].__version__


def _import_package() -> None:
    """Runs the package's `__init__`, which `beta_clip_command` has put off."""
    package = sys.modules[__package__]
    if not hasattr(package, "__version__") and package.__spec__ and package.__spec__.loader:
        package.__spec__.loader.exec_module(package)


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
