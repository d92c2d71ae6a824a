"""JSON files: which ones a source names, and whether a file is a list or JSON Lines."""

import codecs
import json
import mmap
import re
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..records import JoinedTables, PackedTable, Record, Scan, ScannedByIndex, Table, parse_record
from .compression import is_compressed, read_content
from .named_files import named_files, names_in_messages


LINES_SUFFIXES = (".jsonl", ".ndjson", ".jsonlines")
JSON_SUFFIXES = (".json", *LINES_SUFFIXES)

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Far more than all that a row may hold.
_MOST_BYTES_OF_LINE = 2**26
_NO_BLANK = re.compile(rb"\S")


class JsonLines(ScannedByIndex):
    """Reads the records of a JSON Lines file.

    The file is mapped into memory. A row costs 16 bytes, and its text is parsed when it is asked for. A compressed
    file, or one in UTF-16, is held in memory as text.

    Args:
        path: Path of the file.
        name: Name of the file in messages; without its folder by default.
    """

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or self.path.name
        self._content: bytes | mmap.mmap
        self._content, self._damage = _mapped_content(self.path)
        self._starts = array("Q")
        self._line_numbers = array("Q")
        start, line_number = 0, 1
        while start < len(self._content):
            end = self._end_of_line(start)
            # Without a copy of the line, which may be all of a large file.
            if _NO_BLANK.search(self._content, start, end):
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
        end = self._end_of_line(start)
        if end - start > _MOST_BYTES_OF_LINE:
            raise ValueError(f"a record must have at most {_MOST_BYTES_OF_LINE:,} bytes, but has {end - start:,}")
        return parse_record(self._content[start:end])

    def location(self, index: int) -> str:
        """Gives the number of the line, counted from 1: "train.jsonl:17"."""
        return f"{self.name}:{self._line_numbers[index]}"

    def scan(self) -> Scan:
        """Reads all lines in order, and then says whether the end of a compressed file is missing."""
        yield from super().scan()
        if self._damage is not None:
            yield self.name, self._damage

    def _end_of_line(self, start: int) -> int:
        end = self._content.find(b"\n", start)
        return len(self._content) if end < 0 else end


def _mapped_content(path: Path) -> tuple[bytes | mmap.mmap, ValueError | None]:
    """Returns the text of a file in UTF-8, and what is wrong with its end."""
    if is_compressed(path):
        data, damage = read_content(path)
        return _in_utf8(data, path.name), damage
    # An empty file cannot be mapped.
    if path.stat().st_size == 0:
        return b"", None
    with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if content[:2] in _UTF16_MARKS:
        return _in_utf8(content[:], path.name), None
    return content, None


def _in_utf8(data: bytes, name: str) -> bytes:
    """Encodes UTF-16 with a byte order mark as UTF-8. Other text stays: a line that is not UTF-8 is a bad row."""
    if data[:2] not in _UTF16_MARKS:
        return data
    try:
        return data.decode("utf-16").encode()
    except UnicodeError as error:
        raise ValueError(f"{name} must be text in utf-8 or utf-16, but is not: {error}") from error


def json_files(place: Any) -> list[Path]:
    """Returns the files that a place names, see [`named_files`]; of a directory, its JSON files."""
    return named_files(place, JSON_SUFFIXES, "JSON")


def json_tables(files: Sequence[Path]) -> Table:
    """Opens files that are JSON lists or JSON Lines, whatever they are called.

    JSON Lines stay on the disk. A list is parsed whole and held as packed text.

    Raises:
        ValueError: if a list is not JSON.
    """
    tables: list[Table] = []
    for file, name in zip(files, names_in_messages(files), strict=True):
        if is_json_list(file):
            tables.append(json_list(file, name))
        else:
            tables.append(JsonLines(file, name))
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
    data, damage = read_content(path)
    try:
        if damage is not None:
            raise damage
        return json.loads(data, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name or path.name} must be JSON, but is not: {error}") from error


def is_json_list(path: Path) -> bool:
    """Tells whether a file begins like a JSON list."""
    start = read_content(path, limit=1024).data[:1024]
    if start[:2] in _UTF16_MARKS:
        start = start.decode("utf-16", "ignore").encode()
    return start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
