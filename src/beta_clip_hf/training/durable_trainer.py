"""The part of the Trainer that writes checkpoints whole or not at all, and finds the one to continue from."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ..inference.processes import Processes
from .checkpoints import (
    discard_unfinished,
    find_newest_whole,
    find_problem,
    list_checkpoints,
    prune,
    publish,
    set_aside_newer,
    step_of,
    unfinished_path,
)
from .completeness import STATE_FILE
from .disk import writing_problem
from .sharded_trainer import ShardedTrainer


logger = logging.getLogger(__name__)


class DurableTrainer(ShardedTrainer):
    r"""
    Extends [`~transformers.Trainer`] with checkpoints that are whole or absent.

    - A checkpoint is written beside its place, hashed, flushed and renamed. Older ones are deleted only then.
    - A periodic save that fails, because a disk is full for example, is logged, and the training goes on.
    - `train(resume_from_checkpoint=True)` continues from the newest whole checkpoint, which the first process chooses
      for all. One that is named must be whole.
    - `hub_token` is in no file.

    A subclass that has more state writes it in [`save_state_files`], so that the manifest covers it.

    Attributes:
        last_checkpoint: The checkpoint that was saved last or from which the run continues; `None` without one.
        last_saved_step: Its step.
        failed_save: Why the last save failed; `None` if it did not.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.last_checkpoint: str | None = None
        self.last_saved_step = 0
        self.failed_save: str | None = None
        # While a checkpoint is written, the directory that stands for the output directory.
        self._staging_dir: str | None = None
        self._exchange: Processes | None = None

    @property
    def processes(self) -> Processes:
        """The processes of the training, for exchanges of objects. All must ask for it the first time together."""
        if self._exchange is None:
            self._exchange = Processes()
        return self._exchange

    # Saving

    def save_state_files(self, folder: str) -> None:
        """
        Writes more state into a checkpoint that is being made; here, nothing.

        Args:
            folder: The directory of the unfinished checkpoint. All processes are called, after the Trainer's own files
                were written.
        """

    def describe_checkpoint(self) -> dict[str, Any]:
        """Returns what the manifest says of the run, ready for JSON. All processes must call it."""
        return {}

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves a checkpoint whole or not at all. If it cannot be written, the failure is logged and remembered."""
        run_dir = Path(self._get_output_dir(trial))
        step = self.state.global_step
        self.failed_save = self._write_checkpoint(model, trial, run_dir)
        if self.failed_save is None:
            self._remember(run_dir, step)
            if self.args.should_save:
                prune(
                    run_dir,
                    self.args.save_total_limit,
                    newest=run_dir / f"checkpoint-{step}",
                    best=self.state.best_model_checkpoint,
                )
            if self.args.push_to_hub:
                super()._push_from_checkpoint(str(run_dir / f"checkpoint-{step}"))
            return
        kept = "there is none before it"
        if self.last_checkpoint is not None:
            kept = f"the last one is {self.last_checkpoint}"
        if self.is_world_process_zero():
            logger.error(
                "checkpoint-%d could not be saved (%s); %s; the training goes on", step, self.failed_save, kept
            )

    def save_checkpoint_to(self, run_dir: str | Path) -> str:
        """
        Saves a checkpoint of the present state into another directory. All processes must call it.

        Args:
            run_dir: The directory in which `checkpoint-N` is made.

        Returns:
            The directory of the checkpoint.

        Raises:
            OSError: if it cannot be written.
        """
        failure = self._write_checkpoint(self.model_wrapped, None, Path(run_dir))
        if failure is not None:
            raise OSError(failure)
        return str(Path(run_dir) / f"checkpoint-{self.state.global_step}")

    def _write_checkpoint(self, model: nn.Module, trial: Any, run_dir: Path) -> str | None:
        """Writes and publishes a checkpoint. Returns why it could not be written, the same in all processes."""
        step = self.state.global_step
        if self.args.should_save:
            discard_unfinished(run_dir)
        # No process may write before the remains of an earlier save are gone.
        self.processes.broadcast(None)
        description = self.describe_checkpoint()
        problem = self._attempt(run_dir, lambda: self._write_files(model, trial, run_dir))
        problem = self._shared_problem(problem)
        if problem is None:
            if self.args.should_save:
                problem = self._attempt(run_dir, lambda: publish(run_dir, step, description))
            problem = self._shared_problem(problem)
        if problem is not None and self.args.should_save:
            discard_unfinished(run_dir)
        return problem

    def _attempt(self, run_dir: Path, write: Any) -> str | None:
        try:
            write()
        except Exception as error:
            problem = writing_problem(error, run_dir)
            if problem is None:
                raise
            return problem
        return None

    def _shared_problem(self, problem: str | None) -> str | None:
        """Returns the first problem that any process has, in all processes."""
        problems = [text for text in self.processes.gather(problem) if text is not None]
        return self.processes.broadcast(problems[0] if problems else None)

    def _write_files(self, model: nn.Module, trial: Any, run_dir: Path) -> None:
        folder = unfinished_path(run_dir, self.state.global_step)
        best_step = self.state.best_global_step
        # Without a best step the Trainer does not wait for the other processes in the midst of writing, where a process
        # that cannot write would not come to. What it does with the best step is done below.
        self.state.best_global_step = None
        try:
            with self._staging(folder.parent):
                super()._save_checkpoint(model, trial)
        finally:
            self.state.best_global_step = best_step
        self.save_state_files(str(folder))
        if best_step is not None:
            best = run_dir / f"checkpoint-{best_step}"
            if best.exists() or best_step == self.state.global_step:
                self.state.best_model_checkpoint = str(best)
        if self.args.should_save:
            # The path of the best checkpoint is now that of the finished one.
            self.state.save_to_json(str(folder / STATE_FILE))

    @contextmanager
    def _staging(self, folder: Path) -> Iterator[None]:
        self._staging_dir = str(folder)
        try:
            yield
        finally:
            self._staging_dir = None

    def _get_output_dir(self, trial: Any) -> str:
        if self._staging_dir is not None:
            return self._staging_dir
        return super()._get_output_dir(trial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # An upload that runs in the background must not read a directory that is about to be renamed.
        if self._staging_dir is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Saves like `Trainer`, but for `hub_token`, which its `training_args.bin` would have in clear."""
        token = self.args.hub_token
        self.args.hub_token = None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token

    def _remember(self, run_dir: Path, step: int) -> None:
        self.last_checkpoint = str(run_dir / f"checkpoint-{step}")
        self.last_saved_step = step

    # Resuming

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """
        Trains like `Trainer`.

        Args:
            resume_from_checkpoint: The directory of a checkpoint; `True` takes the newest whole one in the output
                directory.
            args, kwargs: See `Trainer`.

        Raises:
            ValueError: if the checkpoint that is named is damaged, or if there is no whole one.
        """
        checkpoint: str | None = None
        self.last_checkpoint = None
        self.last_saved_step = 0
        if resume_from_checkpoint:
            name = None if resume_from_checkpoint is True else str(resume_from_checkpoint)
            checkpoint = self.choose_checkpoint(name)
            if checkpoint is None:
                raise ValueError(f"no checkpoint to resume from was found in {self.args.output_dir}")
            self._remember(Path(checkpoint).parent, step_of(Path(checkpoint)) or 0)
        return super().train(checkpoint, *args, **kwargs)

    def choose_checkpoint(self, name: str | None = None) -> str | None:
        """Returns the checkpoint to continue from, see [`choose_checkpoint`]. All processes must call it."""
        return choose_checkpoint(self.processes, self.args.output_dir, name)


