"""The columns of rows as an index keeps them: plain values under names that LanceDB can hold."""

import datetime
import decimal
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..data.fields import is_utf8
from ..data.rows import Row
from .schema import OWN_COLUMNS


ARROW_TYPES: dict[type, str] = {bool: "bool", int: "int64", float: "double", str: "string"}
# The index measures these itself. A row that states them says nothing new.
MEASURED_COLUMNS = ("image", "width", "height")
# LanceDB gives its own columns names that begin so.
_LANCE_NAMES = ("_row", "_distance", "_score", "_relevance_score")
_INT64 = range(-(2**63), 2**63)


def plain_columns(row: Row) -> dict[str, Any]:
    """
    Returns the texts, numbers, truth values and dates of a row, as `bool`, `int`, `float` and `str`, under its names.

    Scalars of NumPy are what they hold. A number that 64 bits with a sign do not hold becomes a text, as dates do.
    Anything else is left out, lists too.
    """
    columns = {}
    for name, value in row.items():
        plain = _plain(value)
        if plain is not None and name not in MEASURED_COLUMNS:
            columns[str(name)] = plain
    return columns


def _plain(value: Any) -> bool | int | float | str | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and int(value) not in _INT64:
        return str(int(value))
    for plain_type in ARROW_TYPES:
        # A subclass, as of an enumeration, is stored as its plain value.
        if isinstance(value, plain_type):
            return plain_type(value)
    return None


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """
    Returns the name of a column in the index for each name in the rows. No two columns share one.

    >>> safe_names(["year", "a.b", "a_b", "", "_distance", "vector"])
    {'year': 'year', 'a_b': 'a_b', '': 'unnamed', '_distance': 'distance', 'a.b': 'a_b_2', 'vector': 'vector_2'}
    """
    wanted = {name: _safe(name) for name in dict.fromkeys(names)}
    taken = set(OWN_COLUMNS)
    chosen = {}
    # A name that can stay goes first, so that a new column beside it does not rename it. The others follow by name,
    # because the order of columns may differ from one file to the next.
    unchanged = [name for name in wanted if wanted[name] == name and name not in taken]
    for name in [*unchanged, *sorted(wanted.keys() - set(unchanged))]:
        candidate, number = wanted[name], 2
        while candidate in taken:
            candidate, number = f"{wanted[name]}_{number}", number + 1
        taken.add(candidate)
        chosen[name] = candidate
    return chosen


def _safe(name: str) -> str:
    # LanceDB reads a dot as a path into a struct and a star as all columns; a backtick would end a quoted name.
    for character in ".`*":
        name = name.replace(character, "_")
    name = name.encode("utf-8", "replace").decode()
    if name.startswith(_LANCE_NAMES):
        name = name.lstrip("_")
    return name if name.strip() else "unnamed"


def common_type(value_types: set[str]) -> str:
    """Returns the type that holds values of several types."""
    if len(value_types) == 1:
        return next(iter(value_types))
    if value_types == {"int64", "double"}:
        return "double"
    return "string"


def check_utf8(key: str, columns: Mapping[str, Any]) -> None:
    """
    Checks that an index can hold a row.

    Raises:
        ValueError: if its key or a text has no UTF-8: a file name of other bytes, or half of a pair of surrogates.
    """
    for name, value in (("image", key), *columns.items()):
        if isinstance(value, str) and not is_utf8(value):
            raise ValueError(f"{name} must be text that UTF-8 can hold, but is {value[:80]!a}")


def printable(text: str) -> str:
    """Returns a text that any terminal and file can hold, with escapes for what has no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
