"""JSON files: which ones a source names, and whether a file is a list or JSON Lines."""

import json
import mmap
import os
from array import array
from collections.abc import Callable, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from ..fields import is_list, shown
from ..records import JoinedTables, PackedTable, Record, ScannedByIndex, Table, parse_record


JSON_SUFFIXES = (".json", ".jsonl")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonLines(ScannedByIndex):
    """Reads the records of a JSON Lines file.

    The file is mapped into memory. A row costs 16 bytes, and its text is parsed when it is asked for.

    Args:
        path: Path of the file.
        name: Name of the file in messages; without its folder by default.
    """

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or self.path.name
        # An empty file cannot be mapped.
        self._content: bytes | mmap.mmap = b""
        if self.path.stat().st_size:
            with open(self.path, "rb") as file:
                self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._starts = array("Q")
        self._line_numbers = array("Q")
        start, line_number = 0, 1
        while start < len(self._content):
            end = self._end_of_line(start)
            if self._content[start:end].strip():
                self._starts.append(start)
                self._line_numbers.append(line_number)
            start = end + 1
            line_number += 1

    def __reduce__(self) -> tuple[Any, ...]:
        # A spawned worker opens the file again: a memory map cannot be sent to it.
        return JsonLines, (self.path, self.name)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Record:
        start = self._starts[index]
        return parse_record(self._content[start : self._end_of_line(start)])

    def location(self, index: int) -> str:
        """Gives the number of the line, counted from 1: "train.jsonl:17"."""
        return f"{self.name}:{self._line_numbers[index]}"

    def _end_of_line(self, start: int) -> int:
        end = self._content.find(b"\n", start)
        return len(self._content) if end < 0 else end


def json_files(place: Any) -> list[Path]:
    """Returns the files that a place names, those of a glob and of a directory sorted by name.

    Args:
        place: A file, a glob, a directory (for its `*.json` and `*.jsonl`), or a list of such.

    Raises:
        ValueError: if there is no such file.
    """
    places = list(place) if is_list(place) else [place]
    if not places or not all(isinstance(path, (str, Path)) for path in places):
        raise ValueError(f"source must be a path of JSON files, a glob or a list of those, but is {shown(place)}")
    files: list[Path] = []
    for path in map(Path, places):
        named_files = _files_named_by(path)
        if not named_files:
            raise ValueError(f"source must name existing JSON files, but is {str(path)!r}")
        files += named_files
    return files


def _files_named_by(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in JSON_SUFFIXES and file.is_file())
    if path.is_file():
        return [path]
    return sorted(map(Path, glob(str(path))))


def common_folder(files: Sequence[Path]) -> Path:
    """Returns the deepest directory that holds all the files."""
    return Path(os.path.commonpath([file.absolute().parent for file in files]))


def names_in_messages(files: Sequence[Path]) -> list[str]:
    """Names files by their paths within their common directory, so that no two have the same name."""
    folder = common_folder(files)
    return [file.absolute().relative_to(folder).as_posix() for file in files]


def json_tables(files: Sequence[Path]) -> Table:
    """Opens files that are JSON lists or JSON Lines, whatever they are called.

    JSON Lines stay on the disk. A list is parsed whole and held as packed text.

    Raises:
        ValueError: if a list is not JSON.
    """
    tables: list[Table] = []
    for file, name in zip(files, names_in_messages(files), strict=True):
        table: Table = JsonLines(file, name)
        if is_json_list(file):
            table = json_list(file, name)
        tables.append(table)
    if len(tables) == 1:
        return tables[0]
    return JoinedTables(tables)


def json_list(path: Path, name: str | None = None) -> PackedTable:
    """Reads the records of a JSON file that is one list.

    Raises:
        ValueError: if it is not.
    """
    name = name or path.name
    records = read_json(path, name)
    if not isinstance(records, list):
        raise ValueError(f"{name} must be a JSON list of records, but is a {type(records).__name__}")
    return PackedTable(name, records)


def read_json(path: Path, name: str | None = None, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Reads a JSON file.

    Args:
        path: Path of the file.
        name: Name of the file in messages; without its folder by default.
        object_hook: Changes every object as it is read, see `json.loads`.

    Raises:
        ValueError: if the file is not JSON.
    """
    try:
        return json.loads(path.read_bytes(), object_hook=object_hook)
    except ValueError as error:
        raise ValueError(f"{name or path.name} must be JSON, but is not: {error}") from error


def is_json_list(path: Path) -> bool:
    """Tells whether a file begins like a JSON list."""
    with open(path, "rb") as file:
        start = file.read(1024)
    return start.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"[")
