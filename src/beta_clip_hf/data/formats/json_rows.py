"""Formats "jsonl" and "json": rows in JSON Lines or in a JSON list.

Where the user names no format, the content of a file tells what it is: JSON Lines or a list, rows, FineHARD or COCO.
"""

from itertools import islice
from pathlib import Path

from ..records import PackedTable, Table
from .coco import COCO, COCO_RECORDS, CocoTable, is_coco, without_polygons
from .finehard import FINEHARD, FINEHARD_RECORDS
from .json_files import JsonLines, common_folder, is_json_list, json_files, json_list, json_tables, read_json
from .source import OpenedSource, Source, SourceFormat
from .split_files import files_of_split


# The first record may be broken, so the format of records is told from so many.
_RECORDS_LOOKED_AT = 10


def _open_jsonl(source: Source) -> OpenedSource:
    files = _jsonl_files(source)
    if len(files) > 1:
        table = json_tables(files)
        folder = common_folder(files)
        if source.is_format_given:
            return OpenedSource(table, folder)
        return _with_record_format(table, folder)
    if source.is_format_given:
        return OpenedSource(JsonLines(files[0]), files[0].parent)
    return _open_by_content(files[0])


def _open_json(source: Source) -> OpenedSource:
    path = source.existing_file()
    if source.is_format_given:
        return OpenedSource(json_list(path), path.parent)
    return _open_by_content(path)


def _open_by_content(path: Path) -> OpenedSource:
    """Opens a file that is a JSON list, JSON Lines, or one object: all of COCO, or a single record of FineHARD.

    Raises:
        ValueError: if the file is something else.
    """
    if is_json_list(path):
        return _with_record_format(json_list(path), path.parent)
    lines = JsonLines(path)
    # The first line of a single object is all of it, or no JSON by itself. So nothing long is parsed here.
    if path.suffix == ".jsonl" or (len(lines) > 1 and _is_record(lines, 0)):
        return _with_record_format(lines, path.parent)
    content = read_json(path, object_hook=without_polygons)
    if is_coco(content):
        return OpenedSource(CocoTable([(path.name, content)]), path.parent, COCO_RECORDS)
    if isinstance(content, dict) and "bbox_info" in content:
        return _with_record_format(PackedTable(path.name, [content]), path.parent)
    kind = f"is {type(content).__name__}"
    if isinstance(content, dict):
        kind = f"has the keys {sorted(content)}"
    formats = (JSON.name, JSONL.name, FINEHARD.name, COCO.name)
    raise ValueError(
        f'{path.name} must be a JSON list of records, or an object with "images" and "annotations", but {kind}; or '
        f"give the format, one of {formats}"
    )


def _with_record_format(table: Table, folder: Path) -> OpenedSource:
    """Tells rows from records of FineHARD, which have `bbox_info`."""
    for _, record in islice(table.scan(), _RECORDS_LOOKED_AT):
        if not isinstance(record, ValueError) and "bbox_info" in record:
            return OpenedSource(table, folder, FINEHARD_RECORDS)
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
    if source.path is None or not source.path.is_dir():
        return json_files(source.place)
    return files_of_split(source.path, source.split) or json_files(source.path / f"{source.split}.jsonl")


def _recognises_jsonl(source: Source) -> bool:
    if source.paths is not None:
        return all(path.suffix == ".jsonl" for path in source.paths)
    if source.path is not None and source.path.is_dir():
        return bool(files_of_split(source.path, source.split))
    return source.has_suffix(".jsonl")


def _recognises_json(source: Source) -> bool:
    return source.has_suffix(".json")


JSONL = SourceFormat("jsonl", _open_jsonl, _recognises_jsonl)
JSON = SourceFormat("json", _open_json, _recognises_json)
