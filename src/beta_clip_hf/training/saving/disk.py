"""Tells a disk that cannot be written from other faults: libraries report it by errors of their own."""

import errno
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path


# What a full or read-only disk says, and what these words mean.
_MEANINGS = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than is allowed",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EIO: "the device reports an error",
    errno.ENOENT: "the directory is gone",
    errno.ENOTDIR: "a part of the path is a file",
    errno.ESTALE: "the file handle is stale",
}
# safetensors, which is written in Rust, ends its message with the number: "I/O error: … (os error 28)".
_RUST_ERROR = re.compile(r"os error (\d+)")
# How `torch.save` says that it could not write. The reason is lost on the way.
_TORCH_WORDS = (
    "PytorchStreamWriter",
    "unexpected pos",
    "enforce fail at inline_container",
    "basic_ios::clear",
    "iostream error",
)
# Larger than the block of a file system, so that it needs space of its own.
_PROBE_BYTES = 2**20


def try_writing(write: Callable[[], object], folder: str | Path) -> str | None:
    """
    Calls a function that writes files.

    Args:
        write: The function.
        folder: The directory it writes to.

    Returns:
        Why it could not write, see [`writing_problem`]; `None` if it could. Other errors are raised.
    """
    try:
        write()
    except Exception as error:
        problem = writing_problem(error, folder)
        if problem is None:
            raise
        return problem
    return None


def writing_problem(error: BaseException, folder: str | Path) -> str | None:
    """
    Says why a file could not be written.

    Args:
        error: What was raised while files were written.
        folder: The directory they were written to. If the error has lost its reason, a small file is tried there.

    Returns:
        A phrase with the name of the error, as "no space is left on the device (ENOSPC)"; `None` if the error is of
        another kind.
    """
    if isinstance(error, OSError):
        return _describe(error.errno, error)
    message = str(error)
    match = _RUST_ERROR.search(message)
    if match is not None:
        return _describe(int(match.group(1)), error)
    if any(words in message for words in _TORCH_WORDS):
        return _describe(_try_to_write(Path(folder)), error)
    return None


def _describe(number: int | None, error: BaseException) -> str:
    name = errno.errorcode.get(number or 0)
    if name is None:
        return " ".join(str(error).split()) or type(error).__name__
    meaning = _MEANINGS.get(number or 0) or os.strerror(number or 0)
    return f"{meaning} ({name})"


def _try_to_write(folder: Path) -> int | None:
    """Returns the number of the error with which a small file cannot be written; `None` if it can."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    return None


__all__ = ["try_writing", "writing_problem"]
