"""A training run from its settings to an output directory with a model, its log, its results and curves."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from ..data.holding_out import HeldOutPart
from ..files import write_json, write_text
from ..inference.processes import Processes
from .arguments import BetaCLIPTrainingArguments
from .companions import Companions
from .record.counted_rows import list_skipped
from .record.image_record import record_images
from .record.run_identity import check_allowed_keys, find_changes, refuse_changes
from .record.run_record import RESULTS_FILE, describe_run, last_evaluation, write_config
from .saving.checkpoints import finish_interrupted
from .saving.choice import choose_checkpoint
from .saving.last_save import KeptElsewhere, keep_elsewhere, save_last_model
from .saving.output_dir import check_free, discard_earlier_run, held_directory, read_finished
from .setup.build import build_arguments, prepare_trainer
from .setup.config import check_complete
from .setup.plan import Plan
from .signals import STOPPED, NoEndOfEpoch, RunStopped, StopAtSignal, StopSignals
from .trainer import BetaCLIPTrainer


logger = logging.getLogger(__name__)

LOG_FILE = "train_log.json"
CURVES_FILE = "train_curves.png"
HELD_OUT_FILE = "held_out.txt"


@dataclass(frozen=True)
class RunSettings:
    """
    Says what a training run does and from where it continues.

    Args:
        config: The sections `model`, `data` and `training`, as [`read_config`] returns them.
        resume: Whether an earlier run in the output directory is continued. If it has no whole checkpoint yet, the run
            begins.
        checkpoint: The directory of the checkpoint from which a resumed run continues. `None` takes the newest whole
            one in the output directory.
        overwrite: Whether a finished model and the checkpoints of an earlier run may be replaced.
        allowed_changes: Settings or sections in which a resumed run may differ from its checkpoint, as
            "training.max_steps" or "versions".
        train_rows: The rows of `data.train`, if they are open already.
    """

    config: Mapping[str, Any]
    resume: bool = False
    checkpoint: str | None = None
    overwrite: bool = False
    allowed_changes: Sequence[str] = ()
    train_rows: Any = None


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
    Trains the model of a configuration and writes the output directory. A run that has ended is left as it is.

    SIGTERM, SIGINT, SIGHUP and SIGUSR1 make it save a checkpoint and end, see [`StopSignals`].

    Raises:
        ValueError: if the configuration is incomplete or a value is not possible, if another run holds the output
            directory or has left a model in it, or if a resumed run differs from its checkpoint.
        FloatingPointError: if the loss or a weight became NaN. The log is written and the last good checkpoint stays.
        OSError: if the model cannot be saved. The message says where it is kept.
        RunStopped: if a signal came.
    """
    check_complete(settings.config)
    check_allowed_keys(settings.allowed_changes)
    with StopSignals() as signals:
        args = build_arguments(settings.config["training"])
        processes = Processes()
        with held_directory(args.output_dir, processes) as lock:
            touch = lock.touch if processes.rank == 0 else None
            with Companions(processes, args.output_dir, touch):
                return _train_alone(settings, args, processes, signals)


def _train_alone(
    settings: RunSettings, args: BetaCLIPTrainingArguments, processes: Processes, signals: StopSignals
) -> FinishedRun:
    """Trains in an output directory that no other run writes."""
    output_dir = args.output_dir
    checkpoint, finished = _look_at_directory(settings, output_dir, processes)
    trainer = prepare_trainer(settings.config, args, settings.train_rows)
    if finished is not None:
        changes = find_changes(finished["run"].get("identity") or {}, trainer.identity)
        if not any(change.is_of_recipe for change in changes):
            if trainer.is_world_process_zero():
                logger.info("the run in %s is finished: nothing is done", output_dir)
            return FinishedRun(output_dir, finished, trainer.is_world_process_zero())
        refuse_changes(changes, settings.allowed_changes, output_dir)
        if checkpoint is None:
            raise ValueError(
                f"a finished run must have a checkpoint to go on from, but {output_dir} has none: choose another "
                "directory, or begin again with --overwrite"
            )
    trainer.allowed_changes = settings.allowed_changes
    # Before anything is written: a resumed run that differs must leave everything as it is.
    trainer.begin_leg(checkpoint)
    if trainer.is_world_process_zero():
        if settings.overwrite and not settings.resume:
            discard_earlier_run(output_dir)
        elif finished is not None:
            finished["run"]["finished"] = False
            write_json(finished, Path(output_dir) / RESULTS_FILE, allow_nan=True)
    write_config(trainer)
    record_images(trainer)
    _write_held_out(trainer)
    results = train_and_report(trainer, checkpoint, signals)
    return FinishedRun(output_dir, results, trainer.is_world_process_zero())


