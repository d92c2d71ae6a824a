"""
The command line: `beta-clip COMMAND …`.

A command is a module with `add_arguments(parser)` and `run(args) -> int` (the exit code). It is imported when it is
chosen, so that the help of one command needs nothing that another one depends on.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from . import __version__


class Command(NamedTuple):
    """One command: its words on the command line, where it lives, and what its help says."""

    words: tuple[str, ...]
    module: str
    summary: str
    example: str


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
    ),
)
# The commands that have commands of their own.
GROUPS = {
    "convert": "Turn a checkpoint of another program into a model directory.",
    "export": "Write a model for other programs.",
}

# What a user can mend. Anything else is a fault of the program and keeps its traceback.
USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command and return its exit code: 0 done, 1 an error told in one sentence.

    Args:
        argv: The words after `beta-clip`; `None` takes those of the process.

    Raises:
        SystemExit: as argparse does: 0 after `--help` and `--version`, 2 after a wrong usage.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger(__package__).setLevel(logging.INFO)
    try:
        args = build_parser(find_command(argv)).parse_args(argv)
        return args.run(args)
    except USER_ERRORS as error:
        if "--debug" in argv:
            raise
        sys.stderr.write(f"beta-clip: error: {_sentence(error)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("beta-clip: interrupted\n")
        return 130


def find_command(argv: Sequence[str]) -> Command | None:
    """The command that the words of `argv` name, if they do: options before it take no values."""
    words = tuple(word for word in argv if not word.startswith("-"))
    return next((command for command in COMMANDS if words[: len(command.words)] == command.words), None)


def build_parser(chosen: Command | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line; of the commands, only `chosen` is imported and has its arguments."""
    summary = "Train, evaluate and convert β-CLIP and FG-CLIP models."
    parser = argparse.ArgumentParser(prog="beta-clip", **_page(summary, "beta-clip train --help"))
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    groups: dict[tuple[str, ...], Any] = {(): parser.add_subparsers(title="commands", metavar="COMMAND", required=True)}
    for command in COMMANDS:
        group, name = command.words[:-1], command.words[-1]
        if group not in groups:
            page = _page(GROUPS[group[0]], f"beta-clip {' '.join(command.words)} --help")
            group_parser = groups[()].add_parser(group[0], help=GROUPS[group[0]], **page)
            groups[group] = group_parser.add_subparsers(title="kinds", metavar="KIND", required=True)
        page = _page(command.summary, command.example)
        subparser = groups[group].add_parser(name, help=command.summary, **page)
        if command is chosen:
            module = import_module(command.module, __package__)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def _sentence(error: Exception) -> str:
    """The message of an error on one line; that of the operating system without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _page(summary: str, example: str) -> dict[str, Any]:
    """What the help of every command has: a description, `--debug`, and an example at the end."""
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return {
        "parents": [debug],
        "description": summary,
        "epilog": f"example:\n  {example}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }
