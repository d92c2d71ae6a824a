"""A stream of records that lie in shards: split over readers, shuffled, and cut to a selection of records."""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Generic, NamedTuple, TypeVar

from .fingerprint import files_fingerprint
from .records import HoldOut, RecordStream, Scan, hold_out_silently
from .selection import Selection, check_last_number, nothing_left
from .workers import reader_place


# What names a shard: a path, or its number.
Shard = TypeVar("Shard")


class _Part(NamedTuple, Generic[Shard]):
    """A shard of which records are used."""

    shard: Shard
    first: int
    """Number of its first record in the source; if all of its records are used, that of some record before."""


class ShardedStream(RecordStream, Generic[Shard]):
    """Reads the records of shards, split over dataloader workers and processes.

    With as many shards as readers or more, each reader has whole shards. With fewer, every reader goes through all of
    them and keeps each n-th record: slower, but nothing is lost and nobody is idle.

    If records are selected by their numbers, the shards are read once at the start, up to the first record that is
    used or, with a last one, up to that: only then is it known where in its shard a record is. Shards without a record
    that is used are not read again.

    Args:
        name: Name of the source in messages.
        shards: The shards in order.
        read: Reads all records of a shard in order.
        shuffle_buffer: Number of records held for shuffling. From 2 on the order of the shards is shuffled as well.
        seed: Seed of both.
        selection: Records that are used; all of them by default.

    Raises:
        ValueError: if the selection names a record that is not there, or leaves none.
    """

    def __init__(
        self,
        name: str,
        shards: Sequence[Shard],
        read: Callable[[Shard], Scan],
        *,
        shuffle_buffer: int = 0,
        seed: int = 0,
        selection: Selection | None = None,
    ) -> None:
        self.name = name
        self._read = read
        self._shuffle_buffer = shuffle_buffer
        self._seed = seed
        self._selection = selection
        self._parts = [_Part(shard, 0) for shard in shards]
        self.fingerprint = files_fingerprint(shards)
        # Records of shards that are not read, because they are all held out.
        self._held_out = 0
        if selection is not None and (selection.start or selection.stop is not None):
            self._parts = self._parts_within(selection, shards)

    def __call__(self, epoch: int, hold_out: HoldOut = hold_out_silently) -> Scan:
        """Returns the records of an epoch that this process and worker are to read."""
        reader, readers = reader_place()
        parts = list(self._parts)
        if self._shuffle_buffer > 1:
            # Every reader must have the same order, so that their parts do not overlap.
            random.Random(f"{self._seed}/{epoch}").shuffle(parts)
        # What all readers pass over is counted by the first one alone.
        first_holds_out = hold_out if reader == 0 else hold_out_silently
        if self._held_out:
            first_holds_out(self._held_out)
        if len(parts) >= readers:
            scan = self._read_parts(parts[reader::readers], hold_out)
        else:
            scan = islice(self._read_parts(parts, first_holds_out), reader, None, readers)
        return shuffled(scan, self._shuffle_buffer, random.Random(f"{self._seed}/{epoch}/{reader}"))

    def _read_parts(self, parts: Sequence[_Part[Shard]], hold_out: HoldOut) -> Scan:
        return chain.from_iterable(self._read_part(part, hold_out) for part in parts)

    def _read_part(self, part: _Part[Shard], hold_out: HoldOut) -> Scan:
        selection = self._selection
        if selection is None:
            yield from self._read(part.shard)
            return
        for number, (location, record) in enumerate(self._read(part.shard), part.first):
            if selection.stop is not None and number >= selection.stop:
                return
            if selection.keeps(number, location, record):
                yield location, record
            else:
                hold_out(1)

    def _parts_within(self, selection: Selection, shards: Sequence[Shard]) -> list[_Part[Shard]]:
        """Finds the shards from the first to the last record that is used, and counts the records before them."""
        parts: list[_Part[Shard]] = []
        # Number of the first record of a shard.
        first = 0
        for shard in shards:
            if selection.stop is None and first > selection.start:
                # From here on all records are used, so their numbers need not be known.
                parts.append(_Part(shard, first))
                continue
            end = selection.start + 1
            if selection.stop is not None:
                end = selection.stop
            if first >= end:
                break
            # Only as much of a shard is read as tells whether it has a record that is used.
            count = sum(1 for _ in islice(self._read(shard), end - first))
            if first + count > selection.start:
                parts.append(_Part(shard, first))
            else:
                self._held_out += count
            first += count
        check_last_number(selection, first, self.name)
        if not parts:
            raise ValueError(nothing_left(selection, first, self.name))
        return parts


def shuffled(items: Iterator[Any], buffer_size: int, rng: random.Random) -> Iterator[Any]:
    """Yields the items in an order shuffled within a window.

    Each item leaves the buffer at random as the next one comes in. A buffer of at most 1 keeps the order.
    """
    if buffer_size <= 1:
        yield from items
        return
    buffer = list(islice(items, buffer_size))
    for item in items:
        index = rng.randrange(buffer_size)
        yield buffer[index]
        buffer[index] = item
    rng.shuffle(buffer)
    yield from buffer