def _look_at_directory(
    settings: RunSettings, output_dir: str, processes: Processes
) -> tuple[str | None, dict[str, Any] | None]:
    """Returns the checkpoint to continue from, and the results of a run that has ended there."""
    if processes.rank == 0:
        finish_interrupted(output_dir)
    checkpoint, finished = None, None
    if settings.resume:
        checkpoint = choose_checkpoint(processes, output_dir, settings.checkpoint)
        if settings.checkpoint is None:
            found = read_finished(output_dir) if processes.rank == 0 else None
            finished = processes.broadcast(found)
    if checkpoint is None and finished is None and not settings.overwrite:
        problem = None
        if processes.rank == 0:
            try:
                check_free(output_dir, resume=settings.resume)
            except ValueError as error:
                problem = str(error)
        problem = processes.broadcast(problem)
        if problem is not None:
            raise ValueError(problem)
    return checkpoint, finished


def train_and_report(
    trainer: BetaCLIPTrainer, checkpoint: str | None = None, signals: StopSignals | None = None
) -> dict[str, Any]:
    """
    Trains and writes the output directory: the model with its processor, the log, the results and the curves.

    If there are rows for it, the model is evaluated before and after the training. With `load_best_model_at_end` the
    saved model is the best checkpoint. The results of a resumed run are those of the whole run.

    Args:
        trainer: The Trainer.
        checkpoint: The directory of the checkpoint from which the run continues.
        signals: Signals that end the run after a step.

    Returns:
        The content of `train_results.json`: `before` and `after` (metrics or `None`), `train` (metrics of the
        training), `best_checkpoint`, `skipped_rows` and `run` (see [`describe_run`]).

    Raises:
        FloatingPointError: if the loss or a weight became NaN. The log is written first.
        OSError: if the model cannot be saved. The message says where it is kept.
        RunStopped: if a signal came.
    """
    if not trainer.is_leg_begun:
        trainer.begin_leg(checkpoint)
    if signals is not None:
        _watch_signals(trainer, signals)
    plan = Plan(trainer)
    trainer.add_callback(plan)
    plan.tell()
    list_skipped(trainer, is_resumed=checkpoint is not None)
    if trainer.eval_dataset is not None and checkpoint is None:
        if trainer.is_world_process_zero():
            logger.info("evaluating the model before the training")
        trainer.progress.before = trainer.evaluate()
    try:
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    except BaseException:
        # A run that failed leaves its log, too.
        _write_log(trainer)
        raise
    if signals is not None and signals.agreed is not None:
        _write_log(trainer)
        _end_stopped(trainer, signals.agreed)
    # Before the evaluation, which may take long: a kill in it must not cost the model.
    kept = _save_model(trainer)
    folder = Path(trainer.args.output_dir) if kept is None else Path(kept.folder)
    after = _evaluation_after(trainer)
    trainer.measure_leg()
    results = {
        "before": trainer.progress.before,
        "after": after,
        "train": metrics,
        "best_checkpoint": trainer.state.best_model_checkpoint,
        "skipped_rows": _skipped_rows(trainer),
        "run": describe_run(trainer, folder),
    }
    log = _write_log(trainer, folder)
    if trainer.is_world_process_zero():
        write_json(results, folder / RESULTS_FILE, allow_nan=True)
    if kept is not None:
        raise kept
    if trainer.is_world_process_zero():
        _draw_curves(log, folder / CURVES_FILE, trainer.evaluated_sets)
        logger.info("the model, its log and results are in %s", folder)
    if trainer.args.push_to_hub:
        trainer.push_to_hub(commit_message="Model save", revision=trainer.args.hub_revision)
    return results


