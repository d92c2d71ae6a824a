"""Chooses the checkpoint from which a run continues: the first process does it for all."""

import logging
from pathlib import Path

from ...inference.processes import Processes
from .checkpoints import find_newest_whole, find_problem, list_checkpoints


logger = logging.getLogger(__name__)


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
        return str(folder), find_problem(folder)
    found = find_newest_whole(folder)
    for sentence in found.skipped:
        logger.warning("%s", sentence)
    if found.path is None:
        if found.skipped:
            logger.warning("%s has no whole checkpoint: the run begins", folder)
        return None, None
    return str(found.path), None


__all__ = ["choose_checkpoint"]
