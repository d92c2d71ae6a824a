"""`beta-clip train`: trains or fine-tunes a model."""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from .arguments import add_reading_arguments, reading_settings, single_or_list
from .errors import masked, visible
from .reports import Report, add_json_argument, reporting


# Keys of the two sets of rows.
ROW_SETS = ("data.train", "data.eval")
# How evaluation rows are read, too. Which records are read (`--skip`, `--take`) is for the training rows alone.
_EVAL_READING = ("format", "columns", "image_root", "delimiter", "encoding", "group")


class Flag(NamedTuple):
    """An option that sets one value of the configuration."""

    name: str
    key: str
    """The value's place in the configuration: "training.max_steps"."""
    value_type: type
    metavar: str
    help_text: str


FLAGS = (
    Flag(
        "--model",
        "model.from_pretrained",
        str,
        "MODEL",
        "directory or Hub id of the model to start from, such as a CLIP, β-CLIP, FG-CLIP or SigLIP 2",
    ),
    Flag("--train-data", "data.train", str, "DATA", "training rows: files, a directory, a glob or a Hub dataset"),
    Flag("--skip", "data.train.skip", int, "N", "leave out the first N records of the training data"),
    Flag("--take", "data.train.take", int, "N", "use at most N records of the training data, after --skip"),
    Flag("--eval-data", "data.eval", str, "DATA", "evaluation rows: files, a directory, a glob or a Hub dataset"),
    Flag("--steps", "training.max_steps", int, "N", "number of optimiser steps; 0 trains nothing"),
    Flag(
        "--epochs",
        "training.num_train_epochs",
        float,
        "X",
        "number of epochs, instead of the number of steps in the configuration",
    ),
    Flag("--batch-size", "training.per_device_train_batch_size", int, "N", "images per device and forward pass"),
    Flag("--learning-rate", "training.learning_rate", float, "X", "initial learning rate of the towers"),
    Flag(
        "--max-bad-fraction",
        "training.max_bad_fraction",
        float,
        "X",
        "stop if more than this share of the rows cannot be used, for example 0.01",
    ),
    Flag("--seed", "training.seed", int, "N", "random seed of new weights, the order of rows and the drawn texts"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip train`."""
    parser.add_argument(
        "photos",
        nargs="*",
        metavar="DATA",
        help="training rows, the same as --train-data; without --config, the number of photos chooses the recipe",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file with the sections model, data and training")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one value of the configuration, for example data.num_phrases=10; may be given several times",
    )
    # The second name is that of transformers' training arguments.
    parser.add_argument(
        "--output", "--output-dir", metavar="DIR", help="directory to write the model into (training.output_dir)"
    )
    for flag in FLAGS:
        # Several files are a list.
        nargs = "+" if flag.key in ROW_SETS else None
        help_text = f"{flag.help_text} ({flag.key})"
        parser.add_argument(flag.name, type=flag.value_type, metavar=flag.metavar, nargs=nargs, help=help_text)
    add_reading_arguments(parser, with_range=False)
    parser.add_argument(
        "--eval-fraction",
        type=float,
        metavar="X",
        help="share of the photos to hold out and evaluate on; without --config it is 0.1 (data.eval_fraction)",
    )
    parser.add_argument(
        "--eval-split", metavar="NAME", help="which split of the evaluation data to read (default: train)"
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first row that cannot be used, instead of skipping it"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        metavar="DIR",
        help="continue a run, or begin if there is no checkpoint (default: the newest whole checkpoint in the output "
        "directory)",
    )
    parser.add_argument(
        "--allow-changed",
        action="append",
        default=[],
        metavar="KEY",
        help="allow a resumed run to differ from its checkpoint in this setting or section, for example "
        "training.max_steps, processes or versions; may be given several times",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a finished model and checkpoints in the output directory"
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Trains. The report holds train_results.json and the output directory."""
    if args.resume and args.overwrite:
        raise ValueError("--resume and --overwrite must not be given together: a run goes on, or begins again")
    config = configuration(args)
    # An error about the model names it, also if a file has named it.
    args.model = config["model"].get("from_pretrained")
    train_rows = None
    if chooses_recipe(args, config):
        config, train_rows = _with_recipe(config)

    from beta_clip_hf.training.record.outcome import format_outcome
    from beta_clip_hf.training.run import RunSettings, train
    from beta_clip_hf.training.signals import RunStopped

    # `--resume` without a directory is True.
    checkpoint = None
    if isinstance(args.resume, str):
        checkpoint = args.resume
    settings = RunSettings(
        config,
        resume=bool(args.resume),
        checkpoint=checkpoint,
        overwrite=args.overwrite,
        allowed_changes=args.allow_changed,
        train_rows=train_rows,
    )
    try:
        finished = train(settings)
    except RunStopped as stopped:
        return _report_stop(stopped, args)
    if not finished.is_main_process:
        return Report(None)
    parts = [format_outcome(finished.results), next_commands(args, config, finished.output_dir)]
    return Report({"output": finished.output_dir, **finished.results}, "\n\n".join(filter(None, parts)))


def chooses_recipe(args: argparse.Namespace, config: Mapping[str, Any]) -> bool:
    """Tells whether the number of photos chooses the configuration: photos and a model are named, and no file."""
    return bool(args.photos) and args.config is None and bool(config["model"].get("from_pretrained"))


def _with_recipe(config: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Opens the photos, and fills the configuration with the recipe for their number."""
    from beta_clip_hf.training.setup.build import open_train_rows
    from beta_clip_hf.training.setup.config import check_values
    from beta_clip_hf.training.setup.recipe import with_recipe

    check_values(config)
    rows = open_train_rows(config)
    if not hasattr(rows, "__len__"):
        raise ValueError(
            f"the photos must be counted before a recipe is chosen for them, but {config['data']['train']!r} is a "
            "stream: give a recipe, for example --config examples/configs/small_collection.yaml, with --train-data "
            "and --eval-data"
        )
    filled = with_recipe(config, len(rows))
    if not filled["training"].get("output_dir"):
        name = Path(str(_source_of(filled) or "photos").rstrip("/")).name.partition(".")[0]
        filled["training"]["output_dir"] = f"runs/{name or 'photos'}"
    return filled, rows


def next_commands(args: argparse.Namespace, config: Mapping[str, Any], output: str) -> str:
    """Returns the commands that come after a training; "" if the photos are not in one place."""
    source = _source_of(config)
    if not isinstance(source, str):
        return ""
    reading = list(chain.from_iterable(_reading_words(args)))
    if config["data"].get("eval_fraction"):
        # The photos that were held out. Unless it is told, `evaluate` reads the split "test", where they are not.
        evaluated = [source, "--select", f"{output}/held_out.txt", "--split", args.split or "train"]
    elif args.eval_data:
        evaluated = [args.eval_data[0]]
        if args.eval_split or not os.path.isfile(args.eval_data[0]):
            evaluated += ["--split", args.eval_split or "train"]
    else:
        evaluated = ["PHOTOS"]
    indexed = [source, *reading]
    if args.split:
        indexed += ["--split", args.split]
    # A bare folder would be indexed without its captions, which the training has read.
    if os.path.isdir(source) and args.format is None:
        from beta_clip_hf.data.readers import format_of_rows

        rows_format = format_of_rows(Path(source), args.split or "train")
        if rows_format is not None:
            indexed += ["--format", rows_format]
    run_name = Path(output).name
    measuring = ["--model", output, "--tasks", "photos", "--output", f"{output}/evaluation"]
    commands = [
        ["evaluate", *measuring, "--data", *evaluated, *reading],
        ["index", *indexed, "--output", f"{output}.index", "--model", output],
        ["push", output, f"my-name/{run_name}", "--dry-run", f"{output}-upload"],
    ]
    lines = [f"  beta-clip {shlex.join(words)}" for words in commands]
    return "Next: measure more, search the photos, look at what would be published:\n" + "\n".join(lines)


def _source_of(config: Mapping[str, Any]) -> Any:
    train = config["data"].get("train")
    return train.get("source") if isinstance(train, Mapping) else train


def _reading_words(args: argparse.Namespace) -> Iterator[list[str]]:
    """Yields the options that say how the photos are read, for another command."""
    for name in ("format", "image_root", "delimiter", "encoding"):
        if getattr(args, name) is not None:
            yield [f"--{name.replace('_', '-')}", getattr(args, name)]
    if args.columns:
        yield ["--columns", *args.columns]
    if args.no_group:
        yield ["--no-group"]


def _report_stop(stopped: Any, args: argparse.Namespace) -> Report:
    """Says on the standard error that a signal has ended the run, and how to go on. One of all processes says it."""
    if os.environ.get("RANK", "0") == "0":
        message = f"beta-clip: {stopped}"
        if stopped.can_resume:
            message += f"; go on with: {resuming_command(args.words)}"
        sys.stderr.write(visible(masked(message)) + "\n")
    return Report(None, code=stopped.code)


def resuming_command(words: Sequence[str]) -> str:
    """
    Returns the command line that continues a run. It has no token: the environment has one, or it is given again.

    Args:
        words: The words after `beta-clip` that have started it.
    """
    kept: list[str] = []
    before = ""
    for word in words:
        is_directory = before == "--resume" and not word.startswith("-")
        is_token = before == "--set" and "token" in word
        is_of_resuming = word in ("--resume", "--overwrite") or word.startswith("--resume=") or is_directory
        if is_token:
            # The `--set` before it goes, too.
            kept.pop()
        elif not is_of_resuming:
            kept.append(word)
        before = word
    return f"beta-clip {shlex.join([*kept, '--resume'])}"


def configuration(args: argparse.Namespace) -> dict[str, Any]:
    """
    Returns the configuration of the file. `--set` overrides the file, and the flags override `--set`.

    Raises:
        ValueError: for an unknown key, for a `--set` without `=`, or for steps and epochs at once.
    """
    _check_flags(args)

    from beta_clip_hf.training.setup.config import parse_value, read_config

    settings = [_parse_setting(word) for word in args.set]
    values = _flag_values(args)
    # A source replaces another one with all its settings, so it comes before what `--set` says of it.
    overrides: list[tuple[str, Any]] = [(key, values[key]) for key in ROW_SETS if key in values]
    overrides += [(key, parse_value(text)) for key, text in settings]
    for key in ROW_SETS:
        if key in values and any(name == key or name.startswith(f"{key}.") for name, _ in settings):
            overrides.append((f"{key}.source", values[key]))
    overrides += [(key, value) for key, value in values.items() if key not in ROW_SETS]
    overrides += _reading_overrides(args)
    if args.output is not None:
        overrides.append(("training.output_dir", args.output))
    if args.strict:
        overrides.append(("data.strict", True))

    config = read_config(args.config, overrides, is_parsed=True)
    # A file that describes a model from scratch can also be run from a checkpoint.
    if args.model is not None:
        config["model"].pop("from_scratch", None)
    return config


def _check_flags(args: argparse.Namespace) -> None:
    """Raises `ValueError` for flags that contradict each other, and for negative lengths of a run."""
    if args.steps is not None and args.epochs is not None:
        raise ValueError("--steps and --epochs must not be given together: each says how long the run is")
    if args.photos and args.train_data:
        raise ValueError("the photos must be named once, but are named with --train-data too")
    for name in ("steps", "epochs"):
        value = getattr(args, name)
        if value is not None and value < 0:
            raise ValueError(f"--{name} must be at least 0, but is {value}")


def _flag_values(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the values that the flags set, by their keys in the configuration."""
    values: dict[str, Any] = {}
    if args.epochs is not None:
        # Steps of the file would win over epochs. -1 stands for none.
        values["training.max_steps"] = -1
    for flag in FLAGS:
        value = getattr(args, flag.name.removeprefix("--").replace("-", "_"))
        if value is not None:
            values[flag.key] = single_or_list(value) if flag.key in ROW_SETS else value
    if args.photos:
        values["data.train"] = single_or_list(args.photos)
    if args.eval_fraction is not None:
        values["data.eval_fraction"] = args.eval_fraction
    return values


def _reading_overrides(args: argparse.Namespace) -> list[tuple[str, Any]]:
    """Returns how the rows are read: the training rows, and those of `--eval-data` in the same way."""
    reading = reading_settings(args)
    overrides = [(f"data.train.{name}", value) for name, value in reading.items()]
    if args.eval_data is not None:
        overrides += [(f"data.eval.{name}", value) for name, value in reading.items() if name in _EVAL_READING]
    if args.eval_split is not None:
        overrides.append(("data.eval.split", args.eval_split))
    return overrides


def _parse_setting(word: str) -> tuple[str, str]:
    """Splits KEY=VALUE."""
    key, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"--set must be KEY=VALUE, but is {word!r}")
    return key, value
