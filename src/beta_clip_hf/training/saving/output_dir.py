"""What is done in an output directory before a run: it is locked, and nothing finished in it is overwritten unasked."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..record.run_record import RESULTS_FILE
from .checkpoints import list_checkpoints
from .completeness import WEIGHTS
from .locks import RunLock


logger = logging.getLogger(__name__)


@contextmanager
def held_directory(output_dir: str, processes: Any) -> Iterator[RunLock]:
    """
    Holds the lock of an output directory, which the first process takes for all.

    Raises:
        ValueError: in all processes, if another run holds it.
        OSError: if the directory cannot be written.
    """
    lock = RunLock(output_dir)
    problem: Exception | None = None
    if processes.rank == 0:
        try:
            lock.acquire()
        except (OSError, ValueError) as error:
            problem = error
    problem = processes.broadcast(problem)
    if problem is not None:
        raise problem
    try:
        yield lock
    finally:
        lock.release()


def check_free(output_dir: str, *, resume: bool = False) -> None:
    """
    Checks that a run that begins overwrites nothing.

    Args:
        output_dir: The directory of the run.
        resume: Whether the run was to continue, but found no checkpoint. Damaged ones may be there then.

    Raises:
        ValueError: if the directory holds a finished model, or checkpoints of another run.
    """
    folder = Path(output_dir)
    if not resume:
        check_no_checkpoints(output_dir)
    for name in WEIGHTS:
        if (folder / name).exists():
            raise ValueError(
                f"training.output_dir must hold no finished model, but {folder} has {name}: choose another directory, "
                "or replace the model with --overwrite"
            )


def check_no_checkpoints(output_dir: str) -> None:
    """Raises `ValueError` if a directory holds checkpoints of another run."""
    if list_checkpoints(output_dir):
        raise ValueError(
            f"training.output_dir must hold no checkpoints of another run, but {output_dir} does: "
            "go on with that run (--resume), choose another directory, or delete them with --overwrite"
        )


def discard_earlier_run(output_dir: str) -> None:
    """Deletes the checkpoints and results of an earlier run. Its model stays until the new one is saved."""
    for checkpoint in list_checkpoints(output_dir):
        shutil.rmtree(checkpoint)
        logger.info("%s is deleted", checkpoint)
    (Path(output_dir) / RESULTS_FILE).unlink(missing_ok=True)


def read_finished(output_dir: str) -> dict[str, Any] | None:
    """Returns the results of a run that has ended and whose model is there; otherwise `None`."""
    folder = Path(output_dir)
    try:
        results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        run = results["run"]
        is_finished = isinstance(run, Mapping) and run.get("finished") is True
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    has_model = any((folder / name).exists() for name in WEIGHTS)
    return results if is_finished and has_model else None


__all__ = ["check_free", "check_no_checkpoints", "discard_earlier_run", "held_directory", "read_finished"]
