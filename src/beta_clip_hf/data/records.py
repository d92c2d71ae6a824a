"""Raw records of a source: tables that are read by index, and streams. Nothing is checked or decoded here.

A record that cannot be read is a `ValueError`: `table[index]` raises it, and a scan yields it in the record's place.
"""

import json
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, Protocol


Record = Mapping[str, Any]
# Pairs of a location for messages, as in "train.jsonl:17", and the record there.
Scan = Iterator[tuple[str, Record | ValueError]]
# Begins the packed text of an error.
_ERROR_MARK = b"\0"
# Is told how many records a scan passes over because they are not selected.
HoldOut = Callable[[int], None]


def hold_out_silently(records: int) -> None:
    """Does not count the records that a scan passes over."""


def as_value_error(error: Exception) -> ValueError:
    """Returns an exception of a single record as the error that says why the record is skipped."""
    if isinstance(error, ValueError):
        return error
    return ValueError(f"a row must be readable, but is not: {type(error).__name__}: {error}")


class Table(Protocol):
    """Records that can be read by index."""

    name: str
    """Name of the source in messages."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def location(self, index: int) -> str:
        """Says where a record is, for messages: "train.jsonl:17"."""

    def scan(self) -> Scan:
        """Goes once over all records. Their images need not be read."""


class RecordStream(ABC):
    """Records that come one after another, as many as there are."""

    name: str
    """Name of the source in messages."""
    fingerprint: str = ""
    """A hash of its files, if it has some."""

    @abstractmethod
    def __call__(self, epoch: int, hold_out: HoldOut = hold_out_silently) -> Scan:
        """Yields the records of an epoch that the calling process and dataloader worker are to read.

        Records that are not selected are passed over, and told to `hold_out`. Those after the last selected one are
        neither read nor counted.
        """


class ScannedByIndex:
    """Gives `scan()` to tables whose records are cheap to read."""

    def scan(self: Table) -> Scan:
        """Reads all records in order."""
        for index in range(len(self)):
            try:
                yield self.location(index), self[index]
            except Exception as error:
                # Whatever is wrong with a record, the others can still be read.
                yield self.location(index), as_value_error(error)


class ListTable(ScannedByIndex):
    """Dicts that lie in memory."""

    name = "rows"

    def __init__(self, rows: Sequence[Record]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        record = self._rows[index]
        if not isinstance(record, Mapping):
            raise ValueError(f"a record must be a dict, but is a {type(record).__name__}")
        return record

    def location(self, index: int) -> str:
        """Names the item of the list: "rows[17]"."""
        return f"rows[{index}]"


class PackedTable(ScannedByIndex):
    """Records of a file that can only be read whole, packed into one block of bytes.

    A million dicts would be copied by forked workers, because reading a Python object changes its reference count. One
    block of bytes stays shared.

    Args:
        name: Name of the source in messages.
        records: The records. A `ValueError` is one that cannot be read: asking for it raises its message again.
    """

    def __init__(self, name: str, records: Iterable[Any]) -> None:
        self.name = name
        self._data = bytearray()
        self._ends = array("Q", [0])
        for record in records:
            if isinstance(record, ValueError):
                # No JSON text begins with this byte.
                self._data += _ERROR_MARK + str(record).encode("utf-8", "surrogatepass")
            else:
                # Half of a surrogate pair is legal in JSON, but has no UTF-8.
                self._data += json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")
            self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Record:
        packed = bytes(self._data[self._ends[index] : self._ends[index + 1]])
        if packed.startswith(_ERROR_MARK):
            raise ValueError(packed.removeprefix(_ERROR_MARK).decode("utf-8", "surrogatepass"))
        return parse_record(packed)

    def location(self, index: int) -> str:
        """Counts the records from 1: "train.json:17"."""
        return f"{self.name}:{index + 1}"


class JoinedTables:
    """Several tables as one, in order. Each keeps its name in locations."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.name = joined_name([table.name for table in tables])
        self._tables = tables
        self._ends = list(accumulate(map(len, tables)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        table, place = self._find(index)
        return table[place]

    def location(self, index: int) -> str:
        """Says where a record is in its own table."""
        table, place = self._find(index)
        return table.location(place)

    def scan(self) -> Scan:
        """Scans the tables in order."""
        return chain.from_iterable(table.scan() for table in self._tables)

    def _find(self, index: int) -> tuple[Table, int]:
        number = bisect_right(self._ends, index)
        start = self._ends[number - 1] if number else 0
        return self._tables[number], index - start


def joined_name(names: Sequence[str]) -> str:
    """Names several sources in one phrase.

    >>> joined_name(["a.json"]), joined_name(["a.json", "b.json"]), joined_name(["a.json", "b.json", "c.json"])
    ('a.json', 'a.json + b.json', 'a.json … c.json')
    """
    if len(names) < 3:
        return " + ".join(names)
    return f"{names[0]} … {names[-1]}"


def parse_record(text: bytes, name: str = "a record") -> Record:
    """Parses the JSON object of one record.

    Args:
        text: The JSON text.
        name: What the object is, for the message.

    Raises:
        ValueError: if the text is not JSON, or not an object.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be JSON, but is not: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{name} must be a JSON object, but is a {type(record).__name__}")
    return record
