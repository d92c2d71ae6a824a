"""The part of the Trainer that writes checkpoints whole or not at all."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ...inference.processes import Processes
from .checkpoints import checkpoint_name, discard_unfinished, prune, publish, unfinished_path
from .completeness import STATE_FILE
from .disk import try_writing
from .sharded_trainer import ShardedTrainer


logger = logging.getLogger(__name__)


class DurableTrainer(ShardedTrainer):
    r"""
    Extends [`~transformers.Trainer`] with checkpoints that are whole or absent.

    - A checkpoint is written beside its place, hashed, flushed and renamed. Older ones are deleted only then.
    - A periodic save that fails, because a disk is full for example, is logged, and the training goes on.
    - `hub_token` is in no file.

    A subclass that has more state in files writes it in [`save_state_files`], so that the manifest covers it.

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
        checkpoint = run_dir / checkpoint_name(step)
        if self.failed_save is None:
            self.remember_checkpoint(run_dir, step)
            if self.args.should_save:
                prune(
                    run_dir,
                    self.args.save_total_limit,
                    newest=checkpoint,
                    best=self.state.best_model_checkpoint,
                )
            if self.args.push_to_hub:
                super()._push_from_checkpoint(str(checkpoint))
            return
        kept = "there is none before it"
        if self.last_checkpoint is not None:
            kept = f"the last one is {self.last_checkpoint}"
        if self.is_world_process_zero():
            logger.error(
                "%s could not be saved (%s); %s; the training goes on", checkpoint.name, self.failed_save, kept
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
        return str(Path(run_dir) / checkpoint_name(self.state.global_step))

    def _write_checkpoint(self, model: nn.Module, trial: Any, run_dir: Path) -> str | None:
        """Writes and publishes a checkpoint. Returns why it could not be written, the same in all processes."""
        step = self.state.global_step
        if self.args.should_save:
            discard_unfinished(run_dir)
        # No process may write before the remains of an earlier save are gone.
        self.processes.broadcast(None)
        description = self.describe_checkpoint()
        problem = try_writing(lambda: self._write_files(model, trial, run_dir), run_dir)
        problem = self.shared_problem(problem)
        if problem is None:
            if self.args.should_save:
                problem = try_writing(lambda: publish(run_dir, step, description), run_dir)
            problem = self.shared_problem(problem)
        if problem is not None and self.args.should_save:
            discard_unfinished(run_dir)
        return problem

    def shared_problem(self, problem: str | None) -> str | None:
        """Returns the first problem that any process has, in all processes."""
        problems = [text for text in self.processes.gather(problem) if text is not None]
        return self.processes.broadcast(problems[0] if problems else None)

    def _write_files(self, model: nn.Module, trial: Any, run_dir: Path) -> None:
        folder = unfinished_path(run_dir, self.state.global_step)
        best_step = self.state.best_global_step
        # With a best step the Trainer would wait for the other processes in the middle of writing, and a process that
        # cannot write would never arrive there. So the step is hidden from it, and what it does with it is done below.
        self.state.best_global_step = None
        try:
            with self._staging(folder.parent):
                super()._save_checkpoint(model, trial)
        finally:
            self.state.best_global_step = best_step
        self.save_state_files(str(folder))
        if best_step is not None:
            best = run_dir / checkpoint_name(best_step)
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
        """Saves like `Trainer`, but keeps `hub_token` out of `training_args.bin`."""
        token = self.args.hub_token
        self.args.hub_token = None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token

    def remember_checkpoint(self, run_dir: Path, step: int) -> None:
        """Notes that the last whole checkpoint is that of a step."""
        self.last_checkpoint = str(run_dir / checkpoint_name(step))
        self.last_saved_step = step


__all__ = ["DurableTrainer"]
