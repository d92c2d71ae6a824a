"""Tables of raw records, read by index: JSONL, JSON, CSV, Parquet, `datasets`, lists. Nothing is checked or decoded.

Every table has `name`, `len()`, `table[index]`, `location(index)` for messages ("train.jsonl:17"), and `scan()`, which
goes once over the texts. A record that cannot be read is a `ValueError`: raised by `table[index]`, yielded by `scan()`.
"""

import csv
import json
import mmap
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .rows import row_id
from .workers import process_part


if TYPE_CHECKING:
    import datasets


Record = Mapping[str, Any]
Scan = Iterator[tuple[str, Record | ValueError]]

# A record of a scan whose image stays on the disk.
UNREAD_IMAGE = {"bytes": None, "path": None}


class Table(Protocol):
    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def location(self, index: int) -> str: ...

    def scan(self) -> Scan: ...


class ScannedByIndex:
    """`scan()` for tables whose records are cheap to read."""

    def scan(self: Table) -> Scan:
        for index in range(len(self)):
            try:
                yield self.location(index), self[index]
            except ValueError as error:
                yield self.location(index), error


class ListTable(ScannedByIndex):
    """Dicts in memory."""

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
        return f"rows[{index}]"


class JsonLines(ScannedByIndex):
    """A JSONL file, mapped into memory: a row costs 16 bytes, and its text is parsed when it is asked for.

    Args:
        path: Of the file.
        name: Of the file in messages; without its folder by default.
    """

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or self.path.name
        with open(self.path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.path.stat().st_size else b""
        self._starts, self._numbers = array("Q"), array("Q")
        start, number = 0, 1
        while start < len(self._map):
            end = self._map.find(b"\n", start)
            end = len(self._map) if end < 0 else end
            if self._map[start:end].strip():
                self._starts.append(start)
                self._numbers.append(number)
            start, number = end + 1, number + 1

    def __reduce__(self) -> tuple[Any, ...]:  # a memory map cannot be sent to a spawned worker
        return JsonLines, (self.path, self.name)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Record:
        start = self._starts[index]
        end = self._map.find(b"\n", start)
        return _parse(self._map[start : len(self._map) if end < 0 else end])

    def location(self, index: int) -> str:
        return f"{self.name}:{self._numbers[index]}"


class PackedTable(ScannedByIndex):
    """Records of a file that must be read whole, packed into one block of bytes: unlike a million dicts it is shared
    with forked workers, and not copied by them as they read."""

    def __init__(self, name: str, records: Iterable[Any]) -> None:
        self.name = name
        self._data, self._ends = bytearray(), array("Q", [0])
        for record in records:
            self._data += json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")
            self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Record:
        return _parse(bytes(self._data[self._ends[index] : self._ends[index + 1]]))

    def location(self, index: int) -> str:
        return f"{self.name}:{index + 1}"


class JoinedTables:
    """Several tables as one, in order; each keeps its name in locations."""

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
        table, place = self._find(index)
        return table.location(place)

    def scan(self) -> Scan:
        return chain.from_iterable(table.scan() for table in self._tables)

    def _find(self, index: int) -> tuple[Table, int]:
        number = bisect_right(self._ends, index)
        return self._tables[number], index - (self._ends[number - 1] if number else 0)


def joined_name(names: Sequence[str]) -> str:
    """
    >>> joined_name(["a.json"]), joined_name(["a.json", "b.json"]), joined_name(["a.json", "b.json", "c.json"])
    ('a.json', 'a.json + b.json', 'a.json … c.json')
    """
    return " + ".join(names) if len(names) < 3 else f"{names[0]} … {names[-1]}"


def csv_table(path: Path) -> PackedTable:
    """The records of a CSV file with a header; lists (captions, phrases, …) are cells that hold JSON."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        return PackedTable(path.name, map(_read_cells, csv.DictReader(file)))


class HubTable:
    """A `datasets.Dataset`: stays on the disk where it lies there, images not decoded."""

    def __init__(self, dataset: "datasets.Dataset", name: str) -> None:
        self.name = name
        self._dataset = _undecoded(dataset)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Record:
        return self._dataset[index]

    def location(self, index: int) -> str:
        return f"{self.name}:{index}"

    def scan(self) -> Scan:
        unread = {name: UNREAD_IMAGE for name, feature in self._dataset.features.items() if _holds_files(feature)}
        has_texts = len(unread) < len(self._dataset.features)  # without any column, `datasets` has no row either
        texts = self._dataset.remove_columns(list(unread)) if has_texts else ({} for _ in range(len(self)))
        for index, of_row in enumerate(texts):
            yield self.location(index), {**of_row, **unread}


class HubStream:
    """A `datasets.IterableDataset`, its shards split over processes (and by itself over dataloader workers)."""

    def __init__(
        self, dataset: "datasets.IterableDataset", name: str, *, shuffle_buffer: int = 0, seed: int = 0
    ) -> None:
        self.name = name
        self._dataset = _undecoded(dataset)
        if shuffle_buffer > 1:
            self._dataset = self._dataset.shuffle(seed=seed, buffer_size=shuffle_buffer)

    def __call__(self, epoch: int) -> Scan:
        from datasets.distributed import split_dataset_by_node

        rank, processes = process_part()
        part = split_dataset_by_node(self._dataset, rank=rank, world_size=processes)
        part.set_epoch(epoch)
        for record in part:
            yield f"{self.name}:{row_id(record)}", record


def _undecoded(dataset: Any) -> Any:
    """The dataset with images as `{"bytes", "path"}`, where `datasets` would decode them."""
    import datasets

    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    return dataset


def _holds_files(feature: Any) -> bool:
    """Whether a column of `datasets` has whole files in it, as images or bytes: too much to be read for a check."""
    parts = feature if isinstance(feature, dict) else {"": feature}
    return any(hasattr(part, "decode") or getattr(part, "dtype", None) == "binary" for part in parts.values())


def _parse(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"a record must be JSON, but is not: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"a record must be a JSON object, but is a {type(record).__name__}")
    return record


def _read_cells(cells: dict[str, Any]) -> Record:
    record = {name: value for name, value in cells.items() if value not in ("", None)}
    for name in ("captions", "sentences", "phrases", "regions"):
        if name in record:
            with suppress(ValueError):  # left as the string it is: the check of the row names it
                record[name] = json.loads(record[name])
    return record
