"""Chooses the records of a source that are used: a range of them, single ones, or those with certain ids or values."""

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index as as_index
from pathlib import Path
from typing import Any

from .columns import rename_columns
from .fields import shown
from .records import Record, Scan, Table


ID = "id"
# Messages name this many ids at most.
_NAMED_IN_MESSAGES = 3


@dataclass(frozen=True)
class Selection:
    """Tells the records that are used from those that are held out.

    Records are numbered from 0 in the order of the source, whether or not they can be used. A record that cannot be
    read has no values: only its number can hold it out, so that no damage of a source goes unnoticed.

    Args:
        start: Number of the first record.
        stop: Number after the last one; `None` for the end of the source.
        numbers: Numbers of single records from `start` to `stop`; `None` for all of them.
        values: The accepted values of some columns, by their names in a row. A record without an `id` has its location
            as id.
        columns: New names of columns, `{present: wanted}`.
    """

    start: int = 0
    stop: int | None = None
    numbers: frozenset[int] | None = None
    values: Mapping[str, frozenset[str]] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)

    def keeps(self, number: int, location: str, record: Record | ValueError) -> bool:
        """Tells whether the record of a number is used."""
        if number < self.start or (self.stop is not None and number >= self.stop):
            return False
        if self.numbers is not None and number not in self.numbers:
            return False
        if isinstance(record, ValueError):
            return True
        found = self.values_of(location, record)
        return all(found[column] in accepted for column, accepted in self.values.items())

    def values_of(self, location: str, record: Record) -> dict[str, str]:
        """Returns what a record has in the columns of `values`."""
        if not self.values:
            return {}
        row = rename_columns(record, self.columns)
        found = {}
        for column in self.values:
            value = row.get(column)
            if value is None and column == ID:
                value = location
            found[column] = str(value)
        return found


def make_selection(
    skip: int, take: int | None, select: Any, columns: Mapping[str, str] | None = None
) -> Selection | None:
    """Makes the selection that the arguments of `load_rows` describe.

    Args:
        skip, take, select, columns: See `load_rows`.

    Returns:
        The selection, or `None` if all records are used.

    Raises:
        ValueError: if an argument is out of range or of another type, or if `select` comes with one of the others.
    """
    _check_number("skip", skip, least=0)
    if take is not None:
        _check_number("take", take, least=1)
    columns = dict(columns or {})
    if select is None:
        if skip == 0 and take is None:
            return None
        stop = None
        if take is not None:
            stop = skip + take
        return Selection(skip, stop, columns=columns)
    if skip or take is not None:
        raise ValueError(f"select must come without skip and take, but they are {skip} and {take}")
    if isinstance(select, Mapping):
        return Selection(values=_accepted_values(select), columns=columns)
    if isinstance(select, (str, Path)):
        return Selection(values={ID: frozenset(_read_ids(Path(select)))}, columns=columns)
    return _select_items(select, columns)


