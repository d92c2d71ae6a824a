"""Data sets of rows: one is read by index, one is streamed. Rows that cannot be used are skipped and counted."""

from array import array
from collections.abc import Iterator

from torch.utils.data import Dataset, IterableDataset

from .fingerprint import RowsFingerprint
from .records import RecordStream, Table
from .row_counts import RowCounts
from .row_reader import RowReader
from .rows import Row
from .selection import SelectedTable
from .workers import SharedCount, SharedEpoch


class RowDataset(Dataset[Row]):
    """Rows that are read by index.

    Each row is checked once, when the data set is made. It is read again, but not checked again, when it is asked for:
    memory holds where a row is, not its text or its image.

    Args:
        table: The records.
        reader: Makes rows of records.
        strict: Whether a row that cannot be used is an error.

    Attributes:
        skipped (`list[tuple[str, str]]`): Where each skipped row is, and why it was skipped.
        held_out (`int`): Number of records of the source that are not selected. With the rows and the skipped ones
            they are all of it.
        fingerprint (`str`): A hash of the ids and sizes of the rows, by which a resumed run knows them again.

    Raises:
        ValueError: if columns are missing, if no row can be used, or, if `strict`, if one row cannot be used.
    """

    def __init__(self, table: Table, reader: RowReader | None = None, *, strict: bool = False) -> None:
        self._table = table
        self._reader = reader or RowReader()
        # Indices of the usable records, in 8 bytes each.
        self._usable = array("Q")
        self.skipped: list[tuple[str, str]] = []
        counts = RowCounts(table.name, strict=strict)
        self.held_out = 0
        fingerprint = RowsFingerprint()
        if isinstance(table, SelectedTable):
            self.held_out = table.held_out
            counts.hold_out(table.held_out)
        for index, (location, row) in enumerate(self._reader.checked(table.scan(), table.name)):
            if isinstance(row, ValueError):
                counts.skip(location, row)
                self.skipped.append((location, str(row)))
            else:
                counts.add()
                fingerprint.add(row)
                self._usable.append(index)
        if not self._usable:
            raise ValueError(f"{table.name} must have a row that can be used, but all {counts.skipped} were skipped")
        self.fingerprint = fingerprint.hexdigest()
        counts.report()

    def __len__(self) -> int:
        return len(self._usable)

    def __getitem__(self, index: int) -> Row:
        place = self._usable[index]
        return self._reader.read_again(self._table[place], self._table.location(place))


class RowStream(IterableDataset[Row]):
    """Rows that come one after another, for data that is too large to be indexed.

    Each dataloader worker of each training process reads a part of its own. So nothing else may split the stream a
    second time (see docs/data.md on accelerate).

    Args:
        stream: The records.
        reader: Makes rows of records.
        strict: Whether a row that cannot be used is an error.
    """

    def __init__(self, stream: RecordStream, reader: RowReader | None = None, *, strict: bool = False) -> None:
        self._stream = stream
        self._reader = reader or RowReader()
        self._strict = strict
        self._epoch = SharedEpoch()
        self._skipped = SharedCount()
        self._held_out = SharedCount()

    @property
    def skipped(self) -> int:
        """Number of rows skipped so far by all dataloader workers of this process."""
        return self._skipped.get()

    @property
    def fingerprint(self) -> str:
        """What a resumed run knows the stream by: its name and, where it has files, their names and sizes."""
        return f"{self._stream.name} {self._stream.fingerprint}"

    @property
    def held_out(self) -> int:
        """Number of records passed over so far by all dataloader workers of this process, as they are not selected."""
        return self._held_out.get()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass. Workers that are alive see it too."""
        self._epoch.set(epoch)

    def __iter__(self) -> Iterator[Row]:
        counts = RowCounts(self._stream.name, strict=self._strict)

        def hold_out(records: int) -> None:
            counts.hold_out(records)
            self._held_out.add(records)

        scan = self._stream(self._epoch.get(), hold_out)
        for location, row in self._reader.checked(scan, self._stream.name):
            if isinstance(row, ValueError):
                self._skipped.add()
                counts.skip(location, row)
            else:
                counts.add()
                yield row
        counts.report()
