"""Counts the rows of a source, each of which is read, skipped or held out, and lists the skipped ones."""

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .fields import shown
from .records import as_value_error
from .rows import row_id


logger = logging.getLogger(__name__)

# "train.jsonl:17" or "rows[17]".
_PLACE = re.compile(r"(.+?)(?::|\[)(\d+)\]?")


class RowCounts:
    """Holds the counts of one pass over a source.

    Args:
        source: Name of the source in messages.
        strict: Whether a row that cannot be used is an error.

    Attributes:
        used: Number of rows that can be used.
        skipped: Number of rows that cannot.
        held_out: Number of records that are not selected.
        first_reason: Where the first skipped row is, and why it is skipped.
    """

    def __init__(self, source: str, *, strict: bool = False) -> None:
        self.source = source
        self.strict = strict
        self.used = 0
        self.skipped = 0
        self.held_out = 0
        self.first_reason = ""

    @property
    def total(self) -> int:
        """Number of all rows of the source."""
        return self.used + self.skipped + self.held_out

    def add(self, rows: int = 1) -> None:
        """Counts rows that can be used."""
        self.used += rows

    def skip(self, location: str, error: ValueError) -> None:
        """Counts and logs a row that is skipped; if `strict`, raises its error instead."""
        self.skipped += 1
        self.first_reason = self.first_reason or f"{location}: {error}"
        report_skip(SkippedRow(location, location, str(error)), self.strict)

    def hold_out(self, records: int = 1) -> None:
        """Counts records that are not selected."""
        self.held_out += records

    def report(self, photos: int | None = None) -> None:
        """Logs the counts: as a warning if rows were skipped.

        Args:
            photos: Number of photos, if several rows show the same one.
        """
        level = logging.WARNING if self.skipped else logging.INFO
        counts = f"{self.used:,} rows read + {self.skipped:,} skipped"
        if self.held_out:
            counts += f" + {self.held_out:,} held out"
        logger.log(level, "%s: %s = %s in the source", self.source, counts, f"{self.total:,}")
        if photos is not None:
            logger.info(
                "%s: %s rows are %s photos: rows that name the same image are one photo with several captions "
                "(group=False or --no-group keeps them apart)",
                self.source,
                f"{self.used:,}",
                f"{photos:,}",
            )


class SkippedRow(NamedTuple):
    """Tells which row is skipped, and why."""

    id: str
    location: str
    """Where it is, as in "train.jsonl:17"; its id where nothing else is known."""
    reason: str

    @classmethod
    def describe(cls, row: Mapping[str, Any], error: ValueError) -> "SkippedRow":
        """Describes a row that a reader may have located."""
        try:
            name = row_id(row)
        # The row may be anything.
        except Exception:
            name = shown(row)
        return cls(name, getattr(row, "location", "") or name, str(error))

    def to_json(self) -> dict[str, Any]:
        """Returns the line of `skipped.jsonl`: id, file, line and reason. The line of a list is the place in it."""
        file, line = self.location, None
        place = _PLACE.fullmatch(self.location)
        if place is not None:
            file, line = place[1], int(place[2])
        return {"id": self.id, "file": file, "line": line, "reason": self.reason}


def lost_row(row: Any, error: Exception) -> SkippedRow:
    """Describes a row that cannot be used. Its location is empty if it has none, and its image has no path."""
    fields = row if isinstance(row, Mapping) else {}
    location = getattr(row, "location", "")
    if not location and isinstance(fields.get("image"), (str, Path)):
        location = str(fields["image"])
    name = location
    if fields.get("id") is not None:
        name = str(fields["id"])
    return SkippedRow(name, location, str(as_value_error(error)))


class SkipLog:
    """
    Lists skipped rows in a file, each once, from any number of processes and dataloader workers.

    Attributes:
        path: The file; `None` lists nothing.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._seen: set[tuple[str, str]] = set()

    def add(self, row: SkippedRow) -> bool:
        """Adds a row to the list. Returns whether it is not there yet."""
        key = (row.id, row.reason)
        if key in self._seen:
            return False
        if self.path is not None:
            # Another worker, an earlier epoch or an earlier leg of the run may have written it.
            self._seen |= {(known["id"], known["reason"]) for known in read_skipped(self.path)}
        is_new = key not in self._seen
        self._seen.add(key)
        if is_new and self.path is not None:
            _append_line(self.path, json.dumps(row.to_json()))
        return is_new


def _append_line(path: Path, line: str) -> None:
    """Appends a line to a file. A file that cannot be written costs a warning."""
    # One write at the end of the file: lines of other processes do not break it apart. Links are not followed.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags, 0o644)
        with open(descriptor, "ab", buffering=0) as file:
            file.write(f"{line}\n".encode())
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, error.strerror or error)


def read_skipped(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a `skipped.jsonl`; none if it is not there. Broken lines are passed over."""
    rows = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("id"), str) and isinstance(row.get("reason"), str):
            rows.append(row)
    return rows


def report_skip(row: SkippedRow, strict: bool, log: SkipLog | None = None) -> None:
    """Logs that a row is skipped, and why; with a list, once for each row of the run.

    Raises:
        ValueError: with the location before the reason, if `strict`.
    """
    if strict:
        raise ValueError(f"{row.location}: {row.reason}")
    if log is None or log.add(row):
        logger.warning("%s is skipped: %s", row.location, row.reason)
