"""Reads the records of a CSV text with Python's `csv`, row by row, so that a broken row is one bad row."""

import csv
import re
import sys
from ast import literal_eval
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from json import loads
from typing import Any

from ..columns import COLUMN_NAMES
from ..fields import shown
from ..records import Record


DELIMITERS = (",", "\t", ";", "|")

_LIST_COLUMNS = ("captions", "sentences", "phrases", "regions", "hard_negatives", "conversations", "messages")
_NUMBER_COLUMNS = ("width", "height")
# The line in which spreadsheets name their delimiter.
_SEPARATOR_LINE = re.compile(r"\ufeff?sep=(.)\s*$")
# `to_csv` of pandas writes its index under no name, and `read_csv` calls such a column "Unnamed: 0".
_UNNAMED = re.compile(r"(Unnamed: \d+)?")


class _Lines:
    """The lines of a text. Lines that were taken may be put back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._back: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._back:
            return self._back.popleft()
        return next(self._lines)

    def put_back(self, lines: Sequence[str]) -> None:
        self._back.extendleft(reversed(lines))


def read_csv_records(lines: Iterable[str], name: str, delimiter: str | None = None) -> Iterator[Record | ValueError]:
    """Yields the records of a CSV text with a header. An empty cell is an absent field.

    Cells may span lines inside of quotes and have any size. A row with more cells than the header is an error in its
    place, and so is a line with a quote that is not closed: reading goes on with the next line. Columns without a name
    are left out, as the index that pandas writes is.

    Args:
        lines: The lines with their ends, as a file opened with `newline=""` gives them.
        name: Name of the file in messages.
        delimiter: What separates cells; by default the header tells.

    Raises:
        ValueError: if there is no header, or a column name is there twice.
    """
    text = _Lines(lines)
    first_line = next((line for line in text if line.strip()), None)
    separator = _SEPARATOR_LINE.match(first_line or "")
    if separator is not None:
        delimiter = delimiter or separator[1]
        first_line = next((line for line in text if line.strip()), None)
    if first_line is None:
        return
    text.put_back([first_line])
    delimiter = delimiter or likely_delimiter(first_line)
    rows = _split_rows(text, delimiter, has_spaces=f"{delimiter} " in first_line)
    header = next(rows)
    if isinstance(header, ValueError):
        raise ValueError(f"the header of {name} must be a row of column names, but is not: {header}")
    columns = [column.strip() for column in header]
    _check_header(columns, name)
    for cells in rows:
        if isinstance(cells, ValueError):
            yield cells
        elif len(cells) > len(columns):
            extra = delimiter.join(cells[len(columns) :])
            yield ValueError(
                f"a row must have at most {len(columns)} cells, as the header has, but has {len(cells)}: "
                f"{shown(extra)} is too much; a cell with the delimiter in it must be in quotes"
            )
        else:
            yield _record(columns, cells)


def likely_delimiter(header: str) -> str:
    """Tells the delimiter by the line of column names: the one that finds most names of a row, or else most cells.

    >>> likely_delimiter("image,caption"), likely_delimiter("image;caption, in words"), likely_delimiter("caption")
    (',', ';', ',')
    """

    def found(delimiter: str) -> tuple[int, int]:
        columns = [column.strip() for column in next(csv.reader([header], delimiter=delimiter))]
        return sum(column in COLUMN_NAMES for column in columns), len(columns)

    return max(DELIMITERS, key=found)


def _check_header(columns: Sequence[str], name: str) -> None:
    for column in columns:
        if columns.count(column) > 1 and not _UNNAMED.fullmatch(column):
            raise ValueError(f"{name} must name each column once, but has {column!r} {columns.count(column)} times")


def _split_rows(text: _Lines, delimiter: str, *, has_spaces: bool) -> Iterator[list[str] | ValueError]:
    """Yields the cells of each row that is not blank; for a line that is no row, the error."""
    taken: list[str] = []

    def take_lines() -> Iterator[str]:
        for line in text:
            taken.append(line)
            yield line

    while True:
        taken.clear()
        # A new reader for each row, because after an error a reader is of no more use.
        reader = csv.reader(take_lines(), delimiter=delimiter, strict=True, skipinitialspace=has_spaces)
        try:
            # Other programs may have set the limit of the process; no cell is too large here.
            previous_limit = csv.field_size_limit(sys.maxsize)
            try:
                cells = next(reader, None)
            finally:
                csv.field_size_limit(previous_limit)
        except csv.Error as error:
            # A quote that is not closed has taken lines that are rows by themselves.
            text.put_back(taken[1:])
            yield ValueError(f"quotes must be in pairs and around whole cells, but {shown(taken[0].strip())}: {error}")
            continue
        if cells is None:
            return
        if has_spaces:
            cells = [cell.strip() for cell in cells]
        if any(cell.strip() for cell in cells):
            yield cells


def _record(columns: Sequence[str], cells: Sequence[str]) -> Record:
    record: dict[str, Any] = {}
    for column, cell in zip(columns, cells, strict=False):
        if _UNNAMED.fullmatch(column) or cell == "":
            continue
        record[column] = cell
        if column in _LIST_COLUMNS:
            record[column] = _list_of(cell)
        elif column in _NUMBER_COLUMNS and cell.strip().isdecimal():
            record[column] = int(cell)
    return record


def _list_of(cell: str) -> Any:
    """Reads a list as JSON, or as Python writes it (which `to_csv` of pandas does)."""
    for parse in (loads, literal_eval):
        try:
            return parse(cell)
        # `literal_eval` has several errors for a text that is no value.
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    # The cell stays a string. The check of the row then names it.
    return cell


__all__ = ["DELIMITERS", "likely_delimiter", "read_csv_records"]
