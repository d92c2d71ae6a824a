"""The records of a table, photo by photo."""

import hashlib
from array import array
from collections.abc import Sequence
from contextlib import suppress

from .grouping import PhotoGroups, PhotoKeys, image_key
from .records import Table
from .row_reader import RowReader


class PhotoTable:
    """Lists for each photo the records that show it.

    Args:
        num_records: Number of records.
        groups: The records of each photo; `None` if every record is a photo of its own.
        lost: Places that belong to no record of the source, and what is wrong there.
    """

    def __init__(self, num_records: int, groups: PhotoGroups | None, lost: Sequence[tuple[str, str]]) -> None:
        self._num_records = num_records
        self._groups = groups
        self.lost = lost

    @property
    def as_list(self) -> bool:
        """Whether single captions are put into a list too, see [`join_rows`]."""
        return self._groups is not None and self._groups.have_several

    def __len__(self) -> int:
        return self._num_records if self._groups is None else len(self._groups)

    def __getitem__(self, photo: int) -> Sequence[int]:
        return (photo,) if self._groups is None else self._groups[photo]


def photos_of_table(table: Table, reader: RowReader, *, group: bool = True) -> PhotoTable:
    """Reads all records of a table once, and finds out which show the same photo.

    A record that cannot become a row is a photo of its own, so that whoever reads it finds the error again.

    Args:
        table: The records.
        reader: Makes rows of them.
        group: Whether records of the same photo are brought together.
    """
    keys = PhotoKeys()
    lost: list[tuple[str, str]] = []
    num_records = len(table)
    for index, (location, record) in enumerate(table.scan()):
        if index >= num_records:
            # After its records, a table reports errors that belong to none of them.
            lost.append((location, str(record)))
            continue
        if not group:
            continue
        key = hashlib.blake2b(b"record %d" % index, digest_size=16).digest()
        if not isinstance(record, ValueError):
            with suppress(ValueError):
                key = image_key(reader(record, location)["image"])
        keys.add(key)
    groups = None
    if group:
        groups = keys.groups(array("Q", range(num_records)))
    return PhotoTable(num_records, groups, lost)
