"""Fingerprints of data: a hash of the ids and sizes of rows, by which a resumed run recognises its data."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .fields import bytes_or_path
from .rows import row_id


class RowsFingerprint:
    """Hashes the rows of a data set one by one: their ids, the lengths of their captions, the sizes of their images."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a checked row. Its image is not read."""
        self._digest.update(
            f"{row_id(row)}\0{len(row['caption'])}\0{_image_size(row['image'])}\n".encode(errors="replace")
        )

    def hexdigest(self) -> str:
        """Returns the hash as hex."""
        return self._digest.hexdigest()


def _image_size(image: Any) -> int | str:
    """Returns the number of bytes of an image's file; for one that is none, its width and height."""
    image = bytes_or_path(image)
    if isinstance(image, bytes):
        return len(image)
    if isinstance(image, str | os.PathLike):
        return _file_size(image)
    return str(getattr(image, "size", ""))


def _file_size(path: Any) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        # It lies in an archive, or is gone.
        return -1


def files_fingerprint(files: Iterable[Any]) -> str:
    """Hashes the names and sizes of files, which stand for the rows of a stream. Their folder does not count."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{Path(str(file)).name}\0{_file_size(file)}\n".encode(errors="replace"))
    return digest.hexdigest()


def data_fingerprint(rows: Any) -> str | None:
    """
    Returns a fingerprint of any data set.

    That of [`load_rows`] comes from the ids and sizes of its rows or, for a stream, of its files. `datasets` has one of
    its own. Any other data set is known by its kind and length.

    Returns:
        The fingerprint; `None` without a data set.
    """
    if rows is None:
        return None
    if isinstance(rows, Mapping):
        return " ".join(f"{name}={data_fingerprint(part)}" for name, part in rows.items())
    for name in ("fingerprint", "_fingerprint"):
        stored = getattr(rows, name, None)
        if isinstance(stored, str):
            return stored
    length = len(rows) if hasattr(rows, "__len__") else "stream"
    return f"{type(rows).__name__} {length}"


__all__ = ["RowsFingerprint", "data_fingerprint", "files_fingerprint"]
