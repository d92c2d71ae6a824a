"""Spellings of a path: a home directory, back-slashes, percent signs, accents that are composed or not."""

import os
import unicodedata
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote


_FILE_ADDRESS = "file://"


def find_path(path: str, root: str = "") -> str:
    """Finds the file or directory that a path names.

    A path is taken as it is written, if there is something of that name. Otherwise it is looked for with slashes
    instead of back-slashes (Windows), without percent signs (web addresses), and with accents as one character or as
    two (macOS). `~` is the home directory.

    Args:
        path: The path, or an address that begins with `file://`.
        root: Directory that a relative path starts from.

    Returns:
        The path of what was found; if nothing was, the path as it is written, below `root`.

    >>> find_path("no photo.jpg", "photos")
    'photos/no photo.jpg'
    """
    written = os.path.join(root, path)
    is_plain = path.isascii() and not any(mark in path for mark in "\\%~:")
    if is_plain or os.path.lexists(written):
        return written
    if path.startswith(_FILE_ADDRESS):
        path = unquote(path.removeprefix(_FILE_ADDRESS))
    for spelling in _spellings(os.path.expanduser(path)):
        candidate = os.path.join(root, spelling)
        if os.path.lexists(candidate):
            return candidate
    return written


def usual_place(place: Any) -> Any:
    """Finds the file or directory of a source, see [`find_path`]; in a list, of each path. Anything else stays."""
    if isinstance(place, (list, tuple)):
        if place and all(isinstance(item, (str, Path)) for item in place):
            return [usual_place(item) for item in place]
        return place
    if not isinstance(place, (str, Path)):
        return place
    found = find_path(str(place))
    if found == str(place):
        # A glob, which no file is called: `~/photos/*.tar`.
        found = os.path.expanduser(found)
    return type(place)(found)


def _spellings(path: str) -> Iterator[str]:
    """Yields ways to write a path, the likeliest first."""
    slashed = path.replace("\\", "/")
    yield path
    for written in dict.fromkeys((path, slashed, unquote(path), unquote(slashed))):
        folder, name = os.path.split(written)
        # A disk may hold the folder in another form than the file, if they were copied from different systems.
        for folder_form, name_form in product(("NFC", "NFD"), repeat=2):
            yield os.path.join(_normalized(folder_form, folder), _normalized(name_form, name))


def _normalized(form: Any, text: str) -> str:
    return unicodedata.normalize(form, text)


__all__ = ["find_path", "usual_place"]