def _watch_signals(trainer: BetaCLIPTrainer, signals: StopSignals) -> None:
    """Makes the training save and end after a step in which a signal came."""
    # The first of all callbacks: the guard against NaN looks at the weights if a save is due.
    trainer.callback_handler.callbacks.insert(0, StopAtSignal(signals, trainer.processes))
    trainer.add_callback(NoEndOfEpoch(signals))


def _write_held_out(trainer: BetaCLIPTrainer) -> None:
    """Writes the ids of the photos that are held out, for `beta-clip evaluate --select`."""
    rows: Any = trainer.eval_dataset
    has_ids = isinstance(rows, HeldOutPart) and hasattr(rows.rows, "record_ids")
    if has_ids and trainer.is_world_process_zero():
        lines = [f"{record_id}\n" for record_id in rows.record_ids()]
        write_text(Path(trainer.args.output_dir) / HELD_OUT_FILE, "".join(lines))


def _save_model(trainer: BetaCLIPTrainer) -> KeptElsewhere | None:
    """Saves the model. Returns the error if it had to be kept elsewhere: the results follow it there."""
    try:
        save_last_model(trainer)
    except KeptElsewhere as error:
        return error
    return None


def _end_stopped(trainer: BetaCLIPTrainer, number: int) -> None:
    """
    Ends a run that a signal has stopped.

    Raises:
        RunStopped: always.
    """
    step = trainer.state.global_step
    name = Signals(number).name
    if trainer.last_saved_step == step:
        message = f"stopped by {name} after step {step}: saved in {trainer.last_checkpoint}"
        raise RunStopped(message, STOPPED, can_resume=True)
    folder = keep_elsewhere(trainer, trainer.save_checkpoint_to)
    message = (
        f"stopped by {name} after step {step}: {trainer.args.output_dir} could not be written, because "
        f"{trainer.failed_save}; the checkpoint is kept in {folder}/checkpoint-{step}"
    )
    raise RunStopped(message, STOPPED)


def _evaluation_after(trainer: BetaCLIPTrainer) -> dict[str, Any] | None:
    if trainer.eval_dataset is None:
        return None
    return last_evaluation(trainer) or trainer.evaluate()


def _write_log(trainer: BetaCLIPTrainer, folder: Path | None = None) -> list[dict[str, Any]]:
    """Writes and returns the log records of a Trainer, after that of the evaluation before the training."""
    log: list[dict[str, Any]] = []
    if trainer.progress.before is not None:
        log.append({**trainer.progress.before, "step": 0})
    log.extend(trainer.state.log_history)
    if trainer.is_world_process_zero():
        path = (folder or Path(trainer.args.output_dir)) / LOG_FILE
        try:
            # A loss that is not finite belongs in the log.
            write_json(log, path, allow_nan=True)
        except OSError as error:
            # A log that cannot be written must not hide the error that ended the run.
            logger.error("%s cannot be written: %s", path, error.strerror or error)
    return log


def _skipped_rows(trainer: BetaCLIPTrainer) -> dict[str, int]:
    """Counts the rows that all processes skipped, over all legs: while reading, in training and in evaluations."""
    skipped_while_reading = getattr(trainer.train_dataset, "skipped", 0)
    if isinstance(skipped_while_reading, int):
        # A stream counts the rows of its own process. A resumed run reads the stream from its beginning.
        (reading,) = trainer.processes.total([skipped_while_reading])
    else:
        # A data set that is read by index lists its rows, and each process and leg has the same list.
        reading = len(skipped_while_reading)
    return {"reading": int(reading), **trainer.progress.skipped(trainer.state.global_step)}


def _draw_curves(log: list[dict[str, Any]], path: Path, data_names: list[str]) -> None:
    from ..visualize import plot_training_curves

    try:
        plot_training_curves(log, path, data_names=data_names)
    except (ImportError, ValueError) as error:
        # matplotlib is missing, or the run was too short to log a loss.
        logger.info("no curves are drawn: %s", error)


__all__ = ["FinishedRun", "RunSettings", "train", "train_and_report"]
