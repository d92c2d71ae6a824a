"""The interface of a format: what it is asked to open, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

from ..fields import is_list
from ..records import RecordStream, Table
from ..row_reader import RecordFormat
from ..selection import Selection
from .compression import row_suffix


@dataclass(frozen=True)
class Source:
    """Describes what is to be opened, as a user gives it to `load_rows`.

    Args:
        place: A path, a glob, a list of paths or of dicts, the id of a data set on the Hub, or a `datasets.Dataset`.
        split: Split of a directory or of a Hub data set.
        streaming: Whether a Hub data set is streamed.
        shuffle_buffer: Number of records held for shuffling a stream.
        seed: Seed of that shuffling.
        selection: Records that a stream reads; all of them by default. A table is cut to them after it is opened.
        is_format_given: Whether the user has named the format. If not, a reader may look into the file.
        delimiter: What separates the cells of a CSV file, if the file should not tell.
        by_index: Whether the records must be readable by index, which those of tars are only where it is asked for.
        encoding: Encoding of a CSV file, if it is neither UTF-8 nor named by a byte order mark.
    """

    place: Any
    split: str = "train"
    streaming: bool = False
    shuffle_buffer: int = 0
    seed: int = 0
    selection: Selection | None = None
    is_format_given: bool = False
    delimiter: str | None = None
    encoding: str | None = None
    by_index: bool = False

    @property
    def path(self) -> Path | None:
        """The place as a path, or `None` if it is something else: a list, or a data set in memory."""
        if isinstance(self.place, (str, Path)):
            return Path(self.place)
        return None

    @property
    def directory(self) -> Path | None:
        """The place as a path if it is a directory, else `None`."""
        if self.path is not None and self.path.is_dir():
            return self.path
        return None

    @property
    def paths(self) -> list[Path] | None:
        """The places as paths if they are a list of some, else `None`."""
        if not is_list(self.place) or not self.place:
            return None
        if all(isinstance(place, (str, Path)) for place in self.place):
            return [Path(place) for place in self.place]
        return None

    def has_suffix(self, *suffixes: str) -> bool:
        """Tells whether the place is the path of a file, a glob, or a list of those, with one of the suffixes.

        The suffix of a compressed file is the one before that of the compression.
        """
        if self.paths is not None:
            return all(row_suffix(path) in suffixes for path in self.paths)
        if self.path is None or self.directory is not None:
            return False
        if not self.path.exists() and "*" in self.path.suffix:
            # `*.jsonl*` names files whose suffixes only the disk knows.
            files = glob(str(self.path))
            return bool(files) and all(row_suffix(file) in suffixes for file in files)
        return row_suffix(self.path) in suffixes


class OpenedSource(NamedTuple):
    """Holds the records of a source, none of them read yet."""

    records: Table | RecordStream
    folder: Path | None = None
    """Directory that relative image paths start from, if the user names no other."""
    record_format: RecordFormat = RecordFormat()


class SourceFormat(NamedTuple):
    """One format of a source. To add a format, write one of these and list it in `data/readers.py`."""

    name: str
    """The word that `load_rows(format=…)` takes."""
    open: Callable[[Source], OpenedSource]
    """Opens a source of this format. Raises `ValueError` if it is not one."""
    recognises: Callable[[Source], bool] = lambda source: False
    """Whether a source looks like this format. Only names are looked at, no file is opened."""
    can_stream: bool = False
    """Whether `streaming` may be asked for."""
