"""Data sets of rows: one is read by index, one is streamed. Rows that cannot be used are skipped and counted."""

import logging
from array import array
from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from .fields import MISSING_FILE, bytes_or_path
from .fingerprint import RowsFingerprint
from .grouping import PhotoGroups, PhotoKeys, image_key, join_rows, quick_content
from .records import RecordStream, Table
from .row_counts import RowCounts
from .row_reader import RowReader
from .rows import Row
from .selection import SelectedTable
from .workers import SharedCount, SharedEpoch


logger = logging.getLogger(__name__)


class RowDataset(Dataset[Row]):
    """Rows that are read by index.

    Each row is checked once, when the data set is made. It is read again, but not checked again, when it is asked for:
    memory holds where a row is, not its text or its image.

    Args:
        table: The records.
        reader: Makes rows of records.
        strict: Whether a row that cannot be used is an error.
        group: Whether rows that name the same image are one row with several captions, see [`join_rows`].

    Attributes:
        num_read (`int`): Number of rows of the source that can be used. It is the length, unless some were grouped.
        skipped (`list[tuple[str, str]]`): Where each skipped row is, and why it was skipped.
        held_out (`int`): Number of records of the source that are not selected. With those that are read and skipped
            they are all of it.
        fingerprint (`str`): A hash of the ids and sizes of the rows, by which a resumed run recognises them.

    Raises:
        ValueError: if columns are missing, if no row can be used, or, if `strict`, if one row cannot be used.
    """

    def __init__(
        self, table: Table, reader: RowReader | None = None, *, strict: bool = False, group: bool = False
    ) -> None:
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
        keys = PhotoKeys()
        for index, (location, row) in enumerate(self._reader.checked(table.scan(), table.name)):
            if isinstance(row, ValueError):
                counts.skip(location, row)
                self.skipped.append((location, str(row)))
            else:
                counts.add()
                fingerprint.add(row)
                self._usable.append(index)
                if group:
                    keys.add(image_key(row["image"]))
        if not self._usable:
            raise ValueError(_no_row(table.name, counts))
        self.num_read = len(self._usable)
        self._photos: PhotoGroups | None = None
        if group:
            self._photos = keys.groups(self._usable)
        self._as_list = self._photos is not None and self._photos.have_several
        self.fingerprint = fingerprint.hexdigest()
        if self._photos is not None:
            # Grouping changes which rows there are.
            self.fingerprint += f"-{len(self._photos)}"
        counts.report(None if self._photos is None else len(self._photos))

    def __len__(self) -> int:
        return len(self._usable) if self._photos is None else len(self._photos)

    def __getitem__(self, index: int) -> Row:
        if self._photos is None:
            return self._read(self._usable[index])
        return join_rows([self._read(place) for place in self._photos[index]], as_list=self._as_list)

    def record_ids(self, index: int) -> list[str]:
        """Returns the ids of the records of a row, several of them if rows were grouped."""
        if self._photos is None:
            return [self[index]["id"]]
        return [self._read(place)["id"] for place in self._photos[index]]

    def _read(self, place: int) -> Row:
        return self._reader.read_again(self._table[place], self._table.location(place))


def _no_row(source: str, counts: RowCounts) -> str:
    if counts.skipped == 0:
        return f"{source} must have a row that can be used, but has no row at all"
    message = f"{source} must have a row that can be used, but all {counts.skipped} were skipped"
    if counts.first_reason:
        message += f", the first one because {counts.first_reason}"
    if MISSING_FILE in counts.first_reason:
        message += "; if the images lie elsewhere, say where with image_root (--image-root)"
    return message


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

        repeats = _Repeats()
        scan = self._stream(self._epoch.get(), hold_out)
        for location, row in self._reader.checked(scan, self._stream.name):
            if isinstance(row, ValueError):
                self._skipped.add()
                counts.skip(location, row)
            else:
                counts.add()
                repeats.note(row["image"], self._stream.name)
                yield row
        counts.report()


def _quick_key(image: Any) -> bytes:
    """Returns a key of an image that costs little also for a large file: a warning need not be certain."""
    image = bytes_or_path(image)
    if isinstance(image, bytes):
        image = quick_content(image)
    return image_key(image)


class _Repeats:
    """Warns once if a stream shows an image that it has shown shortly before, because streams do not group rows."""

    # A window of shuffled rows is about as long.
    _REMEMBERED = 1000

    def __init__(self) -> None:
        self._recent: dict[bytes, None] = {}
        self._has_warned = False

    def note(self, image: Any, source: str) -> None:
        """Looks at the image of the next row."""
        if self._has_warned:
            return
        key = _quick_key(image)
        if key in self._recent:
            self._has_warned = True
            logger.warning(
                "%s: several rows name the same image, which a stream does not group: a photo may be its own negative. "
                "Read the source without streaming, or write the captions of a photo into one row (captions)",
                source,
            )
        self._recent[key] = None
        if len(self._recent) > self._REMEMBERED:
            del self._recent[next(iter(self._recent))]
