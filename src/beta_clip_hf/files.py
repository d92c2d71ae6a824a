"""
Writes files whole or not at all.

A file is written beside its place under another name, flushed to the disk and renamed. A process that is killed, or a
disk that is full, leaves the old file or the new one, never half of one.
"""

import errno
import hashlib
import json
import os
import platform
import re
import stat
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


# Errors that the command line has a sentence for: of the device, and of weights that are cut.
_OF_OTHERS = ("OutOfMemoryError", "SafetensorError")
_LONGEST_REASON = 200
# The files of a model that libraries read whole. The largest tokenizer that is known has 35 MB.
_READ_WHOLE = re.compile(r".*config\.json|.*token.*\.(json|txt)|vocab\..*|merges\.txt|.*\.index\.json|.*results\.json")
_MOST_BYTES = 2**26
_swept_folders: set[Path] = set()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Yields the path to write to. When the block ends, the file written there takes the place of `path`.

    Args:
        path: Where the file goes. Its directory is created if it is missing.

    Yields:
        A hidden path in the same directory. If the block raises, the file there is deleted.

    Raises:
        OSError: if the file cannot be written; the file that was there before is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    # The process id keeps two processes that write the same file from writing into each other's.
    unfinished = path.with_name(f".{path.name}{_unfinished_mark()}{os.getpid()}")
    try:
        # A link that somebody has put there would lead the content elsewhere.
        unfinished.unlink(missing_ok=True)
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield unfinished
        flush_file(unfinished)
        unfinished.replace(path)
        flush_directory(path.parent)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        # The user knows the file by its own name.
        if isinstance(error, OSError) and str(error.filename) == str(unfinished):
            error.filename, error.filename2 = str(path), None
        raise


def _unfinished_mark() -> str:
    """Returns what stands before the process id in the name of an unfinished file. Other machines have other marks."""
    return f".part-{zlib.crc32(platform.node().encode()):08x}-"


def _sweep(folder: Path) -> None:
    """Removes the unfinished files that processes of this machine have left when they were killed; once per folder."""
    if folder in _swept_folders:
        return
    _swept_folders.add(folder)
    for leftover in folder.glob(f".*{_unfinished_mark()}*"):
        process = leftover.name.rpartition("-")[2]
        if process.isdecimal() and not is_running(int(process)):
            # Another process may sweep at the same time.
            leftover.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Tells whether there is a process of this id on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        # It belongs to somebody else.
        return True
    return True


def write_bytes(path: str | os.PathLike[str], content: bytes) -> Path:
    """Writes bytes whole or not at all and returns the path, see [`replacing`]."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)
    return Path(path)


def write_text(path: str | os.PathLike[str], content: str) -> Path:
    """Writes text as UTF-8 whole or not at all and returns the path. Line ends are written as they are."""
    return write_bytes(path, content.encode("utf-8"))


def write_json(value: Any, path: str | os.PathLike[str], *, allow_nan: bool = False, sort_keys: bool = False) -> Path:
    """
    Writes a value as indented JSON whole or not at all and returns the path.

    Args:
        value: What JSON can hold.
        path: Where the file goes.
        allow_nan: Whether NaN and infinities are written, which strict readers of JSON refuse.
        sort_keys: Whether the keys are sorted.

    Raises:
        ValueError: for a NaN or an infinity that is not allowed.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=allow_nan, sort_keys=sort_keys)
    return write_text(path, text + "\n")


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def naming_errors(name: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """
    Reads what a stranger has written: whatever is wrong with it is one sentence that names it.

    Args:
        name: The file or directory, or the id of a repository.
        kind: What it must be, as "a results.json of beta-clip evaluate".

    Raises:
        ValueError: in the place of any error of a library that is not the user's to mend as it is; and for a file that
            is not read, because it is too large, or is a pipe.
    """
    _check_files(Path(name))
    try:
        yield
    except (OSError, ImportError):
        raise
    except ValueError as error:
        if str(name) in str(error) or _is_ours(error):
            raise
        raise ValueError(f"{name}: {error}") from error
    # A file may break a library in any way: a wrong type, a missing key, a size that no memory holds.
    except Exception as error:
        if type(error).__name__ in _OF_OTHERS:
            raise
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        raise ValueError(f"{name} must be {kind}, but cannot be read ({type(error).__name__}: {reason})") from error


def _check_files(place: Path) -> None:
    """
    Checks the files that libraries would read whole, in a directory or by itself.

    Raises:
        ValueError: if one is a pipe or a device, which may never end, or is so large that reading it fills the memory.
    """
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    for path in files:
        if not _READ_WHOLE.fullmatch(path.name) or not path.exists() or path.is_dir():
            continue
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path} must be a regular file, but is a pipe or device")
        if found.st_size > _MOST_BYTES:
            raise ValueError(f"{path} must have at most {_MOST_BYTES:,} bytes, but has {found.st_size:,}")


def _is_ours(error: BaseException) -> bool:
    """Tells whether this package has raised an error, whose sentence needs no other name."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return frames[-1][0].f_globals.get("__name__", "").startswith(__name__.partition(".")[0])


def flush_file(path: str | os.PathLike[str]) -> None:
    """Waits until the content of a file is on the disk: a rename can reach it before the content does."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def flush_directory(path: str | os.PathLike[str]) -> None:
    """Waits until the names in a directory are on the disk: a rename is a change of names."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        # Windows opens no directories, and needs no flush of them.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no flush of directories.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


__all__ = [
    "file_sha256",
    "flush_directory",
    "flush_file",
    "is_running",
    "naming_errors",
    "replacing",
    "write_bytes",
    "write_json",
    "write_text",
]