def choose_checkpoint(processes: Processes, output_dir: str, name: str | None = None) -> str | None:
    """
    Chooses the checkpoint from which a run continues. The first process does it for all.

    Args:
        processes: The processes of the run. All must call this.
        output_dir: The directory of the run.
        name: A checkpoint, or a directory with checkpoints. `None` means the output directory.

    Returns:
        The newest whole checkpoint, or the one that is named; `None` if no whole one is there. What is skipped is
        logged.

    Raises:
        ValueError: if the checkpoint that is named cannot be used.
    """
    chosen, problem = None, None
    if processes.rank == 0:
        chosen, problem = _choose(output_dir, name)
    chosen, problem = processes.broadcast((chosen, problem))
    if problem is not None:
        raise ValueError(problem)
    return chosen


def _choose(output_dir: str, name: str | None) -> tuple[str | None, str | None]:
    """Returns the checkpoint and what is wrong with the one that is named."""
    folder = Path(name or output_dir)
    if name is not None and not list_checkpoints(folder):
        problem = find_problem(folder)
        if problem is None:
            set_aside_newer(output_dir, folder)
        return str(folder), problem
    found = find_newest_whole(folder)
    for sentence in found.skipped:
        logger.warning("%s", sentence)
    if found.path is None:
        if found.skipped:
            logger.warning("%s has no whole checkpoint: the run begins", folder)
        return None, None
    return str(found.path), None


__all__ = ["DurableTrainer", "choose_checkpoint"]
