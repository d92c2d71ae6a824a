"""`beta-clip train`: a configuration, a model, rows; and in the output directory a checkpoint and what led to it."""

import argparse
import logging
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, set_seed
from transformers.trainer_utils import get_last_checkpoint

from beta_clip_cli.reports import Report, add_json_argument, reporting

from ..data.collator import BetaCLIPDataCollator
from ..data.readers import load_rows
from ..data.scenes import SceneDataset
from ..data.tokenizers import clip_tokenizer_from_bpe, train_clip_tokenizer
from ..files import write_json
from ..model.configuration_beta_clip import BetaCLIPConfig
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.processing_beta_clip import BetaCLIPProcessor
from .arguments import BetaCLIPTrainingArguments
from .config import COLLATOR_KEYS, read_config
from .run_record import RESULTS_FILE, describe_run, write_config
from .trainer import BetaCLIPTrainer


logger = logging.getLogger(__name__)

LOG_FILE, CURVES_FILE = "train_log.json", "train_curves.png"
# The common values have a flag of their own: flag, its place in the configuration, type, metavar and help.
FLAGS: tuple[tuple[str, str, type, str, str], ...] = (
    ("--model", "model.from_pretrained", str, "MODEL", "directory or Hub id of a β-CLIP or plain CLIP to start from"),
    ("--train-data", "data.train", str, "DATA", "file, directory, glob of tars or Hub id of the training rows"),
    ("--eval-data", "data.eval", str, "DATA", "the same for evaluation"),
    ("--steps", "training.max_steps", int, "N", "number of optimiser steps"),
    ("--epochs", "training.num_train_epochs", float, "X", "number of epochs, where steps are not given"),
    ("--batch-size", "training.per_device_train_batch_size", int, "N", "images per device and forward pass"),
    ("--learning-rate", "training.learning_rate", float, "X", "initial learning rate of the towers"),
    ("--seed", "training.seed", int, "N", "of the weights, the order of rows, the sampling of texts"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip train`."""
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file with the sections model, data and training")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one value, as in --set data.num_phrases=10; may be given several times",
    )
    parser.add_argument("--output", "--output-dir", metavar="DIR", help="for the checkpoint (training.output_dir)")
    for flag, place, kind, metavar, text in FLAGS:
        parser.add_argument(flag, type=kind, metavar=metavar, help=f"{text} ({place})")
    parser.add_argument("--strict", action="store_true", help="a row that cannot be used is an error, and not skipped")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        metavar="DIR",
        help="go on from a checkpoint, or begin where there is none (default: the last one in the output directory)",
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """
    Trains; the report is train_results.json and where it is.

    Raises:
        ValueError: for values that cannot be.
        FloatingPointError: where the loss became NaN; the log is written and the last good checkpoint stays.
    """
    trainer = build_trainer(configuration(args), resume=bool(args.resume))
    checkpoint = args.resume
    if checkpoint is True:
        checkpoint = get_last_checkpoint(trainer.args.output_dir)
    results = train_and_report(trainer, checkpoint)
    return Report({"output": trainer.args.output_dir, **results} if trainer.is_world_process_zero() else None)


def configuration(args: argparse.Namespace) -> dict[str, Any]:
    """
    The configuration of the file, overridden by `--set`, and that by the flags.

    Raises:
        ValueError: for an unknown key, `--set` without `=`, or a configuration without training rows, model or output.
    """
    overrides: list[tuple[str, Any]] = []
    for word in args.set:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--set must be KEY=VALUE, but is {word!r}")
        overrides.append((key, value))
    for flag, place, *_ in FLAGS:
        value = getattr(args, flag.removeprefix("--").replace("-", "_"))
        if value is not None:
            overrides.append((place, value))
    if args.output is not None:
        overrides.append(("training.output_dir", args.output))
    if args.strict:
        overrides.append(("data.strict", True))
    config = read_config(args.config, overrides)
    if args.model is not None:
        config["model"].pop("from_scratch", None)
    if not config["data"].get("train"):
        raise ValueError("data.train must be given (--train-data, or in the file of --config), but is not")
    if not config["training"].get("output_dir"):
        raise ValueError("training.output_dir must be given (--output, or in the file of --config), but is not")
    if bool(config["model"].get("from_pretrained")) == bool(config["model"].get("from_scratch")):
        raise ValueError(
            "one of model.from_pretrained (--model) and model.from_scratch must be given, "
            f"but the model section has {sorted(config['model'])}"
        )
    return config


def build_trainer(config: Mapping[str, Any], *, resume: bool = False) -> BetaCLIPTrainer:
    """
    The Trainer that a configuration describes (see [`read_config`]), with its model, processor and rows.

    Raises:
        ValueError: for values that cannot be, and where the output directory holds checkpoints of an earlier run that
            is not resumed.
    """
    data = config["data"]
    _check_numbers(config["training"])
    args = BetaCLIPTrainingArguments(**config["training"])
    output_dir = Path(args.output_dir)
    if not resume and output_dir.is_dir() and get_last_checkpoint(str(output_dir)):
        raise ValueError(
            f"training.output_dir must hold no checkpoints of another run, but {output_dir} does: "
            "go on with that run (--resume), or choose another directory"
        )
    set_seed(args.seed)
    strict = bool(data.get("strict", False))
    train_rows = open_rows(data["train"], seed=args.seed, strict=strict, shuffle=True)
    eval_rows = open_rows(data["eval"], seed=args.seed, strict=strict) if data.get("eval") else None
    model, processor = build_model(config["model"], train_rows)
    settings = {name: data[name] for name in COLLATOR_KEYS if name in data}
    trainer = BetaCLIPTrainer(
        model,
        args,
        BetaCLIPDataCollator(processor, seed=args.seed, strict=strict, **settings),
        processing_class=processor,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
    )
    write_config(trainer, config)
    return trainer


def _check_numbers(training: Mapping[str, Any]) -> None:
    """`TrainingArguments` compares what it is given with numbers, whatever it is."""
    defaults = {field.name: field.default for field in fields(BetaCLIPTrainingArguments)}
    for name, value in training.items():
        default = defaults[name]
        if isinstance(value, str) and isinstance(default, int | float) and not isinstance(default, bool):
            raise ValueError(f"training.{name} must be a number, but is {value!r}")


def open_rows(source: Any, *, seed: int, strict: bool, shuffle: bool = False) -> Any:
    """
    The rows that `data.train` or `data.eval` names.

    Args:
        source: what [`load_rows`] takes as its source; or a mapping of its arguments (`source`, `columns`, …); or
            `{"scenes": 2000, "level": "medium", …}`, generated scenes (see [`SceneDataset`]).
        seed: of the shuffling of a stream.
        strict: whether a row that cannot be used is an error.
        shuffle: whether a stream is shuffled in a window, of 1,000 rows unless `shuffle_buffer` says another size.
    """
    settings = dict(source) if isinstance(source, Mapping) else {"source": source}
    if "scenes" in settings:
        return SceneDataset(settings.pop("scenes"), **settings)
    if shuffle:
        settings = {"shuffle_buffer": 1000, "seed": seed, **settings}
    return load_rows(settings.pop("source", None), **settings, strict=strict)


def build_model(settings: Mapping[str, Any], train_rows: Any) -> tuple[BetaCLIPModel, BetaCLIPProcessor]:
    """The model and its processor as the section `model` describes them; a tokenizer may be learnt from the rows."""
    tokenizer = build_tokenizer(settings.get("tokenizer"), train_rows)
    changes = dict(settings.get("config") or {})
    source = settings.get("from_pretrained")
    if source:
        model = BetaCLIPModel.from_pretrained(source, **changes)
        size = model.config.vision_config.image_size
        processor = (
            BetaCLIPProcessor.from_pretrained(source)
            if tokenizer is None
            else BetaCLIPProcessor.from_image_size(tokenizer, image_size=size)
        )
    else:
        if tokenizer is None:
            raise ValueError("model.tokenizer must be given for a model from scratch, but is not")
        sizes = {**settings["from_scratch"], **changes}
        ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        sizes["text_config"] = {**(sizes.get("text_config") or {}), **ids, "vocab_size": len(tokenizer)}
        model = BetaCLIPModel(BetaCLIPConfig(**sizes))
        processor = BetaCLIPProcessor.from_image_size(tokenizer, image_size=model.config.vision_config.image_size)
    if len(processor.tokenizer) > model.config.text_config.vocab_size:
        raise ValueError(
            f"the tokenizer must have at most the model's {model.config.text_config.vocab_size} ids, "
            f"but has {len(processor.tokenizer)}"
        )
    positions = model.config.text_config.max_position_embeddings
    if model.config.use_long_text_path:
        processor.short_max_length = min(processor.short_max_length or positions, positions)
        positions = model.config.long_text_max_position_embeddings
    processor.max_length = min(processor.max_length, positions)
    return model, processor.squash_images() if settings.get("squash_images") else processor


def build_tokenizer(settings: Any, train_rows: Any) -> Any:
    """
    The tokenizer that `model.tokenizer` names.

    Args:
        settings: OpenAI's file of merges (`bpe_simple_vocab_16e6.txt.gz`), a directory or Hub id,
            `{"vocab_size": 2048}` (learnt from the captions of the training rows), or `None`: the checkpoint's own.
        train_rows: rows with captions, read where a tokenizer is learnt.
    """
    if settings is None:
        return None
    if isinstance(settings, Mapping):
        if set(settings) != {"vocab_size"}:
            raise ValueError(f"model.tokenizer must be a path, an id or a vocab_size, but is {dict(settings)}")
        return train_clip_tokenizer(_captions(train_rows), vocab_size=settings["vocab_size"])
    if Path(settings).is_file():
        return clip_tokenizer_from_bpe(settings)
    return AutoTokenizer.from_pretrained(settings)


def _captions(rows: Any) -> Iterable[str]:
    if not hasattr(rows, "__len__"):
        raise ValueError("model.tokenizer must be a file or directory for a stream of rows, which is not read twice")
    return (rows[index]["caption"] for index in range(len(rows)))


def train_and_report(trainer: BetaCLIPTrainer, checkpoint: str | None = None) -> dict[str, Any]:
    """
    Trains, with an evaluation before and after where there are rows for it, and writes the output directory: the model
    with its processor (the best checkpoint under `load_best_model_at_end`), log, results and curves.

    Returns:
        `{"before": metrics | None, "after": metrics | None, "train": metrics, "skipped_rows": …, "run": …}`, as in
        `train_results.json`; of `run` see [`describe_run`].

    Raises:
        FloatingPointError: where the loss became NaN; the log is written first.
    """
    output_dir = Path(trainer.args.output_dir)
    has_rows = trainer.eval_dataset is not None
    before = trainer.evaluate() if has_rows and checkpoint is None else None
    log = [] if before is None else [{**before, "step": 0}]
    try:
        trained = trainer.train(resume_from_checkpoint=checkpoint)
        after = (_last_evaluation(trainer) or trainer.evaluate()) if has_rows else None
    finally:
        log += trainer.state.log_history
        if trainer.is_world_process_zero():
            write_json(log, output_dir / LOG_FILE, allow_nan=True)
    trainer.save_model()
    results = {
        "before": before,
        "after": after,
        "train": trained.metrics,
        "best_checkpoint": trainer.state.best_model_checkpoint,
        "skipped_rows": _skipped_rows(trainer),
        "run": describe_run(trainer),
    }
    if trainer.is_world_process_zero():
        write_json(results, output_dir / RESULTS_FILE, allow_nan=True)
        _draw_curves(log, output_dir / CURVES_FILE)
        logger.info("the model, its log and results are in %s", output_dir)
    return results


def _last_evaluation(trainer: BetaCLIPTrainer) -> dict[str, Any] | None:
    """The evaluation after the last step, if there was one and no better checkpoint has replaced those weights."""
    if trainer.args.load_best_model_at_end:
        return None
    records = (record for record in trainer.state.log_history if record["step"] == trainer.state.global_step)
    return next((record for record in records if any(name.endswith("_t2i_r1") for name in record)), None)


def _skipped_rows(trainer: BetaCLIPTrainer) -> dict[str, int]:
    """Rows skipped while reading the training rows, in training batches and in evaluations, by all processes."""
    reading = getattr(trainer.train_dataset, "skipped", 0)
    # A stream counts the rows of its process; a data set of rows by index is the same in each, and lists them.
    own = [
        reading if isinstance(reading, int) else 0,
        trainer.data_collator.skipped,
        trainer.eval_data_collator.skipped,
    ]
    total = trainer.accelerator.reduce(torch.tensor(own, device=trainer.args.device)).tolist()
    total[0] = total[0] if isinstance(reading, int) else len(reading)
    return dict(zip(("reading", "training", "evaluation"), total, strict=True))


def _draw_curves(log_history: list[dict[str, Any]], path: Path) -> None:
    from ..visualize import plot_training_curves

    try:
        plot_training_curves(log_history, path)
    except (ImportError, ValueError) as error:  # no matplotlib, or a run too short to have logged a loss
        logger.info("no curves are drawn: %s", error)


__all__ = ["add_arguments", "build_trainer", "run", "train_and_report"]
