"""
Checkpoints that are whole or absent.

A checkpoint is written in the hidden directory `.unfinished`. Then every file of it is hashed and flushed to the disk,
the hashes go into its manifest, and the directory is renamed to `checkpoint-N`. A process that is killed, or a disk
that is full, leaves the checkpoints that were there before. Only the process that holds the lock of the output
directory may change anything (see `locks.py`).
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ...files import file_sha256, flush_directory, flush_file, write_json
from .completeness import missing_state, problem_without_manifest


logger = logging.getLogger(__name__)

MANIFEST_FILE = "checkpoint_manifest.json"
UNFINISHED = ".unfinished"
# Raised when the meaning of a key of the manifest changes.
_FORMAT = 1
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class FoundCheckpoint:
    """
    Holds the outcome of a search for a checkpoint to continue from.

    Args:
        path: The newest whole checkpoint; `None` if there is none.
        skipped: For each newer one, from the newest, a sentence that says why it cannot be used.
    """

    path: Path | None
    skipped: list[str]


def checkpoint_name(step: int) -> str:
    """Returns the name of the directory of a checkpoint."""
    return f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int | None:
    """Returns the step in the name of a checkpoint's directory, or `None` if it is no such name."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match.group(1)) if match else None


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Returns the directories that are named as checkpoints, whole or not, the newest step first."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        step = step_of(path)
        if step is not None and path.is_dir():
            found.append((step, path))
    return [path for _, path in sorted(found, reverse=True)]


def find_newest_whole(output_dir: str | Path) -> FoundCheckpoint:
    """Looks for the newest checkpoint from which a run can continue. Every file of it is read and checked."""
    skipped: list[str] = []
    for checkpoint in list_checkpoints(output_dir):
        problem = find_problem(checkpoint)
        if problem is None:
            return FoundCheckpoint(checkpoint, skipped)
        skipped.append(f"{checkpoint} is skipped: {problem}")
    return FoundCheckpoint(None, skipped)


def find_problem(checkpoint: str | Path) -> str | None:
    """
    Says why a run cannot continue from a checkpoint.

    With a manifest, every file must be there with the content that was saved. Without one (plain transformers, or an
    earlier version of this package) the files that a run needs must be there and readable, see
    [`problem_without_manifest`].

    Returns:
        A sentence that names the file, or `None` for a whole checkpoint.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return f"{checkpoint} must be the directory of a checkpoint, but is not there"
    try:
        if not (checkpoint / MANIFEST_FILE).exists():
            return problem_without_manifest(checkpoint, step_of(checkpoint))
        return _problem_by_manifest(checkpoint)
    except OSError as error:
        return f"{error.filename or checkpoint} cannot be read ({error.strerror or error})"


def _problem_by_manifest(checkpoint: Path) -> str | None:
    path = checkpoint / MANIFEST_FILE
    manifest = read_manifest(checkpoint)
    if manifest is None:
        return f"{path} is damaged: its content is not what was saved"
    files: Mapping[str, Any] = manifest["files"]
    missing = missing_state(list(files))
    if missing is not None:
        return f"{checkpoint} {missing}"
    for name, stored in files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            return f"{path} names a file outside of the checkpoint: {name}"
        problem = _problem_of_file(checkpoint / name, stored)
        if problem is not None:
            return problem
    return None


def _problem_of_file(path: Path, stored: Mapping[str, Any]) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    size = path.stat().st_size
    if size != stored["size"]:
        return f"{path} is damaged: it has {size} bytes, but {stored['size']} were saved"
    if file_sha256(path) != stored["sha256"]:
        return f"{path} is damaged: its content is not what was saved"
    return None


def read_manifest(checkpoint: str | Path) -> dict[str, Any] | None:
    """
    Reads the manifest of a checkpoint.

    Returns:
        `format`, `step`, `files` (size and SHA-256 by name) and `run` (what [`publish`] was given); `None` if there is
        no manifest or if it is damaged.
    """
    try:
        text = (Path(checkpoint) / MANIFEST_FILE).read_text(encoding="utf-8")
        manifest = json.loads(text)
        digest = manifest.pop("sha256")
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
    is_intact = digest == hash_value(manifest) and manifest.get("format") == _FORMAT
    return manifest if is_intact else None


def hash_value(value: Any) -> str:
    """Returns the SHA-256 of a value that JSON can hold, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# Writing


def unfinished_path(output_dir: str | Path, step: int) -> Path:
    """Returns where the checkpoint of a step is written before it is published."""
    return Path(output_dir) / UNFINISHED / checkpoint_name(step)


def publish(output_dir: str | Path, step: int, run: Mapping[str, Any]) -> Path:
    """
    Makes the unfinished checkpoint of a step a finished one.

    A finished checkpoint of the same step is replaced. If that one is damaged, it is kept as `damaged-checkpoint-N`.

    Args:
        output_dir: The directory of the run.
        step: The step.
        run: What the manifest says of the run, ready for JSON.

    Returns:
        The directory of the finished checkpoint.

    Raises:
        OSError: if a file cannot be flushed or renamed. Checkpoints that were finished before stay as they are.
    """
    unfinished = unfinished_path(output_dir, step)
    seal(unfinished, step, run)
    return _put_in_place(unfinished)


