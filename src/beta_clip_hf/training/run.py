"""A training run from its settings to an output directory with a model, its log, its results and curves."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..files import write_json
from .build import build_trainer
from .checkpoints import find_newest_whole
from .config import check_complete
from .run_record import RESULTS_FILE, describe_run, last_evaluation
from .trainer import BetaCLIPTrainer


logger = logging.getLogger(__name__)

LOG_FILE = "train_log.json"
CURVES_FILE = "train_curves.png"


@dataclass(frozen=True)
class RunSettings:
    """
    Says what a training run does and from where it continues.

    Args:
        config: The sections `model`, `data` and `training`, as [`read_config`] returns them.
        resume: Whether an earlier run in the output directory is continued. If it has no checkpoint yet, the run
            begins.
        checkpoint: The directory of the checkpoint from which a resumed run continues. `None` takes the last one in
            the output directory.
    """

    config: Mapping[str, Any]
    resume: bool = False
    checkpoint: str | None = None

    def find_checkpoint(self, output_dir: str) -> str | None:
        """Returns the checkpoint from which the run continues, or `None` if it begins."""
        if not self.resume:
            return None
        if self.checkpoint is not None:
            return self.checkpoint
        found = find_newest_whole(output_dir).path
        return None if found is None else str(found)


@dataclass(frozen=True)
class FinishedRun:
    """
    Holds the outcome of a training run.

    Args:
        output_dir: The directory that was written.
        results: The content of `train_results.json`, see [`train_and_report`].
        is_main_process: Whether this process is the one that reports. Of several processes it is the first.
    """

    output_dir: str
    results: dict[str, Any]
    is_main_process: bool


def train(settings: RunSettings) -> FinishedRun:
    """
    Trains the model of a configuration and writes the output directory.

    Raises:
        ValueError: if the configuration is incomplete or a value is not possible.
        FloatingPointError: if the loss or a weight became NaN. The log is written and the last good checkpoint stays.
    """
    check_complete(settings.config)
    trainer = build_trainer(settings.config, resume=settings.resume)
    results = train_and_report(trainer, settings.find_checkpoint(trainer.args.output_dir))
    return FinishedRun(
        output_dir=trainer.args.output_dir,
        results=results,
        is_main_process=trainer.is_world_process_zero(),
    )


def train_and_report(trainer: BetaCLIPTrainer, checkpoint: str | None = None) -> dict[str, Any]:
    """
    Trains and writes the output directory: the model with its processor, the log, the results and the curves.

    If there are rows for it, the model is evaluated before and after the training. With `load_best_model_at_end` the
    saved model is the best checkpoint.

    Args:
        trainer: The Trainer.
        checkpoint: The directory of the checkpoint from which the run continues.

    Returns:
        The content of `train_results.json`: `before` and `after` (metrics or `None`), `train` (metrics of the
        training), `best_checkpoint`, `skipped_rows` and `run` (see [`describe_run`]).

    Raises:
        FloatingPointError: if the loss or a weight became NaN. The log is written first.
    """
    before = _evaluation_before(trainer, checkpoint)
    try:
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
        after = _evaluation_after(trainer)
    finally:
        # A run that failed leaves its log, too.
        log = _full_log(trainer, before)
        _write_for_all(trainer, log, LOG_FILE)
    trainer.save_model()
    results = {
        "before": before,
        "after": after,
        "train": metrics,
        "best_checkpoint": trainer.state.best_model_checkpoint,
        "skipped_rows": _skipped_rows(trainer),
        "run": describe_run(trainer),
    }
    _write_for_all(trainer, results, RESULTS_FILE)
    if trainer.is_world_process_zero():
        output_dir = Path(trainer.args.output_dir)
        _draw_curves(log, output_dir / CURVES_FILE, trainer.evaluated_sets)
        logger.info("the model, its log and results are in %s", output_dir)
    return results


def _evaluation_before(trainer: BetaCLIPTrainer, checkpoint: str | None) -> dict[str, Any] | None:
    # A resumed run begins in the middle: what it is now says nothing about the model before the training.
    if trainer.eval_dataset is None or checkpoint is not None:
        return None
    return trainer.evaluate()


def _evaluation_after(trainer: BetaCLIPTrainer) -> dict[str, Any] | None:
    if trainer.eval_dataset is None:
        return None
    return last_evaluation(trainer) or trainer.evaluate()


def _full_log(trainer: BetaCLIPTrainer, before: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Returns the log records of a Trainer, after that of the evaluation before the training."""
    log: list[dict[str, Any]] = []
    if before is not None:
        log.append({**before, "step": 0})
    log.extend(trainer.state.log_history)
    return log


def _write_for_all(trainer: BetaCLIPTrainer, value: Any, name: str) -> None:
    """Writes a JSON file into the output directory, from the first of all processes."""
    if trainer.is_world_process_zero():
        # A loss that was not finite belongs into the log.
        write_json(value, Path(trainer.args.output_dir) / name, allow_nan=True)


def _skipped_rows(trainer: BetaCLIPTrainer) -> dict[str, int]:
    """Counts the rows that all processes skipped: while reading, in training batches and in evaluations."""
    counts = {
        "reading": 0,
        "training": trainer.data_collator.skipped,
        "evaluation": trainer.eval_data_collator.skipped,
    }
    skipped_while_reading = getattr(trainer.train_dataset, "skipped", 0)
    if isinstance(skipped_while_reading, int):
        # A stream counts the rows of its own process.
        counts["reading"] = skipped_while_reading
    counts_of_process = torch.tensor(list(counts.values()), device=trainer.args.device)
    totals = trainer.accelerator.reduce(counts_of_process).tolist()
    skipped = dict(zip(counts, totals, strict=True))
    if not isinstance(skipped_while_reading, int):
        # A data set that is read by index lists its rows, and each process has the same list.
        skipped["reading"] = len(skipped_while_reading)
    return skipped


def _draw_curves(log: list[dict[str, Any]], path: Path, data_names: list[str]) -> None:
    from ..visualize import plot_training_curves

    try:
        plot_training_curves(log, path, data_names=data_names)
    except (ImportError, ValueError) as error:
        # matplotlib is missing, or the run was too short to log a loss.
        logger.info("no curves are drawn: %s", error)


__all__ = ["FinishedRun", "RunSettings", "train", "train_and_report"]