def _check_number(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, but is {value!r}")


def _select_items(select: Any, columns: Mapping[str, str]) -> Selection:
    """Makes the selection of a collection of numbers or of ids."""
    if not isinstance(select, Iterable):
        raise ValueError(f"select must be numbers, ids, a file of ids, or values of columns, but is {select!r}")
    items = list(select)
    if not items:
        raise ValueError("select must name at least one record, but is empty")
    if all(isinstance(item, str) for item in items):
        return Selection(values={ID: frozenset(items)}, columns=columns)
    numbers = frozenset(map(_number, items))
    return Selection(min(numbers), max(numbers) + 1, numbers, columns=columns)


def _number(item: Any) -> int:
    try:
        # Numbers of numpy and torch pass too.
        number = as_index(item)
    except TypeError:
        number = -1
    if number < 0 or isinstance(item, bool):
        raise ValueError(f"select must have numbers from 0 on, or strings, which are ids, but has {item!r}")
    return number


def _accepted_values(select: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    if not select:
        raise ValueError("select must name at least one column, but is empty")
    values = {}
    for column, accepted in select.items():
        if isinstance(accepted, str) or not isinstance(accepted, Collection):
            accepted = [accepted]
        values[column] = frozenset(map(str, accepted))
    return values


def _read_ids(path: Path) -> list[str]:
    """Reads a file with an id on each line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"select must be an existing file of ids, one per line, but is {str(path)!r}") from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise ValueError(f"select must be a file of ids, one per line, but {path.name} has none")
    return ids


class SelectedTable:
    """The records of a table that a selection keeps, in the order of the table.

    Raises:
        ValueError: if there is none, or if the selection names a record that is not there.
    """

    def __init__(self, table: Table, selection: Selection) -> None:
        self.name = table.name
        self._table = table
        self._numbers = _selected_numbers(table, selection)
        # Number of records that are held out.
        self.held_out = len(table) - len(self._numbers)
        if isinstance(table, SelectedTable):
            # A split of a file, which is cut again.
            self.held_out += table.held_out

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Record:
        return self._table[self._numbers[index]]

    def location(self, index: int) -> str:
        """Says where a record is in the whole table."""
        return self._table.location(self._numbers[index])

    def scan(self) -> Scan:
        """Goes over the records that are kept, and no further."""
        wanted = iter(self._numbers)
        next_number = next(wanted, None)
        scan = self._table.scan()
        for number, entry in enumerate(scan):
            if number == next_number:
                yield entry
                next_number = next(wanted, None)
            if next_number is None:
                break
        # After its records, a table may report errors that belong to none of them.
        if self._numbers[-1] + 1 == len(self._table):
            yield from scan


def _selected_numbers(table: Table, selection: Selection) -> Sequence[int]:
    """Returns the numbers of the records that are kept, in order."""
    total = len(table)
    if selection.values:
        return _numbers_with_values(table, selection)
    if selection.numbers is not None:
        check_last_number(selection, total, table.name)
        return array("Q", sorted(selection.numbers))
    if selection.start >= total:
        raise ValueError(nothing_left(selection, total, table.name))
    stop = total
    if selection.stop is not None:
        stop = min(selection.stop, total)
    return range(selection.start, stop)


def _numbers_with_values(table: Table, selection: Selection) -> Sequence[int]:
    numbers = array("Q")
    missing_ids = set(selection.values.get(ID, ()))
    is_found = False
    # A scan may report errors after the records, which belong to none of them.
    for number, (location, record) in zip(range(len(table)), table.scan(), strict=False):
        is_kept = selection.keeps(number, location, record)
        if is_kept:
            numbers.append(number)
        if not isinstance(record, ValueError):
            is_found = is_found or is_kept
            missing_ids.discard(selection.values_of(location, record).get(ID, ""))
    if missing_ids:
        absent_ids = sorted(missing_ids)
        names = ", ".join(map(repr, absent_ids[:_NAMED_IN_MESSAGES]))
        if len(absent_ids) > _NAMED_IN_MESSAGES:
            names += f" and {len(absent_ids) - _NAMED_IN_MESSAGES:,} more"
        raise ValueError(f"select must have ids of {table.name}, but has {names}")
    if not is_found:
        accepted = {column: sorted(values) for column, values in selection.values.items()}
        raise ValueError(f"select must keep a record of {table.name}, but none has {shown(accepted)}")
    return numbers


def check_last_number(selection: Selection, total: int, source: str) -> None:
    """Raises `ValueError` if single records are selected, and the last of them is not among `total` records."""
    if selection.numbers is not None and selection.stop is not None and selection.stop > total:
        raise ValueError(f"select must have numbers below the {total:,} of {source}, but has {selection.stop - 1}")


def nothing_left(selection: Selection, total: int, source: str) -> str:
    """Formats the message about a source that ends before the first record that is wanted."""
    return f"skip must leave a record of {source}, but it has {total:,} and skip is {selection.start:,}"
