"""Formats "jsonl" and "json": rows in JSON Lines or in a JSON list.

Where the user names no format, the content of a file tells what it is: JSON Lines, a list, or an object; rows,
FineHARD, DOCCI, COCO or Karpathy's splits.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..records import PackedTable, Table
from .coco import COCO, COCO_RECORDS, CocoTable, is_coco, without_polygons
from .compression import row_suffix
from .docci import is_docci, open_docci
from .finehard import FINEHARD, FINEHARD_RECORDS
from .json_files import LINES_SUFFIXES, JsonLines, is_json_list, json_files, json_list, json_tables, read_json
from .karpathy import is_karpathy, open_karpathy
from .named_files import common_folder, names_in_messages
from .source import OpenedSource, Source, SourceFormat
from .split_files import files_of_split


# The format of the records is told from this many of them, because the first one may be broken.
_RECORDS_LOOKED_AT = 10


def _open_jsonl(source: Source) -> OpenedSource:
    files = _jsonl_files(source)
    if source.is_format_given and len(files) == 1:
        return OpenedSource(JsonLines(files[0]), files[0].parent)
    if source.is_format_given:
        return OpenedSource(json_tables(files), common_folder(files))
    return _open_by_content(files, source.split)


def _open_json(source: Source) -> OpenedSource:
    files = json_files(source.place)
    if source.is_format_given and len(files) == 1:
        return OpenedSource(json_list(files[0]), files[0].parent)
    if source.is_format_given:
        return OpenedSource(json_tables(files), common_folder(files))
    return _open_by_content(files, source.split)


def _open_by_content(files: Sequence[Path], split: str) -> OpenedSource:
    """Opens files that are JSON lists, JSON Lines, or one object each.

    Raises:
        ValueError: if they are something else.
    """
    if not any(map(_is_object, files)):
        return _with_record_format(json_tables(files), common_folder(files), split)
    # All of COCO, or a single record of FineHARD.
    contents = [read_json(path, object_hook=without_polygons) for path in files]
    if len(files) == 1 and is_karpathy(contents[0]):
        return open_karpathy(files[0], contents[0], split)
    if all(map(is_coco, contents)):
        table = CocoTable(zip(names_in_messages(files), contents, strict=True))
        return OpenedSource(table, common_folder(files), COCO_RECORDS)
    for path, content in zip(files, contents, strict=True):
        if not isinstance(content, dict) or "bbox_info" not in content:
            raise _unknown_content(path, content)
    records = PackedTable(common_folder(files).name, contents)
    if len(files) == 1:
        records = PackedTable(files[0].name, contents)
    return _with_record_format(records, common_folder(files), split)


def _unknown_content(path: Path, content: Any) -> ValueError:
    kind = f"is {type(content).__name__}"
    if isinstance(content, dict):
        kind = f"has the keys {sorted(content)}"
    formats = (JSON.name, JSONL.name, FINEHARD.name, COCO.name)
    return ValueError(
        f'{path.name} must be a JSON list of records, or an object with "images" and "annotations", but {kind}; or '
        f"give the format, one of {formats}"
    )


def _is_object(path: Path) -> bool:
    """Tells whether a file is neither a list nor JSON Lines."""
    if is_json_list(path) or row_suffix(path) in LINES_SUFFIXES:
        return False
    lines = JsonLines(path)
    # The first line of a single object is all of it, or no JSON by itself. So nothing long is parsed here.
    return not (len(lines) > 1 and _is_record(lines, 0))


def _with_record_format(table: Table, folder: Path, split: str) -> OpenedSource:
    """Tells rows from records of FineHARD, which have `bbox_info`, and of DOCCI."""
    for _, record in islice(table.scan(), _RECORDS_LOOKED_AT):
        if isinstance(record, ValueError):
            continue
        if "bbox_info" in record:
            return OpenedSource(table, folder, FINEHARD_RECORDS)
        if is_docci(record):
            return open_docci(table, folder, split)
    return OpenedSource(table, folder)


def _is_record(table: Table, index: int) -> bool:
    try:
        table[index]
    except ValueError:
        return False
    return True


def _jsonl_files(source: Source) -> list[Path]:
    """Returns the files that a source names; of a directory, those of the split.

    Raises:
        ValueError: if there is none, or shards of the split are missing.
    """
    if source.directory is None:
        return json_files(source.place)
    return files_of_split(source.directory, source.split) or json_files(source.directory / f"{source.split}.jsonl")


def _recognises_jsonl(source: Source) -> bool:
    if source.directory is not None:
        return bool(files_of_split(source.directory, source.split))
    return source.has_suffix(*LINES_SUFFIXES)


def _recognises_json(source: Source) -> bool:
    return source.has_suffix(".json", *LINES_SUFFIXES)


JSONL = SourceFormat("jsonl", _open_jsonl, _recognises_jsonl)
JSON = SourceFormat("json", _open_json, _recognises_json)
