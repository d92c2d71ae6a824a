"""`beta-clip train`: trains or fine-tunes a model."""

import argparse
from typing import Any, NamedTuple

from .reports import Report, add_json_argument, reporting


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
        "directory or Hub id of the β-CLIP or plain CLIP to start from",
    ),
    Flag(
        "--train-data",
        "data.train",
        str,
        "DATA",
        "file, directory, glob of tars or Hub id of the training rows",
    ),
    Flag(
        "--skip",
        "data.train.skip",
        int,
        "N",
        "number of records at the start of the training data that are held out",
    ),
    Flag(
        "--take",
        "data.train.take",
        int,
        "N",
        "largest number of records of the training data that are used",
    ),
    Flag(
        "--eval-data",
        "data.eval",
        str,
        "DATA",
        "file, directory, glob of tars or Hub id of the evaluation rows",
    ),
    Flag(
        "--steps",
        "training.max_steps",
        int,
        "N",
        "number of optimiser steps",
    ),
    Flag(
        "--epochs",
        "training.num_train_epochs",
        float,
        "X",
        "number of epochs, if no steps are given",
    ),
    Flag(
        "--batch-size",
        "training.per_device_train_batch_size",
        int,
        "N",
        "images per device and forward pass",
    ),
    Flag(
        "--learning-rate",
        "training.learning_rate",
        float,
        "X",
        "initial learning rate of the towers",
    ),
    Flag(
        "--seed",
        "training.seed",
        int,
        "N",
        "seed of new weights, the order of rows and the sampling of texts",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip train`."""
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file with the sections model, data and training")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one value, as in --set data.num_phrases=10; may be given several times",
    )
    parser.add_argument(
        "--output", "--output-dir", metavar="DIR", help="directory to write the model to (training.output_dir)"
    )
    for flag in FLAGS:
        help_text = f"{flag.help_text} ({flag.key})"
        parser.add_argument(flag.name, type=flag.value_type, metavar=flag.metavar, help=help_text)
    parser.add_argument("--strict", action="store_true", help="stop at a row that cannot be used, do not skip it")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        metavar="DIR",
        help="continue from a checkpoint, or begin if there is none (default: the last one in the output directory)",
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Trains. The report holds train_results.json and the output directory."""
    config = configuration(args)

    from beta_clip_hf.training.run import RunSettings, train

    # `--resume` without a directory is True.
    checkpoint = None
    if isinstance(args.resume, str):
        checkpoint = args.resume
    finished = train(RunSettings(config, resume=bool(args.resume), checkpoint=checkpoint))
    if not finished.is_main_process:
        return Report(None)
    return Report({"output": finished.output_dir, **finished.results})


def configuration(args: argparse.Namespace) -> dict[str, Any]:
    """
    Returns the configuration of the file. `--set` overrides the file, and the flags override `--set`.

    Raises:
        ValueError: for an unknown key, or for a `--set` without `=`.
    """
    overrides = [_parse_setting(word) for word in args.set]
    for flag in FLAGS:
        value = getattr(args, flag.name.removeprefix("--").replace("-", "_"))
        if value is not None:
            overrides.append((flag.key, value))
    if args.output is not None:
        overrides.append(("training.output_dir", args.output))
    if args.strict:
        overrides.append(("data.strict", True))

    from beta_clip_hf.training.config import read_config

    config = read_config(args.config, overrides)
    # A file that describes a model from scratch can also be run from a checkpoint.
    if args.model is not None:
        config["model"].pop("from_scratch", None)
    return config


def _parse_setting(word: str) -> tuple[str, Any]:
    """Splits KEY=VALUE."""
    key, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"--set must be KEY=VALUE, but is {word!r}")
    return key, value
