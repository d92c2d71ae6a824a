"""Turns raw records into rows: renames columns, checks fields, and finds where images lie."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from .columns import check_columns, rename_columns
from .images import check_image_file
from .paths import find_path
from .records import Record, Scan, as_value_error
from .rows import CheckedRow, Row, check_row, row_checked_before, with_image, without_blank_captions
from .spelling import did_you_mean


logger = logging.getLogger(__name__)

# A column counts as missing if none of the first records has it, so that a wrong name is one error and not a million.
RECORDS_WITH_ALL_COLUMNS = 100


def _accept(record: Record) -> None:
    """Finds nothing wrong with a record."""


def _unchanged(record: Record) -> Record:
    return record


@dataclass(frozen=True)
class RecordFormat:
    """Describes records whose fields have other names than those of a row.

    Args:
        check: Raises `ValueError`, in the record's own names, if the record cannot become a row.
        to_row: Gives a record that `check` has accepted the names of a row.
        check_columns: Takes the columns and the name of the source. Raises `ValueError` if a column is missing.
        image_field: Name of the record's field that says where the image is.
    """

    check: Callable[[Record], None] = _accept
    to_row: Callable[[Record], Record] = _unchanged
    check_columns: Callable[[Collection[str], str], None] = check_columns
    image_field: str = "image"


class RowReader:
    """Makes rows of raw records.

    Args:
        image_root: Directory that relative image paths start from.
        columns: New names of columns, `{present: wanted}`.
        record_format: Names of the fields in the records; by default those of a row.
    """

    def __init__(
        self,
        image_root: str | Path | None = None,
        columns: Mapping[str, str] | None = None,
        record_format: RecordFormat | None = None,
    ) -> None:
        self.columns = dict(columns or {})
        self._format = record_format or RecordFormat()
        self._root = ""
        if image_root is not None:
            self._root = str(image_root)

    def __call__(self, record: Record, location: str) -> Row:
        """Checks a record and makes a row of it. The image need not exist.

        Raises:
            ValueError: if the record cannot become a row.
        """
        try:
            renamed = rename_columns(record, self.columns)
            self._format.check(renamed)
            row_record = self._format.to_row(renamed)
            kept_record = without_blank_captions(row_record)
            row = check_row(kept_record)
            if kept_record is not row_record:
                blank = len(row_record["captions"]) - len(row["captions"])
                logger.warning("%s: %d of its captions are blank, and are left out", location, blank)
            return self._placed(row, location)
        # A record may hold values of any kind. What they break concerns this record alone.
        except Exception as error:
            raise as_value_error(error) from error

    def read_again(self, record: Record, location: str) -> Row:
        """Makes the row of a record that was checked before, without checking it again."""
        renamed = rename_columns(record, self.columns)
        row = row_checked_before(without_blank_captions(self._format.to_row(renamed)))
        return self._placed(row, location)

    def image_name(self, record: Record) -> str | None:
        """Returns the path of an image as the record has it; `None` if it has none. Nothing is checked."""
        try:
            renamed = rename_columns(record, self.columns)
            image = row_checked_before(self._format.to_row(renamed))["image"]
        # The record may be anything.
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return str(image) if isinstance(image, (str, Path)) else None

    def checked(self, scan: Scan, source: str) -> Iterator[tuple[str, Row | ValueError]]:
        """Yields the rows of a scan with their locations.

        A record that cannot become a row, or whose image file is missing, comes out as the error that says so.

        Raises:
            ValueError: if none of the first records has a column that is needed, or one that is to be renamed.
        """
        first = list(islice(scan, RECORDS_WITH_ALL_COLUMNS))
        self.check_columns((record for _, record in first), source)
        for location, record in chain(first, scan):
            yield location, self._row_or_error(record, location)

    def check_columns(self, records: Iterable[Record | ValueError], source: str) -> None:
        """Makes sure that the first records of a source, together, have all columns that are needed.

        Raises:
            ValueError: names the columns that are missing.
        """
        present: set[str] = set()
        for record in records:
            if not isinstance(record, ValueError):
                present.update(record)
        if not present:
            return
        absent = sorted(set(self.columns) - present)
        if absent:
            raise ValueError(
                f"columns must rename what is there, but {absent} is not in {sorted(present)} of {source}"
                f"{did_you_mean(absent[0], present)}"
            )
        renamed = rename_columns(dict.fromkeys(present), self.columns)
        self._format.check_columns(renamed.keys(), source)

    def _row_or_error(self, record: Record | ValueError, location: str) -> Row | ValueError:
        if isinstance(record, ValueError):
            return record
        try:
            row = self(record, location)
            check_image_file(row["image"], self._format.image_field)
        except Exception as error:
            # A path may be too long, or hold a zero byte.
            return as_value_error(error)
        return row

    def _placed(self, row: Row, location: str) -> Row:
        """Adds what the source knows of the row: an id, and where a relative image path starts."""
        image = row["image"]
        if isinstance(image, (str, Path)):
            row = with_image(row, find_path(str(image), self._root))
        row["id"] = str(row.get("id", location))
        if isinstance(row, CheckedRow):
            row.location = location
        return row
