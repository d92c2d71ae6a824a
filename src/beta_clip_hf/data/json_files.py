"""JSON files: which ones a source names, whether one is a list or JSON Lines, and what format its records have."""

import json
import os
import re
from collections.abc import Callable, Sequence
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

from .fields import is_list, shown
from .records import JoinedTables, JsonLines, PackedTable, Table


JSON_SUFFIXES = (".json", ".jsonl")

# A part of a split among the others, counted from 0: `train-00002-of-00008.jsonl`.
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.jsonl")

# A guess at the format looks at so many records: the first one may be broken.
_GUESS_FROM = 10


def json_files(source: Any) -> list[Path]:
    """The files that a source names: a file, a glob, a directory (its `*.json` and `*.jsonl`), or a list of such.
    Those of a glob and of a directory are sorted by name.

    Raises:
        ValueError: where there is none.
    """
    sources = list(source) if is_list(source) else [source]
    if not sources or not all(isinstance(one, (str, Path)) for one in sources):
        raise ValueError(f"source must be a path of JSON files, a glob or a list of those, but is {shown(source)}")
    files: list[Path] = []
    for path in map(Path, sources):
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix in JSON_SUFFIXES and file.is_file())
        else:
            found = [path] if path.is_file() else sorted(map(Path, glob(str(path))))
        if not found:
            raise ValueError(f"source must name existing JSON files, but is {str(path)!r}")
        files += found
    return files


def jsonl_files(source: Any, split: str) -> list[Path]:
    """The same for JSON Lines, but that a directory gives the files of the split, see [`jsonl_of_split`].

    Raises:
        ValueError: where there is none, or shards are missing.
    """
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        found = jsonl_of_split(Path(source), split)
        return found or json_files(Path(source) / f"{split}.jsonl")
    return json_files(source)


def jsonl_of_split(directory: Path, split: str) -> list[Path]:
    """`SPLIT.jsonl`, or else all of `SPLIT-*.jsonl`, sorted; none where there are none.

    Raises:
        ValueError: where they are shards (see [`shard_name`]), and not all of one number.
    """
    if (directory / f"{split}.jsonl").is_file():
        return [directory / f"{split}.jsonl"]
    files = sorted(directory.glob(f"{split}-*.jsonl"))
    shards = sorted(found_shards(directory, split))
    number = max((parts for parts, _ in shards), default=0)
    if shards != [(number, part) for part in range(number)]:
        found = ", ".join(f"{part} of {parts}" for parts, part in shards)
        raise ValueError(f"the shards of {split} in {str(directory)!r} must be all of one number, but are {found}")
    return files


def found_shards(directory: Path, split: str) -> set[tuple[int, int]]:
    """`(n, i)` for each file of a directory that [`shard_name`] calls the i-th of n shards of a split."""
    matches = (_SHARD.fullmatch(file.name) for file in directory.glob(f"{split}-*.jsonl"))
    return {(int(match[3]), int(match[2])) for match in matches if match and match[1] == split}


def shard_name(split: str, part: int, parts: int) -> str:
    """
    >>> shard_name("train", 2, 8)
    'train-00002-of-00008.jsonl'
    """
    return f"{split}-{part:05d}-of-{parts:05d}.jsonl"


def common_folder(files: Sequence[Path]) -> Path:
    """The deepest directory that holds all the files."""
    return Path(os.path.commonpath([file.absolute().parent for file in files]))


def names_in_messages(files: Sequence[Path]) -> list[str]:
    """The files by their paths within their common directory, so that no two have one name."""
    folder = common_folder(files)
    return [file.absolute().relative_to(folder).as_posix() for file in files]


def json_tables(files: Sequence[Path]) -> Table:
    """The records of some files, each a JSON list or JSON Lines whatever it is called.

    JSON Lines stay on the disk; a list is parsed whole and held as packed text.

    Raises:
        ValueError: for a list that is no JSON.
    """
    tables = [
        json_array(file, name) if _is_array(file) else JsonLines(file, name)
        for file, name in zip(files, names_in_messages(files), strict=True)
    ]
    return tables[0] if len(tables) == 1 else JoinedTables(tables)


def json_array(path: Path, name: str | None = None) -> PackedTable:
    """The records of a JSON file that is one list.

    Raises:
        ValueError: where it is not.
    """
    records = read_json(path, name)
    if not isinstance(records, list):
        raise ValueError(f"{name or path.name} must be a JSON list of records, but is a {type(records).__name__}")
    return PackedTable(name or path.name, records)


def read_json(path: Path, name: str | None = None, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a JSON file; `object_hook` is that of `json.loads`.

    Raises:
        ValueError: where it is no JSON.
    """
    try:
        return json.loads(path.read_bytes(), object_hook=object_hook)
    except ValueError as error:
        raise ValueError(f"{name or path.name} must be JSON, but is not: {error}") from error


def json_records(path: Path) -> Table | None:
    """The records of a file that is a JSON list or JSON Lines; `None` where it is neither, but may be one JSON object.

    Raises:
        ValueError: for a list that is no JSON.
    """
    if _is_array(path):
        return json_array(path)
    lines = JsonLines(path)
    # Of a single object the first line is either all of it, or no JSON by itself: nothing long is parsed here.
    return lines if path.suffix == ".jsonl" or (len(lines) > 1 and _is_record(lines, 0)) else None


def is_finehard(table: Table) -> bool:
    """Whether one of the first records has `bbox_info`."""
    first = islice(table.scan(), _GUESS_FROM)
    return any(not isinstance(record, ValueError) and "bbox_info" in record for _, record in first)


def _is_array(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _is_record(table: Table, index: int) -> bool:
    try:
        table[index]
    except ValueError:
        return False
    return True