def seal(checkpoint: Path, step: int, run: Mapping[str, Any]) -> None:
    """Hashes and flushes all files of a checkpoint and writes its manifest, see [`publish`]."""
    (checkpoint / MANIFEST_FILE).unlink(missing_ok=True)
    files = {}
    for path in _files_below(checkpoint):
        flush_file(path)
        name = path.relative_to(checkpoint).as_posix()
        files[name] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
    manifest: dict[str, Any] = {"format": _FORMAT, "step": step, "files": files, "run": dict(run)}
    # Through JSON and back, so that the hash is that of what a reader will see.
    manifest = json.loads(json.dumps(manifest))
    write_json({**manifest, "sha256": hash_value(manifest)}, checkpoint / MANIFEST_FILE, allow_nan=True)
    for folder, _, _ in os.walk(checkpoint, topdown=False):
        flush_directory(folder)


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            yield Path(parent) / name


def _put_in_place(unfinished: Path) -> Path:
    output_dir = unfinished.parent.parent
    final = output_dir / unfinished.name
    replaced = None
    if final.exists():
        is_damaged = find_problem(final) is not None
        replaced = _free_path(output_dir, "damaged" if is_damaged else ".replaced", final.name)
        final.rename(replaced)
        if is_damaged:
            logger.warning("%s was damaged and is now %s", final, replaced.name)
            replaced = None
    # A kill between the two renames is mended by `finish_interrupted`: the unfinished one is sealed.
    unfinished.rename(final)
    flush_directory(output_dir)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)
    _remove_if_empty(unfinished.parent)
    return final


def _free_path(folder: Path, prefix: str, name: str) -> Path:
    path = folder / f"{prefix}-{name}"
    number = 1
    while path.exists():
        number += 1
        path = folder / f"{prefix}-{name}-{number}"
    return path


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        # Something else lies in it, or it is gone.
        return


def discard_unfinished(output_dir: str | Path) -> None:
    """Deletes what a save has begun and not finished."""
    shutil.rmtree(Path(output_dir) / UNFINISHED, ignore_errors=True)


def finish_interrupted(output_dir: str | Path) -> None:
    """
    Tidies up after a run that was killed while it wrote, replaced or deleted a checkpoint.

    A checkpoint that was whole but not yet in its place is put there. Everything else that was not finished is deleted.
    """
    folder = Path(output_dir)
    if not folder.is_dir():
        return
    for unfinished in list_checkpoints(folder / UNFINISHED):
        has_manifest = (unfinished / MANIFEST_FILE).exists()
        if has_manifest and not (folder / unfinished.name).exists() and find_problem(unfinished) is None:
            _put_in_place(unfinished)
    discard_unfinished(folder)
    for leftover in folder.glob(".replaced-checkpoint-*"):
        original = folder / leftover.name.removeprefix(".replaced-")
        if not original.exists() and find_problem(leftover) is None:
            leftover.rename(original)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def prune(output_dir: str | Path, limit: int | None, *, newest: Path, best: str | Path | None = None) -> None:
    """
    Deletes the oldest checkpoints beyond a limit.

    Args:
        output_dir: The directory of the run.
        limit: The number of checkpoints to keep; `None` and numbers below 1 keep all.
        newest: The checkpoint that was just finished. It stays, and so do later ones, which are not of this run.
        best: The best checkpoint. It stays.
    """
    if limit is None or limit < 1:
        return
    newest_step = step_of(newest) or 0
    protected = {newest.name}
    if best is not None:
        protected.add(Path(best).name)
    candidates = [path for path in list_checkpoints(output_dir) if (step_of(path) or 0) <= newest_step]
    surplus = len(candidates) - max(limit, len(protected))
    for path in reversed(candidates):
        if surplus <= 0:
            return
        if path.name in protected:
            continue
        surplus -= 1
        # Hidden first: a kill while files are deleted must not leave half a checkpoint under its name.
        hidden = _free_path(Path(output_dir), ".replaced", path.name)
        try:
            path.rename(hidden)
        except OSError as error:
            logger.warning("%s cannot be deleted: %s", path, error)
            continue
        (hidden / MANIFEST_FILE).unlink(missing_ok=True)
        shutil.rmtree(hidden, ignore_errors=True)


def set_aside_newer(output_dir: str | Path, checkpoint: Path) -> None:
    """
    Renames the checkpoints after the one from which a run continues, so that none is taken for its own.

    They are damaged, or were passed over by choice. Nothing is renamed if the checkpoint lies in another directory.
    """
    step = step_of(checkpoint)
    if step is None or checkpoint.resolve().parent != Path(output_dir).resolve():
        return
    for path in list_checkpoints(output_dir):
        if (step_of(path) or 0) > step:
            aside = _free_path(Path(output_dir), "set-aside", path.name)
            path.rename(aside)
            logger.warning("%s is newer than the checkpoint that is resumed and is now %s", path, aside.name)


__all__ = [
    "FoundCheckpoint",
    "checkpoint_name",
    "discard_unfinished",
    "find_newest_whole",
    "find_problem",
    "finish_interrupted",
    "hash_value",
    "list_checkpoints",
    "prune",
    "publish",
    "read_manifest",
    "seal",
    "set_aside_newer",
    "step_of",
    "unfinished_path",
]
