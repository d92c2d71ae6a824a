"""
Hashes of the files of an index, so that a damaged one is named and does not change what a search finds.

LanceDB writes a file once and never changes it, but for a hint at the latest version. It does not notice a changed byte
in embeddings. Object stores check what they hold by themselves, so only the files of a directory are hashed.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import file_sha256, write_json


HASHES_FILE = "file_hashes.json"
_HINT = "latest_version_hint.json"
# A search reads about as much: small files first, up to a gigabyte, which takes a second.
MOST_HASHED_BYTES = 2**30


@dataclass(frozen=True)
class CheckedFiles:
    """
    Holds what is known of an index whose files were compared with their hashes.

    Args:
        version: The version of the table of images when the hashes were written; 0 without hashes.
        missing: A file that is gone; `None` if all are there.
    """

    version: int = 0
    missing: Path | None = None

    def check_version(self, path: str | os.PathLike[str], version: int) -> None:
        """
        Compares the version of the table of images. A later one may do without files of earlier ones.

        Raises:
            ValueError: if it is an earlier one, or a file of it is missing.
        """
        if version < self.version:
            raise ValueError(
                f"{path} must be at version {self.version}, but is at {version}, because a file in a folder "
                "_versions is missing: restore the index from a copy"
            )
        if self.missing is not None and version == self.version:
            raise ValueError(f"{self.missing} must be there, but is missing: restore the index from a copy")


def write_hashes(path: str, version: int) -> None:
    """
    Hashes the files of an index that are new since the last time.

    Args:
        path: The index. Nothing is done for the URI of an object store.
        version: The version of the table of images, which counts its changes.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    known = _read(folder)["files"]
    files = {}
    for file in _files_below(folder):
        name = file.relative_to(folder).as_posix()
        found = file.stat()
        stored = known.get(name)
        if stored is None or stored["bytes"] != found.st_size:
            stored = {"bytes": found.st_size, "sha256": file_sha256(file)}
        files[name] = {**stored, "modified_ns": found.st_mtime_ns}
    write_json({"version": version, "files": files}, folder / HASHES_FILE)


def check_hashes(path: str | os.PathLike[str]) -> CheckedFiles:
    """
    Compares the files of an index with their hashes.

    All sizes are compared. Files are hashed from the smallest on, up to `MOST_HASHED_BYTES` in all, and beyond that if
    their time has changed.

    Args:
        path: The index.

    Returns:
        The version that the table must have at least, and whether a file is gone.

    Raises:
        ValueError: if a file has other content than was written; the message names it.
    """
    folder = Path(path)
    if not folder.is_dir():
        return CheckedFiles()
    hashes = _read(folder)
    num_bytes = 0
    missing = None
    for name, stored in sorted(hashes["files"].items(), key=lambda entry: entry[1]["bytes"]):
        file = folder / name
        try:
            found = file.stat()
        except FileNotFoundError:
            missing = missing or file
            continue
        num_bytes += found.st_size
        is_same = found.st_size == stored["bytes"]
        if is_same and (num_bytes <= MOST_HASHED_BYTES or found.st_mtime_ns != stored["modified_ns"]):
            is_same = file_sha256(file) == stored["sha256"]
        if not is_same:
            raise ValueError(
                f"{file} is damaged: its content is not what was written. Restore the index from a copy, or index the "
                "photos anew into another directory"
            )
    return CheckedFiles(hashes["version"], missing)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / HASHES_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, stored in content["files"].items():
            is_inside = not os.path.isabs(name) and ".." not in Path(name).parts
            is_known = type(stored["bytes"]) is int and isinstance(stored["sha256"], str)
            if not (is_inside and is_known and type(stored["modified_ns"]) is int):
                raise ValueError(f"it has a wrong entry for {name[:100]!r}")
        if type(content["version"]) is not int:
            raise ValueError("its version is no number")
    except FileNotFoundError:
        # An index that is not finished yet.
        return {"version": 0, "files": {}}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} must have the hashes of an index, but is damaged ({error}): delete it") from error
    return dict(content)


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            if name not in (HASHES_FILE, _HINT) and not name.startswith(".") and path.is_file():
                yield path


__all__ = ["HASHES_FILE", "MOST_HASHED_BYTES", "check_hashes", "write_hashes"]
