"""Names of sources. An index tells by them what belongs to which collection, and removes nothing of another one."""

import glob
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..data.fields import is_utf8
from .columns import printable


DEFAULT_SPLIT = "train"
# A list of more files is named by the first and the last of them, with a hash of all.
_MOST_NAMES = 3


class SourceName(NamedTuple):
    """What a source is called."""

    place: str
    """Where the rows are: the beginning of the key of an image inside of the source."""
    collection: str
    """The place, and which rows of it are read."""


def name_source(source: Any, *, name: str | None = None, split: str = DEFAULT_SPLIT, **reading: Any) -> SourceName:
    """
    Names a source by its path or id, its split, and the range of its rows; or as the caller says.

    Args:
        source: A path, several paths, the id of a data set on the Hub, or rows in memory.
        name: A name instead of path or id and split. Rows in memory must have one.
        split: The split that is read.
        reading: How the rows are read. `skip` and `take` choose a range.

    Raises:
        ValueError: if rows in memory have no name, or a name is blank or has no UTF-8.
    """
    place = name
    if place is None:
        place = _place(source)
        if split != DEFAULT_SPLIT:
            place = f"{place} [{split}]"
    check_name(place)
    ranges = [f"{key} {reading[key]}" for key in ("skip", "take") if reading.get(key)]
    collection = f"{place} [{', '.join(ranges)}]" if ranges else place
    return SourceName(place, collection)


def check_name(name: str) -> None:
    """Raises `ValueError` if the name of a source is blank or has no UTF-8."""
    if not name.strip() or not is_utf8(name):
        raise ValueError(f"the name of a source must be text that UTF-8 can hold, but is {printable(name)!r}")


def _place(source: Any) -> str:
    if isinstance(source, str | Path):
        return place_of_path(source)
    is_list = isinstance(source, Sequence) and len(source) > 0
    if is_list and all(isinstance(part, str | Path) for part in source):
        places = [place_of_path(part) for part in source]
        if len(places) <= _MOST_NAMES:
            return " + ".join(places)
        digest = hashlib.sha256("\0".join(places).encode("utf-8", "surrogatepass")).hexdigest()
        return f"{places[0]} … {places[-1]} ({len(places)} files, {digest[:8]})"
    kind = "rows" if is_list or isinstance(source, Mapping) else f"a {type(source).__name__}"
    raise ValueError(
        f"name must be given for {kind} in memory (name=, --name), because an index tells its collections apart by "
        "their names: take another name for another collection, and the same one to bring this collection up to date"
    )


def place_of_path(path: str | os.PathLike[str]) -> str:
    """
    Returns the whole path of a file or of files, or the id of a data set on the Hub as it is.

    Links to a folder are followed, so that a photo has one name. A link to a file keeps its own.
    """
    text = os.fspath(path)
    is_id = text.count("/") == 1 and not os.path.exists(text) and not os.path.isdir(os.path.dirname(text))
    if is_id and not glob.has_magic(text):
        return text
    if os.path.isdir(text):
        return os.path.realpath(text)
    folder, file = os.path.split(os.path.abspath(text))
    return os.path.join(os.path.realpath(folder), file)
