"""Files that a source names: a path, a glob, a range of numbers, or a list of those."""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from ..fields import is_list, shown
from .compression import row_suffix


def named_files(place: Any, suffixes: Collection[str], kind: str) -> list[Path]:
    """Returns the files that a place names, those of a glob and of a directory sorted by name.

    Args:
        place: A file, a glob (`train-*.tar`), a range (`train-{00000..00003}.tar`), a directory, or a list of such.
        suffixes: Suffixes of the files that are taken of a directory, for example `(".json",)`.
        kind: What the files are, for messages, for example "JSON".

    Raises:
        ValueError: if there is no such file.
    """
    places = list(place) if is_list(place) else [place]
    if not places or not all(isinstance(path, (str, Path)) for path in places):
        raise ValueError(f"source must be a path of {kind} files, a glob or a list of those, but is {shown(place)}")
    files: list[Path] = []
    for path in places:
        for pattern in _expand_range(str(path)):
            found = _files_of_pattern(pattern, suffixes)
            if not found:
                raise ValueError(f"source must name existing {kind} files, but is {pattern!r}")
            files += found
    return files


def _files_of_pattern(pattern: str, suffixes: Collection[str]) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        return sorted(file for file in path.iterdir() if row_suffix(file) in suffixes and file.is_file())
    # A file may have the letters of a glob in its name.
    if path.is_file():
        return [path]
    return sorted(file for file in map(Path, glob(pattern)) if file.is_file())


def _expand_range(pattern: str) -> Iterator[str]:
    """Yields a pattern with every number of its ranges: `{00..02}` gives 00, 01 and 02."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None or os.path.exists(pattern):
        yield pattern
        return
    first, last = match.groups()
    before, after = pattern[: match.start()], pattern[match.end() :]
    for number in range(int(first), int(last) + 1):
        padded = f"{number:0{len(first)}d}"
        yield from _expand_range(before + padded + after)


def common_folder(files: Sequence[Path]) -> Path:
    """Returns the deepest directory that holds all the files."""
    return Path(os.path.commonpath([file.absolute().parent for file in files]))


def names_in_messages(files: Sequence[Path]) -> list[str]:
    """Names files by their paths within their common directory, so that no two have the same name."""
    folder = common_folder(files)
    return [file.absolute().relative_to(folder).as_posix() for file in files]


__all__ = ["common_folder", "named_files", "names_in_messages"]
