"""Records of DOCCI (arXiv 2404.19753), `docci_descriptions.jsonlines`: one split of them, with the names of a row."""

from collections.abc import Collection, Mapping
from pathlib import Path

from ..columns import check_columns, rename_columns
from ..records import Record, Table
from ..row_reader import RecordFormat
from .source import OpenedSource
from .splits import table_of_split


_NAMES = {"image_file": "image", "description": "caption", "example_id": "id"}


def is_docci(record: Mapping[str, object]) -> bool:
    """Tells whether a record has the fields of DOCCI."""
    return {"image_file", "description", "split"} <= record.keys()


def open_docci(table: Table, folder: Path, split: str) -> OpenedSource:
    """Opens the records of a split: "train", "test", "qual_dev" or "qual_test".

    Raises:
        ValueError: if there is no such split.
    """
    return OpenedSource(table_of_split(table, split), folder, DOCCI_RECORDS)


def _to_row(record: Record) -> Record:
    return rename_columns(record, _NAMES)


def _check_columns(columns: Collection[str], source: str) -> None:
    check_columns(rename_columns(dict.fromkeys(columns), _NAMES), source)


DOCCI_RECORDS = RecordFormat(to_row=_to_row, check_columns=_check_columns, image_field="image_file")
