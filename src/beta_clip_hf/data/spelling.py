"""Suggests the name that a misspelt one was probably meant to be."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """
    Returns the end of an error message about a name that is not known; nothing if no known name looks like it.

    >>> did_you_mean("photo", ["photos", "scenes"]), did_you_mean("urban", ["coco"])
    ('; did you mean photos?', '')
    """
    names = {name.lower(): name for name in known}
    close = get_close_matches(str(word).lower(), names)
    if not close:
        return ""
    return f"; did you mean {' or '.join(names[name] for name in close)}?"


__all__ = ["did_you_mean"]
