"""The last save of a run. If it cannot be written where it should be, the weights are kept elsewhere."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ...files import flush_directory, flush_file
from .checkpoints import UNFINISHED
from .disk import try_writing


logger = logging.getLogger(__name__)

_MODEL = "model"


class KeptElsewhere(OSError):
    """
    The last save could not be written, and what it was to save is kept in another directory.

    Args:
        message: The reason, and where it is.
        folder: The directory.
    """

    def __init__(self, message: str, folder: str) -> None:
        super().__init__(message)
        self.folder = folder


def save_last_model(trainer: Any) -> None:
    """
    Saves the model into the output directory, each file whole or not at all. All processes must call it.

    Raises:
        KeptElsewhere: if it cannot be written there, and is in another directory now.
        OSError: if it can be written nowhere.
    """
    output_dir = trainer.args.output_dir
    problem = try_writing(lambda: _save_in_place(trainer, output_dir), output_dir)
    problem = trainer.shared_problem(problem)
    if problem is None:
        return
    folder = keep_elsewhere(trainer, lambda place: trainer.save_model(place, _internal_call=True))
    raise KeptElsewhere(
        f"the model could not be saved in {output_dir}, because {problem}; it is kept in {folder}: free some space, "
        "and copy it from there",
        folder,
    )


def _save_in_place(trainer: Any, output_dir: str) -> None:
    unfinished = Path(output_dir) / UNFINISHED / _MODEL
    if trainer.args.should_save:
        shutil.rmtree(unfinished, ignore_errors=True)
    trainer.processes.broadcast(None)
    trainer.save_model(str(unfinished), _internal_call=True)
    if trainer.args.should_save:
        _move_into(unfinished, Path(output_dir))


def _move_into(source: Path, target: Path) -> None:
    """Puts the files of a directory into another one, each by a rename, the weights last."""
    paths = [path for path in source.rglob("*") if path.is_file()]
    for path in paths:
        flush_file(path)
    for path in sorted(paths, key=lambda path: path.suffix == ".safetensors"):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
    flush_directory(target)
    shutil.rmtree(source, ignore_errors=True)
    try:
        source.parent.rmdir()
    except OSError as error:
        logger.debug("%s stays: %s", source.parent, error)


def keep_elsewhere(trainer: Any, save: Callable[[str], object]) -> str:
    """
    Saves into the first directory for temporary files that takes it. All processes must call it.

    Args:
        trainer: The Trainer.
        save: Saves into a directory.

    Returns:
        The directory.

    Raises:
        OSError: if none of them takes it.
    """
    for parent in _places():
        own_folder = None
        if trainer.is_world_process_zero():
            own_folder = _new_folder(parent)
        folder = trainer.processes.broadcast(own_folder)
        if folder is None:
            continue
        problem = try_writing(partial(save, folder), folder)
        if trainer.shared_problem(problem) is None:
            return str(folder)
        if trainer.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)
    raise OSError(f"the weights could be saved nowhere: neither in {trainer.args.output_dir} nor in {_places()}")


def _places() -> list[str]:
    places = [tempfile.gettempdir(), "/dev/shm", os.getcwd(), os.path.expanduser("~")]
    return list(dict.fromkeys(places))


def _new_folder(parent: str) -> str | None:
    try:
        return tempfile.mkdtemp(prefix="beta-clip-kept-", dir=parent)
    except OSError:
        return None


__all__ = ["KeptElsewhere", "keep_elsewhere", "save_last_model"]
