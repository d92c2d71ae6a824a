"""Data sets of rows: one read by index, one streamed. Rows that cannot be used are skipped, logged and counted."""

import logging
import os
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from torch.utils.data import Dataset, IterableDataset

from .records import Record, Scan, Table
from .rows import Row, check_columns, check_image_file, check_row, rename_columns
from .workers import SharedCount, SharedEpoch


logger = logging.getLogger(__name__)

# So many records are looked at before a column is called missing: a wrong name is one error, and not a million of them.
COLUMNS_FROM = 100


def _as_it_is(record: Record) -> Record:
    return record


@dataclass(frozen=True)
class RecordFormat:
    """What the records of a source are called, where they are not yet called as in a row.

    Args:
        to_row: A record with the names of a row; raises `ValueError` in the record's own names.
        check_columns: Of `(columns, name of the source)`; raises `ValueError` where one is missing.
        image_field: What the record calls its image.
    """

    to_row: Callable[[Record], Record] = _as_it_is
    check_columns: Callable[[Collection[str], str], None] = check_columns
    image_field: str = "image"


class RowReader:
    """Raw records to rows: columns renamed, fields checked, image paths resolved.

    Args:
        image_root: Directory that relative image paths start from.
        columns: `{present: wanted}` names.
        record_format: How the records call what a row has.
    """

    def __init__(
        self,
        image_root: str | Path | None = None,
        columns: Mapping[str, str] | None = None,
        record_format: RecordFormat | None = None,
    ) -> None:
        self.columns = dict(columns or {})
        self._format = record_format or RecordFormat()
        self._root = "" if image_root is None else str(image_root)

    def __call__(self, record: Record, location: str) -> Row:
        """Raises `ValueError` where the record is no row. Whether the image exists is not asked."""
        row = check_row(self._format.to_row(rename_columns(record, self.columns)))
        row["id"] = str(row.get("id", location))
        if isinstance(row["image"], (str, Path)):
            row["image"] = os.path.join(self._root, row["image"])
        return row

    def checked(self, scan: Scan, name: str) -> Iterator[tuple[str, Row | ValueError]]:
        """Reads a scan; a record that is no row, or whose image file is missing, comes out as the error that it is.

        Raises:
            ValueError: where none of the first records has a needed column, or one to be renamed.
        """
        head = list(islice(scan, COLUMNS_FROM))
        self.check_columns((record for _, record in head), name)
        for location, record in chain(head, scan):
            yield location, self._row_or_error(record, location)

    def check_columns(self, records: Iterable[Record | ValueError], name: str) -> None:
        """Raises `ValueError` where none of the records, the first ones of a source, has a needed column."""
        present = {column for record in records if not isinstance(record, ValueError) for column in record}
        if present:
            absent = sorted(set(self.columns) - present)
            if absent:
                raise ValueError(
                    f"columns must rename what is there, but {absent} is not in {sorted(present)} of {name}"
                )
            self._format.check_columns(rename_columns(dict.fromkeys(present), self.columns).keys(), name)

    def _row_or_error(self, record: Record | ValueError, location: str) -> Row | ValueError:
        if isinstance(record, ValueError):
            return record
        try:
            row = self(record, location)
            check_image_file(row["image"], self._format.image_field)
        except ValueError as error:
            return error
        return row


class RowDataset(Dataset[Row]):
    """Rows by index. Each is checked once, when the data set is made, and read again when it is asked for: what stays
    in memory is the place of the row, not its text or its image.

    Args:
        table: The records.
        reader: How a record becomes a row.
        strict: Whether a row that cannot be used is an error.

    Attributes:
        skipped (`list[tuple[str, str]]`): where each skipped row is, and why it was skipped.

    Raises:
        ValueError: where columns are missing, no row can be used, or, if `strict`, where one cannot.
    """

    def __init__(self, table: Table, reader: RowReader | None = None, *, strict: bool = False) -> None:
        self._table = table
        self._reader = reader or RowReader()
        self._kept = array("Q")
        self.skipped: list[tuple[str, str]] = []
        for index, (location, row) in enumerate(self._reader.checked(table.scan(), table.name)):
            if isinstance(row, ValueError):
                report_skip(location, row, strict)
                self.skipped.append((location, str(row)))
            else:
                self._kept.append(index)
        if not self._kept:
            raise ValueError(f"{table.name} must have a row that can be used, but all {len(self.skipped)} were skipped")
        report_total(table.name, len(self._kept), len(self.skipped))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Row:
        place = self._kept[index]
        return self._reader(self._table[place], self._table.location(place))


class RowStream(IterableDataset[Row]):
    """Rows one after another, for data that is too large to be indexed. Each dataloader worker of each training process
    reads a part of its own; so nothing may split the stream a second time (see docs/data.md on accelerate).

    Args:
        name: Of the source, for messages.
        scan: Gives the records of an epoch, those of the calling process and worker.
        reader: How a record becomes a row.
        strict: Whether a row that cannot be used is an error.
    """

    def __init__(
        self, name: str, scan: Callable[[int], Scan], reader: RowReader | None = None, *, strict: bool = False
    ) -> None:
        self._name = name
        self._scan = scan
        self._reader = reader or RowReader()
        self._strict = strict
        self._epoch = SharedEpoch()
        self._skipped = SharedCount()

    @property
    def skipped(self) -> int:
        """How many rows were skipped so far, by all dataloader workers of this process."""
        return self._skipped.get()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass; living workers see it too."""
        self._epoch.set(epoch)

    def __iter__(self) -> Iterator[Row]:
        good = bad = 0
        for location, row in self._reader.checked(self._scan(self._epoch.get()), self._name):
            if isinstance(row, ValueError):
                bad += 1
                self._skipped.add()
                report_skip(location, row, self._strict)
            else:
                good += 1
                yield row
        report_total(self._name, good, bad)


def report_skip(location: str, error: ValueError, strict: bool) -> None:
    """Logs that a row is skipped, and why; if `strict`, raises that as a `ValueError` instead."""
    if strict:
        raise ValueError(f"{location}: {error}") from error
    logger.warning("%s is skipped: %s", location, error)


def report_total(name: str, good: int, bad: int) -> None:
    logger.log(logging.WARNING if bad else logging.INFO, "%s: %d rows, %d skipped", name, good, bad)
