"""Format "csv": a CSV file with a header. A cell may hold a list as JSON."""

import csv
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..records import PackedTable, Record
from .source import OpenedSource, Source, SourceFormat


_LIST_COLUMNS = ("captions", "sentences", "phrases", "regions")


def csv_table(path: Path) -> PackedTable:
    """Reads the records of a CSV file. An empty cell is an absent field."""
    # Spreadsheets write a byte order mark, which would become a part of the first column's name.
    with open(path, newline="", encoding="utf-8-sig") as file:
        return PackedTable(path.name, map(_record, csv.DictReader(file)))


def _record(cells: dict[str, Any]) -> Record:
    record = {name: cell for name, cell in cells.items() if cell not in ("", None)}
    for name in _LIST_COLUMNS:
        if name in record:
            # A cell that is not JSON stays a string. The check of the row then names it.
            with suppress(ValueError):
                record[name] = json.loads(record[name])
    return record


def _open(source: Source) -> OpenedSource:
    path = source.existing_file()
    return OpenedSource(csv_table(path), path.parent)


def _recognises(source: Source) -> bool:
    return source.has_suffix(".csv")


CSV = SourceFormat("csv", _open, _recognises)
